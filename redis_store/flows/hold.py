"""The flows that wait for a lock, a semaphore slot or a turn of a rate limit, and hold the first two.

The caller supplies the single steps: `ops.locks` runs them on a server, the sandbox's child through its broker. For the child's
sake this module imports only `errors` and `flows.flow`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

from redis_store.errors import ConnectionLost, DataStoreError, LockTimeout, StoreTimeout
from redis_store.flows.flow import (
    FIRST_PAUSE_S,
    Do,
    Keeping,
    Now,
    Pause,
    Rand,
    Renew,
    may_pass,
    next_pause,
    spread,
    take_back,
)

GRACE_MS = 1000
"""Time without a poll after which a waiter loses its place, and for which a free lock is kept for the first, in milliseconds."""

PAUSE_A_PLACE_S = 0.01
"""Pause between polls for each position in the queue, in seconds: waiters further back poll less often."""

HOLD_LONGEST_PAUSE_S = GRACE_MS / 4000
"""Longest pause between polls, in seconds: every waiter polls several times within the grace period."""

HOLD_WOKEN_PAUSE_S = GRACE_MS / 2000
"""Longest pause while listening for the message that it is our turn, in seconds."""


class Taken(NamedTuple):
    """The caller is now the holder. `fence` is a lock's fencing number; with a semaphore it is 0."""

    fence: int


class Busy(NamedTuple):
    """Another caller is the holder. Try again in `retry_ms`; `place` waiters are ahead in the queue."""

    retry_ms: int
    place: int


HoldAnswer: TypeAlias = Taken | Busy


class Holdable(Protocol):
    """A lock or a semaphore: held under a token while it is renewed."""

    @property
    def name(self) -> str: ...
    @property
    def what(self) -> str: ...
    @property
    def redis_key(self) -> bytes: ...
    @property
    def ttl_ms(self) -> int: ...
    async def acquire(self, token: str, wait: bool) -> HoldAnswer: ...
    async def renew(self, token: str) -> bool: ...
    async def release(self, token: str) -> bool: ...


class Limiting(Protocol):
    """A rate limit: grants at most a fixed number of turns in any period."""

    @property
    def name(self) -> str: ...
    @property
    def per_ms(self) -> int: ...
    async def take(self, most_ms: int | None) -> tuple[bool, int]: ...


async def hold(
    wanted: Holdable, token: str, timeout_s: float | None, tied: bool, still_wanted: Callable[[], bool], rand: Rand
) -> tuple[Taken, Keeping]:
    """Wait for a lock or a semaphore slot, acquire it, and start renewing it for as long as it is still wanted."""
    began = await Now()
    at_most_s = FIRST_PAUSE_S
    try:
        while True:
            asked = await Now()
            op = wanted.acquire(token, timeout_s != 0)
            answer = await Do(op)
            if isinstance(answer, Taken):
                return answer, await Renew(lambda: wanted.renew(token), wanted.ttl_ms / 1000, asked, tied, still_wanted)
            left_s = math.inf if timeout_s is None else began + timeout_s - await Now()
            if left_s <= 0:
                raise _not_in_time(wanted.what, wanted.name, timeout_s, answer.retry_ms)
            retry_s = max(0.001, answer.retry_ms / 1000)
            wanted_s = min(_pause(answer, rand), spread(at_most_s, rand))  # most holders release soon
            at_most_s = next_pause(at_most_s, HOLD_LONGEST_PAUSE_S)
            pause_s, woken_s = (min(each, retry_s, left_s) for each in (wanted_s, HOLD_WOKEN_PAUSE_S))
            await Pause(pause_s, wanted.redis_key, token.encode(), woken_s)
    except GeneratorExit:
        raise
    except BaseException as error:
        # Also if a reply was lost: the server may have granted it without our knowing.
        await _let_go(wanted, token, silent=isinstance(error, StoreTimeout))
        raise


async def give_back(wanted: Holdable, token: str, keeping: Keeping) -> bool:
    """Release something whose renewing was stopped, and return whether it was held until then."""
    try:
        return await _release(wanted, token)
    except ConnectionLost:
        pass
    # If the first release was lost, waiters would wait for the expiry. Sending a token again does not release twice.
    return await _release(wanted, token, again=True) or not keeping.lost(await Now())


async def _release(wanted: Holdable, token: str, *, again: bool = False) -> bool:
    op = wanted.release(token)
    try:
        return await Do(op)
    except GeneratorExit:
        raise
    except ConnectionLost:
        if again:
            await _let_go(wanted, token, silent=True)
        raise
    except DataStoreError as error:
        if may_pass(error):
            await _let_go(wanted, token, silent=True)
        raise
    except BaseException:
        # Cancelled or interrupted, perhaps before anything was sent.
        op.close()
        await _let_go(wanted, token, silent=False)
        raise


async def _let_go(wanted: Holdable, token: str, *, silent: bool) -> None:
    await take_back(lambda: wanted.release(token), wanted.ttl_ms / 1000, silent=silent)


async def pass_limit(limit: Limiting, timeout_s: float | None) -> None:
    """Take the next free turn of a rate limit and wait for it.

    An agent's turn is refused while it is further ahead than one period. It is then requested again, when it is that near.
    """
    began = await Now()
    while True:
        left_s = math.inf if timeout_s is None else max(0.0, began + timeout_s - await Now())
        taken, wait_ms = await Do(limit.take(None if timeout_s is None else int(left_s * 1000)))
        if taken:
            break
        if wait_ms > left_s * 1000:
            raise _not_in_time("rate limit", limit.name, timeout_s, wait_ms)
        await Pause(max(1, wait_ms - limit.per_ms) / 1000)
    if wait_ms:
        await Pause(wait_ms / 1000)


def _pause(busy: Busy, rand: Rand) -> float:
    return spread(min(HOLD_LONGEST_PAUSE_S, PAUSE_A_PLACE_S * (busy.place + 1)), rand)


def _not_in_time(what: str, name: str, timeout_s: float | None, retry_ms: int) -> LockTimeout:
    return LockTimeout(
        f"The {what} {name!r} could not be acquired within {timeout_s:g} seconds: try again later, or wait longer.",
        name=name,
        retry_after_ms=retry_ms,
    )
