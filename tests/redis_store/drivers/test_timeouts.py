"""`timeout=` ends each wait, whatever else the program does, and does not end what progresses."""

from __future__ import annotations

import asyncio
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redis_store import AsyncDataStore, DataStore, StoreTimeout, connect, connect_async
from redis_store.drivers import aio as async_driver
from redis_store.near.connection import clock
from tests.support.proxy import Fault, Proxy, proxied
from tests.support.servers import DEADLINE_S, Server

TIMEOUT_S = 0.5


@pytest.fixture
def proxy(one_server: Server) -> Iterator[Proxy]:
    with proxied(one_server) as made:
        yield made


@pytest.fixture
def heartbeat() -> Iterator[None]:
    """A signal several times within the time-out, whose handler does nothing."""
    former = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S / 10, TIMEOUT_S / 10)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, former)


def ended_in_time(call: Callable[[], Any]) -> None:
    """Check that a call times out, and not only when the test does."""
    began = time.monotonic()
    with pytest.raises(StoreTimeout):
        call()
    assert time.monotonic() - began < DEADLINE_S


CALLS: dict[str, Callable[[DataStore], Any]] = {
    "get": lambda store: store.get("key"),
    "set": lambda store: store.set("key", 2),
    "get_all": lambda store: store.get_all(),
    "big set": lambda store: store.set("key", "x" * 30_000_000),
    "transact": lambda store: store.transact(lambda changes: changes.set("key", changes.get("key"))),
    "lock": lambda store: store.lock("l").acquire(),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.usefixtures("heartbeat")
def test_signals_do_not_prolong_a_wait(start: Callable[..., Server], call: str) -> None:
    server = start("valkey9")
    with connect(server.url, user="alice", timeout=TIMEOUT_S) as store:
        store.set("key", 1)
        server.pause()
        ended_in_time(lambda: CALLS[call](store))
        server.resume()
        assert store.get("key") in (1, 2, "x" * 30_000_000)


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("heartbeat")
def test_signals_do_not_prolong_a_near_read(start: Callable[..., Server]) -> None:
    server = start("valkey9")
    with connect(server.url, user="alice", timeout=TIMEOUT_S, near_cache=True) as store:
        store.set("key", 1)
        assert store.get("key") == 1
        server.pause()
        silent_from = clock()
        while clock() < silent_from + 1.1:  # until the near cache no longer trusts its connection
            time.sleep(0.01)
        ended_in_time(lambda: store.get("key"))
        server.resume()


def test_a_time_out_of_less_than_a_millisecond(start: Callable[..., Server]) -> None:
    server = start("valkey9")
    with connect(server.url, user="alice", timeout=TIMEOUT_S) as store:
        store.set("key", 1)
        server.pause()
        with connect(server.url, user="alice", timeout=0.0001) as hasty:
            ended_in_time(lambda: hasty.get("key"))
        server.resume()


REAL_POLL = select.poll


class HastyPoll:
    """A `select.poll` that gives up at once, in place of gevent's, which lets other greenlets run meanwhile."""

    hasty = False

    def __init__(self) -> None:
        self._poll = REAL_POLL()

    def register(self, *args: Any) -> None:
        self._poll.register(*args)

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        return [] if self.hasty and timeout else self._poll.poll(timeout)


@pytest.mark.parametrize("call", CALLS)
def test_waits_use_the_poll_that_a_program_has_replaced(
    monkeypatch: pytest.MonkeyPatch, start: Callable[..., Server], call: str
) -> None:
    server = start("valkey9")
    monkeypatch.setattr(select, "poll", HastyPoll)
    with connect(server.url, user="alice", timeout=1000) as store:
        store.set("key", 1)
        server.pause()
        monkeypatch.setattr(HastyPoll, "hasty", True)
        ended_in_time(lambda: CALLS[call](store))
        server.resume()


class SlowReader:
    """A relay to a server that takes at most `PIECE` bytes of big requests in each `pause_s`, with a small buffer."""

    PIECE = 64 * 1024

    def __init__(self, server: Server, pause_s: float) -> None:
        self._server = server
        self._pause_s = pause_s
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.PIECE)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.taken = 0
        self.stuck = threading.Event()
        self._closed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.stuck.set()
        self._closed.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            upstream = socket.create_connection(("127.0.0.1", int(self._server.url.rpartition(":")[2].split("/")[0])))
            threading.Thread(target=self._requests, args=(client, upstream), daemon=True).start()
            threading.Thread(target=self._replies, args=(client, upstream), daemon=True).start()

    def _requests(self, client: socket.socket, upstream: socket.socket) -> None:
        with client, upstream:
            while not self.stuck.is_set() and (data := client.recv(self.PIECE)):
                self.taken += len(data)
                upstream.sendall(data)
                if len(data) > 1000:
                    time.sleep(self._pause_s * len(data) / self.PIECE)
            self._closed.wait()

    def _replies(self, client: socket.socket, upstream: socket.socket) -> None:
        try:
            while data := upstream.recv(self.PIECE):
                client.sendall(data)
        except OSError:
            pass


@pytest.fixture
def slow(start: Callable[..., Server]) -> Iterator[SlowReader]:
    relay = SlowReader(start("valkey9", tcp=True), 0.02)
    yield relay
    relay.close()


UPLOAD_TIMEOUT_S = 0.8
BIG = "x" * 6_000_000
"""Takes more than twice as long through the slow relay."""
LESS_BIG = BIG[:3_500_000]
"""Takes longer than the time-out."""


