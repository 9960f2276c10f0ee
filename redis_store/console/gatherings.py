"""What pages show of a whole server and takes a walk over its Redis keys: gathered in the background, and kept for a while.

A page waits a moment, which is enough for a small server or for one user, so that it is always new there. On a big server it
shows what was gathered last, and how long ago. It begins another gathering if that is long ago.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from redis_store.console.background import Background

T = TypeVar("T")

GATHERING_WAITED_S = 0.15
"""Time for which a page waits for a gathering that is under way, in seconds."""

AGES_PER_GATHERING = 20
"""Age of what was gathered, in times that it took, at which a page begins another gathering."""

MOST_GATHERINGS = 64
"""Gatherings that are kept, at most; the one unused for longest goes first."""


@dataclass(frozen=True, slots=True)
class Gathered(Generic[T]):
    """What was gathered last."""

    found: T | None = None
    """None before the end of the first gathering."""
    at: datetime | None = None
    """Time at which it ended, if a page may show it again; None for what is new."""


class Gatherings:
    """The gatherings of one console: one of each kind for each user, and for all users."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str | None], _Gathering] = OrderedDict()

    async def latest(self, kind: str, user: str | None, gather: Callable[[], Awaitable[T]]) -> Gathered[T]:
        """Return what was gathered last, after a short wait. Raises why gathering failed, if it fails now."""
        kept = self._kept.setdefault((kind, user), _Gathering())
        self._kept.move_to_end((kind, user))
        while len(self._kept) > MOST_GATHERINGS:
            await self._kept.popitem(last=False)[1].close()
        return await kept.latest(gather)

    async def forget(self, kind: str) -> None:
        """Drop what was gathered of a kind, as an operator has just changed it."""
        for place in [place for place in self._kept if place[0] == kind]:
            await self._kept.pop(place).close()

    async def close(self) -> None:
        """End all gatherings."""
        for kept in self._kept.values():
            await kept.close()


class _Gathering:
    """One gathering, again and again."""

    def __init__(self) -> None:
        self._last: Gathered[Any] = Gathered()
        self._ended_at = self._took_s = 0.0
        self._work = Background()

    async def latest(self, gather: Callable[[], Awaitable[Any]]) -> Gathered[Any]:
        before = self._last
        self._work.put_away()
        if self._is_old():
            self._work.begin(lambda: self._gather(gather))
        await self._work.wait(GATHERING_WAITED_S)
        return self._last if self._last is before else Gathered(self._last.found)

    async def close(self) -> None:
        await self._work.close()

    def _is_old(self) -> bool:
        age_s = time.monotonic() - self._ended_at
        return self._took_s < GATHERING_WAITED_S or age_s > AGES_PER_GATHERING * self._took_s

    async def _gather(self, gather: Callable[[], Awaitable[Any]]) -> None:
        begun = time.monotonic()
        found = await gather()
        self._ended_at = time.monotonic()
        self._took_s = self._ended_at - begun
        self._last = Gathered(found, datetime.now(UTC))
