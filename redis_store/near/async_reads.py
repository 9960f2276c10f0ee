"""Reads through the near cache, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from redis_store.drivers.aio import AsyncDriver
from redis_store.namespace.keys import encode_key
from redis_store.namespace.scope import Scope
from redis_store.near.async_side import LoopSide
from redis_store.near.cache import NearCache, cache_of
from redis_store.near.entries import Entry
from redis_store.near.side import MOST_KEYS, decode_hit, near_hit
from redis_store.ops import batch, updates
from redis_store.types import Json


class LoopReads:
    """The reads of one asyncio store through its near cache."""

    def __init__(self, cache: NearCache, driver: AsyncDriver) -> None:
        self.cache = cache
        self._driver = driver
        self._side: LoopSide | None = None
        """The side of the event loop that read last."""

    def shown(self) -> tuple[int, int, bool]:
        """Return the number of the cache's entries, their bytes, and whether the cache is connected."""
        return self.cache.shown()

    def leave(self) -> None:
        """Leave the cache, when the store closes."""
        self.cache.leave(self._driver)

    async def get(self, scope: Scope, key: str, default: Any) -> Any:
        """Return a value as `ops.values.get` does."""
        entry = await self._find(scope, key)
        if entry is None:
            text = await self._ask(scope, key)
            return default if text is None else scope.codec.decode(text, scope.namespace, key)
        text = near_hit(scope.counters, entry.text)
        return default if text is None else decode_hit(scope, entry, text, key)

    async def text(self, scope: Scope, key: str) -> bytes | None:
        """Return the JSON text of a value, or None if the key is missing."""
        entry = await self._find(scope, key)
        return await self._ask(scope, key) if entry is None else near_hit(scope.counters, entry.text)

    async def _find(self, scope: Scope, key: str) -> Entry | None:
        if not scope.readable:
            scope.check_readable()
        side = await self._settled()
        return side.find(scope, key) if type(key) is str else None

    async def _ask(self, scope: Scope, key: str) -> bytes | None:
        field = encode_key(key)
        found = await (await self._settled()).ask(scope, (key,), (field,), self._driver.measured)
        text = await self._driver.run(updates.stored(scope, field)) if found is None else found[0]
        scope.counters.read(text)
        return text

    async def get_many(self, scope: Scope, keys: Iterable[str]) -> dict[str, Json]:
        """Return values as `ops.batch.get_many` does."""
        scope.check_readable()
        fields = batch.fields_of(keys)
        names = list(fields.values())
        if not 0 < len(names) <= MOST_KEYS:
            return await self._driver.run(batch.get_many(scope, names))
        side = await self._settled()
        near_entries = side.find_many(scope, names)
        if near_entries is not None:
            texts = [near_hit(scope.counters, entry.text) for entry in near_entries]
        else:
            found = await side.ask(scope, names, list(fields), self._driver.measured)
            if found is None:
                return await self._driver.run(batch.get_many(scope, names))
            scope.counters.read_many(found)
            texts = found
        return scope.codec.decode_found(names, texts, scope.namespace)

    async def _settled(self) -> LoopSide:
        side = self._side
        if side is None or side.closed or side.loop is not asyncio.get_running_loop():
            side = self._side = self.cache.loop_side(self._driver)
        if side.reads_late:
            await side.settle()
        return side


def share_with_loops(driver: AsyncDriver, max_bytes: int) -> None:
    """Connect an asyncio store to the near cache of its server."""
    cache = cache_of(driver, max_bytes)
    driver.near = LoopReads(cache, driver)
    driver.around = cache.watching
