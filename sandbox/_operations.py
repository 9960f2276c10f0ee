"""The operations of the store as a broker carries them out: checked arguments in, the parts of an answer out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

from redis_store import _plain
from redis_store.errors import LimitExceeded
from redis_store.types import KeyInfo
from sandbox._frames import FrameError, Part

MAX_METADATA_TEXT_BYTES = 1024 * 1024
"""Metadata is the one argument that the host decodes; the store's own limit, below this, gives the agent the reason."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class TextStore(Protocol):
    """What a broker needs of a store: a `DataStore.as_json_text()`, whose values are bytes."""

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
    def use_namespace(self, name: str) -> TextStore: ...
    def close(self) -> None: ...
    def __contains__(self, key: object) -> bool: ...
    def __len__(self) -> int: ...


class Done(NamedTuple):
    """The answer to a call, and what the timeline says about it."""

    parts: list[Part]
    keys: int = 1
    hit: bool | None = None
    size: int = 0
    value: bytes | None = None
    """A value that was read or written, the first of several, as JSON text."""


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
        metadata = _plain.load(text)
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


def _get(store: TextStore, arguments: list[Any]) -> Done:
    text = store.get(arguments[0])
    return Done([], 0, False) if text is None else Done([text], 1, True, len(text), text)


def _set(store: TextStore, arguments: list[Any]) -> Done:
    key, text, metadata, ttl = arguments
    store.set(key, text, _metadata(metadata), ttl)
    return Done([], size=len(text), value=text)


def _delete(store: TextStore, arguments: list[Any]) -> Done:
    there = store.delete(arguments[0])
    return Done([there], int(there), there)


def _delete_many(store: TextStore, arguments: list[Any]) -> Done:
    count = store.delete_many(arguments)
    return Done([count], count)


def _list_keys(store: TextStore, arguments: list[Any]) -> Done:
    keys = store.list_keys(arguments[0])
    return Done([*keys], len(keys))


def _scan_page(store: TextStore, arguments: list[Any]) -> Done:
    cursor, keys = store.scan_page(*arguments)
    return Done([cursor, *keys], len(keys))


def _scan_items_page(store: TextStore, arguments: list[Any]) -> Done:
    cursor, items = store.scan_items_page(*arguments)
    return Done([cursor, *_pairs(items)], len(items), size=_total(items.values()), value=_first(items))


def _list_namespaces(store: TextStore, arguments: list[Any]) -> Done:
    names = store.list_namespaces(arguments[0])
    return Done([*names], len(names))


def _get_many(store: TextStore, arguments: list[Any]) -> Done:
    items = store.get_many(arguments)
    return Done(_pairs(items), len(items), size=_total(items.values()), value=_first(items))


def _get_all(store: TextStore, arguments: list[Any]) -> Done:
    items = store.get_all(arguments[0])
    return Done(_pairs(items), len(items), size=_total(items.values()), value=_first(items))


def _set_many(store: TextStore, arguments: list[Any]) -> Done:
    metadata, ttl, *pairs = arguments
    items = dict(zip(pairs[::2], pairs[1::2], strict=True))
    count = store.set_many(items, _metadata(metadata), ttl)
    return Done([count], count, size=_total(items.values()), value=_first(items))


def _clear(store: TextStore, arguments: list[Any]) -> Done:
    count = store.clear()
    return Done([count], count)


def _info(store: TextStore, arguments: list[Any]) -> Done:
    info = store.info(arguments[0])
    if info is None:
        return Done([], 0, False)
    created, updated, expires = (_microseconds(t) for t in (info.created_at, info.updated_at, info.expires_at))
    metadata = _plain.dump(info.metadata)
    parts: list[Part] = [info.key, created, info.created_by, updated, info.updated_by, metadata, info.size, expires]
    return Done(parts, 1, True, len(metadata))


def _microseconds(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // _MICROSECOND


def _contains(store: TextStore, arguments: list[Any]) -> Done:
    there = arguments[0] in store
    return Done([there], int(there), there)


def _count(store: TextStore, arguments: list[Any]) -> Done:
    count = len(store)
    return Done([count], count)


HANDLERS: dict[str, Callable[[TextStore, list[Any]], Done]] = {
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
}
"""Who carries out each operation of `_messages.OPERATIONS`."""

WITH_KEY = frozenset({"get", "set", "delete", "info", "contains"})
"""Operations whose first argument is a key."""


def bytes_written(operation: str, arguments: list[Any]) -> int:
    """Return how many bytes a call would have stored: keys, values and metadata."""
    if operation == "set":
        key, text, metadata, _ = arguments
        return len(key) + len(text) + len(metadata or b"")
    if operation == "set_many":
        metadata, _, *pairs = arguments
        return sum(map(len, pairs)) + len(pairs) // 2 * len(metadata or b"")
    return 0
