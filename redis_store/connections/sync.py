"""The blocking connection: made by redis-py, and read directly by the parser.

It waits by polling. A time-out of the kernel (``SO_RCVTIMEO``) would start anew at each signal, and gevent, which replaces
`select.poll` by one that lets other greenlets run, does not know it.
"""

from __future__ import annotations

import errno
import fcntl
import select
import socket
import ssl
import struct
import termios
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic, perf_counter_ns
from typing import Any

import hiredis
from redis import exceptions as redis_errors

from redis_store.connections.address import A_NODE, Address
from redis_store.connections.credentials import Login
from redis_store.connections.generation import Standing
from redis_store.connections.spin import SPIN_NS, Spinner
from redis_store.connections.tls import check_files, other_scheme, tls_failed
from redis_store.errors import (
    AuthenticationFailed,
    ConnectionLost,
    DataStoreError,
    InvalidSettings,
    StoreTimeout,
)
from redis_store.limits import ANY_SIZE, too_much_at_once
from redis_store.protocol.command import Command
from redis_store.protocol.packing import pack
from redis_store.protocol.redirects import is_left_open

_READ_BYTES = 64 * 1024
_KEPT_PARSER_BYTES = 1024 * 1024
INCOMPLETE = object()
_HAS_NEWS = select.POLLIN | getattr(select, "POLLRDHUP", 0)

UPLOAD_BYTES = 64 * 1024
"""Size in bytes of a request from which its transmission may outlast the time-out, so that its progress counts."""


