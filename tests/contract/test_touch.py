"""Reads that let a ttl begin anew: `get` with `touch`, and namespaces opened with ``sliding=True``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import redis

from redis_store import NEVER, AccessDenied, InvalidInput, UnsupportedByServer, connect
from redis_store.namespace.keys import UserKeys
from tests.support.servers import KINDS_WITH_TTL, Server, wait_until
from tests.support.sides import SIDES_WITH_FUNCTIONS, AsyncSide, Side

with_ttl = pytest.mark.parametrize("server", KINDS_WITH_TTL, indirect=True)


def left_s(store: Side, key: str) -> float:
    """The seconds that a key has to live after its last write."""
    info = store.info(key)
    return float((info.expires_at - info.updated_at).total_seconds())


def sliding(store: Side, ttl: Any) -> Side:
    handle = store.store.use_namespace("cache", ttl=ttl, sliding=True)
    return AsyncSide(handle, store._loop) if isinstance(store, AsyncSide) else type(store)(handle)


@with_ttl
def test_get_with_touch(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    place = keys.namespace("default")
    store.set("key", {"a": 1}, ttl=10)
    store.set("ever", None)
    store.set("big", "x" * 100_000, ttl=10)
    before = store.info("key").version
    assert store.get("key", touch=1000) == {"a": 1}
    assert store.get("ever", 5, touch=timedelta(seconds=1000)) is None
    assert len(store.get("big", touch=1000)) == 100_000
    assert store.get("missing", "default", touch=1000) == "default"
    assert store.list_keys() == ["big", "ever", "key"]
    for key in ("key", "ever", "big"):
        assert 900 < left_s(store, key) < 1100
        ends = [raw.execute_command("HPEXPIRETIME", where, "FIELDS", 1, key) for where in (place.data, place.info)]
        assert ends[0] == ends[1], "the info lives as long"
    assert store.info("key").version == before


@with_ttl
@pytest.mark.parametrize("side", SIDES_WITH_FUNCTIONS, indirect=True)
def test_sliding_namespace(store: Side) -> None:
    cache = sliding(store, 1000)
    cache.set("key", [1])
    cache.set("ever", 2, ttl=NEVER)
    for read in (lambda: cache.get("key"), lambda: cache.get_many(["missing", "key", "ever"])["key"]):
        cache.expire("key", 10)
        assert read() == [1]
        assert 900 < left_s(cache, "key") < 1100
    assert cache.get("ever") == 2
    assert cache.info("ever").expires_at is None, "a key without a ttl gets none"
    assert cache.get("missing", 7) == 7
    assert cache.get_many([]) == {}
    cache.set_many({f"k{number}": number for number in range(1200)})
    assert len(cache.get_many([f"k{number}" for number in range(1200)])) == 1200
    cache.expire("key", 10)
    plain = store.use_namespace("cache")
    assert (plain.get("key"), cache.get_all()["key"]) == ([1], [1])
    assert left_s(plain, "key") < 100, "other reads leave the ttl"


@with_ttl
@pytest.mark.parametrize("side", ["sync"], indirect=True)
def test_tags_live_as_long_as_a_touched_value(store: Side) -> None:
    store.store.get_or_set("key", lambda: 1, ttl=0.2, tags=["t"])
    assert store.get("key", touch=1000) == 1
    store.set("later", 1, ttl=0.3)
    wait_until(lambda: store.get("later") is None, "the tag would have expired")
    assert store.store.invalidate_tag("t") == 1


@with_ttl
@pytest.mark.parametrize("side", ["sync"], indirect=True)
def test_near_cache_and_touch(server: Server, user: str, store: Side) -> None:
    if server.kind == "fakeredis":
        return  # it has no near cache
    with connect(server.url, user=user, near_cache=True) as near:
        near.set("key", 1, ttl=10)
        assert [near.get("key") for _ in range(3)] == [1] * 3
        assert near.get("key", touch=1000) == 1
        assert 900 < left_s(near, "key") < 1100
        store.set("key", 2)
        assert (near.get("key", touch=1000), near.get("key")) == (2, 2)


def test_bad_input_for_touch(store: Side) -> None:
    for touch in (0, -1, "5", True, float("nan"), 1e12):
        with pytest.raises(InvalidInput):
            store.get("key", touch=touch)


@pytest.mark.parametrize("side", ["sync", "async"], indirect=True)
def test_bad_input_for_sliding(store: Side) -> None:
    for options in ({"sliding": True}, {"sliding": True, "ttl": NEVER}, {"sliding": 1, "ttl": 5}):
        with pytest.raises(InvalidInput, match="sliding"):
            store.store.use_namespace("cache", **options)


@pytest.mark.parametrize("side", ["sync"], indirect=True)
def test_touch_needs_the_right_to_write(store: Side) -> None:
    store.set("key", 1)
    cache = store.store.use_namespace("default", ttl=5, sliding=True)
    for call in (
        lambda: store.store.read_only().get("key", touch=5),
        lambda: cache.restricted(read=["*"]).get("key"),
        lambda: cache.restricted(write=["*"]).get("key"),
    ):
        with pytest.raises(AccessDenied):
            call()
    assert cache.read_only().get("key") == 1, "it does not slide"


@pytest.mark.parametrize("server", ["redis7"], indirect=True)
def test_a_server_without_ttl_refuses_touch(store: Side) -> None:
    store.set("key", 1)
    for key in ("key", "missing"):
        with pytest.raises(UnsupportedByServer):
            store.get(key, touch=5)
