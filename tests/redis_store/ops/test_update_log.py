"""Updates in the change log: entries with their event counts, and nothing half-written on a full server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from redis_store import DataStore, ServerFull
from tests.support.redis_view import NamespaceView
from tests.support.servers import REAL_KINDS, Server, wait_until

CHANGES: dict[str, Callable[[DataStore], Any]] = {
    "increment": lambda store: store.increment("int"),
    "increment of an absent one": lambda store: store.increment("new"),
    "increment by a float": lambda store: store.increment("int", 0.5),
    "append": lambda store: store.append("list", 2),
    "append to an absent one": lambda store: store.append("new", 2),
    "append of some": lambda store: store.append("list", 2, max_items=1),
    "append of a big one": lambda store: store.append("list", "x" * 2000),
    "update": lambda store: store.update("int", lambda value: value + 1),
    "compare_and_set": lambda store: store.compare_and_set("int", 1, 2),
    "set_if_absent": lambda store: store.set_if_absent("new", 1),
    "get_or_set": lambda store: store.get_or_set("new", lambda: 1),
    "pop": lambda store: store.pop("int"),
    "rename": lambda store: store.rename("int", "list"),
    "transact": lambda store: _transact(store),
}
WITH_TTL: dict[str, Callable[[DataStore], Any]] = {
    "expire": lambda store: store.expire("int", 1000),
    "persist": lambda store: store.persist("expiring"),
    "increment, and the ttl stays": lambda store: store.increment("expiring"),
    "update, and the ttl stays": lambda store: store.update("expiring", lambda value: value + 1),
    "rename with a ttl": lambda store: store.rename("expiring", "int"),
    "set_if_absent with a ttl": lambda store: store.set_if_absent("new", 1, ttl=1000),
    "get_or_set with a ttl": lambda store: store.get_or_set("new", lambda: 1, ttl=1000),
    "transact with ttls": lambda store: _transact(store, 1000, 2000),
}
NOTHING: dict[str, Callable[[DataStore], Any]] = {
    "compare_and_set of another": lambda store: store.compare_and_set("int", 7, 2),
    "set_if_absent of one that is there": lambda store: store.set_if_absent("int", 1),
    "get_or_set of one that is there": lambda store: store.get_or_set("int", lambda: 7),
    "pop of an absent one": lambda store: store.pop("new", None),
    "rename of an absent one": lambda store: store.rename("new", "int"),
    "rename to itself": lambda store: store.rename("int", "int"),
    "append of nothing": lambda store: store.append("list"),
}


def _transact(store: DataStore, *ttls: float) -> None:
    with store.transaction() as transaction:
        transaction.set("int", transaction.get("int") + 1)
        transaction.delete("list")
        transaction.delete("never there")
        transaction.set("new", "x" * 2000)
        for number, ttl in enumerate(ttls):
            transaction.set(f"ttl-{number}", number, ttl=ttl)


class Watched:
    """A watched namespace with three keys, and the keyspace events of its hash."""

    def __init__(self, store: DataStore, raw: redis.Redis, has_ttl: bool) -> None:
        self.store = store
        store.set_many({"int": 1, "list": [1]})
        if has_ttl:
            store.set("expiring", 1, ttl=1000)
        self.view = NamespaceView(raw, store.user)
        self.view.watch()
        self._events = raw.pubsub(ignore_subscribe_messages=True)
        self._events.subscribe(b"__keyspace@0__:" + self.view.keys["data"], "end")
        wait_until(lambda: raw.pubsub_numsub("end")[0][1], "subscribed")

    def events(self) -> list[bytes]:
        """Return the events so far."""
        self.view.raw.publish("end", "end")
        found = []
        while True:
            message = self._events.get_message(timeout=5)
            assert message is not None or not found
            if message and message["channel"] == b"end":
                return found
            if message:
                found.append(message["data"])


@pytest.fixture
def watched(
    real_server: Server, open_store: Callable[..., DataStore], raw_of: Callable[..., redis.Redis], user: str
) -> Iterator[Watched]:
    raw = raw_of(real_server)
    before = raw.config_get("notify-keyspace-events")["notify-keyspace-events"]
    raw.config_set("notify-keyspace-events", "KA")
    yield Watched(open_store(real_server.url, user, agent="tester"), raw, real_server.has_ttl)
    raw.config_set("notify-keyspace-events", before)


def check(watched: Watched, change: Callable[[DataStore], Any]) -> list[tuple[dict[str, Any], dict[bytes, bytes]]]:
    """Make a change, check that the log counts its events and has each key's current value, and return the new entries."""
    change(watched.store)
    fired = watched.events()
    entries = [(json.loads(entry.head), dict(entry.changes)) for entry in watched.view.entries()]
    assert sum(head["n"] for head, _ in entries) == len(fired), fired
    told: dict[bytes, bytes] = {}
    for head, changes in entries:
        assert head["agent"] == "tester"
        for key, news in changes.items():
            told[key] = news
            info = watched.store.info(key.decode())
            expires = info.expires_at.timestamp() * 1000 if info and info.expires_at else None
            assert news == b"d" or head.get("x") == pytest.approx(expires, abs=1)
    data = watched.view.raw.hgetall(watched.view.keys["data"])
    for key, news in told.items():
        assert news == (b"d" if key not in data else b"s" + data[key] if len(data[key]) <= 1024 else b"r") or (
            news == b"r" and key in data
        )
    assert data.keys() == watched.view.raw.hgetall(watched.view.keys["info"]).keys()
    return entries


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_leaves_an_entry(watched: Watched, name: str) -> None:
    assert check(watched, CHANGES[name])


