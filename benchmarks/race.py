"""Races: any number of entrants, blocking ones and asyncio's, do the same work turn by turn in one process."""

from __future__ import annotations

import asyncio
import gc
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

_ROUND_S = 0.01
"""A round is as many calls as take about so long."""

_MOST_CALLS = 300


@dataclass(frozen=True, slots=True)
class Entrant:
    """Who takes part, and what he does for one call."""

    name: str
    work: Callable[[], Any]
    awaited: bool = False
    """Whether `work` gives a coroutine."""
    prepare: Callable[[int], object] | None = None
    """Called before each round with the number of calls that come; not timed."""
    calls_at_once: int = 1
    """For how many calls one run of `work` stands."""


@dataclass(frozen=True, slots=True)
class Finish:
    """How an entrant did."""

    name: str
    us: float
    """The median of the rounds, in microseconds a call."""
    ratio: float
    """The median of the ratios of neighbouring rounds to the entrant that all are compared with."""
    quartiles: tuple[float, float]
    """The quartiles of those ratios."""


def race(
    entrants: Sequence[Entrant],
    loop: asyncio.AbstractEventLoop,
    rounds: int = 21,
    calls: int | None = None,
    budget_s: float = 2.0,
) -> list[Finish]:
    """Time all entrants, turn by turn, and compare each with the last one.

    Without `calls` a round has as many as take the slowest entrant a few ms. Where that many rounds would take longer than
    `budget_s`, there are fewer, but never less than three; of what takes longer in one go there is one round, the first.
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
            # Who goes first changes, so that nobody always meets the same leftovers.
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
    """Stop the benchmark where the sides answer differently: then nothing that they do can be compared."""
    first, *others = answers
    if any(answer != first for answer in others):
        raise SystemExit(f"{what}: the sides gave different answers, so nothing was timed.")
