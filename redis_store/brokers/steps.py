"""Operations on behalf of agents: those of a store, and the single steps of those that wait or call the caller's functions.

Functions are never passed between processes, so the caller runs its own between two steps. Values are those of the store's
codec (`DataStore.as_json_text`: bytes). A token is a random text chosen by the caller that others cannot guess, of 8 to 64
letters, digits, ``-`` and ``_``. A holder renews what it holds, best every third of its ttl.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from redis_store.errors import InvalidInput
from redis_store.flows.compute_once import LOCK_TIMEOUT_S, ClaimAnswer, Computing, Failed, Found
from redis_store.flows.optimistic import TransactionParts, check_parts
from redis_store.limits import check_max_keys, check_timeout, check_version
from redis_store.namespace.keys import encode_key
from redis_store.namespace.scope import Scope
from redis_store.operations import operations_of
from redis_store.ops import sequences, tags, updates
from redis_store.ops.compute_once import ComputePlan, count_hit
from redis_store.ops.locks import LockOps, RateLimitOps, SemaphoreOps
from redis_store.ops.transactions import Place, Write, commit_packed, conflict_of
from redis_store.ops.values import wanted_ttl
from redis_store.protocol.call import Op
from redis_store.settings import new_id
from redis_store.store import DataStore
from redis_store.types import MISSING, Json, Missing, Ttl

MAX_PERIOD_S = 86_400
"""Bound on the ttl of an agent's locks, slots and claims and on the period of its rate limits, in seconds: one day.

A host that is killed releases none of them, so others would wait for as long.
"""

_BIG_VALUE_BYTES = 1024 * 1024
"""Size of a value, in bytes of JSON text, above which an agent's `set` is a batch of one."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{8,64}")


def carry_out(store: DataStore, operation: str, *arguments: Any) -> Any:
    """Carry out an operation of a store or a step, given by its name, and return its result."""
    on = operations_of(store)
    if operation == "invalidate_tag":
        tag, access = arguments
        narrowed = on.narrowed(access)
        return narrowed.run_flow(tags.invalidate(narrowed.scope, tag))
    if operation == "look_value":
        on.scope.check_changeable()
        value = on.call("get", *arguments)
        if value is not None and (report := count_hit(on)) is not None:
            on.run(report)
        return value
    if operation == "set" and _goes_beside(on.scope, *arguments):
        key, value, *_ = arguments
        on.call("set_many", {key: value}, None, None)
        return None
    step = _STEPS.get(operation)
    return on.call(operation, *arguments) if step is None else on.run(step(on.scope, *arguments))


def moved_bytes(store: DataStore) -> int:
    """Return the bytes that the server moved for the store's calls since the last time, beyond their own."""
    return operations_of(store).scope.bounds.take_moved()


def _goes_beside(scope: Scope, key: str, value: bytes, metadata: object = None, ttl: Ttl = None) -> bool:
    """Whether a value is so big that it is set as a batch, beside the script, which would copy it."""
    return len(value) > _BIG_VALUE_BYTES and not metadata and ttl is None and scope.max_keys is None


async def _claim_value(
    scope: Scope,
    key: str,
    token: str,
    ttl: Ttl = None,
    stale: Ttl = None,
    lock_timeout: float = LOCK_TIMEOUT_S,
    since_ms: int = 0,
    tags: Iterable[str] | None = None,
) -> ClaimAnswer:
    """Return the value, or make the claim to compute it, or report that another caller computes it or has failed.

    Pass the `now_ms` of the first `Computing` as `since_ms` to every further try, so that an error of the computation reaches
    the waiter.
    """
    plan = ComputePlan.of(scope, key, ttl, stale, _bounded(lock_timeout, "lock_timeout"), tags)
    answer = await plan.claim(_checked(token), since_ms or None)
    if isinstance(answer, Found):
        return Found(scope.codec.decode(answer.text, scope.namespace, key))
    return Computing(answer.left_ms, since_ms or answer.now_ms) if isinstance(answer, Computing) else answer


