"""The connection on which a hub receives messages that the server sends unasked."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

import hiredis
from redis import connection as redis_connection
from redis import exceptions as redis_errors

from redis_store.connections.address import Address
from redis_store.connections.sync import connecting_failed
from redis_store.errors import ConnectionLost
from redis_store.protocol.call import Command, ReplyError
from redis_store.protocol.packing import pack

_PUSH_BYTES = 256 * 1024
_INCOMPLETE = object()


class Listener:
    """A non-blocking connection for the server's messages. Connecting and sending block, up to the address's timeout."""

    def __init__(self, address: Address) -> None:
        self._made: redis_connection.AbstractConnection = address.new_connection()
        self._timeout_s = address.timeout_s
        try:
            self._made.connect()
        except (redis_errors.RedisError, OSError, ValueError) as error:
            raise connecting_failed(error, address) from error
        sock = self._made._get_socket()
        assert sock is not None, "redis-py has connected"
        self.sock: socket.socket = sock
        self.sock.setblocking(False)
        self._reader = hiredis.Reader(replyError=ReplyError, notEnoughData=_INCOMPLETE)
        self._buffer = bytearray(_PUSH_BYTES)

    def tell(self, command: Command) -> None:
        self.sock.settimeout(self._timeout_s)
        try:
            self.sock.sendall(pack((command,)))
        except OSError as error:
            raise ConnectionLost(f"A watcher's connection broke ({error})") from error
        finally:
            self.sock.setblocking(False)

    def drain(self, heard: Callable[[Any], None]) -> None:
        """Pass every message that has arrived to `heard`. Does not wait."""
        reader = self._reader
        while True:
            try:
                size = self.sock.recv_into(self._buffer)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
                return
            except OSError as error:
                raise ConnectionLost(f"A watcher's connection broke ({error})") from error
            if size == 0:
                raise ConnectionLost("A watcher's connection broke (the server closed it)")
            try:
                reader.feed(self._buffer, 0, size)  # type: ignore[arg-type]  # takes any buffer
                reply = reader.gets()
                while reply is not _INCOMPLETE:
                    heard(reply)
                    reply = reader.gets()
            except hiredis.ProtocolError as error:
                raise ConnectionLost(f"A watcher's connection broke ({error})") from error
            if size < _PUSH_BYTES and not isinstance(self.sock, ssl.SSLSocket):
                return

    def close(self) -> None:
        self._made.disconnect()
