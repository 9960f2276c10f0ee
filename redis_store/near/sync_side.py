"""The near cache's side for threads: one tracked connection under a lock."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Protocol, TypeVar

from redis_store.drivers.sync import drive
from redis_store.errors import DataStoreError, LimitExceeded, StoreUnavailable
from redis_store.namespace.scope import Scope
from redis_store.near import ops as near_ops
from redis_store.near.connection import TrackedConnection, clock
from redis_store.near.entries import Entries, Entry
from redis_store.near.side import (
    MOST_USERS,
    NEAR_RETRY_S,
    SILENCE_S,
    Measured,
    Owner,
    Side,
    logger,
)
from redis_store.protocol.call import Op

T = TypeVar("T")

_LONGEST_LOOK_S = 0.1
"""Time to wait for the lock, in seconds; a holder that keeps it longer is waiting for the server."""

IDLE_S = 60.0
"""Time without use after which the connection is closed, in seconds."""


class Asker(Protocol):
    """The reads of one store."""

    lent: bool

    @property
    def measured(self) -> Measured | None: ...


class ThreadSide(Side):
    """The entries and the tracked connection that all threads share; one thread at a time uses the connection."""

    def __init__(self, cache: Owner) -> None:
        super().__init__(cache)
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._asking = False
        self._asker: object = None
        """The reads that are waiting for a reply, or None."""
        self._closing = False
        """Whether all blocking stores are closed, so that the thread using the connection must close it."""
        self._connection: TrackedConnection | None = None
        self._used_at = 0.0
        self._ended: threading.Event | None = None
        """The event that ends the thread tending the connection; None if there is no such thread."""

    @property
    def live(self) -> bool:
        return self._connection is not None

    def find(self, scope: Scope, key: str) -> Entry | None:
        """Read pending invalidations, then return the key's entry, or None if the server has to be asked."""
        lock = self._lock
        if not lock.acquire(False):
            if self._asking:  # waiting would take as long as the server does, so ask the server as well
                return None
            lock.acquire()
        try:
            connection = self._connection
            if connection is None or (connection.has_news(0) and not self._hear(connection)):
                return None
            now = self._used_at = clock()
            if now - connection.heard_at > SILENCE_S:
                return None
            return self.entries.find(scope.keys.data, key, now)
        finally:
            lock.release()

    def find_many(self, scope: Scope, keys: Sequence[str]) -> list[Entry] | None:
        """Return the entries of all keys as a snapshot, or None unless all are cached."""
        if (first := self.find(scope, keys[0])) is None or not self._lock.acquire(False):
            return None
        try:
            found = [entry for key in keys if (entry := self.entries.find(scope.keys.data, key, self._used_at))]
            one_moment = all(entry.space is first.space for entry in found)
            return found if len(found) == len(keys) and one_moment else None
        finally:
            self._lock.release()

    def ask(
        self, asker: Asker, scope: Scope, keys: Sequence[str], fields: Sequence[bytes]
    ) -> list[bytes | None] | None:
        """Read from the server on the tracked connection, and keep the reply; None if that is not possible now."""
        if self._connection is None and asker.lent:
            self._connect_beside(scope)
            return None
        if not self._begin_to_ask():
            return None
        self._asker = asker
        try:
            connection = self._connection or (self._connect(scope) if self._may_connect() else None)
            if connection is None:
                return None
            connection.most_bytes = scope.max_read_bytes
            self._track(connection, scope)
            data, asked = scope.keys.data, clock()
            space = self.entries.space(data)
            fetching = near_ops.fetch(scope, fields, connection.has_ttl)
            found = self._drive(connection, fetching if asker.measured is None else asker.measured(fetching))
            self._used_at = clock()
            self._keep(data, space, keys, found, asked)
            return [text for text, _, _ in found]
        except LimitExceeded:  # the store's own call would only raise it again
            raise
        except DataStoreError as error:
            self._failed(error)
            return None
        finally:
            self._end_asking()

    def interrupt(self, asker: object) -> None:
        """End the wait for a reply, if it is `asker` that waits; called when its store closes."""
        connection = self._connection
        if self._asker is asker and connection is not None:
            connection.close()

    def open(self) -> None:
        """Allow use of the side again, when a blocking store joins."""
        self._closing = False

    def close(self) -> None:
        """Close the connection and drop all entries. A thread that is waiting for a reply does so itself when its wait ends."""
        self._closing = True
        connection = self._connection
        if self._asking and connection is not None:
            connection.close()
        if self._lock.acquire(timeout=_LONGEST_LOOK_S):
            try:
                self._end()
            finally:
                self._lock.release()

    def _begin_to_ask(self) -> bool:
        if self.cache.off or self._closing or self._asking or not self._lock.acquire(timeout=_LONGEST_LOOK_S):
            return False
        self._asking = True
        return True

    def _end_asking(self) -> None:
        if self._connection is not None and self._connection.busy:  # interrupted, so a reply is still to come
            self._drop()
        self._asker = None
        self._asking = False
        if self._closing:
            self._end()
        self._lock.release()

    def _end(self) -> None:
        self._drop()
        if self._ended is not None:
            self._ended.set()
            self._ended = None

    def _connect_beside(self, scope: Scope) -> None:
        """Connect in a thread of its own, for callers that must not wait for it."""
        if not self._may_connect() or self._asking:
            return

        def connect() -> None:
            if not self._begin_to_ask():
                return
            try:
                if self._connection is None:
                    self._connect(scope)
            except DataStoreError as error:
                self._failed(error)
            finally:
                self._end_asking()

        self._retry_at = clock() + NEAR_RETRY_S  # one thread at a time
        threading.Thread(target=connect, name="redis-store-near-cache", daemon=True).start()

    def leave_to_parent(self) -> None:
        inherited = self._connection
        self.entries = Entries(self.cache.max_bytes)  # another thread may have been changing them during the fork
        self._begin()
        if inherited is not None:
            inherited.close()

    def _connect(self, scope: Scope) -> TrackedConnection | None:
        if (resolver := self.cache.resolver()) is None:
            return None
        connection = TrackedConnection(resolver.address(), self._spinner, self.entries.heard)
        try:
            connection.has_ttl = self._drive(connection, near_ops.begin(scope.user))
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._retry_at = -math.inf
        self._used_at = clock()
        if self._ended is None:
            self._ended = threading.Event()
            name = "redis-store-near-cache"
            threading.Thread(target=self._tend, args=(self._ended,), name=name, daemon=True).start()
        return connection

    def _track(self, connection: TrackedConnection, scope: Scope) -> None:
        prefix = scope.user.prefix
        if prefix in connection.users:
            return
        if len(connection.users) >= MOST_USERS:
            self._drive(connection, near_ops.untrack())
            self.entries.clear()
            connection.users.clear()
        self._drive(connection, near_ops.track(scope.user))
        connection.users.add(prefix)

    def _drive(self, connection: TrackedConnection, op: Op[T]) -> T:
        return drive(op, lambda call: connection.exchange(call.commands, True))

    def _hear(self, connection: TrackedConnection) -> bool:
        try:
            connection.hear()
        except StoreUnavailable as error:
            logger.info("the near cache is empty: %s", error)
            self._drop()
            return False
        return True

    def _drop(self) -> None:
        self.entries.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _tend(self, ended: threading.Event) -> None:
        """Read the connection while no store does, lest messages pile up in the server, and close it when it is unused."""
        while not ended.wait(SILENCE_S):
            if not self._lock.acquire(False):
                continue
            try:
                if ended.is_set():
                    return
                if self._connection is not None and clock() - self._used_at < IDLE_S:
                    self._hear(self._connection)
                else:
                    self._drop()
                if self._connection is None:
                    self._ended = None
                    return
            finally:
                self._lock.release()
