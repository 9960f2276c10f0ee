"""Tracked connections, on which the server pushes the Redis keys that were written, for threads and for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection

from redis_store.connections.address import Address
from redis_store.connections.aio import LoopConnection
from redis_store.connections.generation import Standing
from redis_store.connections.spin import Spinner
from redis_store.connections.sync import INCOMPLETE, HeldConnection
from redis_store.flows.clock import clock
from redis_store.protocol.command import Command

Heard = Callable[[list[Any]], object]

_READ_BYTES = 64 * 1024


class PushReader:
    """A reply parser that returns only replies, and passes pushes to a callback in their order among the replies."""

    __slots__ = ("_gets", "_heard", "feed", "has_data")

    def __init__(self, reader: hiredis.Reader, heard: Heard) -> None:
        self.feed = reader.feed
        self.has_data = reader.has_data
        self._gets = reader.gets
        self._heard = heard

    def gets(self) -> Any:
        while type(reply := self._gets()) is hiredis.PushNotification:
            self._heard(reply)
        return reply


class TrackedConnection(HeldConnection):
    """A tracked connection that threads use in turn. Between uses it holds no data that has arrived but was not parsed."""

    __slots__ = ("has_news", "has_ttl", "heard_at", "users")

    def __init__(self, address: Address, spinner: Spinner, heard: Heard) -> None:
        super().__init__(address, spinner)
        self._reader = PushReader(self._reader, heard)  # type: ignore[assignment]  # has the methods that are used
        if self._login is not None:
            self._login.again = False
        self.has_news = self._poll
        """Whether data has arrived; waits for the given number of milliseconds."""
        self.heard_at = clock()
        """The time by `clock` at which data last arrived."""
        self.has_ttl = False
        """Whether hash fields can expire on this server."""
        self.users: set[bytes] = set()
        """The key prefixes of the users whose writes are tracked."""

    def exchange(self, commands: Sequence[Command], repeatable: bool, as_it_is: bool = False) -> Any:
        """Send commands and return the reply, as any held connection; also process pushes that followed the reply."""
        reply = super().exchange(commands, repeatable, as_it_is)
        self.heard_at = clock()
        if self._tls:
            self.hear()  # the rest may be in the buffers of TLS, which a poll does not see
        if (unrequested := self._reader.gets()) is not INCOMPLETE:
            self._refuse(unrequested)
        return reply

    def hear(self) -> None:
        """Process the data that has arrived, without waiting. Raises `ConnectionLost` if the connection ended or is stale."""
        self.check()
        if self.receive(self._refuse):
            self.heard_at = clock()

    def _refuse(self, _: Any) -> None:
        raise self._lost("the server sent a reply without a request", False)


class TrackedLoopConnection(LoopConnection):
    """A tracked connection that all calls of an event loop share."""

    def __init__(
        self,
        address: Address,
        standing: Standing,
        spinner: Spinner,
        made: AbstractConnection,
        writer: asyncio.StreamWriter,
    ) -> None:
        super().__init__(address, standing, spinner, made, writer)
        if self._login is not None:
            self._login.again = False
        self._poll_before_write = None  # data without a request is a push, and not a sign of an end
        self.reads_beside = self._poll is not None
        """Whether the socket may be read without the transport; not under TLS, see `settle`."""
        self.heard_at = clock()
        self.has_ttl = False
        self.users: set[bytes] = set()

    def tell(self, heard: Heard) -> None:
        """Set the callback for pushes; to be called before any request."""
        self._reader = PushReader(self._reader, heard)  # type: ignore[assignment]  # has the methods that are used

    def data_received(self, data: bytes) -> None:
        self.heard_at = clock()
        super().data_received(data)

    async def settle(self) -> None:
        """Let the event loop read the data that has arrived."""
        # The first turn polls the socket and queues the read; the second runs after it.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def hear(self) -> None:
        """Process the data that has arrived, without waiting."""
        poll, descriptor = self._poll, self._descriptor
        if poll is None or descriptor is None:
            return
        while poll(0) and self.usable:  # in this order, as mostly nothing has arrived
            try:
                data = os.read(descriptor, _READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self.close(self._lost(str(error)))
                return
            if not data:
                self.close(self._lost("the server closed it"))
                return
            self.data_received(data)
