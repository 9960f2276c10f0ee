"""The clock of everything that lapses: holdings, waits and near caches."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


LEAST_REPLY_S = 0.5
"""Time that a call with a shorter `timeout` gives the server for a reply, in seconds, so that 0 tries once."""


def clock() -> float:
    """Return a monotonic time in seconds, which includes time asleep if the system has such a clock."""
    return time.clock_gettime(_CLOCK)


def time_for_reply(deadline: float | None) -> float | None:
    """Return the time in seconds that a call with this deadline gives an operation that it begins now."""
    return None if deadline is None else max(deadline - clock(), LEAST_REPLY_S)
