"""Entries of a near cache: JSON texts by namespace and key, bounded by bytes. No I/O, no clock, no lock.

The entries of a namespace belong to a `Space`. A write to the namespace drops the whole space, in one step that any thread may
take at any time. A read that misses remembers the space from before its request, and keeps the reply only if that space is
still current when the reply arrives. So a reply that a write has overtaken is never kept.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import cachetools

from redis_store.protocol.command import Command, Opening
from redis_store.types import MISSING

ENTRY_BYTES = 400
"""Approximate memory of an entry, besides its key and text, in bytes."""

LARGEST_PART = 8
"""Divisor of the cache's bound: an entry that would take more than 1/8 of it is not kept."""

DECODED_FROM_BYTES = 512
"""Size of a text, in bytes, from which copying the decoded value is faster than decoding it again."""

_PART_BYTES, _OBJECT_BYTES = 64, 184
"""Upper estimates of the memory of an element or key besides its text, and of a small dict, in bytes."""


class Space:
    """The entries of one namespace between two changes of it."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}


class Entry:
    """A value as JSON text, or None for a missing key, and the time until which it may be used.

    A value that is read again is also kept decoded, if there is room. Callers get copies of it, so that none sees what another
    does to a value.
    """

    __slots__ = ("data", "expires_at", "keeps_value", "key", "size_bytes", "space", "text", "turn", "value")

    def __init__(self, data: bytes, space: Space, key: str, text: bytes | None, expires_at: float) -> None:
        self.data = data
        self.space = space
        self.key = key
        self.text = text
        self.expires_at = expires_at
        self.turn = 0
        self.size_bytes = ENTRY_BYTES + len(key) + len(text or b"")
        self.keeps_value: bool | None = None
        """Whether there is room for the decoded value; None before the first hit."""
        self.value: Any = MISSING
        """The decoded value, or `MISSING`."""


class Entries:
    """All entries of one side. Only `drop` and `has` may be called by several threads at once."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._spaces: dict[bytes, Space] = {}
        self._dropped: deque[Space] = deque()
        self._turn = 0
        # The library keeps the order and the sum; the bound is checked here, because it may be raised.
        self._recent: cachetools.LRUCache[Entry, Entry] = cachetools.LRUCache(math.inf, lambda entry: entry.size_bytes)

    @property
    def size_bytes(self) -> int:
        """Approximate memory of all entries, in bytes; entries that were just dropped may still be counted."""
        return int(self._recent.currsize)

    def __len__(self) -> int:
        return len(self._recent)

    def find(self, data: bytes, key: str, now: float) -> Entry | None:
        """Return the entry of a key, or None if there is none or it has expired."""
        space = self._spaces.get(data)
        if space is None or type(key) is not str:
            return None
        entry = space.entries.get(key)
        if entry is None or entry.expires_at <= now:
            return None
        if entry.turn != self._turn:
            # Once between two calls of `keep` is enough, as only `keep` evicts.
            entry.turn = self._turn
            self._recent.get(entry)
        if entry.keeps_value is None:
            self._make_room_for_value(entry)
        return entry

    def has(self, data: bytes, key: str) -> bool:
        """Return whether there is an entry of a key, expired or not. May be called from any thread."""
        space = self._spaces.get(data)
        return space is not None and type(key) is str and key in space.entries

    def find_all(self, data: bytes, keys: Iterable[str], now: float) -> list[Entry] | None:
        """Return the entries of all keys as a snapshot, or None unless there is one."""
        found: list[Entry] = []
        for key in keys:
            entry = self.find(data, key, now)
            if entry is None or (found and entry.space is not found[0].space):
                return None
            found.append(entry)
        return found

    def space(self, data: bytes) -> Space:
        """Return the current space of a namespace, for `keep`; to be called before the request is sent."""
        return self._spaces.setdefault(data, Space())

    def keep(self, data: bytes, space: Space, key: str, text: bytes | None, expires_at: float = math.inf) -> None:
        """Keep a reply, unless the namespace has changed since the request."""
        self._sweep()
        if self._spaces.get(data) is not space:
            return
        self._forget(space.entries.pop(key, None))
        entry = Entry(data, space, key, text, expires_at)
        if entry.size_bytes * LARGEST_PART > self.max_bytes:
            return
        self._turn += 1
        entry.turn = self._turn
        while self._recent and self._recent.currsize + entry.size_bytes > self.max_bytes:
            oldest, _ = self._recent.popitem()
            self._take_out(oldest)
        space.entries[key] = entry
        self._recent[entry] = entry

    def drop(self, data: bytes) -> None:
        """Drop the entries of a namespace. May be called from any thread."""
        space = self._spaces.pop(data, None)
        if space is not None:
            self._dropped.append(space)

    def clear(self) -> None:
        """Drop all entries."""
        for data in list(self._spaces):
            self.drop(data)
        self._sweep()

    def heard(self, push: Sequence[Any]) -> None:
        """Apply an invalidation message, which names the Redis keys that were written, or none for all (``FLUSHDB``)."""
        if push[0] != b"invalidate":
            return
        if push[1] is None:
            self.clear()
            return
        for data in push[1]:
            self.drop(data)
        self._sweep()

    def _make_room_for_value(self, entry: Entry) -> None:
        """Decide whether an entry may also keep its value decoded. No other entry is evicted for it."""
        text = entry.text or b""
        entry.keeps_value = len(text) >= DECODED_FROM_BYTES
        if entry.keeps_value:
            more, most = decoded_bytes(text), self.max_bytes
            size_bytes = entry.size_bytes + more
            entry.keeps_value = size_bytes * LARGEST_PART <= most and self._recent.currsize + more <= most
            if entry.keeps_value:
                entry.size_bytes = size_bytes
                self._recent[entry] = entry

    def _sweep(self) -> None:
        while self._dropped:
            for entry in self._dropped.popleft().entries.values():
                self._forget(entry)

    def _forget(self, entry: Entry | None) -> None:
        if entry is not None:
            self._recent.pop(entry, None)

    def _take_out(self, entry: Entry) -> None:
        entry.space.entries.pop(entry.key, None)
        if not entry.space.entries and self._spaces.get(entry.data) is entry.space:
            del self._spaces[entry.data]


def decoded_bytes(text: bytes) -> int:
    """Return an upper estimate of the memory of a text's value, in bytes: outside ASCII, four bytes a character."""
    parts = text.count(b",") + text.count(b":") + text.count(b"[") + text.count(b"{")
    return len(text) * (1 if text.isascii() else 4) + parts * _PART_BYTES + text.count(b"{") * _OBJECT_BYTES


def redis_keys_of(commands: Iterable[Command]) -> list[bytes]:
    """Return the Redis keys in commands, and possibly some arguments that are not keys."""
    keys: list[bytes] = []
    for command in commands:
        first = command[0]
        if isinstance(first, Opening):
            keys += first.keys
        elif first in (b"EVALSHA", b"EVAL"):
            count = command[2]
            assert isinstance(count, int), "a script's command says how many keys follow"
            keys += (key for key in command[3 : 3 + count] if isinstance(key, bytes))
        elif first == "HSET":  # further arguments may be a batch's values
            keys += (part for part in command[1:2] if isinstance(part, bytes))
        else:
            keys += (part for part in command[1:] if isinstance(part, bytes))
    return keys
