"""The keyspace events of a watched namespace: the counts in the change log match those that the server fires."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from redis_store import DataStore
from tests.support.redis_view import NamespaceView
from tests.support.servers import Server, wait_until


@pytest.fixture
def store(real_server: Server, open_store: Callable[..., DataStore], user: str) -> DataStore:
    return open_store(real_server.url, user, agent="ingest", run="run-7")


@pytest.fixture
def view(raw: redis.Redis, user: str) -> NamespaceView:
    """The store's namespace, watched."""
    view = NamespaceView(raw, user)
    view.watch()
    return view


class Events:
    """Counts the keyspace events that a data hash fires."""

    def __init__(self, raw: redis.Redis, view: NamespaceView) -> None:
        self._channel = b"__keyspace@0__:" + view.keys["data"]
        self._barrier = b"barrier:" + view.keys["data"]
        self._raw = raw
        self._pubsub = raw.pubsub()
        self._pubsub.subscribe(self._channel, self._barrier)
        wait_until(lambda: self._pubsub.get_message(timeout=0.1), "subscribed")
        wait_until(lambda: self._pubsub.get_message(timeout=0.1), "subscribed")

    def fired(self) -> list[bytes]:
        """Return the events since the last call; a message of the test's own marks that all have arrived."""
        self._raw.publish(self._barrier, "end")
        events = []
        while True:
            message = wait_until(lambda: self._pubsub.get_message(timeout=0.1), "the barrier comes")
            if message["channel"] == self._barrier:
                return events
            events.append(message["data"])

    def close(self) -> None:
        self._pubsub.close()


@pytest.fixture
def events(raw: redis.Redis, view: NamespaceView) -> Iterator[Events]:
    former = raw.config_get("notify-keyspace-events")["notify-keyspace-events"]
    raw.config_set("notify-keyspace-events", "Khgxe")
    counting = Events(raw, view)
    yield counting
    counting.close()
    raw.config_set("notify-keyspace-events", former)


def many(count: int, start: int = 0) -> dict[str, int]:
    return {f"key-{number}": number for number in range(start, start + count)}


STEPS: dict[str, list[Callable[[DataStore], Any]]] = {
    "set": [lambda s: s.set("a", 1), lambda s: s.set("a", 2), lambda s: s.set("b", 2, metadata={"m": 1})],
    "set_many of 1": [lambda s: s.set_many({"a": 1}), lambda s: s.set_many({"a": 1}, metadata={"m": 1})],
    "set_many of 300": [lambda s: s.set_many(many(300)), lambda s: s.set_many(many(300, 150), metadata={"m": 1})],
    "set_many of 2500": [lambda s: s.set_many(many(2500)), lambda s: s.set_many(many(2500), metadata={"m": 1})],
    "set_many of big values": [
        lambda s: s.set_many(dict.fromkeys(many(1200), "x" * 2000)),
        lambda s: s.set("key-1", 1),
    ],
    "delete": [lambda s: s.set_many(many(3)), lambda s: s.delete("key-1"), lambda s: s.delete("absent")],
    "the last delete": [lambda s: s.set("a", 1), lambda s: s.delete("a"), lambda s: s.delete("a")],
    "delete_many": [lambda s: s.set_many(many(9)), lambda s: s.delete_many(["key-1", "x", "key-2"])],
    "delete_many of the last": [lambda s: s.set_many(many(9)), lambda s: s.delete_many(list(many(9)))],
    "delete_many of 2500": [lambda s: s.set_many(many(2600)), lambda s: s.delete_many(list(many(2500)))],
    "delete_many of all 2500": [lambda s: s.set_many(many(2500)), lambda s: s.delete_many(list(many(2500)))],
    "clear": [lambda s: s.set_many(many(1200)), lambda s: s.clear(), lambda s: s.clear()],
}
STEPS_WITH_TTL: dict[str, list[Callable[[DataStore], Any]]] = {
    "ttl": [lambda s: s.set("a", 1, ttl=100), lambda s: s.set("a", 1, ttl=200), lambda s: s.set("b", 1, ttl=300)],
    "ttl dropped": [lambda s: s.set("a", 1, ttl=100), lambda s: s.set("a", 2), lambda s: s.set("a", 3)],
    "ttl dropped with metadata": [lambda s: s.set("a", 1, ttl=100), lambda s: s.set("a", 2, metadata={"m": 1})],
    "ttl of a batch": [lambda s: s.set_many(many(300), ttl=100), lambda s: s.set_many(many(300), ttl=200)],
    "ttl of 2500": [lambda s: s.set_many(many(2500), ttl=100), lambda s: s.set_many(many(2500))],
    "ttl dropped in a batch": [lambda s: s.set_many(many(9), ttl=100), lambda s: s.set_many(many(300))],
    "delete with ttl": [lambda s: s.set("a", 1, ttl=100), lambda s: s.delete("a")],
    "delete_many with ttl": [lambda s: s.set_many(many(9), ttl=100), lambda s: s.delete_many(["key-1", "key-2"])],
    "clear with ttl": [lambda s: s.set_many(many(9), ttl=100), lambda s: s.clear()],
}


def check_counts(store: DataStore, view: NamespaceView, events: Events, steps: list[Any]) -> None:
    """Check after each step that the heads state the number of events that the server fired."""
    told = len(view.entries())
    for number, step in enumerate(steps):
        step(store)
        fired = events.fired()
        entries = view.entries()[told:]
        told += len(entries)
        assert sum(json.loads(entry.head)["n"] for entry in entries) == len(fired), (number, fired)


@pytest.mark.parametrize("steps", STEPS)
def test_n_is_what_the_server_fires(store: DataStore, view: NamespaceView, events: Events, steps: str) -> None:
    check_counts(store, view, events, STEPS[steps])


@pytest.mark.parametrize("real_server", ["redis8", "valkey9"], indirect=True)
@pytest.mark.parametrize("steps", STEPS_WITH_TTL)
def test_n_is_what_the_server_fires_with_ttl(store: DataStore, view: NamespaceView, events: Events, steps: str) -> None:
    check_counts(store, view, events, STEPS_WITH_TTL[steps])


@pytest.mark.parametrize("real_server", ["redis8", "valkey9"], indirect=True)
def test_n_of_writes_over_fields_that_have_expired(store: DataStore, view: NamespaceView, events: Events) -> None:
    """The fields are expired but not yet reaped; the server must get no time to reap them."""
    view.raw.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
    try:
        for write in (
            lambda: store.set("a", 2),
            lambda: store.set_many({"a": 2, "b": 2}),
            lambda: store.delete("a"),
            lambda: store.delete_many(["a", "b", "stays"]),
            store.clear,
        ):
            store.set_many({"stays": 0})
            store.set_many({"a": 1, "b": 1}, ttl=0.005)
            time.sleep(0.02)  # nothing may read the hash meanwhile: a read would reap
            events.fired()
            told = len(view.entries())
            write()
            fired = events.fired()
            entries = view.entries()[told:]
            n = sum(json.loads(entry.head)["n"] for entry in entries)
            assert n == len([event for event in fired if event != b"hexpired"]), fired
    finally:
        view.raw.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "1")
