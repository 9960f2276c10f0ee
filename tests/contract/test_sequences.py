"""Sequences: lists of any length, whose items are the values of a namespace."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from redis_store import (
    AsyncDataStore,
    CorruptValue,
    DataStore,
    InvalidInput,
    InvalidValue,
    LimitExceeded,
)
from redis_store.namespace.keys import UserKeys
from tests.support.servers import KINDS_WITH_TTL, wait_until
from tests.support.sides import SIDES_WITH_FUNCTIONS, AsyncSide, Side

pytestmark = pytest.mark.parametrize("side", SIDES_WITH_FUNCTIONS, indirect=True)


class Blocking:
    """A sequence through either side, with blocking methods."""

    def __init__(self, store: Side, name: str, **options: Any) -> None:
        self._loop = store._loop if isinstance(store, AsyncSide) else None
        made: DataStore | AsyncDataStore = store.store
        self._sequence: Any = made.sequence(name, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._sequence, name)
        if self._loop is None:
            return method
        return lambda *args: self._loop.run_until_complete(method(*args))

    def items(self) -> list[Any]:
        if self._loop is None:
            return list(self._sequence)

        async def collected() -> list[Any]:
            return [item async for item in self._sequence]

        return self._loop.run_until_complete(collected())


def key(position: int) -> str:
    return f"{position:016}"


def test_items_have_positions(store: Side) -> None:
    log = Blocking(store, "log")
    assert (log.append(), log.count(), log.last(5), log.range(), log.items()) == (0, 0, [], [], [])
    assert store.list_namespaces() == []
    assert log.append("a", None, {"b": [1]}) == 3
    assert log.append("d") == 4
    assert log.append() == 4
    assert log.items() == log.range() == log.last(99) == ["a", None, {"b": [1]}, "d"]
    assert (log.last(2), log.last(0), log.range(1, 3), log.range(3), log.range(4), log.range(3, 1)) == (
        *([{"b": [1]}, "d"], [], [None, {"b": [1]}], ["d"], [], []),
    )
    other = store.use_namespace("log")
    assert other.get_all() == {key(0): "a", key(1): None, key(2): {"b": [1]}, key(3): "d"}
    assert other.info(key(3)).created_by == "tester"
    assert log.count() == 4
    assert store.list_namespaces() == ["log"]
    assert log.clear() == 4
    assert store.list_namespaces() == []
    assert log.append("again") == 1


def test_pop_takes_the_last(store: Side) -> None:
    log = Blocking(store, "log")
    log.append(1, None, 3)
    assert (log.pop(), log.pop(), log.append("x"), log.pop(), log.pop()) == (3, None, 2, "x", 1)
    with pytest.raises(IndexError, match="empty"):
        log.pop()
    assert log.pop("default") == "default"
    assert store.list_namespaces() == []


def test_an_item_that_cannot_be_read_stays(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    log = Blocking(store, "log")
    log.append(1, 2)
    raw.hset(keys.namespace("log").data, key(1), "?")
    with pytest.raises(CorruptValue):
        log.pop()
    assert raw.hget(keys.namespace("log").data, key(1)) == b"?"


def test_bounded(store: Side) -> None:
    log = Blocking(store, "log", max_items=3)
    assert log.append(*range(10)) == 10
    assert log.items() == [7, 8, 9]
    assert log.append(10) == 11
    assert store.use_namespace("log").list_keys() == [key(8), key(9), key(10)]
    assert (log.last(2), log.range(), log.range(9, 10)) == ([9, 10], [8, 9, 10], [9])
    assert Blocking(store, "log").append(11) == 12
    assert log.count() == 4
    assert (log.append(12), log.count(), log.pop(), log.append("x"), log.items()) == (13, 3, 12, 13, [10, 11, "x"])


def test_long_sequences(store: Side) -> None:
    log = Blocking(store, "log")
    for start in range(0, 3000, 1000):
        log.append(*range(start, start + 1000))
    assert log.last(50) == list(range(2950, 3000))
    assert log.last(1500) == list(range(1500, 3000))
    assert log.range() == log.items() == list(range(3000))
    assert log.range(500, 2600) == list(range(500, 2600))
    assert Blocking(store, "log", max_items=10).append("new") == 3001
    assert log.items() == [*range(2991, 3000), "new"]


def test_big_items_are_read_in_steps(store: Side) -> None:
    log = Blocking(store, "log")
    log.append(*[letter * 400_000 for letter in "abcdef"])
    assert [item[0] for item in log.last(4)] == list("cdef")
    assert [item[0] for item in log.items()] == list("abcdef")


def test_items_may_be_changed_by_key(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    log, other = Blocking(store, "log"), store.use_namespace("log")
    log.append(*range(5))
    other.delete(key(1))
    other.delete(key(4))
    other.set(key(2), "two")
    other.set("note", "no item")
    assert log.items() == log.range() == [0, "two", 3]
    assert (log.last(3), log.append(5), log.pop(), log.pop(), log.pop()) == (["two", 3], 6, 5, 3, "two")
    other.set(key(1), "by hand")
    assert log.append("next") == 3, "nothing is overwritten"
    raw.delete(keys.namespace("log").info)
    assert log.append("found again") == 4
    assert log.items() == [0, "by hand", "next", "found again"]
    other.set(key(2**53), "too far")
    assert log.append("more") == 5


@pytest.mark.parametrize("server", KINDS_WITH_TTL, indirect=True)
def test_items_expire(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    log = Blocking(store, "log", ttl=0.05)
    log.append(1, 2)
    wait_until(lambda: log.items() == [], "the items have expired")
    wait_until(lambda: not raw.exists(keys.namespace("log").info), "nothing stays")
    long = Blocking(store, "log", ttl=1000)
    assert long.append(3) == 1
    assert store.use_namespace("log").info(key(0)).expires_at is not None


def test_bad_input_for_sequences(store: Side) -> None:
    log = Blocking(store, "log")
    for call in (
        lambda: log.last(-1),
        lambda: log.last("1"),
        lambda: log.last(True),
        lambda: log.range(-1),
        lambda: log.range(0, 1.5),
        lambda: log.range(0, -1),
        lambda: Blocking(store, "log", max_items=0),
        lambda: Blocking(store, "log", max_items="3"),
        lambda: Blocking(store, ""),
        lambda: Blocking(store, "log", ttl=-1),
    ):
        with pytest.raises(InvalidInput):
            call()
    with pytest.raises(InvalidValue):
        log.append(1, {2})
    with pytest.raises(LimitExceeded):
        log.append(*range(1001))
    assert store.list_namespaces() == []
