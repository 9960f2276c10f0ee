"""The changes of namespaces, as this process has seen them: for `recent_changes`, and for subscriptions to resources."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from redis_store.aio import AsyncDataStore
from redis_store.errors import DataStoreError, InvalidInput
from redis_store.types import Change

KEPT_CHANGES = 1_000
"""Maximum number of changes that a feed keeps for `recent_changes`."""
MOST_FEEDS = 100
"""Maximum number of namespaces that one server follows at once."""
GRACE_S = 0.05
"""Time for which a reader of changes waits for further ones, in seconds."""

logger = logging.getLogger("redis_store")


@dataclass(frozen=True, slots=True)
class SeenChange:
    """A change, and when this process got it."""

    number: int
    at: datetime
    change: Change


class ChangeFeed:
    """Follows one namespace, from `begin` on, until it is closed."""

    def __init__(self, store: AsyncDataStore, on_change: Callable[[Change], Awaitable[None]]) -> None:
        self.id = uuid4().hex[:8]
        self.last = 0
        """The number of the last change."""
        self._seen: deque[SeenChange] = deque(maxlen=KEPT_CHANGES)
        self._watch = store.as_json_text(errors_as_values=True).watch()
        self._on_change = on_change
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_over(self) -> bool:
        return self._task is not None and self._task.done()

    async def begin(self) -> None:
        """Begin to watch: every write after this is seen."""
        await self._watch.begin()
        if self._task is None:
            self._task = asyncio.create_task(self._follow())

    async def after(self, number: int) -> list[SeenChange]:
        """Return the changes after a number, and those that come within a moment."""
        for _ in range(10):
            self._more.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE_S):
                    await self._more.wait()
            if not self._more.is_set():
                break
        return [seen for seen in self._seen if seen.number > number]

    def knows(self, number: int) -> bool:
        """Whether it has kept every change after this one."""
        return number <= self.last and (number == self.last or self._seen[0].number <= number + 1)

    async def close(self) -> None:
        await self._watch.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        try:
            async for change in self._watch:
                self.last += 1
                self._seen.append(SeenChange(self.last, datetime.now(UTC), change))
                self._more.set()
                await self._on_change(change)
        except DataStoreError as error:
            logger.warning("The changes of a namespace are no longer followed, until a client asks again: %s", error)


class ChangeFeeds:
    """The feeds of a server, by namespace. One begins when it is first asked for.

    Beyond `MOST_FEEDS`, the feed without subscribers that was asked for longest ago ends.
    """

    def __init__(
        self,
        store: AsyncDataStore,
        on_change: Callable[[Change], Awaitable[None]],
        subscribed: Callable[[], Collection[str]],
    ) -> None:
        self._store = store
        self._on_change = on_change
        self._subscribed = subscribed
        self._feeds: dict[str, ChangeFeed] = {}
        """The one asked for last comes last."""
        self._lock = asyncio.Lock()

    async def of(self, namespace: str) -> ChangeFeed:
        """Return the feed of a namespace, which has begun."""
        async with self._lock:
            feed = self._feeds.get(namespace)
            if feed is None or feed.is_over:
                if feed is None and len(self._feeds) >= MOST_FEEDS:
                    await self._end_one()
                feed = ChangeFeed(self._store.use_namespace(namespace), self._on_change)
                await feed.begin()
            self._feeds.pop(namespace, None)
            self._feeds[namespace] = feed
            return feed

    async def _end_one(self) -> None:
        needed = self._subscribed()
        for namespace in self._feeds:
            if namespace not in needed:
                await self._feeds.pop(namespace).close()
                return
        raise InvalidInput(
            f"Clients subscribe to resources of {MOST_FEEDS} namespaces already: unsubscribe from some first."
        )

    async def close(self) -> None:
        for feed in self._feeds.values():
            await feed.close()