def _renew_value(
    scope: Scope, key: str, token: str, lock_timeout: float = LOCK_TIMEOUT_S, tags: Iterable[str] | None = None
) -> Op[bool]:
    """Renew a claim. Return False if it no longer holds."""
    return ComputePlan.of(scope, key, None, None, _bounded(lock_timeout, "lock_timeout"), tags).renew(_checked(token))


async def _commit_value(
    scope: Scope,
    key: str,
    token: str,
    value: Any,
    ttl: Ttl = None,
    stale: Ttl = None,
    tags: Iterable[str] | None = None,
) -> bool:
    """Store a computed value. Return False if the claim no longer holds or another value was set meanwhile."""
    plan = ComputePlan.of(scope, key, ttl, stale, tags=tags)
    return (await plan.commit(_checked(token), plan.encode(value)))[0]


def _fail_value(scope: Scope, key: str, token: str, error_type: str = "", error_message: str = "") -> Op[bool]:
    """Give up a claim: with an error, the waiters get it; without one, a waiter claims in turn."""
    failed = Failed(error_type, error_message) if error_type else None
    return ComputePlan.of(scope, key).fail(_checked(token), failed)


async def _pop(scope: Scope, key: str, expected: Json | Missing = MISSING) -> tuple[bool, Json | Missing]:
    """Delete a value if it is `expected`, which the caller has decoded; with `MISSING`, read it. The step of `pop`.

    Returns True and the value, or False and the current value.
    """
    raw = encode_key(key)
    there = None if expected is MISSING else scope.codec.encode(expected)
    found = await updates.take(scope, raw, there)
    if isinstance(found, bytes) and there is not None and updates.is_packed(scope, key, found, there):
        found = await updates.take(scope, raw, found)
    if found is True:
        return True, expected
    return False, MISSING if found is None else scope.codec.decode(found, scope.namespace, key)


async def _sequence_pop(
    scope: Scope, name: str, expected: Json | Missing = MISSING
) -> tuple[bool, str, Json | Missing]:
    """Delete a sequence's last item if it has this name and value, which the caller has decoded; with `MISSING`, read it.

    Returns whether it was deleted, and the name and the value of the last item.
    """
    there = None if expected is MISSING else scope.codec.encode(expected)
    done, found, text = await sequences.take_last(scope, name, there)
    is_same = found == name and text is not None and there is not None
    if not done and is_same and updates.is_packed(scope, name, text or b"", there or b""):
        done, found, text = await sequences.take_last(scope, name, text)
    if done:
        return True, name, expected
    return False, found, MISSING if text is None else scope.codec.decode(text, scope.namespace, found)


async def _replace(
    scope: Scope, key: str, expected: Json | Missing, value: Any, ttl: Ttl = None
) -> tuple[bool, Json | Missing]:
    """Store a value if the key's value is `expected` (`MISSING`: no value), keeping its ttl; a new key gets `ttl`.

    Returns True and the value, or False and the current value. This is the step of `update`: read with `get`, then try with
    the current value until the result is True.
    """
    raw, text, ttl_ms = encode_key(key), updates.encode_value(scope, key, value), wanted_ttl(scope, ttl)
    there = None if expected is MISSING else scope.codec.encode(expected)
    found = await updates.replace(scope, raw, text, ttl_ms, "keep", there)
    if isinstance(found, bytes) and there is not None and updates.is_packed(scope, key, found, there):
        found = await updates.replace(scope, raw, text, ttl_ms, "keep", found)
    if found is True:
        return True, value
    return False, MISSING if found is None else scope.codec.decode(found, scope.namespace, key)


def _lock(scope: Scope, name: str, ttl: float = 1) -> LockOps:
    return LockOps.of(scope, name, _bounded(ttl, "ttl"))


