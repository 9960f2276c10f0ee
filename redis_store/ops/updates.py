"""Operations that change one key depending on what it holds, each atomic; a key's writers never disturb another key's.

What is compared is the stored bytes, or absence. Where the server cannot compute the new value itself, Python does, and a
script writes it if the old one still stands there; if not, the script answers with the new old one, so a try is a round trip.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

from redis_store import _plain
from redis_store._call import Call, as_is
from redis_store._codec import VALUES, check_value_size
from redis_store._flow import FIRST_PAUSE_S, Ask, Do, Pause, Rand, next_pause, spread
from redis_store._keys import encode_key
from redis_store._scope import Scope
from redis_store.errors import Conflict, InvalidInput, InvalidType, WrongValueType
from redis_store.ops._script import run_delete, run_write
from redis_store.ops.values import wanted_ttl
from redis_store.scripts import APPEND, INCREMENT, RENAME, REPLACE, TAKE
from redis_store.types import Json, Ttl

TRIES = 200
"""How often a change is tried while others change the same key; with the pauses between, for about 10 seconds."""

TRIES_AT_ONCE = 3
"""So many tries follow each other without a pause."""


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""Stands for a key that is not there, and for an argument that was not given."""

Change: TypeAlias = "Callable[[bytes | None], Awaitable[bytes]]"
"""Gives the new bytes of a value for those that stand there, None where none do."""


async def set_if_absent(scope: Scope, key: str, value: Any, ttl: Ttl = None) -> bool:
    field, text = encode_key(key), encode_value(scope, key, value)
    arguments = (scope.writer.agent_json, field, text, wanted_ttl(scope, ttl), "", "absent")
    written = bool(await run_write(REPLACE, scope, arguments) == 1)
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
    # The same value may have been written in another way: by hand, or with its keys in another order.
    if there is not None and _same(there, old):
        return await replace(scope, field, text, wanted_ttl(scope, ttl), "", there) is True
    return False


async def pop(scope: Scope, key: str, default: Any = MISSING) -> Json:
    scope.check_readable()
    text = await run_delete(TAKE, scope, (encode_key(key),))
    if text is not None:
        return scope.codec.decode(text, scope.namespace, key)
    if default is MISSING:
        raise KeyError(key)
    return default


async def rename(scope: Scope, key: str, new: str) -> bool:
    return bool(await run_delete(RENAME, scope, (scope.writer.agent_json, encode_key(key), encode_key(new))))


async def increment(scope: Scope, key: str, by: Any, rand: Rand) -> Json:
    """The flow of `DataStore.increment`."""
    scope.check_changeable()
    field, added = encode_key(key), scope.codec.encode(by)
    number = VALUES.decode(added, scope.namespace, key)
    if not _is_number(number):
        raise InvalidType(f"A key is incremented by an int or a float, not by {_kind(number)}.")

    async def add(there: bytes | None) -> bytes:
        return added if there is None else _sum(scope, key, there, number)

    reply = await Do(run_write(INCREMENT, scope, (scope.writer.agent_json, field, added, wanted_ttl(scope, None))))
    if isinstance(reply, list):
        text = await _change(scope, key, field, add, reply[0], rand)
    else:
        text = reply
        scope.counters.bytes_written += len(text)
    return scope.codec.decode(text, scope.namespace, key)


async def append(scope: Scope, key: str, items: tuple[Any, ...], max_items: int | None, rand: Rand) -> None:
    """The flow of `DataStore.append`."""
    scope.check_changeable()
    field = encode_key(key)
    if max_items is not None:
        _check_count("max_items", max_items)
    if not items:
        return
    added = _list_text(scope, key, items)[1:-1]

    async def extend(there: bytes | None) -> bytes:
        known = [] if there is None else VALUES.decode(there, scope.namespace, key)
        if not isinstance(known, list):
            raise _wrong_kind(scope, key, known, "Only a list can be appended to")
        known += VALUES.decode(b"[%b]" % added, scope.namespace, key)
        return VALUES.encode(known if max_items is None else known[-max_items:])

    there: bytes | None
    if max_items is None:
        head = (scope.writer.agent_json, field, added, wanted_ttl(scope, None), scope.limits.max_value_bytes)
        reply = await Do(run_write(APPEND, scope, head))
        if reply == 1:
            scope.counters.bytes_written += len(added)
            return
        there = reply[0]
    else:
        there = await Do(stored(scope, field))
    await _change(scope, key, field, extend, there, rand)


