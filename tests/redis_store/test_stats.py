"""A store's statistics: calls, hits, computations, waits and bytes moved."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from redis_store import DataStore, StoreStats, connect_async
from tests.support.servers import Server, wait_until
from tests.support.threads import in_thread


@pytest.fixture
def store(one_server: Server, open_store: Callable[..., DataStore], user: str) -> DataStore:
    return open_store(one_server.url, user)


def test_nothing_is_counted_before_anything_happens(store: DataStore) -> None:
    assert store.stats() == StoreStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, False)
    assert store.stats().hit_ratio == 0


def test_reads(store: DataStore) -> None:
    store.set("k", "four")  # six bytes, with its quotes
    store.get("k")
    store.get("absent")
    store.get_many(["k", "absent", "absent too"])
    store["k"]
    stats = store.stats()
    assert (stats.hits, stats.misses, stats.bytes_read) == (3, 3, 18)
    assert stats.hit_ratio == 0.5


WRITES: dict[str, tuple[Callable[[DataStore], Any], int]] = {
    "set": (lambda store: store.set("k", 1234), 4),
    "set with ttl": (lambda store: store.set("k", 1234, ttl=9), 4),
    "set with metadata": (lambda store: store.set("k", 1234, metadata={"a": 1}), 4),
    "set_many": (lambda store: store.set_many({"k": 1234, "l": 56}), 6),
    "set_many with metadata": (lambda store: store.set_many({"k": 1234, "l": 56}, metadata={"a": 1}), 6),
    "set_if_absent": (lambda store: store.set_if_absent("new", 12), 2),
    "set_if_absent, in vain": (lambda store: store.set_if_absent("known", 12), 0),
    "compare_and_set": (lambda store: store.compare_and_set("known", 1, 12), 2),
    "compare_and_set, in vain": (lambda store: store.compare_and_set("known", 2, 12), 0),
    "increment": (lambda store: store.increment("known", 99), 3),
    "increment by a float": (lambda store: store.increment("known", 0.5), 3),
    "append": (lambda store: store.append("list", 12), 2),
    "append with max_items": (lambda store: store.append("list", 12, max_items=1), 4),
    "update": (lambda store: store.update("known", lambda value: value + 99), 3),
    "transact": (lambda store: store.transact(lambda transaction: transaction.set("k", 12)), 2),
    "get_or_set": (lambda store: store.get_or_set("new", lambda: 12), 2),
    "delete": (lambda store: store.delete("known"), 0),
}


@pytest.mark.parametrize("name", WRITES)
def test_bytes_written(name: str, servers: Any, open_store: Any, user: str) -> None:
    store = open_store(servers.first_of(["valkey9", "redis8"]).url, user)
    store.set("known", 1)
    before = store.stats().bytes_written
    work, size_bytes = WRITES[name]
    work(store)
    assert store.stats().bytes_written - before == size_bytes


def test_of_a_compressed_value_counts_what_travels(one_server: Server, open_store: Any, user: str) -> None:
    store = open_store(one_server.url, user, compress_above=100)
    store.set("k", "x" * 1000)
    store.get("k")
    info = store.info("k")
    assert info is not None
    assert store.stats().bytes_written == store.stats().bytes_read == info.size < 100


def test_computing_and_waiting(store: DataStore) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow() -> int:
        began.set()
        assert go_on.wait(20)
        return 1

    with in_thread(lambda: store.get_or_set("k", slow)):
        assert began.wait(20)
        with in_thread(lambda: store.get_or_set("k", lambda: pytest.fail("one computes"))) as waiting:
            wait_until(lambda: store.stats().waits == 1, "somebody waits")
            go_on.set()
    assert waiting.result == 1
    store.get_or_set("k", lambda: pytest.fail("it is there"))
    with pytest.raises(ZeroDivisionError):
        store.get_or_set("other", lambda: 1 / 0)
    stats = store.stats()
    assert (stats.computes, stats.compute_errors, stats.waits) == (2, 1, 1)
    assert (stats.hits, stats.misses) == (1, 3)


def test_computing_with_stale_values_counts_each_call_once(servers: Any, open_store: Any, user: str) -> None:
    store = open_store(servers.first_of(["valkey9", "redis8"]).url, user)
    for _ in range(3):
        store.get_or_set("k", lambda: 1, ttl=100, stale=100)
    stats = store.stats()
    assert (stats.hits, stats.misses, stats.computes) == (2, 1, 1)


def test_handles_of_a_store_count_together_and_stores_apart(store: DataStore, open_store: Any) -> None:
    store.use_namespace("other").set("k", 1)
    store.use_namespace("other").read_only().get("k")
    store.restricted(namespaces=["default"]).as_json_text().get("absent")
    other = open_store(store.url, store.user)
    other.get("absent")
    assert (store.stats().hits, store.stats().misses, store.stats().bytes_written) == (1, 1, 1)
    assert other.stats().misses == 1


def test_near_hits_count_as_what_they_are(one_server: Server, open_store: Any, user: str) -> None:
    store = open_store(one_server.url, user, near_cache=True)
    store.set("k", 12)
    for _ in range(3):
        store.get("k")
        store.get("absent")
    stats = store.stats()
    assert (stats.hits, stats.misses, stats.near_hits, stats.bytes_read) == (3, 3, 4, 2)
    assert stats.near_entries >= 2
    assert stats.near_live


def test_an_async_store_counts_the_same(one_server: Server, user: str) -> None:
    async def main() -> StoreStats:
        async with connect_async(one_server.url, user=user) as store:
            await store.set("k", "four")
            await asyncio.gather(store.get("k"), store.get("absent"), store.get_many(["k", "absent"]))
            await store.get_or_set("new", lambda: 12)
            return store.stats()

    assert asyncio.run(main()) == StoreStats(2, 3, 0, 1, 0, 0, 12, 8, 0, 0, False)
