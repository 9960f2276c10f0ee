"""The timeline: a bounded record of the calls of a run and its nested runs. Cheap to write; converted when it is read."""

from __future__ import annotations

import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import Generic, NamedTuple, TypeVar

from redis_store.namespace.keys import MAX_NAMESPACE_BYTES
from sandbox.masking import PREVIEW_SOURCE_BYTES, Hidden
from sandbox.result import Call, Operation

T = TypeVar("T")

KEY_CHARACTERS = 256
"""Maximum length of a key in the timeline, in characters; a longer key is cut."""
NAMESPACE_CHARACTERS = MAX_NAMESPACE_BYTES
"""Maximum length of a namespace in the timeline, in characters; a longer name, which no store accepts, is cut."""


class Who(NamedTuple):
    """The agent and the run id of one agent process."""

    agent: str
    run: str


class OperationDone(NamedTuple):
    """A call of the store, as recorded; its fields are in the order of those of `Operation`."""

    time: float
    who: Who
    operation: str
    namespace: str
    key: str | None
    keys: int
    hit: bool | None
    size: int
    duration_ms: float
    error: str | None
    value: bytes | None
    kept: int = 0


class Called(NamedTuple):
    """A call of a tool or an agent, as recorded; its fields are in the order of those of `sandbox.Call`."""

    time: float
    who: Who
    kind: str
    name: str
    duration_ms: float
    error: str | None
    nested_run: str | None


class Begun:
    """The moment at which a call began that is recorded when it ends."""

    __slots__ = ("_start", "time")

    def __init__(self) -> None:
        self.time, self._start = time.time(), time.perf_counter()

    def lasted_ms(self) -> float:
        """Return the time since then, in milliseconds."""
        return (time.perf_counter() - self._start) * 1000


class Bounded(Generic[T]):
    """A list that keeps the first and the last items added, and counts those it drops."""

    def __init__(self, size: int) -> None:
        self._most = (size + 1) // 2
        self._first: list[T] = []
        self._last: deque[T] = deque(maxlen=size // 2)
        self._lock = threading.RLock()
        self.left_out = 0

    def add(self, item: T) -> None:
        """Add an item. Safe to call from any thread."""
        with self._lock:
            if len(self._first) < self._most:
                self._first.append(item)
                return
            if len(self._last) == self._last.maxlen:
                self.left_out += 1
            self._last.append(item)

    def items(self) -> list[T]:
        """Return the items kept."""
        with self._lock:
            return [*self._first, *self._last]


class Timeline:
    """The calls of a tree of runs."""

    def __init__(self, size: int) -> None:
        self.done: Bounded[OperationDone] = Bounded(size)
        self.called: Bounded[Called] = Bounded(size)

    def note_operation(
        self,
        who: Who,
        begun: Begun,
        operation: str,
        namespace: str,
        key: str | None,
        keys: int = 0,
        hit: bool | None = None,
        size: int = 0,
        error: str | None = None,
        value: bytes | None = None,
    ) -> None:
        """Record a call of the store that has just ended."""
        shown = shortened(namespace, NAMESPACE_CHARACTERS), None if key is None else shortened(key)
        start = None if value is None else value[: PREVIEW_SOURCE_BYTES + 1]
        self.done.add(
            OperationDone(begun.time, who, operation, *shown, keys, hit, size, begun.lasted_ms(), error, start)
        )

    def note_call(
        self, who: Who, begun: Begun, kind: str, name: str, error: str | None, nested_run: str | None = None
    ) -> None:
        """Record a call of a tool or an agent that has just ended."""
        self.called.add(Called(begun.time, who, kind, name, begun.lasted_ms(), error, nested_run))

    def operations(self) -> list[Operation]:
        """Return the calls of the store in order of time."""
        return [_operation(done) for done in sorted(self.done.items(), key=_time)]

    def calls(self) -> list[Call]:
        """Return the calls of tools and agents in order of time."""
        return [_call(called) for called in sorted(self.called.items(), key=_time)]


def _time(record: OperationDone | Called) -> float:
    return record.time


def shortened(text: str, most: int = KEY_CHARACTERS) -> str:
    """Return a text cut to `most` characters: hostile texts as long as a frame would fill the host's memory."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _operation(done: OperationDone) -> Operation:
    value = None if done.value is None else Hidden(done.value, done.key)
    return Operation(moment(done.time), done.who.agent, *done[2:10], done.who.run, value, done.kept)


def _call(called: Called) -> Call:
    return Call(moment(called.time), called.who.agent, *called[2:6], called.who.run, called.nested_run)


def moment(seconds: float) -> datetime:
    """Return a Unix timestamp in seconds as a time in UTC."""
    return datetime.fromtimestamp(seconds, UTC)
