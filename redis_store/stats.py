"""Counters of a store, and the record that `DataStore.stats` returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counts of one store in this process since it was opened, over all of its namespaces and handles.

    The first eight only grow.
    """

    hits: int
    """Values that `get`, `get_many`, `get_or_set` and cached functions found."""
    misses: int
    """Values that they did not find."""
    near_hits: int
    """Hits and misses that the near cache answered without asking the server."""
    computes: int
    """Calls of the functions given to `get_or_set`, and of cached functions, in this process."""
    compute_errors: int
    """Calls among these that raised, or returned a value that could not be stored."""
    waits: int
    """Calls of `get_or_set` that waited for another caller's result."""
    bytes_read: int
    """Bytes of the values read from the server, as JSON text or, if compressed, as compressed."""
    bytes_written: int
    """Bytes of the values stored, counted in the same way."""
    near_entries: int
    """Entries in the near cache now, for all stores that share it."""
    near_bytes: int
    """Approximate memory taken by these entries, in bytes."""
    near_live: bool
    """Whether the near cache is connected, so that it can answer."""

    @property
    def hit_ratio(self) -> float:
        """Hits divided by hits and misses, from 0 to 1; 0 if there are neither."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0


@dataclass(slots=True, weakref_slot=True, eq=False)
class Counters:
    """The first eight numbers of `StoreStats`, shared by all handles of a store.

    Threads increment them without a lock: CPython switches threads only at calls and jumps, and ``counter.hits += 1``
    contains neither.
    """

    hits: int = 0
    misses: int = 0
    near_hits: int = 0
    computes: int = 0
    compute_errors: int = 0
    waits: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    def add(self, other: Counters) -> None:
        """Add the counts of another store."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def read(self, text: bytes | None) -> None:
        """Count one value read from the server; None is a miss."""
        if text is None:
            self.misses += 1
        else:
            self.hits += 1
            self.bytes_read += len(text)

    def read_many(self, texts: list[bytes | None]) -> None:
        """Count the values that one call read from the server."""
        found = [len(text) for text in texts if text is not None]
        self.hits += len(found)
        self.misses += len(texts) - len(found)
        self.bytes_read += sum(found)

    def shown(self, near_entries: int, near_bytes: int, near_live: bool) -> StoreStats:
        """Return a record of the current counts."""
        return StoreStats(**asdict(self), near_entries=near_entries, near_bytes=near_bytes, near_live=near_live)


REPORTED_HITS = 1000
"""Hits of a namespace after which a process reports them, if it computes nothing there meanwhile."""

MOST_COUNTED = 10_000
"""Bound on the namespaces whose hits one client counts at a time; beyond it, the counts begin anew."""


class HitCounts(dict[bytes, int]):
    """Hits of `get_or_set` that are not reported to the server yet, by the Redis key of the namespace's data.

    All stores of a client share it. Threads increment it without a lock, as they do `Counters`: no call comes between the look
    and the store.
    """

    def __missing__(self, data: bytes) -> int:
        if len(self) >= MOST_COUNTED:
            self.clear()
        return 0
