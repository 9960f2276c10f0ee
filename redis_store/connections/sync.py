"""The blocking connection: made by redis-py, timed out by the kernel, and read directly by the parser."""

from __future__ import annotations

import select
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any

import hiredis
from redis import exceptions as redis_errors

from redis_store.connections.address import Address
from redis_store.connections.spin import SPIN_NS, Spinner
from redis_store.errors import (
    AuthenticationFailed,
    ConnectionLost,
    DataStoreError,
    InvalidSettings,
    StoreTimeout,
)
from redis_store.limits import ANY_SIZE, too_much_at_once
from redis_store.protocol.call import Command, ReplyError
from redis_store.protocol.packing import pack

_READ_BYTES = 64 * 1024
_KEPT_PARSER_BYTES = 1024 * 1024
INCOMPLETE = object()
_HAS_NEWS = select.POLLIN | getattr(select, "POLLRDHUP", 0)


class HeldConnection:
    """A connection that one thread uses at a time. It is dropped whenever a reply may be outstanding."""

    __slots__ = (
        "_address",
        "_buffer",
        "_poll",
        "_reader",
        "_redis",
        "_sock",
        "_spinner",
        "_tls",
        "busy",
        "most_bytes",
    )

    def __init__(self, address: Address, spinner: Spinner) -> None:
        self._address = address
        self._spinner = spinner
        self._redis = address.new_connection()
        try:
            self._redis.connect()
        except (redis_errors.RedisError, OSError, ValueError) as error:
            raise connecting_failed(error, address) from error
        sock = self._redis._get_socket()
        assert sock is not None, "redis-py has connected"
        self._sock: socket.socket = sock
        self._tls = isinstance(self._sock, ssl.SSLSocket)
        self._limit_waits(address.timeout_s)
        self._reader = hiredis.Reader(replyError=ReplyError, notEnoughData=INCOMPLETE)
        self._reader.setmaxbuf(_KEPT_PARSER_BYTES)
        self._buffer = memoryview(bytearray(_READ_BYTES))
        poller = select.poll()
        poller.register(self._sock, _HAS_NEWS)
        self._poll = poller.poll
        self.busy = False
        self.most_bytes = ANY_SIZE
        """Maximum size of one reply, in bytes. A larger one raises `LimitExceeded`, and the connection becomes unusable."""

    @property
    def shown(self) -> str:
        """The server's url without secrets, for messages."""
        return self._address.shown

    def exchange(self, commands: Sequence[Command], repeatable: bool) -> Any:
        """Send commands together and return the reply, or the list of replies if there are several commands.

        Raises `StoreUnavailable` with `outcome_unknown` True only if bytes of a write may have been sent.
        """
        data = pack(commands)
        if self.busy:
            raise self._lost("an earlier reply never came", False)
        if not repeatable and self._poll(0):
            # The server closed it, or sent unrequested data. Nothing was sent yet, so the call can use another connection.
            raise self._lost("the server had closed it", False)
        self.busy = True
        self._send(data, not repeatable)
        if len(commands) == 1:
            reply = self._read(not repeatable)
            self.busy = False
            return reply
        replies = [self._read(not repeatable) for _ in commands]
        self.busy = False
        return replies

    def send(self, command: Command) -> None:
        """Send a command whose replies come in through `receive`."""
        self._send(pack((command,)), False)

    def receive(self, heard: Callable[[Any], object]) -> bool:
        """Pass the replies that have arrived to a function, without waiting. Return whether any data had arrived.

        Raises `ConnectionLost` if the connection has ended.
        """
        received = False
        try:
            if self._tls:
                self._sock.settimeout(0)
            while size := self._sock.recv_into(self._buffer, 0, 0 if self._tls else socket.MSG_DONTWAIT):
                received = True
                self._reader.feed(self._buffer, 0, size)  # type: ignore[arg-type]  # takes any buffer
                while (reply := self._reader.gets()) is not INCOMPLETE:
                    heard(reply)
        except (BlockingIOError, ssl.SSLWantReadError):
            return received
        except DataStoreError:
            raise
        except (OSError, hiredis.ProtocolError) as error:
            raise self._lost(str(error), False) from error
        finally:
            if self._tls:
                self._sock.settimeout(self._address.timeout_s)
        raise self._lost("the server closed it", False)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._redis.disconnect()

    def _limit_waits(self, timeout_s: float) -> None:
        if self._tls:
            # Under TLS the kernel's timeouts have no effect, as OpenSSL tries again.
            self._sock.settimeout(timeout_s)
            return
        whole, fraction = divmod(timeout_s, 1)
        limit = struct.pack("ll", int(whole), max(1, int(fraction * 1_000_000)))
        self._sock.settimeout(None)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def _send(self, data: bytes, writes: bool) -> None:
        sent = 0
        try:
            sent = self._sock.send(data)
            if sent < len(data):
                rest = memoryview(data)
                while sent < len(data):
                    sent += self._sock.send(rest[sent:])
        except (BlockingIOError, TimeoutError):
            raise self._timed_out("did not accept the whole request", writes and (sent > 0 or self._tls)) from None
        except OSError as error:
            # TLS may have sent a part of a record before it failed.
            raise self._lost(str(error), writes and (sent > 0 or self._tls)) from error

    def _read(self, writes: bool) -> Any:
        gets = self._reader.gets
        reply = gets()
        if reply is not INCOMPLETE:
            return reply
        self._wait()
        received = 0
        while reply is INCOMPLETE:
            try:
                size = self._sock.recv_into(self._buffer)
            except (BlockingIOError, TimeoutError):
                raise self._timed_out("did not reply", writes) from None
            except OSError as error:
                raise self._lost(str(error), writes) from error
            if size == 0:
                raise self._lost("the server closed it", writes)
            received += size
            if received > self.most_bytes:  # before it fills our memory: other writers decide its size
                raise too_much_at_once(self.most_bytes)
            self._reader.feed(self._buffer, 0, size)  # type: ignore[arg-type]  # takes any buffer
            try:
                reply = gets()
            except hiredis.ProtocolError as error:
                raise self._lost(f"the reply is not Redis protocol: {error}", writes) from error
        return reply

    def _wait(self) -> None:
        """Poll for the reply for up to `SPIN_NS`, if that is cheaper than sleeping."""
        spinner = self._spinner
        if self._tls or not spinner.worth_it():
            return
        poll = self._poll
        end = perf_counter_ns() + SPIN_NS
        while not poll(0):
            if perf_counter_ns() > end:
                spinner.missed()
                return
        spinner.paid()

    def _lost(self, reason: str, outcome_unknown: bool) -> ConnectionLost:
        return ConnectionLost(
            f"The connection to {self._address.shown} broke ({reason}){afterwards(outcome_unknown)}",
            outcome_unknown=outcome_unknown,
        )

    def _timed_out(self, what: str, outcome_unknown: bool) -> StoreTimeout:
        return StoreTimeout(
            f"The server at {self._address.shown} {what} within {self._address.timeout_s:g} s{afterwards(outcome_unknown)}",
            outcome_unknown=outcome_unknown,
        )


