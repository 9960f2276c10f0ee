"""The answers of operations: how the host sends a result, and how the agent's side reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from redis_store.flows.compute_once import ClaimAnswer, Claimed, Computing, Failed, Found
from redis_store.flows.hold import Busy, HoldAnswer, Taken
from redis_store.types import MISSING, Json, KeyInfo
from redis_store.values import rules
from sandbox.protocol.arguments import Caller
from sandbox.protocol.frames import Part

CLAIMED, BUSY, FAILED, VALUE_THERE = 0, 1, 2, 3
"""First part of the answer to `claim_value`.

Nothing follows `CLAIMED`. The time left of the other caller's claim and the start of the wait, in ms, follow `BUSY`. Type and
message of the error follow `FAILED`, and the value follows `VALUE_THERE`.
"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Answered(NamedTuple):
    """The answer to a call, and its facts for the timeline."""

    parts: list[Part]
    keys: int = 1
    hit: bool | None = None
    size: int = 0
    value: bytes | None = None
    """The value that was read or written, as JSON text; the first one if there are several."""
    moved_bytes: int = 0
    """The bytes that the server copied, beyond those of the call and the answer."""
    kept: int = 0
    """The number of values that were not deleted, because the agent may not write in their namespaces. It is not told."""


class Answer(NamedTuple):
    """The shape of an answer: how the host sends a result, and how the agent's side reads it."""

    encode: Callable[[Any], Answered]
    decode: Callable[[Caller, list[Any], tuple[Any, ...]], Any]
    """Takes the caller, the parts of the answer, and the arguments of the call."""


def _first(parts: list[Any]) -> Any:
    return parts[0]


def _total(texts: Iterable[bytes]) -> int:
    return sum(map(len, texts))


def _found(text: bytes | None) -> Answered:
    return Answered([], 0, False) if text is None else Answered([text], 1, True, len(text), text)


def _flat(items: Mapping[str, bytes]) -> Answered:
    parts: list[Part] = [part for pair in items.items() for part in pair]
    return Answered(parts, len(items), size=_total(items.values()), value=next(iter(items.values()), None))


def _values(caller: Caller, parts: list[Any]) -> dict[str, Json]:
    return {key: caller.decode(text, key) for key, text in zip(parts[::2], parts[1::2], strict=True)}


def _page_of_items(result: tuple[str, Mapping[str, bytes]]) -> Answered:
    flat = _flat(result[1])
    return flat._replace(parts=[result[0], *flat.parts])


def _info(info: KeyInfo | None) -> Answered:
    if info is None:
        return Answered([], 0, False)
    created, updated, expires = (
        None if moment is None else (moment - _EPOCH) // _MICROSECOND
        for moment in (info.created_at, info.updated_at, info.expires_at)
    )
    metadata = rules.dump(info.metadata)
    parts: list[Part] = [info.key, created, info.created_by, updated, info.updated_by, metadata, info.size, expires]
    parts += (info.version, info.run)
    return Answered(parts, 1, True, len(metadata))


def _key_info(parts: list[Any]) -> KeyInfo | None:
    if not parts:
        return None
    key, created, created_by, updated, updated_by, metadata, size, expires, version, run = parts
    created, updated, expires = (
        None if moment is None else _EPOCH + moment * _MICROSECOND for moment in (created, updated, expires)
    )
    return KeyInfo(key, created, created_by, updated, updated_by, rules.load(metadata), size, expires, version, run)


def _flat_with_infos(items: Mapping[str, tuple[bytes, KeyInfo]]) -> Answered:
    """Return three parts for each key: the key, its value, and the parts of its info as JSON."""
    parts: list[Part] = []
    for key, (text, info) in items.items():
        about = [part.decode() if isinstance(part, bytes) else part for part in _info(info).parts[1:]]
        parts += (key, text, rules.dump(about))
    texts = [text for text, _ in items.values()]
    return Answered(parts, len(items), size=_total(texts), value=texts[0] if texts else None)


def _values_with_infos(caller: Caller, parts: list[Any]) -> dict[str, tuple[Json, KeyInfo]]:
    found: dict[str, tuple[Json, KeyInfo]] = {}
    for key, text, about in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        info = _key_info([key, *rules.load(about)])
        assert info is not None
        found[key] = caller.decode(text, key), info
    return found


def _page_with_infos(result: tuple[str, Mapping[str, tuple[bytes, KeyInfo]]]) -> Answered:
    flat = _flat_with_infos(result[1])
    return flat._replace(parts=[result[0], *flat.parts])


def _infos(infos: Mapping[str, KeyInfo]) -> Answered:
    each = [_info(info) for info in infos.values()]
    parts = [part for one in each for part in one.parts]
    return Answered([len(each), *parts], len(each), size=sum(one.size for one in each))


