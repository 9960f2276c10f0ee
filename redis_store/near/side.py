"""What the two sides of a near cache have in common: entries that one tracked connection vouches for."""

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
"""A connection on which nothing came for so long is asked before it is believed again."""

NEAR_RETRY_S = 1.0
"""So long after a connection could not be made it is not tried again."""

MOST_USERS = 64
"""Values of so many users are kept at once on a side: the server compares each write with the prefix of each."""

MOST_KEYS = SMALL_READ_KEYS
"""A call for more keys than this goes to the server, and leaves nothing behind."""


Measured: TypeAlias = Callable[[Op[Any]], Op[Any]]
"""What telemetry puts around an operation."""


class Owner(Protocol):
    """What a side needs of its cache."""

    off: bool
    max_bytes: int

    def resolver(self) -> Resolver | None:
        """Return what finds the server, from any store that is open."""

    def refused(self, error: DataStoreError) -> None:
        """Say that the server does not do what is needed."""


class Side:
    """The entries that one tracked connection vouches for."""

    def __init__(self, cache: Owner) -> None:
        self.cache = cache
        self.entries = Entries(cache.max_bytes)
        self._retry_at = -math.inf
        self._spinner = Spinner()

    def _may_connect(self) -> bool:
        return not self.cache.off and clock() >= self._retry_at

    def _failed(self, error: DataStoreError) -> None:
        """What goes wrong is told by the call to the server that follows, also what is of one key."""
        if isinstance(error, (ServerRefused, PermissionDenied)):
            self._drop()
            self.cache.refused(error)
        elif isinstance(error, StoreUnavailable):
            self._drop()
            self._retry_at = clock() + NEAR_RETRY_S
            logger.debug("the near cache is not connected: %s", error)

    def _drop(self) -> None:
        """Forget everything, and let go of the connection."""
        raise NotImplementedError

    def _keep(
        self, data: bytes, space: Space, keys: Sequence[str], found: list[near_ops.Fetched], asked: float
    ) -> None:
        for key, (text, ttl_ms, certain) in zip(keys, found, strict=True):
            if certain:
                self.entries.keep(data, space, key, text, math.inf if ttl_ms is None else asked + ttl_ms / 1000)


def near_hit(counters: Counters, text: bytes | None) -> bytes | None:
    """Count an answer from the cache, and return it."""
    counters.near_hits += 1
    if text is None:
        counters.misses += 1
    else:
        counters.hits += 1
    return text


def decode_hit(scope: Scope, entry: Entry, text: bytes, key: str) -> Any:
    """Return the value of an entry's text; what the first hit has found out about the text saves the others the look."""
    if entry.plain is None:
        entry.plain = is_plain(text)
    return scope.codec.decode_again(text) if entry.plain else scope.codec.decode(text, scope.namespace, key)
