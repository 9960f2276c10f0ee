"""The embedded server without faults: it starts, is shared, survives its starter, and stops after its last user."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from redis_store import server
from redis_store.errors import EmbeddedServerError, InvalidSettings, StoreClosed
from redis_store.server import socket_path
from redis_store.server.probe import Talk
from redis_store.server_config import missing_flags

if sys.platform != "linux":
    pytest.skip("these tests look at processes in /proc", allow_module_level=True)

DEADLINE_S = 20.0

# A user of the server in its own process. It gets each command as a line of JSON, and answers each with a line.
_PERSON = """
import json, os, sys
from redis_store import server
from redis_store.server import process as _server_process
from redis_store.server.probe import Talk
from redis_store.server_config import missing_flags

held = []

def talk(*words):
    held[0].ensure_running()
    with Talk(held[0].socket_path, 10) as talking:
        reply = talking.ask(*words)
    if isinstance(reply, Exception):
        raise reply
    return reply.decode() if isinstance(reply, bytes) else reply

print(json.dumps("here"), flush=True)
for line in sys.stdin:
    word, *rest = json.loads(line)
    try:
        if word == "join":
            held.append(server.join(sys.argv[1], **rest[0]))
            answer = None
        elif word == "close":
            held.pop().close()
            answer = None
        elif word == "exec":
            scope = dict(globals())
            exec(rest[0], scope)
            answer = scope.get("answer")
        else:
            answer = talk(word, *rest)
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer), flush=True)
"""


class Person:
    """A user of the folder's server in another process."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PERSON, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )

    def ready(self) -> Person:
        """Wait until it has started."""
        assert self.answer() == "here"
        return self

    def tell(self, *words: object) -> None:
        """Send it a command, without waiting."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """Return its answer to the next of its commands; raises `EOFError` if it died."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EOFError
        return json.loads(line)

    def ask(self, *words: object) -> Any:
        """Send a command, and wait for the answer."""
        self.tell(*words)
        return self.answer()

    def join(self, **options: object) -> Person:
        """Let it join the server."""
        assert self.ask("join", options) is None
        return self

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.kill()
        self.end()

    def end(self) -> None:
        """Let it exit, which gives up its membership."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(DEADLINE_S)
        self.process.stdout.close()


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.002)


def servers_in(folder: Path) -> list[int]:
    """Return the live processes that run in the folder: only servers, because only a server changes its directory to it."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):
                if str((process / "cwd").readlink()).removesuffix(" (deleted)") == str(folder):
                    found.append(int(process.name))
    return found


def the_server_of(folder: Path) -> int:
    """Return the process id of the one server that answers."""
    known = server.status(folder)
    assert known.pid is not None
    assert servers_in(folder) == [known.pid]
    return known.pid


