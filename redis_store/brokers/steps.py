"""The single steps of the operations that wait or call the caller's functions, with plain data in and out.

They are for brokers, whose callers are in other processes. Functions are never passed between processes, so the caller runs its
own between two of these steps. Values are those of the store's codec (`DataStore.as_json_text`: bytes). A token is a random text
chosen by the caller that others cannot guess, of 8 to 64 letters, digits, ``-`` and ``_``. A holder renews what it holds, best
every third of its ttl.
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
from redis_store.store import DataStore, session_of
from redis_store.types import MISSING, Json, Missing, Ttl

__all__ = ["Acquired", "ClaimAnswer", "Steps"]

_TOKEN = re.compile(r"[A-Za-z0-9_-]{8,64}")


class ClaimAnswer(NamedTuple):
    """The result of `Steps.claim_value`."""

    state: Literal["value", "claimed", "busy", "error"]
    value: Json = None
    """The value, with state ``value``."""
    since_ms: int = 0
    """With state ``busy``: pass it as `since_ms` to every further try, so that an error of the computation reaches the waiter."""
    error_type: str = ""
    error_message: str = ""
    left_ms: int = 0
    """With state ``busy``: time until the claim expires unless it is renewed, in ms."""


class Acquired(NamedTuple):
    """The result of a try to acquire a lock or a semaphore slot."""

    acquired: bool
    fence: int
    retry_ms: int
    place: int
    """Number of waiters ahead in the queue."""


class Steps:
    """The steps in one namespace of one user: the namespace of the store that is passed in."""

    def __init__(self, store: DataStore) -> None:
        self._driver, self._scope = session_of(store)

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
        """Return the value, or make the claim to compute it, or report that another caller computes it or has failed."""
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
        """Renew a claim. Return False if it no longer holds."""
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
        """Store a computed value. Return False if the claim no longer holds or another value was set meanwhile."""
        plan = ComputePlan.of(self._scope, key, ttl, stale, tags=tags)
        text = updates.encode_value(self._scope, key, value)
        return self._driver.run(compute_once.commit(plan, _checked(token), text))[0]

    def fail_value(self, key: str, token: str, error_type: str = "", error_message: str = "") -> bool:
        """Give up a claim: with an error, the waiters get it; without one, a waiter claims in turn."""
        failed = Failed(error_type, error_message) if error_type else None
        return self._driver.run(compute_once.fail(ComputePlan.of(self._scope, key), _checked(token), failed))

    def replace(self, key: str, expected: Json | Missing, value: Any) -> tuple[bool, Json | Missing]:
        """Store a value if the key's value is `expected` (`MISSING`: no value), keeping its ttl.

        Returns True and the value, or False and the current value. This is the step of `update`: read with `get`, then try with
        the current value until the result is True.
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
        """Try to acquire a lock; with `wait`, stay in its queue until `release_lock`."""
        return self._acquire(LockOps.of(self._scope, name, ttl), token, wait)

    def renew_lock(self, name: str, token: str, ttl: float = 30) -> bool:
        """Renew a lock. Return False if it is no longer held."""
        return self._driver.run(LockOps.of(self._scope, name, ttl).renew(_checked(token)))

    def release_lock(self, name: str, token: str) -> bool:
        """Release a lock, or leave its queue. Return False if it was not held."""
        return self._driver.run(LockOps.of(self._scope, name, 1).release(_checked(token)))

    def acquire_place(self, name: str, token: str, n: int, ttl: float = 30, wait: bool = True) -> Acquired:
        """Try to acquire a semaphore slot; with `wait`, stay in its queue until `release_place`."""
        return self._acquire(SemaphoreOps.of(self._scope, name, n, ttl), token, wait)

    def renew_place(self, name: str, token: str, n: int, ttl: float = 30) -> bool:
        """Renew a slot. Return False if it is no longer held."""
        return self._driver.run(SemaphoreOps.of(self._scope, name, n, ttl).renew(_checked(token)))

    def release_place(self, name: str, token: str, n: int) -> bool:
        """Release a slot, or leave the queue. Return False if it was not held."""
        return self._driver.run(SemaphoreOps.of(self._scope, name, n, 1).release(_checked(token)))

    def take_moment(self, name: str, n: int, per: float, timeout: float | None = None) -> tuple[bool, int]:
        """Take the next free turn of a rate limit. Return whether it was taken, and in how many ms it comes."""
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
        """Write in several namespaces if all reads are still current. Otherwise write nothing and return a changed key.

        Returns None, or the namespace and key that changed. `reads` are namespace, key and value or `MISSING`; `sets` are
        namespace, key, value and ttl; `deletes` are namespace and key. `max_keys` gives the maximum number of keys of namespaces.
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
        raise InvalidInput("A token must be a str of 8 to 64 letters, digits, '-' and '_'.")
    return token
