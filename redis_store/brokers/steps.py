"""The single steps of the calls that wait or call functions of the caller's, with plain data in and out.

For brokers, whose callers live in other processes: functions never cross, so there the caller runs its own between two of
these steps. Values are those of the store's codec (`DataStore.as_json_text`: bytes). Tokens are random texts of the caller's,
8 to 64 letters, digits, ``-`` and ``_``, that nobody else can guess. Whoever holds something renews it, at best at a third of
its ttl.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from redis_store.errors import InvalidInput
from redis_store.flows.compute_once import LOCK_TIMEOUT_S, Claimed, Computing, Failed, Found
from redis_store.flows.hold import Busy, Holdable, Taken
from redis_store.flows.optimistic import check_parts
from redis_store.limits import check_max_keys, check_timeout
from redis_store.namespace.keys import encode_key
from redis_store.ops import compute_once, updates
from redis_store.ops.compute_once import ComputePlan
from redis_store.ops.locks import LockOps, RateLimitOps, SemaphoreOps
from redis_store.ops.transactions import Place, Write, commit_packed
from redis_store.ops.values import wanted_ttl
from redis_store.store import DataStore
from redis_store.types import MISSING, Json, Missing, Ttl

__all__ = ["Acquired", "ClaimAnswer", "Steps"]

_TOKEN = re.compile(r"[A-Za-z0-9_-]{8,64}")


class ClaimAnswer(NamedTuple):
    """What came of asking for a value that somebody computes."""

    state: Literal["value", "claimed", "busy", "error"]
    value: Json = None
    """With ``value``: it."""
    since_ms: int = 0
    """With ``busy``: what to pass as `since_ms` with every further try, so that an error reaches who waited for it."""
    error_type: str = ""
    error_message: str = ""
    left_ms: int = 0
    """With ``busy``: after so many ms without a renewal nobody computes it any more."""


class Acquired(NamedTuple):
    """What came of asking for a lock or for a place of a semaphore."""

    acquired: bool
    fence: int
    retry_ms: int
    place: int
    """How many stand before in the queue."""


class Steps:
    """The steps in one namespace of one user: that of the store that it is made of."""

    def __init__(self, store: DataStore) -> None:
        self._driver = store._driver
        self._scope = store._scope

    def claim_value(
        self,
        key: str,
        token: str,
        ttl: Ttl = None,
        stale: Ttl = None,
        lock_timeout: float = LOCK_TIMEOUT_S,
        tags: Iterable[str] | None = None,
        since_ms: int = 0,
    ) -> ClaimAnswer:
        """Return the value, or claim to compute it, or learn that somebody does or has failed."""
        plan = ComputePlan.of(self._scope, key, ttl, stale, lock_timeout, tags)
        answer = self._driver.run(compute_once.claim(plan, _checked(token), since_ms or None))
        if isinstance(answer, Found):
            return ClaimAnswer("value", self._scope.codec.decode(answer.text, self._scope.namespace, key))
        if isinstance(answer, Computing):
            return ClaimAnswer("busy", since_ms=since_ms or answer.now_ms, left_ms=answer.left_ms)
        if isinstance(answer, Failed):
            return ClaimAnswer("error", error_type=answer.error_type, error_message=answer.message)
        assert isinstance(answer, Claimed)
        return ClaimAnswer("claimed")

    def renew_value(
        self, key: str, token: str, lock_timeout: float = LOCK_TIMEOUT_S, tags: Iterable[str] | None = None
    ) -> bool:
        """Let a claim hold on; False where it holds no longer."""
        plan = ComputePlan.of(self._scope, key, None, None, lock_timeout, tags)
        return self._driver.run(compute_once.renew(plan, _checked(token)))

    def commit_value(
        self,
        key: str,
        token: str,
        value: Any,
        ttl: Ttl = None,
        stale: Ttl = None,
        tags: Iterable[str] | None = None,
    ) -> bool:
        """Store what was computed; False where the claim held no longer or somebody has set another value."""
        plan = ComputePlan.of(self._scope, key, ttl, stale, tags=tags)
        text = updates.encode_value(self._scope, key, value)
        return self._driver.run(compute_once.commit(plan, _checked(token), text))[0]

    def fail_value(self, key: str, token: str, error_type: str = "", error_message: str = "") -> bool:
        """Give a claim up: with an error for those who wait, or without, and one of them computes in turn."""
        failed = Failed(error_type, error_message) if error_type else None
        return self._driver.run(compute_once.fail(ComputePlan.of(self._scope, key), _checked(token), failed))

    def replace(self, key: str, expected: Json | Missing, value: Any) -> tuple[bool, Json | Missing]:
        """Store a value if the key holds `expected` (`MISSING`: nothing), with the ttl that it has; else return what it holds.

        The step of `update`: read with `get`, and try with what stands there until it is True.
        """
        scope, raw = self._scope, encode_key(key)
        text = updates.encode_value(scope, key, value)
        there = None if expected is MISSING else scope.codec.encode(expected)
        found = self._driver.run(updates.replace(scope, raw, text, wanted_ttl(scope, None), "keep", there))
        if isinstance(found, bytes) and there is not None and updates.is_packed(scope, key, found, there):
            found = self._driver.run(updates.replace(scope, raw, text, wanted_ttl(scope, None), "keep", found))
        if found is True:
            return True, value
        return False, MISSING if found is None else scope.codec.decode(found, scope.namespace, key)

    def acquire_lock(self, name: str, token: str, ttl: float = 30, wait: bool = True) -> Acquired:
        """Try to take a lock; with `wait`, stand in its queue until `release_lock`."""
        return self._acquire(LockOps.of(self._scope, name, ttl), token, wait)

    def renew_lock(self, name: str, token: str, ttl: float = 30) -> bool:
        """Let a lock be held on; False where it is held no longer."""
        return self._driver.run(LockOps.of(self._scope, name, ttl).renew(_checked(token)))

    def release_lock(self, name: str, token: str) -> bool:
        """Give a lock back, or leave its queue; False where it was not held."""
        return self._driver.run(LockOps.of(self._scope, name, 1).release(_checked(token)))

    def acquire_place(self, name: str, token: str, n: int, ttl: float = 30, wait: bool = True) -> Acquired:
        """Try to take a place of a semaphore; with `wait`, stand in its queue until `release_place`."""
        return self._acquire(SemaphoreOps.of(self._scope, name, n, ttl), token, wait)

    def renew_place(self, name: str, token: str, n: int, ttl: float = 30) -> bool:
        """Let a place be held on; False where it is held no longer."""
        return self._driver.run(SemaphoreOps.of(self._scope, name, n, ttl).renew(_checked(token)))

    def release_place(self, name: str, token: str, n: int) -> bool:
        """Give a place back, or leave the queue; False where it was not held."""
        return self._driver.run(SemaphoreOps.of(self._scope, name, n, 1).release(_checked(token)))

    def take_moment(self, name: str, n: int, per: float, timeout: float | None = None) -> tuple[bool, int]:
        """Take the next free moment of a rate limit; whether, and in how many ms it comes."""
        timeout_s = check_timeout(timeout)
        most_ms = None if timeout_s is None else int(timeout_s * 1000)
        return self._driver.run(RateLimitOps.of(self._scope, name, n, per).take(most_ms))

    def commit_transaction(
        self,
        reads: Iterable[tuple[str, str, Json | Missing]],
        sets: Iterable[tuple[str, str, Any, float | None]],
        deletes: Iterable[tuple[str, str]],
        max_keys: Mapping[str, int] | None = None,
    ) -> tuple[str, str] | None:
        """Write in several namespaces if all that was read still stands; else the namespace and key that do not.

        Reads are namespace, key and value or `MISSING`; sets namespace, key, value and ttl; deletes namespace and key;
        `max_keys` says of namespaces how many keys they may hold.
        """
        encode = self._scope.codec.encode
        expected: dict[Place, bytes | None] = {}
        for name, key, value in reads:
            expected[self._place(name, key)] = None if value is MISSING else encode(value)
        writes: dict[Place, Write] = {self._place(name, key): Write(None) for name, key in deletes}
        for name, key, value, ttl in sets:
            text = updates.encode_value(self._scope, key, value)
            writes[self._place(name, key)] = Write(text, wanted_ttl(self._scope.moved(name), ttl))
        check_parts(len(expected) + len(writes))
        written = {
            name for name, write in ((place[0], write) for place, write in writes.items()) if write.text is not None
        }
        checked = {
            self._scope.user.namespace(name).name: check_max_keys(most) for name, most in (max_keys or {}).items()
        }
        bounds = {name: most for name, most in checked.items() if name in written and most is not None}
        if not expected and not writes:
            return None
        failed = self._driver.run(commit_packed(self._scope, expected, writes, secrets.token_hex(8), bounds))
        return None if failed is None else (failed[0].decode(), failed[1].decode())

    def _acquire(self, wanted: Holdable, token: str, wait: bool) -> Acquired:
        answer = self._driver.run(wanted.acquire(_checked(token), wait))
        if isinstance(answer, Taken):
            return Acquired(True, answer.fence, 0, 0)
        assert isinstance(answer, Busy)
        return Acquired(False, 0, answer.retry_ms, answer.place)

    def _place(self, name: str, key: str) -> Place:
        return self._scope.user.namespace(name).name, encode_key(key)


def _checked(token: object) -> str:
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise InvalidInput("A token must be a text of 8 to 64 letters, digits, '-' and '_'.")
    return token
