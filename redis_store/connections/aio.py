"""The asyncio connection, shared by many callers: their calls go out in one write, and replies are matched in order."""

from __future__ import annotations

import asyncio
import os
import select
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic, perf_counter_ns
from typing import Any, Self

import hiredis
from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from redis_store.connections.address import Address
from redis_store.connections.credentials import Login
from redis_store.connections.generation import Standing
from redis_store.connections.spin import SPIN_NS, Spinner
from redis_store.connections.sync import UPLOAD_BYTES, afterwards, connecting_failed, unsent_bytes
from redis_store.errors import AuthenticationFailed, ConnectionLost, DataStoreError, StoreTimeout, WrongEventLoop
from redis_store.protocol.command import Command
from redis_store.protocol.packing import pack
from redis_store.protocol.redirects import is_left_open

MOST_CALLS = 10_000
MOST_BYTES_UNDER_WAY = 16 * 1024 * 1024
"""Maximum number and size in bytes of the unanswered requests on one connection; further calls wait their turn."""

_READ_BYTES = 64 * 1024
_LOOKS = 4
"""Number of looks at the progress of an upload within the time-out."""

_INCOMPLETE = object()


class _Waiting:
    """An unanswered call: its future and the replies received so far."""

    __slots__ = ("future", "missing", "replies", "size_bytes", "writes")

    def __init__(self, future: asyncio.Future[Any], missing: int, size_bytes: int, writes: bool) -> None:
        self.future = future
        self.missing = missing
        self.replies: list[Any] | None = [] if missing > 1 else None
        self.size_bytes = size_bytes
        self.writes = writes


