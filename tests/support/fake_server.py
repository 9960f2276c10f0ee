"""A process that serves fakeredis over TCP: ``python fake_server.py PORT``.

fakeredis's own handler hangs up after every error reply and after every reply too big for the socket's buffer; this one
continues, as a server does.
"""

from __future__ import annotations

import queue
import sys
from socketserver import StreamRequestHandler
from typing import Any

from fakeredis import TcpFakeServer

_PIECE_BYTES = 16 * 1024  # its parser copies the rest of a piece for each field


class Handler(StreamRequestHandler):
    """Feeds one client's bytes to fakeredis and writes its replies."""

    def handle(self) -> None:
        from fakeredis import FakeRedisConnection

        made = FakeRedisConnection(server=self.server.fake_server, protocol=2)  # type: ignore[attr-defined]
        fake: Any = made.get_socket()
        fake._decode_error = lambda error: error  # keeps the text, which redis-py's error classes would split
        try:
            while data := self.connection.recv(1024 * 1024):
                for start in range(0, len(data), _PIECE_BYTES):
                    self._feed(fake, data[start : start + _PIECE_BYTES])
                self._answer(fake)
        except ConnectionError:
            pass
        finally:
            made.disconnect()

    def _feed(self, fake: Any, data: bytes) -> None:
        fake.sendall(data)

    def _answer(self, fake: Any) -> None:
        while True:
            try:
                reply = fake.responses.get_nowait()
            except queue.Empty:
                return
            self.connection.sendall(encode(reply))


def encode(reply: Any) -> bytes:
    """Return a reply in RESP2."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, Exception):
        return b"-%s\r\n" % str(reply.args[0]).encode()
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, (list, tuple, set, frozenset)):
        return b"*%d\r\n" % len(reply) + b"".join(map(encode, reply))
    if isinstance(reply, dict):
        return encode([part for pair in reply.items() for part in pair])
    data = reply if isinstance(reply, bytes) else str(reply).encode()
    return b"$%d\r\n%s\r\n" % (len(data), data)


def main() -> None:
    TcpFakeServer.daemon_threads = True
    server = TcpFakeServer(("127.0.0.1", int(sys.argv[1])), bind_and_activate=True)
    server.daemon_threads = True
    server.RequestHandlerClass = Handler
    server.serve_forever()


if __name__ == "__main__":
    main()
