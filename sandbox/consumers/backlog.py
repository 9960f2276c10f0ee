"""The backlog of a consumer: which changes may be processed next, and how far the cursor may move. No I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from redis_store.errors import CorruptValue, StoredDataError
from redis_store.types import Change, Json
from redis_store.values import rules

MOST_OPEN = 1000
"""Limit of open changes: those taken from the watch that the cursor has not passed yet."""

BATCH_BYTES = 8 * 1024 * 1024
"""Size limit of the values in a batch, in bytes; a single larger change is a batch of its own."""


@dataclass(slots=True, eq=False)
class Item:
    """One change, from the time when it is taken until the cursor has passed it."""

    change: Change
    """The change; its value is JSON text as bytes, the error of stored bytes that cannot be unpacked, or None."""
    done: bool = False

    @property
    def size_bytes(self) -> int:
        """Size of the value, in bytes."""
        return len(self.change.value) if isinstance(self.change.value, bytes) else 0

    def as_json(self) -> dict[str, Json]:
        """Return the change as an agent gets it; raises `StoredDataError` if the value is not JSON."""
        change = self.change
        if isinstance(change.value, StoredDataError):
            raise change.value
        try:
            value = rules.load(change.value) if isinstance(change.value, bytes) else change.value
        except (ValueError, RecursionError, MemoryError):
            raise CorruptValue(
                f"The value of {(change.key or '')[:200]!r} is not JSON: set it again, or delete it."
            ) from None
        return {
            "namespace": change.namespace,
            "key": change.key,
            "op": change.op,
            "value": value,
            "cursor": change.cursor,
            "agent": change.agent,
            "run": change.run,
        }


class Backlog:
    """The open changes of one consumer, in order of arrival.

    A key is in one batch at a time. A `clear` or `reset`, which concerns all keys, waits for the changes before it and holds
    back those after it. So the changes of a key are always processed in order.
    """

    def __init__(self) -> None:
        self._open: deque[Item] = deque()
        self._waiting: list[Item] = []
        self._busy: set[str | None] = set()

    @property
    def room(self) -> int:
        """Number of changes that may still be added."""
        return max(0, MOST_OPEN - len(self._open))

    def add(self, change: Change, *, skip: bool = False) -> None:
        """Add a change; a skipped one counts as done."""
        item = Item(change, done=skip)
        self._open.append(item)
        if not skip:
            self._waiting.append(item)

    def next_batch(self, most: int) -> list[Item]:
        """Return at most `most` changes that can be processed now, in order; empty while all of them must wait."""
        if None in self._busy:
            return []
        batch: list[Item] = []
        left: list[Item] = []
        kept_back: set[str | None] = set()
        size = 0
        for at, item in enumerate(self._waiting):
            key = item.change.key
            full = len(batch) >= most or (batch and size + item.size_bytes > BATCH_BYTES)
            if full or (key is None and (left or self._busy)):
                left += self._waiting[at:]
                break
            if key in self._busy or key in kept_back:
                kept_back.add(key)
                left.append(item)
            else:
                batch.append(item)
                size += item.size_bytes
        self._waiting = left
        self._busy |= {item.change.key for item in batch}
        return batch

    def finish(self, batch: list[Item]) -> Change | None:
        """Mark a batch as done, and return the change that the cursor may move to, if it may move."""
        for item in batch:
            item.done = True
        self._busy -= {item.change.key for item in batch}
        return self.settle()

    def give_up(self, batch: list[Item]) -> None:
        """Release the keys of a batch that was not done; its changes stay ahead of the cursor."""
        self._busy -= {item.change.key for item in batch}

    def settle(self) -> Change | None:
        """Remove the leading changes that are done, and return the last of them."""
        last: Change | None = None
        while self._open and self._open[0].done:
            last = self._open.popleft().change
        return last

    def clear(self) -> None:
        """Remove all changes, because another process has become the consumer."""
        self._open.clear()
        self._waiting = []
