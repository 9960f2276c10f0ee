"""Locks, semaphores and rate limits for agents, over host calls that never wait on the host.

A waiter polls, as on the host. A holder is renewed from a thread of the agent's process, and released by the host when that
process has ended.
"""

from __future__ import annotations

from random import random
from types import TracebackType
from typing import Self

from redis_store import locks
from redis_store.flows.hold import Busy, HoldAnswer, Taken, hold, pass_limit
from redis_store.limits import check_places, ttl_to_ms
from redis_store.namespace.keys import MAX_NAMESPACE_BYTES, encode_lock_name, encode_name
from redis_store.types import Ttl
from sandbox.child.store.run_flows import DRIVER, run_flow_async
from sandbox.child.store.session import Session


class LockSteps:
    """The steps of one lock."""

    what = "lock"
    redis_key = b""

    def __init__(self, session: Session, name: str, ttl: Ttl) -> None:
        session.check_writes_somewhere()
        encode_lock_name(name)
        self.name = str.__str__(name)
        self.ttl_ms = ttl_to_ms(ttl)
        self._call = session.call_for_user

    async def acquire(self, token: str, wait: bool) -> HoldAnswer:
        return _answer(*self._call("acquire_lock", self.name, token, self.ttl_ms / 1000, int(wait)))

    async def renew(self, token: str) -> bool:
        return bool(self._call("renew_lock", self.name, token, self.ttl_ms / 1000)[0])

    async def release(self, token: str) -> bool:
        return bool(self._call("release_lock", self.name, token)[0])


class SemaphoreSteps:
    """The steps of one semaphore."""

    what = "semaphore"
    redis_key = b""

    def __init__(self, session: Session, name: str, n: int, ttl: Ttl) -> None:
        session.check_writes_somewhere()
        encode_name(name, "semaphore name", MAX_NAMESPACE_BYTES)
        self.name = str.__str__(name)
        self._n = int(check_places(n))
        self.ttl_ms = ttl_to_ms(ttl)
        self._call = session.call_for_user

    async def acquire(self, token: str, wait: bool) -> HoldAnswer:
        return _answer(*self._call("acquire_place", self.name, token, self._n, self.ttl_ms / 1000, int(wait)))

    async def renew(self, token: str) -> bool:
        return bool(self._call("renew_place", self.name, token, self._n, self.ttl_ms / 1000)[0])

    async def release(self, token: str) -> bool:
        return bool(self._call("release_place", self.name, token, self._n)[0])


class RateLimitSteps:
    """The step of one rate limit."""

    def __init__(self, session: Session, name: str, n: int, per: Ttl) -> None:
        session.check_writes_somewhere()
        encode_name(name, "rate limit name", MAX_NAMESPACE_BYTES)
        self.name = str.__str__(name)
        self._n = int(check_places(n))
        self._per_s = ttl_to_ms(per, "per") / 1000
        self._call = session.call_for_user

    async def take(self, most_ms: int | None) -> tuple[bool, int]:
        most_s = None if most_ms is None else most_ms / 1000
        taken, wait_ms = self._call("take_moment", self.name, self._n, self._per_s, most_s)
        return bool(taken), int(wait_ms)


class _Awaitable(locks._SyncHolder):
    """A holder that also works with ``async with``; the agent's other tasks continue while it waits."""

    async def __aenter__(self) -> Self:
        self._took(await run_flow_async(hold(self._wanted, self._begin(), self._timeout_s, True, random)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


class Lock(_Awaitable, locks.Lock):
    """A mutual-exclusion lock, scoped to the user; made by `DataStore.lock`. Use one object per holder.

    With ``async with`` the agent's other tasks continue while it waits.
    """


class Semaphore(_Awaitable, locks.Semaphore):
    """One slot of a semaphore, held by one holder at a time; made by `DataStore.semaphore`. Use one object per holder.

    With ``async with`` the agent's other tasks continue while it waits.
    """


class RateLimit(locks.RateLimit):
    """A limit on the uses in any period, by the server's clock; made by `DataStore.rate_limit`.

    A context manager that waits on entry; with ``async with`` the agent's other tasks continue meanwhile. Each waiter has
    reserved a use and is not overtaken. A waiter that gives up has still spent its use.
    """

    async def __aenter__(self) -> Self:
        await run_flow_async(pass_limit(self._limit, self._timeout_s))
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


def lock(session: Session, name: str, ttl: Ttl, timeout: float | None) -> Lock:
    """Return a lock of the session's user."""
    return Lock(DRIVER, LockSteps(session, name, ttl), timeout)


def semaphore(session: Session, name: str, n: int, ttl: Ttl, timeout: float | None) -> Semaphore:
    """Return a semaphore slot of the session's user."""
    return Semaphore(DRIVER, SemaphoreSteps(session, name, n, ttl), timeout)


def rate_limit(session: Session, name: str, n: int, per: Ttl, timeout: float | None) -> RateLimit:
    """Return a rate limit of the session's user."""
    return RateLimit(DRIVER, RateLimitSteps(session, name, n, per), timeout)


def _answer(acquired: bool, fence: int, retry_ms: int, place: int) -> HoldAnswer:
    return Taken(fence) if acquired else Busy(retry_ms, place)
