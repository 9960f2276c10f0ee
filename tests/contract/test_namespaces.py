"""Namespaces: separate from one another, and listed while they hold data, however they were filled or emptied."""

from __future__ import annotations

import pytest
import redis

from redis_store import InvalidInput, InvalidName, InvalidType, LimitExceeded
from redis_store.namespace.keys import UserKeys
from tests.support.servers import Server, wait_until
from tests.support.sides import Side

NAMES = [
    "a", "default", "files:my-repo", "a:b:c", "ns", "info", "log", "namespaces", ":", "*", "a*", "?", "[a]", "\\", " ", "%",
    "%2A", "{a}", "é", "🦊", "line\nbreak", "nul\x00nul", "n" * 1024,
]  # fmt: skip


def test_names_of_every_kind_stay_apart(store: Side) -> None:
    for number, name in enumerate(NAMES):
        namespace = store.use_namespace(name)
        assert namespace.namespace == name
        namespace.set("key", number)
        namespace.set(name, name)
    assert store.list_namespaces() == sorted(NAMES)
    for number, name in enumerate(NAMES):
        assert store.use_namespace(name).get_all() == {"key": number, name: name}
    store.use_namespace("*").clear()
    store.use_namespace("a").delete_many(["key", "a"])
    assert store.list_namespaces() == sorted(set(NAMES) - {"*", "a"})
    assert store.use_namespace("a*").get("a*") == "a*"


def test_a_namespace_prefix_is_literal(store: Side) -> None:
    for name in NAMES:
        store.use_namespace(name).set("key", 1)
    for prefix in ("a", "*", "a*", "?", "[", "\\", "{", "é", "absent", "n"):
        assert store.list_namespaces(prefix) == sorted(name for name in NAMES if name.startswith(prefix))
    assert store.list_namespaces("") == store.list_namespaces() == sorted(NAMES)


def test_a_namespace_of_a_namespace(store: Side) -> None:
    inner = store.use_namespace("outer").use_namespace("inner")
    inner.set("key", 1)
    assert store.list_namespaces() == ["inner"]
    assert (inner.user, inner.namespace) == (store.user, "inner")
    assert store.namespace == "default"


def test_a_namespace_leaves_the_listing_with_its_last_key(store: Side) -> None:
    ways = {
        "delete": lambda namespace: namespace.delete("key"),
        "delete_many": lambda namespace: namespace.delete_many(["key"]),
        "clear": lambda namespace: namespace.clear(),
    }
    for name, empty in ways.items():
        namespace = store.use_namespace(name)
        namespace.set("key", 1)
        assert store.list_namespaces() == [name]
        empty(namespace)
        assert store.list_namespaces() == []
        namespace.set("key", 1)
        assert store.list_namespaces() == [name]
        empty(namespace)


def test_a_namespace_emptied_by_hand_leaves_the_listing(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    for name in ("DEL", "HDEL", "UNLINK", "stays"):
        store.use_namespace(name).set("key", 1, metadata={"m": 1})
    raw.delete(keys.data(b"DEL"))
    raw.hdel(keys.data(b"HDEL"), "key")
    raw.unlink(keys.data(b"UNLINK"))
    assert store.list_namespaces() == ["stays"]
    assert raw.smembers(keys.registry) == {b"stays"}, "what is gone is taken out of the registry"
    store.use_namespace("HDEL").set("key", 2)
    assert store.list_namespaces() == ["HDEL", "stays"]
    assert store.use_namespace("HDEL").info("key").metadata == {}, "info of a key deleted by hand stays dead"


def test_foreign_keys_do_not_show(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    store.set("key", 1)
    foreign = ["user", "user:", "user:x", f"{keys.prefix.decode()}ns", "other:1", keys.prefix.decode()]
    for name in foreign:
        raw.set(name, "foreign")
    raw.hset(keys.data(b"unregistered"), "key", "1")
    try:
        assert store.list_namespaces() == ["default"]
        assert store.use_namespace("unregistered").get("key") == 1
    finally:
        raw.delete(*foreign)


def test_a_namespace_written_by_hand_is_listed_once_registered(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    raw.hset(keys.data(b"by-hand"), mapping={"a": "[1]"})
    raw.sadd(keys.registry, "by-hand", "never-there")
    assert store.list_namespaces() == ["by-hand"]
    assert store.use_namespace("by-hand").get_all() == {"a": [1]}


@pytest.mark.parametrize(("side", "server"), [("sync", "redis7"), ("async", "valkey9")], indirect=True)
def test_ten_thousand_namespaces_in_two_round_trips(
    store: Side, side: str, server: Server, raw: redis.Redis, keys: UserKeys
) -> None:
    names = [f"ns-{number}" for number in range(10_000)]
    with raw.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hset(keys.data(name.encode()), "key", "1")
        pipe.sadd(keys.registry, *names)
        pipe.execute()
    assert store.list_namespaces() == sorted(names)  # now the connections are open, and the server has the script
    commands_before = calls_of(raw)
    assert len(store.list_namespaces()) == 10_000
    commands = {name: calls - commands_before.get(name, 0) for name, calls in calls_of(raw).items()}
    # Other tests may have left fields that expire, and then each hash is looked at; and a login of one user may not ask for that.
    asks = {} if side == "async" else {"command|info": 1}
    looks = {"evalsha": 20, "hpttl": 20, "hrandfield": 10_000, "hexists": 10_000} if commands.get("evalsha") else {}
    assert {name: n for name, n in commands.items() if n and name not in ("info",)} == {
        "sscan": 1,
        **asks,
        "exists": 20,
        **looks,
    }, "one command for the names, and one pipeline of looks at 500 names each"
    assert server.has_ttl or not looks


@pytest.mark.parametrize(("side", "server"), [("sync", "redis8"), ("async", "valkey9")], indirect=True)
def test_among_many_namespaces_one_whose_keys_have_all_expired_is_not_listed(
    store: Side, server: Server, raw: redis.Redis, keys: UserKeys
) -> None:
    names = [f"ns-{number}" for number in range(600)]
    with raw.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hset(keys.data(name.encode()), "key", "1")
        pipe.sadd(keys.registry, *names, "never-there")
        pipe.execute()
    assert store.list_namespaces() == sorted(names)
    raw.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
    try:
        store.use_namespace("ns-7").expire("key", 0.02)
        probe = store.use_namespace("probe")
        probe.set("key", 1, ttl=0.02)
        wait_until(lambda: probe.get("key") is None, "both keys have expired")
        assert raw.exists(keys.data(b"ns-7"))
        assert store.list_namespaces() == sorted(set(names) - {"ns-7"})
    finally:
        raw.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "1")


def calls_of(raw: redis.Redis) -> dict[str, int]:
    """Return how often each command has been called."""
    return {name.removeprefix("cmdstat_"): row["calls"] for name, row in raw.info("commandstats").items()}


@pytest.mark.parametrize(
    "name", ["", "\ud800", "n" * 1025, "é" * 513, 1, None, b"name", True], ids=lambda n: repr(n)[:12]
)
def test_a_bad_name_is_refused(store: Side, name: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        store.use_namespace(name)
    expected = InvalidName if name in ("", "\ud800") else LimitExceeded if isinstance(name, str) else InvalidType
    assert isinstance(caught.value, expected)
    assert "namespace" in str(caught.value)
