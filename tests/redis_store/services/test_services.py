"""Managed services: what each refuses costs the features that need it, and nothing else.

Each test is a tour through one part. `make services` runs the contract and the watch suite on each service.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from redis_store import DataStore, LockTimeout, UnsupportedByServer, connect, connect_async
from tests.support.servers import wait_until
from tests.support.services import LOGINS, SERVICES, ServiceServer

OpenStore = Callable[..., DataStore]

ASKED_FOR = {
    "config|get": "whether the server sends keyspace events; they are counted on in any case",
    "info": "how full the server is, and what it is; the rest is asked without it",
    "config|set": "with configure_server=True",
    "client|setinfo": "redis-py names the library",
    "client|tracking": "the near cache",
    "memory|usage": "how big a namespace is; it is read in pages",
}
"""The refused commands that are sent, each with the reason. All others are not even tried."""


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.server) for name in (*SERVICES, *LOGINS)])
def service(request: pytest.FixtureRequest, service_of: Callable[[str], ServiceServer]) -> ServiceServer:
    return service_of(request.param)


@pytest.fixture
def store(service: ServiceServer, user: str, open_store: OpenStore) -> DataStore:
    return open_store(service.url, user, agent="tester")


def test_values(service: ServiceServer, store: DataStore) -> None:
    store.set("a", 1, metadata={"m": 1})
    store.set("a", {"x": [1, 2]}, metadata={"n": 2})
    info = store.info("a")
    assert info is not None
    assert (store.get("a"), info.metadata, info.created_by) == ({"x": [1, 2]}, {"m": 1, "n": 2}, "tester")
    store.set_many({f"key-{number}": number for number in range(1100)}, metadata={"m": 1})
    store.set_many({f"big-{number}": "x" * 2000 for number in range(5)})
    assert len(store.get_all("key-")) == 1100
    assert store.get_many(["key-1", "big-1", "none"]) == {"key-1": 1, "big-1": "x" * 2000}
    assert store.delete_many([f"key-{number}" for number in range(4000)]) == 1100
    assert sorted(store.iter_keys("big-")) == [f"big-{number}" for number in range(5)]
    assert store.rename("big-0", "b")
    assert (store.pop("b"), store.increment("n", 2), store.set_if_absent("n", 0)) == ("x" * 2000, 2, False)
    store.append("list", 1, 2)
    assert store.update("list", lambda items: [*items, 3]) == [1, 2, 3]
    assert store.compare_and_set("n", 2, 3)
    other = store.use_namespace("other")
    with store.transaction() as transaction:
        transaction.set("n", transaction.get("n") + 1)
        transaction.use_namespace("other").set("n", 7)
    assert (store.get("n"), other.get("n"), store.list_namespaces()) == (4, 7, ["default", "other"])
    bounded = store.use_namespace("bounded", max_keys=10)
    bounded.set_many({f"key-{number}": number for number in range(10)})
    bounded.set("new", 1)
    assert len(bounded) == 10
    assert store.clear() > 0
    assert store.get_all() == {}


def test_what_a_service_has_not(service: ServiceServer, store: DataStore) -> None:
    facts = service.service
    store.set("key", 1)
    if facts.has_ttl:
        store.set("short", 1, ttl=0.01)
        wait_until(lambda: store.get("short") is None, "it expires")
    else:
        with pytest.raises(UnsupportedByServer, match="ttl="):
            store.set("short", 1, ttl=1)
    if facts.measures:
        assert store.memory_bytes() > 0
    else:
        with pytest.raises(UnsupportedByServer, match="MEMORY USAGE"):
            store.memory_bytes()


def test_computing_and_locks(store: DataStore) -> None:
    assert [store.get_or_set("key", lambda: 5, tags=["t"]) for _ in range(2)] == [5, 5]
    assert store.invalidate_tag("t") == 1
    held = store.lock("one")
    with held, pytest.raises(LockTimeout), store.lock("one", timeout=0):
        pass
    with store.semaphore("some", 1), pytest.raises(LockTimeout), store.semaphore("some", 1, timeout=0):
        pass
    with store.rate_limit("few", 1, 60), pytest.raises(LockTimeout), store.rate_limit("few", 1, 60, timeout=0):
        pass
    began, done = threading.Event(), []

    def wait() -> None:
        with store.lock("one"):
            done.append(1)

    with held:
        thread = threading.Thread(target=lambda: (began.set(), wait()))
        thread.start()
        began.wait()
    thread.join(20)
    assert done == [1]


def test_watching(service: ServiceServer, store: DataStore, open_store: OpenStore) -> None:
    with store.watch(consumer="c") as watch, store.watch_all() as everything:
        store.set("a", 1)
        store.use_namespace("new").set("b", 2)
        change = watch.next_change(20)
        assert change is not None
        assert (change.key, change.value) == ("a", 1)
        both = [everything.next_change(20) for _ in range(2)]
        assert {(each.namespace, each.key) for each in both if each} == {("default", "a"), ("new", "b")}
        for number in range(3):
            later = threading.Timer(0.01, store.set, (f"awaited-{number}", number))
            later.start()
            assert store.wait_for(f"awaited-{number}", timeout=20) == number
            later.join()
        other = open_store(service.url, "another-user")
        with other.watch() as beside:
            other.set("mine", 1)
            change = beside.next_change(20)
            assert change is not None
            assert change.key == "mine"
        other.clear()
        with service.client() as raw:
            raw.hset(f"{_prefix(service, store)}ns:default", "by hand", "1")
        while (change := watch.next_change(20)) is not None and change.key != "by hand":
            pass
        assert change is not None
        assert change.source == "found"


def _prefix(service: ServiceServer, store: DataStore) -> str:
    return f"user:{{{store.user}}}:" if service.service.is_cluster else f"user:{store.user}:"


def test_the_near_cache(
    service: ServiceServer, user: str, open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    store, other = open_store(service.url, user, near_cache=True), open_store(service.url, user)
    store.set("key", 1)
    for number in range(5):
        other.set("key", number)
        wait_until(lambda number=number: store.get("key") == number, "what another has written is read")
        store.get("key")
    assert (store.stats().near_hits > 0) is service.service.tracks
    warnings = [record.message for record in caplog.records if "near cache" in record.message]
    assert len(warnings) <= (0 if service.service.tracks else 1), "it is said once"


def test_asyncio(service: ServiceServer, user: str) -> None:
    async def use() -> Any:
        store = connect_async(service.url, user=user)
        await store.set_many({f"key-{number}": number for number in range(50)})
        numbers = await asyncio.gather(*(store.get(f"key-{number}") for number in range(50)))
        assert await store.get_or_set("computed", lambda: 1) == 1
        async with store.lock("one"), store.transaction() as transaction:
            transaction.set("n", await transaction.get("key-1"))
        async with store.watch() as watch:
            await store.set("a", 1)
            change = await watch.next_change(20)
            assert change is not None
        await store.clear()
        await store.close()
        return numbers

    assert asyncio.run(use()) == list(range(50))


def test_only_what_is_known_to_be_refused_is_tried(service: ServiceServer, user: str) -> None:
    """The other tests of this module ran before, and their refusals are in the server's log."""
    with connect(service.url, user=user, configure_server=True) as store, store.watch() as watch:
        store.set("key", 1)
        assert watch.next_change(20) is not None
    assert service.refusals <= set(ASKED_FOR)
