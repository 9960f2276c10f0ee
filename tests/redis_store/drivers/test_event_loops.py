"""The async store in several event loops, one after another and at once."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from redis_store import AsyncDataStore, StoreClosed, connect_async
from tests.support.servers import Server, wait_until
from tests.support.threads import all_at_once


async def use(store: AsyncDataStore, name: str) -> None:
    """Use a namespace that nothing else uses, and check every answer."""
    namespace = store.use_namespace(name)
    await asyncio.gather(*(namespace.set(f"key-{number}", [name, number]) for number in range(60)))
    answers = await asyncio.gather(*(namespace.get(f"key-{number}") for number in range(60)))
    assert answers == [[name, number] for number in range(60)]
    assert len(await namespace.get_all()) == 60
    assert await namespace.set_many({"a": 1}, metadata={"m": 1}) == 1


def test_asyncio_run_twice_with_one_store(server_url: str, user: str) -> None:
    store = connect_async(server_url, user=user)
    for name in ("first", "second", "third"):
        asyncio.run(use(store, name))
    gc.collect()  # a warning about leftovers of the closed loops is an error here

    async def end() -> None:
        assert await store.list_namespaces() == ["first", "second", "third"]
        await store.close()

    asyncio.run(end())


def test_loops_in_several_threads(server_url: str, user: str) -> None:
    store = connect_async(server_url, user=user)
    former = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that threads meet within the driver
    try:
        for round_ in range(6):
            all_at_once([lambda n=n, r=round_: asyncio.run(use(store, f"loop-{r}-{n}")) for n in range(8)])
    finally:
        sys.setswitchinterval(former)
    asyncio.run(store.close())
    gc.collect()


def test_two_loops_in_turn(server_url: str, user: str) -> None:
    store = connect_async(server_url, user=user)
    loops = [asyncio.new_event_loop() for _ in range(2)]
    try:
        for number in range(20):
            loop = loops[number % 2]
            loop.run_until_complete(store.set(f"key-{number}", number))
            assert loop.run_until_complete(store.get(f"key-{number}")) == number
            assert len(loop.run_until_complete(store.get_all())) == number + 1
        loops[0].run_until_complete(store.close())
        for loop in loops:
            with pytest.raises(StoreClosed):
                loop.run_until_complete(store.get("key-1"))
        loops[1].run_until_complete(asyncio.sleep(0.01))  # closes its connection
    finally:
        for loop in loops:
            loop.close()
    gc.collect()


def test_one_connection_for_a_loop(one_server: Server, raw_of: Callable[..., Any], user: str) -> None:
    raw = raw_of(one_server)
    before = len(raw.client_list())

    async def main() -> None:
        async with connect_async(one_server.url, user=user) as store:
            await asyncio.gather(*(store.set(f"key-{number}", number) for number in range(200)))
            await asyncio.gather(*(store.use_namespace("other").get(f"key-{number}") for number in range(200)))
            assert len(raw.client_list()) - before == 1
            await asyncio.gather(*(store.get_all() for _ in range(30)))
            assert len(raw.client_list()) - before <= 1 + 8

    asyncio.run(main())
    wait_until(lambda: len(raw.client_list()) == before, "the connections are gone")


def test_a_connection_is_made_at_the_first_call(user: str) -> None:
    store = connect_async("redis://127.0.0.1:1", user=user)
    asyncio.run(store.close())


def test_a_call_of_another_loop_does_not_disturb(server_url: str, user: str) -> None:
    """A coroutine created in one loop and awaited in another runs in the loop that awaits it."""

    async def main() -> None:
        async with connect_async(server_url, user=user) as store:
            await store.set("key", 1)
            made_here = store.get("key")
            assert await asyncio.to_thread(lambda: asyncio.run(made_here)) == 1
            assert await store.get("key") == 1

    asyncio.run(main())


def test_iterators_and_closing(server_url: str, user: str) -> None:
    async def main() -> None:
        async with connect_async(server_url, user=user) as store:
            await store.set_many({f"key-{number}": number for number in range(1500)})
            seen = []
            async for key in store.iter_keys():
                seen.append(key)
                if len(seen) == 10:
                    break
            assert {key async for key in store} == {f"key-{number}" for number in range(1500)}
            assert {key: value async for key, value in store.iter_items("key-1")} == {
                f"key-{number}": number for number in range(1500) if str(number).startswith("1")
            }

    asyncio.run(main())
    gc.collect()


def test_blocked_loop_does_not_time_out_next_call(server_url: str, user: str) -> None:
    timeout_s = 0.05
    store = connect_async(server_url, user=user, timeout=timeout_s)
    loop = asyncio.new_event_loop()
    try:
        for number in range(5):
            loop.run_until_complete(store.set("key", number))
            loop.run_until_complete(asyncio.sleep(0))
            end = monotonic() + 2 * timeout_s
            while monotonic() < end:
                pass
            # The timer for replies is due before this call has even been sent.
            assert loop.run_until_complete(store.get("key")) == number
    finally:
        loop.run_until_complete(store.close())
        loop.close()
