"""Leftovers of a run: for the next run, on the machine, and after the host has died."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox import isolation
from sandbox.isolation import plain_process
from tests.sandbox.conftest import wait_until

from .corpus import Attack, succeeded

PAIRS = {
    "a file in its folder": ("open('left', 'w').write('x')", "won = os.path.exists('left')"),
    "a file in /tmp": ("open(world['marker'], 'w').write('x')", "won = os.path.exists(world['marker'])"),
    "a file in /dev": ("open('/dev/left', 'w').write('x')", "won = os.path.exists('/dev/left')"),
    "a file in /dev/shm": (
        "open('/dev/shm/attack-left', 'w').write('x')",
        "won = os.path.exists('/dev/shm/attack-left')",
    ),
    "a changed module": ("import json; json.loads = lambda *a: 'evil'", "import json; won = json.loads('1') == 'evil'"),
    "a module of its own": ("sys.modules['evil'] = os", "import importlib; won = 'evil' in sys.modules"),
    "a changed class of ours": (
        "type(data_store).get = lambda *a: 'evil'",
        "data_store.set('k', 1); won = data_store.get('k') == 'evil'",
    ),
    "an environment variable": ("os.environ['EVIL'] = '1'", "won = 'EVIL' in os.environ"),
    "a changed builtin": ("import builtins; builtins.len = lambda x: 7", "won = len([]) == 7"),
    "a signal handler": (
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
        "won = signal.getsignal(signal.SIGUSR1) != signal.SIG_DFL",
    ),
    "a limit": (
        "resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))",
        "won = resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 8",
    ),
    "a name of the process": (
        "libc.prctl(15, b'evil', 0, 0, 0)",
        "b = ctypes.create_string_buffer(16); libc.prctl(16, b, 0, 0, 0); won = b.value == b'evil'",
    ),
    "a mask of files": ("os.umask(0)", "won = os.umask(0o22) == 0"),
    "a lock on a file": (
        "fcntl.flock(os.open(os.__file__, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "try: fcntl.flock(os.open(os.__file__, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept BlockingIOError: won = True",
    ),
    "the state of random numbers": (
        "import random; random.seed(1)",
        "import random; won = random.random() == 0.13436424411240122",
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_next_run_finds_nothing(name: str, tier: str, world: Any, user: str, server_url: str, as_before: None) -> None:
    """A control exists only for files, because a plain subprocess starts afresh too. Here both runs are forks of one zygote."""
    first, second = (Attack(name, body) for body in PAIRS[name])
    facts = world.facts
    for one in (first, second):
        result = sandbox.run(one.source, facts, user=user, url=server_url, isolation=tier)
        assert not succeeded(result), result


def test_files_remain_without_isolation(world: Any, user: str, server_url: str) -> None:
    facts = world.facts
    first, second = (Attack("file", body) for body in PAIRS["a file in /tmp"])
    try:
        for one in (first, second):
            result = sandbox.run(one.source, facts, user=user, url=server_url, isolation=isolation.UNSAFE)
        assert succeeded(result)
    finally:
        world.restore()


DAEMON = """
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            print(os.getpid(), flush=True)
            os.closerange(0, 64)
            time.sleep({seconds})
            os._exit(0)
        os._exit(0)
    os.wait()
    time.sleep(0.2)
    won = True
"""


def test_daemon_does_not_start(tier: str, holds: Any) -> None:
    holds(Attack("daemon", DAEMON.format(seconds=1000), ends_with=(sandbox.AgentRaised,)), tier)


def test_daemon_outlives_its_run_without_isolation(attack: Any) -> None:
    result = attack(Attack("daemon", DAEMON.format(seconds=5)), isolation.UNSAFE)
    assert succeeded(result)
    pidfd = os.pidfd_open(int(result.stdout))  # printed by the daemon itself, so that no other process is killed
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)


def test_threads_and_timers_end_with_the_run(tier: str, holds: Any) -> None:
    body = """
    for _ in range(10): threading.Thread(target=time.sleep, args=(1000,)).start()
    signal.signal(signal.SIGALRM, lambda *a: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    """
    assert holds(Attack("threads", body), tier).check() == {"won": False}


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for scratch folders that every user may write, as /tmp is."""
    made = Path(tempfile.mkdtemp(prefix="attack-scratch-"))
    made.chmod(0o1777)
    yield made
    shutil.rmtree(made)


STUBBORN = ["while True: pass", "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: time.sleep(1)"]


@pytest.mark.parametrize("body", STUBBORN)
def test_killed_host_ends_its_runs(
    tier: str, body: str, server_url: str, user: str, tmp_path: Path, scratch: Path, as_before: None
) -> None:
    _kill_a_host(tier, body, server_url, user, tmp_path, scratch)


def test_killed_host_ends_a_plain_process(
    server_url: str, user: str, tmp_path: Path, scratch: Path, as_before: None
) -> None:
    _kill_a_host(isolation.UNSAFE, STUBBORN[1], server_url, user, tmp_path, scratch)


def _kill_a_host(tier: str, body: str, url: str, user: str, tmp_path: Path, scratch: Path) -> None:
    """Run an agent in a separate host process, kill that host, and wait until no process and no file is left."""
    source = Attack("stay", "open('left', 'w').write('x')\nprint('ready', flush=True)\n" + body).source
    host = tmp_path / "host.py"
    host.write_text(
        f"import sandbox\nsandbox.run({source!r}, {{}}, user={user!r}, url={url!r}, isolation={tier!r},"
        " on_output=lambda t: print(t, end='', flush=True))\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parent.parent), "TMPDIR": str(scratch)}
    with subprocess.Popen([sys.executable, str(host)], stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        started = plain_process._descendants(process.pid)
        process.kill()
        process.wait()
    assert len(started) >= (1 if tier == isolation.UNSAFE else 2)
    wait_until(lambda: not any(map(_alive, started)), "all that the host had started has ended")
    assert list(scratch.iterdir()) == []


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
