"""The rules of both drivers, tested with operations written for this purpose."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from redis_store import (
    DataStore,
    ServerRefused,
    StoreUnavailable,
    UnsupportedByServer,
    WrongKeyType,
    connect,
    connect_async,
)
from redis_store.operations import operations_of
from redis_store.protocol.call import Alone, Call, as_is, read
from tests.support.servers import Server

Run = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, server_url: str) -> Any:
    """A function that carries out an operation, through either driver."""
    if request.param == "sync":
        with connect(server_url, user="alice") as store:
            driver = operations_of(store).driver
            yield lambda op: driver.run_alone(op) if isinstance(op, Alone) else driver.run(op)
        return
    loop = asyncio.new_event_loop()
    store = connect_async(server_url, user="alice")

    def carry_out(op: Any) -> Any:
        driver = store._operations.driver
        return loop.run_until_complete(driver.run_alone(op) if isinstance(op, Alone) else driver.run(op))

    yield carry_out
    loop.run_until_complete(store.close())
    loop.close()


def test_operation_may_send_many_requests(run: Run) -> None:
    async def op() -> list[Any]:
        return [await read("ECHO", str(number)) for number in range(5)]

    assert run(op()) == [b"0", b"1", b"2", b"3", b"4"]
    assert run(Alone(op)) == [b"0", b"1", b"2", b"3", b"4"]


def test_operation_without_requests(run: Run) -> None:
    async def op() -> int:
        return 7

    assert run(op()) == 7
    assert run(Alone(op)) == 7


def test_a_decoder_reads_the_reply(run: Run) -> None:
    async def op() -> int:
        return await Call((("ECHO", "42"),), int) + await Call((("ECHO", "1"), ("ECHO", "2")), len)

    assert run(op()) == 44


def test_errors_of_the_server_are_thrown_into_the_operation(run: Run) -> None:
    async def op() -> str:
        try:
            await read("NO-SUCH-COMMAND")
        except ServerRefused as error:
            assert await read("ECHO", "still there") == b"still there"
            return str(error)
        return "nothing"

    for made in (op(), Alone(op)):
        assert "unknown command" in run(made)


def test_the_first_error_of_several_replies_is_raised(run: Run) -> None:
    async def op() -> None:
        await Call((("ECHO", "a"), ("NO-SUCH-COMMAND",), ("ECHO", "b")), as_is)

    with pytest.raises(ServerRefused, match="NO-SUCH-COMMAND"):
        run(op())
    assert run(one_echo()) == b"after"


async def one_echo() -> Any:
    return await read("ECHO", "after")


class Strange:
    """An awaitable that is not a call."""

    def __await__(self) -> Any:
        yield "not a call"


@pytest.mark.parametrize("foreign", [Strange, lambda: asyncio.sleep(0)], ids=["strange", "asyncio's"])
@pytest.mark.parametrize("first", [True, False], ids=["at once", "later"])
@pytest.mark.parametrize("alone", [False, True], ids=["shared", "alone"])
def test_an_operation_may_await_calls_only(run: Run, foreign: Callable[[], Any], first: bool, alone: bool) -> None:
    closed = []

    async def op() -> None:
        try:
            if not first:
                await read("ECHO", "a")
            await foreign()
        finally:
            closed.append(True)

    with pytest.raises((TypeError, RuntimeError), match="await"):
        run(Alone(op) if alone else op())
    assert closed == [True]
    assert run(one_echo()) == b"after"


def test_failed_operation_is_closed_and_harmless(run: Run) -> None:
    closed = []

    async def op() -> None:
        try:
            await read("ECHO", "a")
            raise ZeroDivisionError
        finally:
            closed.append(True)

    for made in (op(), Alone(op)):
        with pytest.raises(ZeroDivisionError):
            run(made)
    assert closed == [True, True]
    assert run(one_echo()) == b"after"


def test_an_operation_runs_once(run: Run) -> None:
    op = one_echo()
    assert run(op) == b"after"
    with pytest.raises(RuntimeError, match="reuse"):
        run(op)


def test_a_watch_left_behind_does_not_reach_the_next_operation(run: Run, server_url: str) -> None:
    async def fails_under_watch() -> None:
        await read("WATCH", "watched-by-the-driver-tests")
        raise ZeroDivisionError

    async def transaction() -> Any:
        return await Call(
            (("MULTI",), ("SET", "watched-by-the-driver-tests", "2"), ("EXEC",)), lambda replies: replies[-1]
        )

    with pytest.raises(ZeroDivisionError):
        run(Alone(fails_under_watch))
    with connect(server_url, user="alice") as other:
        operations_of(other).driver.run(touch())
    assert run(Alone(transaction)) == [b"OK"]


async def touch() -> None:
    await read("SET", "watched-by-the-driver-tests", "1")


def test_errors_are_classified_by_remedy(run: Run) -> None:
    async def op(text: str) -> None:
        await Call((("EVAL", f"return redis.error_reply('{text}')", 0),), as_is)

    for text, error in (
        ("WRONGTYPE Operation", WrongKeyType),
        ("UNSUPPORTED hash field expiry", UnsupportedByServer),
        ("LOADING Redis is loading", StoreUnavailable),
        ("BUSY running a script", StoreUnavailable),
        ("CLUSTERDOWN the cluster", StoreUnavailable),
        ("MYOWN error", ServerRefused),
    ):
        with pytest.raises(error):
            run(op(text))


AFTER_A_BIG_REPLY = """
import sys
from pathlib import Path
import redis_store

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 / 1024

with redis_store.connect(sys.argv[1], user=sys.argv[2]) as store:
    store.get("small")
    before = resident_mib()
    assert len(store.get("big")) == 60 * 2**20
    print(resident_mib() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory of a process is read from /proc")
def test_a_big_reply_leaves_no_memory_behind(
    one_server: Server, user: str, open_store: Callable[..., DataStore]
) -> None:
    with open_store(one_server.url, user) as store:
        store.set("big", "x" * (60 * 2**20))  # blocks of more than 32 MiB are given back to the system at once
        # In a process of its own: the heap of a long run of tests grows by some of its own.
        command = [sys.executable, "-c", AFTER_A_BIG_REPLY, one_server.url, user]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert float(done.stdout) < 30
        assert len(store.get("big")) == 60 * 2**20
        assert store.get("small") is None
    with open_store(one_server.url, user, near_cache=True) as near:  # whose parser is another
        assert len(near.get("big")) == 60 * 2**20
        near.set("small", 1)
        assert near.get("small") == 1
