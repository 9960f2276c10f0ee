"""When the keys of a namespace expire, by the server's clock, and which of them are due. No I/O."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

_SLACK = 1000


class Expiries:
    """Times of expiry, in ms since 1970."""

    def __init__(self) -> None:
        self._at: dict[bytes, int] = {}
        self._heap: list[tuple[int, bytes]] = []
        """Has an entry for each time that was ever expected; those that hold no more are passed over."""
        self._taken: dict[bytes, None] = {}
        """Keys that were due, until they are forgotten."""

    def __len__(self) -> int:
        return len(self._at)

    def expect(self, name: bytes, at_ms: int) -> None:
        """A key expires then."""
        if self._at.get(name) == at_ms:
            return
        self._at[name] = at_ms
        heapq.heappush(self._heap, (at_ms, name))
        if len(self._heap) > 2 * len(self._at) + _SLACK:
            self._heap = [(at, key) for key, at in self._at.items()]
            heapq.heapify(self._heap)

    def forget(self, name: bytes) -> None:
        """A key expires no more, or is gone."""
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
        """When to look again."""
        heap = self._heap
        while heap and heap[0][1] not in self._at:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def is_due(self, server_ms: int) -> bool:
        """Whether it is time to look."""
        at_ms = self.next()
        return at_ms is not None and at_ms <= server_ms

    def take_due(self, server_ms: int, most: int, again_ms: int) -> list[bytes]:
        """Return keys that should have expired; they come up again later, unless they are forgotten."""
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
        """Have keys that were taken come up again then."""
        for name in names:
            heapq.heappush(self._heap, (at_ms, name))

    def pending(self, server_ms: int) -> bool:
        """Whether keys should have expired of which nothing has been told yet."""
        self._taken = {name: None for name in self._taken if self.is_past(name, server_ms)}
        return bool(self._taken) or self.is_due(server_ms)
