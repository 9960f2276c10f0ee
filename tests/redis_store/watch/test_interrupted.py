"""A call that takes changes and is interrupted or cancelled, at any point, loses none and gives none twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from redis_store import AsyncDataStore, Change, DataStore, InvalidInput, StoredDataError, connect_async
from redis_store.watch.sync import Watch
from redis_store.watch.watcher import Watching
from tests.redis_store.watch.conftest import PATIENCE_S, said
from tests.support.interrupts import Interrupted, raising_at
from tests.support.servers import Server, wait_until
from tests.support.threads import in_thread

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]

KEYS = ["a", "b", "c"]
OPTIONS: dict[str, dict[str, Any]] = {"plain": {}, "consumer": {"consumer": "c"}, "initial": {"initial": True}}

STEP = 17
"""The calls are interrupted at every seventeenth place, so that the test is short."""


def _next(watch: Watch) -> list[Change]:
    change = watch.next_change(PATIENCE_S)
    assert change is not None
    return [change]


def _take(watch: Watch) -> list[Change]:
    return watch.take(2, PATIENCE_S)


@pytest.mark.parametrize("take", [_next, _take])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_handler_that_raises_costs_no_change(
    name: str, take: Callable[[Watch], list[Change]], one_server: Server, user: str, open_store: Any
) -> None:
    store: DataStore = open_store(one_server.url, user)
    place, cut = 0, True
    while cut:  # each round at a later place, until there is no such place
        place, cut = place + STEP, False
        if name == "initial":
            store.set_many(dict.fromkeys(KEYS, place))
        with store.watch(**OPTIONS[name]) as watch:
            if name != "initial":
                for key in KEYS:
                    store.set(key, place)
            found: list[Change] = []
            while len(found) < len(KEYS):
                try:
                    with raising_at(place):
                        changes = take(watch)
                except Interrupted:
                    cut = True
                    changes = take(watch)
                found += changes
            assert sorted(said(found)) == [("set", key, place) for key in KEYS]
            watch.done(found[-1])
            assert watch.take(timeout=0) == []
    assert place > 5 * STEP


@pytest.mark.parametrize("name", OPTIONS)
def test_a_cancellation_costs_no_change(name: str, one_server: Server, user: str) -> None:
    async def main() -> None:
        async with connect_async(one_server.url, user=user) as store:
            for turns in range(25):
                await _cancel_after(turns, store)

    async def _cancel_after(turns: int, store: AsyncDataStore) -> None:
        if name == "initial":
            await store.set_many(dict.fromkeys(KEYS, turns))
        async with store.watch(**OPTIONS[name]) as watch:
            if name != "initial":
                for key in KEYS:
                    await store.set(key, turns)
            found: list[Change | None] = []
            while len(found) < len(KEYS):
                taking = asyncio.create_task(watch.next_change(PATIENCE_S))
                for _ in range(turns):
                    await asyncio.sleep(0)
                taking.cancel()
                try:
                    found.append(await taking)
                except asyncio.CancelledError:
                    found.append(await watch.next_change(PATIENCE_S))
            assert sorted(said(found)) == [("set", key, turns) for key in KEYS]  # type: ignore[arg-type]
            assert await watch.next_change(0) is None

    asyncio.run(main())


def test_a_cancelled_task_does_not_swallow_the_error_of_a_value(one_server: Server, user: str, raw_of: Any) -> None:
    async def main() -> None:
        async with connect_async(one_server.url, user=user) as store, store.watch(consumer="c") as watch:
            raw_of(one_server).hset(f"user:{user}:ns:default", "bad", "no JSON")
            advance = Watching._advance
            entered = asyncio.Event()

            async def slow(watching: Watching, *arguments: Any) -> bool:
                entered.set()
                return await advance(watching, *arguments)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Watching, "_advance", slow)
                taking = asyncio.create_task(watch.take(timeout=PATIENCE_S))
                await entered.wait()
                taking.cancel()
                with pytest.raises((asyncio.CancelledError, StoredDataError)):
                    await taking
            if taking.cancelled():
                with pytest.raises(StoredDataError):
                    await watch.take(timeout=PATIENCE_S)
            await store.set("good", 1)
            assert said(await watch.take(timeout=PATIENCE_S)) == [("set", "good", 1)]

    asyncio.run(main())


def test_a_second_thread_is_refused(one_server: Server, user: str, open_store: Any) -> None:
    store: DataStore = open_store(one_server.url, user)
    with store.watch() as watch:
        with in_thread(lambda: watch.next_change(PATIENCE_S)) as first:
            wait_until(lambda: watch._watching.busy, "the first call waits")
            for second in (lambda: watch.next_change(0), lambda: watch.take(timeout=0), lambda: next(watch)):
                with pytest.raises(InvalidInput, match="one at a time"):
                    second()
            store.set("k", 1)
        assert said([first.result]) == [("set", "k", 1)]
        store.set("k", 2)
        assert said([next(watch)]) == [("set", "k", 2)]


def test_a_second_task_is_refused(one_server: Server, user: str) -> None:
    async def main() -> None:
        async with connect_async(one_server.url, user=user) as store:
            watch = store.watch()
            first, second = (asyncio.create_task(watch.next_change(PATIENCE_S)) for _ in range(2))
            with pytest.raises(InvalidInput, match="one at a time"):
                await second
            while watch._watching is None or not watch._watching.busy:
                await asyncio.sleep(0.001)
            with pytest.raises(InvalidInput, match="one at a time"):
                await anext(watch)
            await store.set("k", 1)
            assert said([await first]) == [("set", "k", 1)]  # type: ignore[list-item]
            await watch.close()

    asyncio.run(main())


def test_done_beside_a_take(one_server: Server, user: str) -> None:
    async def main() -> None:
        async with connect_async(one_server.url, user=user) as store:
            async with store.watch(consumer="c") as watch:
                await store.set_many(dict.fromkeys(KEYS, 1))
                first, second, third = await watch.take(3, PATIENCE_S)
                taking = asyncio.create_task(watch.take(timeout=PATIENCE_S))
                await asyncio.sleep(0)
                for change in (first, second):
                    await watch.done(change)
                await store.set("d", 1)
                assert said(await taking) == [("set", "d", 1)]
            async with store.watch(consumer="c") as watch:
                found = await watch.take(9, PATIENCE_S)
                assert said(found) == [*said([third]), ("set", "d", 1)]

    asyncio.run(main())
