"""Times to live: set later, removed, or a namespace's default; nothing of an expired key remains."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
import redis

from redis_store import NEVER, InvalidInput, InvalidName, InvalidType, UnsupportedByServer
from redis_store.namespace.keys import UserKeys
from tests.support.servers import KINDS_WITH_TTL, wait_until
from tests.support.sides import SIDES_WITH_FUNCTIONS, AsyncSide, Side, SyncSide

pytestmark = pytest.mark.parametrize("side", SIDES_WITH_FUNCTIONS, indirect=True)
with_ttl = pytest.mark.parametrize("server", KINDS_WITH_TTL, indirect=True)

LONG_S = 1000


def with_default(store: Side, name: str, ttl: Any) -> Side:
    """The store of a namespace whose keys expire by default."""
    inner = store.store.use_namespace(name, ttl=ttl)
    return AsyncSide(inner, store._loop) if isinstance(store, AsyncSide) else SyncSide(inner)


def expires(store: Side, key: str) -> bool:
    return store.info(key).expires_at is not None


@with_ttl
def test_a_key_gets_a_ttl_and_loses_it(store: Side) -> None:
    store.set("key", 1, metadata={"m": 1})
    assert store.expire("key", LONG_S) is True
    seconds = (store.info("key").expires_at - store.info("key").created_at).total_seconds()
    assert LONG_S - 0.001 <= seconds < LONG_S + 60, "times are in µs, and when a key expires is in ms"
    assert store.expire("key", timedelta(days=400)) is True
    assert store.persist("key") is True
    assert store.persist("key") is False
    assert not expires(store, "key")
    assert store.info("key").metadata == {"m": 1}
    assert store.get("key") == 1


@with_ttl
def test_a_key_that_is_not_there_gets_none(store: Side) -> None:
    assert store.expire("key", LONG_S) is False
    assert store.persist("key") is False
    assert store.list_namespaces() == []


@with_ttl
def test_a_key_expires_with_its_info_and_registry_entry(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    place = keys.namespace("default")
    store.set("key", "old", metadata={"old": 1})
    store.expire("key", 0.02)
    wait_until(lambda: store.get("key", "gone") == "gone", "the key has expired")
    # At once, before the server has reaped anything.
    assert store.list_namespaces() == []
    assert not raw.sismember(place.registry, "default")
    assert raw.hget(place.info, "key") is None
    assert store.info("key") is None
    store.set("key", "new")
    info = store.info("key")
    assert info.metadata == {}
    assert info.created_at == info.updated_at
    assert store.list_namespaces() == ["default"]


@pytest.mark.parametrize("server", ["redis8", "valkey9"], indirect=True)
@pytest.mark.parametrize("count", [1, 3, 1000, 9000])
def test_expired_unreaped_keys_are_not_listed(store: Side, raw: redis.Redis, keys: UserKeys, count: int) -> None:
    raw.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
    try:
        store.set_many({f"k{number}": number for number in range(count)}, ttl=0.02)
        # A read of one of them would reap it (Redis 8).
        probe = store.use_namespace("probe")
        probe.set("key", 1, ttl=0.02)
        wait_until(lambda: probe.get("key", "gone") == "gone", "the batch has expired")
        assert raw.hlen(keys.data(b"default")) == count
        assert store.list_namespaces() == []
        store.set("live", 1)
        assert store.list_namespaces() == ["default"]
        assert store.list_keys() == ["live"]
    finally:
        raw.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "1")


@with_ttl
def test_a_namespace_has_a_default(store: Side) -> None:
    cache = with_default(store, "cache", LONG_S)
    cache.set("set", 1)
    cache.set("with metadata", 1, metadata={"m": 1})
    cache.set_many({"set_many": 1})
    cache.set_if_absent("set_if_absent", 1)
    cache.increment("increment")
    cache.increment("increment a float", 0.5)
    cache.append("append", 1)
    cache.append("append some", 1, max_items=3)
    cache.update("update", lambda _: 1)
    cache.get_or_set("get_or_set", lambda: 1)
    for key in cache.list_keys():
        assert expires(cache, key), key
    assert len(cache.list_keys()) == 10


@with_ttl
def test_explicit_ttl_overrides_default(store: Side) -> None:
    cache = with_default(store, "cache", timedelta(seconds=LONG_S))
    cache.set("longer", 1, ttl=10 * LONG_S)
    assert (cache.info("longer").expires_at - cache.info("longer").created_at).total_seconds() > 5 * LONG_S
    cache.set("never", 1, ttl=NEVER)
    cache.set_many({"never too": 1}, ttl=NEVER)
    cache.get_or_set("never computed", lambda: 1, ttl=NEVER)
    cache.set_if_absent("never claimed", 1, ttl=NEVER)
    for key in ("never", "never too", "never computed", "never claimed"):
        assert not expires(cache, key), key
    # The default belongs to the handle that it was given for.
    store.use_namespace("cache").set("other proxy", 1)
    assert not expires(cache, "other proxy")
    cache.use_namespace("further").set("key", 1)
    assert not expires(store.use_namespace("further"), "key")
    assert with_default(store, "cache", NEVER).set("key", 1) is None
    assert not expires(cache, "key")


@with_ttl
@pytest.mark.parametrize("change", ["increment", "increment by a float", "append", "append some", "update", "rename"])
def test_updates_keep_ttl(store: Side, raw: redis.Redis, keys: UserKeys, change: str) -> None:
    calls = {
        "increment": lambda: store.increment("number"),
        "increment by a float": lambda: store.increment("number", 0.5),
        "append": lambda: store.append("list", 1),
        "append some": lambda: store.append("list", 1, max_items=1),
        "update": lambda: store.update("number", lambda value: value + 1),
        "rename": lambda: store.rename("list", "number"),
    }
    store.set_many({"number": 1, "list": []}, ttl=LONG_S)
    before = store.info("number").expires_at
    calls[change]()
    touched = "list" if change.startswith("append") else "number"
    assert store.info(touched).expires_at == before
    place = keys.namespace("default")
    data_at, info_at = (
        raw.execute_command("HPEXPIRETIME", key, "FIELDS", 1, touched) for key in (place.data, place.info)
    )
    assert data_at == info_at


@with_ttl
def test_replacing_a_value_drops_its_ttl(store: Side) -> None:
    store.set("key", 1, ttl=LONG_S)
    assert store.compare_and_set("key", 1, 2) is True
    assert not expires(store, "key")


@pytest.mark.parametrize(
    "ttl",
    [0, -1, -0.5, float("nan"), float("inf"), 1e12, 10**400, timedelta(0)],
    ids=["0", "-1", "-0.5", "nan", "inf", "1e12", "10**400", "timedelta(0)"],
)
def test_a_ttl_out_of_range_is_refused(store: Side, ttl: Any) -> None:
    store.set("key", 1)
    calls = [
        lambda: store.expire("key", ttl),
        lambda: with_default(store, "cache", ttl),
        lambda: store.set_if_absent("new", 1, ttl=ttl),
        lambda: store.compare_and_set("key", 1, 2, ttl=ttl),
        lambda: store.get_or_set("new", lambda: 1, ttl=ttl),
        lambda: store.get_or_set("new", lambda: 1, ttl=1, stale=ttl),
        lambda: store.get_or_set("new", lambda: 1, lock_timeout=ttl),
        lambda: store.lock("name", ttl=ttl),
        lambda: store.semaphore("name", 1, ttl=ttl),
        lambda: store.rate_limit("name", 1, per=ttl),
    ]
    for call in calls:
        with pytest.raises(InvalidInput):
            call()
    assert store.get_all() == {"key": 1}


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        (lambda store: store.set("key", 1, ttl=-1.5), "ttl=-1.5 is"),
        (lambda store: store.expire("key", timedelta(0)), "ttl=datetime.timedelta(0) is"),
        (lambda store: store.expire("key", 10**5000), "ttl=a huge int is"),
        (lambda store: store.get_or_set("key", lambda: 1, ttl=1, stale=-1), "stale=-1 is"),
        (lambda store: store.get_or_set("key", lambda: 1, lock_timeout=0), "lock_timeout=0 is"),
        (lambda store: store.lock("name", ttl=0), "ttl=0 is"),
        (lambda store: store.rate_limit("name", 1, per=0), "per=0 is"),
    ],
)
def test_a_refusal_names_the_argument_and_what_it_was(store: Side, call: Any, shown: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(shown)):
        call(store)
    with pytest.raises(InvalidType, match="per must be"):
        store.rate_limit("name", 1, per="minute")


@pytest.mark.parametrize("ttl", ["1", True, [1], b"1", None, NEVER], ids=repr)
def test_a_ttl_of_another_type_is_refused(store: Side, ttl: Any) -> None:
    with pytest.raises(InvalidType):
        store.expire("key", ttl)
    with pytest.raises(InvalidName):
        store.expire("", 1)
    with pytest.raises(InvalidType):
        store.persist(1)


@pytest.mark.parametrize("server", ["redis7"], indirect=True)
def test_a_server_without_ttl_refuses_and_writes_nothing(store: Side) -> None:
    store.set("there", 1)
    cache = with_default(store, "default", 10)
    computed: list[int] = []
    calls = [
        lambda: store.expire("there", 10),
        lambda: store.persist("there"),
        lambda: cache.set("new", 1),
        lambda: cache.increment("new"),
        lambda: cache.append("new", 1),
        lambda: cache.append("new", 1, max_items=1),
        lambda: cache.update("new", lambda _: 1),
        lambda: cache.set_if_absent("new", 1),
        lambda: cache.compare_and_set("there", 1, 2),
        lambda: cache.get_or_set("new", lambda: computed.append(1)),
    ]
    for call in calls:
        with pytest.raises(UnsupportedByServer, match=r"Redis 7\.4 or Valkey 9\.0"):
            call()
    assert store.get_all() == {"there": 1}
    assert computed == [], "it is refused before anything is computed"
