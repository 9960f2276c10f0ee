"""What agents hold in turns: locks, semaphores and rate limits, as context managers for threads and for asyncio.

What is held is renewed while its holder lives: from a thread of the store's own, or from a task of the same event loop. It
lapses `ttl` after the last renewal: when the process dies or is stopped, and when an event loop is blocked for more than two
thirds of it. Then `lost` tells, and `LockLost` is raised at the end.
"""

from __future__ import annotations

import os
import time
from random import random
from types import TracebackType
from typing import TYPE_CHECKING, Self

from redis_store.errors import InvalidInput, LockLost
from redis_store.flows import run_async, run_sync
from redis_store.flows.flow import Keeping
from redis_store.flows.hold import Holdable, Limiting, Taken, give_back, hold, pass_limit
from redis_store.flows.run_sync import FlowDriver
from redis_store.limits import check_timeout

if TYPE_CHECKING:  # the sandbox's child has neither
    from redis_store.drivers.aio import AsyncDriver

__all__ = ["AsyncLock", "AsyncRateLimit", "AsyncSemaphore", "Lock", "RateLimit", "Semaphore"]


class _Holder:
    """What both sides know about something that is held, or not."""

    def __init__(self, wanted: Holdable, timeout: float | None) -> None:
        self._wanted = wanted
        self._timeout_s = check_timeout(timeout)
        self._token = ""
        self._taken: Taken | None = None
        self._keeping: Keeping | None = None
        self._process = 0

    @property
    def name(self) -> str:
        """The name that its users share."""
        return self._wanted.name

    @property
    def held(self) -> bool:
        """Whether it was acquired and not yet released; see `lost`."""
        return self._taken is not None

    @property
    def lost(self) -> bool:
        """Whether it is no longer surely this holder's: it could not be renewed in time, or somebody removed it."""
        return self._keeping is None or self._keeping.lost(time.monotonic())

    def check(self) -> None:
        """Raise `LockLost` if it is `lost`; for long work, before each step that must not be done twice."""
        if self.lost:
            raise self._was_lost()

    def _begin(self) -> str:
        if self._taken is not None:
            raise InvalidInput(
                f"This object holds the {self._wanted.what} {self.name!r} already: make another for each holder."
            )
        self._token = os.urandom(8).hex()
        return self._token

    def _took(self, result: tuple[Taken, Keeping]) -> int:
        self._taken, self._keeping = result
        self._process = os.getpid()
        return self._taken.fence

    def _end(self) -> Keeping | None:
        """Note that it is over, and return what kept it; None where there is nothing to give back."""
        keeping, self._taken, self._keeping = self._keeping, None, None
        if keeping is None:
            raise self._was_lost()
        keeping.stop()
        return keeping if self._process == os.getpid() else None  # a forked child holds nothing of its parent's

    def _was_lost(self) -> LockLost:
        return LockLost(
            f"The {self._wanted.what} {self.name!r} is not held, or no longer: somebody else may have had it meanwhile.",
            name=self.name,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}, {'held' if self.held else 'not held'}>"


