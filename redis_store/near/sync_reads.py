"""Reads through the near cache, for threads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from redis_store.drivers.sync import SyncDriver
from redis_store.namespace.keys import encode_key
from redis_store.namespace.scope import Scope
from redis_store.near.cache import NearCache, cache_of
from redis_store.near.entries import Entry
from redis_store.near.side import MOST_KEYS, Measured, decode_hit, near_hit
from redis_store.ops import batch, updates, values
from redis_store.protocol.call import Op
from redis_store.types import Json

T = TypeVar("T")


class ThreadReads:
    """The reads of one blocking store through its near cache."""

    def __init__(self, cache: NearCache, driver: SyncDriver, *, lent: bool = False) -> None:
        self.cache = cache
        self.lent = lent
        """Whether its store may close during a call, which must end then; such a call does not wait for a connection to open."""
        self._driver = driver
        self._side = cache.threads

    @property
    def measured(self) -> Measured | None:
        """The wrapper that telemetry puts around operations of this store, or None."""
        return self._driver.measured

    def watching(self, op: Op[T]) -> Op[T]:
        """Return an operation that drops what it writes from the cache."""
        return self.cache.watching(op)

    def lent_to(self, driver: SyncDriver) -> ThreadReads:
        """Return reads for a leased driver, whose lease may end while a call waits."""
        return ThreadReads(self.cache, driver, lent=True)

    def shown(self) -> tuple[int, int, bool]:
        """Return the number of the cache's entries, their bytes, and whether the cache is connected."""
        return self.cache.shown()

    def leave(self) -> None:
        """Leave the cache when the store closes; a lease ends its call's wait on the tracked connection."""
        if self.lent:
            self._side.interrupt(self)
        else:
            self.cache.leave(self._driver)

    def get(self, scope: Scope, key: str, default: Any = None) -> Any:
        """Return a value as `ops.values.get` does."""
        entry = self._find(scope, key)
        if entry is None:
            text = self._ask(scope, key)
            return default if text is None else scope.codec.decode(text, scope.namespace, key)
        text = near_hit(scope.counters, entry.text)
        return default if text is None else decode_hit(scope, entry, text, key)

    def text(self, scope: Scope, key: str) -> bytes | None:
        """Return the JSON text of a value, or None if the key is missing."""
        entry = self._find(scope, key)
        return self._ask(scope, key) if entry is None else near_hit(scope.counters, entry.text)

    def _find(self, scope: Scope, key: str) -> Entry | None:
        if not scope.readable:
            scope.check_readable()
        return self._side.find(scope, key) if type(key) is str else None

    def _ask(self, scope: Scope, key: str) -> bytes | None:
        field = encode_key(key)
        found = self._side.ask(self, scope, (key,), (field,))
        text = self._driver.run(updates.stored(scope, field)) if found is None else found[0]
        scope.counters.read(text)
        return text

    def get_many(self, scope: Scope, keys: Iterable[str]) -> dict[str, Json]:
        """Return values as `ops.batch.get_many` does."""
        scope.check_readable()
        fields = batch.fields_of(keys)
        names = list(fields.values())
        if not 0 < len(names) <= MOST_KEYS:
            return self._driver.run(batch.get_many(scope, names))
        near_entries = self._side.find_many(scope, names)
        if near_entries is not None:
            texts = [near_hit(scope.counters, entry.text) for entry in near_entries]
        else:
            found = self._side.ask(self, scope, names, list(fields))
            if found is None:
                return self._driver.run(batch.get_many(scope, names))
            scope.counters.read_many(found)
            texts = found
        return scope.codec.decode_found(names, texts, scope.namespace)

    def contains(self, scope: Scope, key: str) -> bool:
        """Return whether a key exists, as `ops.values.contains` does."""
        scope.check_readable()
        entry = self._side.find(scope, key) if type(key) is str else None
        return self._driver.run(values.contains(scope, key)) if entry is None else entry.text is not None


def share_with_threads(driver: SyncDriver, max_bytes: int) -> None:
    """Connect a blocking store to the near cache of its server."""
    cache = cache_of(driver, max_bytes)
    driver.near = ThreadReads(cache, driver)
    driver.around = cache.watching
