"""Searching keys and values of all users, and the changes of the last minutes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis_store.admin.records import ChangeRecord, SearchHit
from redis_store.admin.usage import check_time, infos_per_scan, time_of
from redis_store.admin.walks import Walk, readable_keys
from redis_store.changelog.entry import parse_entry
from redis_store.errors import InvalidInput, InvalidType, StoredDataError
from redis_store.limits import Limits, LogBounds
from redis_store.namespace.keys import decode_name
from redis_store.namespace.redis_key import RedisKey
from redis_store.namespace.scope import Scope, Writer
from redis_store.ops.key_info import key_info
from redis_store.ops.listing import START, page_size, scan_items_page, scan_page
from redis_store.ops.run_script import run_each
from redis_store.protocol.call import all_replies, read
from redis_store.scripts import RECENT
from redis_store.values.codec import JsonText

EXCERPT_BYTES = 80
"""Length of the excerpt around what a search has found, in characters."""

ENTRIES_PER_PAGE = 200
INFOS_AT_A_TIME = 3
"""Namespaces whose infos one step looks at, which takes the server a millisecond or two."""

SAME_WRITE_MS = 5
"""Difference between the times of one write in the log and in the info, at most, in ms."""


@dataclass(frozen=True, slots=True)
class StoredBytes(JsonText):
    """The codec that returns what is stored, also what cannot be read."""

    def decode_found(self, keys: Iterable[str], texts: Iterable[bytes | None], namespace: str) -> dict[str, bytes]:
        return {key: text for key, text in zip(keys, texts, strict=True) if text is not None}


STORED = StoredBytes()


def scope_of(parts: RedisKey) -> Scope | None:
    """Return the scope of a namespace from one of its Redis keys; None if an external write gave it a name that is not UTF-8."""
    try:
        name = parts.name.decode()
    except UnicodeDecodeError:
        return None
    return Scope(parts.keys, name, Writer(), STORED, Limits(), LogBounds()) if name else None


async def scopes(user: str | None = None) -> Walk[Scope]:
    """Find the namespaces that hold data, of all users or of one, except those that have no name as text."""
    async for page in readable_keys(user, "hash"):
        yield [scope for _, parts in page if parts.kind == "ns" and (scope := scope_of(parts)) is not None]


async def search(
    text: str,
    user: str | None = None,
    namespace: str | None = None,
    *,
    keys_only: bool = False,
    ignore_case: bool = False,
) -> Walk[SearchHit]:
    """Find a literal text in keys, and in values as JSON text."""
    if not isinstance(text, str):
        raise InvalidType(f"The text must be a str, not {type(text).__name__}.")
    if not text:
        raise InvalidInput("The text must not be empty: give at least one character.")
    needle = _Needle.of(text, ignore_case)
    async for page in scopes(user):
        for scope in page:
            if namespace in (None, scope.namespace):
                async for hits in _search_namespace(scope, needle, keys_only):
                    yield hits


async def _search_namespace(scope: Scope, needle: _Needle, keys_only: bool) -> Walk[SearchHit]:
    cursor = START
    page_keys = 0 if keys_only else await page_size(scope)
    met: set[str] = set()
    found: dict[str, bytes]
    while True:
        if keys_only:
            cursor, names = await scan_page(scope, cursor)
            found = dict.fromkeys(names, b"")
        else:
            cursor, found = await scan_items_page(scope, cursor, None, page_keys)
        hits = [hit for key, stored in found.items() if (hit := needle.hit(scope, key, stored)) is not None]
        yield [hit for hit in hits if hit.key not in met]
        met.update(hit.key for hit in hits)
        if cursor == START:
            return


@dataclass(frozen=True, slots=True)
class _Needle:
    """A text that is searched for, in the forms that it may have as JSON."""

    texts: tuple[str, ...]
    raws: tuple[bytes, ...]
    ignore_case: bool

    @classmethod
    def of(cls, text: str, ignore_case: bool) -> _Needle:
        if ignore_case:
            text = text.lower()
        forms = dict.fromkeys((text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]))
        return cls(tuple(forms), tuple(form.encode(errors="surrogatepass") for form in forms), ignore_case)

    def hit(self, scope: Scope, key: str, stored: bytes) -> SearchHit | None:
        name = key.lower() if self.ignore_case else key
        if (at := name.find(self.texts[0])) >= 0:
            return SearchHit(scope.user.user, scope.namespace, key, "key", _excerpt(key, at))
        try:
            raw = scope.codec.packing.plain(stored, scope.namespace, key)
        except StoredDataError:
            raw = stored
        if not self.ignore_case and not any(form in raw for form in self.raws):
            return None
        text = raw.decode(errors="backslashreplace")
        compared = text.lower() if self.ignore_case else text
        places = [at for form in self.texts if (at := compared.find(form)) >= 0]
        if not places:
            return None
        return SearchHit(scope.user.user, scope.namespace, key, "value", _excerpt(text, min(places)))


def _excerpt(text: str, at: int) -> str:
    start = max(0, at - EXCERPT_BYTES // 4)
    part = text[start : start + EXCERPT_BYTES]
    return f"{'…' if start else ''}{part}{'…' if start + EXCERPT_BYTES < len(text) else ''}"


async def changes(since: datetime, user: str | None = None, namespace: str | None = None) -> Walk[ChangeRecord]:
    """Yield the changes since a time, from the change logs and from the infos of keys. `ChangesInOrder` puts them together."""
    check_time(since, "since")
    since_ms = max(0, int(since.timestamp() * 1000))
    async for page in readable_keys(user):
        chosen = [each for each in page if namespace in (None, decode_name(each[1].name))]
        for key, parts in chosen:
            if parts.kind == "log":
                async for records in _logged(key, parts, since_ms):
                    yield records
        async for records in scan_infos({key: parts for key, parts in chosen if parts.kind == "info"}, since_ms):
            yield records


async def _logged(key: bytes, parts: RedisKey, since_ms: int) -> Walk[ChangeRecord]:
    begin = str(since_ms)
    if await read("TYPE", key) != b"stream":
        return
    while True:
        page = await read("XRANGE", key, begin, "+", "COUNT", ENTRIES_PER_PAGE, bulk=True)
        yield [record for raw in page for record in records_of(raw, parts)]
        if len(page) < ENTRIES_PER_PAGE:
            return
        begin = f"({page[-1][0].decode()}"


def records_of(raw: Any, parts: RedisKey) -> list[ChangeRecord]:
    """Return the changes in a raw entry of a namespace's change log."""
    entry = parse_entry(raw)
    at = time_of(entry.order[0])
    if at is None:
        return []
    where = (parts.user, decode_name(parts.name))
    return [
        ChangeRecord(
            at, *where, None if news[1] is None else decode_name(news[1]), news[0], entry.agent, entry.run, "log"
        )
        for news in entry.news
        if news is not None
    ]


