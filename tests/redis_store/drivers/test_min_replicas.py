"""`min_replicas=`: a write is acknowledged when replicas have it too."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pytest

import sandbox
from redis_store import (
    AsyncDataStore,
    Client,
    DataStore,
    DataStoreError,
    InvalidSettings,
    PermissionDenied,
    StoreTimeout,
    connect,
    connect_async,
)
from tests.support.sentinels import port_of
from tests.support.servers import Server, start_server, wait_until

ENOUGH_S = 0.6
"""The time-out of stores whose writes miss a replica: they fail after half of it."""


class Pair(NamedTuple):
    primary: Server
    replica: Server

    @contextmanager
    def without_replica(self) -> Iterator[None]:
        """Have the replica get nothing for the duration of a block."""
        self.replica.pause()
        try:
            yield
        finally:
            self.replica.resume()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        primary = start_server("valkey9", "--repl-diskless-sync-delay", "0", tcp=True)
        stack.callback(primary.stop)
        replica = start_server("valkey9", "--replicaof", "127.0.0.1", str(port_of(primary)), tcp=True)
        stack.callback(replica.stop)
        with primary.client() as raw:
            wait_until(lambda: raw.set("written", 1) and raw.wait(1, 100) == 1, "the replica follows")
        yield Pair(primary, replica)


def take(store: DataStore) -> None:
    with store.lock("lock", ttl=1, timeout=0):
        pass


def transact(store: DataStore) -> None:
    with store.transaction() as changes:
        changes.set("key", 2)


WRITES: dict[str, Callable[[DataStore], Any]] = {
    "set": lambda store: store.set("key", 2),
    "set with metadata": lambda store: store.set("key", 2, metadata={"a": 1}),
    "big value": lambda store: store.set("key", "x" * 300_000),
    "batch": lambda store: store.set_many({"key": 2, "other": 3}),
    "big batch": lambda store: store.set_many({"key": "x" * 2000, "other": "y" * 2000}),
    "increment": lambda store: store.increment("key"),
    "update": lambda store: store.update("key", lambda value: value + 1),
    "transaction": transact,
    "delete": lambda store: store.delete("key"),
    "clear": lambda store: store.clear(),
    "rename": lambda store: store.rename("key", "other"),
    "lock": take,
    "computed": lambda store: store.get_or_set("computed", lambda: 1),
}


def test_no_write_is_acknowledged_before_the_replica_has_it(pair: Pair) -> None:
    with Client(pair.primary.url, min_replicas=1) as patient:
        for number in range(len(WRITES)):
            patient.store(user=f"user-{number}").set("key", 1)
    with Client(pair.primary.url, min_replicas=1, timeout=ENOUGH_S) as client:
        stores = {what: client.store(user=f"user-{number}") for number, what in enumerate(WRITES)}
        with pair.without_replica(), ThreadPoolExecutor(len(WRITES)) as threads:
            outcomes = {what: threads.submit(outcome_of, write, stores[what]) for what, write in WRITES.items()}
            assert stores["set"].get("other") is None, "reads go on"
            assert {what: outcome.result() for what, outcome in outcomes.items()} == dict.fromkeys(WRITES, "unknown")


def outcome_of(write: Callable[[DataStore], Any], store: DataStore) -> str:
    try:
        write(store)
    except StoreTimeout as error:
        told = "min_replicas=1 of its replicas should have it too, and 0 did within 0.3 s" in str(error)
        return "unknown" if error.outcome_unknown and told else str(error)
    return "acknowledged"


def test_the_replica_has_what_was_acknowledged(pair: Pair, user: str) -> None:
    async def write() -> None:
        async with connect_async(pair.primary.url, user=user, min_replicas=1) as store:
            await asyncio.gather(*(store.set(f"key-{number}", number) for number in range(50)))
            await store.set_many({"many": 1, "more": 2})

    with connect(pair.primary.url, user=user, min_replicas=1) as store, connect(pair.replica.url, user=user) as copy:
        store.set("key", 1)
        assert copy.get("key") == 1
        asyncio.run(write())
        assert len(copy.list_keys()) == 53


def test_a_write_that_is_refused_waits_for_nothing(pair: Pair, user: str) -> None:
    """What the server says of the write itself comes before what it says of the replicas."""
    with connect(pair.primary.url, user=user, min_replicas=1, timeout=ENOUGH_S) as store, pair.primary.client() as raw:
        raw.set(f"user:{user}:ns:default", "by hand")
        with pair.without_replica(), pytest.raises(DataStoreError, match="has a type that the store does not use"):
            store.set("key", 1)


def test_asyncio_calls_do_not_queue_behind_a_missing_replica(pair: Pair, user: str) -> None:
    async def write() -> Counter[str]:
        async with connect_async(pair.primary.url, user=user, min_replicas=1, timeout=ENOUGH_S) as store:
            await store.set("key", 1)
            with pair.without_replica():
                writes = asyncio.gather(*(outcome_of_async(store) for _ in range(40)))
                await asyncio.sleep(0)
                assert await store.get("other") is None, "a read waits for no replica"
                assert not writes.done()
                return Counter(await writes)

    outcomes = asyncio.run(write())
    assert set(outcomes) == {"unknown", "known"}, "a few wait for the replica, the others for their turn: not for ever"
    assert outcomes["known"] > 8


async def outcome_of_async(store: AsyncDataStore) -> str:
    try:
        await store.set("key", 2)
    except StoreTimeout as error:
        return "unknown" if error.outcome_unknown else "known"
    return "acknowledged"


AGENT = """
def run(input_dict):
    try:
        data_store.set("key", 1)
    except Exception as error:
        return {"error": type(error).__name__, "outcome_unknown": error.outcome_unknown}
    return {"error": None}
