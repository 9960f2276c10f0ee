"""What a store counts, and the record in which `DataStore.stats` shows it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["StoreStats"]


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What one store has done in this process, its other namespaces and handles included, since it was opened.

    Bytes are those of values as JSON text. The first eight only grow.
    """

    hits: int
    """Values that `get`, `get_many`, `get_or_set` and cached functions asked for and found."""
    misses: int
    """Values that they asked for and that were not there."""
    near_hits: int
    """How many of those answers, of either kind, came from the near cache, without asking the server."""
    computes: int
    """How often a function of `get_or_set` or a cached function was called here."""
    compute_errors: int
    """How many of these raised, or gave what could not be stored."""
    waits: int
    """How often a caller of `get_or_set` waited for somebody else's result."""
    bytes_read: int
    """Bytes of the values found that came from the server: JSON text, or what it was compressed to."""
    bytes_written: int
    """Bytes of the values in calls that stored any, in the same way."""
    near_entries: int
    """What the near cache holds now, for all that share it."""
    near_bytes: int
    """How much memory these entries take, about."""
    near_live: bool
    """Whether the near cache is connected, so that it may answer."""

    @property
    def hit_ratio(self) -> float:
        """The part of the values asked for that were there; 0 where none was asked for."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0


class Counters:
    """The numbers behind `StoreStats`, shared by all handles of a store.

    Threads add to them without a lock: CPython switches between threads at calls and jumps only, and ``counter.hits += 1``
    holds neither.
    """

    __slots__ = (
        "__weakref__",
        "bytes_read",
        "bytes_written",
        "compute_errors",
        "computes",
        "hits",
        "misses",
        "near_hits",
        "waits",
    )

    def __init__(self) -> None:
        self.hits = self.misses = self.near_hits = 0
        self.computes = self.compute_errors = self.waits = 0
        self.bytes_read = self.bytes_written = 0

    def add(self, other: Counters) -> None:
        """Add another's numbers to these."""
        for name in self.__slots__:
            if name != "__weakref__":
                setattr(self, name, getattr(self, name) + getattr(other, name))

    def read(self, text: bytes | None) -> None:
        """Count one answer of the server."""
        if text is None:
            self.misses += 1
        else:
            self.hits += 1
            self.bytes_read += len(text)

    def read_many(self, texts: list[bytes | None]) -> None:
        """Count the answers of the server to one call."""
        found = [len(text) for text in texts if text is not None]
        self.hits += len(found)
        self.misses += len(texts) - len(found)
        self.bytes_read += sum(found)

    def shown(self, near_entries: int, near_bytes: int, near_live: bool) -> StoreStats:
        """Return the numbers of this moment."""
        return StoreStats(
            self.hits,
            self.misses,
            self.near_hits,
            self.computes,
            self.compute_errors,
            self.waits,
            self.bytes_read,
            self.bytes_written,
            near_entries,
            near_bytes,
            near_live,
        )
