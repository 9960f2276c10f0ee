"""Expiry times of a namespace's keys, by the server's clock. No I/O."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

_SLACK = 1000


class Expiries:
    """A heap of expiry times, in ms since 1970."""

    def __init__(self) -> None:
        self._at: dict[bytes, int] = {}
        self._heap: list[tuple[int, bytes]] = []
        """Holds an entry for each time ever expected. Outdated entries are skipped."""
        self._taken: dict[bytes, None] = {}
        """Keys returned by `take_due`, until they are forgotten."""

    def __len__(self) -> int:
        return len(self._at)

    def expect(self, name: bytes, at_ms: int) -> None:
        """Note when a key expires."""
        if self._at.get(name) == at_ms:
            return
        self._at[name] = at_ms
        heapq.heappush(self._heap, (at_ms, name))
        if len(self._heap) > 2 * len(self._at) + _SLACK:
            self._heap = [(at, key) for key, at in self._at.items()]
            heapq.heapify(self._heap)

    def forget(self, name: bytes) -> None:
        """Forget a key that is gone, or that no longer expires."""
        self._at.pop(name, None)

    def clear(self) -> None:
        self._at.clear()
        self._heap.clear()
        self._taken.clear()

    def is_past(self, name: bytes, server_ms: int) -> bool:
        """Whether a key must have expired by now."""
        at = self._at.get(name)
        return at is not None and at <= server_ms

    def next(self) -> int | None:
        """Return the earliest time in the heap, or None."""
        heap = self._heap
        while heap and heap[0][1] not in self._at:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def is_due(self, server_ms: int) -> bool:
        """Whether any time in the heap has passed."""
        at_ms = self.next()
        return at_ms is not None and at_ms <= server_ms

    def take_due(self, server_ms: int, most: int, again_ms: int) -> list[bytes]:
        """Return up to `most` keys that should have expired. They are due again after `again_ms`, unless they are forgotten."""
        names: dict[bytes, None] = {}
        heap = self._heap
        while heap and heap[0][0] <= server_ms and len(names) < most:
            _, name = heapq.heappop(heap)
            if self.is_past(name, server_ms):
                names[name] = None
        self.again(names, server_ms + again_ms)
        self._taken = {name: None for name in (*self._taken, *names) if self.is_past(name, server_ms)}
        return list(names)

    def again(self, names: Iterable[bytes], at_ms: int) -> None:
        """Make keys due again at a time."""
        for name in names:
            heapq.heappush(self._heap, (at_ms, name))

    def pending(self, server_ms: int) -> bool:
        """Whether any key should have expired and its expiry has not been logged yet."""
        self._taken = {name: None for name in self._taken if self.is_past(name, server_ms)}
        return bool(self._taken) or self.is_due(server_ms)
