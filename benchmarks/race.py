"""Races: any number of entrants, blocking or asyncio, do the same work in turns in one process."""

from __future__ import annotations

import asyncio
import gc
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

_ROUND_S = 0.01
"""Target duration of a round, from which its number of calls follows, in seconds."""

_MOST_CALLS = 300


@dataclass(frozen=True, slots=True)
class Entrant:
    """A participant, and what it does for one call."""

    name: str
    work: Callable[[], Any]
    awaited: bool = False
    """Whether `work` returns a coroutine."""
    prepare: Callable[[int], object] | None = None
    """Called before each round with the number of its calls; not timed."""
    calls_at_once: int = 1
    """Number of calls that one run of `work` counts as."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The result of an entrant."""

    name: str
    us: float
    """Median of the rounds, in microseconds per call."""
    ratio: float
    """Median of the ratios of neighbouring rounds to the last entrant, the reference."""
    quartiles: tuple[float, float]
    """Quartiles of those ratios."""


def race(
    entrants: Sequence[Entrant],
    loop: asyncio.AbstractEventLoop,
    rounds: int = 21,
    calls: int | None = None,
    budget_s: float = 2.0,
) -> list[Finish]:
    """Time all entrants in turns, and compare each with the last one.

    Without `calls` a round has as many calls as take the slowest entrant a few ms. If that many rounds would take longer than
    `budget_s`, there are fewer, but at least three. If a single call takes longer than `budget_s`, the first is the only round.
    """
    first = [_clock(entrant, 1, loop) for entrant in entrants]
    if max(first) > budget_s:
        return [_finish(entrant, place, [first]) for place, entrant in enumerate(entrants)]
    slowest_s = max(_clock(entrant, 1, loop) * entrant.calls_at_once for entrant in entrants)
    if calls is None:
        calls = max(1, min(_MOST_CALLS, int(_ROUND_S / slowest_s)))
    rounds = max(3, min(rounds, int(budget_s / (slowest_s * calls * len(entrants)))))
    times: list[list[float]] = []
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            # The order rotates, so that no entrant always follows the same one.
            order = [(turn + place) % len(entrants) for place in range(len(entrants))]
            taken = {place: _clock(entrants[place], calls, loop) for place in order}
            times.append([taken[place] for place in range(len(entrants))])
    finally:
        gc.enable()
    return [_finish(entrant, place, times) for place, entrant in enumerate(entrants)]


def _finish(entrant: Entrant, place: int, times: list[list[float]]) -> Finish:
    ratios = [turn[place] / turn[-1] for turn in times]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    median_s = statistics.median(turn[place] for turn in times)
    return Finish(entrant.name, median_s * 1e6, statistics.median(ratios), (low, high))


def _clock(entrant: Entrant, calls: int, loop: asyncio.AbstractEventLoop) -> float:
    """Return the seconds that one call took, on average."""
    if entrant.prepare is not None:
        entrant.prepare(calls)
    if entrant.awaited:
        taken_s = loop.run_until_complete(_clock_awaited(entrant.work, calls))
    else:
        start = perf_counter()
        for _ in range(calls):
            entrant.work()
        taken_s = perf_counter() - start
    return taken_s / calls / entrant.calls_at_once


async def _clock_awaited(work: Callable[[], Awaitable[object]], calls: int) -> float:
    start = perf_counter()
    for _ in range(calls):
        await work()
    return perf_counter() - start


def same(what: str, *answers: object) -> None:
    """Stop the benchmark if the sides return different results, because then their times cannot be compared."""
    first, *others = answers
    if any(answer != first for answer in others):
        raise SystemExit(f"{what}: the sides gave different answers, so nothing was timed.")
