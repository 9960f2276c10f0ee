"""Locks, semaphores and rate limits for agents, over host calls that never wait on the host.

A waiter polls, as on the host. A holder is renewed from a thread of the agent's process, and released by the host when that
process has ended.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from redis_store import locks
from redis_store.flows.hold import HoldAnswer, pass_limit
from redis_store.limits import check_places, ttl_to_ms
from redis_store.namespace.keys import MAX_NAMESPACE_BYTES, encode_lock_name, encode_name
from redis_store.types import Ttl
from sandbox.child.store.compute_once import HostCalls
from sandbox.child.store.run_flows import run_flow_async


class HoldSteps:
    """The steps of one lock or semaphore slot."""

    redis_key = b""

    def __init__(self, on: HostCalls, what: str, steps: str, name: str, ttl: Ttl, *places: int) -> None:
        """`steps` is the last word of the operations' names."""
        self.what = what
        self.name = str.__str__(name)
        self.ttl_ms = ttl_to_ms(ttl)
        self._call = on.call
        self._steps = steps
        self._places = places

    async def acquire(self, token: str, wait: bool) -> HoldAnswer:
        answer: HoldAnswer = self._call(
            f"acquire_{self._steps}", self.name, token, *self._places, self.ttl_ms / 1000, int(wait)
        )
        return answer

    async def renew(self, token: str) -> bool:
        return bool(self._call(f"renew_{self._steps}", self.name, token, *self._places, self.ttl_ms / 1000))

    async def release(self, token: str) -> bool:
        return bool(self._call(f"release_{self._steps}", self.name, token, *self._places))


def lock_steps(on: HostCalls, name: str, ttl: Ttl) -> HoldSteps:
    """Check a lock's name and ttl, and return its steps."""
    on.check_writes_somewhere()
    encode_lock_name(name)
    return HoldSteps(on, "lock", "lock", name, ttl)


def semaphore_steps(on: HostCalls, name: str, n: int, ttl: Ttl) -> HoldSteps:
    """Check a semaphore's name, number of slots and ttl, and return its steps."""
    on.check_writes_somewhere()
    encode_name(name, "semaphore name", MAX_NAMESPACE_BYTES)
    return HoldSteps(on, "semaphore", "place", name, ttl, check_places(n))


class RateLimitSteps:
    """The step of one rate limit."""

    def __init__(self, on: HostCalls, name: str, n: int, per: Ttl) -> None:
        on.check_writes_somewhere()
        encode_name(name, "rate limit name", MAX_NAMESPACE_BYTES)
        self.name = str.__str__(name)
        self._n = check_places(n)
        self.per_ms = ttl_to_ms(per, "per")
        self._call = on.call

    async def take(self, most_ms: int | None) -> tuple[bool, int]:
        turn: tuple[bool, int] = self._call(
            "take_moment", self.name, self._n, self.per_ms / 1000, None if most_ms is None else most_ms / 1000
        )
        return turn


class _Awaitable(locks._SyncHolder):
    """A holder that also works with ``async with``; the agent's other tasks continue while it waits."""

    async def __aenter__(self) -> Self:
        claim: list[None] = []
        flow = self._begin(claim, tied=True)
        try:
            self._took(await run_flow_async(flow))
        except BaseException:
            self._give_up(claim)
            raise
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

    A context manager that waits on entry; with ``async with`` the agent's other tasks continue meanwhile. A waiter
    reserves a use when it is at most one period ahead, and is not overtaken then. A waiter that gives up has still spent it.
    """

    async def __aenter__(self) -> Self:
        await run_flow_async(pass_limit(self._limit, self._timeout_s))
        return self

    async def __aexit__(self, *_: object) -> None:
        pass
