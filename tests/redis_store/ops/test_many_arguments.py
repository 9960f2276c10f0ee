"""No command has more than 3,900 arguments, however much an operation is given: it stays atomic, or is refused before it is sent.

`pack` refuses such a command, so an operation that succeeds has sent none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redis_store import DataStore, LimitExceeded
from redis_store.brokers.lease import lease
from redis_store.limits import MAX_CALL_KEYS, MOST_ARGUMENTS
from redis_store.ops import batch
from redis_store.ops.transactions import MAX_NAMESPACES
from redis_store.protocol.command import ReplyError
from redis_store.protocol.packing import pack
from redis_store.scripts import DELETE
from tests.support.scripted import play, scope_of
from tests.support.servers import Server

FULL = ReplyError("OOM command not allowed when used memory > 'maxmemory'.")


@pytest.fixture
def store(server: Server, user: str, open_store: Callable[..., DataStore]) -> DataStore:
    """A store on each kind of server; fakeredis has no cmsgpack."""
    return open_store(server.url, user)


def test_a_command_of_too_many_arguments_is_not_sent() -> None:
    command = ("HMGET", *["f"] * MOST_ARGUMENTS)
    for commands in ((command,), (("MULTI",), command, ("EXEC",))):
        with pytest.raises(LimitExceeded, match="3,901 arguments") as caught:
            pack(commands)
        assert (caught.value.limit, caught.value.limit_count) == ("max_arguments", MOST_ARGUMENTS)
    assert pack((command[:-1],)).startswith(b"*3900\r\n")


def test_a_script_gets_many_arguments_in_one(store: DataStore) -> None:
    """Long and short ones, of any bytes, in their order."""
    mixed = {f"{number}ü" + "x" * (number % 5 * 400): number for number in range(MOST_ARGUMENTS)}
    store.set_many(mixed)
    store.set("stays", 1)
    assert store.delete_many(["missing", *mixed]) == len(mixed)
    assert store.list_keys() == ["stays"]
    keys = (b"k",)
    assert DELETE.by_digest(keys, ("a", b"b", 1)) == (b"EVALSHA", DELETE.sha, 1, b"k", "a", b"b", 1)
    assert len(DELETE.by_text(keys, ("x" * 2000,) * 9000)) <= MOST_ARGUMENTS


def test_compressed_values_in_a_big_transaction(
    one_server: Server, user: str, open_store: Callable[..., DataStore]
) -> None:
    store = open_store(one_server.url, user, compress_above=100)
    items = {f"key-{number}": [number] * 100 * (number % 20) for number in range(900)}

    def write(transaction: Any) -> None:
        for key, value in items.items():
            transaction.set(key, value)

    store.transact(write)
    assert store.get_all() == items


def test_metadata_and_a_bound_on_the_keys(one_server: Server, user: str, open_store: Callable[..., DataStore]) -> None:
    store = open_store(one_server.url, user)
    store.set_many({f"key-{number}": number for number in range(1000)}, metadata={"m": 1})
    info = store.info("key-999")
    assert info is not None
    assert info.metadata == {"m": 1}
    bounded = store.use_namespace("bounded", max_keys=4000)
    bounded.set_many({f"old-{number}": number for number in range(10)})
    bounded.set_many({f"key-{number}": number for number in range(4000)})
    assert len(bounded) == 4000
    assert bounded.get_many(["old-0", "key-0"]) == {"key-0": 0}


def test_as_many_keys_as_an_agent_may_name(one_server: Server, user: str, open_store: Callable[..., DataStore]) -> None:
    store, names = open_store(one_server.url, user), [f"key-{number}" for number in range(MAX_CALL_KEYS)]
    with lease(store, user=user, namespace=store.namespace, max_read_bytes=10**9) as leased:
        assert leased.set_many(dict.fromkeys(names, 1)) == MAX_CALL_KEYS
        assert leased.get_many(names) == dict.fromkeys(names, 1)
        assert leased.delete_many(names) == MAX_CALL_KEYS


def test_many_keys_are_read_at_one_moment() -> None:
    """In a transaction; a full server of version 7.0 refuses that."""
    names = [f"key-{number}" for number in range(batch.KEYS_PER_READ + 2)]
    parts = [[b"1"] * batch.KEYS_PER_READ, [None, b"2"]]
    ok: list[Any] = [b"OK", b"QUEUED", b"QUEUED"]
    told = play(batch.get_many(scope_of(), names), [*ok, parts])
    assert told.names == [["MULTI", "HMGET", "HMGET", "EXEC"]]
    assert (len(told.result), told.result[names[-1]]) == (batch.KEYS_PER_READ + 1, 2)
    assert (told.calls[0].bulk, told.calls[0].repeatable) == (True, True)
    full = play(batch.get_many(scope_of(), names), [b"OK", FULL, FULL, FULL], parts)
    assert full.names[1:] == [["HMGET", "HMGET"]]
    assert full.result == told.result


def test_a_transaction_in_too_many_namespaces(store: DataStore) -> None:
    def write(transaction: Any) -> None:
        for number in range(count):
            transaction.use_namespace(f"n{number}").set("key", number)

    count = MAX_NAMESPACES + 1
    with pytest.raises(LimitExceeded, match="751 namespaces") as caught:
        store.transact(write)
    assert caught.value.limit == "max_transaction_namespaces"
    assert store.list_namespaces() == []
    count = MAX_NAMESPACES
    store.transact(write)
    assert len(store.list_namespaces()) == MAX_NAMESPACES