class HeldConnection:
    """A connection that one thread uses at a time. It is dropped whenever a reply may be outstanding."""

    __slots__ = (
        "__weakref__",
        "_address",
        "_buffer",
        "_login",
        "_poll",
        "_reader",
        "_redis",
        "_replicas",
        "_sock",
        "_spinner",
        "_timeout_ms",
        "_tls",
        "_unsent",
        "busy",
        "most_bytes",
        "standing",
        "until",
    )

    def __init__(self, address: Address, spinner: Spinner, most_s: float | None = None) -> None:
        self._address = address
        self._spinner = spinner
        self.standing = Standing(address.known)
        self._redis = address.new_connection()
        if most_s is not None:
            for name in ("socket_connect_timeout", "socket_timeout"):
                setattr(self._redis, name, min(most_s, getattr(self._redis, name)))
        try:
            try:
                self._redis.connect()
            except redis_errors.AuthenticationError:
                if address.credentials is None:
                    raise
                self._redis.disconnect()  # once more: the provider may have kept a token for too long
                self._redis.connect()
        except DataStoreError:  # of the credential provider
            self._redis.disconnect()
            raise
        except (redis_errors.RedisError, OSError, ValueError) as error:
            self._redis.disconnect()
            raise connecting_failed(error, address) from error
        self._login = None if address.credentials is None else Login(address.credentials, address.shown, self.standing)
        sock = self._redis._get_socket()
        assert sock is not None, "redis-py has connected"
        self._sock: socket.socket = sock
        self._tls = isinstance(self._sock, ssl.SSLSocket)
        if not self._tls:  # there, the time-out that redis-py has set holds
            self._sock.setblocking(False)
        self._timeout_ms = address.timeout_s * 1000
        self._replicas = address.replicas
        self._unsent = 0
        """Bytes of a big request that the server has not acknowledged, when this was last looked at."""
        self._reader = hiredis.Reader(replyError=self.standing.error_reply, notEnoughData=INCOMPLETE)
        self._reader.setmaxbuf(_KEPT_PARSER_BYTES)
        self._buffer = memoryview(bytearray(_READ_BYTES))
        poller = select.poll()
        poller.register(self._sock, _HAS_NEWS)
        self._poll = poller.poll
        self.busy = False
        self.limit(most_s)
        self.most_bytes = ANY_SIZE
        """Maximum size of one reply, in bytes. A larger one raises `LimitExceeded`, and the connection becomes unusable."""

    @property
    def shown(self) -> str:
        """The server's url without secrets, for messages."""
        return self._address.shown

    def limit(self, most_s: float | None) -> None:
        """Wait for replies for this long from now, if that is less than the time-out; None for the time-out alone."""
        self.until = None if most_s is None else monotonic() + most_s
        if self._tls:
            self._sock.settimeout(self._address.timeout_s if most_s is None else self._left_ms() / 1000 + 0.001)

    def exchange(self, commands: Sequence[Command], repeatable: bool, as_it_is: bool = False) -> Any:
        """Send commands together and return the reply, or the list of replies if there are several commands.

        Raises `StoreUnavailable` with `outcome_unknown` True only if bytes of a write may have been sent. A connection with
        credentials of a provider renews its login when it is time, but not if it is to be used `as_it_is`.
        """
        if self._login is not None and not as_it_is:
            return self._login.exchange(self.exchange, commands, repeatable)
        replicas = None if repeatable else self._replicas
        if replicas is not None:
            commands = replicas.behind(commands)
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
        self.busy = is_left_open(replies)
        return replies if replicas is None else replicas.judge(commands, replies, self.standing, self.shown)

    def check(self) -> None:
        """Raise `ConnectionLost` if the connection is stale (`connections/generation.py`)."""
        if self.standing.stale:
            raise self._lost("the server went silent on another one, or has changed its role", False)

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
            while size := self._sock.recv_into(self._buffer):
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

    def _send(self, data: bytes, writes: bool) -> None:
        sent = 0
        try:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, TimeoutError):
                sent = self._send_some(data)
            if sent < len(data):
                rest = memoryview(data)
                while sent < len(data):
                    sent += self._send_some(rest[sent:])
        except TimeoutError as error:
            if self._is_a_handlers(error):
                raise
            raise self._timed_out("did not accept the whole request", writes and (sent > 0 or self._tls)) from None
        except (OSError, ValueError) as error:  # the latter if the store was closed meanwhile
            if isinstance(error, OSError) and self._is_a_handlers(error):
                raise
            # TLS may have sent a part of a record before it failed.
            raise self._lost(str(error), writes and (sent > 0 or self._tls)) from error
        self._unsent = unsent_bytes(self._sock.fileno()) if sent > UPLOAD_BYTES else 0

    def _send_some(self, data: bytes | memoryview) -> int:
        """Send what fits into the kernel's buffer. Raise `TimeoutError` if the other side takes nothing for the time-out."""
        unsent = 0
        while True:
            try:
                return self._sock.send(data)
            except BlockingIOError:
                unsent = unsent or unsent_bytes(self._sock.fileno())
                poller = select.poll()
                poller.register(self._sock, select.POLLOUT)
                if poller.poll(self._timeout_ms):
                    continue
            except TimeoutError as error:
                if self._is_a_handlers(error):
                    raise
            # A socket becomes writable when a third of its buffer is free, which may take longer.
            before, unsent = unsent, unsent_bytes(self._sock.fileno())
            if not (unsent < before if before else self._tls and unsent > 0):
                raise TimeoutError(errno.ETIMEDOUT, "the request is not accepted")

    def _read(self, writes: bool) -> Any:
        gets = self._reader.gets
        reply = gets()
        if reply is not INCOMPLETE:
            return reply
        # Without polling, one wait of the kernel is all; `_wait` goes on after a time-out.
        if not self._tls and (self._spinner.enabled or not self._poll(self._timeout_ms)):
            self._wait(writes)
        received = 0
        while reply is INCOMPLETE:
            try:
                size = self._sock.recv_into(self._buffer)
            except BlockingIOError:
                self._wait(writes)
                continue
            except TimeoutError as error:
                if self._is_a_handlers(error):
                    raise
                self._check_progress(writes)
                continue
            except OSError as error:
                if self._is_a_handlers(error):
                    raise
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
        if received > _KEPT_PARSER_BYTES:
            self._free_parser()
        return reply

    def _free_parser(self) -> None:
        """Have the parser free the buffer of a big reply now, and not when it gets the next one."""
        if not self._reader.has_data():
            self._reader.feed(b"+\r\n")
            self._reader.gets()

    def _wait(self, writes: bool) -> None:
        """Wait for data: for up to `SPIN_NS` without sleeping, if that is cheaper, then for the time-out."""
        spinner, poll = self._spinner, self._poll
        if spinner.worth_it():
            end = perf_counter_ns() + SPIN_NS
            while not poll(0):
                if perf_counter_ns() > end:
                    spinner.missed()
                    break
            else:
                spinner.paid()
                return
        while not poll(self._timeout_ms if self.until is None else self._left_ms()):
            self._check_progress(writes)

    def _left_ms(self) -> float:
        assert self.until is not None
        return max(0.0, min(self._timeout_ms, (self.until - monotonic()) * 1000))

    def _check_progress(self, writes: bool) -> None:
        """Raise `StoreTimeout`, unless some of a big request was sent since the last look."""
        if self.until is not None and monotonic() >= self.until:
            raise StoreTimeout(
                f"The server at {self._address.shown} did not reply in the caller's time{afterwards(writes)}",
                outcome_unknown=writes,
            )
        unsent, self._unsent = self._unsent, unsent_bytes(self._sock.fileno()) if self._unsent else 0
        if self._unsent >= unsent:
            raise self._timed_out("did not reply", writes)

    def _is_a_handlers(self, error: OSError) -> bool:
        """Whether a signal handler has raised the error, such as a `TimeoutError` of its own: those of the system have a number.

        Not known with TLS, whose time-out has none.
        """
        return error.errno is None and not self._tls

    def _lost(self, reason: str, outcome_unknown: bool) -> ConnectionLost:
        outcome_unknown = outcome_unknown and not self.standing.logged_out
        return ConnectionLost(
            f"The connection to {self._address.shown} broke ({reason}){afterwards(outcome_unknown)}",
            outcome_unknown=outcome_unknown,
        )

    def _timed_out(self, what: str, outcome_unknown: bool) -> StoreTimeout:
        self.standing.end_generation()
        return StoreTimeout(
            f"The server at {self._address.shown} {what} within {self._address.timeout_s:g} s{afterwards(outcome_unknown)}",
            outcome_unknown=outcome_unknown,
        )


