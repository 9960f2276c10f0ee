"""The complete sorted keys of the namespaces that are looked at, kept in memory and brought up to date.

A list of a million keys takes a second or two to read, so it is read once. Afterwards the change log tells what came and went, if
the namespace has one; the number of keys tells whether something else did. A list that may be out of date and was read long ago
is read again in the background, while pages show the old one.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from redis_store.admin import AsyncAdmin
from redis_store.admin.aio import run_in
from redis_store.changelog.entry import News, parse_entry
from redis_store.console.background import Background
from redis_store.errors import LimitExceeded
from redis_store.namespace.keys import decode_name, decode_names
from redis_store.namespace.scope import Scope
from redis_store.ops.listing import LISTING_PAGE_KEYS, START, names_page
from redis_store.ops.run_script import read_together
from redis_store.protocol.command import Command

READING_WAITED_S = 0.1
"""Time for which a page waits for a list that is being read, in seconds."""

ALWAYS_READ_S = 0.02
"""Time that reading a list took up to which it is read for each page, in seconds."""

READINGS_APART = 20
"""Age of a list that may be out of date, in times that reading it took, at which it is read again."""

READINGS_APART_IF_WRONG = 3
"""The same, of a list that is known to be out of date."""

KEY_LISTS_BYTES = 512 * 1024 * 1024
"""Size of all lists that are kept, in bytes, about. The list unused for longest is dropped first."""

KEY_BYTES = 60
"""Memory that a key in a list takes besides its text, in bytes."""

LOG_ENTRIES_READ = 200
"""Entries of a change log that one step reads."""

MOST_INSERTED = 200
"""Keys that are put into a list one by one, at most; more of them are sorted into it together."""

NAMES_PER_PAGE = 100_000
"""Characters of the names on a page after which it ends: each is on the page several times, and a key may have 64 KiB."""

FIRST_READING_KEYS = 100
"""Keys that the first step of a reading asks for, before it is known how long they are."""

READING_BYTES = 256 * 1024
"""Bytes of keys that one step of a reading asks for, about."""

KEY_SEPARATORS = ("/", ":")
"""What divides a key into groups."""


@dataclass(slots=True)
class KeyList:
    """The keys of a namespace, sorted."""

    keys: list[str] = field(default_factory=list)
    read_at: datetime | None = None
    """Time at which they were read; None if they have not been read yet."""
    is_current: bool = False
    """Whether they are those that the namespace had when the page was asked for, as far as the server tells."""
    reading: int | None = None
    """The number of keys that the reading under way has found; None if there is none."""
    count: int = 0
    """The number of keys that the server reports."""


class KeyLists:
    """Keeps the lists that were used last."""

    def __init__(self, admin: AsyncAdmin) -> None:
        self._admin = admin
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()

    async def latest(self, user: str, namespace: str) -> KeyList:
        """Return the keys of a namespace as they are now; or as they were, or none, if that would take long."""
        kept = self._kept.setdefault((user, namespace), _Kept(self._admin, user, namespace))
        self._kept.move_to_end((user, namespace))
        found = await kept.latest()
        self._drop_old()
        return found

    def forget(self, user: str, namespace: str, keys: Iterable[str] | None = None) -> None:
        """Take keys that the console deleted from a list, or all of them."""
        kept = self._kept.get((user, namespace))
        if kept is not None:
            kept.remove(keys)

    async def close(self) -> None:
        """End the readings that are under way."""
        for kept in self._kept.values():
            await kept.close()

    def _drop_old(self) -> None:
        total = sum(kept.size_bytes for kept in self._kept.values())
        for place in list(self._kept)[:-1]:
            if total <= KEY_LISTS_BYTES:
                return
            if not self._kept[place].is_reading:
                total -= self._kept.pop(place).size_bytes


class _Kept:
    """The list of one namespace."""

    def __init__(self, admin: AsyncAdmin, user: str, namespace: str) -> None:
        self._admin, self._user, self._namespace = admin, user, namespace
        self._keys: list[str] | None = None
        self._position: bytes | None = None
        """The last entry of the change log that the list knows; None if there was no log."""
        self._read_at: datetime | None = None
        self._read_s = self._took_s = 0.0
        self._reading = Background()
        self._found = 0
        self._catching_up = asyncio.Lock()
        self.size_bytes = 0

    @property
    def is_reading(self) -> bool:
        """Whether the list is being read."""
        return self._reading.is_at_work

    async def latest(self) -> KeyList:
        is_current, count = False, 0
        self._reading.put_away()
        if self._keys is not None:
            is_current, count = await self._catch_up()
        # Without a log, as many keys as before may be other keys.
        is_sure = is_current and self._position is not None
        if not is_sure and self._is_due(is_current):
            self._reading.begin(self._read)
        is_fine = is_current and self._took_s > ALWAYS_READ_S
        if not is_fine and await self._reading.wait(READING_WAITED_S):
            is_current, count = await self._catch_up()
        reading = self._found if self.is_reading else None
        return KeyList(self._keys or [], self._read_at, is_current, reading, count)

    def remove(self, keys: Iterable[str] | None) -> None:
        if keys is None:
            self._keys = [] if self._keys is not None else None
        elif self._keys is not None:
            self._keys = _changed(self._keys, dict.fromkeys(keys, False))

    async def close(self) -> None:
        await self._reading.close()

    def _is_due(self, may_be_current: bool) -> bool:
        if self._keys is None or self._took_s <= ALWAYS_READ_S:
            return True
        apart = READINGS_APART if may_be_current else READINGS_APART_IF_WRONG
        return time.monotonic() - self._read_s > apart * self._took_s

    # Reading

    async def _read(self) -> None:
        begun, self._found = time.monotonic(), 0
        last, count = await run_in(self._admin, self._user, self._namespace, partial(_news, position=None))
        runs: list[list[str]] = []
        size, cursor, count_at_once = 0, START, FIRST_READING_KEYS
        while True:
            page = partial(_page_of, cursor=cursor, count=count_at_once)
            following, names = await run_in(self._admin, self._user, self._namespace, page)
            read_bytes = sum(map(len, names)) + len(names)
            count_at_once = max(1, min(LISTING_PAGE_KEYS, READING_BYTES * max(1, len(names)) // max(1, read_bytes)))
            run = sorted(decode_names(names))
            runs.append(run)
            self._found += len(run)
            size += sum(map(len, run)) + KEY_BYTES * len(run)
            if size > KEY_LISTS_BYTES:
                raise LimitExceeded(
                    f"The namespace has more keys than the console keeps in memory, {KEY_LISTS_BYTES >> 20:,} MiB:"
                    " list them with redis-store keys."
                )
            if following is None or following == START:
                break
            cursor = following
        keys = await _merged(runs)
        if len(keys) != count:  # a growing table may return a key twice
            keys = list(dict.fromkeys(keys))
        self._keys, self._position, self.size_bytes = keys, last[0][0] if last else None, size
        self._read_at, self._read_s = datetime.now(UTC), time.monotonic()
        self._took_s = self._read_s - begun

    # Bringing up to date

    async def _catch_up(self) -> tuple[bool, int]:
        """Apply what the log tells. Return whether the list is now that of the server, and the server's number of keys."""
        async with self._catching_up:
            return await self._follow()

    async def _follow(self) -> tuple[bool, int]:
        changed: dict[str, bool] = {}
        position = self._position
        while True:
            raw, count = await run_in(self._admin, self._user, self._namespace, partial(_news, position=position))
            if not count:
                self._keys = []
            if position is None:
                # Without a log, only the number is known. A replaced key is found when its row is.
                return not raw and count == len(self._keys or ()), count
            if not raw or raw[0][0] != position:
                return False, count  # the log does not reach back so far
            for entry in map(parse_entry, raw[1:]):
                for news in entry.news:
                    self._take(news, changed)
            position = raw[-1][0]
            if len(raw) < LOG_ENTRIES_READ:
                break
        if changed and self._keys is not None:
            self._keys = _changed(self._keys, changed)
        self._position = position
        return count == len(self._keys or ()), count

    def _take(self, news: News, changed: dict[str, bool]) -> None:
        if news is None:
            return
        op, raw, _ = news
        if raw is None:  # a clear
            changed.clear()
            self._keys = []
        else:
            changed[decode_name(raw)] = op == "set"


