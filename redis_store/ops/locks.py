"""Operations on locks, semaphores and rate limits, and the flows that wait for them.

Each try to take something has a random token, under which the server knows its holder, and before that the one who waits.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from redis_store._flow import Do, Keep, Keeping, Now, Pause, Rand, spread
from redis_store._keys import MAX_NAMESPACE_BYTES, decode_name, encode_name
from redis_store._scope import Scope
from redis_store.errors import DataStoreError, InvalidInput, InvalidType, LockTimeout
from redis_store.ops._script import run_checked
from redis_store.ops.values import ttl_to_ms
from redis_store.scripts import (
    LOCK_ACQUIRE,
    LOCK_RELEASE,
    LOCK_RENEW,
    RATE_TAKE,
    SEMAPHORE_ACQUIRE,
    SEMAPHORE_RELEASE,
    SEMAPHORE_RENEW,
)
from redis_store.types import Ttl

GRACE_MS = 1000
"""How long what is free is kept for the first in the queue, who must look again within that time."""

PAUSE_A_PLACE_S = 0.01
LONGEST_PAUSE_S = GRACE_MS / 4000
"""Who stands further behind looks less often, but always several times within the grace."""

MAX_COUNT = 1_000_000
"""Places of a semaphore, and moments of a rate limit: the server keeps each of them, at about 10 bytes."""


class Taken(NamedTuple):
    """It is ours; `fence` is a lock's fencing number, and 0 with a semaphore."""

    fence: int


class Busy(NamedTuple):
    """It is not; after so many ms it may be, and so many others are before us."""

    retry_ms: int
    place: int


Answer: TypeAlias = Taken | Busy