async def update(scope: Scope, key: str, function: Callable[[Any], Any], default: Any = None, *, rand: Rand) -> Json:
    """The flow of `DataStore.update`."""
    scope.check_changeable()
    field = encode_key(key)
    if not callable(function):
        raise InvalidType(f"A key is updated by a function of its value, not by {_kind(function)}.")

    async def call(there: bytes | None) -> bytes:
        value = default if there is None else scope.codec.decode(there, scope.namespace, key)
        return scope.codec.encode(await Ask[Any](function, (value,)))

    text = await _change(scope, key, field, call, await Do(stored(scope, field)), rand)
    return scope.codec.decode(text, scope.namespace, key)


async def _change(scope: Scope, key: str, field: bytes, change: Change, there: bytes | None, rand: Rand) -> bytes:
    """Write what `change` makes of what is there, again while others write; return what was written."""
    pause_s = FIRST_PAUSE_S / 2
    ttl_ms = wanted_ttl(scope, None)
    for attempt in range(TRIES):
        if attempt >= TRIES_AT_ONCE:
            await Pause(spread(pause_s, rand))
            pause_s = next_pause(pause_s)
        text = check_value_size(await change(there), scope.limits.max_value_bytes, field)
        found = await Do(replace(scope, field, text, ttl_ms, "keep", there))
        if found is True:
            return text
        there = found
    raise Conflict(f"The key {key!r} was changed by others at each of {TRIES} tries: nothing was written.")


async def stored(scope: Scope, field: bytes) -> bytes | None:
    scope.check_readable()
    text: bytes | None = await Call((("HGET", scope.keys.data, field),), as_is, True)
    return text


async def replace(
    scope: Scope, field: bytes, text: bytes, ttl_ms: int | str, keep: Literal["keep", ""], there: bytes | None
) -> Literal[True] | bytes | None:
    """Write if these bytes stand there, None for nothing; else return what does."""
    scope.check_readable()
    condition = ("absent",) if there is None else ("equal", there)
    reply = await run_write(REPLACE, scope, (scope.writer.agent_json, field, text, ttl_ms, keep, *condition))
    if reply == 1:
        scope.counters.bytes_written += len(text)
        return True
    if reply == 0:
        return await stored(scope, field)
    found: bytes | None = reply[0]
    return found


def encode_value(scope: Scope, key: str, value: Any) -> bytes:
    return check_value_size(scope.codec.encode(value), scope.limits.max_value_bytes, encode_key(key))


def _list_text(scope: Scope, key: str, items: tuple[Any, ...]) -> bytes:
    """Return the JSON text of a list of values; what is refused is an element of it (`value[0]`)."""
    if scope.codec is VALUES:
        return VALUES.encode(list(items))
    return VALUES.encode([VALUES.decode(scope.codec.encode(item), scope.namespace, key) for item in items])


def _sum(scope: Scope, key: str, there: bytes, by: float) -> bytes:
    known = VALUES.decode(there, scope.namespace, key)
    if not _is_number(known):
        raise _wrong_kind(scope, key, known, "Only a number can be incremented")
    try:
        return VALUES.encode(known + by)
    except (OverflowError, ValueError):
        # An int too big for a float, a sum beyond floats, or one of more digits than an int may have here.
        raise InvalidInput(
            f"The sum of {key!r} in namespace {scope.namespace!r} and the increment is out of range: nothing was written."
        ) from None


def _same(one: bytes, other: bytes) -> bool:
    """Whether two texts say the same value; Python's own comparison takes true for 1 and 1 for 1.0."""
    try:
        values = [_plain.load(text) for text in (one, other)]
    except (ValueError, RecursionError):
        return False
    first, second = (json.dumps(value, sort_keys=True) for value in values)
    return first == second


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidType(f"{name} must be a whole number, not {_kind(value)}.")
    if value < 1:
        raise InvalidInput(f"{name} must be at least 1, not {value}.")


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _wrong_kind(scope: Scope, key: str, known: object, rule: str) -> WrongValueType:
    return WrongValueType(
        f"{rule}, and {key!r} in namespace {scope.namespace!r} holds {_kind(known)}: set it first, or use another key."
        " Nothing was written.",
        namespace=scope.namespace,
        key=key,
    )