def _key_infos(parts: list[Any]) -> dict[str, KeyInfo]:
    count, *rest = parts
    width = len(rest) // count if count else 1
    infos = [_key_info(rest[start : start + width]) for start in range(0, len(rest), width)]
    return {info.key: info for info in infos if info is not None}


def _claim(answer: ClaimAnswer) -> Answered:
    if isinstance(answer, Found):
        return Answered([VALUE_THERE, answer.text], 1, True, len(answer.text), answer.text)
    if isinstance(answer, Computing):
        return Answered([BUSY, *answer], 0, False)
    return Answered([FAILED, *answer] if isinstance(answer, Failed) else [CLAIMED], 0, False)


def _claimed(parts: list[Any]) -> ClaimAnswer:
    state, *rest = parts
    answer: ClaimAnswer = (Claimed, Computing, Failed, Found)[state](*rest)
    return answer


def _held(answer: HoldAnswer) -> Answered:
    if isinstance(answer, Taken):
        return Answered([True, answer.fence, 0, 0], 0, True)
    return Answered([False, 0, *answer], 0, False)


def _hold(parts: list[Any]) -> HoldAnswer:
    taken, fence, *busy = parts
    return Taken(fence) if taken else Busy(*busy)


def _replaced(result: tuple[bool, Any]) -> Answered:
    done, text = result
    if done:
        return Answered([True], 1, True, len(text), text)
    return Answered([False] if text is MISSING else [False, text], 0, False)


def _popped(result: tuple[bool, Any]) -> Answered:
    done, text = result
    if text is MISSING:
        return Answered([False], 0, False)
    return Answered([True] if done else [False, text], 1, True, len(text), text)


def _last_popped(result: tuple[bool, str, Any]) -> Answered:
    done, name, text = result
    if text is MISSING:
        return Answered([False], 0, False)
    return Answered([True] if done else [False, name, text], 1, True, len(text), text)


EMPTY = Answer(lambda _: Answered([]), lambda *_: None)
DONE = Answer(lambda done: Answered([done], int(done), done), lambda _, parts, __: _first(parts))
STEP = Answer(lambda done: Answered([done], 0, done), DONE.decode)
COUNT = Answer(lambda count: Answered([count], count), DONE.decode)
INVALIDATED = COUNT._replace(encode=lambda done: Answered([done.deleted], done.deleted, kept=done.kept))
RENAMED = Answer(
    lambda size: Answered([size is not None], int(size is not None), size is not None, moved_bytes=4 * (size or 0)),
    DONE.decode,
)
APPENDED = EMPTY._replace(encode=lambda size: Answered([], moved_bytes=size or 0))
VALUE_OR_DEFAULT = Answer(
    _found,
    lambda caller, parts, arguments: caller.decode(parts[0], arguments[0]) if parts else arguments[1],
)
VALUE_TOUCHED = VALUE_OR_DEFAULT._replace(
    decode=lambda caller, parts, arguments: caller.decode(parts[0], arguments[0]) if parts else arguments[2]
)
SUM = Answer(
    lambda text: Answered([text], size=len(text), value=text),
    lambda caller, parts, arguments: caller.decode(parts[0], arguments[0]),
)
KEY_NAMES = Answer(lambda names: Answered([*names], len(names)), lambda _, parts, __: parts)
NAMESPACE_NAMES = KEY_NAMES._replace(
    decode=lambda caller, names, _: [name for name in names if caller.access.may_read(name)]
)
FOUND_ITEMS = Answer(_flat, lambda caller, parts, _: _values(caller, parts))
PAGE_OF_KEYS = Answer(
    lambda page: Answered([page[0], *page[1]], len(page[1])), lambda _, parts, __: (parts[0], parts[1:])
)
PAGE_OF_ITEMS = Answer(_page_of_items, lambda caller, parts, _: (parts[0], _values(caller, parts[1:])))
ITEMS_WITH_INFO = Answer(_flat_with_infos, lambda caller, parts, _: _values_with_infos(caller, parts))
PAGE_OF_ITEMS_WITH_INFO = Answer(
    _page_with_infos, lambda caller, parts, _: (parts[0], _values_with_infos(caller, parts[1:]))
)
INFO = Answer(_info, lambda _, parts, __: _key_info(parts))
INFOS = Answer(_infos, lambda _, parts, __: _key_infos(parts))
CLAIM = Answer(_claim, lambda _, parts, __: _claimed(parts))
HELD = Answer(_held, lambda _, parts, __: _hold(parts))
MOMENT = Answer(lambda turn: Answered([*turn], 0, turn[0]), lambda _, parts, __: (parts[0], parts[1]))
REPLACED = Answer(_replaced, lambda _, parts, __: (parts[0], parts[1] if len(parts) > 1 else None))
POPPED = REPLACED._replace(encode=_popped)
LAST_POPPED = DONE._replace(encode=_last_popped)
POSITION = Answer(lambda following: Answered([following]), DONE.decode)
COMMITTED = Answer(lambda count: Answered([], count), EMPTY.decode)
