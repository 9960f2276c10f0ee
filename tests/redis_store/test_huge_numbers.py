"""Numbers that are too big to be sent are refused, and no number can end the interpreter on its way to the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis
import pytest

from redis_store import AsyncDataStore, DataStore, InvalidInput, connect, connect_async
from redis_store.connections.address import parse_address
from redis_store.protocol import packing

URL = "redis://127.0.0.1:1"

CALLS: dict[str, Callable[[Any, int], Any]] = {
    "max_keys": lambda store, number: store.use_namespace("n", max_keys=number),
    "a limit of a transaction": lambda store, number: _in_transaction(store, number),
    "slots": lambda store, number: store.semaphore("s", number),
    "uses": lambda store, number: store.rate_limit("r", number, 1),
    "the window of a rate limit": lambda store, number: store.rate_limit("r", 1, number),
    "the ttl of a lock": lambda store, number: store.lock("l", ttl=number),
    "a timeout": lambda store, number: store.lock("l", timeout=number),
    "the ttl of a namespace": lambda store, number: store.use_namespace("n", ttl=number),
    "a version": lambda store, number: store.cached(ttl=1, version=number),
    "a name": lambda store, number: store.use_namespace(number),
    "a cursor": lambda store, number: store.watch(since=number),
}


def _in_transaction(store: Any, number: int) -> Any:
    return store.transaction().use_namespace("n", max_keys=number)


@pytest.fixture(params=[connect, connect_async])
def unconnected(request: pytest.FixtureRequest) -> DataStore | AsyncDataStore:
    store: DataStore | AsyncDataStore = request.param(URL, user="u")
    return store


@pytest.mark.parametrize("number", [10**5000, -(10**5000)], ids=["huge", "-huge"])
@pytest.mark.parametrize("name", CALLS)
def test_a_huge_number_is_refused(name: str, number: int, unconnected: DataStore | AsyncDataStore) -> None:
    with pytest.raises(InvalidInput) as caught:
        CALLS[name](unconnected, number)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.set("k", 1, ttl=10**5000),
        lambda store: store.expire("k", -(10**5000)),
        lambda store: store.append("k", 1, max_items=10**5000),
        lambda store: store.append("k", 1, max_items=-(10**5000)),
        lambda store: store.get(10**5000),
        lambda store: store.list_keys(10**5000),
        lambda store: store.wait_for("k", timeout=10**5000),
        lambda store: store.get_or_set("k", lambda: 1, ttl=1, timeout=10**5000),
    ],
)
def test_a_call_with_a_huge_number_sends_nothing(call: Callable[[DataStore], Any]) -> None:
    with pytest.raises(InvalidInput):
        call(connect(URL, user="u"))


def test_hiredis_makes_no_text_of_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that raises in the middle of that would end the interpreter."""
    texts: list[tuple[Any, ...]] = []

    def pack_command(command: tuple[Any, ...]) -> bytes:
        texts.append(command)
        packed: bytes = real(command)  # type: ignore[arg-type]  # its stub knows only tuples of one
        return packed

    real = hiredis.pack_command
    monkeypatch.setattr(hiredis, "pack_command", pack_command)
    assert packing.pack([("SET", b"k", 7, -10)]) == b"*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\n7\r\n$3\r\n-10\r\n"
    connection = parse_address(f"{URL}/5", None).new_connection()
    assert connection.pack_command("SELECT", 5) == [b"*2\r\n$6\r\nSELECT\r\n$1\r\n5\r\n"]
    assert connection.pack_command("CLIENT SETINFO", b"x") == [b"*3\r\n$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$1\r\nx\r\n"]
    assert len(texts) == 3
    assert {type(argument) for command in texts for argument in command} == {str, bytes}