def _place(scope: Scope, name: str, n: int, ttl: float = 1) -> SemaphoreOps:
    """Return the operations of a semaphore. The `n` of one in use stays."""
    return SemaphoreOps.of(scope, name, n, _bounded(ttl, "ttl"), keeps_terms=True)


def _take_moment(scope: Scope, name: str, n: int, per: float, timeout: float | None = None) -> Op[tuple[bool, int]]:
    """Take the next free turn of a rate limit. Return whether it was taken, and in how many ms it comes.

    No turn is taken that is further ahead than one period, so that an agent cannot take the turns of hours and not wait for
    them. The terms of a limit in use stay.
    """
    timeout_s, limit = check_timeout(timeout), RateLimitOps.of(scope, name, n, _bounded(per, "per"), keeps_terms=True)
    most_ms = limit.per_ms if timeout_s is None else min(limit.per_ms, int(timeout_s * 1000))
    return limit.take(most_ms)


async def _commit_transaction(scope: Scope, parts: TransactionParts) -> int:
    """Write in several namespaces if all reads are still current, and return the number of writes; else raise `Conflict`."""

    def place(name: str, key: str) -> Place:
        return scope.user.namespace(name).name, encode_key(key)

    encode = scope.codec.encode
    expected = {place(name, key): None if value is MISSING else encode(value) for name, key, value in parts.reads}
    writes = {place(name, key): Write(None) for name, key in parts.deletes}
    for name, key, value, ttl in parts.sets:
        text = updates.encode_value(scope, key, value)
        writes[place(name, key)] = Write(text, wanted_ttl(scope.moved(name), ttl))
    checks = {place(name, key): check_version(version) for name, key, version in parts.checks}
    check_parts(len(expected) + len(writes) + len(checks))
    written = {name for (name, _), write in writes.items() if write.text is not None}
    checked = {scope.user.namespace(name).name: check_max_keys(most) for name, most in parts.max_keys.items()}
    bounds = {name: most for name, most in checked.items() if name in written and most is not None}
    if expected or writes or checks:
        failed = await commit_packed(scope, expected, writes, new_id(), bounds, checks)
        if failed is not None:
            raise conflict_of(failed)
    return len(writes)


_STEPS: dict[str, Callable[..., Op[Any]]] = {
    "claim_value": _claim_value,
    "renew_value": _renew_value,
    "commit_value": _commit_value,
    "fail_value": _fail_value,
    "rename": updates.rename_sized,
    "pop": _pop,
    "replace": _replace,
    "sequence_pop": _sequence_pop,
    # With `wait`, the caller stays in the queue until it releases. Renewing and releasing return whether it was held.
    "acquire_lock": lambda scope, name, token, ttl=30, wait=True: _lock(scope, name, ttl).acquire(
        _checked(token), wait
    ),
    "renew_lock": lambda scope, name, token, ttl=30: _lock(scope, name, ttl).renew(_checked(token)),
    "release_lock": lambda scope, name, token: _lock(scope, name).release(_checked(token)),
    "acquire_place": lambda scope, name, token, n, ttl=30, wait=True: _place(scope, name, n, ttl).acquire(
        _checked(token), wait
    ),
    "renew_place": lambda scope, name, token, n, ttl=30: _place(scope, name, n, ttl).renew(_checked(token)),
    "release_place": lambda scope, name, token, n: _place(scope, name, n).release(_checked(token)),
    "take_moment": _take_moment,
    "commit_transaction": _commit_transaction,
}


def _bounded(period: float, what: str) -> float:
    if period > MAX_PERIOD_S:
        raise InvalidInput(
            f"{what}={period:g} is out of range for an agent: give at most {MAX_PERIOD_S:,} seconds (one day)."
        )
    return period


def _checked(token: object) -> str:
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise InvalidInput("A token must be a str of 8 to 64 letters, digits, '-' and '_'.")
    return token
