"""Waiters for a lock, a slot or a computed value are woken by a message, and poll where none can arrive."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
import redis

from redis_store import ConnectionLost, DataStore, StoreClosed, connect, connect_async
from redis_store.drivers import listener as listeners
from redis_store.drivers import wakeups
from redis_store.flows import compute_once, hold
from redis_store.flows.flow import Pause
from redis_store.hub import hub
from redis_store.namespace.keys import UserKeys
from redis_store.operations import operations_of
from redis_store.ops import locks
from tests.support.servers import Server, wait_until

FOR_EVER_S = 100_000.0


@pytest.fixture(autouse=True)
def nothing_but_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop waiters that can be woken from polling."""
    monkeypatch.setattr(hold, "HOLD_WOKEN_PAUSE_S", FOR_EVER_S)
    monkeypatch.setattr(compute_once, "COMPUTE_WOKEN_PAUSE_S", FOR_EVER_S)
    monkeypatch.setattr(locks, "GRACE_MS", int(1000 * FOR_EVER_S))  # those that do not poll would be skipped


@pytest.fixture
def raw(real_server: Server) -> Iterator[redis.Redis]:
    with real_server.client() as client:
        yield client


@pytest.fixture
def store(real_server: Server, user: str) -> Iterator[DataStore]:
    with connect(real_server.url, user=user) as data_store:
        yield data_store


class Waiter:
    """A waiter in its own thread."""

    def __init__(self, wait: Callable[[], Any]) -> None:
        self._found: list[Any] = []
        self._thread = threading.Thread(target=self._work, args=(wait,), daemon=True)
        self._thread.start()

    def result(self) -> Any:
        self._thread.join(20)
        assert self._found, "it still waits"
        if isinstance(self._found[0], BaseException):
            raise self._found[0]
        return self._found[0]

    def _work(self, wait: Callable[[], Any]) -> None:
        try:
            self._found.append(wait())
        except BaseException as error:
            self._found.append(error)


def subscribed(raw: redis.Redis, channel: bytes) -> None:
    wait_until(lambda: raw.pubsub_numsub(channel)[0][1] > 0, "somebody waits for a message")


def take_lock(store: DataStore) -> str:
    with store.lock("l", ttl=FOR_EVER_S):
        return "taken"


def take_lock_awaited(store: DataStore) -> str:
    async def take() -> str:
        async with connect_async(store.url, user=store.user) as other, other.lock("l", ttl=FOR_EVER_S):
            return "taken"

    return asyncio.run(take())


@pytest.mark.parametrize("take", [take_lock, take_lock_awaited])
def test_released_lock_wakes_waiter(store: DataStore, raw: redis.Redis, take: Callable[[DataStore], str]) -> None:
    with store.lock("l", ttl=FOR_EVER_S):
        waiter = Waiter(lambda: take(store))
        subscribed(raw, UserKeys.of(store.user).lock(b"l"))
    assert waiter.result() == "taken"


def test_a_hub_that_lets_messages_wait_delays_no_waiter(
    store: DataStore, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "TICK_S", FOR_EVER_S)
    with connect(store.url, user=store.user, configure_server=True) as other, other.watch() as watch:
        wait_until(lambda: raw.exists(UserKeys.of(store.user).namespace("default").log), "it watches")
        store.set("k", 1)
        assert watch.next_change(20) is not None
        monkeypatch.setattr(hub, "COALESCE_S", FOR_EVER_S)
        store.set("k", 2)  # it has just read the log, so this waits
        test_released_lock_wakes_waiter(store, raw, take_lock)


def test_lock_waiters_are_woken_in_turn(store: DataStore, raw: redis.Redis) -> None:
    with store.lock("l", ttl=FOR_EVER_S):
        waiters = [Waiter(lambda: take_lock(store)) for _ in range(8)]
        key = UserKeys.of(store.user).queue(b"lock", b"l")
        wait_until(lambda: raw.llen(key) == 8, "all stand in the queue")
    assert [waiter.result() for waiter in waiters] == ["taken"] * 8


def test_semaphore_slot_wakes_waiter(store: DataStore, raw: redis.Redis) -> None:
    def take() -> str:
        with store.semaphore("s", 1, ttl=FOR_EVER_S):
            return "taken"

    with store.semaphore("s", 1, ttl=FOR_EVER_S):
        waiter = Waiter(take)
        subscribed(raw, UserKeys.of(store.user).limit(b"s"))
    assert waiter.result() == "taken"


def get_or_set_awaited(store: DataStore) -> Any:
    async def get() -> Any:
        async with connect_async(store.url, user=store.user) as other:
            return await other.get_or_set("k", lambda: "again", lock_timeout=FOR_EVER_S)

    return asyncio.run(get())


def get_or_set(store: DataStore) -> Any:
    return store.get_or_set("k", lambda: "again", lock_timeout=FOR_EVER_S)


