"""The near cache: never older than the server's invalidations allow, private to a user, and empty without their stream."""

from __future__ import annotations

import asyncio
import logging
import mmap
import multiprocessing
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

import sandbox
from redis_store import (
    AccessDenied,
    AsyncClient,
    DataStore,
    InvalidInput,
    LimitExceeded,
    StoreClosed,
    connect,
    connect_async,
)
from redis_store.brokers.lease import lease
from redis_store.near import side, sync_side
from redis_store.near.connection import TrackedConnection, TrackedLoopConnection
from redis_store.near.entries import Entries
from redis_store.operations import operations_of
from redis_store.server import status
from tests.redis_store.drivers.test_forks import forked
from tests.support.proxy import Fault, Proxy, proxied
from tests.support.servers import Server, wait_until
from tests.support.threads import all_at_once, in_thread

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

OLD = {"path": "main.py", "lines": [1, 2]}


@pytest.fixture
def near(one_server: Server, open_store: Any, user: str) -> DataStore:
    """A store with a near cache."""
    store: DataStore = open_store(one_server.url, user, near_cache=True)
    return store


@pytest.fixture
def plain(one_server: Server, open_store: Any, user: str) -> DataStore:
    """The same user's store without a near cache, as in another process."""
    store: DataStore = open_store(one_server.url, user)
    return store


def hits_of(store: Any, work: Callable[[], Any]) -> int:
    """Return how many answers during some work came from the near cache."""
    before = store.stats().near_hits
    work()
    return int(store.stats().near_hits - before)


def test_repeated_read_sends_no_request(near: DataStore, plain: DataStore, one_server: Server) -> None:
    plain.set("k", OLD)
    assert near.get("k") == OLD
    assert near.get("absent", "?") == "?"
    asked = _commands(one_server)

    def work() -> None:
        for _ in range(10):
            assert near.get("k") == near["k"] == OLD
            assert near.get("absent", "?") == "?"
            assert near.get_many(["absent", "k"]) == {"k": OLD}
            assert "k" in near
            assert "absent" not in near
            assert near.get_or_set("k", lambda: pytest.fail("it is there")) == OLD

    assert hits_of(near, work) == 10 * 6
    assert _commands(one_server) == asked


def _commands(server: Server) -> int:
    with server.client() as raw:
        return sum(
            stats["calls"]
            for name, stats in raw.info("commandstats").items()
            if name in ("cmdstat_hget", "cmdstat_hmget")
        )


def test_get_many_fills_cache_and_reads_one_moment(near: DataStore, plain: DataStore) -> None:
    plain.set_many({"a": 1, "b": 2})
    assert near.get_many(["b", "a", "c"]) == {"b": 2, "a": 1}
    assert hits_of(near, lambda: near.get_many(iter(["a", "b"]))) == 2
    plain.set_many({"a": 3, "b": 4})
    assert near.get_many(["a", "b"]) == {"a": 3, "b": 4}
    many = {f"k{number}": number for number in range(500)}
    plain.set_many(many)
    assert near.get_many(many) == many
    assert near.get_many([]) == {}


def test_mutating_a_result_leaves_cache_unchanged(near: DataStore, plain: DataStore) -> None:
    mine = {"list": [1], "dict": {"a": 1}}
    near.set("k", mine)
    mine["list"] = "changed after set"
    for _ in range(3):
        for value in (near.get("k"), near["k"], near.get_many(["k"])["k"], near.get_or_set("k", list)):
            assert value == {"list": [1], "dict": {"a": 1}}
            value["list"].append("changed")
            value["dict"].clear()
            value["more"] = 1
    assert plain.get("k") == {"list": [1], "dict": {"a": 1}}


def test_invalid_keys_are_refused_as_without_cache(near: DataStore) -> None:
    near.set("k", 1)
    assert near.get("k") == 1
    for wrong in (["k"], b"k", 1, None):
        with pytest.raises(InvalidInput):
            near.get(wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput):
            near.get_many([wrong])  # type: ignore[list-item]
        assert near.get("k") == 1


