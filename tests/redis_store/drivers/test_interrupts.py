"""Signal handlers use a store at any point of the code that they interrupt, and may raise there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redis_store import DataStore, connect
from tests.support.interrupts import Interrupted, interrupted, raising_at
from tests.support.servers import Server
from tests.support.threads import in_thread

pytestmark = pytest.mark.timeout(120)

OPERATIONS: dict[str, Callable[[DataStore], Any]] = {
    "reads that may be near hits": lambda store: [store.get("k") for _ in range(3)],
    "reads of several keys": lambda store: store.get_many(["k", "absent"]),
    "set": lambda store: store.set("k", 2),
    "get_or_set": lambda store: store.get_or_set("computed", lambda: 3, ttl=0.001),
    "update": lambda store: store.update("n", lambda value: value + 1, default=0),
    "transaction": lambda store: store.transact(lambda transaction: transaction.set("k", transaction.get("k"))),
    "lock": lambda store: _enter(store.lock("name")),
    "semaphore": lambda store: _enter(store.semaphore("name", 2)),
    "watch": lambda store: _enter(store.watch()),
    "wait_for": lambda store: store.wait_for("k", timeout=20),
}


def _enter(block: Any) -> None:
    with block:
        pass


@pytest.mark.parametrize("near_cache", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_handler_uses_the_store_at_any_point(
    name: str, near_cache: bool, one_server: Server, user: str, open_store: Any
) -> None:
    store = open_store(one_server.url, user, near_cache=near_cache)
    store.set_many({"k": 1, "other": 1})
    points = 0

    def handle(_: bool) -> None:
        nonlocal points
        points += 1
        assert store.get("other") is not None
        if points % 10 == 0 and points < 1000:
            store.set("other", points)

    for _ in range(2):
        with interrupted(handle):
            OPERATIONS[name](store)
    assert points > 50
    with in_thread(lambda: store.get("k")):
        assert store.get("other") is not None


def test_a_handler_opens_and_closes_stores_at_any_point(one_server: Server, user: str) -> None:
    points = 0

    def use() -> Any:
        with connect(one_server.url, user=user, near_cache=True) as store:
            return store.get("k")

    def handle(_: bool) -> None:
        nonlocal points
        points += 1
        if points % 10 == 0 and points < 1000:
            use()

    with interrupted(handle):
        use()
    assert points > 50


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("name", ["reads that may be near hits", "reads of several keys"])
def test_a_handler_that_raises_leaves_the_near_cache_in_order(
    name: str, one_server: Server, user: str, open_store: Any
) -> None:
    near, plain = open_store(one_server.url, user, near_cache=True), open_store(one_server.url, user)
    plain.set("k", 0)
    at, left = 0, 0

    def handle(may_raise: bool) -> None:
        nonlocal left
        if may_raise:
            left -= 1
            if left == 0:
                raise Interrupted

    while left <= 0:
        at += 4
        left = at
        near.get("k")
        plain.set("k", at)
        try:
            with interrupted(handle):
                OPERATIONS[name](near)
        except Interrupted:
            pass
        else:
            break
        with in_thread(lambda: near.info("k") and near.get("k")) as other:
            pass
        assert other.result == at, "another thread does not wait for ever"
        plain.set("k", -at)
        near.info("k")
        assert near.get("k") == near.get("k") == -at
        hits = near.stats().near_hits
        near.get("k")
        assert near.stats().near_hits > hits, "the cache is in use"
    assert at > 100


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_time_limit_of_the_caller_is_not_taken_for_the_sockets(
    one_server: Server, user: str, open_store: Any
) -> None:
    store = open_store(one_server.url, user)
    store.set("k", 1)
    place, ended = 0, False
    raised = set()
    while not ended:
        place += 1
        try:
            with raising_at(place, TimeoutError):
                store.get("k")
            ended = True
        except TimeoutError as error:
            raised.add(type(error))
        assert store.get("k") == 1
    assert raised == {TimeoutError}


def _in_a_lock(store: DataStore) -> None:
    with store.lock("l"):
        pass


def _in_a_place(store: DataStore) -> None:
    with store.semaphore("s", 1):
        pass


def _compute(store: DataStore) -> None:
    store.get_or_set("k", lambda: 1)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("use", [_in_a_lock, _in_a_place, _compute])
def test_what_a_handler_interrupts_is_given_back_at_once(
    use: Callable[[DataStore], None], one_server: Server, user: str, open_store: Any
) -> None:
    store, other = open_store(one_server.url, user), open_store(one_server.url, user)
    at, was_interrupted = 1, True
    while was_interrupted:
        at += 4
        was_interrupted = False
        store.delete("k")
        try:
            with raising_at(at):
                use(store)
        except Interrupted:
            was_interrupted = True
        with other.lock("l", timeout=5), other.semaphore("s", 1, timeout=5):
            assert other.get_or_set("k", lambda: 1, timeout=5) == 1
    assert at > 30
