"""Locks, semaphores and rate limits of a user, as context managers for threads and for asyncio.

A lock or slot is renewed while its holder is alive: by a thread of the store, or by a task of the same event loop. It expires
`ttl` seconds after the last renewal, if the process dies or is stopped. It may also expire if an event loop is blocked for
more than two thirds of `ttl`. Then `lost` is True, and releasing it raises `LockLost`.
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

if TYPE_CHECKING:  # neither exists in the sandbox's child
    from redis_store.drivers.aio import AsyncDriver


class _Holder:
    """The state of a lock or slot, for threads and asyncio."""

    def __init__(self, wanted: Holdable, timeout: float | None) -> None:
        self._wanted = wanted
        self._timeout_s = check_timeout(timeout)
        self._token = ""
        self._taken: Taken | None = None
        self._keeping: Keeping | None = None
        self._process = 0

    @property
    def name(self) -> str:
        """The name that all of its holders and waiters share."""
        return self._wanted.name

    @property
    def held(self) -> bool:
        """Whether this object has acquired it and not yet released it. It may have been lost meanwhile: see `lost`."""
        return self._taken is not None

    @property
    def lost(self) -> bool:
        """Whether it is not held for certain: not acquired, not renewed in time, or removed from the server."""
        return self._keeping is None or self._keeping.lost(time.monotonic())

    def check(self) -> None:
        """Raise `LockLost` if it is `lost`. Call it in long work before each step that must not happen twice.

        It does not ask the server. If that dropped the lock early (data loss, eviction, a clock that jumped forward), it raises
        from the next renewal on, after at most a third of the ttl. Until then only the fence protects a resource.
        """
        if self.lost:
            raise self._was_lost()

    def _begin(self) -> str:
        if self._taken is not None:
            raise InvalidInput(
                f"This object already holds the {self._wanted.what} {self.name!r}: make one object for each holder."
            )
        self._token = os.urandom(8).hex()
        return self._token

    def _took(self, result: tuple[Taken, Keeping]) -> int:
        self._taken, self._keeping = result
        self._process = os.getpid()
        return self._taken.fence

    def _end(self) -> Keeping | None:
        """Stop renewing, and return what renewed it; None in a forked child, which has nothing to release."""
        keeping, self._taken, self._keeping = self._keeping, None, None
        if keeping is None:
            raise self._was_lost()
        keeping.stop()
        return keeping if self._process == os.getpid() else None  # a forked child holds no locks of its parent

    def _was_lost(self) -> LockLost:
        return LockLost(
            f"The {self._wanted.what} {self.name!r} is not held, or no longer: others may have acquired it meanwhile.",
            name=self.name,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}, {'held' if self.held else 'not held'}>"


class _SyncHolder(_Holder):
    def __init__(self, driver: FlowDriver, wanted: Holdable, timeout: float | None) -> None:
        super().__init__(wanted, timeout)
        self._driver = driver

    def release(self) -> None:
        """Release it. Raises `LockLost` if it is not held, or was lost meanwhile."""
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
    """A mutual-exclusion lock, scoped to the user; made by `DataStore.lock`. Each holder needs an object of its own."""

    @property
    def fence(self) -> int:
        """The fencing number, which grows with each acquisition, so that a resource can refuse an earlier holder.

        It is about the server's time in µs, so it grows even after the server lost data. It repeats only if the server's clock
        is behind as well. Raises `LockLost` if the lock is not held.
        """
        if self._taken is None:
            raise self._was_lost()
        return self._taken.fence

    def acquire(self) -> int:
        """Wait for the lock, and return its fencing number. It is held until `release`, which any thread may call.

        Raises `LockTimeout` if the lock was not acquired within the timeout.
        """
        return self._acquire(tied=False)


class Semaphore(_SyncHolder):
    """One slot of a semaphore, scoped to the user; made by `DataStore.semaphore`. Each holder needs an object of its own."""

    def acquire(self) -> None:
        """Wait for a slot. It is held until `release`, which any thread may call.

        Raises `LockTimeout` if no slot was acquired within the timeout.
        """
        self._acquire(tied=False)


class RateLimit:
    """At most `n` uses in any period of `per` seconds, by the server's clock; made by `DataStore.rate_limit`.

    As a context manager it waits on entry. A waiter reserves the next free use and is not overtaken; if it gives up, the use
    is spent nevertheless.
    """

    def __init__(self, driver: FlowDriver, limit: Limiting, timeout: float | None) -> None:
        self._driver = driver
        self._limit = limit
        self._timeout_s = check_timeout(timeout)

    def acquire(self) -> None:
        """Wait for the next free use. Raises `LockTimeout` at once if the wait would be longer than the timeout."""
        run_sync.run_flow(self._driver, pass_limit(self._limit, self._timeout_s))

    def try_acquire(self) -> bool:
        """Take a use if one is free now, without waiting, and return whether it was."""
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
        """Release it. Raises `LockLost` if it is not held, or was lost meanwhile."""
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
    """A mutual-exclusion lock, scoped to the user; made by `AsyncDataStore.lock`. Each holder needs an object of its own."""

    @property
    def fence(self) -> int:
        """The fencing number, which grows with each acquisition, so that a resource can refuse an earlier holder.

        It is about the server's time in µs, so it grows even after the server lost data. It repeats only if the server's clock
        is behind as well. Raises `LockLost` if the lock is not held.
        """
        if self._taken is None:
            raise self._was_lost()
        return self._taken.fence

    async def acquire(self) -> int:
        """Wait for the lock, and return its fencing number. It is held until `release`, which any task may call.

        Raises `LockTimeout` if the lock was not acquired within the timeout.
        """
        return await self._acquire(tied=False)


class AsyncSemaphore(_AsyncHolder):
    """One slot of a semaphore, scoped to the user; made by `AsyncDataStore.semaphore`. Each holder needs its own object."""

    async def acquire(self) -> None:
        """Wait for a slot. It is held until `release`, which any task may call.

        Raises `LockTimeout` if no slot was acquired within the timeout.
        """
        await self._acquire(tied=False)


class AsyncRateLimit:
    """At most `n` uses in any period of `per` seconds, by the server's clock; made by `AsyncDataStore.rate_limit`.

    As a context manager it waits on entry. A waiter reserves the next free use and is not overtaken; if it gives up, the use
    is spent nevertheless.
    """

    def __init__(self, driver: AsyncDriver, limit: Limiting, timeout: float | None) -> None:
        self._driver = driver
        self._limit = limit
        self._timeout_s = check_timeout(timeout)

    async def acquire(self) -> None:
        """Wait for the next free use. Raises `LockTimeout` at once if the wait would be longer than the timeout."""
        await run_async.run_flow(self._driver, pass_limit(self._limit, self._timeout_s))

    async def try_acquire(self) -> bool:
        """Take a use if one is free now, without waiting, and return whether it was."""
        return (await self._driver.run(self._limit.take(0)))[0]

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(self, *_: object) -> None:
        pass