@pytest.mark.parametrize("name", WITH_TTL)
def test_change_of_expiring_key_leaves_an_entry(watched: Watched, real_server: Server, name: str) -> None:
    if real_server.has_ttl:
        assert check(watched, WITH_TTL[name])


@pytest.mark.parametrize("name", NOTHING)
def test_unchanged_value_leaves_no_entry(watched: Watched, name: str) -> None:
    before = watched.view.snapshot()
    assert check(watched, NOTHING[name]) == []
    assert watched.view.snapshot() == before


@pytest.mark.parametrize("how", ["pop", "transaction"])
def test_last_key_removes_all_redis_keys(watched: Watched, how: str) -> None:
    def remove(store: DataStore) -> None:
        store.delete_many(["list", "expiring"])
        if how == "pop":
            store.pop("int")
            return
        with store.transaction() as transaction:
            transaction.delete("int")

    check(watched, remove)
    assert not watched.view.raw.exists(*[watched.view.keys[part] for part in ("data", "info", "registry")])


def test_parts_of_a_transaction_name_each_other(watched: Watched, real_server: Server) -> None:
    if real_server.has_ttl:
        heads = [head for head, _ in check(watched, WITH_TTL["transact with ttls"])]
        assert [head["tx"][1:] for head in heads] == [[1, 3], [2, 3], [3, 3]]
        assert len({head["tx"][0] for head in heads}) == 1
    else:
        [(head, _)] = check(watched, CHANGES["transact"])
        assert "tx" not in head


@pytest.fixture(params=REAL_KINDS)
def full(
    request: pytest.FixtureRequest,
    start: Callable[..., Server],
    open_store: Callable[..., DataStore],
    raw_of: Callable[..., redis.Redis],
) -> tuple[DataStore, NamespaceView, Server]:
    """A store on a server that is full."""
    server = start(request.param, "--maxmemory-policy", "noeviction")
    store = open_store(server.url, "alice", agent="tester")
    store.set_many({"int": 1, "list": [1], "more": 2})
    if server.has_ttl:
        store.set("expiring", 1, ttl=1000)
    held = store.lock("held")
    held.acquire()
    view = NamespaceView(raw_of(server), "alice")
    view.watch()
    view.raw.config_set("maxmemory", 1)
    return store, view, server


def test_full_server_refuses_growing_writes_whole(full: tuple[DataStore, NamespaceView, Server]) -> None:
    store, view, server = full
    before = view.snapshot()
    size = view.raw.dbsize()
    gives = {"pop", "persist", "expire"}  # these need little or no memory, so the server may allow them
    refused = {**CHANGES, **(WITH_TTL if server.has_ttl else {})}
    refused["lock"] = lambda store: store.lock("name").acquire()
    refused["semaphore"] = lambda store: store.semaphore("name", 1).acquire()
    refused["rate_limit"] = lambda store: store.rate_limit("name", 1, per=1).acquire()
    for name, change in refused.items():
        if name in gives:
            continue
        with pytest.raises(ServerFull):
            change(store)
        assert view.snapshot() == before, name
    assert view.raw.dbsize() == size


def test_full_server_accepts_writes_that_free_memory(full: tuple[DataStore, NamespaceView, Server]) -> None:
    store, view, _ = full
    assert store.pop("int") == 1
    with store.transaction() as transaction:
        transaction.get("list")
        transaction.delete("list")
    assert [entry.changes for entry in view.entries()] == [[(b"int", b"d")], [(b"list", b"d")]]
    store.delete("expiring")
    store.pop("more")
    assert store.list_namespaces() == []