async def _news(scope: Scope, position: bytes | None) -> tuple[list[Any], int]:
    """Return the entries of a namespace's log from a position on, this one first, and its number of keys at that moment.

    Without a position, return the last entry of the log, if there is one.
    """
    log: Command = ("XREVRANGE", scope.keys.log, "+", "-", "COUNT", 1)
    if position is not None:
        log = ("XRANGE", scope.keys.log, position, "+", "COUNT", LOG_ENTRIES_READ)
    raw, count = await read_together([log, ("HLEN", scope.keys.data)])
    return raw, count


async def _page_of(scope: Scope, cursor: str, count: int) -> tuple[str | None, list[bytes]]:
    return await names_page(scope.keys.data, cursor, "", count)


async def _merged(runs: list[list[str]]) -> list[str]:
    """Return sorted lists as one, in steps between which other pages are answered."""
    while len(runs) > 1:
        pairs = []
        for at in range(0, len(runs), 2):
            both = [*runs[at], *(runs[at + 1] if at + 1 < len(runs) else ())]
            both.sort()  # which merges two sorted halves
            pairs.append(both)
            await asyncio.sleep(0)
        runs = pairs
    return runs[0] if runs else []


def _changed(keys: list[str], changed: dict[str, bool]) -> list[str]:
    """Return sorted keys with those that came, and without those that went."""
    if len(changed) > MOST_INSERTED:
        gone = {key for key, is_there in changed.items() if not is_there}
        come = {key for key, is_there in changed.items() if is_there}
        merged = [*(key for key in keys if key not in gone and key not in come), *sorted(come)]
        merged.sort()
        return merged
    for key, is_there in changed.items():
        at = bisect_left(keys, key)
        known = at < len(keys) and keys[at] == key
        if is_there and not known:
            insort(keys, key)
        elif known and not is_there:
            del keys[at]
    return keys


