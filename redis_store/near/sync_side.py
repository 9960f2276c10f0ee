"""The near cache's side for threads: one tracked connection that they use in turn.

A signal handler may read the store at any point of the thread that it interrupts. So the lock is re-entrant, and a read that
finds its own thread using the connection asks the server beside it. A handler that raises may cut a change of the entries in
two; then all are dropped.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from redis_store.errors import DataStoreError, StoreUnavailable
from redis_store.flows.clock import clock
from redis_store.namespace.keys import UserKeys
from redis_store.namespace.scope import Scope
from redis_store.near import ops as near_ops
from redis_store.near import side
from redis_store.near.connection import TrackedConnection
from redis_store.near.entries import Entries, Entry
from redis_store.near.side import NEAR_RETRY_S, UNANSWERED, Owner, Reader, Side, logger
from redis_store.ops.batch import SMALL_READ_KEYS, fields_of
from redis_store.protocol.call import Op
from redis_store.protocol.drive import drive
from redis_store.protocol.read import Read

T = TypeVar("T")

_LONGEST_LOOK_S = 0.1
"""Time to wait for a thread that asks on the connection, in seconds."""

IDLE_S = 60.0
"""Time without use after which the connection is closed, in seconds."""

_THREAD_NAME = "redis-store-near-cache"


class ThreadSide(Side[TrackedConnection]):
    """The entries and the tracked connection that all threads share; one thread at a time uses the connection."""

    def __init__(self, cache: Owner) -> None:
        super().__init__(cache)
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        """Held for a moment only: never while a thread waits for the server."""
        self._turn = threading.Condition(self._lock)
        self._finding = False
        """Whether the thread that holds the lock is looking for entries."""
        self._asker = 0
        """The thread that asks on the connection, or 0."""
        self._reader: object = None
        """The core whose call is waiting for a reply, or None."""
        self._closing = False
        """Whether all blocking stores are closed, so that the thread using the connection must close it."""
        self._connection: TrackedConnection | None = None
        self._used_at = 0.0
        self._ended: threading.Event | None = None
        """The event that ends the thread tending the connection; None if there is no such thread."""

    def answer(self, read: Read[T], scope: Scope, wanted: Any, default: Any, reader: Reader) -> T:
        """Return the result of a read: from memory, on the tracked connection, or else as if there were no cache."""
        if not scope.readable:
            scope.check_readable()
        if read.many:
            wanted = list(fields_of(wanted).values())
        kept = self._find(scope, wanted, read.many)
        if kept is not None:
            return read.again(scope, wanted, default, kept)
        if read.result is not None and (not read.many or 0 < len(wanted) <= SMALL_READ_KEYS):
            reply = self._ask(read, scope, wanted, reader)
            if reply is not UNANSWERED:
                return read.result(scope, wanted, default, reply)
        return reader.run(read.ask(scope, wanted, default))

    def interrupt(self, core: object) -> None:
        """End the wait for a reply, if it is a call of `core` that waits; called when a leased store closes."""
        connection = self._connection
        if self._reader is core and connection is not None:
            connection.close()

    def open(self, core: object) -> None:
        """Allow use of the side again, when a blocking client joins."""
        self.users.add(core)
        self._closing = False

    def close(self) -> None:
        """Close the connection and drop all entries. A thread that is waiting for a reply does so itself when its wait ends."""
        self._closing = True
        connection = self._connection
        if self._asker and connection is not None:
            connection.close()
        with self._lock:
            if self._finding or not self._wait_for_asker():
                return
            self._end()

    def leave_to_parent(self) -> None:
        """Start empty in a forked child."""
        inherited = self._connection
        self.entries = Entries(self.cache.max_bytes)  # another thread may have been changing them during the fork
        self._begin()
        if inherited is not None:
            inherited.close()

    def _find(self, scope: Scope, wanted: Any, many: bool) -> Entry | list[Entry] | None:
        """Read pending invalidations, then return what is kept of all that is wanted, or None."""
        with self._lock:
            if self._finding:
                return None
            # Another thread waits for a reply, which takes as long as asking the server beside it. What is kept is worth it,
            # because after a read beside it the next read of any thread would have to ask the server too.
            if self._asker and not (self._keeps(scope, wanted, many) and self._wait_for_asker()):
                return None
            self._finding = True
            try:
                connection = self._connection
                if connection is None:
                    return None
                if (connection.has_news(0) or connection.standing.generation.over) and not self._hear(connection):
                    return None
                now = self._used_at = clock()
                if now - connection.heard_at > side.SILENCE_S or self._level_with is not self.cache.read_beside:
                    return None
                if self._topology is not None and self._is_elsewhere(self._topology, scope.user, now):
                    return None
                if many:
                    return self.entries.find_all(scope.keys.data, wanted, now)
                return self.entries.find(scope.keys.data, wanted, now)
            finally:
                self._finding = False

    def _wait_for_asker(self) -> bool:
        """Wait a little until no thread asks on the connection, and return whether none does. Call it with the lock held."""
        if self._asker == threading.get_ident():
            return False
        return self._turn.wait_for(lambda: not self._asker, _LONGEST_LOOK_S)

    def _keeps(self, scope: Scope, wanted: Any, many: bool) -> bool:
        """Return whether something is kept under each key that is wanted. Needs no lock."""
        return all(self.entries.has(scope.keys.data, key) for key in (wanted if many else (wanted,)))

    def _ask(self, read: Read[Any], scope: Scope, wanted: Any, reader: Reader) -> Any:
        """Read from the server on the tracked connection; `UNANSWERED` if that is not possible now."""
        if self._connection is None and reader.core not in self.users:
            # A lease may end at any time, and nothing could interrupt the wait for a connection to open.
            self._connect_beside(scope.user)
            return UNANSWERED
        return self._in_turn(lambda: self._ask_in_turn(read, scope, wanted, reader), reader.core)

    def _ask_in_turn(self, read: Read[Any], scope: Scope, wanted: Any, reader: Reader) -> Any:
        connection = self._connection or (self._connect(scope.user) if self._may_connect() else None)
        if connection is None:
            return UNANSWERED
        connection.most_bytes = scope.max_read_bytes
        self._drive(connection, self._track(connection, scope.user))
        return self._drive(connection, self._fetch(connection, read, scope, wanted, reader))

    def _in_turn(self, ask: Callable[[], Any], core: object = None) -> Any:
        """Call a function that asks on the connection; `UNANSWERED` if that fails or another thread does so now."""
        mine = 0
        try:
            with self._lock:
                if self.cache.off or self._closing or self._asker or self._finding:
                    return UNANSWERED
                self._asker = mine = threading.get_ident()
            self._reader = core
            return ask()
        except DataStoreError as error:
            self._failed(error)
            return UNANSWERED
        except BaseException:
            if mine:
                self._drop()
            raise
        finally:
            if mine:
                try:
                    self._end_asking()
                finally:
                    self._asker = 0
                    with self._lock:
                        self._turn.notify_all()

    def _end_asking(self) -> None:
        if self._connection is not None and self._connection.busy:  # interrupted, so a reply is still to come
            self._drop()
        self._used_at = clock()
        self._reader = None
        if self._closing:
            self._end()

    def _end(self) -> None:
        self._drop()
        if self._ended is not None:
            self._ended.set()
            self._ended = None

    def _connect_beside(self, user: UserKeys) -> None:
        """Connect in a thread of its own, for callers that must not wait for it."""
        if not self._may_connect() or self._asker:
            return

        def connect() -> None:
            self._in_turn(lambda: self._connection or self._connect(user))

        self._retry_at = clock() + NEAR_RETRY_S  # one thread at a time
        threading.Thread(target=connect, name=_THREAD_NAME, daemon=True).start()

    def _connect(self, user: UserKeys) -> TrackedConnection | None:
        if (resolver := self.cache.resolver()) is None:
            return None
        self._topology = resolver.topology
        connection = TrackedConnection(resolver.address(), self._spinner, self.entries.heard)
        try:
            connection.has_ttl = self._drive(connection, near_ops.begin(user))
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._retry_at = -math.inf
        self._used_at = clock()
        if self._ended is None:
            self._ended = threading.Event()
            threading.Thread(target=self._tend, args=(self._ended,), name=_THREAD_NAME, daemon=True).start()
        return connection

    def _drive(self, connection: TrackedConnection, op: Op[T]) -> T:
        return drive(op, lambda call: connection.exchange(call.commands, True), Exception)

    def _hear(self, connection: TrackedConnection) -> bool:
        try:
            connection.hear()
        except StoreUnavailable as error:
            logger.info("the near cache is empty: %s", error)
            self._drop()
            return False
        except BaseException:  # from a signal handler; a part of what was announced may be lost
            self._drop()
            raise
        return True

    def _tend(self, ended: threading.Event) -> None:
        """Read the connection while no store does, lest messages pile up in the server, and close it when it is unused."""
        while not ended.wait(side.SILENCE_S):
            with self._lock:
                if self._asker:
                    continue
                if ended.is_set():
                    return
                if self._connection is not None and clock() - self._used_at < IDLE_S:
                    self._hear(self._connection)
                else:
                    self._drop()
                if self._connection is None:
                    self._ended = None
                    return