def test_an_upload_that_progresses_may_outlast_the_timeout(slow: SlowReader) -> None:
    with connect(slow.url, user="alice", timeout=UPLOAD_TIMEOUT_S) as store:
        began = time.monotonic()
        store.set("key", LESS_BIG)
        assert time.monotonic() - began > UPLOAD_TIMEOUT_S
        assert store.get("key") == LESS_BIG


class LatePoll(HastyPoll):
    """A `select.poll` that never reports room in a send buffer, as on a slow link with a big buffer."""

    room_only = False

    def register(self, sock: Any, events: int) -> None:
        self.room_only = events == select.POLLOUT
        super().register(sock, events)

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        if not self.room_only:
            return super().poll(timeout)
        time.sleep(UPLOAD_TIMEOUT_S / 2)
        return []


def test_a_buffer_that_empties_slowly_is_progress(slow: SlowReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "poll", LatePoll)
    with connect(slow.url, user="alice", timeout=UPLOAD_TIMEOUT_S) as store:
        store.set("key", LESS_BIG)
        assert store.get("key") == LESS_BIG


def test_an_upload_of_a_task_and_the_calls_beside_it_may_outlast_the_timeout(slow: SlowReader) -> None:
    async def main() -> None:
        async with connect_async(slow.url, user="alice", timeout=UPLOAD_TIMEOUT_S) as store:
            await store.set("beside", 1)
            began = time.monotonic()
            uploading = asyncio.create_task(store.set("key", BIG))
            await asyncio.sleep(0)
            beside = [await store.get("beside") for _ in range(3)]
            await uploading
            assert time.monotonic() - began > 2 * UPLOAD_TIMEOUT_S
            assert beside == [1, 1, 1]
            assert await store.get("key") == BIG

    asyncio.run(main())


@pytest.mark.parametrize("side", ["threads", "tasks"])
def test_an_upload_that_gets_stuck_is_given_up(slow: SlowReader, side: str) -> None:
    def stick() -> None:
        while slow.taken < 2_000_000:
            time.sleep(0.005)
        slow.stuck.set()

    async def upload() -> None:
        async with connect_async(slow.url, user="alice", timeout=UPLOAD_TIMEOUT_S) as store:
            await store.set("key", BIG)

    threading.Thread(target=stick, daemon=True).start()
    if side == "tasks":
        ended_in_time(lambda: asyncio.run(upload()))
    else:
        with connect(slow.url, user="alice", timeout=UPLOAD_TIMEOUT_S) as store:
            ended_in_time(lambda: store.set("key", BIG))


async def times_of(calls: list[Any]) -> list[float]:
    """Return the seconds after which each call timed out."""

    async def time_of(call: Any) -> float:
        began = time.monotonic()
        with pytest.raises(StoreTimeout):
            await call
        return time.monotonic() - began

    return list(await asyncio.gather(*map(time_of, calls)))


MANY = 5 * async_driver.MOST_OWN_CONNECTIONS
READS: dict[str, Callable[[AsyncDataStore], Any]] = {
    "big": lambda store: store.get_all(),
    "exclusive": lambda store: store.set_many({"a": 1}, metadata={"m": 1}),
    "small": lambda store: store.get("key"),
}


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("read", READS)
def test_callers_in_a_queue_do_not_wait_for_one_timeout_after_another(
    start: Callable[..., Server], read: str, connected: bool
) -> None:
    server = start("valkey9")

    async def main() -> None:
        async with connect_async(server.url, user="alice", timeout=TIMEOUT_S) as store:
            if connected:
                await asyncio.gather(*(READS[read](store) for _ in range(MANY)))
            server.pause()
            try:
                times = await times_of([READS[read](store) for _ in range(MANY)])
            finally:
                server.resume()
            # One time-out in the queue and one of its own; without a bound the last would wait for five.
            assert max(times) < 3.5 * TIMEOUT_S
            await READS[read](store)

    asyncio.run(main())


def test_a_queue_behind_reads_that_progress_is_waited_for(proxy: Proxy) -> None:
    most = async_driver.MOST_OWN_CONNECTIONS

    async def main() -> None:
        async with connect_async(proxy.url, user="alice", namespace="the-ns", timeout=TIMEOUT_S) as store:
            await store.set("key", 1)
            await asyncio.gather(*(store.get_all() for _ in range(most)))
            rules = [proxy.strike("the-ns", Fault.HOLD_REPLY) for _ in range(most)]
            first = [asyncio.create_task(store.get_all()) for _ in range(most)]
            while not all(rule.struck.is_set() for rule in rules):
                await asyncio.sleep(0.002)
            waiting = asyncio.create_task(store.get_all())
            cancelled = asyncio.create_task(store.get_all())
            await asyncio.sleep(0)
            cancelled.cancel()
            for rule in rules:
                rule.release()
            assert [await each for each in first] == [{"key": 1}] * most
            assert await waiting == {"key": 1}
            assert await asyncio.gather(*(store.get_all() for _ in range(2 * most))) == [{"key": 1}] * 2 * most

    asyncio.run(main())


def test_a_waiter_does_not_fail_with_an_error_from_before_its_call(start: Callable[..., Server]) -> None:
    server = start("valkey9")

    async def main() -> None:
        async with connect_async(server.url, user="alice", timeout=TIMEOUT_S) as store:
            server.pause()
            with pytest.raises(StoreTimeout):
                await store.get("key")
            connecting = asyncio.create_task(store.get("key"))
            waiting = asyncio.create_task(store.get("key", 1))
            await asyncio.sleep(0)
            connecting.cancel()
            server.resume()
            assert await waiting == 1

    asyncio.run(main())
