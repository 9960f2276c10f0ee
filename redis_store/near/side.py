"""The common base of the two sides of a near cache: entries that one tracked connection keeps current."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from redis_store.connections.resolver import Resolver
from redis_store.connections.spin import Spinner
from redis_store.errors import DataStoreError, PermissionDenied, ServerRefused, StoreUnavailable
from redis_store.namespace.scope import Scope
from redis_store.near import ops as near_ops
from redis_store.near.connection import clock
from redis_store.near.entries import Entries, Entry, Space
from redis_store.ops.batch import SMALL_READ_KEYS
from redis_store.protocol.call import Op
from redis_store.stats import Counters
from redis_store.values.codec import is_plain

logger = logging.getLogger("redis_store")

SILENCE_S = 1.0
"""Silence on a connection after which the next read goes to the server, in seconds."""

NEAR_RETRY_S = 1.0
"""Time between a failed connection and the next attempt, in seconds."""

MOST_USERS = 64
"""Bound on the users whose values one side keeps: the server compares each write with every user's prefix."""

MOST_KEYS = SMALL_READ_KEYS
"""Bound on the keys of one call; a call for more goes to the server, and its reply is not kept."""


Measured: TypeAlias = Callable[[Op[Any]], Op[Any]]
"""The wrapper that telemetry puts around an operation."""


class Owner(Protocol):
    """The parts of a near cache that its sides use."""

    off: bool
    max_bytes: int

    def resolver(self) -> Resolver | None:
        """Return the resolver of any open store, or None if there is none."""

    def refused(self, error: DataStoreError) -> None:
        """Switch the cache off, because the server lacks what it needs."""


class Side:
    """Entries that one tracked connection keeps current."""

    def __init__(self, cache: Owner) -> None:
        self.cache = cache
        self.entries = Entries(cache.max_bytes)
        self._retry_at = -math.inf
        self._spinner = Spinner()

    def _may_connect(self) -> bool:
        return not self.cache.off and clock() >= self._retry_at

    def _failed(self, error: DataStoreError) -> None:
        """Handle an error without raising it: the call to the server that follows raises it, also if it concerns one key."""
        if isinstance(error, (ServerRefused, PermissionDenied)):
            self._drop()
            self.cache.refused(error)
        elif isinstance(error, StoreUnavailable):
            self._drop()
            self._retry_at = clock() + NEAR_RETRY_S
            logger.debug("the near cache is not connected: %s", error)

    def _drop(self) -> None:
        """Drop all entries and close the connection."""
        raise NotImplementedError

    def _keep(
        self, data: bytes, space: Space, keys: Sequence[str], found: list[near_ops.Fetched], asked: float
    ) -> None:
        for key, (text, ttl_ms, certain) in zip(keys, found, strict=True):
            if certain:
                self.entries.keep(data, space, key, text, math.inf if ttl_ms is None else asked + ttl_ms / 1000)


def near_hit(counters: Counters, text: bytes | None) -> bytes | None:
    """Count an answer from the near cache, a hit or a miss, and return its text."""
    counters.near_hits += 1
    if text is None:
        counters.misses += 1
    else:
        counters.hits += 1
    return text


def decode_hit(scope: Scope, entry: Entry, text: bytes, key: str) -> Any:
    """Return the value of an entry. The first hit notes whether its text is plain, so that later hits decode it faster."""
    if entry.plain is None:
        entry.plain = is_plain(text)
    return scope.codec.decode_again(text) if entry.plain else scope.codec.decode(text, scope.namespace, key)
