"""Single flight across processes: a stampede, a killed process, a stopped one; and a store with many waiters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import redis

from redis_store import DataStore
from redis_store.namespace.keys import UserKeys
from redis_store.operations import operations_of
from tests.support.servers import Server, wait_until
from tests.support.threads import in_thread

CHILD = """
import sys, threading, time
from redis_store import connect
store = connect(sys.argv[1], user=sys.argv[2], namespace="cache")
log = store.use_namespace("log")

def make():
    log.append("computed", sys.argv[3])
    print("computing", flush=True)
    log.get("anything")
    while not log.get("go on", False):
        time.sleep(0.01)
    return {"by": sys.argv[3]}

def ask():
    found.append(store.get_or_set("key", make, lock_timeout=float(sys.argv[5]))["by"])

found = []
threads = [threading.Thread(target=ask, daemon=True) for _ in range(int(sys.argv[4]))]
print("ready", flush=True)
sys.stdin.readline()
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*found, flush=True)
"""


class Caller:
    """A process whose threads all ask for one value."""

    def __init__(self, url: str, user: str, name: str, threads: int, lock_timeout: float) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, url, user, name, str(threads), str(lock_timeout)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.line() == "ready"

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def found(self) -> list[str]:
        """The results of its threads."""
        line = self.line()
        return (self.line() if line == "computing" else line).split()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


ONE_SERVER = pytest.mark.parametrize("real_server", ["valkey9"], indirect=True)
"""For tests of processes. The contract suite runs the scripts of a computation on every server."""


@pytest.fixture
def call(real_server: Server, user: str) -> Iterator[Callable[..., Caller]]:
    with ExitStack() as stack:

        def start(name: str, threads: int = 1, lock_timeout: float = 0.9) -> Caller:
            caller = Caller(real_server.url, user, name, threads, lock_timeout)
            stack.callback(caller.close)
            return caller

        yield start


@pytest.fixture
def store(real_server: Server, open_store: Callable[..., DataStore], user: str) -> DataStore:
    return open_store(real_server.url, user, namespace="cache")


def test_a_stampede_computes_once(store: DataStore, call: Callable[..., Caller]) -> None:
    """50 threads in each of 4 processes."""
    log = store.use_namespace("log")
    callers = [call(f"process-{number}", threads=50, lock_timeout=30) for number in range(4)]
    for caller in callers:
        caller.begin()
    wait_until(lambda: log.get("computed"), "one computes")
    log.set("go on", True)
    [winner] = log.get("computed")
    for caller in callers:
        assert caller.found() == [winner] * 50
    assert log.get("computed") == [winner]


@ONE_SERVER
def test_claim_of_killed_process_is_taken_over(store: DataStore, call: Callable[..., Caller]) -> None:
    log = store.use_namespace("log")
    first, second = call("first"), call("second")
    first.begin()
    assert first.line() == "computing"
    second.begin()
    first.process.send_signal(signal.SIGKILL)
    assert second.line() == "computing"
    log.set("go on", True)
    assert second.found() == ["second"]
    assert log.get("computed") == ["first", "second"]


@ONE_SERVER
def test_claim_lasts_while_its_holder_lives(
    store: DataStore, call: Callable[..., Caller], raw_of: Callable[..., redis.Redis], real_server: Server, user: str
) -> None:
    """The claim is renewed, for many times its ttl."""
    raw, flight = raw_of(real_server), UserKeys.of(user).namespace("cache").flight
    first = call("first")
    first.begin()
    assert first.line() == "computing"
    claims = set()
    wait_until(lambda: claims.add(raw.hget(flight, "ckey")) or len(claims) > 5, "the claim is renewed")
    with in_thread(lambda: store.get_or_set("key", lambda: pytest.fail("nobody else computes"))) as waiter:
        store.use_namespace("log").set("go on", True)
    assert waiter.result == {"by": "first"}
    assert first.found() == ["first"]


@ONE_SERVER
def test_stopped_holder_does_not_overwrite(store: DataStore, call: Callable[..., Caller]) -> None:
    log = store.use_namespace("log")
    first = call("first")
    first.begin()
    assert first.line() == "computing"
    os.kill(first.process.pid, signal.SIGSTOP)
    assert store.get_or_set("key", lambda: {"by": "second"}) == {"by": "second"}
    log.set("go on", True)
    os.kill(first.process.pid, signal.SIGCONT)
    assert first.found() == ["second"], "it gets what the others see"
    assert store.get("key") == {"by": "second"}


def test_waiter_holds_no_connection(
    store: DataStore, raw_of: Callable[..., redis.Redis], real_server: Server, user: str
) -> None:
    """Forty waiting threads leave room for others; a connection is busy only during each poll."""
    go_on = threading.Event()
    begun = threading.Event()

    def make() -> str:
        begun.set()
        assert go_on.wait(20)
        return "value"

    raw = raw_of(real_server)
    with in_thread(lambda: store.get_or_set("key", make)):
        begun.wait(20)
        waiters = [in_thread(lambda: store.get_or_set("key", make)) for _ in range(40)]
        for waiter in waiters:
            waiter.__enter__()
        loans = operations_of(store).driver.loans
        wait_until(lambda: len(loans._idle) == len(loans._every) > 0, "all connections are idle at once")
        assert raw.hlen(UserKeys.of(user).namespace("cache").flight) == 1
        go_on.set()
        for waiter in waiters:
            waiter.__exit__()
            assert waiter.result == "value"
