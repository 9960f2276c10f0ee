"""What the doctor finds on a server: checked in the background in small steps, and kept until the next check.

A check of a big server takes a minute, so that no page waits for it. That of a small one ends while a page waits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from redis_store.admin import AsyncAdmin, Finding
from redis_store.console.background import Background

CHECK_WAITED_S = 0.2
"""Time for which a page waits for a check that is under way, in seconds."""

LONGEST_CHECK_AGE_S = 3600.0
"""Age of a check at which a page begins another, in seconds, at most."""

AGES_PER_CHECK = 20
"""Age of a check, in times that it took, at which a page begins another."""


@dataclass(frozen=True, slots=True)
class Checkup:
    """The last check, and how far the one is that is under way."""

    findings: Sequence[Finding] = ()
    at: datetime | None = None
    """Time at which it ended; None before the first."""
    repaired: bool = False
    """Whether it mended what it could."""
    steps: int | None = None
    """Steps of the check under way; None if there is none."""
    repairing: bool = False
    """Whether the check under way mends."""


class Checkups:
    """The checks of one console, one at a time."""

    def __init__(self, admin: AsyncAdmin) -> None:
        self._admin = admin
        self._last = Checkup()
        self._ended_at = self._took_s = 0.0
        self._steps = 0
        self._repairing = False
        self._work = Background()

    async def latest(self) -> Checkup:
        """Return what was found last, after a short wait. Begins a check if that is long ago. Raises why a check failed."""
        if self._is_old():
            self.begin()
        await self._work.wait(CHECK_WAITED_S)
        if not self._work.is_at_work:
            return self._last
        return replace(self._last, steps=self._steps, repairing=self._repairing)

    def begin(self, repair_as: AsyncAdmin | None = None) -> bool:
        """Begin a check, and mend what can be mended under the name of `repair_as`. Return False if one is under way."""
        operator = (repair_as or self._admin).operator
        return self._work.begin(lambda: self._check(operator, repair_as is not None))

    async def close(self) -> None:
        """End the check that is under way."""
        await self._work.close()

    def _is_old(self) -> bool:
        age_s = time.monotonic() - self._ended_at
        return self._last.at is None or age_s > min(LONGEST_CHECK_AGE_S, AGES_PER_CHECK * self._took_s)

    async def _check(self, operator: str, repair: bool) -> None:
        begun, self._steps, self._repairing = time.monotonic(), 0, repair
        admin = AsyncAdmin(self._admin.client, operator=operator)  # with a counter of its own
        admin.on_step = self._count
        found = await admin.doctor(repair=repair)
        self._ended_at = time.monotonic()
        self._took_s = self._ended_at - begun
        self._last = Checkup(sorted(found, key=_order), datetime.now(UTC), repair)

    def _count(self, found: int) -> None:
        self._steps += 1


def _order(one: Finding) -> tuple[object, ...]:
    """Return the sort key of a finding: what is wrong first, then what was mended, then what is to note."""
    rank = 1 if one.mended else 0 if one.level == "wrong" else 2
    return rank, one.check, one.user or "", one.namespace or "", one.key or ""