def ask(data_dir: Path, *words: str) -> Any:
    """Return a reply of the folder's server, which must be running."""
    with Talk(server.status(data_dir).socket_path, 10) as talk:
        return talk.ask(*words)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that does not exist yet; any server in it is stopped afterwards."""
    path = tmp_path / "data"
    yield path
    for pid in servers_in(path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not servers_in(path), "the servers are gone")


@pytest.fixture
def person(folder: Path) -> Iterator[Callable[[], Person]]:
    """A function that starts other processes; they are ended afterwards."""
    people: list[Person] = []

    def make() -> Person:
        people.append(Person(folder))
        return people[-1]

    yield make
    for somebody in people:
        with contextlib.suppress(ProcessLookupError):
            somebody.process.send_signal(signal.SIGCONT)
        somebody.kill()


def test_joined_server_is_private_durable_and_detached(folder: Path) -> None:
    with server.join(folder) as joined:
        client = redis.Redis.from_url(joined.url)
        client.set("a", "1")
        assert client.config_get("append*")["appendfsync"] == "everysec"
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert set(client.config_get("notify-keyspace-events")["notify-keyspace-events"] or "") == set("Khgxe")
        client.close()
        pid = the_server_of(folder)
        assert os.getsid(pid) != os.getsid(0)
        assert f"PPid:\t{os.getpid()}\n" not in Path(f"/proc/{pid}/status").read_text()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(joined.socket_path.stat().st_mode) == 0o600
        assert all(not stat.S_IMODE(file.stat().st_mode) & 0o077 for file in folder.rglob("*"))
        descriptors = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        assert not [name for name in descriptors if name.endswith(("lease.lock", "server.log"))]
    assert servers_in(folder) == []
    assert not joined.socket_path.exists()


def test_last_user_stops_server_and_data_survives(folder: Path, person: Callable[[], Person]) -> None:
    one, other = person().ready().join(), person().ready().join()
    assert one.ask("SET", "a", "from one") == "OK"
    pid = the_server_of(folder)
    one.end()
    assert the_server_of(folder) == pid
    other.end()
    assert servers_in(folder) == []
    with server.join(folder):
        assert ask(folder, "GET", "a") == b"from one"


def test_eight_processes_start_one_server(folder: Path, person: Callable[[], Person]) -> None:
    people = [person() for _ in range(8)]
    for somebody in people:
        somebody.ready()
    for number, somebody in enumerate(people):
        somebody.tell("join", {})
        somebody.tell("RPUSH", "list", str(number))
    assert [somebody.answer() for somebody in people] == [None] * 8
    assert sorted(somebody.answer() for somebody in people) == list(range(1, 9))
    the_server_of(folder)
    assert [somebody.ask("LLEN", "list") for somebody in people] == [8] * 8
    assert server.status(folder).users == 8
    for somebody in people:
        somebody.process.stdin.close()  # type: ignore[union-attr] # it is a pipe
    for somebody in people:
        somebody.process.wait(DEADLINE_S)
    assert servers_in(folder) == []


def test_many_threads_and_handles_share_one_lease(folder: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        handles = list(pool.map(server.join, [folder] * 32))
        assert server.status(folder).users == 1
        for handle in handles[1:]:
            pool.submit(handle.close)
    handles[0].ensure_running()
    the_server_of(folder)
    handles[0].close()
    handles[0].close()
    assert servers_in(folder) == []
    with pytest.raises(StoreClosed):
        handles[0].ensure_running()


def test_two_names_of_one_folder_share_a_lease(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    with server.join(tmp_path / "link") as one, server.join("~/data") as other:
        assert one.data_dir == other.data_dir == folder
        assert server.status(folder).users == 1


def test_ensure_running_is_cheap(folder: Path) -> None:
    with server.join(folder) as joined:
        before = time.perf_counter()
        for _ in range(100):
            joined.ensure_running()
        assert (time.perf_counter() - before) / 100 < 0.02


def test_forked_child_exit_leaves_server_to_parent(folder: Path) -> None:
    with server.join(folder) as joined:
        pid = the_server_of(folder)
        assert _in_fork(lambda: joined.ensure_running()) == 0
        assert _in_fork(joined.close) == 0
        assert _in_fork(lambda: os.kill(os.getpid(), signal.SIGKILL)) == -signal.SIGKILL
        assert the_server_of(folder) == pid
        assert server.status(folder).users == 1
    assert servers_in(folder) == []


def test_parent_exit_leaves_server_to_forked_child(folder: Path, person: Callable[[], Person]) -> None:
    parent = person().ready().join()
    parent.ask("SET", "a", "1")
    pid = the_server_of(folder)
    # The child outlives its parent, and leaves when a file appears.
    child = parent.ask(
        "exec",
        """
import time
answer = os.fork()
if not answer:
    os.close(1)
    while not os.path.exists(sys.argv[1] + "/leave"):
        time.sleep(0.002)
    held[0].ensure_running()
    held[0].close()
    os._exit(0)
