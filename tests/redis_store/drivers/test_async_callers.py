"""Many callers on one connection of the async store: cancelled, too many at once, or with big requests."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from redis_store import AsyncDataStore, ConnectionLost, connect_async
from tests.support.proxy import Fault, Proxy, proxied
from tests.support.servers import DEADLINE_S, Server


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
            await store.get_all()
            yield store

    return open_one


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition while other tasks run."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.002)


def test_cancelled_callers_never_shift_the_others_replies(opened: Any, proxy: Proxy) -> None:
    chance = random.Random(5)

    async def main() -> None:
        async with opened() as store:
            await store.set_many({f"key-{number}": number for number in range(50)})
            connections = proxy.connections
            for _ in range(40):
                tasks = {number: asyncio.ensure_future(store.get(f"key-{number}")) for number in range(50)}
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                cancelled = {number for number in tasks if chance.random() < 0.4}
                for number in cancelled:
                    tasks[number].cancel()
                answers = await asyncio.gather(*tasks.values(), return_exceptions=True)
                for number, answer in enumerate(answers):
                    if number in cancelled and isinstance(answer, asyncio.CancelledError):
                        continue
                    assert answer == number
            assert proxy.connections == connections, "a caller that gives up costs no connection"

    asyncio.run(main())


@pytest.mark.parametrize("fault", [Fault.HOLD_REPLY, Fault.HOLD_REQUEST])
def test_a_cancelled_batch_happens_whole_or_not_at_all(opened: Any, proxy: Proxy, fault: Fault) -> None:
    batch = {f"batch-{number}": number for number in range(2500)}

    async def main(metadata: Any) -> None:
        async with opened() as store:
            rule = proxy.strike("batch-7", fault)
            task = asyncio.ensure_future(store.set_many(batch, metadata=metadata))
            others = [asyncio.ensure_future(store.get("the-key")) for _ in range(5)]
            await until(lambda: rule.struck.is_set(), "the batch is on its way")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            others += [asyncio.ensure_future(store.get("another")) for _ in range(5)]
            rule.release()
            assert await asyncio.gather(*others) == ["old"] * 5 + [1] * 5
            found = await store.get_many(batch)
            assert found in ({}, batch)
            await store.set("after", 1)
            assert await store.get("after") == 1
            await store.clear()

    asyncio.run(main(None))
    asyncio.run(main({"m": 1}))


def test_cancelled_connect_blocks_nobody(start: Callable[..., Server]) -> None:
    server = start("valkey9")

    async def main() -> None:
        async with connect_async(server.url, user="alice", timeout=20) as store:
            server.pause()
            tasks = [asyncio.ensure_future(store.get("key")) for _ in range(3)]
            await asyncio.sleep(0.01)
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            server.resume()
            assert await asyncio.gather(*tasks[1:]) == [None, None]
            assert await store.get("key", 1) == 1

    asyncio.run(main())


def test_a_small_get_does_not_wait_behind_a_bulk_reply(opened: Any, proxy: Proxy) -> None:
    async def main() -> None:
        async with opened() as store:
            bulk = store.use_namespace("bulk-ns")
            await bulk.set_many({f"key-{number}": "x" * 1000 for number in range(300)})
            calls = {
                "get_all": bulk.get_all,
                "list_keys": bulk.list_keys,
                "get_many": lambda: bulk.get_many([f"key-{number}" for number in range(300)]),
            }
            for call in calls.values():
                rule = proxy.strike("ns:bulk-ns", Fault.HOLD_REPLY)
                task = asyncio.ensure_future(call())
                await until(lambda rule=rule: rule.struck.is_set(), "the bulk read is on its way")
                assert await store.get("the-key") == "old"
                assert not task.done()
                rule.release()
                assert len(await task) == 300

    asyncio.run(main())


def test_many_calls_at_once_are_bounded(opened: Any, proxy: Proxy) -> None:
    count = 20_000
    longest = b"$13\r\nbounded-%05d"

    async def main() -> None:
        async with opened() as store:
            await store.set_many({f"bounded-{number:05}": number for number in range(count)})
            before = proxy.count("HGET\r\n")
            rule = proxy.strike(longest % 0, Fault.HOLD_REQUEST)
            task = asyncio.gather(*(store.get(f"bounded-{number:05}") for number in range(count)))
            await until(lambda: rule.struck.is_set(), "the first are on their way")
            for _ in range(20):
                await asyncio.sleep(0.005)
            rule.release()
            assert await task == list(range(count))
            assert proxy.count("HGET\r\n") - before == count

    asyncio.run(main())


@pytest.mark.parametrize(("count", "size"), [(20_000, 1), (400, 100_000)])
def test_requests_in_flight_are_bounded(start: Callable[..., Server], count: int, size: int) -> None:
    server = start("valkey9")

    async def main(proxy: Proxy) -> None:
        async with connect_async(proxy.url, user="alice", timeout=20) as store:
            await store.set("first", 1)
            before = (proxy.request_bytes, proxy.count("user:alice:ns:default"))
            rule = proxy.strike("user:alice:ns:default", Fault.HOLD_REPLY)
            task = asyncio.gather(*(store.set(f"key-{number}", "x" * size) for number in range(count)))
            await until(lambda: rule.struck.is_set(), "the server has answered to some")
            arrived = -1
            while arrived != proxy.request_bytes:  # until no more arrives
                arrived = proxy.request_bytes
                await asyncio.sleep(0.1)
            under_way = proxy.count("user:alice:ns:default") - before[1]
            done = task.done()
            rule.release()
            await task
            assert not done
            assert arrived - before[0] <= 16 * 1024 * 1024 + 2 * size + 1000
            assert under_way <= 10_000
            assert len(await store.list_keys()) == count + 1

    with proxied(server) as proxy:
        asyncio.run(main(proxy))


@pytest.mark.parametrize("fault", [Fault.HOLD_REPLY, Fault.HOLD_REQUEST, Fault.CUT_AFTER])
def test_claim_without_received_reply_is_released(opened: Any, proxy: Proxy, fault: Fault) -> None:
    """Whether its caller is cancelled or its connection breaks; otherwise all others would wait until it expires."""

    async def main() -> None:
        async with opened() as store:
            await store.get_or_set("loads the scripts", lambda: 1)
            rule = proxy.strike("31000", fault)
            task = asyncio.ensure_future(store.get_or_set("computed", lambda: "first", lock_timeout=31))
            await until(lambda: rule.struck.is_set(), "the claim is on its way")
            if fault is not Fault.CUT_AFTER:
                task.cancel()
                rule.release()
            with pytest.raises((asyncio.CancelledError, ConnectionLost)):
                await task
            async with asyncio.timeout(DEADLINE_S):
                assert await store.get_or_set("computed", lambda: "next") == "next"

    asyncio.run(main())
