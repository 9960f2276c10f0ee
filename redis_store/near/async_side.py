"""The near cache's side for one event loop: a tracked connection that the loop's calls share."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, TypeVar

from redis_store.errors import DataStoreError
from redis_store.flows.clock import clock
from redis_store.namespace.keys import UserKeys
from redis_store.namespace.scope import Scope
from redis_store.near import ops as near_ops
from redis_store.near import side
from redis_store.near.connection import TrackedLoopConnection
from redis_store.near.entries import Entry
from redis_store.near.side import UNANSWERED, AsyncReader, Owner, Side
from redis_store.ops.batch import SMALL_READ_KEYS, fields_of
from redis_store.protocol.call import Op
from redis_store.protocol.drive import drive_async
from redis_store.protocol.read import Read

T = TypeVar("T")


class LoopSide(Side[TrackedLoopConnection]):
    """The entries and the tracked connection that the calls of one event loop share."""

    def __init__(self, cache: Owner, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(cache)
        self.loop = loop
        self.closed = False
        """Whether its stores are closed, or it belongs to the parent of a forked process."""
        self._connecting = asyncio.Lock()

    @property
    def live(self) -> bool:
        return self._connection is not None and self._connection.usable

    async def answer(self, read: Read[T], scope: Scope, wanted: Any, default: Any, reader: AsyncReader) -> T:
        """Return the result of a read: from memory, on the tracked connection, or else as if there were no cache."""
        if not scope.readable:
            scope.check_readable()
        if read.many:
            wanted = list(fields_of(wanted).values())
        if self._connection is not None and not self._connection.reads_beside:
            await self._connection.settle()
        kept = self._find(scope, wanted, read.many)
        if kept is not None:
            return read.again(scope, wanted, default, kept)
        if read.result is not None and (not read.many or 0 < len(wanted) <= SMALL_READ_KEYS):
            reply = await self._ask(read, scope, wanted, reader)
            if reply is not UNANSWERED:
                return read.result(scope, wanted, default, reply)
        return await reader.run(read.ask(scope, wanted, default))

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

    def _find(self, scope: Scope, wanted: Any, many: bool) -> Entry | list[Entry] | None:
        """Read pending invalidations, then return what is kept of all that is wanted, or None."""
        connection = self._connection
        if connection is None:
            return None
        connection.hear()
        if not connection.usable:
            self._drop()
            return None
        now = clock()
        if now - connection.heard_at > side.SILENCE_S or self._level_with is not self.cache.read_beside:
            return None
        if self._topology is not None and self._is_elsewhere(self._topology, scope.user, now):
            return None
        if many:
            return self.entries.find_all(scope.keys.data, wanted, now)
        return self.entries.find(scope.keys.data, wanted, now)

    async def _ask(self, read: Read[Any], scope: Scope, wanted: Any, reader: AsyncReader) -> Any:
        """Read from the server on the tracked connection; `UNANSWERED` if that is not possible now."""
        try:
            connection = await self._tracking(scope.user)
            if connection is None:
                return UNANSWERED
            return await self._drive(connection, self._fetch(connection, read, scope, wanted, reader))
        except DataStoreError as error:
            self._failed(error)
            return UNANSWERED

    async def _tracking(self, user: UserKeys) -> TrackedLoopConnection | None:
        """Return the connection once it tracks this user's writes, or None if there is no connection now."""
        connection = self._connection
        if connection is not None and connection.usable and user.prefix in connection.users:
            return connection
        async with self._connecting:
            connection = self._connection
            if connection is None or not connection.usable:
                connection = await self._connect(user)
            if connection is not None:
                await self._drive(connection, self._track(connection, user))
            return connection

    async def _connect(self, user: UserKeys) -> TrackedLoopConnection | None:
        self._drop()
        if self.closed or not self._may_connect() or (resolver := self.cache.resolver()) is None:
            return None
        self._topology = resolver.topology
        address = await asyncio.to_thread(resolver.address) if resolver.may_block else resolver.address()
        connection = await TrackedLoopConnection.open(address, self._spinner)
        connection.tell(self.entries.heard)
        try:
            connection.has_ttl = await self._drive(connection, near_ops.begin(user))
        except BaseException:
            connection.close()
            raise
        if self.closed:  # while it was connecting
            connection.close()
            return None
        self._connection = connection
        return connection

    async def _drive(self, connection: TrackedLoopConnection, op: Op[T]) -> T:
        return await drive_async(op, lambda call: connection.request(call.commands, True), Exception)
