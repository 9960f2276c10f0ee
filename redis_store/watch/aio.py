"""Watching, for asyncio: an asynchronous iterator of changes, and waiting for a key.

The watcher's steps are in `watch/watcher.py` and `watch/reader.py`. The hub runs in a thread of the process
(`hub/run_hub.py`), so that threads and asyncio share it, and a busy event loop does not make the hub miss messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any, Self, TypeVar

from redis_store.drivers.aio import AsyncDriver
from redis_store.errors import ConnectionLost, DataStoreError, StoreClosed, StoreTimeout, second_taker
from redis_store.flows.clock import clock, time_for_reply
from redis_store.flows.flow import Do, Flow, Pause, Receive, Step
from redis_store.flows.run_async import carry_out
from redis_store.hub.mailbox import Item, Mailbox
from redis_store.hub.run_hub import join, leave
from redis_store.limits import check_timeout, check_whole
from redis_store.namespace.scope import Scope
from redis_store.protocol.drive import drive_async
from redis_store.types import Change, Json
from redis_store.watch.request import WatchRequest
from redis_store.watch.wait_for import Waiting
from redis_store.watch.watcher import Watching

T = TypeVar("T")


class _Bell:
    """Wakes a task of an event loop from the hub's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._rung = False

    def ring(self) -> None:
        if self._rung:
            return
        self._rung = True
        with contextlib.suppress(RuntimeError):  # the loop is closed, and its waiting tasks are gone
            self._loop.call_soon_threadsafe(self._event.set)

    async def receive(self, mailbox: Mailbox, deadline: float | None) -> Item | None:
        """Return the next item, or None when the deadline passes."""
        while True:
            self._rung = False
            item = mailbox.peek(0)
            if item is not None:
                return item
            left_s = None if deadline is None else deadline - clock()
            if left_s is not None and left_s <= 0:
                return None
            self._event.clear()
            if self._rung:
                continue
            try:
                async with asyncio.timeout(left_s):
                    await self._event.wait()
            except TimeoutError:
                continue