# Pages of a list


@dataclass(frozen=True, slots=True)
class Group:
    """The keys that begin with the same text, up to and with a separator."""

    prefix: str
    count: int


@dataclass(frozen=True, slots=True)
class KeyPage:
    """A part of a list: keys, and groups of them."""

    rows: list[str | Group]
    total: int
    """The number of keys with the prefix."""
    first: int
    """The number of the first key here among them, from 0."""
    last: int
    """The number after that of the last key here."""
    after: str | None
    """The last key here, if others follow."""
    before: str | None
    """The key before the page before this one, an empty text for the first page; None if this is the first page."""


def page_of(keys: Sequence[str], prefix: str, after: str | None, size: int, *, grouped: bool) -> KeyPage:
    """Return the page of the keys with a prefix that follows a key; with `grouped`, keys of one group are one row."""
    low, high = range_of(keys, prefix)
    start = low if not after else min(max(bisect_right(keys, after), low), high)
    rows: list[str | Group] = []
    at, room = start, NAMES_PER_PAGE
    while at < high and len(rows) < size and room > 0:
        end = _end_of_group(keys, at, high, len(prefix)) if grouped else at + 1
        key = keys[at]
        room -= len(key)
        rows.append(key if end == at + 1 else Group(_group_of(key, len(prefix)) or key, end - at))
        at = end
    following = keys[at - 1] if start < at < high else None
    return KeyPage(
        rows, high - low, start - low, at - low, following, _before(keys, low, start, len(prefix), size, grouped)
    )


def range_of(keys: Sequence[str], prefix: str) -> tuple[int, int]:
    """Return where the keys with a prefix begin and end in a sorted list."""
    low = bisect_left(keys, prefix)
    return low, _end_of(keys, prefix, low, len(keys)) if prefix else len(keys)


def _end_of(keys: Sequence[str], prefix: str, low: int, high: int) -> int:
    # The least text that is greater than all texts with the prefix.
    for length in range(len(prefix), 0, -1):
        if ord(prefix[length - 1]) < 0x10FFFF:
            return bisect_left(keys, prefix[: length - 1] + chr(ord(prefix[length - 1]) + 1), low, high)
    return high


def _group_of(key: str, start: int) -> str | None:
    """Return the beginning of a key up to the next separator; None without one."""
    places = [at for each in KEY_SEPARATORS if (at := key.find(each, start)) >= 0]
    return key[: min(places) + 1] if places else None


def _end_of_group(keys: Sequence[str], at: int, high: int, start: int) -> int:
    group = _group_of(keys[at], start)
    return at + 1 if group is None else _end_of(keys, group, at, high)


def _before(keys: Sequence[str], low: int, start: int, length: int, size: int, grouped: bool) -> str | None:
    if start <= low:
        return None
    at, room = start, NAMES_PER_PAGE
    for _ in range(size):
        if at <= low:
            return ""
        if room <= 0:
            break
        room -= len(keys[at - 1])
        group = _group_of(keys[at - 1], length) if grouped else None
        at = at - 1 if group is None else max(low, bisect_left(keys, group, low, at))
    return keys[at - 1] if at > low else ""


def crumbs_of(prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the groups that a prefix lies in, each as its last part and its whole prefix."""
    start = 0
    for at, character in enumerate(prefix, start=1):
        if character in KEY_SEPARATORS:
            yield prefix[start:at], prefix[:at]
            start = at
