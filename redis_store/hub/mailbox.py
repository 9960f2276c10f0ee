"""What a hub hands to a watcher: a bounded queue between threads, and what may lie in it."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from redis_store.changelog.entry import LogEntry, Position
from redis_store.errors import DataStoreError
from redis_store.namespace.keys import NamespaceKeys

MOST_CHANGES = 10_000
MAILBOX_BYTES = 32 * 1024 * 1024
"""So much may wait for a watcher that does not read; what comes then is dropped and counted."""


class Opened(NamedTuple):
    """A namespace is followed from here on."""

    keys: NamespaceKeys
    epoch: bytes
    position: Position
    fresh: bool
    """It came into being while all namespaces were watched."""
    empty: bool
    """It holds nothing at this position."""


class Delivery(NamedTuple):
    """Entries of a namespace's log, whose values have been read."""

    feed: bytes
    entries: list[LogEntry]
    changes: int
    size_bytes: int

    @classmethod
    def of(cls, feed: bytes, entries: list[LogEntry]) -> Delivery:
        """Weigh entries."""
        changes = sum(len(entry.news) for entry in entries)
        texts = (news[2] for news in itertools.chain.from_iterable(entry.news for entry in entries) if news is not None)
        return cls(feed, entries, changes, 200 * changes + sum(len(text) for text in texts if text is not None))


class HistoryGone(NamedTuple):
    """What happened in a namespace is not known: its log is another, or the position is no longer in it."""

    feed: bytes
    epoch: bytes


class Suspicion(NamedTuple):
    """Somebody may have written to a namespace by hand."""

    feed: bytes


class Listed(NamedTuple):
    """All namespaces that there are have been opened."""


class Overflow(NamedTuple):
    """Too much waited: what came behind this was dropped."""


class Replaced(NamedTuple):
    """Another process has become the consumer."""


class WatchFailed(NamedTuple):
    """The watcher is refused: the hub could not begin, or it would have to follow too much for it."""

    error: DataStoreError


class Closed(NamedTuple):
    """There will be no more."""


Item: TypeAlias = Opened | Delivery | HistoryGone | Suspicion | Listed | Overflow | Replaced | WatchFailed | Closed


class NamespaceBudget:
    """How many namespaces the watchers that share it may follow together, those that were emptied meanwhile included.

    What is `taken` is for the hub alone to count; a watcher of all namespaces that would need more than `most` is refused.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0


class Mailbox:
    """The queue of one watcher; the hub's thread puts, the watcher's takes."""

    def __init__(self, *, resumes: bool = False, light: bool = False, wake: Callable[[], None] | None = None) -> None:
        self.resumes = resumes
        """It wants to know what happened before it came."""
        self.light = light
        """It looks for itself on suspicion, so that nothing has to be remembered for it."""
        self.lock: tuple[bytes, bytes, str] | None = None
        """The lock and the cursors of the consumer that it works as, and who it is: the lock is to be kept alive."""
        self.budget: NamespaceBudget | None = None
        """Bounds what its watcher may follow; None for as much as there is."""
        self.spared = False
        """It has waited for its beginning through a broken connection already."""
        self._wake = wake
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._put_changes = self._put_bytes = 0
        self._taken_changes = self._taken_bytes = 0
        self._full = False
        self._missed = 0
        self.closed = False

    def put(self, item: Item) -> None:
        """Add an item without a size."""
        self._queue.put(item)
        if self._wake is not None:
            self._wake()

    def deliver(self, delivery: Delivery) -> None:
        """Add entries, or count what is dropped because nobody reads.

        What comes at once is taken whole, so that a transaction bigger than the queue is no overflow.
        """
        if self._full:
            self._missed += delivery.changes
            return
        if (
            self._put_changes - self._taken_changes >= MOST_CHANGES
            or self._put_bytes - self._taken_bytes >= MAILBOX_BYTES
        ):
            self._full = True
            self._missed = delivery.changes
            self.put(Overflow())
            return
        self._put_changes += delivery.changes
        self._put_bytes += delivery.size_bytes
        self.put(delivery)

    def take(self, timeout_s: float | None) -> Item | None:
        """Return the next item, None where none comes in time; 0 does not wait."""
        try:
            item = self._queue.get(timeout_s != 0, timeout_s)
        except queue.Empty:
            return None
        if type(item) is Delivery:
            self._taken_changes += item.changes
            self._taken_bytes += item.size_bytes
        return item

    def reopen(self) -> int:
        """After an overflow: take again what comes, and tell how many changes were dropped."""
        missed, self._missed = self._missed, 0
        self._full = False
        return missed

    def close(self) -> None:
        """Let whoever waits, and whoever will, know that there is no more."""
        self.closed = True
        self.put(Closed())
