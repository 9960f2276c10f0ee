"""The store's operations as a broker carries them out: each takes checked arguments and returns the parts of an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

from redis_store import DataStore
from redis_store.brokers.lease import with_default_ttl
from redis_store.errors import LimitExceeded
from redis_store.types import MISSING, KeyInfo
from redis_store.values import rules
from sandbox.protocol.frames import FrameError, Part
from sandbox.protocol.messages import SET

MAX_METADATA_TEXT_BYTES = 1024 * 1024
"""Size limit of metadata as JSON text, the one argument that the host decodes, in bytes.

The store's own limit is lower, and its error tells the agent the reason.
"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class TextStore(Protocol):
    """The part of a store that a broker uses: a `DataStore.as_json_text()`, whose values are bytes."""

    def get(self, key: str) -> Any: ...
    def set(self, key: str, value: Any, metadata: dict[str, Any] | None = None, ttl: float | None = None) -> None: ...
    def delete(self, key: str) -> bool: ...
    def delete_many(self, keys: list[str]) -> int: ...
    def list_keys(self, prefix: str | None = None) -> list[str]: ...
    def scan_page(self, cursor: str, prefix: str | None = None) -> tuple[str, list[str]]: ...
    def scan_items_page(self, cursor: str, prefix: str | None = None) -> tuple[str, dict[str, Any]]: ...
    def list_namespaces(self, prefix: str | None = None) -> list[str]: ...
    def get_many(self, keys: list[str]) -> dict[str, Any]: ...
    def get_all(self, prefix: str | None = None) -> dict[str, Any]: ...
    def set_many(
        self, items: Mapping[str, Any], metadata: dict[str, Any] | None = None, ttl: float | None = None
    ) -> int: ...
    def clear(self) -> int: ...
    def info(self, key: str) -> KeyInfo | None: ...
    def expire(self, key: str, ttl: float) -> bool: ...
    def persist(self, key: str) -> bool: ...
    def increment(self, key: str, by: Any) -> Any: ...
    def append(self, key: str, *items: Any, max_items: int | None = None) -> None: ...
    def set_if_absent(self, key: str, value: Any, ttl: float | None = None) -> bool: ...
    def compare_and_set(self, key: str, expected: Any, value: Any, ttl: float | None = None) -> bool: ...
    def pop(self, key: str, default: Any = None) -> Any: ...
    def rename(self, key: str, new: str) -> bool: ...
    def use_namespace(self, name: str, ttl: float | None = None, max_keys: int | None = None) -> TextStore: ...
    @property
    def namespace(self) -> str: ...
    def close(self) -> None: ...
    def __contains__(self, key: object) -> bool: ...
    def __len__(self) -> int: ...


class Answered(NamedTuple):
    """The answer to a call, and its facts for the timeline."""

    parts: list[Part]
    keys: int = 1
    hit: bool | None = None
    size: int = 0
    value: bytes | None = None
    """The value that was read or written, as JSON text; the first one if there are several."""


def _metadata(text: bytes | None) -> dict[str, Any] | None:
    if text is None:
        return None
    if len(text) > MAX_METADATA_TEXT_BYTES:
        raise LimitExceeded(
            f"The metadata takes {len(text):,} bytes as JSON: store it as a value.",
            limit="max_metadata_bytes",
            limit_bytes=MAX_METADATA_TEXT_BYTES,
            size_bytes=len(text),
        )
    try:
        metadata = rules.load(text)
    except (ValueError, RecursionError):
        raise FrameError("metadata that is not JSON") from None
    if not isinstance(metadata, dict):
        raise FrameError("metadata that is not a JSON object")
    return metadata


def _pairs(items: Mapping[str, bytes]) -> list[Part]:
    return [part for pair in items.items() for part in pair]


def _total(texts: Any) -> int:
    return sum(map(len, texts))


def _first(items: Mapping[str, bytes]) -> bytes | None:
    return next(iter(items.values()), None)


def _get(store: TextStore, arguments: list[Any]) -> Answered:
    text = store.get(arguments[0])
    return Answered([], 0, False) if text is None else Answered([text], 1, True, len(text), text)