class LoopConnection(asyncio.Protocol):
    """A connection that belongs to one event loop.

    A caller that gives up stays in the queue: its reply is read and discarded, so that it never reaches another caller.
    """

    def __init__(
        self,
        address: Address,
        standing: Standing,
        spinner: Spinner,
        made: AbstractConnection,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._address = address
        self._standing = standing
        self._spinner = spinner
        self._made = made
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=standing.error_reply, notEnoughData=_INCOMPLETE)
        self._waiting: deque[_Waiting] = deque()
        self._outbox: list[bytes] = []
        self._unsent = 0
        self._bytes_under_way = 0
        self._room: deque[asyncio.Future[None]] = deque()
        self._watchdog: asyncio.TimerHandle | None = None
        self._progress_at = 0.0
        self._uploading = False
        """Whether a big request was sent, whose progress is looked at several times within the time-out."""
        self._written = 0
        self._taken = 0
        """Bytes that were written to the transport, and that the server had taken at the last look."""
        self._retired = False
        self._failure: DataStoreError | None = None
        self._transport = writer.transport
        self._former = self._transport.get_protocol()
        self._descriptor = _plain_descriptor(self._transport)
        self._poll = None if self._descriptor is None else _poll_of(self._descriptor)
        self._poll_before_write = self._poll
        self._login = None if address.credentials is None else Login(address.credentials, address.shown, standing)
        self._logins = 0
        """How often the connection has logged in again."""
        self._logging_in = asyncio.Lock()
        self._renewal: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None
        if self._login is not None:
            self._renew_later()
        # redis-py has read all its replies, so nothing is left in the buffer of the protocol that ours replaces.
        self._transport.set_protocol(self)

    @classmethod
    async def open(cls, address: Address, spinner: Spinner) -> Self:
        """Connect and log in with the url's credentials. Raises `StoreUnavailable` or `InvalidSettings`."""
        standing = Standing(address.known)
        made = address.new_async_connection()
        try:
            try:
                await made.connect()
            except redis_errors.AuthenticationError:
                if address.credentials is None:
                    raise
                await made.disconnect()  # once more: the provider may have kept a token for too long
                await made.connect()
        except DataStoreError:  # of the credential provider
            await made.disconnect()
            raise
        except (redis_errors.RedisError, OSError, ValueError) as error:
            await made.disconnect()
            raise connecting_failed(error, address) from error
        writer = made._writer
        assert writer is not None, "redis-py has connected"
        return cls(address, standing, spinner, made, writer)

    @property
    def usable(self) -> bool:
        """Whether the connection should get further calls."""
        return self._failure is None and not self._transport.is_closing() and not self._standing.generation.over

    @property
    def idle(self) -> bool:
        """Whether no reply is outstanding."""
        return not self._waiting

    @property
    def progress_at(self) -> float:
        """The time of the event loop at which a request or a part of a reply last began its way."""
        return self._progress_at

    @property
    def shown(self) -> str:
        """The server's url without secrets, for messages."""
        return self._address.shown

    def ask(self, command: Command, tell: Callable[[Any], None]) -> None:
        """Send a command without waiting, and pass its reply to `tell`, or call nothing if no reply comes."""
        if not self.usable:
            return

        def answered(future: asyncio.Future[Any]) -> None:
            if not future.cancelled() and future.exception() is None:
                tell(future.result())

        self._submit(pack((command,)), 1, False).add_done_callback(answered)

    def send(self, commands: Sequence[Command], repeatable: bool) -> asyncio.Future[Any] | None:
        """Send commands together and return the future of their reply; None if that takes `request`, such as for want of room."""
        if self._room or self._full or self._login is not None:
            return None
        return self._submit(pack(commands), len(commands), not repeatable)

    async def request(self, commands: Sequence[Command], repeatable: bool) -> Any:
        """Send commands together and return the reply, or the list of replies if there are several commands."""
        replicas = None if repeatable else self._address.replicas
        if replicas is not None:
            commands = replicas.behind(commands)
            replies = await self._request(commands, repeatable)
            return replicas.judge(commands, replies, self._standing, self._address.shown)
        return await self._request(commands, repeatable)

    async def _request(self, commands: Sequence[Command], repeatable: bool) -> Any:
        data = pack(commands)
        if self._room or self._full:
            await self._wait_for_room()
        if self._login is None:
            return await self._submit(data, len(commands), not repeatable)
        since = self._logins
        reply = await self._submit(data, len(commands), not repeatable)
        try:
            if not self._login.is_needed(reply):
                return reply
        except ConnectionLost:
            self.close(self._lost("it had lost its login"))
            raise
        await self._log_in_again(since)
        return await self._submit(data, len(commands), not repeatable)

    def close(self, failure: DataStoreError | None = None) -> None:
        """Close at once. Callers with unanswered calls get the failure."""
        self._fail(failure or ConnectionLost(f"The connection to {self._address.shown} was closed by the store"))
        self._transport.abort()
        self._made._close()

    def retire(self) -> None:
        """Close as soon as no reply is outstanding."""
        self._retired = True
        if not self._waiting:
            self.close()

    def abandon(self) -> None:
        """Close the socket of a connection whose event loop is closed and can schedule nothing any more."""
        self._failure = ConnectionLost(f"The event loop of the connection to {self._address.shown} is closed")
        self._waiting.clear()
        with suppress(RuntimeError):  # raised because the loop is closed
            self._transport.abort()
        # The transport would have the loop call this. Without it the descriptor stays open until garbage collection.
        finish = getattr(self._transport, "_call_connection_lost", None)
        if finish is not None and self._made.is_connected:
            finish(None)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        self._progress_at = self._loop.time()
        reader.feed(data)
        waiting = self._waiting
        try:
            reply = reader.gets()
            while reply is not _INCOMPLETE:
                if not waiting:
                    raise hiredis.ProtocolError("an unrequested reply")
                self._deliver(waiting[0], reply)
                reply = reader.gets()
        except hiredis.ProtocolError as error:
            self.close(self._lost(f"the reply is not Redis protocol: {error}"))
        if self._room:
            self._let_in()
        if self._retired and not self._waiting:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(self._lost("the server closed it" if exc is None else str(exc)))
        self._made._close()
        self._former.connection_lost(exc)  # redis-py waits for this when it closes

    def eof_received(self) -> bool:
        return False

    async def _log_in_again(self, since: int) -> None:
        """Log in, unless the connection has done so since a number of logins."""
        async with self._logging_in:
            if self._logins == since:
                assert self._login is not None
                await self._login.log_in_async(lambda command: self._submit(pack((command,)), 1, False))
                self._logins += 1

    def _renew_later(self) -> None:
        """Log in again when it is time, in a task, so that no call waits for it."""
        assert self._login is not None
        left = self._login.renew_at - monotonic()
        self._renewal = self._loop.call_later(max(0.0, left), self._begin_renewal)

    def _begin_renewal(self) -> None:
        if self._failure is None:
            self._renewing = self._loop.create_task(self._renew())

    async def _renew(self) -> None:
        assert self._login is not None
        try:
            await self._log_in_again(self._logins)
        except AuthenticationFailed as error:
            self._login.put_off(error)
        except DataStoreError:
            return  # the connection is gone
        self._renew_later()

    def _submit(self, data: bytes, replies: int, writes: bool) -> asyncio.Future[Any]:
        if self._failure is not None:
            raise self._copy_of_failure(writes=False)
        if asyncio.get_running_loop() is not self._loop:
            raise WrongEventLoop(
                "This connection belongs to another event loop: make the call in the loop that opened it."
            )
        future = self._loop.create_future()
        self._waiting.append(_Waiting(future, replies, len(data), writes))
        self._bytes_under_way += len(data)
        self._outbox.append(data)
        self._unsent += 1
        if len(self._outbox) > 1:
            return future
        if _has_other_work(self._loop):  # other tasks may make calls in this iteration
            self._loop.call_soon(self._flush)
        elif self._write_all():
            self._loop.call_soon(self._spin)  # not at once: the caller's task shall leave the loop a turn
        return future

    def _deliver(self, entry: _Waiting, reply: Any) -> None:
        if entry.replies is not None:
            entry.replies.append(reply)
            entry.missing -= 1
            if entry.missing:
                return
            reply = entry.replies
        self._waiting.popleft()
        self._bytes_under_way -= entry.size_bytes
        if not entry.future.done():
            entry.future.set_result(reply)
        if entry.replies is not None and is_left_open(entry.replies):
            self.close(self._lost("the server refused EXEC, and queues all that follows"))

    def _flush(self) -> None:
        if self._write_all():
            self._spin()

    def _write_all(self) -> bool:
        """Write the calls of this iteration of the loop in one piece, and return whether polling for the reply is worthwhile."""
        if not self._outbox or self._failure is not None:
            return False
        look = self._poll_before_write
        if len(self._waiting) == self._unsent and look is not None and look(0):
            # No reply is outstanding, yet the socket is readable: the server closed it. Nothing was sent yet.
            self.close(self._lost("the server had closed it"))
            return False
        data = self._outbox[0] if len(self._outbox) == 1 else b"".join(self._outbox)
        self._outbox.clear()
        alone = self._unsent == len(self._waiting) == 1
        self._unsent = 0
        self._progress_at = self._loop.time()
        if len(data) > UPLOAD_BYTES and not self._uploading:
            self._uploading = True
            if self._watchdog is not None:
                self._watchdog.cancel()
            self._watchdog = self._loop.call_later(self._address.timeout_s / _LOOKS, self._watch)
        elif self._watchdog is None:
            self._watchdog = self._loop.call_later(self._address.timeout_s, self._watch)
        self._written += len(data)
        self._transport.write(data)
        return alone and self._poll is not None and self._spinner.worth_it()

    def _spin(self) -> None:
        if self._poll is None or self._descriptor is None or len(self._waiting) != 1 or _has_other_work(self._loop):
            return
        end = perf_counter_ns() + SPIN_NS
        while not self._poll(0):
            if perf_counter_ns() > end:
                self._spinner.missed()
                return
        self._spinner.paid()
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except OSError:
            return  # the loop gets the same error and reports it
        if data:
            self.data_received(data)

    def _watch(self) -> None:
        """Close the connection if neither side has sent anything for the time-out while a reply is outstanding."""
        self._watchdog = None
        if not self._waiting or self._failure is not None:
            self._uploading = False
            return
        if self._uploading:
            self._look_at_upload()
        # If all waiting calls are of this iteration of the loop, none was sent yet: their time begins now.
        since = self._loop.time() if self._unsent == len(self._waiting) else self._progress_at
        left = since + self._address.timeout_s - self._loop.time()
        if left > 0:
            most = self._address.timeout_s / _LOOKS if self._uploading else left
            self._watchdog = self._loop.call_later(min(left, most), self._watch)
            return
        self._standing.end_generation()
        self.close(
            StoreTimeout(f"The server at {self._address.shown} did not reply within {self._address.timeout_s:g} s")
        )

    def _look_at_upload(self) -> None:
        sock = self._transport.get_extra_info("socket")
        unsent = self._transport.get_write_buffer_size() + (0 if sock is None else unsent_bytes(sock.fileno()))
        if self._written - unsent > self._taken:
            self._taken = self._written - unsent
            self._progress_at = self._loop.time()
        self._uploading = unsent > 0

    async def _wait_for_room(self) -> None:
        turn: asyncio.Future[None] = self._loop.create_future()
        self._room.append(turn)
        try:
            await turn
        finally:
            # Admit the next caller after this one has submitted its call or has given up.
            self._loop.call_soon(self._let_in)

    def _let_in(self) -> None:
        while self._room and (self._failure is not None or not self._full):
            turn = self._room.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    @property
    def _full(self) -> bool:
        return len(self._waiting) >= MOST_CALLS or self._bytes_under_way >= MOST_BYTES_UNDER_WAY

    def _fail(self, failure: DataStoreError) -> None:
        if self._failure is not None:
            return
        self._failure = failure
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._renewal is not None:
            self._renewal.cancel()
        sent = 0 if self._standing.logged_out else len(self._waiting) - self._unsent
        for position, entry in enumerate(self._waiting):
            if not entry.future.done():
                entry.future.set_exception(self._copy_of_failure(writes=entry.writes and position < sent))
        self._waiting.clear()
        self._outbox.clear()
        self._let_in()

    def _copy_of_failure(self, *, writes: bool) -> DataStoreError:
        """Return an error object for one caller, which says whether that caller's write may have happened."""
        failure = self._failure
        assert failure is not None
        return type(failure)(f"{failure}{afterwards(writes)}", outcome_unknown=writes)

    def _lost(self, reason: str) -> ConnectionLost:
        return ConnectionLost(f"The connection to {self._address.shown} broke ({reason})")


def _plain_descriptor(transport: asyncio.WriteTransport) -> int | None:
    """Return the descriptor of a socket that may be read besides its transport, or None under TLS or if unknown."""
    if transport.get_extra_info("ssl_object") is not None:
        return None
    sock = transport.get_extra_info("socket")
    return None if sock is None else int(sock.fileno())


def _poll_of(descriptor: int) -> Callable[[int], list[tuple[int, int]]]:
    """Return a function that waits up to a number of milliseconds and returns a non-empty list if there is data to read."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return poller.poll


def _has_other_work(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether other callbacks wait, which polling would delay. True if the loop does not expose it (uvloop)."""
    ready = getattr(loop, "_ready", None)
    return ready is None or bool(ready)
