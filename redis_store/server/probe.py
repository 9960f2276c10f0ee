"""The few words that are said to an embedded server: is it there, is it ready, switch this on, stop.

A connection of redis-py would cost a handshake of its own and raise its own errors; here a connection is one socket, and its end
is the answer that matters most.
"""

from __future__ import annotations

import enum
import os
import socket
import struct
import sys
from pathlib import Path
from types import TracebackType

import hiredis

from redis_store.server.binary import Engine
from redis_store.server_config import missing_flags

#: How long a server that took the connection may be silent before it counts as busy rather than ready.
ANSWER_TIMEOUT_S = 1.0


class ProbeAnswer(enum.Enum):
    """What a socket path says when it is asked whether a server lives there."""

    ABSENT = "nobody listens, or whoever did hung up"
    SILENT = "somebody listens and does not answer"
    LOADING = "a server reads its files"
    READY = "a server answers"


class Talk:
    """One connection to the server on a unix socket; a context manager. Raises `OSError` as the socket does."""

    def __init__(self, socket_path: Path, timeout_s: float | None = None) -> None:
        self._reader = hiredis.Reader()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout_s or ANSWER_TIMEOUT_S)
            self._socket.connect(os.fspath(socket_path))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Talk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, *words: str) -> None:
        """Send a command without waiting for its reply."""
        self._socket.sendall(hiredis.pack_command(words))  # type: ignore[arg-type] # its stub says a tuple of one

    def ask(self, *words: str) -> object:
        """Send a command and return its reply; an error reply is returned, too, as a `hiredis.ReplyError`."""
        self.send(*words)
        while (reply := self._reader.gets()) is False:
            received = self._socket.recv(65536)
            if not received:
                raise ConnectionResetError("the server closed the connection")
            self._reader.feed(received)
        return reply

    def peer_pid(self) -> int | None:
        """The process that listens on the socket, as the kernel knows it: right even when that process is stopped."""
        if sys.platform == "linux":
            raw = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid: int = struct.unpack("3i", raw)[0]
            return pid or None  # 0: it lives in a pid namespace that this process cannot see
        if sys.platform == "darwin":
            return int(self._socket.getsockopt(0, 2)) or None  # SOL_LOCAL, LOCAL_PEERPID
        return None


def probe(socket_path: Path, *, always: bool = False) -> ProbeAnswer:
    """Ask for life, and with `always` have a server that is ready sync each write to the disk before it answers."""
    try:
        with Talk(socket_path) as talk:
            reply = talk.ask("PING")
            if isinstance(reply, hiredis.ReplyError):
                # Any other error (BUSY, NOAUTH, too many clients) comes from a server that is up.
                return ProbeAnswer.LOADING if str(reply).startswith("LOADING") else ProbeAnswer.READY
            if always:
                talk.ask("CONFIG", "SET", "appendfsync", "always")
            return ProbeAnswer.READY
    except (FileNotFoundError, ConnectionError):
        return ProbeAnswer.ABSENT
    except (
        TimeoutError,
        BlockingIOError,
    ):  # the latter: more connections wait than the server's backlog holds
        return ProbeAnswer.SILENT


def listener_pid(socket_path: Path) -> int | None:
    """The process that listens on the socket, or None where none does or it cannot be seen."""
    try:
        with Talk(socket_path) as talk:
            return talk.peer_pid()
    except OSError:
        return None


def with_needed_events(flags: str) -> str | None:
    """Return `notify-keyspace-events` with what watchers need added to `flags`, or None where nothing is missing."""
    missing = missing_flags(flags)
    return flags + missing if missing else None


def add_needed_events(talk: Talk) -> None:
    """Have the server announce what watchers need, beside what it announces already."""
    reply = talk.ask("CONFIG", "GET", "notify-keyspace-events")
    if not isinstance(reply, list):
        return
    wanted = with_needed_events(bytes(reply[1]).decode())
    if wanted is not None:
        talk.ask("CONFIG", "SET", "notify-keyspace-events", wanted)


def engine_of(talk: Talk) -> Engine | None:
    """The engine that runs; Valkey also calls itself Redis 7.2.4."""
    reply = talk.ask("INFO", "server")
    if not isinstance(reply, bytes):
        return None
    facts = dict(line.split(":", 1) for line in reply.decode(errors="replace").splitlines() if ":" in line)
    for engine in ("valkey", "redis"):
        if f"{engine}_version" in facts:
            return Engine(engine, facts[f"{engine}_version"])
    return None