def connecting_failed(error: Exception, address: Address) -> DataStoreError:
    """Translate an error that redis-py raised while connecting."""
    reason = str(error).rstrip(".") or type(error).__name__
    if address.alias:
        # Agents may see the message, and only the url is masked there.
        reason = reason.replace(f"{address.options['host']}:{address.options['port']}", address.alias)
    if isinstance(error, redis_errors.AuthenticationError):
        return AuthenticationFailed(
            f"The server at {address.shown} rejected the user name or password ({reason}): check the url."
        )
    if _is_timeout(error):
        if address.alias == A_NODE and not address.has_tls:
            return StoreTimeout(
                f"A node of the cluster at {address.shown} did not accept the connection within {address.connect_timeout_s:g} s:"
                f" {_ANNOUNCED}"
            )
        speaks = f" If its port does not speak TLS, write {other_scheme(address.url)}." if address.has_tls else ""
        return StoreTimeout(
            f"The server at {address.shown} did not accept the connection within {address.connect_timeout_s:g} s: check that it"
            f" is running and that no firewall blocks it.{speaks}"
        )
    if address.has_tls:
        check_files(address)  # they may have gone since
    if (failed := tls_failed(error, address)) is not None:
        return failed
    if isinstance(error, (redis_errors.ResponseError, ValueError)):
        return InvalidSettings(f"The server at {address.shown} refused the connection's options: {reason}.")
    advice = _ANNOUNCED if address.alias == A_NODE else "check that it is running and the url is right."
    return ConnectionLost(f"Cannot connect to {address.shown} ({reason}): {advice}")


_ANNOUNCED = (
    "check that the node is running, and that the addresses which the nodes announce (CLUSTER SLOTS) can be reached from here;"
    " else set cluster-announce-ip or cluster-announce-hostname there."
)


def ask_once(address: Address, *command: str) -> Any:
    """Return the reply to a command, on a connection of its own. Raises `redis.ResponseError` for an error reply."""
    connection = address.new_connection()
    try:
        connection.connect()
        connection.send_command(*command)
        return connection.read_response()
    except redis_errors.ResponseError:
        raise
    except (redis_errors.RedisError, OSError, ValueError) as error:
        raise connecting_failed(error, address) from error
    finally:
        with suppress(OSError):
            connection.disconnect()


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


def unsent_bytes(descriptor: int) -> int:
    """Return the number of bytes that a socket's kernel buffer holds until the other side has taken them, 0 if unknown."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4))[0])
    except (OSError, ValueError):
        return 0
