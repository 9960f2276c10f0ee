"""The cost of a call on the wire, in round trips and bytes, counted by a relay between client and server; and its floor.

The relay forwards what a side sent only after it has gone quiet, so that a request is one burst and a round trip one turn.
Calls through the relay are counted, never timed. The floor of a call is the time of a raw socket that sends the bytes again.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from redis_store import DataStore, connect

_QUIET_S = 0.004
_READ_BYTES = 1024 * 1024


@dataclass(slots=True)
class Traffic:
    """The traffic since the last reset."""

    round_trips: int = 0
    bytes_out: int = 0
    """From the client to the server."""
    bytes_in: int = 0
    sent: list[bytes] = field(default_factory=list)
    """The bursts of the client."""

    def reset(self) -> None:
        self.round_trips = self.bytes_out = self.bytes_in = 0
        self.sent.clear()


@contextmanager
def counting_relay(port: int) -> Iterator[tuple[int, Traffic]]:
    """Listen on a free port, forward everything to `port`, and count it."""
    traffic = Traffic()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, port, traffic), daemon=True).start()
        try:
            yield listener.getsockname()[1], traffic
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


class Floors:
    """The least that calls of a store can take: raw sockets that send the same bytes, and read as many as the store did."""

    def __init__(self, port: int, user: str) -> None:
        self._port = port
        self._stack = ExitStack()
        relay_port, self._traffic = self._stack.enter_context(counting_relay(port))
        self.store: DataStore = self._stack.enter_context(
            connect(f"redis://127.0.0.1:{relay_port}", user=user, agent="bench")
        )
        self.store.get("handshake")
        self._handshake = b"".join(self._traffic.sent)

    def __enter__(self) -> Floors:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def of(self, call: Callable[[DataStore], object]) -> Callable[[], object]:
        """Return the floor of a call of the store."""
        call(self.store)  # which may load a script
        self._traffic.reset()
        call(self.store)
        request, size_bytes = b"".join(self._traffic.sent), self._traffic.bytes_in
        sock = self._stack.enter_context(socket.create_connection(("127.0.0.1", self._port), timeout=10))
        sock.settimeout(None)  # one of Python's would cost a call of the system each time
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 10, 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(self._handshake)
        _burst(sock)
        buffer = memoryview(bytearray(size_bytes))

        def replay() -> None:
            sock.sendall(request)
            read = 0
            while read < size_bytes:
                read += sock.recv_into(buffer[read:])

        return replay


def _accept(listener: socket.socket, port: int, traffic: Traffic) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = socket.create_connection(("127.0.0.1", port))
        threading.Thread(target=_relay, args=(client, server, traffic), daemon=True).start()


def _relay(client: socket.socket, server: socket.socket, traffic: Traffic) -> None:
    with client, server, suppress(OSError):
        while True:
            ready, _, _ = select.select([client, server], [], [])
            source = ready[0]
            data = _burst(source)
            if not data:
                return
            if source is client:
                traffic.round_trips += 1
                traffic.bytes_out += len(data)
                traffic.sent.append(data)
                server.sendall(data)
            else:
                traffic.bytes_in += len(data)
                client.sendall(data)


def _burst(source: socket.socket) -> bytes:
    """Read until the side sends nothing more for a moment; empty if it has closed."""
    parts = [source.recv(_READ_BYTES)]
    while parts[-1] and select.select([source], [], [], _QUIET_S)[0]:
        parts.append(source.recv(_READ_BYTES))
    return b"".join(parts)
