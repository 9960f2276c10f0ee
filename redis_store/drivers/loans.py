"""Connections for drivers of threads: the stack of a client, with or without a bound, or a lease of it."""

from __future__ import annotations

import logging
import queue
import threading
import weakref
from collections import deque
from collections.abc import MutableSet
from contextlib import suppress
from time import monotonic
from typing import Protocol, TypeAlias

from redis_store.connections.address import Address
from redis_store.connections.resolver import Resolver
from redis_store.connections.spin import Spinner
from redis_store.connections.sync import HeldConnection
from redis_store.drivers import eviction_warning
from redis_store.errors import DataStoreError, StoreClosed, StoreTimeout
from redis_store.limits import ANY_SIZE

logger = logging.getLogger("redis_store")

_MOST_IDLE = 64

_LOOK_S = 0.1
"""Time after which a caller in the queue for a connection looks again, in seconds."""


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
    """The connections of one client, and a stack of those that are idle."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._address: Address | None = None
        """The address of the last connection."""
        self._closed = False
        self._asks_policy = True
        self._lock = threading.RLock()
        self._idle: list[HeldConnection] = []
        self._every: MutableSet[HeldConnection] = set()
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

    def beside(self, resolver: Resolver) -> OwnConnections:
        """Return such connections to another node of the cluster."""
        return OwnConnections(resolver)

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
        address = self._address = self._resolver.address()
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


_Turn: TypeAlias = "queue.SimpleQueue[HeldConnection | None]"
"""A caller's place in the queue: it gets a connection that came back, or None if it is to look."""


class _Opening:
    """A connection that is being opened, which has its place among the others."""


class BoundedConnections(OwnConnections):
    """At most `most` connections. Callers beyond that wait in a queue; a connection that comes back goes to the first of them.

    A connection counts while anything refers to it. So one whose borrower was interrupted right after `take`, by a signal
    handler that raises, gives its place back. Waiters also look from time to time, because nothing tells them of that.
    """

    def __init__(self, resolver: Resolver, most: int) -> None:
        super().__init__(resolver)
        self._most = most
        self._begin()

    def _begin(self) -> None:
        self._every = weakref.WeakSet()
        self._opening: weakref.WeakSet[_Opening] = weakref.WeakSet()
        self._waiting: deque[_Turn] = deque()

    def beside(self, resolver: Resolver) -> OwnConnections:
        return BoundedConnections(resolver, self._most)

    def take(self, most_s: float | None = None) -> HeldConnection:
        # A caller that comes while others wait does not overtake them.
        return super().take(most_s) if not self._waiting else self._connect(most_s)

    def put_back(self, held: HeldConnection) -> None:
        super().put_back(held)
        if self._waiting:
            self._serve()

    def drop(self, held: HeldConnection) -> None:
        super().drop(held)
        if self._waiting:
            self._serve()

    def close(self) -> None:
        super().close()
        for turn in list(self._waiting):
            turn.put(None)

    def leave_to_parent(self) -> None:
        super().leave_to_parent()
        self._begin()

    def _connect(self, most_s: float | None = None) -> HeldConnection:
        began = monotonic()
        opening = _Opening()
        if self._waiting or not self._may_open(opening):
            held = self._wait_in_queue(opening, most_s)
            if held is not None:
                return held
        try:
            return super()._connect(None if most_s is None else max(0.0, began + most_s - monotonic()))
        finally:
            self._opening.discard(opening)
            if self._waiting:
                self._serve()

    def _may_open(self, opening: _Opening) -> bool:
        """Take a place for a connection, if one is free."""
        with self._lock:
            if len(self._every) + len(self._opening) >= self._most and not self._closed:
                return False
            self._opening.add(opening)
            return True

    def _wait_in_queue(self, opening: _Opening, most_s: float | None) -> HeldConnection | None:
        """Wait for a turn. Return a connection that came back, or None if there is a place for another, which is taken."""
        address = self._address or self._resolver.address()
        patience_s = address.timeout_s if most_s is None else min(most_s, address.timeout_s)
        until = monotonic() + patience_s
        turn: _Turn = queue.SimpleQueue()
        self._waiting.append(turn)
        try:
            while True:
                if self._idle:  # it came back before this caller was in the queue
                    self._serve()
                if not self._is_behind(turn) and self._may_open(opening):
                    return None
                left_s = until - monotonic()
                if left_s <= 0:
                    raise StoreTimeout(
                        f"All {self._most} connections of the client to {address.shown} were in use for {patience_s:g} s:"
                        " nothing was sent by this call. Raise max_connections, or use fewer threads."
                    ) from None
                held = _next(turn, min(left_s, _LOOK_S))
                if held is not None and held.standing.generation.over:
                    super().drop(held)
                elif held is not None:
                    if most_s is not None:
                        held.limit(max(0.0, until - monotonic()))
                    return held
        finally:
            with suppress(ValueError):
                self._waiting.remove(turn)
            while not turn.empty():
                given = _next(turn, 0)
                if given is not None:
                    self.put_back(given)

    def _is_behind(self, turn: _Turn) -> bool:
        """Whether others are ahead in the queue."""
        try:
            return self._waiting[0] is not turn and turn in self._waiting
        except IndexError:
            return False

    def _serve(self) -> None:
        """Give an idle connection to the first caller in the queue, or tell it that there may be a place for another."""
        try:
            held = self._idle.pop()
        except IndexError:
            with suppress(IndexError):
                self._waiting[0].put(None)
            return
        try:
            turn = self._waiting.popleft()
        except IndexError:
            self._idle.append(held)
        else:
            turn.put(held)


def _next(turn: _Turn, most_s: float) -> HeldConnection | None:
    try:
        return turn.get(timeout=most_s)
    except queue.Empty:
        return None


class NoConnections:
    """What is left to a store that was closed, while its client goes on."""

    def take(self, most_s: float | None = None) -> HeldConnection:
        raise StoreClosed("The store is closed: make another with client.store, or connect again.")

    take_new = take

    def put_back(self, held: HeldConnection) -> None:
        held.close()

    drop = put_back

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    leave_to_parent = close


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
