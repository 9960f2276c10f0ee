"""The near cache: values kept in the process's memory, with pending invalidations applied before each hit.

One `NearCache` belongs to a server and its credentials, and to all stores of the process that use them. It has one side for
threads (`near/sync_side.py`: a tracked connection under a lock) and one for each event loop (`near/async_side.py`: a tracked
connection that the loop's calls share). Each side has entries of its own, and keeps these rules:

- Every value that is kept was read on the tracked connection, so that replies and invalidations come in the server's order.
- Before each hit the connection is read, and the namespaces that it names are dropped.
- A namespace that any store of the process writes to is dropped before the write is sent, and again after its reply.
- After a reply that came past the tracked connection, the next read goes to the server on the tracked connection. The value in
  that reply may be newer than what was heard; the announcement of its write comes before the reply to this next read.
- After a silence of `SILENCE_S` the next read goes to the server, because the connection may be dead without a sign.
- When the connection ends, all entries are dropped.

A caller that cannot use the connection at once asks the server as if there were no cache.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any, NamedTuple, TypeVar

from redis_store.connections import forks
from redis_store.connections.resolver import Resolver
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
_refused_by: set[str] = set()
"""The urls of servers for which the warning that they do not report writes has been logged."""


class _Shown(NamedTuple):
    """The state of a near cache, as reported in `StoreStats`."""

    entries: int
    size_bytes: int
    live: bool


class NearCache:
    """The near cache of one server, shared by all stores of the process with the same url."""

    def __init__(self, url: str) -> None:
        self.off = False
        """Whether the cache is switched off, because the server refuses to report writes."""
        self.max_bytes = 0
        self.read_beside = object()
        """A new object for each reply to a read that came past the tracked connections."""
        self._url = url
        self._members: weakref.WeakKeyDictionary[Any, Resolver] = weakref.WeakKeyDictionary()
        """The cores of the open clients, with their resolvers. The core of a lease is not among them."""
        self.threads = ThreadSide(self)
        self._loops: dict[int, LoopSide] = {}
        forks.inherited.add(self)

    def join(self, core: object, resolver: Resolver, max_bytes: int) -> None:
        """Add a client. The largest bound that any client asked for applies."""
        self._members[core] = resolver
        self.max_bytes = max(self.max_bytes, max_bytes)
        for entries in self._all_entries():
            entries.max_bytes = self.max_bytes

    def leave(self, core: object) -> None:
        """Remove a client that closes, and close the sides that no client uses any more. A lease only ends its own wait."""
        if self._members.pop(core, None) is None:
            self.threads.interrupt(core)
            return
        self.threads.users.discard(core)
        if not self.threads.users:
            self.threads.close()
        for key, side in list(self._loops.items()):
            side.users.discard(core)
            if not side.users and self._loops.pop(key, None) is side:
                side.close()

    def resolver(self) -> Resolver | None:
        """Return the resolver of any open client, or None if there is none."""
        return next(iter(list(self._members.values())), None)

    def loop_side(self, core: object) -> LoopSide:
        """Return the side of the running event loop, and register the client as a user of it."""
        loop = asyncio.get_running_loop()
        side = self._loops.get(id(loop))
        if side is None or side.loop is not loop:
            for key, other in list(self._loops.items()):
                if other.loop.is_closed() and self._loops.pop(key, None) is other:
                    other.close()
            side = self._loops[id(loop)] = LoopSide(self, loop)
        side.users.add(core)
        return side

    def watching(self, op: Op[T]) -> Op[T]:
        """Return an operation that drops what it writes from the cache, and makes hits wait for what it has read."""
        return observed(op, self._forget_written, self._forget_written, self._note_reply)

    def shown(self) -> _Shown:
        """Return the number of entries, their bytes, and whether the cache is connected."""
        every = self._all_entries()
        live = self.threads.live or any(side.live for side in list(self._loops.values()))
        return _Shown(sum(map(len, every)), sum(entries.size_bytes for entries in every), live)

    def refused(self, error: DataStoreError) -> None:
        """Switch the cache off, because the server lacks what it needs, and log a warning once per server."""
        self.off = True
        if self._url not in _refused_by:
            _refused_by.add(self._url)
            logger.warning(
                "The near cache is off: the server does not report writes on this connection (%s). Every get asks the server."
                " The near cache needs Redis 6 or Valkey, and a server user that may call HELLO and CLIENT.",
                str(error).rstrip("."),
            )

    def leave_to_parent(self) -> None:
        """Start empty in a forked child, without the parent's connections."""
        _left_to_parent.append(self._loops)
        for side in self._loops.values():
            side.closed = True
        self._loops = {}
        self.threads.leave_to_parent()

    def note_read_beside(self) -> None:
        """Make the next read ask the server, because a store has read something that may be newer than what was heard."""
        self.read_beside = object()

    def _note_reply(self, call: Call[Any]) -> None:
        if call.repeatable:
            self.note_read_beside()

    def _forget_written(self, call: Call[Any]) -> None:
        if call.repeatable:
            return
        every = self._all_entries()
        for key in redis_keys_of(call.commands):
            for entries in every:
                entries.drop(key)

    def _all_entries(self) -> list[Entries]:
        return [self.threads.entries, *(side.entries for side in list(self._loops.values()))]


def stats_of(scope: Scope, cache: NearCache | None) -> StoreStats:
    """Return the counts of a store, with the state of its near cache."""
    return scope.counters.shown(*((0, 0, False) if cache is None else cache.shown()))


def join_cache(core: object, resolver: Resolver, max_bytes: int) -> NearCache:
    """Add a client to the cache for its login, which is made for the first one. The core of the client identifies it."""
    login = resolver.login
    with forks.registries_lock:
        cache = _caches.get(login)
        if cache is None:
            cache = _caches[login] = NearCache(resolver.url)
        cache.join(core, resolver, max_bytes)
        return cache


_left_to_parent: list[dict[int, LoopSide]] = []
