"""The decision whether to poll a socket briefly before sleeping on it.

On a virtual machine, waking a sleeping reader takes 40 to 60 µs, longer than the server needs to reply to a get. Polling pays if
the process may use more than one core and this is its only call in progress. If it does not pay, it stops.
"""

from __future__ import annotations

import os

SPIN_NS = 50_000
"""Maximum time to poll, in nanoseconds."""

_MOST_CREDIT = 32
_MISS_COST = 4
_RETRY_AFTER = 200
"""Number of calls without polling after which it is tried again."""


class Spinner:
    """Records whether polling paid off; shared by the connections of a driver.

    Threads may overwrite each other's updates. That costs a needless poll or sleep, never a wrong result.
    """

    __slots__ = ("_credit", "_skipped", "enabled")

    def __init__(self) -> None:
        self._credit = _MOST_CREDIT
        self._skipped = 0
        self.enabled = usable_cores() > 1

    def worth_it(self) -> bool:
        """Whether to poll for the next reply."""
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
        """Record that the reply came while polling."""
        if self._credit < _MOST_CREDIT:
            self._credit += 1

    def missed(self) -> None:
        """Record that polling ended without a reply."""
        self._credit -= _MISS_COST


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