def _set(store: TextStore, arguments: list[Any]) -> Answered:
    key, text, metadata, ttl = arguments
    store.set(key, text, _metadata(metadata), ttl)
    return Answered([], size=len(text), value=text)


def _delete(store: TextStore, arguments: list[Any]) -> Answered:
    there = store.delete(arguments[0])
    return Answered([there], int(there), there)


def _delete_many(store: TextStore, arguments: list[Any]) -> Answered:
    count = store.delete_many(arguments)
    return Answered([count], count)


def _list_keys(store: TextStore, arguments: list[Any]) -> Answered:
    keys = store.list_keys(arguments[0])
    return Answered([*keys], len(keys))


def _scan_page(store: TextStore, arguments: list[Any]) -> Answered:
    cursor, keys = store.scan_page(*arguments)
    return Answered([cursor, *keys], len(keys))


def _scan_items_page(store: TextStore, arguments: list[Any]) -> Answered:
    cursor, items = store.scan_items_page(*arguments)
    return Answered([cursor, *_pairs(items)], len(items), size=_total(items.values()), value=_first(items))


def _list_namespaces(store: TextStore, arguments: list[Any]) -> Answered:
    names = store.list_namespaces(arguments[0])
    return Answered([*names], len(names))


def _get_many(store: TextStore, arguments: list[Any]) -> Answered:
    items = store.get_many(arguments)
    return Answered(_pairs(items), len(items), size=_total(items.values()), value=_first(items))


def _get_all(store: TextStore, arguments: list[Any]) -> Answered:
    items = store.get_all(arguments[0])
    return Answered(_pairs(items), len(items), size=_total(items.values()), value=_first(items))


def _set_many(store: TextStore, arguments: list[Any]) -> Answered:
    metadata, ttl, *pairs = arguments
    items = dict(zip(pairs[::2], pairs[1::2], strict=True))
    count = store.set_many(items, _metadata(metadata), ttl)
    return Answered([count], count, size=_total(items.values()), value=_first(items))


def _clear(store: TextStore, arguments: list[Any]) -> Answered:
    count = store.clear()
    return Answered([count], count)


def _info(store: TextStore, arguments: list[Any]) -> Answered:
    info = store.info(arguments[0])
    if info is None:
        return Answered([], 0, False)
    created, updated, expires = (_microseconds(t) for t in (info.created_at, info.updated_at, info.expires_at))
    metadata = rules.dump(info.metadata)
    parts: list[Part] = [info.key, created, info.created_by, updated, info.updated_by, metadata, info.size, expires]
    return Answered(parts, 1, True, len(metadata))


