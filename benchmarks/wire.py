"""The cost of a call on the wire, in round trips and bytes, counted by a relay between client and server.

The relay forwards what a side sent only after it has gone quiet, so that a request is one burst and a round trip one turn.
Calls through the relay are counted, never timed.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

_QUIET_S = 0.004
_READ_BYTES = 1024 * 1024


@dataclass(slots=True)
class Traffic:
    """The traffic since the last reset."""

    round_trips: int = 0
    bytes_out: int = 0
    """From the client to the server."""
    bytes_in: int = 0

    def reset(self) -> None:
        self.round_trips = self.bytes_out = self.bytes_in = 0


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
