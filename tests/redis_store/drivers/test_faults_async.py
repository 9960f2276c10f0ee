"""Failing networks and servers under the async store, and callers that give up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from redis_store import AsyncDataStore, ConnectionLost, StoreClosed, StoreTimeout, connect_async
from tests.support.proxy import Fault, Proxy, proxied
from tests.support.retries import in_time_async
from tests.support.servers import DEADLINE_S, Server

READS: dict[str, Callable[[AsyncDataStore], Awaitable[Any]]] = {
    "get": lambda store: store.get("the-key"),
    "get_many": lambda store: store.get_many(["the-key", "another"]),
    "get_many of 200": lambda store: store.get_many(["the-key", *map(str, range(200))]),
    "list_keys": lambda store: store.list_keys(),
    "get_all": lambda store: store.get_all(),
}
WRITES: dict[str, Callable[[AsyncDataStore], Awaitable[Any]]] = {
    "set": lambda store: store.set("the-key", "new"),
    "set_many": lambda store: store.set_many({"the-key": "new"}),
    "set_many with metadata": lambda store: store.set_many({"the-key": "new"}, metadata={"m": 1}),
    "delete": lambda store: store.delete("the-key"),
}


@pytest.fixture
def proxy(one_server: Server) -> Iterator[Proxy]:
    with proxied(one_server) as made:
        yield made


@pytest.fixture
def opened(proxy: Proxy, user: str) -> Any:
    """A function that opens a store behind the proxy, with one key and all connections open."""

    @asynccontextmanager
    async def open_one(timeout: float = 20) -> AsyncIterator[AsyncDataStore]:
        async with connect_async(proxy.url, user=user, namespace="the-ns", timeout=timeout) as store:
            await store.set_many({"the-key": "old", "another": 1}, metadata={"m": 0})
            await store.set("the-key", "old")
            for read in READS.values():
                await read(store)
            yield store

    return open_one


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition while other tasks run."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.002)


def test_a_dead_server(start: Callable[..., Server]) -> None:
    server = start("valkey9")
    server.kill()

    async def main() -> None:
        async with connect_async(server.url, user="alice") as store:
            for call in (store.get("a"), store.set("a", 1), store.list_keys(), store.clear()):
                with pytest.raises(ConnectionLost, match="check that it is running") as caught:
                    await call
                assert caught.value.outcome_unknown is False
            server.restart()
            await store.set("a", 1)
            assert await store.get("a") == 1

    asyncio.run(main())


def test_silent_server_at_connect(start: Callable[..., Server]) -> None:
    server = start("valkey9")

    async def main() -> None:
        async with connect_async(server.url, user="alice", timeout=0.15) as store:
            server.pause()
            try:
                for call in (lambda: store.set("key", 1), lambda: store.get("key"), store.get_all):
                    with pytest.raises(StoreTimeout) as caught:
                        await call()
                    assert caught.value.outcome_unknown is False
            finally:
                server.resume()
            await in_time_async(lambda: store.set("key", 2))
            assert await in_time_async(lambda: store.get("key")) == 2

    asyncio.run(main())


@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_AFTER, Fault.CUT_IN_REPLY])
@pytest.mark.parametrize("read", READS)
def test_a_read_is_retried_once(opened: Any, proxy: Proxy, read: str, fault: Fault) -> None:
    async def main() -> None:
        async with opened() as store:
            expected = await READS[read](store)
            proxy.strike("the-", fault)
            assert await READS[read](store) == expected
            rule = proxy.strike("the-", fault, times=100)
            with pytest.raises(ConnectionLost) as caught:
                await READS[read](store)
            assert caught.value.outcome_unknown is False
            assert 100 - rule.left == 2

    asyncio.run(main())


@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_AFTER, Fault.CUT_IN_REPLY])
@pytest.mark.parametrize("write", WRITES)
def test_a_write_that_went_out_is_not_sent_again(opened: Any, proxy: Proxy, write: str, fault: Fault) -> None:
    async def main() -> None:
        async with opened() as store:
            rule = proxy.strike("log:the-ns", fault, times=100)
            with pytest.raises(ConnectionLost, match="may or may not have happened") as caught:
                await WRITES[write](store)
            assert caught.value.outcome_unknown is True
            assert rule.left == 99

    asyncio.run(main())


@pytest.mark.parametrize("call", [*READS, *WRITES])
def test_a_connection_closed_while_idle_is_not_noticed(opened: Any, proxy: Proxy, call: str) -> None:
    async def main() -> None:
        async with opened() as store:
            proxy.drop_all()  # the loop has not noticed it yet
            await {**READS, **WRITES}[call](store)
            proxy.drop_all()
            await asyncio.sleep(0)
            await asyncio.gather(*(store.set(f"key-{number}", number) for number in range(20)))
            assert await store.get("key-7") == 7

    asyncio.run(main())


@pytest.mark.parametrize("call", ["get", "set", "get_all", "set_many with metadata"])
def test_a_server_that_dies_in_mid_call(start: Callable[..., Server], call: str) -> None:
    server = start("valkey9")

    async def main(proxy: Proxy) -> None:
        async with connect_async(proxy.url, user="alice", namespace="the-ns") as store:
            await store.set("the-key", "old")
            await store.get_all()
            sent = proxy.count("the-")
            server.pause()
            task = asyncio.ensure_future({**READS, **WRITES}[call](store))
            await until(lambda: proxy.count("the-") > sent, "the request is on its way")
            server.kill()
            with pytest.raises(ConnectionLost) as caught:
                await task
            assert caught.value.outcome_unknown is (call == "set")
            server.restart()
            assert await store.get("the-key") is None

    with proxied(server) as proxy:
        asyncio.run(main(proxy))


@pytest.mark.parametrize("call", ["get", "set", "get_all", "get_many of 200"])
@pytest.mark.parametrize("fault", [Fault.HOLD_REPLY, Fault.HOLD_REQUEST])
def test_a_reply_that_comes_too_late(opened: Any, proxy: Proxy, call: str, fault: Fault) -> None:
    async def main() -> None:
        async with opened(timeout=0.15) as store:
            await in_time_async(lambda: store.set_many({"another-1": 1, "another-2": 2}))
            rule = proxy.strike("ns:the-ns", fault)
            with pytest.raises(StoreTimeout, match=r"within 0\.15 s\b") as caught:
                await asyncio.wait_for({**READS, **WRITES}[call](store), DEADLINE_S)
            assert caught.value.outcome_unknown is (call in WRITES)
            assert rule.left == 0
            rule.release()
            asked = (("another-1",), ("another-2",), ("absent", "-"))
            for number in range(20):
                answers = await in_time_async(lambda: asyncio.gather(*(store.get(*each) for each in asked)))
                assert answers == [1, 2, "-"], number
                assert (await in_time_async(store.get_all))["another-1"] == 1

    asyncio.run(main())


def test_each_caller_gets_its_own_error(opened: Any, proxy: Proxy) -> None:
    """Calls that share a connection fail together, each with its own error."""

    async def main() -> None:
        async with opened(timeout=0.2) as store:
            proxy.strike("the-key", Fault.SWALLOW, times=100)
            results = await asyncio.gather(
                store.get("the-key"), store.set("the-key", 1), store.get("the-key"), return_exceptions=True
            )
            assert [type(result) for result in results] == [StoreTimeout] * 3
            assert [result.outcome_unknown for result in results] == [False, True, False]
            assert len({id(result) for result in results}) == 3

    asyncio.run(main())


def test_closing_ends_calls_under_way(opened: Any, proxy: Proxy) -> None:
    async def main() -> None:
        async with opened() as store:
            calls = [
                READS["get"],
                WRITES["set"],
                READS["get_all"],
                READS["get_many of 200"],
                WRITES["set_many with metadata"],
            ]
            rules = [proxy.strike("the-", Fault.HOLD_REPLY, times=10)]
            tasks = [asyncio.ensure_future(call(store)) for call in calls]
            await until(lambda: rules[0].struck.is_set() and 10 - rules[0].left >= 4, "they are on their way")
            connections = proxy.connections
            await store.close()
            results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), DEADLINE_S)
            assert all(isinstance(result, (StoreClosed, ConnectionLost)) for result in results), results
            assert results[1].outcome_unknown is True
            assert proxy.connections == connections
            with pytest.raises(StoreClosed):
                await store.get("the-key")

    asyncio.run(main())
