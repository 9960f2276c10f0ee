"""A full server: no key can be set, not even in part; every key can be read and deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from redis_store import DataStore, ServerFull, ServerRefused
from tests.support.redis_view import NamespaceView
from tests.support.servers import REAL_KINDS, Server
from tests.support.steps import Steps

KEPT = {f"key-{number}": number for number in range(2500)}


@pytest.fixture(params=REAL_KINDS)
def full(
    request: pytest.FixtureRequest,
    start: Callable[..., Server],
    open_store: Callable[..., DataStore],
    raw_of: Callable[..., redis.Redis],
) -> Iterator[tuple[DataStore, NamespaceView]]:
    """A store with a watched namespace of 2,500 keys, on a server that has reached its `maxmemory`."""
    server = start(request.param, "--maxmemory-policy", "noeviction")
    store = open_store(server.url, "alice", agent="tester")
    store.set_many(KEPT, metadata={"old": 1})
    view = NamespaceView(raw_of(server), "alice")
    view.watch()
    view.raw.config_set("maxmemory", 1)
    return store, view


WRITES: dict[str, Callable[[DataStore], Any]] = {
    "set": lambda store: store.set("key-0", "new"),
    "set of a new key": lambda store: store.set("new", "new"),
    "set with metadata": lambda store: store.set("key-0", 0, metadata={"new": 1}),
    "set_many": lambda store: store.set_many({"key-0": "new", "new": 1}),
    "set_many of 2500": lambda store: store.set_many(KEPT),
    "set_many of big values": lambda store: store.set_many({"key-0": "x" * 2000, "new": "y" * 2000}),
    "set_many with metadata": lambda store: store.set_many({"key-0": 1}, metadata={"new": 1}),
    "set_many of 2500 with metadata": lambda store: store.set_many(KEPT, metadata={"new": 1}),
    "set in a new namespace": lambda store: store.use_namespace("new").set("key", 1),
}


def test_writes_that_need_memory_are_refused_whole(full: tuple[DataStore, NamespaceView]) -> None:
    store, view = full
    before = view.snapshot()
    for name, write in WRITES.items():
        with pytest.raises(ServerFull, match="Nothing was written") as caught:
            write(store)
        assert isinstance(caught.value, ServerRefused)
        assert view.snapshot() == before, name
    assert view.raw.dbsize() == 5


def test_reading_goes_on(full: tuple[DataStore, NamespaceView]) -> None:
    store, _ = full
    assert store.get("key-7") == 7
    assert store.get_many(["key-7", "absent"]) == {"key-7": 7}
    assert store.get_all() == KEPT
    assert store.list_keys() == sorted(KEPT)
    assert store.list_namespaces() == ["default"]
    assert store.info("key-7").metadata == {"old": 1}
    assert dict(store.iter_items()) == KEPT


def test_a_delete_goes_through_with_its_log_entry(full: tuple[DataStore, NamespaceView]) -> None:
    store, view = full
    assert store.delete("key-0") is True
    assert store.get("key-0") is None
    assert store.info("key-0") is None
    assert view.entries()[-1].changes == [(b"key-0", b"d")]


def test_many_deletes_go_through_with_their_log_entries(full: tuple[DataStore, NamespaceView]) -> None:
    store, view = full
    assert store.delete_many([f"key-{number}" for number in range(2400)]) == 2400
    assert len(store.list_keys()) == 100
    assert [len(entry.changes) for entry in view.entries()] == [1000, 1000, 400]
    assert store.delete_many(list(KEPT)) == 100
    assert store.list_namespaces() == []


def test_a_clear_goes_through_with_its_log_entry(full: tuple[DataStore, NamespaceView]) -> None:
    store, view = full
    assert store.clear() == 2500
    assert store.list_namespaces() == []
    assert [entry.changes for entry in view.entries()] == [[(b"", b"c")]]
    assert view.raw.exists(view.keys["data"], view.keys["info"], view.keys["registry"]) == 0


def test_writes_resume_when_memory_is_free(full: tuple[DataStore, NamespaceView]) -> None:
    store, view = full
    view.raw.config_set("maxmemory", 0)
    store.set_many({"new": 1}, metadata={"m": 1})
    assert store.get("new") == 1


def test_locks_slots_and_claims_are_renewed(full: tuple[DataStore, NamespaceView]) -> None:
    store, view = full
    steps, token = Steps(store), "token-of-mine"
    view.raw.config_set("maxmemory", 0)
    assert steps.acquire_lock("name", token).acquired
    assert steps.acquire_place("name", token, 2).acquired
    assert steps.claim_value("computed", token, tags=["tag"]).state == "claimed"
    view.raw.config_set("maxmemory", 1)
    with pytest.raises(ServerFull):
        steps.acquire_place("name", "token-of-another", 2)
    assert steps.renew_lock("name", token)
    assert steps.renew_place("name", token, 2)
    assert steps.renew_value("computed", token, tags=["tag"])
