"""The bound on a client's connections: callers wait in a queue, and no place is lost."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redis_store import Client, DataStore, StoreClosed, StoreTimeout, StoreUnavailable, WaitTimeout
from redis_store.drivers.loans import BoundedConnections
from redis_store.operations import operations_of
from tests.redis_store.drivers.test_forks import forked
from tests.support.interrupts import Interrupted, raising_at
from tests.support.proxy import Fault, Proxy, proxied
from tests.support.servers import Server, wait_until
from tests.support.threads import all_at_once, in_thread

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture
def proxy(one_server: Server) -> Iterator[Proxy]:
    with proxied(one_server) as made:
        yield made


@pytest.fixture
def open_client(proxy: Proxy) -> Iterator[Callable[..., Client]]:
    made: list[Client] = []

    def open_one(most: int, **options: Any) -> Client:
        made.append(Client(proxy.url, max_connections=most, **options))
        return made[-1]

    yield open_one
    for client in made:
        client.close()


def loans_of(store: DataStore) -> BoundedConnections:
    loans = operations_of(store).driver.loans
    assert isinstance(loans, BoundedConnections)
    return loans


def waiting(store: DataStore) -> int:
    return len(loans_of(store)._waiting)


def test_many_threads_share_few_connections(open_client: Any, proxy: Proxy, user: str) -> None:
    client = open_client(3)

    def work(name: str) -> None:
        store = client.store(user=name)
        for number in range(20):
            store.set("k", [name, number])
            assert store.get("k") == [name, number]
            assert store.get_all() == {"k": [name, number]}

    all_at_once([lambda name=name: work(f"{user}-{name}") for name in range(16)])  # type: ignore[misc]
    assert proxy.connections <= 3


def test_callers_have_their_turn_in_order(open_client: Any, proxy: Proxy, user: str) -> None:
    store = open_client(1, timeout=20).store(user=user)
    store.set("k", 1)
    rule = proxy.strike("held-back", Fault.HOLD_REPLY)
    done: list[int] = []
    with in_thread(lambda: store.get("held-back")):
        wait_until(rule.struck.is_set, "the only connection is in use")
        threads = []
        for number in range(5):
            threads.append(in_thread(lambda number=number: (store.get("k"), done.append(number))))  # type: ignore[misc]
            threads[-1].__enter__()
            wait_until(lambda number=number: waiting(store) == number + 1, "it waits")  # type: ignore[misc]
        rule.release()
        for thread in threads:
            thread.__exit__()
    assert done == list(range(5))
    assert proxy.connections == 1


def test_no_turn_in_time_is_a_clear_error(open_client: Any, user: str) -> None:
    client = open_client(1, timeout=0.5)
    store = client.store(user=user)
    loans = loans_of(store)
    held = loans.take()
    with pytest.raises(StoreTimeout, match=r"All 1 connections of the client to .* were in use for 0.5 s") as found:
        store.set("k", 1)
    assert not found.value.outcome_unknown
    assert "max_connections" in str(found.value)
    assert waiting(store) == 0
    with pytest.raises(StoreTimeout):
        client.ping()
    loans.put_back(held)
    assert store.get("k") is None


def test_a_callers_own_time_bounds_its_turn(open_client: Any, user: str) -> None:
    store = open_client(1, timeout=20).store(user=user)
    held = loans_of(store).take()
    with pytest.raises(WaitTimeout):
        store.wait_for("k", timeout=0.1)
    assert waiting(store) == 0
    loans_of(store).put_back(held)


def test_a_broken_connection_gives_its_place_back(open_client: Any, proxy: Proxy, user: str) -> None:
    store = open_client(1).store(user=user)
    store.set("k", 1)
    rule = proxy.strike("held-back", Fault.HOLD_REPLY)
    with in_thread(lambda: store.get("held-back")) as broken, in_thread(lambda: store.get("k")) as next_one:
        wait_until(lambda: rule.struck.is_set() and waiting(store), "the other waits")
        proxy.drop_all()
        rule.release()
    assert broken.error is None
    assert next_one.result == 1
    assert len(loans_of(store)._every) == 1


def test_a_server_that_is_gone_takes_no_place(start: Callable[..., Server], user: str) -> None:
    server = start("valkey9")
    with Client(server.url, max_connections=2) as client:
        store = client.store(user=user)
        server.kill()
        for _ in range(5):
            with pytest.raises(StoreUnavailable):
                store.get("k")
        server.restart()
        assert store.get("k") is None


def test_closing_the_client_wakes_those_in_the_queue(open_client: Any, user: str) -> None:
    client = open_client(1, timeout=20)
    store = client.store(user=user)
    held = loans_of(store).take()
    with in_thread(lambda: store.get("k")) as one, in_thread(lambda: store.get("k")) as other:
        wait_until(lambda: waiting(store) == 2, "both wait")
        client.close()
    assert isinstance(one.error, StoreClosed)
    assert isinstance(other.error, StoreClosed)
    loans_of(store).drop(held)


def test_a_forked_child_has_places_of_its_own(open_client: Any, user: str) -> None:
    client = open_client(1)
    store = client.store(user=user)
    held = loans_of(store).take()

    def work() -> None:
        assert client.store(user=user).get("k") is None

    forked(work)()
    loans_of(store).put_back(held)
    assert store.get("k") is None


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_handler_that_raises_anywhere_costs_no_place(one_server: Server, user: str) -> None:
    """Each call is interrupted one place later than the last one; of two connections none is ever lost."""
    with Client(one_server.url, max_connections=2, timeout=5) as client:
        store = client.store(user=user)
        place, ended = 0, False
        while not ended:
            place += 1
            loans_of(store)._idle.clear()  # a new connection each time
            try:
                with raising_at(place):
                    store.get("k")
                ended = True
            except Interrupted:
                pass
            assert len(loans_of(store)._opening) == 0
        assert place > 50
        gc.collect()
        held = [loans_of(store).take() for _ in range(2)]
        assert len(held) == len(loans_of(store)._every) == 2


def test_interrupted_in_the_queue(open_client: Any, user: str) -> None:
    store = open_client(1, timeout=20).store(user=user)
    held = loans_of(store).take()
    main = threading.current_thread()
    assert main is threading.main_thread()

    def give_back() -> None:
        wait_until(lambda: waiting(store) == 1, "it waits")
        os.kill(os.getpid(), 2)

    with in_thread(give_back), pytest.raises(KeyboardInterrupt):
        store.get("k")
    assert waiting(store) == 0
    loans_of(store).put_back(held)
    assert store.get("k") is None


def test_watching_and_locks_need_no_further_place(open_client: Any, user: str) -> None:
    client = open_client(1, timeout=20)
    store, other = client.store(user=user), client.store(user=f"{user}-2")
    with store.watch() as changes, store.lock("l", ttl=1), in_thread(lambda: store.wait_for("k", timeout=20)) as waiter:
        other.set("k", 2)
        store.set("k", 1)
        change = changes.next_change(timeout=20)
        assert change is not None
        assert (change.key, change.value) == ("k", 1)
    assert waiter.result == 1
