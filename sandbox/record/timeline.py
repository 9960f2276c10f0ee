"""The record of what the runs of a tree did: bounded, cheap to write, put into words when it is asked for."""

from __future__ import annotations

import threading
from collections import deque
from datetime import UTC, datetime
from typing import Generic, NamedTuple, TypeVar

from redis_store.namespace.keys import MAX_NAMESPACE_BYTES
from sandbox.masking import Hidden
from sandbox.result import Call, Operation

T = TypeVar("T")

KEY_CHARACTERS = 256
"""A longer key is cut in the timeline."""
NAMESPACE_CHARACTERS = MAX_NAMESPACE_BYTES
"""A longer namespace, which no store has, is cut in the timeline."""


class Who(NamedTuple):
    """One process of a tree: the agent in it and the id of its run."""

    agent: str
    run: str


class OperationDone(NamedTuple):
    """A call of the store, as it is noted down."""

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


class Called(NamedTuple):
    """A call of a tool or an agent, as it is noted down."""

    time: float
    who: Who
    kind: str
    name: str
    duration_ms: float
    error: str | None
    nested_run: str | None


class Bounded(Generic[T]):
    """A list that keeps the first and the last of what is added, and counts what it forgets."""

    def __init__(self, size: int) -> None:
        self._most = (size + 1) // 2
        self._first: list[T] = []
        self._last: deque[T] = deque(maxlen=size // 2)
        self._lock = threading.Lock()
        self.left_out = 0

    def add(self, item: T) -> None:
        """Keep an item; from any thread."""
        with self._lock:
            if len(self._first) < self._most:
                self._first.append(item)
                return
            if len(self._last) == self._last.maxlen:
                self.left_out += 1
            self._last.append(item)

    def items(self) -> list[T]:
        """Return what was kept."""
        with self._lock:
            return [*self._first, *self._last]


class Timeline:
    """What happened in a tree of runs."""

    def __init__(self, size: int) -> None:
        self.done: Bounded[OperationDone] = Bounded(size)
        self.called: Bounded[Called] = Bounded(size)

    def operations(self) -> list[Operation]:
        """Return the calls of the store in order of time."""
        return [_operation(done) for done in sorted(self.done.items(), key=_time)]

    def calls(self) -> list[Call]:
        """Return the calls of tools and agents in order of time."""
        return [_call(called) for called in sorted(self.called.items(), key=_time)]


def _time(record: OperationDone | Called) -> float:
    return record.time


def shortened(text: str, most: int = KEY_CHARACTERS) -> str:
    """Return a text as the timeline keeps it: hostile ones, of a whole frame each, would fill the host's memory."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _operation(done: OperationDone) -> Operation:
    return Operation(
        moment(done.time),
        done.who.agent,
        done.operation,
        done.namespace,
        done.key,
        done.keys,
        done.hit,
        done.size,
        done.duration_ms,
        done.error,
        done.who.run,
        None if done.value is None else Hidden(done.value, done.key),
    )


def _call(called: Called) -> Call:
    agent, run = called.who
    return Call(
        moment(called.time),
        agent,
        called.kind,
        called.name,
        called.duration_ms,
        called.error,
        run,
        called.nested_run,
    )


def moment(seconds: float) -> datetime:
    """Return a reading of the clock as a time in UTC."""
    return datetime.fromtimestamp(seconds, UTC)
