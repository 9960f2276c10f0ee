"""Atomic operations that change one key depending on its content. Writers of different keys never disturb each other.

They compare the stored bytes, or absence. If the server cannot compute the new value itself, Python does, and a script
writes it if the old bytes are unchanged. If not, the script returns the current bytes, so each try is one round trip.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

from redis_store.errors import InvalidInput, InvalidType, StoredDataError, WrongValueType
from redis_store.flows.flow import Ask, Do, Rand
from redis_store.flows.optimistic import Change, change_value, check_function, kind_of, pop_value
from redis_store.limits import ANY_SIZE, UNBOUNDED, check_max_items
from redis_store.namespace.keys import encode_key
from redis_store.namespace.scope import Scope
from redis_store.ops.bounds import run_move, run_put
from redis_store.ops.run_script import run_delete
from redis_store.ops.values import wanted_ttl
from redis_store.protocol.call import Call, Op, as_is
from redis_store.scripts import APPEND, INCREMENT, RENAME, REPLACE, TAKE
from redis_store.types import MISSING, Json, Missing, Ttl
from redis_store.values import rules
from redis_store.values.codec import VALUES, Values
from redis_store.values.count import check_values, has_more_values

APPEND_COPIES = 2
"""How many times as often as other scripts the one that extends a list copies it."""


async def set_if_absent(scope: Scope, key: str, value: Any, ttl: Ttl = None) -> bool:
    scope.check_changeable()
    field, text = encode_key(key), encode_value(scope, key, value)
    scope.bounds.check_script(len(text))
    arguments = (scope.writer.author, field, text, wanted_ttl(scope, ttl), "", "absent")
    written = bool(await run_put(REPLACE, scope, arguments, field) == 1)
    scope.counters.bytes_written += len(text) if written else 0
    return written


async def compare_and_set(scope: Scope, key: str, expected: Any, value: Any, ttl: Ttl = None) -> bool:
    if expected is MISSING:
        return await set_if_absent(scope, key, value, ttl)
    scope.check_changeable()
    field, text = encode_key(key), encode_value(scope, key, value)
    old = scope.codec.encode(expected)
    there = await replace(scope, field, text, wanted_ttl(scope, ttl), "", old)
    if there is True:
        return True
    # The same value may be stored in another form: by an external write, compressed, or with its keys in another order.
    if there is not None and _same(scope, key, there, old):
        return await replace(scope, field, text, wanted_ttl(scope, ttl), "", there) is True
    return False


async def pop(scope: Scope, key: str, default: Any = MISSING) -> Json | Missing:
    scope.check_changeable()
    field = encode_key(key)
    value: Json | Missing = await pop_value(
        key,
        lambda there: take(scope, field, there),
        lambda text: scope.codec.decode(text, scope.namespace, key),
    )
    return default if value is MISSING else value


async def take(scope: Scope, field: bytes, there: bytes | None) -> Literal[True] | bytes | None:
    """Delete a field if it holds these bytes, and return True. Otherwise, and with None, return the bytes that are stored."""
    scope.check_readable()
    if there is not None:
        scope.bounds.check_script(len(there))
    reply = await run_delete(TAKE, scope, (field,) if there is None else (field, there))
    if reply == 1:
        return True
    if reply == 0:
        return await stored(scope, field)
    found: bytes | None = reply[0]
    return found


async def rename(scope: Scope, key: str, new: str) -> bool:
    return await rename_sized(scope, key, new) is not None


async def rename_sized(scope: Scope, key: str, new: str) -> int | None:
    """Do `rename`. Return the size of the moved value, in bytes as it is stored, or None if there is none."""
    scope.check_changeable()
    field, moved = encode_key(key), encode_key(new)
    most_tags = scope.bounds.renamed_bytes // len(moved) if len(moved) > len(field) else ANY_SIZE
    arguments = (scope.writer.author, field, moved, scope.bounds.script_bytes, most_tags)
    reply = await run_move(RENAME, scope, arguments, moved)
    if isinstance(reply, list):
        size_bytes, *tags = reply
        scope.bounds.check_script(size_bytes)
        scope.bounds.check_renamed(sum(tags), len(moved))
    return reply or None


async def increment(scope: Scope, key: str, by: Any, ttl: Ttl = None, *, rand: Rand) -> Json:
    """The flow of `DataStore.increment`."""
    scope.check_changeable()
    field, added = encode_key(key), scope.codec.encode(by)
    number = VALUES.decode(added, scope.namespace, key)
    if not _is_number(number):
        raise InvalidType(f"A key is incremented by an int or a float, not by {kind_of(number)}.")

    async def add(there: bytes | None) -> bytes:
        return added if there is None else _sum(scope, key, there, number)

    ttl_ms = wanted_ttl(scope, ttl)
    head = (scope.writer.author, field, added, ttl_ms, scope.bounds.script_bytes)
    reply = await Do(run_put(INCREMENT, scope, head, field))
    if isinstance(reply, list):
        _check_copied(scope, reply, 1)
        text = await _change(scope, key, field, add, reply[0], ttl_ms, rand)
    else:
        text = reply
        scope.counters.bytes_written += len(text)
    return scope.codec.decode(text, scope.namespace, key)


async def append(
    scope: Scope, key: str, items: Sequence[Any], max_items: int | None = None, ttl: Ttl = None, *, rand: Rand
) -> int:
    """The flow of `DataStore.append`. Returns the size of the list, in bytes as it is stored; 0 if nothing is appended."""
    scope.check_changeable()
    field = encode_key(key)
    if max_items is not None:
        check_max_items(max_items)
    if not items:
        return 0
    added = _list_text(scope, key, items)[1:-1]

    async def extend(there: bytes | None) -> bytes:
        known = [] if there is None else _value(scope, key, there)
        if not isinstance(known, list):
            raise _wrongkind_of(scope, key, known, "Only a list can be appended to")
        known += VALUES.decode(b"[%b]" % added, scope.namespace, key)
        return VALUES.encode(known if max_items is None else known[-max_items:])

    ttl_ms = wanted_ttl(scope, ttl)
    there: bytes | None
    if max_items is None:
        most = scope.bounds.script_bytes // APPEND_COPIES
        scope.bounds.check_script(APPEND_COPIES * len(added))
        head = (scope.writer.author, field, added, ttl_ms, scope.limits.max_value_bytes, most)
        reply = await Do(run_put(APPEND, scope, head, field))
        if isinstance(reply, int):
            scope.counters.bytes_written += len(added)
            return reply
        _check_copied(scope, reply, APPEND_COPIES)
        there = reply[0]
    else:
        there = await Do(stored(scope, field))
    return len(await _change(scope, key, field, extend, there, ttl_ms, rand))


async def update(scope: Scope, key: str, function: Callable[[Any], Any], default: Any = None, *, rand: Rand) -> Json:
    """The flow of `DataStore.update`."""
    scope.check_changeable()
    field = encode_key(key)
    check_function(function)

    async def call(there: bytes | None) -> bytes:
        value = default if there is None else scope.codec.decode(there, scope.namespace, key)
        return scope.codec.encode(await Ask[Any](function, (value,)))

    text = await _change(scope, key, field, call, await Do(stored(scope, field)), wanted_ttl(scope, None), rand)
    return scope.codec.decode(text, scope.namespace, key)


async def _change(
    scope: Scope, key: str, field: bytes, change: Change, there: bytes | None, ttl_ms: int | str, rand: Rand
) -> bytes:
    """Write what `change` makes of the stored bytes, and retry while other callers write. Return what was written."""

    async def checked(found: bytes | None) -> bytes:
        return scope.packed(await change(found), field)

    def put(text: bytes, found: bytes | None) -> Op[Literal[True] | bytes | None]:
        return replace(scope, field, text, ttl_ms, "keep", found)

    return await change_value(key, there, lambda: stored(scope, field), checked, put, rand)


async def stored(scope: Scope, field: bytes) -> bytes | None:
    scope.check_readable()
    text: bytes | None = await Call((("HGET", scope.keys.data, field),), as_is, True)
    return text


async def replace(
    scope: Scope, field: bytes, text: bytes, ttl_ms: int | str, keep: Literal["keep", ""], there: bytes | None
) -> Literal[True] | bytes | None:
    """Write if the stored bytes equal `there` (None: the field is missing). Return True, else the bytes that are stored."""
    scope.check_readable()
    scope.bounds.check_replaced(len(there or b""), len(text))
    condition = ("absent",) if there is None else ("equal", there)
    reply = await run_put(REPLACE, scope, (scope.writer.author, field, text, ttl_ms, keep, *condition), field)
    if reply == 1:
        scope.counters.bytes_written += len(text)
        return True
    if reply == 0:
        return await stored(scope, field)
    found: bytes | None = reply[0]
    return found


def _check_copied(scope: Scope, reply: list[Any], times: int) -> None:
    """Raise `LimitExceeded` if a script has refused to copy bytes, of which it returned the size."""
    if len(reply) > 1:
        scope.bounds.check_script(times * reply[1])


def encode_value(scope: Scope, key: str, value: Any) -> bytes:
    return scope.packed(scope.codec.encode(value), encode_key(key))


def _list_text(scope: Scope, key: str, items: Sequence[Any]) -> bytes:
    """Return the JSON text of a list of values. An error about an item names its position in the list (`value[0]`)."""
    if isinstance(scope.codec, Values):
        return VALUES.encode(list(items))
    return scope.codec.encode(b"[%b]" % b",".join(map(scope.codec.encode, items)))


def _value(scope: Scope, key: str, there: bytes) -> Json:
    """Return the value of stored bytes, also in a store of JSON texts, if it has no more parts than may be decoded."""
    codec = scope.codec.packing
    if scope.bounds is not UNBOUNDED:
        check_values(codec.plain(there, scope.namespace, key), scope.bounds.values)
    value: Json = Values(codec).decode(there, scope.namespace, key)
    return value


def _sum(scope: Scope, key: str, there: bytes, by: float) -> bytes:
    known = _value(scope, key, there)
    if not _is_number(known):
        raise _wrongkind_of(scope, key, known, "Only a number can be incremented")
    try:
        return VALUES.encode(known + by)
    except (OverflowError, ValueError):
        # An int too big for a float, a sum out of a float's range, or one with more digits than an int may have here.
        raise InvalidInput(
            f"Incrementing {key!r} in namespace {scope.namespace!r} gives a number out of range: nothing was written. Give a"
            " smaller increment."
        ) from None


def _same(scope: Scope, key: str, there: bytes, text: bytes) -> bool:
    """Whether stored bytes and a text mean the same JSON value. Python's own comparison takes true for 1 and 1 for 1.0."""
    try:
        plain = scope.codec.packing.plain(there, scope.namespace, key)
        if has_more_values(plain, scope.bounds.values):
            return False  # `text` has fewer
        values = [rules.load(plain), rules.load(text)]
    except (ValueError, RecursionError):
        return False
    first, second = (json.dumps(value, sort_keys=True) for value in values)
    return first == second


def is_packed(scope: Scope, key: str, there: bytes, text: bytes) -> bool:
    """Whether the stored bytes are this very text, compressed."""
    try:
        return there != text and scope.codec.packing.plain(there, scope.namespace, key) == text
    except StoredDataError:
        return False


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _wrongkind_of(scope: Scope, key: str, known: object, rule: str) -> WrongValueType:
    return WrongValueType(
        f"{rule}, and {key!r} in namespace {scope.namespace!r} holds {kind_of(known)}: set it first, or use another key."
        " Nothing was written.",
        namespace=scope.namespace,
        key=key,
    )
