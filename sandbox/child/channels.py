"""The two sockets from the agent's process to the host."""

from __future__ import annotations

import _thread
import errno
import json
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis_store import errors as store_errors
from redis_store.errors import ConnectionLost, DataStoreError, InvalidInput, LimitExceeded
from sandbox.child.scratch import remove_folder
from sandbox.protocol.frames import (
    MAX_PARTS,
    SPIN_FOR_ANSWER_US,
    Channel,
    FrameError,
    FrameTooBig,
    Part,
    pack,
    unpack_trusted,
)

_ERRORS: dict[str, type[DataStoreError]] = {name: getattr(store_errors, name) for name in store_errors.__all__}
_BROKEN = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN, errno.EBADF, errno.ENOTSOCK})


class DataChannel:
    """The channel for store calls, one at a time; threads take turns."""

    def __init__(self, sock: socket.socket, max_bytes: int) -> None:
        self._channel: Channel | None = Channel(sock, max_bytes, SPIN_FOR_ANSWER_US)
        self._lock = threading.RLock()
        self._calling = False
        self._number = 0
        self.known_error: DataStoreError | None = None
        """The last error that the host knows of."""

    def call(self, operation: str, namespace: str, *arguments: Part) -> list[Any]:
        """Return the parts of the host's reply, or raise the error in it."""
        if len(arguments) > MAX_PARTS - 3:
            raise LimitExceeded(
                f"A call of {operation} has {len(arguments):,} parts, and the sandbox allows at most"
                f" {MAX_PARTS - 3:,}: split it.",
                limit="parts",
                limit_count=MAX_PARTS - 3,
            )
        with self._lock:
            if self._calling:
                raise interrupted()
            self._calling = True
            try:
                self._number += 1
                parts = self._exchange([self._number, operation, namespace, *arguments])
            finally:
                self._calling = False
        if parts[1] == 1:
            return parts[2:]
        self.known_error = error_of(*parts[2:])
        raise self.known_error

    def close(self) -> None:
        """Close the socket, in a forked copy of this process."""
        if self._channel is not None:
            self._channel.socket.close()
            self._channel = None

    def _exchange(self, request: list[Part]) -> list[Any]:
        channel = self._channel
        if channel is None:
            raise ConnectionLost("This process has no channel to the store (a fork of the agent has none).")
        try:
            frame = pack(request, channel.max_bytes)
        except FrameTooBig as error:
            raise LimitExceeded(
                f"A call of {request[1]!r} with {error.size_bytes:,} bytes is over the sandbox's limit of"
                f" {error.limit_bytes:,}: split it, or raise Limits.frame_bytes.",
                limit="frame_bytes",
                limit_bytes=error.limit_bytes,
                size_bytes=error.size_bytes,
            ) from None
        try:
            channel.send_frame(frame)
        except OSError as error:
            if not is_broken(error):  # the agent's signal handler raised it
                raise
            raise _lost(f"The channel to the store is broken: {error.strerror}") from None
        return self._answer(channel, request[0])

    def _answer(self, channel: Channel, number: Part) -> list[Any]:
        while True:
            try:
                body = channel.receive()
                parts = [] if body is None else unpack_trusted(body)
            except FrameError as error:
                raise _lost(f"The channel to the store is broken: {error}") from None
            except OSError as error:
                if not is_broken(error):  # the agent's signal handler raised it
                    raise
                raise _lost(f"The channel to the store is broken: {error}") from None
            if not parts:
                raise _lost("The host has closed the channel to the store")
            if parts[0] == number:  # else the reply to a call that the agent's signal handler interrupted
                return parts


def _lost(what: str) -> ConnectionLost:
    """Return the error for a request that the host may have received, and may have carried out."""
    return ConnectionLost(f"{what}: a write may or may not have happened.", outcome_unknown=True)


def is_broken(error: OSError) -> bool:
    """Whether an error of a socket means that it is closed; otherwise the agent's signal handler raised it."""
    return error.errno in _BROKEN


def error_of(kind: str, message: str, facts: bytes) -> DataStoreError:
    """Return the store error that the host sent."""
    known: dict[str, Any] = {
        name: fact["bytes"].encode("latin-1") if isinstance(fact, dict) else fact
        for name, fact in json.loads(facts).items()
    }
    return _ERRORS.get(kind, DataStoreError)(message, **known)


def interrupted() -> InvalidInput:
    """Return the error for a signal handler that has interrupted a call in its own thread, whose frame another would break."""
    return InvalidInput(
        "A signal handler has interrupted a call to the host, and cannot make another one: note the signal in the handler, and"
        " make the call after it."
    )


class ControlChannel:
    """The channel for messages to the host from any thread; its own thread hands out the replies.

    The process ends when the host closes the channel.
    """

    def __init__(self, sock: socket.socket, max_bytes: int, scratch: str | None = None) -> None:
        self._channel = Channel(sock, max_bytes, spin_us=0)
        self._lock = threading.RLock()
        self._sending = False
        self._scratch = scratch

    def receive(self) -> list[Any]:
        """Return the next message; end the process if the host has closed the channel."""
        try:
            body = self._channel.receive()
        except ConnectionError:  # the host was killed before it read everything from this process
            body = None
        if body is None:
            if self._scratch is not None:
                with suppress(OSError):
                    remove_folder(self._scratch)
            os._exit(1)
        return unpack_trusted(body)

    def send(self, *parts: Part, sent: list[int] | None = None) -> None:
        """Send one message; raise `OSError` if the socket is closed.

        `sent` records the bytes of it that were sent. If a signal handler interrupts that, the next message is sent after the
        rest of this one.
        """
        with self._lock:
            if self._sending:
                raise interrupted()
            self._sending = True
            try:
                self._channel.send([*parts], sent)
            finally:
                self._sending = False

    def listen(self, answered: Callable[[list[Any]], None]) -> None:
        """Hand every further message to `answered`, in a thread that `threading` does not list.

        Agents wait for all threads of `threading.enumerate()`, and this one has no end.
        """
        _thread.start_new_thread(self._listen, (answered,))

    def _listen(self, answered: Callable[[list[Any]], None]) -> None:
        with suppress(OSError):  # the agent has closed the socket; the host will notice
            while True:
                answered(self.receive())

    def close(self) -> None:
        """Close the socket, in a forked copy of this process."""
        self._channel.socket.close()
