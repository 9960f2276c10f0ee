"""Connections for a driver of threads: a stack of a store's own, or a lease of another store's."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from redis_store.connections.resolver import Resolver
from redis_store.connections.spin import Spinner
from redis_store.connections.sync import HeldConnection
from redis_store.drivers import eviction_warning
from redis_store.errors import DataStoreError, StoreClosed
from redis_store.limits import ANY_SIZE

logger = logging.getLogger("redis_store")

_MOST_IDLE = 64


class Loans(Protocol):
    """Lends connections, each to one thread at a time. Thread-safe."""

    def take(self, most_s: float | None = None) -> HeldConnection:
        """Lend a connection, an idle one if there is one; raises `StoreClosed` or `StoreUnavailable`.

        It waits at most this long for the server, if that is less than its time-out.
        """

    def take_new(self, most_s: float | None = None) -> HeldConnection:
        """Lend a new connection after one broke."""

    def put_back(self, held: HeldConnection) -> None:
        """Take a connection back; it is closed if a reply may be outstanding."""

    def drop(self, held: HeldConnection) -> None:
        """Close a lent connection."""

    def close(self) -> None:
        """Close the connections. Calls in progress fail; later ones are refused."""

    def leave_to_parent(self) -> None:
        """In a forked child, stop using the connections, which the parent goes on using."""


class OwnConnections:
    """The connections of one store, and a stack of those that are idle."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._closed = False
        self._asks_policy = True
        self._lock = threading.RLock()
        self._idle: list[HeldConnection] = []
        self._every: set[HeldConnection] = set()
        self._spinner = Spinner()
        self._cores_allow = self._spinner.enabled

    def take(self, most_s: float | None = None) -> HeldConnection:
        if self._closed:
            raise StoreClosed("The store is closed: connect again.")
        try:
            while (held := self._idle.pop()).standing.generation.over:
                self.drop(held)
        except IndexError:
            held = self._connect(most_s)
        else:
            if most_s is not None:
                held.limit(most_s)
        # Polling would take the interpreter from other threads at work.
        self._spinner.enabled = self._cores_allow and len(self._every) - len(self._idle) <= 1
        return held

    def take_new(self, most_s: float | None = None) -> HeldConnection:
        """Lend a new connection after one broke. The idle ones are dropped, as they most likely broke too."""
        while self._idle:
            try:
                self.drop(self._idle.pop())
            except IndexError:
                break
        return self._connect(most_s)

    def put_back(self, held: HeldConnection) -> None:
        if self._asks_policy and not held.busy and not self._closed:
            self._ask_policy(held)
        if held.busy or held.standing.generation.over or self._closed or len(self._idle) >= _MOST_IDLE:
            self.drop(held)
        else:
            if held.until is not None:
                held.limit(None)
            self._idle.append(held)

    def drop(self, held: HeldConnection) -> None:
        with self._lock:
            self._every.discard(held)
        held.close()

    def close(self) -> None:
        self._closed = True
        with self._lock:
            connections, self._every, self._idle = self._every, set(), []
        for connection in connections:
            connection.close()
        self._resolver.close()

    def leave_to_parent(self) -> None:
        """Close a forked child's copies of the descriptors."""
        inherited, self._every, self._idle = self._every, set(), []
        self._lock = threading.RLock()  # the old one may be held by a thread that does not exist in the child
        for connection in inherited:
            connection.close()

    def _connect(self, most_s: float | None = None) -> HeldConnection:
        if self._closed:
            raise StoreClosed("The store is closed: connect again.")
        address = self._resolver.address()
        held = HeldConnection(address, self._spinner, most_s)
        logger.debug("connected to %s", address.shown)
        with self._lock:
            self._every.add(held)
        if self._closed:  # closed while connecting: `close` may have missed this connection
            self.drop(held)
            raise StoreClosed("The store was closed while it connected: connect again.")
        return held

    def _ask_policy(self, held: HeldConnection) -> None:
        """Query the server's eviction policy, once. The result does not affect the caller, whose call is complete."""
        self._asks_policy = False
        if not eviction_warning.is_due(held.shown):
            return
        try:
            eviction_warning.note(held.shown, held.exchange((eviction_warning.QUESTION,), True))
        except DataStoreError:
            logger.debug("%s did not report its eviction policy", held.shown)
        except BaseException:
            self.drop(held)
            raise


class LentConnections:
    """A lease: connections of an owner that are closed by themselves, those in use only, and bound what is read at once."""

    def __init__(self, owner: Loans, max_read_bytes: int) -> None:
        self._owner = owner
        self._max_read_bytes = max_read_bytes
        self._closed = False
        self._lock = threading.RLock()
        self._in_use: set[HeldConnection] = set()

    def take(self, most_s: float | None = None) -> HeldConnection:
        self._refuse_if_closed()
        return self._lent(self._owner.take(most_s))

    def take_new(self, most_s: float | None = None) -> HeldConnection:
        # The connection may have been closed by our own `close`; then the call must not be tried again on a silent server.
        self._refuse_if_closed()
        return self._lent(self._owner.take_new(most_s))

    def put_back(self, held: HeldConnection) -> None:
        with self._lock:
            self._in_use.discard(held)
        held.most_bytes = ANY_SIZE
        if self._closed:
            self._owner.drop(held)
        else:
            self._owner.put_back(held)

    def drop(self, held: HeldConnection) -> None:
        with self._lock:
            self._in_use.discard(held)
        self._owner.drop(held)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            in_use, self._in_use = self._in_use, set()
        for held in in_use:
            self._owner.drop(held)

    def leave_to_parent(self) -> None:
        """Forget what is in use: its owner closes the child's copies."""
        self._lock = threading.RLock()
        self._in_use = set()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreClosed("The store is closed: connect again.")

    def _lent(self, held: HeldConnection) -> HeldConnection:
        with self._lock:
            if not self._closed:
                self._in_use.add(held)
                held.most_bytes = self._max_read_bytes
                return held
        self._owner.put_back(held)
        raise StoreClosed("The store was closed while it connected: connect again.")