WRITES: dict[str, Callable[[DataStore], Any]] = {
    "set": lambda store: store.set("k", 2),
    "set with ttl": lambda store: store.set("k", 2, ttl=100),
    "set with metadata": lambda store: store.set("k", 2, metadata={"a": 1}),
    "set_many": lambda store: store.set_many({"k": 2, "l": 3}),
    "set_many with metadata": lambda store: store.set_many({"k": 2}, metadata={"a": 1}),
    "delete": lambda store: store.delete("k"),
    "delete_many": lambda store: store.delete_many(["k"]),
    "clear": lambda store: store.clear(),
    "increment": lambda store: store.increment("k"),
    "increment by a float": lambda store: store.increment("k", 0.5),
    "append": lambda store: store.append("list", 2),
    "append with max_items": lambda store: store.append("list", 2, max_items=1),
    "update": lambda store: store.update("k", lambda value: value + 1),
    "compare_and_set": lambda store: store.compare_and_set("k", 1, 2),
    "set_if_absent": lambda store: store.set_if_absent("absent", 2),
    "pop": lambda store: store.pop("k"),
    "rename": lambda store: store.rename("k", "absent"),
    "get_or_set": lambda store: store.get_or_set("absent", lambda: 2, tags=["t"]),
    "invalidate_tag": lambda store: store.invalidate_tag("tagged"),
    "transact": lambda store: store.transact(lambda transaction: transaction.set("k", 2)),
    "transact from elsewhere": lambda store: store.use_namespace("other").transact(
        lambda transaction: transaction.use_namespace("default").set("k", 2)
    ),
    "a mapping": lambda store: store.__setitem__("k", 2),
}
KEYS = ["k", "l", "list", "absent", "tagged"]


