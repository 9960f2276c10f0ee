"""Probes and commands for an embedded server: whether it is running and ready, and the commands that configure or stop it.

A redis-py connection would add a handshake and raise errors of its own. Here a connection is one socket, and whether it is
closed is the most important result.
"""

from __future__ import annotations

import enum
import os
import socket
import struct
import sys
from pathlib import Path

import hiredis

from redis_store.server.binary import Engine
from redis_store.server_config import facts_of, missing_flags

#: Time-out for a reply from a server that accepted the connection, in seconds; after that it counts as silent.
ANSWER_TIMEOUT_S = 1.0


class ProbeAnswer(enum.Enum):
    """The state of the server at a socket path."""

    ABSENT = "no process listens, or it closed the connection"
    SILENT = "a process listens and does not reply"
    LOADING = "a server is reading its files"
    READY = "a server replies"


class Talk:
    """One connection to the server on a unix socket; a context manager. Lets the socket's `OSError` through."""

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

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, *words: str) -> object:
        """Send a command and return its reply. An error reply is returned as a `hiredis.ReplyError`, not raised."""
        self._socket.sendall(hiredis.pack_command(words))  # type: ignore[arg-type] # its stub says a tuple of one
        while (reply := self._reader.gets()) is False:
            received = self._socket.recv(65536)
            if not received:
                raise ConnectionResetError("the server closed the connection")
            self._reader.feed(received)
        return reply

    def peer_pid(self) -> int | None:
        """Return the pid of the process that listens on the socket, or None if unknown.

        The kernel provides it, so it is right even when that process is stopped.
        """
        if sys.platform == "linux":
            raw = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid: int = struct.unpack("3i", raw)[0]
            return pid or None  # 0: it is in a pid namespace that this process cannot see
        if sys.platform == "darwin":
            return int(self._socket.getsockopt(0, 2)) or None  # SOL_LOCAL, LOCAL_PEERPID
        return None


def probe(socket_path: Path, *, always: bool = False) -> ProbeAnswer:
    """Return the state of the server. With `always`, set a ready server to sync each write to the disk before its reply."""
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
    except (TimeoutError, BlockingIOError):  # the latter: the server's backlog of connections is full
        return ProbeAnswer.SILENT


def listener_pid(socket_path: Path) -> int | None:
    """Return the pid of the process that listens on the socket, or None if there is none or it is not visible."""
    try:
        with Talk(socket_path) as talk:
            return talk.peer_pid()
    except OSError:
        return None


def add_needed_events(talk: Talk) -> None:
    """Enable the keyspace events that watchers need, in addition to those that are enabled already."""
    reply = talk.ask("CONFIG", "GET", "notify-keyspace-events")
    if not isinstance(reply, list):
        return
    flags = bytes(reply[1]).decode()
    if missing := missing_flags(flags):
        talk.ask("CONFIG", "SET", "notify-keyspace-events", flags + missing)


def engine_of(talk: Talk) -> Engine | None:
    """Return the running engine, or None if unknown. Valkey also reports itself as Redis 7.2.4, so it is tested first."""
    reply = talk.ask("INFO", "server")
    if not isinstance(reply, bytes):
        return None
    facts = facts_of(reply)
    for engine in ("valkey", "redis"):
        if f"{engine}_version" in facts:
            return Engine(engine, facts[f"{engine}_version"])
    return None
