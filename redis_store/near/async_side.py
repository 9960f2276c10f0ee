"""The near cache's side for one event loop: a tracked connection that the loop's calls share."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar

from redis_store.drivers.aio import AsyncDriver, drive
from redis_store.errors import DataStoreError
from redis_store.namespace.scope import Scope
from redis_store.near import ops as near_ops
from redis_store.near.connection import TrackedLoopConnection, clock
from redis_store.near.entries import Entry
from redis_store.near.side import MOST_USERS, SILENCE_S, Measured, Owner, Side
from redis_store.protocol.call import Op

T = TypeVar("T")


class LoopSide(Side):
    """The entries and the tracked connection that the calls of one event loop share."""

    def __init__(self, cache: Owner, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(cache)
        self.loop = loop
        self.users: weakref.WeakSet[AsyncDriver] = weakref.WeakSet()
        """The stores that have read through this side; the last one to leave closes it."""
        self.closed = False
        """Whether its stores are closed, or it belongs to the parent of a forked process."""
        self._connecting = asyncio.Lock()
        self._connection: TrackedLoopConnection | None = None

    @property
    def live(self) -> bool:
        connection = self._connection
        return connection is not None and connection.usable

    @property
    def reads_late(self) -> bool:
        """Whether `settle` must be awaited before a read."""
        return self._connection is not None and not self._connection.reads_beside

    async def settle(self) -> None:
        """Let the event loop read the connection, which nothing else may do under TLS."""
        if self._connection is not None:
            await self._connection.settle()

    def find(self, scope: Scope, key: str) -> Entry | None:
        """Read pending invalidations, then return the key's entry, or None if the server has to be asked."""
        connection = self._connection
        if connection is None:
            return None
        connection.hear()
        if not connection.usable:
            self._drop()
            return None
        now = clock()
        if now - connection.heard_at > SILENCE_S:
            return None
        return self.entries.find(scope.keys.data, key, now)

    def find_many(self, scope: Scope, keys: Sequence[str]) -> list[Entry] | None:
        """Return the entries of all keys as a snapshot, or None unless all are cached."""
        if self.find(scope, keys[0]) is None:
            return None
        now = clock()
        found = [entry for key in keys if (entry := self.entries.find(scope.keys.data, key, now))]
        one_moment = all(entry.space is found[0].space for entry in found)
        return found if len(found) == len(keys) and one_moment else None

    async def ask(
        self, scope: Scope, keys: Sequence[str], fields: Sequence[bytes], measured: Measured | None
    ) -> list[bytes | None] | None:
        """Read from the server on the tracked connection, and keep the reply; None if that is not possible now."""
        try:
            connection = await self._tracking(scope)
            if connection is None:
                return None
            data, asked = scope.keys.data, clock()
            space = self.entries.space(data)
            fetching = near_ops.fetch(scope, fields, connection.has_ttl)
            found = await self._drive(connection, fetching if measured is None else measured(fetching))
            if connection is self._connection:
                self._keep(data, space, keys, found, asked)
            return [text for text, _, _ in found]
        except DataStoreError as error:
            self._failed(error)
            return None

    def close(self) -> None:
        """Close the connection for good, from any thread."""
        self.closed = True
        self.entries.clear()
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self.loop.is_closed():
            connection.abandon()
            return
        with suppress(RuntimeError):
            if asyncio.get_running_loop() is self.loop:
                connection.close()
                return
        self.loop.call_soon_threadsafe(connection.close)

    async def _tracking(self, scope: Scope) -> TrackedLoopConnection | None:
        """Return the connection once it tracks this user's writes, or None if there is no connection now."""
        connection = self._connection
        if connection is not None and connection.usable and scope.user.prefix in connection.users:
            return connection
        async with self._connecting:
            connection = self._connection
            if connection is None or not connection.usable:
                connection = await self._connect(scope)
            if connection is None or scope.user.prefix in connection.users:
                return connection
            if len(connection.users) >= MOST_USERS:
                connection.users.clear()
                await self._drive(connection, near_ops.untrack())
                self.entries.clear()
            await self._drive(connection, near_ops.track(scope.user))
            connection.users.add(scope.user.prefix)
            return connection

    async def _connect(self, scope: Scope) -> TrackedLoopConnection | None:
        self._drop()
        if self.closed or not self._may_connect() or (resolver := self.cache.resolver()) is None:
            return None
        address = await asyncio.to_thread(resolver.address) if resolver.may_block else resolver.address()
        connection = await TrackedLoopConnection.open(address, self._spinner)
        connection.tell(self.entries.heard)
        try:
            connection.has_ttl = await self._drive(connection, near_ops.begin(scope.user))
        except BaseException:
            connection.close()
            raise
        if self.closed:  # while it was connecting
            connection.close()
            return None
        self._connection = connection
        return connection

    async def _drive(self, connection: TrackedLoopConnection, op: Op[T]) -> T:
        return await drive(op, lambda call: connection.request(call.commands, True))

    def _drop(self) -> None:
        self.entries.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
