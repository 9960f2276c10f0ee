"""Times to live: single keys expire if the server supports it; otherwise a ttl is refused before anything is written."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from redis_store import DataStoreError, InvalidInput, InvalidType, UnsupportedByServer
from tests.support.servers import KINDS_WITH_TTL, wait_until
from tests.support.sides import SIDES_OF_THE_HOST, Side

with_ttl = pytest.mark.parametrize("server", KINDS_WITH_TTL, indirect=True)


@with_ttl
def test_a_key_expires(store: Side) -> None:
    store.set("short", 1, ttl=0.05)
    store.set("stays", 2)
    wait_until(lambda: store.get("short", "gone") == "gone", "the key has expired")
    assert store.info("short") is None
    assert store.get_many(["short", "stays"]) == {"stays": 2}
    assert store.delete("short") is False
    assert store.get("stays") == 2


@with_ttl
def test_a_key_that_expired_has_no_past(store: Side) -> None:
    store.set("stays", 1)
    store.set("key", 1, metadata={"old": 1}, ttl=0.03)
    wait_until(lambda: store.get("key", "gone") == "gone", "the key has expired")
    store.set("key", 2)
    assert store.info("key").metadata == {}
    assert store.info("key").created_at == store.info("key").updated_at


@with_ttl
@pytest.mark.parametrize("ttl", [100, 99.5, timedelta(seconds=100), 1e9], ids=repr)
def test_info_tells_when_a_key_expires(store: Side, ttl: Any) -> None:
    store.set("key", 1, ttl=ttl)
    info = store.info("key")
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    assert (info.expires_at - info.updated_at).total_seconds() == pytest.approx(seconds, abs=0.002)


@with_ttl
def test_a_write_without_a_ttl_drops_it(store: Side) -> None:
    for write in (lambda: store.set("key", 2), lambda: store.set_many({"key": 2})):
        store.set("key", 1, ttl=100)
        write()
        assert store.info("key").expires_at is None
    store.set("key", 1, ttl=100)
    store.set("key", 1, metadata={"a": 1})
    assert store.info("key").expires_at is None
    assert store.info("key").metadata == {"a": 1}


@with_ttl
def test_a_batch_expires_whole(store: Side) -> None:
    store.set("stays", 0)
    assert store.set_many({f"k{n}": n for n in range(1500)}, ttl=100) == 1500
    for key in ("k0", "k999", "k1000", "k1499"):
        assert store.info(key).expires_at is not None
    assert store.info("stays").expires_at is None
    store.set_many({f"k{n}": n for n in range(1500)}, ttl=0.02)
    wait_until(lambda: store.get_many([f"k{n}" for n in range(1500)]) == {}, "the batch has expired")
    assert store.get("stays") == 0


@with_ttl
def test_a_batch_of_big_values_expires_too(store: Side) -> None:
    store.set_many({"a": "x" * 2000, "b": "x" * 2000}, ttl=100)
    assert store.info("a").expires_at is not None
    assert store.info("b").expires_at is not None


@with_ttl
def test_a_namespace_leaves_the_listing_when_its_last_key_expires(store: Side) -> None:
    store.set("key", 1, ttl=1000)
    assert store.list_namespaces() == ["default"]
    store.expire("key", 0.02)
    wait_until(lambda: store.list_namespaces() == [], "the namespace has left the listing")


@pytest.mark.parametrize("ttl", [0, -1, -0.5, float("nan"), float("inf"), 1e12, timedelta(0)], ids=repr)
def test_a_ttl_out_of_range_is_refused(store: Side, ttl: Any) -> None:
    with pytest.raises(InvalidInput):
        store.set("key", 1, ttl=ttl)
    with pytest.raises(InvalidInput):
        store.set_many({"key": 1}, ttl=ttl)
    assert store.list_keys() == []


@pytest.mark.parametrize("side", SIDES_OF_THE_HOST, indirect=True)
def test_a_ttl_too_big_for_a_float_is_refused(store: Side) -> None:
    with pytest.raises(InvalidInput):
        store.set("key", 1, ttl=10**400)


@pytest.mark.parametrize("ttl", ["1", True, [1], b"1"], ids=repr)
def test_a_ttl_of_another_type_is_refused(store: Side, ttl: Any) -> None:
    with pytest.raises(InvalidType):
        store.set("key", 1, ttl=ttl)
    with pytest.raises(InvalidType):
        store.set_many({"key": 1}, ttl=ttl)
    assert store.list_keys() == []


@pytest.mark.parametrize("server", ["redis7"], indirect=True)
def test_a_server_without_ttl_refuses_and_writes_nothing(store: Side) -> None:
    store.set("there", 1, metadata={"m": 1})
    batch = {f"k{n}": n for n in range(2500)}
    writes = [
        lambda: store.set("key", 1, ttl=10),
        lambda: store.set("there", 2, ttl=10),
        lambda: store.set("there", 2, metadata={"n": 1}, ttl=10),
        lambda: store.set_many(batch, ttl=10),
        lambda: store.set_many({"there": 2}, metadata={"n": 1}, ttl=10),
    ]
    for write in writes:
        with pytest.raises(UnsupportedByServer, match=r"Redis 7\.4 or Valkey 9\.0") as caught:
            write()
        assert isinstance(caught.value, DataStoreError)
    assert store.get_all() == {"there": 1}
    assert store.info("there").metadata == {"m": 1}
