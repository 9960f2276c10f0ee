"""Mailboxes: bounded queues from a hub's thread to its watchers, and the items in them."""

from __future__ import annotations

import itertools
import queue
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from redis_store.changelog.consumers import CURSORS_MS
from redis_store.changelog.entry import LogEntry, Position
from redis_store.errors import DataStoreError, LimitExceeded
from redis_store.namespace.keys import NamespaceKeys

MOST_CHANGES = 10_000
MAILBOX_BYTES = 32 * 1024 * 1024
"""Limit on the size of a watcher's unread changes, in bytes. Changes beyond it are dropped and counted."""


class Opened(NamedTuple):
    """The start of a namespace: its changes follow from this position on."""

    keys: NamespaceKeys
    epoch: bytes
    position: Position
    fresh: bool
    """Whether the namespace was created while all namespaces were watched."""
    empty: bool
    """Whether the namespace holds nothing at this position."""


class Delivery(NamedTuple):
    """Log entries of a namespace, with their values."""

    feed: bytes
    entries: list[LogEntry]
    changes: int
    size_bytes: int

    @classmethod
    def of(cls, feed: bytes, entries: list[LogEntry]) -> Delivery:
        """Wrap entries, and estimate their size."""
        changes = sum(len(entry.news) for entry in entries)
        texts = (news[2] for news in itertools.chain.from_iterable(entry.news for entry in entries) if news is not None)
        return cls(feed, entries, changes, 200 * changes + sum(len(text) for text in texts if text is not None))


class HistoryGone(NamedTuple):
    """A loss of history: the namespace has a new log, or the position is no longer in it. The watcher gives a reset."""

    feed: bytes
    epoch: bytes


class Suspicion(NamedTuple):
    """A possible external write to a namespace."""

    feed: bytes


class Listed(NamedTuple):
    """The end of the first listing: all existing namespaces have been opened."""


class Overflow(NamedTuple):
    """A full mailbox: changes after this item were dropped."""


class Replaced(NamedTuple):
    """The loss of the consumer to another process."""


class WatchFailed(NamedTuple):
    """A refusal: the hub could not begin, or the watcher would exceed its budget of namespaces."""

    error: DataStoreError


class Closed(NamedTuple):
    """The end: nothing follows."""


Item: TypeAlias = Opened | Delivery | HistoryGone | Suspicion | Listed | Overflow | Replaced | WatchFailed | Closed


class NamespaceBudget:
    """A limit on the number of namespaces that several watchers follow together. Namespaces emptied meanwhile still count.

    Only the hub changes `taken`. A watcher that would need more than `most` is refused.
    """

    def __init__(
        self,
        most: int,
        within: NamespaceBudget | None = None,
        spend: Callable[[Sequence[bytes]], None] | None = None,
    ) -> None:
        """`within` is a budget that holds for further watchers. `spend` is told the names, and raises to refuse them."""
        self.most = most
        self.taken = 0
        self._within = within
        self._spend = spend

    def take(self, names: Sequence[bytes]) -> None:
        """Take namespaces by their names; raises `LimitExceeded` and takes none if there are too many."""
        if self.taken + len(names) > self.most:
            raise LimitExceeded(
                f"At most {self.most:,} namespaces can be watched at once here, and there are more: pass a longer prefix, or"
                " watch one namespace at a time.",
                limit="watched_namespaces",
                limit_count=self.most,
            )
        if self._spend is not None:
            self._spend(names)
        if self._within is not None:
            self._within.take(names)
        self.taken += len(names)

    def give_back(self) -> None:
        """Give back a namespace."""
        self.taken -= 1
        if self._within is not None:
            self._within.give_back()


class Mailbox:
    """The queue of one watcher. The hub's thread puts items in, and the watcher's thread takes them.

    The watcher looks at an item (`peek`) and removes it (`drop`) when it has recorded what follows from it, because a signal
    handler may raise at any point in between.
    """

    def __init__(self, *, light: bool = False, wake: Callable[[], None] | None = None) -> None:
        self.resumes = False
        """Whether the watcher resumes from a cursor."""
        self.light = light
        """Whether the watcher reads keys itself on a suspicion, so that the hub needs no digests for it."""
        self.lock: tuple[bytes, bytes, str] | None = None
        """For a consumer: the Redis keys of its lock and its cursors, and its holder. The hub renews the lock."""
        self.cursors_ms = CURSORS_MS
        """For a consumer: the time for which its cursors are kept, in ms."""
        self.budget: NamespaceBudget | None = None
        """The limit on the watcher's namespaces, or None for no limit."""
        self.spared_until: float | None = None
        """The time until which the watcher's beginning survives broken connections, since it has survived one."""
        self.left = False
        """Whether the watcher has left its hub, or is about to."""
        self._wake = wake
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._next: deque[Item] = deque()
        """The item at the front, once the watcher has seen it."""
        self._put_changes = self._put_bytes = 0
        self._taken_changes = self._taken_bytes = 0
        self.full = False
        """Whether deliveries are dropped, until the watcher has seen the `Overflow`."""
        self.missed = 0
        """Number of changes dropped since then."""
        self.closed = False

    def is_spared(self, now: float, patience_s: float) -> bool:
        """Whether the watcher's beginning survives a broken connection: the first one, and later ones within this time."""
        if self.spared_until is None:
            self.spared_until = now + patience_s
            return True
        return now < self.spared_until

    def put(self, item: Item) -> None:
        """Add an item without a size."""
        self._queue.put(item)
        if self._wake is not None:
            self._wake()

    def deliver(self, delivery: Delivery) -> None:
        """Add entries, or drop and count their changes if the mailbox is full.

        One delivery is added whole, so that a transaction bigger than the limit causes no overflow.
        """
        if self.full:
            self.missed += delivery.changes
            return
        if (
            self._put_changes - self._taken_changes >= MOST_CHANGES
            or self._put_bytes - self._taken_bytes >= MAILBOX_BYTES
        ):
            self.full = True
            self.missed = delivery.changes
            self.put(Overflow())
            return
        self._put_changes += delivery.changes
        self._put_bytes += delivery.size_bytes
        self.put(delivery)

    def peek(self, timeout_s: float | None) -> Item | None:
        """Return the next item, or None if none arrives in time. A timeout of 0 does not wait."""
        if not self._next:
            try:
                # One call of C moves the item, so that no signal handler can raise while it is in neither place.
                self._next.extend(map(self._queue.get, (timeout_s != 0,), (timeout_s,)))
            except queue.Empty:
                return None
        return self._next[0]

    def drop(self, item: Item) -> None:
        """Remove an item that was peeked at. Repeating it is harmless."""
        if self._next and self._next[0] is item:
            if type(item) is Delivery:
                self._taken_changes += item.changes
                self._taken_bytes += item.size_bytes
            self._next.popleft()

    def take(self, timeout_s: float | None) -> Item | None:
        """Return the next item as `peek` does, and remove it."""
        item = self.peek(timeout_s)
        if item is not None:
            self.drop(item)
        return item

    def reopen(self) -> None:
        """Accept deliveries again after an overflow."""
        self.missed = 0
        self.full = False

    def close(self) -> None:
        """End the mailbox, and wake its reader."""
        self.closed = True
        self.put(Closed())