@pytest.mark.parametrize("get", [get_or_set, get_or_set_awaited])
def test_computed_value_wakes_waiter(store: DataStore, raw: redis.Redis, get: Callable[[DataStore], Any]) -> None:
    waiters: list[Waiter] = []

    def make() -> str:
        waiters.extend(Waiter(lambda: get(store)) for _ in range(2))
        subscribed(raw, UserKeys.of(store.user).namespace("default").flight)
        return "computed"

    assert store.get_or_set("k", make, lock_timeout=FOR_EVER_S) == "computed"
    assert [waiter.result() for waiter in waiters] == ["computed"] * 2


def test_failed_computation_wakes_waiter(store: DataStore, raw: redis.Redis) -> None:
    waiters: list[Waiter] = []

    def make() -> str:
        waiters.append(Waiter(lambda: get_or_set(store)))
        subscribed(raw, UserKeys.of(store.user).namespace("default").flight)
        raise ValueError("bad luck")

    with pytest.raises(ValueError, match="bad luck"):
        store.get_or_set("k", make, lock_timeout=FOR_EVER_S)
    with pytest.raises(Exception, match="bad luck"):
        waiters[0].result()


def test_broken_connection_is_reopened(store: DataStore, raw: redis.Redis) -> None:
    channel = UserKeys.of(store.user).lock(b"l")
    with store.lock("l", ttl=FOR_EVER_S):
        waiter = Waiter(lambda: take_lock(store))
        subscribed(raw, channel)
        killed = {client["id"] for client in raw.client_list("pubsub")}
        raw.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        wait_until(lambda: {client["id"] for client in raw.client_list("pubsub")} - killed, "there is another")
        subscribed(raw, channel)
    assert waiter.result() == "taken"


def test_connection_reopens_after_another_store_closes(store: DataStore, raw: redis.Redis) -> None:
    channel = UserKeys.of(store.user).lock(b"l")
    with store.lock("l", ttl=FOR_EVER_S):
        waiter = Waiter(lambda: take_lock(store))
        subscribed(raw, channel)
        with store.lock("l2", ttl=FOR_EVER_S), connect(store.url, user=store.user) as other:
            late = Waiter(lambda: other.lock("l2", ttl=FOR_EVER_S).acquire())
            subscribed(raw, UserKeys.of(store.user).lock(b"l2"))
            resolver = operations_of(other).driver.source.resolver
        with pytest.raises((StoreClosed, ConnectionLost)):  # it may just look again
            late.result()

        def closed() -> Any:  # as the embedded server's address does after the store has released it
            raise StoreClosed("The store is closed: connect again.")

        resolver.address = closed  # type: ignore[method-assign]
        killed = {client["id"] for client in raw.client_list("pubsub")}
        raw.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        wait_until(lambda: {client["id"] for client in raw.client_list("pubsub")} - killed, "there is another")
        subscribed(raw, channel)
    assert waiter.result() == "taken"


