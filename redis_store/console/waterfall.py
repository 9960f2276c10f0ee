"""The timeline of a run that is kept, as the rows of a waterfall: a bar for each call, below the run that made it.

Calls of one kind that follow one another are one row, unless each is asked for. Places are in units of a drawing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from redis_store.admin import KeptCall, KeptOperation, KeptRun

BAR_UNITS = 1000
"""Width of the drawing of a row, in units."""

SHORTEST_BAR = 4
"""Width of the bar of a call that took no time, in units."""

FOLDED_FROM = 4
"""Calls of one kind in a row, from which on they are one row."""

DEEPEST_INDENT = 8
"""Levels of nested runs that are indented; deeper ones are as far."""


@dataclass(frozen=True, slots=True)
class WaterfallRow:
    """A row: a run, a call, or several calls of one kind."""

    kind: str
    """``run``, ``agent``, ``tool`` or ``store``."""
    depth: int
    name: str
    run: str
    """The run that the row is about, of an agent; else the one that made the call."""
    begins_ms: float
    took_ms: float
    error: str | None
    bars: tuple[tuple[float, float], ...]
    """The place and the width of each bar, in units."""
    operations: tuple[KeptOperation, ...] = ()
    """The calls of the store that the row is about."""

    @property
    def operation(self) -> KeptOperation | None:
        """The only call of the store that the row is about, or None."""
        return self.operations[0] if len(self.operations) == 1 else None


def rows_of(run: KeptRun, *, folded: bool = True) -> list[WaterfallRow]:
    """Return the rows of a run."""
    return list(_Waterfall(run, folded).rows())


def total_ms(run: KeptRun) -> float:
    """Return the time that the whole drawing stands for, in ms."""
    happened: list[KeptOperation | KeptCall] = [*run.operations, *run.calls]
    ends = [(one.time - run.started).total_seconds() * 1000 + one.duration_ms for one in happened]
    return max([run.duration * 1000, 0.001, *ends])


class _Waterfall:
    def __init__(self, run: KeptRun, folded: bool) -> None:
        self._run = run
        self._folded = folded
        self._total_ms = total_ms(run)
        self._left: dict[str, list[KeptOperation | KeptCall]] = defaultdict(list)
        happened: list[KeptOperation | KeptCall] = [*run.operations, *run.calls]
        for one in sorted(happened, key=lambda one: one.time):
            self._left[one.run].append(one)

    def rows(self) -> Iterator[WaterfallRow]:
        run = self._run
        error = None if run.error is None else run.error.type
        yield self._row("run", 0, run.agent, run.run, run.started, run.duration * 1000, error)
        yield from self._below(run.run, 1)
        while self._left:  # runs whose call is left out of the record
            other = next(iter(self._left))
            first = self._left[other][0]
            yield self._row("agent", 1, first.agent, other, first.time, 0.0, None)
            yield from self._below(other, 2)

    def _below(self, run: str, depth: int) -> Iterator[WaterfallRow]:
        for _, some in groupby(self._left.pop(run, []), key=_kind_of):
            calls = list(some)
            operations = tuple(one for one in calls if isinstance(one, KeptOperation))
            if self._folded and len(operations) >= FOLDED_FROM:
                yield self._folded_row(depth, operations)
                continue
            for one in calls:
                if isinstance(one, KeptOperation):
                    yield self._row("store", depth, one.operation, run, one.time, one.duration_ms, one.error, (one,))
                else:
                    kind = "tool" if one.nested_run is None else "agent"
                    yield self._row(kind, depth, one.name, one.nested_run or run, one.time, one.duration_ms, one.error)
                    if one.nested_run is not None:
                        yield from self._below(one.nested_run, depth + 1)

    def _row(
        self,
        kind: str,
        depth: int,
        name: str,
        run: str,
        begun: datetime,
        took_ms: float,
        error: str | None,
        operations: tuple[KeptOperation, ...] = (),
    ) -> WaterfallRow:
        begins_ms = self._after_start_ms(begun)
        bars = (self._bar(begins_ms, took_ms),)
        return WaterfallRow(kind, min(depth, DEEPEST_INDENT), name, run, begins_ms, took_ms, error, bars, operations)

    def _folded_row(self, depth: int, operations: tuple[KeptOperation, ...]) -> WaterfallRow:
        first = operations[0]
        begins = [self._after_start_ms(one.time) for one in operations]
        took = max(begin + one.duration_ms for begin, one in zip(begins, operations, strict=True)) - begins[0]
        bars = _joined([self._bar(begin, one.duration_ms) for begin, one in zip(begins, operations, strict=True)])
        return WaterfallRow(
            "store",
            min(depth, DEEPEST_INDENT),
            first.operation,
            first.run,
            begins[0],
            took,
            first.error,
            bars,
            operations,
        )

    def _after_start_ms(self, moment: datetime) -> float:
        return max(0.0, (moment - self._run.started).total_seconds() * 1000)

    def _bar(self, begins_ms: float, took_ms: float) -> tuple[float, float]:
        width = max(SHORTEST_BAR, took_ms / self._total_ms * BAR_UNITS)
        place = min(begins_ms / self._total_ms * BAR_UNITS, BAR_UNITS - min(width, BAR_UNITS))
        return round(place, 1), round(min(width, BAR_UNITS), 1)


def _kind_of(one: KeptOperation | KeptCall) -> tuple[object, ...]:
    if isinstance(one, KeptOperation):
        return one.operation, one.namespace, one.error
    return (id(one),)


def _joined(bars: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Return bars without those that lie within the bar before them, so that thousands of calls are some hundred bars."""
    found: list[tuple[float, float]] = []
    for place, width in bars:
        if found and place <= sum(found[-1]):
            start = found[-1][0]
            found[-1] = (start, round(max(sum(found[-1]), place + width) - start, 1))
        else:
            found.append((place, width))
    return tuple(found)
