"""The users and namespaces of a server with their sizes, counted in the background in small steps, and kept.

Counting a big server takes seconds, so that no page waits for it: a page shows what was counted last, and how long ago. A small
server is counted while a page waits, so that its pages are always new.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TypeVar

from redis_store.admin import AsyncAdmin, NamespaceUsage, UserUsage
from redis_store.admin.aio import pages_of
from redis_store.admin.usage import NamespaceTotals, UserTotals, measured, of_namespaces_only
from redis_store.console.background import Background

WAITED_S = 0.15
"""Time for which a page waits for counts that are under way, in seconds."""

LONGEST_PAUSE_OF_COUNTS_S = 600.0
"""Age at which counts are made again when somebody looks, in seconds, at most."""

PAUSES_PER_COUNT = 20
"""Age of counts, in times that counting took, at which they are made again when somebody looks."""

ALWAYS_COUNTED_S = 0.05
"""Time that counting took up to which each page counts again, in seconds."""

ORDERS_OF_SIZES: dict[str, Callable[[UserUsage | NamespaceUsage], float]] = {
    "name": lambda one: 0,
    "memory": lambda one: -(one.bytes or 0),
    "keys": lambda one: -one.keys,
    "last-write": lambda one: -one.last_write.timestamp() if one.last_write else 0,
}
"""The sort keys of the orders in which users and namespaces are shown."""

Counted = TypeVar("Counted", UserUsage, NamespaceUsage)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was counted last, and how far the counting is that is under way."""

    users: list[UserUsage] = field(default_factory=list)
    namespaces: dict[str, list[NamespaceUsage]] = field(default_factory=dict)
    """The namespaces of each user, by name."""
    at: datetime | None = None
    """Time at which the counting ended; None before the first."""
    took_s: float = 0.0
    redis_keys: int = 0
    """Redis keys that were looked at."""
    counting: int | None = None
    """Redis keys that the counting under way has looked at; None if there is none."""


class Snapshots:
    """Counts when somebody looks at old counts."""

    def __init__(self, admin: AsyncAdmin) -> None:
        self._admin = admin
        self._last = Snapshot()
        self._last_at = 0.0
        self._counting = Background()
        self._counted = 0

    async def latest(self) -> Snapshot:
        """Return what is known, after a short wait if it is old. Raises why counting failed, if it fails now."""
        self._counting.put_away()
        if self._is_old():
            self.begin_again()
        await self._counting.wait(WAITED_S)
        return replace(self._last, counting=self._counted) if self._counting.is_at_work else self._last

    def begin_again(self) -> None:
        """Begin to count, unless a counting is under way."""
        self._counting.begin(self._count)

    async def close(self) -> None:
        """End the counting that is under way."""
        await self._counting.close()

    def _is_old(self) -> bool:
        if self._last.at is None or self._last.took_s <= ALWAYS_COUNTED_S:
            return True
        return time.monotonic() - self._last_at > min(LONGEST_PAUSE_OF_COUNTS_S, PAUSES_PER_COUNT * self._last.took_s)

    async def _count(self) -> None:
        begun, self._counted = time.monotonic(), 0
        users, namespaces = UserTotals(), NamespaceTotals()
        async for page in pages_of(self._admin, measured):
            users.add(page)
            namespaces.add(of_namespaces_only(page))
            self._counted += len(page)
        by_user = defaultdict(list)
        for one in namespaces.result():
            by_user[one.user].append(one)
        now = time.monotonic()
        self._last_at = now
        self._last = Snapshot(users.result(), dict(by_user), datetime.now(UTC), now - begun, self._counted)


def in_order(found: Sequence[Counted], by: str, name: str) -> list[Counted]:
    """Return users or namespaces in an order, the biggest or newest first, and else by name."""
    order = ORDERS_OF_SIZES.get(by, ORDERS_OF_SIZES["name"])
    return sorted(found, key=lambda one: (order(one), getattr(one, name)))
