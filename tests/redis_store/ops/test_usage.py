"""The memory of namespaces is measured as the server counts it, in short steps."""

from __future__ import annotations

from typing import Any

import pytest

from redis_store.brokers.usage import stored_bytes
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
