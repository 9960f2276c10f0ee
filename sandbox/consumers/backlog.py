"""Which changes may be worked on next, and how far a consumer has come. No I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from redis_store.types import Change, Json
from redis_store.values import rules

MOST_OPEN = 1000
"""So many changes may be open: taken from the watch, and not yet behind the cursor."""

BATCH_BYTES = 8 * 1024 * 1024
"""A batch is not filled further where its values take so much."""


@dataclass(slots=True, eq=False)
class Item:
    """One change, from the time when it is taken until it is behind the cursor."""

    change: Change
    """Its value is JSON text, in bytes, or None."""
    done: bool = False

    @property
    def size_bytes(self) -> int:
        """Bytes of the value."""
        return len(self.change.value) if isinstance(self.change.value, bytes) else 0

    def as_json(self) -> dict[str, Json]:
        """Return the change as an agent gets it; raises `ValueError` where the value is not JSON."""
        change = self.change
        value = rules.load(change.value) if isinstance(change.value, bytes) else change.value
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
    """The open changes of one consumer, in the order in which they came.

    A key is worked on by one batch at a time, and a `clear` or `reset`, which is about all keys, waits for what came before it
    and holds up what comes after. So nothing about a key overtakes anything else about it.
    """

    def __init__(self) -> None:
        self._open: deque[Item] = deque()
        self._waiting: list[Item] = []
        self._busy: set[str | None] = set()

    @property
    def room(self) -> int:
        """How many more changes may be added."""
        return max(0, MOST_OPEN - len(self._open))

    def add(self, change: Change, *, skip: bool = False) -> None:
        """Take in a change; one that is skipped is done."""
        item = Item(change, done=skip)
        self._open.append(item)
        if not skip:
            self._waiting.append(item)

    def next_batch(self, most: int) -> list[Item]:
        """Return what can be worked on now, in order, and at most so much; nothing while all of it has to wait."""
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
        """Take note that a batch is done; the change behind which the cursor may move now, if it may move."""
        for item in batch:
            item.done = True
        self._busy -= {item.change.key for item in batch}
        return self.settle()

    def give_up(self, batch: list[Item]) -> None:
        """Take note that a batch was left undone, and stays before the cursor."""
        self._busy -= {item.change.key for item in batch}

    def settle(self) -> Change | None:
        """Forget what is done without a gap before it, and return the last of it."""
        last: Change | None = None
        while self._open and self._open[0].done:
            last = self._open.popleft().change
        return last

    def clear(self) -> None:
        """Forget everything: another process does it."""
        self._open.clear()
        self._waiting = []