async def scan_infos(infos: dict[bytes, RedisKey], since_ms: int) -> Walk[ChangeRecord]:
    """Yield the last writes of keys since a time, as some info hashes tell them."""
    left = dict.fromkeys(infos, START)
    counts: dict[bytes, int] = {}
    while left:
        some = list(left)[:INFOS_AT_A_TIME]
        new = [key for key in some if key not in counts]
        if new:
            sized = await all_replies(*(each for key in new for each in (("HLEN", key), ("MEMORY", "USAGE", key))))
            for key, fields, memory_bytes in zip(new, sized[::2], sized[1::2], strict=True):
                counts[key] = infos_per_scan(fields if isinstance(fields, int) else 0, memory_bytes)
        replies = await run_each(RECENT, [((key,), (left[key], counts[key], since_ms)) for key in some])
        for key, (cursor, flat) in zip(some, replies, strict=True):
            yield list(last_writes(infos[key], flat))
            left[key] = cursor.decode()
            if left[key] == START:
                del left[key]


def last_writes(parts: RedisKey, flat: list[bytes]) -> Iterator[ChangeRecord]:
    for field, text in zip(flat[::2], flat[1::2], strict=True):
        info = key_info(decode_name(field), text, 0, -1)
        if info.updated_at is not None:
            where = (parts.user, decode_name(parts.name), info.key)
            yield ChangeRecord(info.updated_at, *where, "set", info.updated_by, info.run, "info")


class ChangesInOrder:
    """Collects changes, leaves out those infos whose writes are in a log, and those found twice, and sorts them by time."""

    def __init__(self) -> None:
        self._logged: list[ChangeRecord] = []
        self._written: dict[tuple[str, str, str | None], ChangeRecord] = {}

    def add(self, page: Sequence[ChangeRecord]) -> None:
        for record in page:
            if record.source == "log":
                self._logged.append(record)
            else:
                self._written[record.user, record.namespace, record.key] = record

    def result(self) -> list[ChangeRecord]:
        for record in self._logged:
            place = (record.user, record.namespace, record.key)
            told = self._written.get(place)
            if told and record.op == "set" and (told.at - record.at).total_seconds() * 1000 <= SAME_WRITE_MS:
                del self._written[place]
        return sorted([*self._logged, *self._written.values()], key=lambda one: one.at)