""",
    )
    wait_until(lambda: server.status(folder).users == 2, f"child {child} has its lease")
    parent.end()
    assert the_server_of(folder) == pid
    assert server.status(folder).users == 1
    (folder / "leave").touch()
    wait_until(lambda: not servers_in(folder), "the child has left, and the server with it")


@pytest.mark.parametrize("uses", [True, False])
def test_last_multiprocessing_child_stops_server(folder: Path, uses: bool) -> None:
    joined = server.join(folder)
    context = multiprocessing.get_context("fork")
    leave = context.Event()

    def work() -> None:
        leave.wait(DEADLINE_S)
        if uses:
            joined.ensure_running()

    child = context.Process(target=work)
    child.start()
    wait_until(lambda: server.status(folder).users == 2, "the child has its lease")
    joined.close()
    the_server_of(folder)
    leave.set()
    child.join(DEADLINE_S)
    assert child.exitcode == 0
    assert servers_in(folder) == []


def test_a_subprocess_does_not_inherit_the_lease(folder: Path) -> None:
    with server.join(folder):
        sleeper = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        assert servers_in(folder) == []
    finally:
        sleeper.kill()
        sleeper.wait()


def test_forks_while_others_join_and_leave(folder: Path) -> None:
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            with server.join(folder):
                pass

    with ThreadPoolExecutor(2) as pool:
        going = [pool.submit(come_and_go) for _ in range(2)]
        children = [_fork(lambda: server.join(folder).close()) for _ in range(12)]
        results = [_result(child) for child in children]
        done.set()
        for one in going:
            one.result(DEADLINE_S)
    assert results == [0] * 12
    assert servers_in(folder) == []


def test_a_pinned_server_runs_without_users(folder: Path) -> None:
    started = server.start(folder, "always")
    assert (started.running, started.state, started.pinned, started.users) == (True, "ready", True, 0)
    assert (started.engine, started.durability) == ("valkey", "always")
    with server.join(folder) as joined:
        os.kill(the_server_of(folder), signal.SIGKILL)
        joined.ensure_running()
        assert server.status(folder).durability == "always"
    assert the_server_of(folder) != started.pid
    stopped = server.stop(folder)
    assert (stopped.running, stopped.state, stopped.pinned, stopped.pid) == (False, "stopped", False, None)
    assert (stopped.engine, stopped.version) == (started.engine, started.version)
    assert servers_in(folder) == []


def test_stop_leaves_a_server_in_use_running(folder: Path) -> None:
    server.start(folder)
    with server.join(folder) as joined:
        stopped = server.stop(folder)
        assert (stopped.running, stopped.pinned, stopped.users) == (True, False, 1)
        pid = the_server_of(folder)
        assert not server.stop(folder, force=True).running
        joined.ensure_running()
        assert the_server_of(folder) != pid
    assert servers_in(folder) == []


def test_status_starts_and_creates_nothing(folder: Path) -> None:
    known = server.status(folder)
    assert (known.running, known.engine, known.version, known.users) == (False, None, None, None)
    assert known.data_dir == folder
    assert not folder.exists()
    assert not server.stop(folder).running


def test_destroy_removes_data_unless_in_use(folder: Path) -> None:
    with server.join(folder):
        ask(folder, "SET", "a", "1")
        with pytest.raises(EmbeddedServerError, match="in use by 1 process"):
            server.destroy(folder)
        assert ask(folder, "GET", "a") == b"1"
    server.destroy(folder)
    assert not folder.exists()
    server.destroy(folder)
    with server.join(folder):
        assert ask(folder, "GET", "a") is None
    (folder / "mine").touch()
    server.destroy(folder)
    assert [file.name for file in folder.iterdir()] == ["mine"]


def test_forced_destroy_leaves_users_an_empty_store(folder: Path, person: Callable[[], Person]) -> None:
    user = person().ready().join()
    assert user.ask("SET", "a", "1") == "OK"
    server.destroy(folder, force=True)
    assert user.ask("GET", "a") is None
    assert user.ask("SET", "b", "2") == "OK"
    the_server_of(folder)
    user.end()
    assert servers_in(folder) == []


def test_durability_is_raised_on_request_and_never_lowered(folder: Path, person: Callable[[], Person]) -> None:
    with server.join(folder):
        assert server.status(folder).durability == "everysec"
        careful = person().ready().join(durability="always")
        assert server.status(folder).durability == "always"
        with server.join(folder) as other:
            assert server.status(folder).durability == "always"
            os.kill(the_server_of(folder), signal.SIGKILL)
            other.ensure_running()
        assert careful.ask("SET", "a", "1") == "OK"
        assert server.status(folder).durability == "always"
    with pytest.raises(InvalidSettings, match="durability"):
        server.join(folder, durability="sometimes")  # type: ignore[arg-type] # that is the test


@pytest.mark.parametrize(
    ("flags", "missing"), [("", "Khgxe"), ("AKE", ""), ("El", "Khgxe"), ("Kghxe", ""), ("KA", ""), ("A", "K")]
)
def test_missing_events(flags: str, missing: str) -> None:
    assert missing_flags(flags) == missing


def test_events_are_added_to_a_running_server(folder: Path) -> None:
    server.start(folder)
    ask(folder, "CONFIG", "SET", "notify-keyspace-events", "El")
    with server.join(folder):
        assert set(ask(folder, "CONFIG", "GET", "notify-keyspace-events")[1]) == set(b"ElKhgxe")
    server.stop(folder)


def test_odd_characters_in_the_path(tmp_path: Path) -> None:
    odd = tmp_path / "a b%20?x=1#ü\n"
    with server.join(odd) as joined:
        client = redis.Redis.from_url(joined.url)
        assert client.ping()
        client.close()
    assert servers_in(odd) == []


@pytest.fixture
def short_base() -> Iterator[Path]:
    """A short folder for the links to long ones."""
    base = Path(tempfile.mkdtemp(prefix="rst", dir="/tmp"))
    yield base
    shutil.rmtree(base)


@pytest.fixture
def long_folder(folder: Path, short_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose socket path is too long."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_base))
    return folder / ("x" * 60) / ("y" * 60)


def test_a_path_too_long_for_a_socket(long_folder: Path, short_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.join(long_folder) as joined:
        assert len(os.fsencode(joined.socket_path)) <= socket_path.MAX_SOCKET_PATH_BYTES
        assert joined.socket_path.is_relative_to(short_base)
        assert joined.socket_path.resolve().parent == joined.data_dir == long_folder
        client = redis.Redis.from_url(joined.url)
        client.set("a", "1")
        client.close()
        # Another process finds the same link, even with another base for short paths.
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        assert server.status(long_folder).socket_path == joined.socket_path
        # A clean-up of the temporary directory removes the link.
        shutil.rmtree(joined.socket_path.parent.parent)
        joined.ensure_running()
        assert ask(long_folder, "GET", "a") == b"1"
        link = joined.socket_path.parent
        assert stat.S_IMODE(link.parent.stat().st_mode) == 0o700
    assert servers_in(long_folder) == []
    server.destroy(long_folder)
    assert not link.parent.exists()


@pytest.mark.parametrize("squatter", ["open folder", "file", "other link"])
def test_short_path_already_taken(long_folder: Path, short_base: Path, squatter: str) -> None:
    with server.join(long_folder) as joined:
        taken = joined.socket_path.parent.parent
    shutil.rmtree(taken)
    if squatter == "open folder":
        taken.mkdir()
        taken.chmod(0o777)
        (taken / "d").symlink_to(long_folder)
    elif squatter == "file":
        taken.touch()
    else:
        taken.mkdir(mode=0o700)
        (taken / "d").symlink_to("/nowhere")
    with server.join(long_folder) as joined:
        assert joined.socket_path.parent.parent.name.startswith(taken.name + "-")
        assert ask(long_folder, "PING") == b"PONG"
        assert server.status(long_folder).socket_path == joined.socket_path


def test_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_STORE_DATA_DIR", str(tmp_path / "x" / ".." / "y"))
    assert server.default_data_dir() == tmp_path / "y"
    assert server.status().data_dir == tmp_path / "y"
    monkeypatch.setenv("REDIS_STORE_DATA_DIR", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert server.default_data_dir() == tmp_path / "redis-store"


def _fork(act: Callable[[], object]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        act()
        code = 0
    finally:
        os._exit(code)


def _result(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _in_fork(act: Callable[[], object]) -> int:
    return _result(_fork(act))
