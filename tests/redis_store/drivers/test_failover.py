"""One address that leads to another server after a failover, and networks that go silent: old connections are given up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from redis_store import (
    AsyncDataStore,
    DataStore,
    DataStoreError,
    ServerReadOnly,
    StoreTimeout,
    StoreUnavailable,
    connect,
    connect_async,
)
from redis_store.brokers.lease import lease
from redis_store.connections.generation import Known, Standing
from tests.conftest import params_of
from tests.redis_store.watch.conftest import OpenWatchSide, Watcher, open_watch_side, said
from tests.support.proxy import Proxy, proxied
from tests.support.servers import REAL_KINDS, Server, wait_until
from tests.support.threads import all_at_once

__all__ = ["open_watch_side"]

CONNECTIONS = 12
MANY = {f"key-{number}": number for number in range(500)}


class Failover:
    """Two servers behind one address."""

    def __init__(self, old: Server, new: Server, proxy: Proxy) -> None:
        self.new = new
        self.url = proxy.url
        self._old = old
        self._proxy = proxy

    def happen(self, *, stale_reads: bool = True) -> None:
        """Demote the old server. The connections to it stay open, and new ones lead to the new server."""
        with connect(self.new.url, user="alice") as store:
            store.set_many({**MANY, "key": "new"})
        self._proxy.lead_to(self.new, close=False)
        with self._old.client() as raw:
            if not stale_reads:
                raw.config_set("replica-serve-stale-data", "no")
            # A replica of nothing: what it holds stays as it was, as on a server that is cut off.
            raw.replicaof("127.0.0.1", 1)


@pytest.fixture
def kind() -> str:
    """The kind of both servers. What follows a demoted server's error is the same for all kinds; two tests run with each."""
    return "valkey9"


@pytest.fixture
def failover(start: Callable[..., Server], kind: str) -> Iterator[Failover]:
    old, new = (start(kind, tcp=True) for _ in range(2))
    with proxied(old) as proxy:
        yield Failover(old, new, proxy)


@pytest.fixture
def proxy(one_server: Server) -> Iterator[Proxy]:
    with proxied(one_server) as made:
        yield made


def fill(store: DataStore) -> None:
    """Make the store open several connections, which are then idle."""
    store.set_many({**MANY, "key": "old"})
    together = threading.Barrier(CONNECTIONS)

    def read() -> None:
        together.wait()
        for _ in range(30):
            assert store.get("key") == "old"

    all_at_once([read] * CONNECTIONS)


async def fill_async(store: AsyncDataStore) -> None:
    await store.set_many({**MANY, "key": "old"})
    await asyncio.gather(*(store.get_all() for _ in range(CONNECTIONS)))


def failures(call: Callable[[], Any], kind: type[DataStoreError], times: int = CONNECTIONS) -> int:
    """Return how many of several calls raise such an error."""
    failed = 0
    for _ in range(times):
        try:
            call()
        except kind:
            failed += 1
    return failed


async def failures_async(call: Callable[[], Awaitable[Any]], kind: type[DataStoreError]) -> int:
    failed = 0
    for _ in range(CONNECTIONS):
        try:
            await call()
        except kind:
            failed += 1
    return failed


@pytest.mark.parametrize("kind", params_of(REAL_KINDS))
def test_threads_follow_a_failover(failover: Failover) -> None:
    with connect(failover.url, user="alice") as store:
        fill(store)
        failover.happen()
        assert failures(lambda: store.set("other", 1), ServerReadOnly) == 1
        assert {store.get("key") for _ in range(CONNECTIONS)} == {"new"}


def test_tasks_follow_a_failover(failover: Failover) -> None:
    async def main() -> None:
        async with connect_async(failover.url, user="alice") as store:
            await fill_async(store)
            failover.happen()
            assert await failures_async(lambda: store.set("other", 1), ServerReadOnly) == 1
            assert await store.get("key") == "new"
            everything = await asyncio.gather(*(store.get_all() for _ in range(CONNECTIONS)))
            assert {found["key"] for found in everything} == {"new"}

    asyncio.run(main())


def test_calls_that_are_under_way_keep_their_connection(failover: Failover) -> None:
    async def main() -> None:
        async with connect_async(failover.url, user="alice") as store:
            await fill_async(store)
            failover.happen()
            results = await asyncio.gather(
                *(store.set("other", number) for number in range(20)),
                *(store.get("key") for _ in range(20)),
                return_exceptions=True,
            )
            assert all(type(result) is ServerReadOnly for result in results[:20])
            assert results[20:] == ["old"] * 20
            assert await store.get("key") == "new"

    asyncio.run(main())


@pytest.mark.parametrize("make", ["transaction", "update", "lock", "many"])
def test_every_kind_of_write_tells_of_a_failover(failover: Failover, make: str) -> None:
    def write() -> None:
        if make == "transaction":
            with store.transaction() as changes:
                changes.set("other", changes.get("key"))
        elif make == "update":
            store.update("other", lambda _: [])
        elif make == "lock":
            with store.lock("l"):
                pass
        else:
            store.set_many({"other": 1, "another": 2}, metadata={"m": 1})

    with connect(failover.url, user="alice") as store:
        fill(store)
        write()
        failover.happen()
        assert failures(write, ServerReadOnly) == 1
        assert store.get("key") == "new"


@pytest.mark.parametrize("kind", params_of(REAL_KINDS))
def test_a_replica_without_its_primary_is_given_up_by_readers(failover: Failover) -> None:
    with connect(failover.url, user="alice") as store:
        fill(store)
        failover.happen(stale_reads=False)
        assert failures(lambda: store.get("key"), StoreUnavailable) == 1
        assert store.get("key") == "new"


