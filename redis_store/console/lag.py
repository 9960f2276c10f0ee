"""The lag of consumers over time: what was seen when somebody looked, in memory, and the line that shows it."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from redis_store.admin import ConsumerState

LAG_SAMPLES = 360
"""Samples of one consumer in one namespace that are kept, at most: half an hour of a page that is open."""

SAMPLE_GAP_S = 1.0
"""Time between two samples, in seconds, at least. Several open pages add no more than one."""

MOST_LAGS = 5000
"""Consumers, each in one namespace, whose samples are kept, at most; the one that was seen least lately goes."""

TREND_WIDTH, TREND_HEIGHT = 120, 24
"""Size of a line, in units of its drawing."""

Samples: TypeAlias = Sequence[tuple[float, int]]
"""Times, in seconds, each with the number of entries behind."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A line of a lag over time, for an SVG."""

    line: str
    """The attribute ``d`` of the line's path."""
    area: str
    """The attribute ``d`` of the area below it."""
    first: int
    last: int
    most: int
    seconds: int


class LagHistory:
    """The samples of all consumers that were seen."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[tuple[str, ...], deque[tuple[float, int]]] = OrderedDict()

    def add(self, states: Sequence[ConsumerState]) -> None:
        """Keep how far these consumers are behind now."""
        now = self._clock()
        for one in states:
            place = _place(one)
            samples = self._kept.setdefault(place, deque(maxlen=LAG_SAMPLES))
            self._kept.move_to_end(place)
            if one.behind is not None and (not samples or now - samples[-1][0] >= SAMPLE_GAP_S):
                samples.append((now, one.behind))
        while len(self._kept) > MOST_LAGS:
            self._kept.popitem(last=False)

    def trend(self, one: ConsumerState) -> Trend | None:
        """Return the line of a consumer, or None before its second sample."""
        return drawn(list(self._kept.get(_place(one), ())))


def drawn(samples: Samples) -> Trend | None:
    """Return a line through samples: time from left to right, the lag from the bottom, which is zero."""
    if len(samples) < 2:
        return None
    begun, ended = samples[0][0], samples[-1][0]
    most = max(behind for _, behind in samples)
    points = [
        (
            TREND_WIDTH * (at - begun) / ((ended - begun) or 1),
            TREND_HEIGHT - 1 - (TREND_HEIGHT - 2) * behind / (most or 1),
        )
        for at, behind in samples
    ]
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    area = f"{line}V{TREND_HEIGHT}H0Z"
    return Trend(line, area, samples[0][1], samples[-1][1], most, round(ended - begun))


def _place(one: ConsumerState) -> tuple[str, ...]:
    return (one.user, one.consumer, one.agent or "", one.namespace)
