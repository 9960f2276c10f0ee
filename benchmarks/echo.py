"""The floor of a call inside the sandbox: messages of the same sizes to another process, and to the server where it goes there.

A bare process sends as many bytes as the call's message has and reads as many as its answer has; the host only passes them on.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import Callable

_CALLER = """
import socket, struct, sys
from time import perf_counter

sock = socket.socket(fileno=int(sys.argv[1]))
while order := sock.recv(24, socket.MSG_WAITALL):
    calls, request_bytes, answer_bytes = struct.unpack("qqq", order)
    request, answer = bytes(request_bytes), memoryview(bytearray(answer_bytes))
    start = perf_counter()
    for _ in range(calls):
        sock.sendall(request)
        read = 0
        while read < answer_bytes:
            read += sock.recv_into(answer[read:])
    sock.sendall(struct.pack("d", (perf_counter() - start) / calls * 1e6))
"""


class Echo:
    """A process that calls this one, as an agent's process does, and measures how long a call takes."""

    def __init__(self) -> None:
        self._sock, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-I", "-S", "-c", _CALLER, str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
        self._process.wait()

    def us(
        self, calls: int, request_bytes: int, answer_bytes: int, beyond: Callable[[], object] | None = None
    ) -> float:
        """Return the time of a call, in microseconds. `beyond` is what the host does between message and answer."""
        self._sock.sendall(struct.pack("qqq", calls, request_bytes, answer_bytes))
        request, answer = memoryview(bytearray(request_bytes)), bytes(answer_bytes)
        for _ in range(calls):
            read = 0
            while read < request_bytes:
                read += self._sock.recv_into(request[read:])
            if beyond is not None:
                beyond()
            self._sock.sendall(answer)
        (us,) = struct.unpack("d", self._sock.recv(8, socket.MSG_WAITALL))
        return float(us)
