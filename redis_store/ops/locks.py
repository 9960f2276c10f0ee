"""Operations on locks, semaphores and rate limits; the flows in `flows/hold.py` wait for them.

Each attempt to acquire has a random token, by which the server knows the waiter and then the holder.
"""

from __future__ import annotations

from dataclasses import dataclass

from redis_store.errors import InvalidInput
from redis_store.flows.hold import GRACE_MS, Busy, HoldAnswer, Taken
from redis_store.limits import check_places, ttl_to_ms
from redis_store.namespace.keys import MAX_NAMESPACE_BYTES, UserKeys, decode_name, encode_lock_name, encode_name
from redis_store.namespace.scope import Scope
from redis_store.ops.run_script import run_checked
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


@dataclass(frozen=True, slots=True)
class LockOps:
    """The operations of one lock."""

    scope: Scope
    keys: UserKeys
    raw: bytes
    ttl_ms: int
    what = "lock"

    @classmethod
    def of(cls, scope: Scope, name: str, ttl: Ttl) -> LockOps:
        """Check a lock's name and time to live."""
        scope.check_usable("locks")
        raw = encode_lock_name(name)
        return cls(scope, scope.keys_of_name("locks", name), raw, ttl_to_ms(ttl))

    @property
    def name(self) -> str:
        return decode_name(self.raw)

    @property
    def redis_key(self) -> bytes:
        return self.keys.lock(self.raw)

    @property
    def _queue(self) -> tuple[bytes, bytes]:
        return self.keys.queue(b"lock", self.raw), self.keys.tries(b"lock", self.raw)

    async def acquire(self, token: str, wait: bool) -> HoldAnswer:
        keys = (self.redis_key, self.keys.fence, *self._queue)
        agent = self.scope.writer.agent_json
        arguments = (self.raw, token, self.ttl_ms, GRACE_MS, "1" if wait else "", agent)
        fence, *busy = await run_checked(LOCK_ACQUIRE, keys, (b"string", b"hash", b"list", b"hash"), arguments)
        return Taken(fence) if fence else Busy(*busy)

    async def renew(self, token: str) -> bool:
        return bool(await run_checked(LOCK_RENEW, (self.redis_key,), (b"string",), (token, self.ttl_ms)))

    async def release(self, token: str) -> bool:
        keys = (self.redis_key, *self._queue)
        return bool(await run_checked(LOCK_RELEASE, keys, (b"string", b"list", b"hash"), (token, GRACE_MS)))


@dataclass(frozen=True, slots=True)
class SemaphoreOps:
    """The operations of one semaphore."""

    scope: Scope
    keys: UserKeys
    raw: bytes
    n: int
    ttl_ms: int
    keeps_terms: bool = False
    """Whether the caller cannot change the `n` of a semaphore in use: another one raises `InvalidInput`."""
    what = "semaphore"

    @classmethod
    def of(cls, scope: Scope, name: str, n: int, ttl: Ttl, keeps_terms: bool = False) -> SemaphoreOps:
        """Check a semaphore's name, number of slots and time to live."""
        scope.check_usable("locks")
        raw = encode_name(name, "semaphore name", MAX_NAMESPACE_BYTES)
        return cls(scope, scope.keys_of_name("locks", name), raw, check_places(n), ttl_to_ms(ttl), keeps_terms)

    @property
    def name(self) -> str:
        return decode_name(self.raw)

    @property
    def redis_key(self) -> bytes:
        return self.keys.limit(self.raw)

    @property
    def _queue(self) -> tuple[bytes, bytes]:
        return self.keys.queue(b"limit", self.raw), self.keys.tries(b"limit", self.raw)

    async def acquire(self, token: str, wait: bool) -> HoldAnswer:
        keys = (self.redis_key, *self._queue)
        arguments = (token, self.n, self.ttl_ms, GRACE_MS, "1" if wait else "", "1" if self.keeps_terms else "")
        taken, *busy = await run_checked(SEMAPHORE_ACQUIRE, keys, (b"zset", b"list", b"hash"), arguments)
        if taken < 0:
            raise _other_terms("semaphore", self.name, f"n={busy[0]}", f"n={self.n}")
        return Taken(0) if taken else Busy(*busy)

    async def renew(self, token: str) -> bool:
        return bool(await run_checked(SEMAPHORE_RENEW, (self.redis_key,), (b"zset",), (token, self.ttl_ms)))

    async def release(self, token: str) -> bool:
        keys = (self.redis_key, *self._queue)
        return bool(await run_checked(SEMAPHORE_RELEASE, keys, (b"zset", b"list", b"hash"), (token, GRACE_MS)))


@dataclass(frozen=True, slots=True)
class RateLimitOps:
    """The operation of one rate limit."""

    scope: Scope
    keys: UserKeys
    raw: bytes
    n: int
    per_ms: int
    keeps_terms: bool = False
    """Whether the caller cannot change the `n` and `per` of a limit in use: other ones raise `InvalidInput`."""

    @classmethod
    def of(cls, scope: Scope, name: str, n: int, per: Ttl, keeps_terms: bool = False) -> RateLimitOps:
        """Check a rate limit's name, number and period."""
        scope.check_usable("limits")
        raw = encode_name(name, "rate limit name", MAX_NAMESPACE_BYTES)
        return cls(scope, scope.keys_of_name("limits", name), raw, check_places(n), ttl_to_ms(per, "per"), keeps_terms)

    @property
    def name(self) -> str:
        return decode_name(self.raw)

    async def take(self, most_ms: int | None) -> tuple[bool, int]:
        """Take the next free moment if it comes within `most_ms`. Return whether it was taken, and in how many ms it comes."""
        arguments = (self.n, self.per_ms, "" if most_ms is None else most_ms, "1" if self.keeps_terms else "")
        taken, *told = await run_checked(RATE_TAKE, (self.keys.rate(self.raw),), (b"list",), arguments)
        if taken < 0:
            theirs, ours = (f"n={n} and per={per_ms / 1000:g}" for n, per_ms in (told, (self.n, self.per_ms)))
            raise _other_terms("rate limit", self.name, theirs, ours)
        return bool(taken), told[0]


def _other_terms(what: str, name: str, theirs: str, ours: str) -> InvalidInput:
    return InvalidInput(
        f"The {what} {name!r} is in use with {theirs}, not with {ours}: nothing was taken. Pass the same, or another name."
    )