def test_a_lease_follows_a_failover(failover: Failover) -> None:
    with connect(failover.url, user="host") as owner, lease(owner, user="alice", namespace="default") as store:
        fill(store)
        failover.happen()
        assert failures(lambda: store.set("other", 1), ServerReadOnly) == 1
        assert {store.get("key") for _ in range(CONNECTIONS)} == {"new"}


def test_the_near_cache_follows_a_failover(failover: Failover) -> None:
    with (
        connect(failover.url, user="alice", near_cache=True) as reader,
        connect(failover.url, user="alice") as writer,
    ):
        writer.set("key", "old")
        assert [reader.get("key") for _ in range(3)] == ["old"] * 3
        failover.happen()
        with pytest.raises(ServerReadOnly):
            writer.set("other", 1)
        assert reader.get("key") == "new"


def test_the_near_cache_of_tasks_follows_a_failover(failover: Failover) -> None:
    async def main() -> None:
        async with (
            connect_async(failover.url, user="alice", near_cache=True) as reader,
            connect_async(failover.url, user="alice") as writer,
        ):
            await writer.set("key", "old")
            assert [await reader.get("key") for _ in range(3)] == ["old"] * 3
            failover.happen()
            with pytest.raises(ServerReadOnly):
                await writer.set("other", 1)
            assert await reader.get("key") == "new"

    asyncio.run(main())


def test_watchers_follow_a_failover(failover: Failover, open_watch_side: OpenWatchSide) -> None:
    side = open_watch_side(failover.url, user="alice")
    watch: Watcher = side.watch()
    side.set("key", "old")
    assert said([watch.next()]) == [("set", "key", "old")]
    failover.happen()
    with pytest.raises(ServerReadOnly):
        side.set("other", 1)
    changes = watch.until(lambda change: change.op == "set" and change.key == "key")
    assert changes[0].op == "reset"
    assert changes[-1].value == "new"


def test_a_server_that_loads_its_data_is_asked_on_a_new_connection() -> None:
    known = Known()
    standing = Standing(known)
    assert str(standing.error_reply("LOADING Redis is loading the dataset in memory")).startswith("LOADING")
    assert standing.stale


@pytest.mark.parametrize("text", ["WRONGTYPE x", "ERR READONLY", "OOM x", "NOSCRIPT x", "MISCONF x", "NOPERM x"])
def test_other_errors_say_nothing_about_a_connection(text: str) -> None:
    standing = Standing(Known())
    standing.error_reply(text)
    assert not standing.stale


def test_a_server_that_goes_on_refusing_costs_only_the_connection_that_asked() -> None:
    known = Known()
    before = Standing(known)
    before.error_reply("READONLY x")
    refused, other = Standing(known), Standing(known)
    refused.error_reply("READONLY x")
    assert (before.stale, refused.stale, other.stale) == (True, True, False)


def test_an_old_connection_says_nothing_about_new_ones() -> None:
    known = Known()
    first, second = Standing(known), Standing(known)
    first.end_generation()
    new = Standing(known)
    second.end_generation()
    second.error_reply("READONLY x")
    assert (first.stale, second.stale, new.stale) == (True, True, False)


def test_threads_lose_one_timeout_on_a_silent_network(proxy: Proxy) -> None:
    with connect(proxy.url, user="alice", timeout=0.5) as store:
        fill(store)
        proxy.silence()
        assert failures(lambda: store.get("key"), StoreTimeout) == 1


def test_a_lease_loses_one_timeout_on_a_silent_network(proxy: Proxy) -> None:
    with (
        connect(proxy.url, user="host", timeout=0.5) as owner,
        lease(owner, user="alice", namespace="default") as store,
    ):
        fill(store)
        proxy.silence()
        assert failures(lambda: store.get("key"), StoreTimeout) == 1


def test_stores_of_one_process_lose_one_timeout_between_them(proxy: Proxy) -> None:
    with connect(proxy.url, user="alice", timeout=0.5) as one, connect(proxy.url, user="alice", timeout=0.5) as other:
        fill(one)
        fill(other)
        proxy.silence()
        assert failures(lambda: one.get("key"), StoreTimeout) + failures(lambda: other.get("key"), StoreTimeout) == 1


def test_tasks_lose_one_timeout_on_a_silent_network(proxy: Proxy) -> None:
    async def main() -> None:
        async with connect_async(proxy.url, user="alice", timeout=0.5) as store:
            await fill_async(store)
            proxy.silence()
            assert await failures_async(store.get_all, StoreTimeout) == 1
            assert await store.get("key") == "old"

    asyncio.run(main())


def test_the_near_cache_takes_a_timeout_for_its_own(proxy: Proxy) -> None:
    with (
        connect(proxy.url, user="alice", timeout=0.5, near_cache=True) as reader,
        connect(proxy.url, user="alice", timeout=0.5) as writer,
    ):
        writer.set("key", 1)
        wait_until(lambda: reader.get("key") == 1 and reader.stats().near_live, "the near cache is connected")
        proxy.silence()
        assert failures(lambda: writer.set("key", 2), StoreTimeout) == 1
        assert reader.get("key") == 2


def test_urls_of_one_server_share_what_is_known_about_it(proxy: Proxy) -> None:
    port = urlsplit(proxy.url).port
    with (
        connect(f"redis://127.0.0.1:{port}/0", user="alice", timeout=0.5) as one,
        connect(f"redis://default:@127.0.0.1:{port}", user="bob", timeout=0.5) as other,
    ):
        one.set("key", 1)
        other.set("key", 1)
        proxy.silence()
        assert (
            failures(lambda: one.get("key"), StoreTimeout, 2) + failures(lambda: other.get("key"), StoreTimeout, 2) == 1
        )
