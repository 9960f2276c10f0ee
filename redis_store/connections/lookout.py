"""The lookout: a thread that asks the Sentinels of a service once a second who the primary is, while a store uses it.

After a failover of a living primary, the Sentinels leave it as it is for seconds. It goes on acknowledging writes, which are lost
when they demote it. It does not know, so nothing that it says can tell a store.
"""

from __future__ import annotations

import _thread
import queue
import weakref
from contextlib import suppress
from typing import Protocol

from redis_store.connections import forks
from redis_store.errors import DataStoreError

LOOKOUT_S = 1.0
"""Time between two looks, in seconds."""


class Looking(Protocol):
    """A resolver whose search ends the trust in a former primary."""

    def search(self) -> object: ...


class Lookout:
    """The thread of one service and login. It ends when no resolver is left."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._resolvers: weakref.WeakSet[Looking] = weakref.WeakSet()
        self._left: queue.SimpleQueue[None] = queue.SimpleQueue()
        forks.inherited.add(self)

    def join(self, resolver: Looking) -> None:
        self._resolvers.add(resolver)

    def leave(self, resolver: Looking) -> None:
        self._resolvers.discard(resolver)
        self._left.put(None)

    def leave_to_parent(self) -> None:
        """In a forked child there is no such thread, until a connection is opened."""
        _lookouts.pop(self._key, None)

    def run(self) -> None:
        """Look until no resolver is left."""
        while True:
            with suppress(queue.Empty):
                self._left.get(timeout=LOOKOUT_S)
            if not self._look():
                return

    def _look(self) -> bool:
        with forks.registries_lock:
            resolver = next(iter(self._resolvers), None)
            if resolver is None:
                _lookouts.pop(self._key, None)
                return False
        with suppress(DataStoreError):  # no primary now; calls will say so
            resolver.search()
        return True


_lookouts: dict[str, Lookout] = {}


def look_out(key: str, resolver: Looking) -> None:
    """Have the lookout of a service look for this resolver too. It begins if there is none."""
    with forks.registries_lock:
        lookout = _lookouts.get(key)
        if lookout is not None:
            lookout.join(resolver)
            return
        lookout = _lookouts[key] = Lookout(key)
        lookout.join(resolver)
    with suppress(RuntimeError):  # the system has no more threads
        _thread.start_new_thread(lookout.run, ())


def leave(key: str, resolver: Looking) -> None:
    """Note that a resolver is not used any more."""
    lookout = _lookouts.get(key)
    if lookout is not None:
        lookout.leave(resolver)