def connecting_failed(error: Exception, address: Address) -> DataStoreError:
    """Translate an error that redis-py raised while connecting."""
    reason = str(error).rstrip(".") or type(error).__name__
    if isinstance(error, redis_errors.AuthenticationError):
        return AuthenticationFailed(
            f"The server at {address.shown} rejected the user name or password ({reason}): check the url."
        )
    if _is_timeout(error):
        return StoreTimeout(
            f"The server at {address.shown} did not accept the connection within {address.timeout_s:g} s: check that it"
            " is running and that no firewall blocks it."
        )
    if isinstance(error, (redis_errors.ResponseError, ValueError)):
        return InvalidSettings(f"The server at {address.shown} refused the connection's options: {reason}.")
    return ConnectionLost(
        f"Cannot connect to {address.shown} ({reason}): check that it is running and the url is right."
    )


def _is_timeout(error: BaseException | None) -> bool:
    """Whether the error or one of its causes is a time-out; redis-py's asyncio side wraps it in another error."""
    while error is not None:
        if isinstance(error, (redis_errors.TimeoutError, TimeoutError)):
            return True
        error = error.__cause__ or error.__context__
    return False


def afterwards(outcome_unknown: bool) -> str:
    if outcome_unknown:
        return ": the write may or may not have happened. Read it back, or write it again if that is harmless."
    return ": nothing was written by this call. Try again."
