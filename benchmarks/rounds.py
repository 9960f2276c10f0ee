"""Interleaved rounds: the only way to compare two things on a machine whose speed changes during the measurement."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter


@dataclass(frozen=True, slots=True)
class Figure:
    """The result of a comparison; times are in microseconds per call."""

    name: str
    ours_us: float
    theirs_us: float
    ratio: float
    """Median of the ratios of neighbouring rounds."""
    spread: tuple[float, float]
    """Quartiles of those ratios."""
    shape: str = ""
    """The shape of document."""
    floor_us: float | None = None
    """Time of the same bytes without any code of ours; None if it was not measured."""


def compare(name: str, ours: Callable[[], object], theirs: Callable[[], object], calls: int, rounds: int) -> Figure:
    """Time both sides in turns, and return the result."""

    def clock(work: Callable[[], object]) -> float:
        start = perf_counter()
        for _ in range(calls):
            work()
        return (perf_counter() - start) / calls * 1e6

    ours(), theirs()
    times = []
    gc.disable()
    try:
        for turn in range(rounds):
            # The order alternates, so that neither side always follows the other.
            if turn % 2:
                b, a = clock(theirs), clock(ours)
            else:
                a, b = clock(ours), clock(theirs)
            times.append((a, b))
    finally:
        gc.enable()
    return figure(name, times)


def figure(name: str, times: list[tuple[float, float]], shape: str = "") -> Figure:
    """Return the medians of interleaved times, and the quartiles of the ratios of neighbours."""
    ratios = [a / b for a, b in times]
    quartiles = statistics.quantiles(ratios, n=4)
    return Figure(
        name,
        statistics.median(a for a, _ in times),
        statistics.median(b for _, b in times),
        statistics.median(ratios),
        (quartiles[0], quartiles[2]),
        shape,
    )