"""


@pytest.mark.parametrize("broker", ["thread", "process"])
def test_agents_wait_too(pair: Pair, user: str, broker: str) -> None:
    options: Any = {"min_replicas": 1, "timeout": ENOUGH_S}
    with (
        Client(pair.primary.url, **options) as client,
        sandbox.Sandbox(client=client, broker=broker) as box,
    ):
        assert client.options == options
        assert box.run(AGENT, {}, user=user).output == {"error": None}
        with pair.without_replica():
            assert box.run(AGENT, {}, user=user).output == {"error": "StoreTimeout", "outcome_unknown": True}


def test_a_server_without_wait_is_refused(pair: Pair, user: str) -> None:
    with pair.primary.client() as raw:
        raw.execute_command("ACL", "SETUSER", "nowait", "on", ">pw", "~*", "&*", "+@all", "-wait")
    url = pair.primary.url.replace("://", "://nowait:pw@")
    with connect(url, user=user) as store:
        store.set("key", 1)  # without the option it is not needed, and the process knows the login
    with connect(url, user=user, min_replicas=1) as store:
        for call in (lambda: store.set("key", 2), lambda: store.get("key")):
            with pytest.raises(PermissionDenied, match=r"has no WAIT.*Leave out min_replicas"):
                call()

    async def main() -> None:
        async with connect_async(url, user=user, min_replicas=1) as store:
            with pytest.raises(PermissionDenied, match="has no WAIT"):
                await store.set("key", 2)

    asyncio.run(main())
    with Client(url) as client:
        assert "min_replicas= is refused" in client.server_info().lacks["WAIT"]


@pytest.mark.parametrize("value", [-1, True, 1.5, "1", None])
def test_what_it_may_not_be(value: Any) -> None:
    for function in (connect, connect_async):
        with pytest.raises(InvalidSettings, match="min_replicas must be a whole number of at least 0"):
            function("redis://localhost", user="alice", min_replicas=value)


def test_the_embedded_server_has_no_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(InvalidSettings, match="which the embedded server has not"):
        connect(user="alice", min_replicas=1)
