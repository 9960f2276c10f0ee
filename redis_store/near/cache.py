"""The near cache: values kept in the process, each answer preceded by what the server has said about writes.

One `NearCache` belongs to a server and its credentials, and to all stores of the process that use them. It has a side for
threads (`near.sync_side`: one tracked connection under a lock) and one for each event loop (`near.async_side`: one tracked connection
that the loop's calls share), each with entries of its own. On a side,

- every value that is kept was read on the tracked connection, so that replies and invalidations come in the server's order;
- before each answer the connection is read, and what it says is forgotten;
- what is written through any store of the process is forgotten before the write goes out, and once its reply is there;
- a connection that was silent for `SILENCE_S` is asked before it is believed again: it may be dead without knowing;
- where the connection ends, everything is forgotten.

Whoever cannot have the connection at once asks the server as if there were no cache.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from typing import Any, NamedTuple, Protocol, TypeVar

from redis_store.connections.resolver import Resolver
from redis_store.drivers.aio import AsyncDriver
from redis_store.drivers.sync import SyncDriver
from redis_store.errors import DataStoreError
from redis_store.namespace.scope import Scope
from redis_store.near.async_side import LoopSide
from redis_store.near.entries import Entries, redis_keys_of
from redis_store.near.side import logger
from redis_store.near.sync_side import ThreadSide
from redis_store.protocol.call import Call, Op, observed
from redis_store.stats import StoreStats

T = TypeVar("T")

_caches: weakref.WeakValueDictionary[str, NearCache] = weakref.WeakValueDictionary()
_joining = threading.Lock()
_refused_by: set[str] = set()
"""The servers of which it has been said that they do not tell of writes."""


class _Shown(NamedTuple):
    """What a cache tells of itself."""

    entries: int
    size_bytes: int
    live: bool


class NearCache:
    """What the stores of a process know about one server's values."""

    def __init__(self, url: str) -> None:
        self.off = False
        """Whether the server does not let us be told of writes."""
        self.max_bytes = 0
        self._url = url
        self._members: weakref.WeakSet[SyncDriver | AsyncDriver] = weakref.WeakSet()
        self.threads = ThreadSide(self)
        self._loops: dict[int, LoopSide] = {}

    def join(self, driver: SyncDriver | AsyncDriver, max_bytes: int) -> None:
        """Add a store; the biggest bound that was asked for counts."""
        self._members.add(driver)
        if isinstance(driver, SyncDriver):
            self.threads.open()
        self.max_bytes = max(self.max_bytes, max_bytes)
        for entries in self._all_entries():
            entries.max_bytes = self.max_bytes

    def leave(self, driver: SyncDriver | AsyncDriver) -> None:
        """A store closes; the last one that used a side closes it."""
        self._members.discard(driver)
        if not any(isinstance(member, SyncDriver) for member in list(self._members)):
            self.threads.close()
        for key, side in list(self._loops.items()):
            if isinstance(driver, AsyncDriver):
                side.users.discard(driver)
            if not side.users and self._loops.pop(key, None) is side:
                side.close()

    def resolver(self) -> Resolver | None:
        """Return what finds the server, from any store that is open."""
        return next((member._resolver for member in list(self._members)), None)

    def loop_side(self, driver: AsyncDriver) -> LoopSide:
        """Return the side of the running event loop, which this store uses from now on."""
        loop = asyncio.get_running_loop()
        side = self._loops.get(id(loop))
        if side is None or side.loop is not loop:
            for key, other in list(self._loops.items()):
                if other.loop.is_closed() and self._loops.pop(key, None) is other:
                    other.close()
            side = self._loops[id(loop)] = LoopSide(self, loop)
        side.users.add(driver)
        return side

    def watching(self, op: Op[T]) -> Op[T]:
        """Return an operation that makes what it writes forgotten."""
        return observed(op, self._forget_written, self._forget_written)

    def shown(self) -> _Shown:
        """Return how much is kept, and whether any of it may be used."""
        every = self._all_entries()
        live = self.threads.live or any(side.live for side in list(self._loops.values()))
        return _Shown(sum(map(len, every)), sum(entries.size_bytes for entries in every), live)

    def refused(self, error: DataStoreError) -> None:
        """The server does not do what is needed: say so once, and do without."""
        self.off = True
        if self._url not in _refused_by:
            _refused_by.add(self._url)
            logger.warning(
                "The near cache is off: the server does not tell this connection of writes (%s). Every get asks the server."
                " It takes Redis 6 or Valkey, and a user who may call HELLO and CLIENT.",
                str(error).rstrip("."),
            )

    def leave_to_parent(self) -> None:
        """In a forked child: begin anew, with nothing."""
        _left_to_parent.append(self._loops)
        for side in self._loops.values():
            side.closed = True
        self._loops = {}
        self.threads.leave_to_parent()

    def _forget_written(self, call: Call[Any]) -> None:
        if call.repeatable:
            return
        every = self._all_entries()
        for key in redis_keys_of(call.commands):
            for entries in every:
                entries.drop(key)

    def _all_entries(self) -> list[Entries]:
        return [self.threads.entries, *(side.entries for side in list(self._loops.values()))]


class NearStats(Protocol):
    """Shows what a near cache holds."""

    def shown(self) -> tuple[int, int, bool]: ...


def stats_of(scope: Scope, reads: NearStats | None) -> StoreStats:
    """Return what a store has counted, and what its near cache holds."""
    return scope.counters.shown(*((0, 0, False) if reads is None else reads.shown()))


def cache_of(driver: SyncDriver | AsyncDriver, max_bytes: int) -> NearCache:
    with _joining:
        cache = _caches.get(driver.url)
        if cache is None:
            cache = _caches[driver.url] = NearCache(driver.url)
        cache.join(driver, max_bytes)
        return cache


_left_to_parent: list[dict[int, LoopSide]] = []


def _after_fork_in_child() -> None:
    global _joining
    _joining = threading.Lock()
    for cache in list(_caches.values()):
        cache.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)
