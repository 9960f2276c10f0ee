"""Whether to poll a socket for a moment before sleeping on it.

On a virtual machine the wake-up of a sleeping reader costs 40 to 60 µs, more than the server takes to answer a get. Polling
pays where the process may use more than one core and this is its only call under way; where it does not pay, it stops.
"""

from __future__ import annotations

import os

SPIN_NS = 50_000
"""How long to poll at most, in nanoseconds."""

_MOST_CREDIT = 32
_MISS_COST = 4
_RETRY_AFTER = 200
"""Calls without polling, after which it is tried again."""


class Spinner:
    """Keeps account of whether polling paid off; shared by the connections of a driver.

    Threads may lose an update to each other. That costs a needless poll or sleep, never a wrong answer.
    """

    __slots__ = ("_credit", "_skipped", "enabled")

    def __init__(self) -> None:
        self._credit = _MOST_CREDIT
        self._skipped = 0
        self.enabled = usable_cores() > 1

    def worth_it(self) -> bool:
        """Whether to poll for the next answer."""
        if not self.enabled:
            return False
        if self._credit > 0:
            return True
        self._skipped += 1
        if self._skipped < _RETRY_AFTER:
            return False
        self._skipped = 0
        self._credit = _MISS_COST
        return True

    def paid(self) -> None:
        """The answer came while polling."""
        if self._credit < _MOST_CREDIT:
            self._credit += 1

    def missed(self) -> None:
        """Polling ended without an answer."""
        self._credit -= _MISS_COST


def usable_cores() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
