"""Transactions: if everything read is unchanged, everything is written; otherwise nothing is."""
# ruff: noqa: PT012 (the end of a transaction's block is what raises)

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from redis_store import (
    Conflict,
    InvalidInput,
    InvalidName,
    InvalidType,
    InvalidValue,
    LimitExceeded,
    UnsupportedByServer,
    connect,
    connect_async,
)
from tests.support.brokered_side import blocking
from tests.support.servers import KINDS_WITH_TTL, Server
from tests.support.sides import SIDES_WITH_FUNCTIONS, AsyncSide, Side
from tests.support.threads import all_at_once

pytestmark = pytest.mark.parametrize("side", SIDES_WITH_FUNCTIONS, indirect=True)


class Block:
    """A transaction through either side, with blocking methods."""

    def __init__(self, transaction: Any, run: Callable[[Any], Any]) -> None:
        self._transaction = transaction
        self._run = run

    def get(self, key: str, default: Any = None) -> Any:
        return self._run(self._transaction.get(key, default))

    def set(self, key: str, value: Any, ttl: Any = None) -> None:
        self._transaction.set(key, value, ttl)

    def delete(self, key: str) -> None:
        self._transaction.delete(key)

    def check(self, key: str, version: Any) -> None:
        self._transaction.check(key, version)

    def use_namespace(self, name: str, ttl: Any = None) -> Block:
        return Block(self._transaction.use_namespace(name, ttl), self._run)

    def __enter__(self) -> Block:
        begin = getattr(self._transaction, "__enter__", None) or self._transaction.__aenter__
        self._run(begin())
        return self

    def __exit__(self, *about: Any) -> None:
        end = getattr(self._transaction, "__exit__", None) or self._transaction.__aexit__
        self._run(end(*about))


def begin(store: Side) -> Block:
    if isinstance(store, AsyncSide):
        return Block(store.store.transaction(), lambda made: store._loop.run_until_complete(made))
    return Block(store.store.transaction(), lambda result: result)


def test_reads_and_writes_in_several_namespaces(store: Side) -> None:
    other = store.use_namespace("other")
    store.set("balance", 10, metadata={"m": 1})
    other.set("balance", 5)
    store.set("note", "x")
    with begin(store) as transaction:
        there = transaction.use_namespace("other")
        transaction.set("balance", transaction.get("balance") - 3)
        there.set("balance", there.get("balance") + 3)
        transaction.delete("note")
        transaction.delete("never there")
        transaction.use_namespace("third").set("new", None)
        assert transaction.get("balance") == 7, "it sees its own writes"
        assert transaction.get("note", "absent") == "absent"
        assert store.get("balance") == 10, "others see none before the end"
        assert store.list_namespaces() == ["default", "other"]
    assert store.get_all() == {"balance": 7}
    assert other.get_all() == {"balance": 8}
    assert store.use_namespace("third").get_all() == {"new": None}
    assert store.list_namespaces() == ["default", "other", "third"]
    assert store.info("balance").metadata == {"m": 1}


@pytest.mark.parametrize(
    "disturb",
    [
        lambda store: store.set("read", "other"),
        lambda store: store.delete("read"),
        lambda store: store.set("absent", None),
        lambda store: store.use_namespace("other").set("read", 2),
        lambda store: store.clear(),
    ],
    ids=["set", "delete", "set of an absent one", "in another namespace", "clear"],
)
@pytest.mark.parametrize("writes", [True, False])
def test_changed_read_is_a_conflict(store: Side, disturb: Callable[[Side], Any], writes: bool) -> None:
    store.set("read", 1)
    store.use_namespace("other").set("read", 1)
    with pytest.raises(Conflict, match="changed by another caller") as caught, begin(store) as transaction:
        transaction.get("read")
        transaction.get("absent")
        transaction.use_namespace("other").get("read")
        if writes:
            transaction.set("written", 1)
            transaction.use_namespace("other").delete("read")
        disturb(store)
    assert caught.value.key in ("read", "absent")
    assert store.get("written") is None
    assert store.use_namespace("other").get("read", "gone") != "gone"


def test_writes_to_other_keys_never_conflict(store: Side) -> None:
    store.set_many({"read": 1, "other": 1})
    with begin(store) as transaction:
        transaction.get("read")
        transaction.set("written", 1)
        store.set("other", 2)
        store.set("written", "meanwhile")
        store.delete("other")
    assert store.get_all() == {"read": 1, "written": 1}


def test_a_version_is_checked_at_the_end(store: Side) -> None:
    other = store.use_namespace("other")
    store.set_many({"key": 1, "gone": 1})
    other.set("key", 1)
    version, there = store.info("key").version, other.info("key").version
    with begin(store) as transaction:
        transaction.check("key", version)
        transaction.check("missing", 0)
        transaction.use_namespace("other").check("key", there)
        transaction.set("key", 2)
        transaction.delete("gone")
    assert store.get_all() == {"key": 2}
    newer = store.info("key").version
    assert newer > version
    for key, expected, found in (("key", version, newer), ("key", 0, newer), ("missing", version, 0)):
        with pytest.raises(Conflict, match="nothing was written") as caught, begin(store) as transaction:
            transaction.check(key, expected)
            transaction.use_namespace("other").set("key", 2)
        assert (caught.value.namespace, caught.value.key, caught.value.version) == ("default", key, found)
    assert other.get("key") == 1
    with begin(store) as transaction:
        transaction.check("key", newer)