class _SyncHolder(_Holder):
    def __init__(self, driver: FlowDriver, wanted: Holdable, timeout: float | None) -> None:
        super().__init__(wanted, timeout)
        self._driver = driver

    def release(self) -> None:
        """Give it back; raises `LockLost` if it was held no longer."""
        keeping = self._end()
        if keeping is None:
            return
        if not run_sync.run_flow(self._driver, give_back(self._wanted, self._token, keeping)):
            raise self._was_lost()

    def _acquire(self, tied: bool) -> int:
        flow = hold(self._wanted, self._begin(), self._timeout_s, tied, random)
        return self._took(run_sync.run_flow(self._driver, flow))

    def __enter__(self) -> Self:
        self._acquire(tied=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.release()
        except LockLost:
            if error is None:
                raise


class Lock(_SyncHolder):
    """A lock of the user's, whom one at a time holds; made by `DataStore.lock`. One object for each holder."""

    @property
    def fence(self) -> int:
        """The fencing number: higher with each holder. Whoever writes with it can refuse a holder who came earlier."""
        if self._taken is None:
            raise self._was_lost()
        return self._taken.fence

    def acquire(self) -> int:
        """Wait for it, hold it until `release`, whatever thread calls that, and return the fencing number."""
        return self._acquire(tied=False)


class Semaphore(_SyncHolder):
    """One of a number of places, each held by one at a time; made by `DataStore.semaphore`. One object for each holder."""

    def acquire(self) -> None:
        """Wait for a place, and hold it until `release`, whatever thread calls that."""
        self._acquire(tied=False)


class RateLimit:
    """At most so many moments in any period, by the server's clock; made by `DataStore.rate_limit`.

    As a context manager it waits at the beginning. Who waits has a moment of his own and is not overtaken; if he gives up, that
    moment is used up nevertheless.
    """

    def __init__(self, driver: FlowDriver, limit: Limiting, timeout: float | None) -> None:
        self._driver = driver
        self._limit = limit
        self._timeout_s = check_timeout(timeout)

    def acquire(self) -> None:
        """Wait for the next free moment; raises `LockTimeout` at once where that would take longer than the timeout."""
        run_sync.run_flow(self._driver, pass_limit(self._limit, self._timeout_s))

    def try_acquire(self) -> bool:
        """Take this moment if it is free, and return whether it was."""
        return self._driver.run(self._limit.take(0))[0]

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _AsyncHolder(_Holder):
    def __init__(self, driver: AsyncDriver, wanted: Holdable, timeout: float | None) -> None:
        super().__init__(wanted, timeout)
        self._driver = driver

    async def release(self) -> None:
        """Give it back; raises `LockLost` if it was held no longer."""
        keeping = self._end()
        if keeping is None:
            return
        if not await run_async.run_flow(self._driver, give_back(self._wanted, self._token, keeping)):
            raise self._was_lost()

    async def _acquire(self, tied: bool) -> int:
        flow = hold(self._wanted, self._begin(), self._timeout_s, tied, random)
        return self._took(await run_async.run_flow(self._driver, flow))

    async def __aenter__(self) -> Self:
        await self._acquire(tied=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.release()
        except LockLost:
            if error is None:
                raise


class AsyncLock(_AsyncHolder):
    """A lock of the user's, whom one at a time holds; made by `AsyncDataStore.lock`. One object for each holder."""

    @property
    def fence(self) -> int:
        """The fencing number: higher with each holder. Whoever writes with it can refuse a holder who came earlier."""
        if self._taken is None:
            raise self._was_lost()
        return self._taken.fence

    async def acquire(self) -> int:
        """Wait for it, hold it until `release`, whatever task calls that, and return the fencing number."""
        return await self._acquire(tied=False)


class AsyncSemaphore(_AsyncHolder):
    """One of a number of places, each held by one at a time; made by `AsyncDataStore.semaphore`."""

    async def acquire(self) -> None:
        """Wait for a place, and hold it until `release`, whatever task calls that."""
        await self._acquire(tied=False)


class AsyncRateLimit:
    """At most so many moments in any period, by the server's clock; made by `AsyncDataStore.rate_limit`.

    As a context manager it waits at the beginning. Who waits has a moment of his own and is not overtaken; if he gives up, that
    moment is used up nevertheless.
    """

    def __init__(self, driver: AsyncDriver, limit: Limiting, timeout: float | None) -> None:
        self._driver = driver
        self._limit = limit
        self._timeout_s = check_timeout(timeout)

    async def acquire(self) -> None:
        """Wait for the next free moment; raises `LockTimeout` at once where that would take longer than the timeout."""
        await run_async.run_flow(self._driver, pass_limit(self._limit, self._timeout_s))

    async def try_acquire(self) -> bool:
        """Take this moment if it is free, and return whether it was."""
        return (await self._driver.run(self._limit.take(0)))[0]

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(self, *_: object) -> None:
        pass
