"""The memory of namespaces is measured as the server counts it, in short steps."""

from __future__ import annotations

from typing import Any

import pytest

from redis_store.brokers.usage import list_beside, listed_name, stored_bytes
from redis_store.ops import usage


def _by_the_server(client: Any, user: str, names: list[str]) -> int:
    kinds = ("ns", "info", "flight", "log", "seen")
    keys = [f"user:{user}:{kind}:{name}" for kind in kinds for name in names]
    return sum(client.memory_usage(key, samples=0) or 0 for key in keys)


def test_namespaces_are_measured_whole(
    one_server: Any, open_store: Any, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(one_server.url, user=user)
    names = [f"mine-{number}" for number in range(5)]
    for number, name in enumerate(names):
        store.use_namespace(name).set_many({f"{key}": "x" * 10 * key for key in range(40 * number + 1)})
    with store.use_namespace(names[0]).watch():
        store.use_namespace(names[0]).set("k", 1)
    store.use_namespace("other").set("k", "x" * 100_000)

    def mine(name: str) -> bool:
        return name.startswith("mine")

    with one_server.client() as client:
        expected = _by_the_server(client, user, names) + sum(usage.REGISTRY_BYTES + len(name) for name in names)
    assert stored_bytes(store, mine, 10**9) == expected
    monkeypatch.setattr(usage, "FIELDS_PER_STEP", 1)
    assert stored_bytes(store, mine, 10**9) == expected
    assert 1000 < stored_bytes(store, mine, 1000) < expected
    assert stored_bytes(store.restricted(read=["nothing"], write=["mine*"]), mine, 10**9) == expected
    assert stored_bytes(store, lambda _: False, 10**9) == 0


def test_what_is_listed_beside_the_data_is_measured(
    one_server: Any, open_store: Any, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(one_server.url, user=user)
    with store.use_namespace("watched").watch() as watch, store.lock("lock", ttl=60), store.semaphore("slot", 2):
        store.use_namespace("watched").set("k", "x" * 100)
        assert watch.take(1, 10)
        store.use_namespace("watched").clear()
        store.get_or_set("k", lambda: 1, tags=["tag"])
        listed = [("lock", "lock"), ("limit", "slot"), ("tag", "tag"), ("ns", "watched"), ("rate", "none")]
        list_beside(store, [listed_name(store, kind, name) for kind, name in listed])
        with one_server.client() as client:
            kinds = ("lock:lock", "limit:slot", "tag:tag", "log:watched", "seen:watched", "beside:")
            keys = [f"user:{user}:{kind}" for kind in kinds]
            expected = sum(client.memory_usage(key, samples=0) or 0 for key in keys)
            assert stored_bytes(store, lambda name: name == "watched", 10**9) == expected
            few = stored_bytes(store, lambda _: False, 10**9)
            assert few <= expected, "others may fill the log of a namespace that the agent may only read"
            assert client.zcard(f"user:{user}:beside:") == 5
            monkeypatch.setattr(usage, "LISTED_MS", -1)
            stored_bytes(store, lambda _: False, 10**9)
            assert client.zscore(f"user:{user}:beside:", "rate:none") is None
            assert client.zcard(f"user:{user}:beside:") == 4


def test_big_tags_are_sampled_at_random(one_server: Any, open_store: Any, user: str) -> None:
    store = open_store(one_server.url, user=user)
    key, short, long = f"user:{user}:tag:tag", 20_000, 2_000
    with one_server.client() as client:
        for start in range(0, short, 5000):
            client.zadd(key, {f"{number}": 1 for number in range(start, start + 5000)})
        client.zadd(key, {f"{number}{'x' * 5000}": 2 for number in range(long)})
        list_beside(store, [listed_name(store, "tag", "tag")])
        exact = client.memory_usage(key, samples=0)
        assert client.memory_usage(key, samples=10_000) < exact / 3, "the members with the lowest scores are short"
    assert exact / 2 < stored_bytes(store, lambda _: False, 10**9) < exact * 2


def test_values_that_are_gone_make_room_at_once(one_server: Any, open_store: Any, user: str) -> None:
    store = open_store(one_server.url, user=user)
    for number in range(100):
        store.get_or_set(f"{number}", lambda: 1, tags=["tag", f"{number}"])
    list_beside(store, [listed_name(store, "tag", tag) for tag in ("tag", *map(str, range(100)))])
    before = stored_bytes(store, lambda _: False, 10**9)
    store.clear()
    assert stored_bytes(store, lambda _: False, 10**9) == before, "nothing is swept while there is room"
    assert stored_bytes(store, lambda _: False, 1000) < before / 2
