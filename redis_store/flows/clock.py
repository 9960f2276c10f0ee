"""The clock of everything that lapses: holdings, waits and near caches."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def clock() -> float:
    """Return a monotonic time in seconds, which includes time asleep if the system has such a clock."""
    return time.clock_gettime(_CLOCK)
