"""What a near cache holds: JSON texts by namespace and key, bounded by bytes. No I/O, no clock, no lock.

A namespace's entries live in a `Space`. Whatever makes them doubtful takes the whole space away, in one step that any thread may
take at any time. A fill remembers the space that stood there when it asked, and keeps its answer only if the same one still
stands there when the answer has come: so an answer that a write has overtaken is never kept.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import cachetools

from redis_store.protocol.call import Command, Opening

ENTRY_BYTES = 400
"""What an entry takes beside its key and its text, about."""

LARGEST_PART = 8
"""A value that would take more than this part of the whole bound is not kept."""


class Space:
    """The entries of one namespace, until something of it changes."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}


class Entry:
    """A value as JSON text, None for a key that is absent, and until when it may be used.

    It is text, so that what one caller does with a value is never seen by another.
    """

    __slots__ = ("data", "expires_at", "key", "plain", "size_bytes", "space", "text", "turn")

    def __init__(self, data: bytes, space: Space, key: str, text: bytes | None, expires_at: float) -> None:
        self.data = data
        self.space = space
        self.key = key
        self.text = text
        self.expires_at = expires_at
        self.turn = 0
        self.plain: bool | None = None
        """Whether `_codec.is_plain`; None until the first hit asks."""
        self.size_bytes = ENTRY_BYTES + len(key) + len(text or b"")


class Entries:
    """All that a cache holds. One thread at a time, but for `drop`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._spaces: dict[bytes, Space] = {}
        self._dropped: deque[Space] = deque()
        self._turn = 0
        # The bound is ours, because it may be raised; the order and the sum are the library's.
        self._recent: cachetools.LRUCache[Entry, Entry] = cachetools.LRUCache(math.inf, lambda entry: entry.size_bytes)

    @property
    def size_bytes(self) -> int:
        """How much all entries take, about; what others have just dropped may be among them."""
        return int(self._recent.currsize)

    def __len__(self) -> int:
        return len(self._recent)

    def find(self, data: bytes, key: str, now: float) -> Entry | None:
        """Return what is known about a key of a namespace."""
        space = self._spaces.get(data)
        if space is None:
            return None
        entry = space.entries.get(key)
        if entry is None or entry.expires_at <= now:
            return None
        if entry.turn != self._turn:
            # Once between two fills is enough: only they throw anything out.
            entry.turn = self._turn
            self._recent.get(entry)
        return entry

    def space(self, data: bytes) -> Space:
        """Return the space to ask for, before the question goes out."""
        return self._spaces.setdefault(data, Space())

    def keep(self, data: bytes, space: Space, key: str, text: bytes | None, expires_at: float = math.inf) -> None:
        """Keep an answer, unless something has changed in the namespace since it was asked for."""
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
        """Forget a namespace; from any thread."""
        space = self._spaces.pop(data, None)
        if space is not None:
            self._dropped.append(space)

    def clear(self) -> None:
        """Forget everything."""
        for data in list(self._spaces):
            self.drop(data)
        self._sweep()

    def heard(self, push: Sequence[Any]) -> None:
        """Take what the server says unasked: the keys that were written, or that all were (``FLUSHDB``)."""
        if push[0] != b"invalidate":
            return
        if push[1] is None:
            self.clear()
            return
        for data in push[1]:
            self.drop(data)
        self._sweep()

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


def redis_keys_of(commands: Iterable[Command]) -> list[bytes]:
    """Return the Redis keys that commands name, and perhaps some arguments that are none."""
    keys: list[bytes] = []
    for command in commands:
        first = command[0]
        if isinstance(first, Opening):
            keys += first.keys
        elif first in (b"EVALSHA", b"EVAL"):
            count = command[2]
            assert isinstance(count, int), "a script's command says how many keys follow"
            keys += (key for key in command[3 : 3 + count] if isinstance(key, bytes))
        elif first == "HSET":  # a batch's values may follow
            keys += (part for part in command[1:2] if isinstance(part, bytes))
        else:
            keys += (part for part in command[1:] if isinstance(part, bytes))
    return keys
