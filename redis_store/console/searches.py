"""Searches for a text in the values of a namespace: in the background, so that a page shows what was found so far."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field

from redis_store.admin import AsyncAdmin, SearchHit
from redis_store.admin.aio import pages_of
from redis_store.admin.search import search

MOST_HITS = 1000
"""Hits after which a search ends."""

HIT_CHARACTERS = 200_000
"""Characters of the keys that a search has found after which it ends: a key may have 64 KiB."""

MOST_SEARCHES = 16
"""Searches that are kept, at most; the one unused for longest ends first."""

SEARCH_WAITED_S = 0.2
"""Time for which a page waits for a search that is under way, in seconds."""

SEARCH_UNUSED_S = 60.0
"""Time after which a search ends that no page asked for, in seconds."""

SEARCH_KEPT_S = 2.0
"""Time for which the hits of a search that is done are shown again, in seconds, at least."""


@dataclass(slots=True)
class Search:
    """A search, and what it has found so far."""

    hits: list[SearchHit] = field(default_factory=list)
    is_done: bool = False
    is_full: bool = False
    """Whether it has ended because of the number of hits."""


class Searches:
    """Keeps the searches that were used last."""

    def __init__(self, admin: AsyncAdmin) -> None:
        self._admin = admin
        self._running: OrderedDict[tuple[str, str, str, str], _RunningSearch] = OrderedDict()

    async def latest(self, user: str, namespace: str, prefix: str, text: str) -> Search:
        """Return what the search for a text in the keys with a prefix has found, after a short wait."""
        place = (user, namespace, prefix, text)
        running = self._running.get(place)
        if running is None or running.is_old:
            running = self._running[place] = _RunningSearch(self._admin, *place)
            self._running.move_to_end(place)
            while len(self._running) > MOST_SEARCHES:
                await self._running.popitem(last=False)[1].close()
        return await running.latest()

    async def close(self) -> None:
        """End all searches."""
        for running in self._running.values():
            await running.close()


class _RunningSearch:
    """One search."""

    def __init__(self, admin: AsyncAdmin, user: str, namespace: str, prefix: str, text: str) -> None:
        self._found = Search()
        self._used = time.monotonic()
        self._ended: float | None = None
        self._task = asyncio.create_task(self._run(admin, user, namespace, prefix, text))

    @property
    def is_old(self) -> bool:
        if self._task.done() and not (self._found.is_done or self._found.is_full):
            return True  # nobody asked for it, or it failed
        return self._ended is not None and time.monotonic() - self._ended > SEARCH_KEPT_S

    async def latest(self) -> Search:
        self._used = time.monotonic()
        await asyncio.wait((self._task,), timeout=SEARCH_WAITED_S)
        if self._task.done():
            self._ended = self._ended or time.monotonic()
            self._task.result()
        return self._found

    async def close(self) -> None:
        self._task.cancel()
        with suppress(Exception):
            await asyncio.wait((self._task,))

    async def _run(self, admin: AsyncAdmin, user: str, namespace: str, prefix: str, text: str) -> None:
        found, room = self._found, HIT_CHARACTERS
        async for page in pages_of(admin, lambda: search(text, user, namespace, ignore_case=True)):
            for hit in page:
                if hit.key.startswith(prefix):
                    found.hits.append(hit)
                    room -= len(hit.key)
                    if len(found.hits) == MOST_HITS or room <= 0:
                        found.is_full = True
                        return
            if time.monotonic() - self._used > SEARCH_UNUSED_S:
                return
        found.is_done = True
