"""A test server, and a check that each run leaves nothing behind."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import subprocess
import tempfile
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import sandbox
from redis_store import DataStore, connect
from sandbox import isolation
from sandbox.isolation import tiers, zygotes
from sandbox.running.background_loop import background_loop

DEADLINE_S = 20.0


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until a condition is true and return its value."""
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {DEADLINE_S:g} seconds: {what}")
        time.sleep(0.005)
    return value


def _accepts(socket_path: str) -> bool:
    """Whether a server accepts connections; its socket is there a moment before it does."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(socket_path) == 0


class Server:
    """A Redis server on a unix socket."""

    def __init__(self) -> None:
        binary = shutil.which("redis-server") or "/usr/bin/redis-server"
        if not Path(binary).exists():
            pytest.skip("there is no redis-server on this machine")
        self._folder = tempfile.TemporaryDirectory(prefix="sandbox-tests-")
        socket_path = str(Path(self._folder.name) / "redis.sock")
        self.url = f"unix://{socket_path}"
        self.process = subprocess.Popen(
            [binary, "--port", "0", "--unixsocket", socket_path, "--save", "", "--dir", self._folder.name],
            stdout=subprocess.DEVNULL,
        )
        wait_until(lambda: _accepts(socket_path), "the server accepts connections")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._folder.cleanup()


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    server = Server()
    yield server.url
    server.stop()


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A separate server that the test may kill."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def user() -> str:
    return f"user-{uuid.uuid4().hex}"


@pytest.fixture
def store(server_url: str, user: str) -> Iterator[DataStore]:
    """The store of this test's agents, as the host sees it."""
    with connect(server_url, user=user) as data_store:
        yield data_store


@pytest.fixture
def run(server_url: str, user: str) -> Callable[..., sandbox.RunResult]:
    """`sandbox.run` with the test's server and user; the source may be indented."""

    def call(source: Any, input_dict: Any = None, **options: Any) -> sandbox.RunResult:
        if isinstance(source, str):
            source = textwrap.dedent(source)
        given = {} if input_dict is None else input_dict
        return sandbox.run(source, given, **{"user": user, "url": server_url, **options})

    return call


@pytest.fixture
def evaluate(run: Callable[..., sandbox.RunResult]) -> Callable[..., Any]:
    """Return the value of an expression, or of a body that sets `value`, evaluated inside an agent."""

    def call(body: str, **options: Any) -> Any:
        lines = textwrap.dedent(body).strip()
        if "\n" not in lines and not lines.startswith("value ="):
            lines = f"value = {lines}"
        source = f"async def run(input_dict, tools):\n{textwrap.indent(lines, '    ')}\n    return {{'value': value}}\n"
        return run(source, **options).check()["value"]

    return call


def _children() -> set[str]:
    found: set[str] = set()
    for children in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has since ended
            found.update(children.read_text().split())
    return found


def _state() -> dict[str, Any]:
    me = Path("/proc/self")
    return {
        # The host has a socket and a pidfd of each zygote; a new zygote starts when one has used up its births.
        "descriptors": len(list((me / "fd").iterdir())) - 2 * len(zygotes.process_ids()),
        "threads": {t for t in threading.enumerate() if t.name != "sandbox-tools"},
        "children": _children() - zygotes.process_ids(),
        "folders": {path.name for path in Path(tempfile.gettempdir()).glob("sandbox-*")},
    }


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start without a zygote, and end new ones afterwards. Zygotes of other runs, which may be in progress, are left alone."""
    monkeypatch.setattr(zygotes, "_zygotes", {})
    monkeypatch.setattr(zygotes, "_superseded", [])
    yield
    zygotes.close_all()


@pytest.fixture
def nothing_left(server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail if the test leaves a process, a thread, a descriptor or a folder behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if not os.path.isdir("/proc/self/fd"):  # noqa: PTH112
        pytest.skip("/proc tells what is left, and is not there")
    background_loop()  # one for all runs, for as long as the process lives, as is the zygote
    if tiers.checked(None) != isolation.UNSAFE:
        isolation.available(tiers.checked(None))
    gc.collect()
    before = _state()
    yield
    wait_until(lambda: _is_no_more(_state(), before), f"everything is as before: {before}")


def _is_no_more(after: dict[str, Any], before: dict[str, Any]) -> bool:
    return all(after[what] <= before[what] for what in before)