def test_conflict_of_a_read_has_the_version_that_is_there(store: Side) -> None:
    store.set("key", 1)
    with pytest.raises(Conflict, match="after this transaction read it") as caught, begin(store) as transaction:
        transaction.get("key")
        store.set("key", 2)
    assert caught.value.version == store.info("key").version


def test_a_block_that_raises_writes_nothing(store: Side) -> None:
    with pytest.raises(ZeroDivisionError), begin(store) as transaction:
        transaction.set("key", 1)
        raise ZeroDivisionError
    assert store.list_keys() == []


def test_unentered_transaction_is_refused(store: Side) -> None:
    """Otherwise it would silently write nothing."""
    transaction = begin(store)
    for wrong in (
        lambda: transaction.set("k", 1),
        lambda: transaction.get("k"),
        lambda: transaction.delete("k"),
        lambda: transaction.use_namespace("other").set("k", 1),
    ):
        with pytest.raises(InvalidInput, match="has not begun"):
            wrong()
    with transaction:
        transaction.set("k", 1)
    assert store.get("k") == 1


def test_last_delete_removes_namespace(store: Side) -> None:
    store.set_many({"a": 1, "b": 2})
    with begin(store) as transaction:
        transaction.delete("a")
        transaction.delete("b")
    assert store.list_namespaces() == []
    assert store.info("a") is None


@pytest.mark.parametrize("server", KINDS_WITH_TTL, indirect=True)
def test_ttls_in_a_transaction(store: Side) -> None:
    with begin(store) as transaction:
        transaction.set("long", 1, ttl=2000)
        transaction.set("short", 1, ttl=1000)
        transaction.set("ever", 1)
        transaction.use_namespace("cache", ttl=1000).set("default", 1)
    longer = store.info("long").expires_at - store.info("short").expires_at
    assert longer.total_seconds() == 1000
    assert store.info("ever").expires_at is None
    assert store.use_namespace("cache").info("default").expires_at is not None


@pytest.mark.parametrize("server", ["redis7"], indirect=True)
def test_a_server_without_ttl_writes_nothing(store: Side) -> None:
    with pytest.raises(UnsupportedByServer), begin(store) as transaction:
        transaction.set("ever", 1)
        transaction.set("short", 1, ttl=1000)
    assert store.list_keys() == []


def test_bad_input(store: Side) -> None:
    with begin(store) as transaction:
        with pytest.raises(InvalidValue):
            transaction.set("key", {1})
        with pytest.raises(InvalidName):
            transaction.set("", 1)
        with pytest.raises(InvalidInput):
            transaction.set("key", 1, ttl=-1)
        for version in (-1, 2**53 + 1, True, 1.0, "1", None):
            with pytest.raises(InvalidInput, match="version"):
                transaction.check("key", version)
        with pytest.raises(InvalidInput):
            transaction.get(5)  # type: ignore[arg-type]
        with pytest.raises(InvalidName):
            transaction.use_namespace("")
    assert store.list_keys() == []
    for use in (lambda: transaction.set("key", 1), lambda: transaction.get("key"), transaction.__enter__):
        with pytest.raises(InvalidInput, match="over"):
            use()
    with pytest.raises(LimitExceeded), begin(store) as transaction:
        for number in range(1001):
            transaction.set(f"k{number}", number)
    assert store.list_keys() == []


def test_a_thousand_parts(store: Side) -> None:
    with begin(store) as transaction:
        for number in range(1000):
            transaction.set(f"k{number}", number)
    with begin(store) as transaction:
        for number in range(1000):
            transaction.delete(f"k{number}")
    assert store.list_namespaces() == []


def test_transact_retries_until_no_conflict(server: Server, user: str, side: str) -> None:
    """Concurrent transfers between two namespaces preserve the sum."""
    if side != "async":
        with connect(server.url, user=user) as outside, blocking(outside, side) as store:
            store.set("a", 100)

            def move(transaction: Any) -> int:
                other = transaction.use_namespace("other")
                transaction.set("a", transaction.get("a") - 1)
                other.set("b", other.get("b", 0) + 1)
                return transaction.get("a")

            results = all_at_once([lambda: [store.transact(move) for _ in range(5)]] * 6)
            left, there = store.get("a"), store.use_namespace("other").get("b")
    else:

        async def main() -> tuple[Any, ...]:
            async with connect_async(server.url, user=user) as store:
                await store.set("a", 100)

                async def move(transaction: Any) -> int:
                    other = transaction.use_namespace("other")
                    transaction.set("a", await transaction.get("a") - 1)
                    other.set("b", await other.get("b", 0) + 1)
                    return await transaction.get("a")

                async def work() -> list[int]:
                    return [await store.transact(move) for _ in range(5)]

                results = await asyncio.gather(*[work() for _ in range(6)])
                return results, await store.get("a"), await store.use_namespace("other").get("b")

        results, left, there = asyncio.run(main())
    assert (left, there) == (70, 30)
    assert sorted(number for part in results for number in part) == list(range(70, 100))


def test_transact_takes_a_function(store: Side) -> None:
    with pytest.raises(InvalidType, match="transact takes a function of a transaction, not an int"):
        store.transact(3)
