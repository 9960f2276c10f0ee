"""Locks, semaphores and rate limits of a user, as context managers for threads and for asyncio.

A lock or slot is renewed while its holder is alive: by a thread of the store, or by a task of the same event loop. It expires
`ttl` seconds after the last renewal, if the process dies or is stopped, or if nothing refers to the object any more. It may
also expire if an event loop is blocked for more than two thirds of `ttl`. Then `lost` is True, and releasing it raises
`LockLost`.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from random import random
from types import TracebackType
from typing import TYPE_CHECKING, Generic, NamedTuple, Self, TypeVar

from redis_store.errors import DataStoreError, InvalidInput, LockLost
from redis_store.flows import run_async, run_sync
from redis_store.flows.clock import clock
from redis_store.flows.flow import Flow, Keeping, Undo, Undoing, take_back
from redis_store.flows.hold import Holdable, Limiting, Taken, give_back, hold, pass_limit
from redis_store.flows.run_sync import FlowDriver
from redis_store.limits import check_timeout

if TYPE_CHECKING:  # neither exists in the sandbox's child
    from redis_store.drivers.aio import AsyncDriver

DriverT = TypeVar("DriverT")


def _is_wanted(holder: _Holder, token: str) -> Callable[[], bool]:
    """Return a function that says whether a holder exists and has this token. It does not keep the holder alive."""
    reference = weakref.ref(holder)

    def is_wanted() -> bool:
        there = reference()
        return there is not None and there._token == token

    return is_wanted


class _Held(NamedTuple):
    """What one acquisition has acquired."""

    token: str
    fence: int
    keeping: Keeping
    process: int


class _Holder:
    """The state of a lock or slot, for threads and asyncio.

    It is free, acquiring or held. Only a free one may begin to acquire: one at a time has the claim, for which nothing waits.
    """

    def __init__(self, wanted: Holdable, timeout: float | None) -> None:
        self._wanted = wanted
        self._timeout_s = check_timeout(timeout)
        self._claims: list[None] = [None]
        """The one claim, unless an acquisition has it. One call of C moves it, and no signal handler comes between."""
        self._token = ""
        """The token of the acquisition that has the claim; empty if there is none."""
        self._holdings: list[_Held] = []
        """The holding, if there is one. Removing it from the list is atomic, so that it is released once."""

    @property
    def name(self) -> str:
        """The name that all of its holders and waiters share."""
        return self._wanted.name

    @property
    def held(self) -> bool:
        """Whether this object has acquired it and not yet released it. It may have been lost meanwhile: see `lost`."""
        return bool(self._holdings)

    @property
    def lost(self) -> bool:
        """Whether it is not held for certain: not acquired, not renewed in time, or removed from the server."""
        held = next(iter(self._holdings), None)
        return held is None or held.keeping.lost(clock())

    def check(self) -> None:
        """Raise `LockLost` if it is `lost`. Call it in long work before each step that must not happen twice.

        It does not ask the server. If that dropped the lock early (data loss, eviction, a clock that jumped forward), it raises
        from the next renewal on, after at most a third of the ttl. Until then only the fence protects a resource.
        """
        if self.lost:
            raise self._was_lost()

    def _begin(self, claim: list[None], *, tied: bool) -> Flow[tuple[Taken, Keeping]]:
        """Move the claim of this object to an acquisition, and return its flow."""
        try:
            claim.extend(map(self._claims.pop, (0,)))
        except IndexError:
            raise InvalidInput(
                f"This object already holds the {self._wanted.what} {self.name!r} or waits for it: make one object for each"
                " holder."
            ) from None
        self._token = os.urandom(8).hex()
        return hold(self._wanted, self._token, self._timeout_s, tied, _is_wanted(self, self._token), random)

    def _took(self, result: tuple[Taken, Keeping]) -> int:
        taken, keeping = result
        self._holdings.append(_Held(self._token, taken.fence, keeping, os.getpid()))
        return taken.fence

    def _give_up(self, claim: list[None]) -> str:
        """Free this object after an acquisition that failed, and return the token that it had."""
        if not claim:
            return ""
        token, self._token = self._token, ""
        self._holdings.clear()
        self._claims.append(None)
        return token

    def _end(self, ending: list[_Held]) -> Flow[bool] | None:
        """Stop renewing, and return the flow that releases; None in a forked child, which has nothing to release.

        `ending` gets the holding, in one call of C, so that an interrupted release can be completed.
        """
        try:
            ending.extend(map(self._holdings.pop, (0,)))
        except IndexError:
            raise self._was_lost() from None
        held = ending[0]
        self._token = ""
        self._claims.append(None)
        held.keeping.stop()
        return give_back(self._wanted, held.token, held.keeping) if held.process == os.getpid() else None

    def _take_back(self, token: str) -> Flow[None]:
        wanted = self._wanted
        return take_back(lambda: wanted.release(token), wanted.ttl_ms / 1000)

    def _was_lost(self) -> LockLost:
        return LockLost(
            f"The {self._wanted.what} {self.name!r} is not held, or no longer: others may have acquired it meanwhile.",
            name=self.name,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}, {'held' if self.held else 'not held'}>"


class _Fenced(_Holder):
    """The fencing number of a lock."""

    @property
    def fence(self) -> int:
        """The fencing number, which grows with each acquisition, so that a resource can refuse an earlier holder.

        It is about the server's time in µs, so it grows even after the server lost data. It repeats only if the server's clock
        is behind as well. Raises `LockLost` if the lock is not held.
        """
        for held in self._holdings:
            return held.fence
        raise self._was_lost()


class _Limit(Generic[DriverT]):
    """A rate limit, for threads and asyncio."""

    def __init__(self, driver: DriverT, limit: Limiting, timeout: float | None) -> None:
        self._driver = driver
        self._limit = limit
        self._timeout_s = check_timeout(timeout)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._limit.name!r}>"


class _Drop:
    """Releases in the background what a ``with`` still holds when its holder is dropped: the end of it was interrupted.

    At a release its class becomes `_Released`: a signal handler that raises in a `__del__` would raise nothing.
    """

    def __init__(self, driver: FlowDriver, wanted: Holdable, token: str) -> None:
        self._driver = driver
        self._wanted = wanted
        self._token = token
        self._process = os.getpid()

    def __del__(self) -> None:
        with suppress(Exception):  # the interpreter is ending, or a signal handler has interrupted `__init__`
            wanted, token = self._wanted, self._token
            if self._process == os.getpid():
                undo = Undo(lambda: wanted.release(token), wanted.ttl_ms / 1000, clock())
                self._driver.keeper.repeat(Undoing(undo), self._driver.run, tied=False)


class _Released:
    """What needs no release any more."""


class _SyncHolder(_Holder):
    _drop: _Drop | None = None

    def __init__(self, driver: FlowDriver, wanted: Holdable, timeout: float | None) -> None:
        super().__init__(wanted, timeout)
        self._driver = driver

    def release(self) -> None:
        """Release it. Raises `LockLost` if it is not held, or was lost meanwhile."""
        ending: list[_Held] = []
        try:
            flow = self._end(ending)
            self._keep_released()
            if flow is None or run_sync.run_flow(self._driver, flow):
                return
        except DataStoreError:
            raise
        except BaseException:  # such as a signal handler's: the flow may not have begun
            for held in ending:
                if held.process == os.getpid():
                    run_sync.run_flow(self._driver, self._take_back(held.token))
            raise
        raise self._was_lost()

    def _acquire(self, *, tied: bool) -> int:
        claim: list[None] = []
        try:
            flow = self._begin(claim, tied=tied)
            taken = run_sync.run_flow(self._driver, flow)
            if tied:
                self._drop = _Drop(self._driver, self._wanted, self._token)
            return self._took(taken)
        except BaseException as error:
            token = self._give_up(claim)
            if token:
                self._keep_released()
            # The flow may have ended before a signal handler raised.
            if token and not isinstance(error, DataStoreError):
                run_sync.run_flow(self._driver, self._take_back(token))
            raise

    def _keep_released(self) -> None:
        if self._drop is not None:
            self._drop.__class__ = _Released  # type: ignore[assignment]
            self._drop = None

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


class Lock(_SyncHolder, _Fenced):
    """A mutual-exclusion lock, scoped to the user; made by `DataStore.lock`. Each holder needs an object of its own:
    while it holds or waits, others get `InvalidInput`."""

    def acquire(self) -> int:
        """Wait for the lock, and return its fencing number. It is held until `release`, which any thread may call.

        Raises `LockTimeout` if the lock was not acquired within the timeout.
        """
        return self._acquire(tied=False)


class Semaphore(_SyncHolder):
    """One slot of a semaphore, scoped to the user; made by `DataStore.semaphore`. Each holder needs an object of its own:
    while it holds or waits, others get `InvalidInput`."""

    def acquire(self) -> None:
        """Wait for a slot. It is held until `release`, which any thread may call.

        Raises `LockTimeout` if no slot was acquired within the timeout.
        """
        self._acquire(tied=False)


class RateLimit(_Limit[FlowDriver]):
    """At most `n` uses in any period of `per` seconds, by the server's clock; made by `DataStore.rate_limit`.

    As a context manager it waits on entry. A waiter reserves the next free use and is not overtaken; if it gives up, the use
    is spent nevertheless.
    """

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
        flow = self._end([])
        if flow is not None and not await run_async.run_flow(self._driver, flow):
            raise self._was_lost()

    async def _acquire(self, *, tied: bool) -> int:
        claim: list[None] = []
        try:
            flow = self._begin(claim, tied=tied)
            return self._took(await run_async.run_flow(self._driver, flow))
        except BaseException:
            self._give_up(claim)
            raise

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


class AsyncLock(_AsyncHolder, _Fenced):
    """A mutual-exclusion lock, scoped to the user; made by `AsyncDataStore.lock`. Each holder needs an object of its own:
    while it holds or waits, others get `InvalidInput`."""

    async def acquire(self) -> int:
        """Wait for the lock, and return its fencing number. It is held until `release`, which any task may call.

        Raises `LockTimeout` if the lock was not acquired within the timeout.
        """
        return await self._acquire(tied=False)


class AsyncSemaphore(_AsyncHolder):
    """One slot of a semaphore, scoped to the user; made by `AsyncDataStore.semaphore`. Each holder needs its own object:
    while it holds or waits, others get `InvalidInput`."""

    async def acquire(self) -> None:
        """Wait for a slot. It is held until `release`, which any task may call.

        Raises `LockTimeout` if no slot was acquired within the timeout.
        """
        await self._acquire(tied=False)


class AsyncRateLimit(_Limit["AsyncDriver"]):
    """At most `n` uses in any period of `per` seconds, by the server's clock; made by `AsyncDataStore.rate_limit`.

    As a context manager it waits on entry. A waiter reserves the next free use and is not overtaken; if it gives up, the use
    is spent nevertheless.
    """

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
