"""What a notebook shows of what the store returns: a line, with no password and no long value in it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from redis_store import Change, KeyInfo, connect, connect_async
from redis_store.operations import operations_of
from tests.support.servers import Server

LONG: Any = {f"field {number}": ["x" * 5000] * 50 for number in range(50)}
URL = "redis://default:secret@localhost:1/0"
"""Nothing is sent to it."""


def test_handles() -> None:
    with connect(URL, user="alice", namespace="files") as store:
        assert repr(store) == "<DataStore user='alice' namespace='files' at redis://localhost:1/0>"
        assert repr(store.lock("l")) == "<Lock 'l', not held>"
        assert repr(store.semaphore("s", 2)) == "<Semaphore 's', not held>"
        assert repr(store.rate_limit("r", 2, 1)) == "<RateLimit 'r'>"
        assert repr(store.transaction()) == f"<Transaction {repr(store)[11:]}"
        assert "alice" in repr(operations_of(store).scope), "also before the form of its keys is known"
    other = connect_async(URL, user="alice", namespace="files")
    assert repr(other) == "<AsyncDataStore user='alice' namespace='files' at redis://localhost:1/0>"
    assert repr(other.lock("l")) == "<AsyncLock 'l', not held>"
    assert repr(other.rate_limit("r", 2, 1)) == "<AsyncRateLimit 'r'>"
    assert repr(other.transaction()) == f"<AsyncTransaction {repr(other)[16:]}"
    assert repr(other.watch("a:")) == "<AsyncWatch of 'files', keys 'a:'...>"
    assert repr(other.watch_all()) == "<AsyncWatch of all namespaces of 'alice'>"


def test_a_watch(one_server: Server, user: str) -> None:
    with connect(one_server.url, user=user) as store:
        with store.watch() as watch:
            assert repr(watch) == "<Watch of 'default'>"
        assert repr(watch) == "<Watch of 'default' (closed)>"


def test_records_with_long_values() -> None:
    change = Change("files", "k" * 5000, "set", LONG, "the cursor", "log", "indexer", "run 7")
    assert len(repr(change)) < 500
    assert "cursor='the cursor', source='log', agent='indexer', run='run 7'" in repr(change)
    time = datetime(2026, 11, 30, tzinfo=UTC)
    assert len(repr(KeyInfo("key", time, "a", time, "b", LONG, 5, None))) < 500


def test_records_with_short_values_are_shown_whole() -> None:
    change = Change("files", "a", "set", {"lines": [1, 2], "name": "x" * 50}, "the cursor", "log")
    assert eval(repr(change), {"Change": Change}) == change