class AsyncWatch(AsyncIterator[Change]):
    """An asynchronous iterator over the changes of one namespace, or of all namespaces of a user.

    Made by `AsyncDataStore.watch` and `watch_all`; also a context manager. It begins with ``async with``, with `begin`, or with
    the first request for a change; earlier writes are not seen. One task at a time may take changes: a second one gets
    `InvalidInput`. A cancelled task loses none. The watch waits while the server is unavailable, and continues after a restart.
    """

    def __init__(self, driver: AsyncDriver, plan: WatchRequest) -> None:
        self._driver = driver
        self._plan = plan
        self._bell: _Bell | None = None
        self._watching: Watching | None = None
        self._closed = asyncio.Event()
        self._beginning = False
        driver.watches.add(self)

    @property
    def standing_by(self) -> bool:
        """Whether another process holds this consumer, and this one stands by to take over."""
        return self._watching is not None and self._watching.standing_by

    async def begin(self) -> Self:
        """Begin to watch. Every write after this returns is seen. Repeating it is harmless."""
        if self._closed.is_set():
            raise StoreClosed("The watch is closed.")
        if self._beginning:
            raise second_taker()
        if self._watching is None:
            self._beginning = True
            self._bell = _Bell()
            driver = self._driver
            self._watching = Watching(self._plan, lambda: driver.source, driver.timeout_s, self._bell.ring)
            weakref.finalize(self, self._watching.leave)
            try:
                await self._driver.make_sure(keeps=False)
                await self._drive(self._watching, self._watching.begin())
            except BaseException as error:
                watching, self._watching = self._watching, None
                if watching.end() and not isinstance(error, (ConnectionLost, StoreTimeout, GeneratorExit)):
                    with contextlib.suppress(DataStoreError):
                        await _within(time_for_reply(clock()), self._driver.run(self._plan.release()))
                raise
            finally:
                self._beginning = False
        return self

    async def take(self, most: int = 1, timeout: float | None = None) -> list[Change]:
        """Wait for a change, and return it with the others that are ready, up to `most`.

        Returns an empty list after `timeout` seconds.

        The consumer's cursor does not move: call `done` with the last change that you are done with. Raises `StoredDataError`
        once for a value that is not JSON, and continues after it; raises `StoreClosed` after `close`.
        """
        most, deadline = check_whole(most, "The number of changes to take", 1), _deadline(timeout)
        watching = await self._begun(deadline)
        if watching.busy:
            raise second_taker()
        watching.busy = True
        try:
            found = await self._drive(watching, watching.take(most, deadline), deadline)
            watching.taken = found  # no call may come after this
            if found.error is not None:
                raise found.error
            return found.changes
        finally:
            watching.busy = False

    async def done(self, change: Change) -> None:
        """Move the consumer's cursor past this change. Does nothing without a consumer's name."""
        watching = await self._begun()
        await self._drive(watching, watching.done(change))

    async def next_change(self, timeout: float | None = None) -> Change | None:
        """Return the next change, or None after `timeout` seconds. The change returned before counts as done."""
        deadline = _deadline(timeout)
        watching = await self._begun(deadline)
        if watching.busy:
            raise second_taker()
        watching.busy = True
        try:
            found = await self._drive(watching, watching.next_change(deadline), deadline)
            watching.taken = found  # no call may come after this
            if found.error is not None:
                raise found.error
            return found.changes[0] if found.changes else None
        finally:
            watching.busy = False

    async def close(self) -> None:
        """End the watch. A task that waits for the next change gets none. Repeating it is harmless."""
        self._closed.set()
        watching = self._watching
        if watching is not None and watching.end():
            with contextlib.suppress(DataStoreError):
                await self._driver.run(watching.plan.release())

    async def __anext__(self) -> Change:
        try:
            change = await self.next_change()
        except StoreClosed:
            if self._closed.is_set():
                raise StopAsyncIteration from None
            raise
        assert change is not None, "next_change returns None only after a timeout"
        return change

    async def __aenter__(self) -> Self:
        return await self.begin()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncWatch of {self._plan}{' (closed)' if self._closed.is_set() else ''}>"

    async def _begun(self, deadline: float | None = None) -> Watching:
        if self._beginning:
            raise second_taker()
        if self._watching is None:
            await _within(time_for_reply(deadline), self.begin())
        assert self._watching is not None
        return self._watching

    async def _drive(self, watching: Watching, flow: Flow[T], deadline: float | None = None) -> T:
        return await drive_async(flow, partial(self._carry_out, watching, deadline), Exception)

    async def _carry_out(self, watching: Watching, deadline: float | None, step: Step) -> Any:
        if isinstance(step, Do):
            return await _within(time_for_reply(deadline), self._driver.run(step.op))
        if isinstance(step, Receive):
            assert self._bell is not None
            item = await self._bell.receive(watching.mailbox, step.deadline)
            if self._driver.near is not None:
                self._driver.near.note_read_beside()
            return item
        if isinstance(step, Pause):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(step.seconds):
                    await self._closed.wait()
            return None
        return await carry_out(self._driver, step)


async def wait_until(
    driver: AsyncDriver,
    scope: Scope,
    key: str,
    predicate: Callable[[Json], bool] | None,
    timeout: float | None,
) -> Json:
    """Wait until a key exists and its value satisfies the predicate, and return the value."""
    waiting = Waiting(scope, key, predicate)
    deadline = _deadline(timeout)

    async def look() -> bool:
        try:
            return waiting.accepts(await _within(time_for_reply(deadline), driver.run(waiting.look())))
        except StoreTimeout:
            if deadline is None or clock() < deadline:
                raise
            raise waiting.too_late(timeout) from None

    if await look():
        return waiting.value
    bell = _Bell()
    mailbox = Mailbox(light=True, wake=bell.ring)
    driver.watches.add(mailbox)
    join(waiting.request(mailbox), driver.source, driver.timeout_s)
    try:
        while True:
            item = await bell.receive(mailbox, deadline)
            if driver.near is not None:
                driver.near.note_read_beside()
            if item is None:
                raise waiting.too_late(timeout)
            mailbox.drop(item)
            if waiting.concerns(item, mailbox) and await look():
                return waiting.value
            if waiting.fulfilled:
                return waiting.value
    finally:
        leave(mailbox)


async def _within(most_s: float | None, running: Coroutine[Any, Any, T]) -> T:
    """Await an operation. Raise `StoreTimeout` after this time; the server's reply is discarded then."""
    try:
        async with asyncio.timeout(most_s) as limit:
            return await running
    except TimeoutError:
        if not limit.expired():
            raise
        raise StoreTimeout("The server did not reply in the caller's time.", outcome_unknown=True) from None


def _deadline(timeout: float | None) -> float | None:
    limit_s = check_timeout(timeout)
    return None if limit_s is None else clock() + limit_s