@pytest.mark.parametrize("name", WRITES)
def test_own_writes_are_visible_before_invalidation(
    name: str, servers: Any, open_store: Any, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the invalidation is late; here it never arrives."""
    monkeypatch.setattr(Entries, "heard", lambda self, push: None)
    url = servers.first_of(["valkey9", "redis8"]).url
    near, other, plain = (open_store(url, user, near_cache=cached) for cached in (True, True, False))
    plain.set_many({"k": 1, "l": 1, "list": [1]})
    plain.get_or_set("tagged", lambda: 1, tags=["tagged"])
    before = [near.get(key) for key in KEYS]
    assert hits_of(near, lambda: [near.get(key) for key in KEYS]) == len(KEYS)
    WRITES[name](near)
    after = plain.get_many(KEYS)
    assert [near.get(key) for key in KEYS] == [after.get(key) for key in KEYS] != before
    WRITES["delete"](other)  # another store of the process
    assert near.get("k") is None


def test_value_read_during_write_is_dropped_after_it(
    one_server: Server, open_store: Any, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Entries, "heard", lambda self, push: None)
    with proxied(one_server) as proxy:
        near = open_store(proxy.url, user, near_cache=True)
        near.set("k", "old")
        rule = proxy.strike("a new value", Fault.HOLD_REQUEST)
        with in_thread(lambda: near.set("k", "a new value")):
            assert rule.struck.wait(20)
            assert near.get("k") == near.get("k") == "old"
            rule.release()
        assert near.get("k") == "a new value"

        async def main() -> None:
            async with connect_async(proxy.url, user=user, near_cache=True) as store:
                await store.set("k", "old")
                rule = proxy.strike("another value", Fault.HOLD_REQUEST)
                writing = asyncio.ensure_future(store.set("k", "another value"))
                assert await asyncio.to_thread(rule.struck.wait, 20)
                assert await store.get("k") == await store.get("k") == "old"
                rule.release()
                await writing
                assert await store.get("k") == "another value"

        asyncio.run(main())


def test_sync_and_async_stores_see_each_others_writes(
    near: DataStore, one_server: Server, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Entries, "heard", lambda self, push: None)

    async def main() -> None:
        async with connect_async(one_server.url, user=user, near_cache=True) as store:
            for number in range(3):
                await store.set("k", number)
                assert await store.get("k") == await store.get("k") == near.get("k") == near.get("k") == number
                near.set("k", -number)
                assert await store.get("k") == near.get("k") == -number
            assert store.stats().near_hits >= 3

    asyncio.run(main())


def test_users_share_cache_but_not_values(one_server: Server, open_store: Any, user: str) -> None:
    alice, bob = (open_store(one_server.url, f"{user}-{name}", near_cache=True) for name in ("alice", "bob"))
    alice.set("k", "alice's")
    bob.set("k", "bob's")
    assert (alice.get("k"), bob.get("k")) == ("alice's", "bob's")
    assert alice.stats().near_entries == bob.stats().near_entries >= 2

    def work() -> None:
        alice.set("k", "new")
        assert bob.get("k") == "bob's"

    assert hits_of(bob, work) == 1
    assert alice.get("k") == "new"


def test_more_users_than_tracked(
    one_server: Server, open_store: Any, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side, "MOST_USERS", 2)
    names = [f"{user}-{number}" for number in range(5)]
    stores = [open_store(one_server.url, name, near_cache=True) for name in names]
    writers = [open_store(one_server.url, name) for name in names]
    for turn in range(3):
        for writer, store in zip(writers, stores, strict=True):
            writer.set("k", turn)
            assert store.get("k") == store.get("k") == turn
    assert all(store.stats().near_hits >= 3 for store in stores)

    async def main() -> None:
        everybody = [connect_async(one_server.url, user=name, near_cache=True) for name in names]
        for turn in range(3):
            for writer, store in zip(writers, everybody, strict=True):
                writer.set("k", turn)
                assert await store.get("k") == await store.get("k") == turn
        for store in everybody:
            assert store.stats().near_hits >= 3
            await store.close()

    asyncio.run(main())


def test_rights_apply_to_cached_values(near: DataStore) -> None:
    near.set("k", 1)
    assert near.get("k") == near.get("k") == 1
    narrow = near.restricted(read=["elsewhere"], write=["default"])
    for call in (narrow.get, narrow.__contains__, lambda key: narrow.get_many([key])):
        with pytest.raises(AccessDenied):
            call("k")

    async def main() -> None:
        async with connect_async(near.url, user=near.user, near_cache=True) as store:
            assert await store.get("k") == await store.get("k") == 1
            hidden = store.restricted(read=["elsewhere"])
            with pytest.raises(AccessDenied):
                await hidden.get("k")
            with pytest.raises(AccessDenied):
                await hidden.get_many(["k"])

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["redis8", "valkey9"])
def test_entry_expires_before_late_invalidation(
    kind: str, servers: Any, open_store: Any, raw_of: Any, user: str
) -> None:
    server = servers.get(kind)
    raw, near, plain = raw_of(server), open_store(server.url, user, near_cache=True), open_store(server.url, user)
    raw.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
    try:
        plain.set("k", 1, ttl=0.15)
        plain.set("for ever", 2)
        assert near.get_many(["k", "for ever"]) == {"k": 1, "for ever": 2}
        assert hits_of(near, lambda: near.get("k")) == 1
        wait_until(lambda: raw.hget(f"user:{user}:ns:default", "k") is None, "it has expired")
        assert near.get("k") is None
        assert "k" not in near
        assert near.get("for ever") == 2
        plain.set("k", 1, ttl=100)
        assert near.get("k") == near.get("k") == 1
        plain.expire("k", 0.001)
        wait_until(lambda: raw.hget(f"user:{user}:ns:default", "k") is None, "it has expired")
        assert near.get("k") is None
    finally:
        raw.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "1")


def _write_without_end(url: str, user: str, acknowledged: mmap.mmap) -> None:
    """Count under one key, and keep the acknowledged count in shared memory."""
    with connect(url, user=user) as store:
        number = 0
        while acknowledged[8] == 0:
            number += 1
            store.set("k", number)
            struct.pack_into("q", acknowledged, 0, number)
            if number % 50 == 0:
                time.sleep(0.002)  # leaves time for hits, on a machine with two cores for all three processes


@contextmanager
def writer(server: Server, user: str) -> Iterator[Callable[[], int]]:
    """Run a process that writes as fast as it can; yield its acknowledged count."""
    shared = mmap.mmap(-1, 16)
    process = multiprocessing.get_context("fork").Process(target=_write_without_end, args=(server.url, user, shared))
    process.start()

    def acknowledged() -> int:
        return int(struct.unpack_from("q", shared)[0])

    try:
        wait_until(acknowledged, "the writer writes")
        yield acknowledged
    finally:
        shared[8] = 1
        process.join(20)
        assert process.exitcode == 0
        process.close()


@pytest.mark.parametrize("kind", ["valkey9"])  # the asynchronous one, which takes less time, runs on both kinds
def test_no_stale_reads_beside_fast_writer(kind: str, start: Any, open_store: Any) -> None:
    """Every read that begins after an acknowledged write returns its value or a newer one."""
    server = start(kind, tcp=True)
    with writer(server, "alice") as acknowledged:
        near = open_store(server.url, near_cache=True)
        get, stale = near.get, 0
        for _ in range(500_000):
            floor = acknowledged()
            stale += get("k") < floor
        written = acknowledged()
    assert stale == 0
    assert written > 1000, "the writer was there"
    assert near.stats().near_hits > 300_000, "the cache was there"


@pytest.mark.parametrize("kind", ["redis7", "valkey9"])
def test_no_stale_async_reads_beside_fast_writer(kind: str, start: Any) -> None:
    server = start(kind, tcp=True)

    async def main(acknowledged: Callable[[], int]) -> tuple[int, int]:
        async with connect_async(server.url, user="alice", near_cache=True) as near:
            stale = 0

            async def read(times: int) -> None:
                nonlocal stale
                for _ in range(times):
                    floor = acknowledged()
                    stale += await near.get("k") < floor

            await read(30_000)
            await asyncio.gather(*(read(1_000) for _ in range(10)))
            return stale, near.stats().near_hits

    with writer(server, "alice") as acknowledged:
        stale, near_hits = asyncio.run(main(acknowledged))
    assert stale == 0
    assert near_hits > 20_000, "the cache was there"


@pytest.mark.parametrize("kind", ["redis7", "valkey9"])
def test_restart_clears_cache(kind: str, start: Any, open_store: Any) -> None:
    server = start(kind, tcp=True)
    near = open_store(server.url, near_cache=True)
    near.set("k", "before")
    assert near.get("k") == near.get("k") == "before"
    server.restart()
    assert near.get("k") is None
    with writer(server, "alice") as acknowledged:
        wait_until(lambda: near.get("k") and near.stats().near_live, "the cache is there again")
        hits = near.stats().near_hits
        for _ in range(20_000):
            floor = acknowledged()
            assert near.get("k") >= floor
        assert near.stats().near_hits > hits

    async def main() -> None:
        async with connect_async(server.url, user="alice", near_cache=True) as store:
            await store.set("k", "before")
            assert await store.get("k") == await store.get("k") == "before"
            await asyncio.to_thread(server.restart)
            assert await store.get("k") is None

    asyncio.run(main())


def _tracked_connections(raw: redis.Redis) -> list[Any]:
    return [client["id"] for client in raw.client_list() if "t" in client["flags"] and "B" in client["flags"]]


@pytest.mark.parametrize("kind", ["redis7", "valkey9"])
def test_connection_end_clears_cache(kind: str, start: Any, open_store: Any, raw_of: Any) -> None:
    server = start(kind, tcp=True)
    raw, near, plain = raw_of(server), open_store(server.url, near_cache=True), open_store(server.url)
    for number in range(20):
        plain.set_many({"k": number, "other": number})
        for _ in range(2):
            assert near.get("k") == near.get("other") == number
        [tracked] = _tracked_connections(raw)
        raw.client_kill_filter(_id=tracked)
        plain.set_many({"k": -1, "other": -1})
        assert near.get("k") == near.get("other") == -1

    async def main() -> None:
        async with connect_async(server.url, user="alice", near_cache=True) as store:
            for number in range(20):
                plain.set_many({"k": number, "other": number})
                for _ in range(2):
                    assert await store.get("k") == await store.get("other") == number
                for tracked in _tracked_connections(raw):
                    raw.client_kill_filter(_id=tracked)
                plain.set_many({"k": -1, "other": -1})
                assert await store.get("k") == await store.get("other") == -1

    asyncio.run(main())


def test_silent_connection_is_probed(
    near: DataStore, plain: DataStore, one_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.set("k", 1)
    assert near.get("k") == near.get("k") == 1
    monkeypatch.setattr(side, "SILENCE_S", 0.0)
    assert hits_of(near, lambda: [near.get("k") for _ in range(5)]) == 0

    async def main() -> None:
        async with connect_async(one_server.url, user=near.user, near_cache=True) as store:
            for _ in range(5):
                assert await store.get("k") == 1
            assert store.stats().near_hits == 0

    asyncio.run(main())


def test_unread_invalidations_are_consumed_and_idle_connection_ends(
    one_server: Server, open_store: Any, plain: DataStore, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side, "SILENCE_S", 0.01)
    with proxied(one_server) as proxy:  # an address of its own, so that no other store shares it
        near = open_store(proxy.url, user, near_cache=True)
        plain.set("k", 1)
        assert near.get("k") == 1
        assert near.stats().near_entries == 1
        plain.set("k", 2)
        wait_until(lambda: near.stats().near_entries == 0, "the invalidation is read")
        assert near.stats().near_live
        monkeypatch.setattr(sync_side, "IDLE_S", 0.0)
        wait_until(lambda: not near.stats().near_live, "the connection is closed")
        assert near.get("k") == 2


def test_on_the_embedded_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    with connect(user="alice", data_dir=tmp_path, near_cache=True) as near:
        near.set("k", 1)
        assert near.get("k") == near.get("k") == 1

        async def main() -> None:
            async with connect_async(user="alice", data_dir=tmp_path, near_cache=True) as store:
                assert await store.get("k") == await store.get("k") == 1
                assert store.stats().near_hits == 1
                await store.set("k", 2)

        asyncio.run(main())
        assert near.get("k") == near.get("k") == 2
        assert near.stats().near_hits == 2
    assert status(tmp_path).pid is None


def test_silent_server_costs_one_timeout_and_clears_cache(one_server: Server, open_store: Any, user: str) -> None:
    with proxied(one_server) as proxy:
        near = open_store(proxy.url, user, near_cache=True, timeout=0.3)
        near.set_many({"k": 1, "other key": 2})
        assert near.get("k") == near.get("k") == 1
        proxy.strike("other key", Fault.SWALLOW)
        assert near.get("other key") == 2
        assert not near.stats().near_live
        assert near.stats().near_entries == 0


def test_a_lent_store_does_not_wait_for_the_tracked_connection(one_server: Server, open_store: Any, user: str) -> None:
    """The run may be ended at any time, and nothing could interrupt that wait."""
    with proxied(one_server) as proxy:
        owner = open_store(proxy.url, "somebody", near_cache=True, timeout=1000)
        hello = proxy.strike("HPTTL", Fault.SWALLOW)
        with lease(owner, user=user, namespace="default") as lent, in_thread(lambda: lent.get("k", "absent")) as read:
            pass
        assert read.result == "absent"
        assert hello.struck.wait(20), "it is being made beside"


def test_oversized_lent_read_keeps_cache(near: DataStore, user: str) -> None:
    near.set_many({"a": "x" * 1000, "b": "x" * 1000})
    assert near.get("a") == near.get("a")
    operations = operations_of(near)
    scope = operations.scope
    near = DataStore(replace(operations, scope=replace(scope, limits=replace(scope.limits, max_value_bytes=1500))))
    with lease(near, user=user, namespace="default", max_read_bytes=1500) as lent:
        for _ in range(2):
            with pytest.raises(LimitExceeded, match="more than 1,500 bytes"):
                lent.get_many(["a", "b"])
        assert near.stats().near_live
        hits = near.stats().near_hits
        assert near.get("a") == "x" * 1000
        assert near.stats().near_hits == hits + 1, "the connection that vouches for it is as it was"
        assert len(lent.get_many(["a", "c"])) == 1


@pytest.mark.parametrize("size", [10, 50_000])
def test_a_lent_read_of_several_is_kept(near: DataStore, plain: DataStore, user: str, size: int) -> None:
    near.get("k")
    with lease(near, user=user, namespace="default", max_read_bytes=200_000) as lent:
        values = {"a": "x" * size, "b": "y" * size}
        plain.set_many(values)
        assert lent.get_many(["a", "none", "b"]) == values
        hits = near.stats().near_hits
        assert lent.get_many(["a", "none", "b"]) == values
        assert near.stats().near_hits == hits + 3
        plain.set("b", 1)
        wait_until(lambda: lent.get_many(["a", "none", "b"]) == {**values, "b": 1}, "the write is seen")


def test_external_writes_and_flush_are_seen(near: DataStore, one_server: Server, raw_of: Any) -> None:
    raw = raw_of(one_server)
    near.set("k", 1)
    assert near.get("k") == near.get("k") == 1
    raw.hset(f"user:{near.user}:ns:default", "k", "2")
    assert near.get("k") == near.get("k") == 2
    raw.delete(f"user:{near.user}:ns:default")
    assert near.get("k", "gone") == "gone"
    near.set("k", 3)
    assert near.get("k") == near.get("k") == 3
    raw.flushdb()
    # The server replies to a flush before it sends the invalidation, which may still be on its way.
    wait_until(lambda: near.get("k", "gone") == "gone", "the flush is seen")


def test_forked_child_has_its_own_cache(near: DataStore, plain: DataStore) -> None:
    plain.set("k", "parent's")
    assert near.get("k") == near.get("k") == "parent's"

    def work() -> None:
        assert near.stats().near_entries == 0
        for number in range(50):
            assert near.get("k") == near.get("k") == ("parent's" if number == 0 else number - 1)
            near.set("k", number)
        assert near.stats().near_hits > 50

    forked(work)()
    assert near.get("k") == near.get("k") == 49
    assert near.stats().near_live


def test_fork_while_cache_is_busy(near: DataStore, plain: DataStore) -> None:
    plain.set("k", 1)
    assert near.get("k") == 1

    def work() -> None:
        assert near.get("k") == near.get("k") == 1
        near.close()

    with operations_of(near).driver.near.threads._lock:  # as another thread does in the middle of an answer
        forked(work)()
    assert near.get("k") == 1


def test_threads(near: DataStore, plain: DataStore) -> None:
    """Each thread reads its own writes, and never an older value than it has already seen."""

    def work(number: int) -> None:
        own = near.use_namespace(f"own-{number}")
        for turn in range(200):
            own.set("k", turn)
            assert own.get("k") == own.get("k") == turn
            near.get("shared")
            near.get_many(["shared", f"absent {turn % 7}"])

    near.set("shared", 1)
    all_at_once([lambda number=number: work(number) for number in range(6)])
    assert near.stats().near_hits > 0


def test_sequential_and_concurrent_event_loops(one_server: Server, plain: DataStore) -> None:
    store = connect_async(one_server.url, user=plain.user, near_cache=True)

    async def main(number: int) -> None:
        for turn in range(20):
            await asyncio.to_thread(plain.set, f"k{number}", turn)
            assert await store.get(f"k{number}") == await store.get(f"k{number}") == turn

    for number in range(3):
        asyncio.run(main(number))
    all_at_once([lambda number=number: asyncio.run(main(number)) for number in range(4)])
    assert store.stats().near_hits > 0
    asyncio.run(store.close())
    with pytest.raises(StoreClosed):
        asyncio.run(store.get("k0"))


def test_cancelled_reads_do_not_affect_others(near: DataStore, one_server: Server) -> None:
    near.set_many({f"k{number}": number for number in range(50)})

    async def main() -> None:
        async with connect_async(one_server.url, user=near.user, near_cache=True) as store:
            for _ in range(20):
                reads = [asyncio.ensure_future(store.get(f"k{number}")) for number in range(50)]
                await asyncio.sleep(0)
                for read in reads[::3]:
                    read.cancel()
                answers = await asyncio.gather(*reads, return_exceptions=True)
                for number, answer in enumerate(answers):
                    assert answer == number or isinstance(answer, asyncio.CancelledError)
                assert await asyncio.gather(*(store.get(f"k{number}") for number in range(50))) == list(range(50))
                near.set("k0", 0)
            assert store.stats().near_hits > 0

    asyncio.run(main())


def test_last_store_closes_the_connection(one_server: Server, raw_of: Any, user: str) -> None:
    with proxied(one_server) as proxy:
        one, two = (connect(proxy.url, user=user, near_cache=True) for _ in range(2))
        one.set("k", 1)
        assert one.get("k") == two.get("k") == 1
        one.close()
        with pytest.raises(StoreClosed):
            one.get("k")
        assert hits_of(two, lambda: two.get("k")) == 1
        two.close()
        assert two.stats().near_live is False
        with pytest.raises(StoreClosed):
            two.get("k")


def test_the_bound_is_kept(one_server: Server, open_store: Any, user: str) -> None:
    with proxied(one_server) as proxy:  # an address of its own, so that no other store shares it
        near = open_store(proxy.url, user, near_cache=True, near_cache_bytes=100_000)
        values = {f"k{number}": "x" * 1000 for number in range(300)}
        near.set_many(values)
        for key, value in values.items():
            assert near.get(key) == value
        assert 50 < near.stats().near_entries < 100
        assert near.stats().near_bytes <= 100_000
        assert hits_of(near, lambda: [near.get(f"k{number}") for number in range(290, 300)]) == 10


REFUSED = ["~* &* +@all -client", "~* &* +@all -client|tracking"]


@pytest.mark.parametrize("rules", REFUSED)
def test_server_without_invalidation_warns_once_and_disables_cache(
    rules: str, start: Any, raw_of: Any, open_store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = start("valkey9", tcp=True)
    raw_of(server).execute_command("ACL", "SETUSER", "agent", "on", ">secret", *rules.split())
    url = server.url.replace("redis://", "redis://agent:secret@")
    with caplog.at_level(logging.WARNING, logger="redis_store"):
        near = open_store(url, near_cache=True)
        again = open_store(url, near_cache=True)
        near.set("k", 1)
        for store in (near, again):
            assert [store.get("k") for _ in range(3)] == [1] * 3
            assert store.get_many(["k"]) == {"k": 1}
        assert near.stats().near_hits == 0
        assert not near.stats().near_live

        async def main() -> None:
            async with connect_async(url, user="alice", near_cache=True) as store:
                assert await store.get("k") == await store.get("k") == 1
                assert store.stats().near_hits == 0

        asyncio.run(main())
    [said] = [record.getMessage() for record in caplog.records]
    assert "near cache is off" in said
    assert "secret" not in said


def test_agents_of_a_host_share_the_cache(one_server: Server, plain: DataStore) -> None:
    agent = "def run(): return {'got': [data_store.get('k')['n'] for _ in range(10)]}"
    with sandbox.Sandbox(url=one_server.url) as host:
        assert (
            host.run(agent, {}, user=plain.user).error is not None
        )  # the key is still missing, but the cache is connected
        wait_until(lambda: host._shared_store().stats().near_live, "the cache is connected")
        for number in range(3):
            plain.set("k", {"n": number})
            assert host.run(agent, {}, user=plain.user).check() == {"got": [number] * 10}
        assert host._shared_store().stats().near_hits >= 27
        other = host.run("def run(): return {'got': data_store.get('k')}", {}, user=f"{plain.user}-other")
        assert other.check() == {"got": None}


READS_BESIDE: dict[str, Callable[[Any], Any]] = {
    "get_all": lambda store: store.get_all(),
    "a long get_many": lambda store: store.get_many(["k", *map(str, range(200))]),
    "info": lambda store: store.info("k"),
    "a page": lambda store: store.scan_items_page(),
    "a transaction": lambda store: store.transact(lambda transaction: transaction.get("k")),
    "an update that changes another key": lambda store: store.transact(
        lambda transaction: transaction.use_namespace("other").set("seen", transaction.get("k"))
    ),
    "JSON text": lambda store: store.as_json_text().get_all(),
    "wait_for": lambda store: store.wait_for("k", timeout=20),
}


@pytest.mark.parametrize("name", READS_BESIDE)
def test_no_read_goes_back_behind_one_beside_the_cache(
    name: str, near: DataStore, plain: DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.set("k", "old")
    assert near.get("k") == "old"
    with deaf(monkeypatch):
        plain.set("k", "new")
        assert near.get("k") == "old", "the announcement is late"
        READS_BESIDE[name](near)
        assert near.get("k") == near.get("k") == "new"
        assert hits_of(near, lambda: near.get("k")) == 1, "the cache is in use again"


def test_no_read_goes_back_behind_a_change(near: DataStore, plain: DataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    plain.set("k", "old")
    assert near.get("k") == "old"
    with near.watch() as watch, deaf(monkeypatch):
        near.get("k")
        assert hits_of(near, lambda: near.get("k")) == 1
        plain.set("k", "new")
        change = watch.next_change(timeout=20)
        assert change is not None
        assert change.value == "new"
        assert near.get("k") == "new"


def test_no_read_goes_back_behind_another_thread(
    one_server: Server, plain: DataStore, open_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that cannot wait for the tracked connection reads the new value from the server."""
    with proxied(one_server) as proxy:
        near = open_store(proxy.url, plain.user, near_cache=True)
        plain.set_many({"k": "old", "silent": 1})
        assert near.get("k") == near.get("k") == "old"
        rule = proxy.strike("silent", Fault.HOLD_REPLY)
        with deaf(monkeypatch):
            with in_thread(lambda: near.get("silent")):
                assert rule.struck.wait(20)
                plain.set("k", "new")
                assert near.get("k") == "new", "read from the server"
                rule.release()
            assert near.get("k") == "new"


def test_no_async_read_goes_back(one_server: Server, plain: DataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with connect_async(one_server.url, user=plain.user, near_cache=True) as store:
            for read in (store.get_all, lambda: store.info("k"), lambda: store.wait_for("k")):
                plain.set("k", "old")
                assert await store.get("k") == await store.get("k") == "old"
                with deaf(monkeypatch):
                    plain.set("k", "new")
                    assert await store.get("k") == "old", "the announcement is late"
                    await read()
                    assert await store.get("k") == "new"

    asyncio.run(main())


@contextmanager
def deaf(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let tracked connections read nothing but with a reply that they wait for, as if announcements were late."""
    with monkeypatch.context() as patch:
        patch.setattr(TrackedConnection, "has_news", lambda self, wait_ms: False)
        patch.setattr(TrackedLoopConnection, "hear", lambda self: None)
        yield


def test_a_cancelled_read_leaves_the_near_cache_on(one_server: Server, user: str) -> None:
    """Cancelled while the server is told which user to track; the same is said again at the next read."""

    async def main(proxy: Proxy) -> None:
        async with connect_async(proxy.url, user=user, near_cache=True) as store:
            rule = proxy.strike("BCAST", Fault.HOLD_REPLY)
            reading = asyncio.ensure_future(store.get("k"))
            assert await asyncio.to_thread(rule.struck.wait, 20)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            rule.release()
            await store.set("k", 1)
            assert [await store.get("k") for _ in range(3)] == [1] * 3
            assert store.stats().near_hits > 0

    with proxied(one_server) as proxy:
        asyncio.run(main(proxy))


def test_a_cancelled_read_of_one_user_too_many_leaves_nothing_stale(
    one_server: Server, plain: DataStore, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled while the server is told to track no user any more: what is kept would never be announced as changed."""
    monkeypatch.setattr(side, "MOST_USERS", 1)

    async def main(proxy: Proxy) -> None:
        async with AsyncClient(proxy.url, near_cache=True) as client:
            store, other = client.store(user=user), client.store(user=f"{user}-2")
            assert [await store.get("k") for _ in range(2)] == [1, 1]
            rule = proxy.strike("OFF", Fault.HOLD_REPLY)
            reading = asyncio.ensure_future(other.get("k"))
            assert await asyncio.to_thread(rule.struck.wait, 20)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            rule.release()
            plain.set("k", 2)
            assert await store.get("k") == 2

    plain.set("k", 1)
    with proxied(one_server) as proxy:
        asyncio.run(main(proxy))