def test_forked_child_closes_its_connection_copy(store: DataStore, raw: redis.Redis) -> None:
    with store.lock("l", ttl=FOR_EVER_S):
        waiter = Waiter(lambda: take_lock(store))
        subscribed(raw, UserKeys.of(store.user).lock(b"l"))
        (listener,) = (each for each in listeners._listeners.values() if each._key.startswith(store.url))
        connection = listener._subscribed
        assert connection is not None
        child = os.fork()
        if child == 0:
            os._exit(0 if connection.fileno() == -1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert waiter.result() == "taken", "the parent's is still there"


def test_waiter_knows_whether_messages_come(store: DataStore, raw: redis.Redis) -> None:
    """Each time all waiters are woken, so that none misses a message that a broken connection has lost."""
    told: list[list[bool]] = [[], []]
    first, second = (
        listeners.Wakeup(b"a channel", b"word", ring)
        for ring in (lambda: told[0].append(first.live), lambda: told[1].append(second.live))
    )
    listener = listeners.wake(first, operations_of(store).driver.source, None)
    assert listener is not None
    wait_until(lambda: told[0], "the server has said that it will tell")
    assert listeners.wake(second, operations_of(store).driver.source, None) is listener
    wait_until(lambda: told[1], "the second is told the same")
    raw.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    wait_until(lambda: [len(each) for each in told] == [3, 3], "both are told of the end, and of the next connection")
    assert told == [[True, False, True]] * 2
    listener.ask(lambda: listener.remove(first))
    listener.ask(lambda: listener.remove(second))
    wait_until(lambda: not threads(), "the thread ends")


def test_wait_without_subscribe_right(start: Callable[..., Server], caplog: pytest.LogCaptureFixture) -> None:
    server = start("valkey9")
    with server.client() as raw, connect(server.url, user="u") as holder:
        raw.execute_command("ACL", "SETUSER", "default", "resetchannels")
        key = f"{server.url} None"
        for _ in range(2):
            with holder.lock("l", ttl=FOR_EVER_S):
                waiter = Waiter(lambda: take_lock(holder))
                wait_until(lambda: raw.llen(UserKeys.of("u").queue(b"lock", b"l")) == 1, "it waits")
                wait_until(lambda: listeners._refused_until.get(key, 0.0) > 0, "it was refused")
            assert waiter.result() == "taken"
            listeners._refused_until[key] = 0.0  # so that the next one subscribes again
    told = [
        record.getMessage() for record in caplog.records if "does not let this login subscribe" in record.getMessage()
    ]
    assert len(told) == 1, "it is said once"
    assert "allow SUBSCRIBE, and the channels user:*" in told[0]


def test_closing_the_store_ends_the_wait(store: DataStore, raw: redis.Redis, real_server: Server) -> None:
    other = connect(real_server.url, user=store.user)
    with store.lock("l", ttl=FOR_EVER_S):
        waiter = Waiter(lambda: take_lock(other))
        subscribed(raw, UserKeys.of(store.user).lock(b"l"))
        other.close()
        with pytest.raises((StoreClosed, ConnectionLost)):  # it may just look again
            waiter.result()


def test_waiters_share_one_connection_that_closes_afterwards(store: DataStore, raw: redis.Redis) -> None:
    locks = [store.lock(f"l{n}", ttl=FOR_EVER_S) for n in range(5)]
    for lock in locks:
        lock.acquire()
    waiters = [Waiter(lambda n=n: store.lock(f"l{n}", ttl=FOR_EVER_S).acquire()) for n in range(5)]
    for n in range(5):
        subscribed(raw, UserKeys.of(store.user).lock(b"l%d" % n))
    assert threads() == ["listener"]
    for lock in locks:
        lock.release()
    for waiter in waiters:
        waiter.result()
    wait_until(lambda: not threads(), "the thread ends")


def threads() -> list[str]:
    return [each.name.rpartition("-")[2] for each in threading.enumerate() if each.name == "redis-store-listener"]


def ours(raw: redis.Redis) -> list[str]:
    """Return the ids of the store's connections."""
    return sorted(client["id"] for client in raw.client_list() if client["lib-name"] == "agent-data-store")


@pytest.mark.parametrize("configures", [True, False])
def test_waiters_and_watchers_share_one_listener(
    start: Callable[..., Server], configures: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redis_store.hub.events.TOKEN_S", FOR_EVER_S)  # the hub has what it was sent without a time-out
    server = start("valkey9")
    with server.client() as raw, connect(server.url, user="u", configure_server=configures) as store:
        with store.lock("l", ttl=FOR_EVER_S):
            waiter = Waiter(lambda: take_lock(store))
            subscribed(raw, UserKeys.of("u").lock(b"l"))
            alone = len(ours(raw))
            with store.watch() as watch:
                assert threads() == ["listener"]
                wait_until(lambda: len(ours(raw)) == alone + (1 if configures else 2), "the hub has its own")
                subscribed(raw, UserKeys.of("u").lock(b"l"))
                store.set("k", 1)
                assert next(watch).key == "k"
            wait_until(lambda: len(ours(raw)) == alone, "the hub has ended")
            subscribed(raw, UserKeys.of("u").lock(b"l"))
        assert waiter.result() == "taken"
        wait_until(lambda: not threads(), "the thread ends")


def test_channels_refused_to_the_hub_are_not_refused_to_waiters(start: Callable[..., Server]) -> None:
    server = start("valkey9")
    with server.client() as raw, connect(server.url, user="u", configure_server=True) as store:
        raw.execute_command("ACL", "SETUSER", "default", "resetchannels", "&user:*")
        with store.watch() as watch, store.lock("l", ttl=FOR_EVER_S):
            waiter = Waiter(lambda: take_lock(store))
            subscribed(raw, UserKeys.of("u").lock(b"l"))
            store.set("k", 1)
            assert next(watch).key == "k"
        assert waiter.result() == "taken"


@pytest.mark.parametrize("steps", range(5))
def test_waiter_that_is_woken_and_cancelled_is_cancelled(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """In whichever of the loop's iterations after the message; `wait_for` of Python 3.11 swallows one of them."""
    monkeypatch.setattr(wakeups, "SLEEPS_FIRST", 0)
    monkeypatch.setattr(wakeups, "wake", lambda *_: Mock())

    async def main() -> None:
        pauses = wakeups.AsyncPauses(Mock(), None)
        waiter = asyncio.create_task(pauses.pause(Pause(30, b"channel", b"word", 30)))
        for _ in range(3):
            await asyncio.sleep(0)
        pauses._ring()
        for _ in range(steps):
            await asyncio.sleep(0)
        cancelled = waiter.cancel()
        await asyncio.wait([waiter])
        assert waiter.cancelled() == cancelled

    asyncio.run(main())