class Holdable(Protocol):
    """What can be held under a token for as long as it is renewed."""

    @property
    def name(self) -> str: ...
    @property
    def what(self) -> str: ...
    @property
    def redis_key(self) -> bytes: ...
    @property
    def ttl_ms(self) -> int: ...
    async def acquire(self, token: str, wait: bool) -> Answer: ...
    async def renew(self, token: str) -> bool: ...
    async def release(self, token: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class LockOps:
    """The operations of one lock."""

    scope: Scope
    raw: bytes
    ttl_ms: int
    what = "lock"

    @classmethod
    def of(cls, scope: Scope, name: str, ttl: Ttl) -> LockOps:
        """Check the name and the time to live of a lock."""
        scope.check_writes_somewhere()
        return cls(scope, encode_name(name, "lock name", MAX_NAMESPACE_BYTES), ttl_to_ms(ttl))

    @property
    def name(self) -> str:
        return decode_name(self.raw)

    @property
    def redis_key(self) -> bytes:
        return self.scope.user.lock(self.raw)

    @property
    def _queue(self) -> bytes:
        return self.scope.user.queue(b"lock", self.raw)

    async def acquire(self, token: str, wait: bool) -> Answer:
        keys = (self.redis_key, self.scope.user.fence, self._queue)
        agent = self.scope.writer.agent_json
        arguments = (self.raw, token, self.ttl_ms, GRACE_MS, "1" if wait else "", agent)
        fence, *busy = await run_checked(LOCK_ACQUIRE, keys, (b"string", b"hash", b"list"), arguments)
        return Taken(fence) if fence else Busy(*busy)

    async def renew(self, token: str) -> bool:
        return bool(await run_checked(LOCK_RENEW, (self.redis_key,), (b"string",), (token, self.ttl_ms)))

    async def release(self, token: str) -> bool:
        keys = (self.redis_key, self._queue)
        return bool(await run_checked(LOCK_RELEASE, keys, (b"string", b"list"), (token, GRACE_MS)))


@dataclass(frozen=True, slots=True)
class SemaphoreOps:
    """The operations of one semaphore."""

    scope: Scope
    raw: bytes
    n: int
    ttl_ms: int
    what = "semaphore"

    @classmethod
    def of(cls, scope: Scope, name: str, n: int, ttl: Ttl) -> SemaphoreOps:
        """Check the name, the places and the time to live of a semaphore."""
        scope.check_writes_somewhere()
        raw = encode_name(name, "semaphore name", MAX_NAMESPACE_BYTES)
        return cls(scope, raw, check_places(n), ttl_to_ms(ttl))

    @property
    def name(self) -> str:
        return decode_name(self.raw)

    @property
    def redis_key(self) -> bytes:
        return self.scope.user.limit(self.raw)

    @property
    def _queue(self) -> bytes:
        return self.scope.user.queue(b"limit", self.raw)

    async def acquire(self, token: str, wait: bool) -> Answer:
        keys = (self.redis_key, self._queue)
        arguments = (token, self.n, self.ttl_ms, GRACE_MS, "1" if wait else "")
        taken, *busy = await run_checked(SEMAPHORE_ACQUIRE, keys, (b"zset", b"list"), arguments)
        return Taken(0) if taken else Busy(*busy)

    async def renew(self, token: str) -> bool:
        return bool(await run_checked(SEMAPHORE_RENEW, (self.redis_key,), (b"zset",), (token, self.ttl_ms)))

    async def release(self, token: str) -> bool:
        keys = (self.redis_key, self._queue)
        return bool(await run_checked(SEMAPHORE_RELEASE, keys, (b"zset", b"list"), (token, GRACE_MS)))


@dataclass(frozen=True, slots=True)
class RateLimitOps:
    """The operation of one rate limit."""

    scope: Scope
    raw: bytes
    n: int
    per_ms: int

    @classmethod
    def of(cls, scope: Scope, name: str, n: int, per: Ttl) -> RateLimitOps:
        """Check the name, the number and the period of a rate limit."""
        scope.check_writes_somewhere()
        raw = encode_name(name, "rate limit name", MAX_NAMESPACE_BYTES)
        return cls(scope, raw, check_places(n), ttl_to_ms(per))

    @property
    def name(self) -> str:
        return decode_name(self.raw)

    async def take(self, most_ms: int | None) -> tuple[bool, int]:
        """Take the next free moment if it comes within so many ms; whether, and in how many ms it comes."""
        arguments = (self.n, self.per_ms, "" if most_ms is None else most_ms)
        taken, wait_ms = await run_checked(RATE_TAKE, (self.scope.user.limit(self.raw),), (b"list",), arguments)
        return bool(taken), wait_ms


async def hold(wanted: Holdable, token: str, timeout_s: float | None, tied: bool, rand: Rand) -> tuple[Taken, Keeping]:
    """The flow that waits until something is ours, and begins to renew it."""
    began = await Now()
    try:
        while True:
            asked = await Now()
            answer = await Do(wanted.acquire(token, timeout_s != 0))
            if isinstance(answer, Taken):
                return answer, await Keep(lambda: wanted.renew(token), wanted.ttl_ms / 1000, asked, tied)
            left_s = math.inf if timeout_s is None else began + timeout_s - await Now()
            if left_s <= 0:
                raise _not_in_time(wanted.what, wanted.name, timeout_s, answer.retry_ms)
            await Pause(min(_pause(answer, rand), left_s), wanted.redis_key)
    except GeneratorExit:
        raise
    except BaseException:
        # Also where an answer was lost: it may be ours without our knowing.
        with suppress(DataStoreError):
            await Do(wanted.release(token))
        raise


async def pass_limit(limit: RateLimitOps, timeout_s: float | None) -> None:
    """The flow that takes the next free moment of a rate limit and waits for it."""
    most_ms = None if timeout_s is None else int(timeout_s * 1000)
    taken, wait_ms = await Do(limit.take(most_ms))
    if not taken:
        raise _not_in_time("rate limit", limit.name, timeout_s, wait_ms)
    if wait_ms:
        await Pause(wait_ms / 1000)


def check_timeout(timeout: object) -> float | None:
    """Check how long a caller would wait; None stands for any time, and 0 for a single try."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise InvalidType(f"A timeout must be a number of seconds or None, not {type(timeout).__name__}.")
    if not 0 <= timeout < 1e9:
        raise InvalidInput(f"The timeout {timeout!r} is out of range: give a number of seconds from 0 on, or None.")
    return float(timeout)


def check_places(n: object) -> int:
    """Check the number of a semaphore's places, or of a rate limit's moments."""
    if isinstance(n, bool) or not isinstance(n, int):
        raise InvalidType(f"n must be a whole number, not {type(n).__name__}.")
    if not 1 <= n <= MAX_COUNT:
        raise InvalidInput(f"n must be from 1 to {MAX_COUNT:,}, not {n}.")
    return n


def _pause(busy: Busy, rand: Rand) -> float:
    pause_s = min(LONGEST_PAUSE_S, PAUSE_A_PLACE_S * (busy.place + 1))
    return max(0.001, min(spread(pause_s, rand), busy.retry_ms / 1000))


def _not_in_time(what: str, name: str, timeout_s: float | None, retry_ms: int) -> LockTimeout:
    return LockTimeout(
        f"The {what} {name!r} had no room within {timeout_s:g} seconds: try again later, or wait longer.",
        name=name,
        retry_after_ms=retry_ms,
    )