def _microseconds(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // _MICROSECOND


def _contains(store: TextStore, arguments: list[Any]) -> Answered:
    there = arguments[0] in store
    return Answered([there], int(there), there)


def _count(store: TextStore, arguments: list[Any]) -> Answered:
    count = len(store)
    return Answered([count], count)


def _expire(store: TextStore, arguments: list[Any]) -> Answered:
    there = store.expire(*arguments)
    return Answered([there], int(there), there)


def _persist(store: TextStore, arguments: list[Any]) -> Answered:
    had_one = store.persist(arguments[0])
    return Answered([had_one], int(had_one), had_one)


def _increment(store: TextStore, arguments: list[Any]) -> Answered:
    key, by, ttl = arguments
    total = with_ttl(store, ttl).increment(key, by)
    return Answered([total], size=len(total), value=total)


def _append(store: TextStore, arguments: list[Any]) -> Answered:
    key, max_items, ttl, *items = arguments
    with_ttl(store, ttl).append(key, *items, max_items=max_items)
    return Answered([], size=_total(items), value=items[0] if items else None)


def _set_if_absent(store: TextStore, arguments: list[Any]) -> Answered:
    stored = store.set_if_absent(*arguments)
    return Answered([stored], int(stored), stored, len(arguments[1]), arguments[1])


def _compare_and_set(store: TextStore, arguments: list[Any]) -> Answered:
    key, expected, text, ttl = arguments
    stored = store.compare_and_set(key, MISSING if expected is None else expected, text, ttl)
    return Answered([stored], int(stored), stored, len(text), text)


def _pop(store: TextStore, arguments: list[Any]) -> Answered:
    text = store.pop(arguments[0], None)
    return Answered([], 0, False) if text is None else Answered([text], 1, True, len(text), text)


def _rename(store: TextStore, arguments: list[Any]) -> Answered:
    there = store.rename(*arguments)
    return Answered([there], int(there), there)


def with_ttl(store: TextStore, ttl: float | None) -> TextStore:
    """Return the same namespace's store with a default `ttl` for new keys; the agent process keeps such defaults."""
    if ttl is None:
        return store
    return with_default_ttl(store, ttl) if type(store) is DataStore else store.use_namespace(store.namespace, ttl)


HANDLERS: dict[str, Callable[[TextStore, list[Any]], Answered]] = {
    "get": _get,
    "set": _set,
    "delete": _delete,
    "delete_many": _delete_many,
    "list_keys": _list_keys,
    "scan_page": _scan_page,
    "scan_items_page": _scan_items_page,
    "list_namespaces": _list_namespaces,
    "get_many": _get_many,
    "get_all": _get_all,
    "set_many": _set_many,
    "clear": _clear,
    "info": _info,
    "contains": _contains,
    "count": _count,
    "expire": _expire,
    "persist": _persist,
    "increment": _increment,
    "append": _append,
    "set_if_absent": _set_if_absent,
    "compare_and_set": _compare_and_set,
    "pop": _pop,
    "rename": _rename,
}
"""Handlers of the operations of `protocol.messages.OPERATIONS` that are store calls.

`host.step_operations` has the others.
"""

WITH_KEY = frozenset(
    {
        "get",
        "set",
        "delete",
        "info",
        "contains",
        "expire",
        "persist",
        "increment",
        "append",
        "set_if_absent",
        "compare_and_set",
        "pop",
        "rename",
    }
)
"""Operations whose first argument is a key."""


def bytes_written(operation: str, arguments: list[Any]) -> int:
    """Return how many bytes a call would store in namespaces: keys, values and metadata."""
    if operation == "set":
        key, text, metadata, _ = arguments
        return _size(key) + len(text) + len(metadata or b"")
    if operation == "set_many":
        metadata, _, *pairs = arguments
        return sum(map(_size, pairs)) + len(pairs) // 2 * len(metadata or b"")
    if operation == "append":
        return _size(arguments[0]) + _total(arguments[3:])
    if operation == "rename":  # the value was counted when it was written, and is stored only once
        return _size(arguments[1])
    if operation == "commit_transaction":
        steps = zip(*(arguments[part::5] for part in (0, 2, 3)), strict=True)
        return sum(_size(key) + len(text or b"") for what, key, text in steps if what == SET)
    at = _VALUE_AT.get(operation)
    return 0 if at is None else _size(arguments[0]) + len(arguments[at])


_VALUE_AT = {"increment": 1, "set_if_absent": 1, "compare_and_set": 2, "replace": 2, "commit_value": 2}
"""Index of the value among the arguments of an operation whose first argument is its key."""


def bytes_noted(operation: str, arguments: list[Any]) -> int:
    """Return how many bytes of names a call would store beside the data: names of locks, rate limits and tags."""
    if operation in ("acquire_lock", "acquire_place", "take_moment"):
        return _size(arguments[0])
    at = _TAGS_AT.get(operation)
    if at is None:
        return 0
    key, tags = _size(arguments[0]), arguments[at:]
    claimed = 0 if operation == "commit_value" else key  # commit_value counts the key with the value
    return claimed + sum(_size(tag) + key for tag in tags)  # each tag stores the key


_TAGS_AT = {"claim_value": 6, "renew_value": 3, "commit_value": 5}
"""Index of the first tag among the arguments of an operation whose first argument is the key."""


def _size(part: str | bytes) -> int:
    """Return the size of a name or text in bytes; every text of a message can be encoded as UTF-8."""
    return len(part) if isinstance(part, bytes) or part.isascii() else len(part.encode())
