"""Changes that a watcher gets, on each server, for threads and asyncio."""

from __future__ import annotations

import json
import threading
from functools import partial
from typing import Any

import pytest
import redis

from redis_store import CorruptValue, LimitExceeded, WaitTimeout
from redis_store.hub.mailbox import NamespaceBudget
from redis_store.watch.request import WatchRequest
from tests.redis_store.watch.conftest import WatchSide, refuses_ttl, said
from tests.support.servers import Server, wait_until


def test_writes_come_in_order_with_their_writer(side: WatchSide) -> None:
    watch = side.watch()
    side.set("a", {"n": 1})
    side.set_many({"b": 2, "c": [3]})
    side.delete("a")
    side.clear()
    changes = watch.until(lambda change: change.op == "clear")
    assert said(changes) == [
        ("set", "a", {"n": 1}),
        ("set", "b", 2),
        ("set", "c", [3]),
        ("delete", "a", None),
        ("clear", None, None),
    ]
    assert {(c.namespace, c.source, c.agent, c.run) for c in changes} == {("default", "log", "writer", "r1")}


def test_small_values_are_exact_and_bigger_ones_at_least_as_new(side: WatchSide) -> None:
    watch = side.watch()
    small, big = "x" * 1000, "y" * 5000
    side.set("small", small)
    side.set("small", "newer")
    side.set("big", big)
    assert said([watch.next(), watch.next(), watch.next()]) == [
        ("set", "small", small),
        ("set", "small", "newer"),
        ("set", "big", big),
    ]


def test_big_transaction_arrives_whole_and_contiguous(side: WatchSide) -> None:
    watch = side.watch()
    other = side.use_namespace("other").watch()
    side.set_many({f"k{i:05}": i for i in range(3500)})
    side.use_namespace("other").set("o", 1)
    side.set("last", 0)
    assert [change.key for change in watch.up_to("last")] == [f"k{i:05}" for i in range(3500)]
    assert other.next().key == "o"


def test_a_prefix_is_literal(side: WatchSide) -> None:
    watch = side.watch(prefix="a*")
    side.set_many({"ab": 1, "a*b": 2, "b": 3})
    side.clear()
    assert said(watch.until(lambda change: change.op == "clear")) == [("set", "a*b", 2), ("clear", None, None)]


def test_initial_gives_snapshot_then_changes(side: WatchSide) -> None:
    side.set_many({f"k{i}": i for i in range(1200)})
    watch = side.watch(initial=True)
    changes = [watch.next()]
    side.set("k0", "new")
    side.delete("k1")
    changes += watch.until(lambda change: change.op == "delete")
    assert {change.key: change.value for change in changes[:1200]} == {f"k{i}": i for i in range(1200)}
    assert {change.source for change in changes[:1200]} == {"snapshot"}
    assert said(changes[1200:]) == [("set", "k0", "new"), ("delete", "k1", None)]


def test_initial_in_an_empty_namespace(side: WatchSide) -> None:
    watch = side.watch(initial=True)
    side.set("first", 1)
    assert said([watch.next()]) == [("set", "first", 1)]


@pytest.mark.parametrize("real_server", ["valkey9"], indirect=True)
def test_initial_during_writes_never_goes_back(side: WatchSide, real_server: Server, user: str) -> None:
    from redis_store import connect

    side.set_many({f"k{i:05}": {"v": 0, "pad": "x" * 900} for i in range(20_500)})
    ended = threading.Event()

    def write() -> None:
        with connect(real_server.url, user=user) as writer:
            version = 0
            while not ended.is_set():
                version += 1
                writer.set(f"k{version * 7919 % 20_500:05}", {"v": version})
            writer.set("last", {"v": version + 1})

    thread = threading.Thread(target=write)
    thread.start()
    try:
        watch = side.watch(initial=True)
        versions: dict[Any, int] = {}
        for _ in range(20_500):
            change = watch.next()
            assert change.value["v"] >= versions.get(change.key, -1)
            versions[change.key] = change.value["v"]
    finally:
        ended.set()
        thread.join()
    for change in watch.until(lambda change: change.key == "last"):
        assert change.op == "set"
        assert change.value["v"] >= versions.get(change.key, -1)
        versions[change.key] = change.value["v"]
    assert versions == {key: value["v"] for key, value in side.get_all().items()}


def test_external_writes_are_noticed(side: WatchSide, raw: redis.Redis, data: str) -> None:
    side.set_many({"a": 1, "b": 2})
    watch = side.watch()
    raw.hset(data, "a", '{"by":"hand"}')
    assert said([change := watch.next()]) == [("set", "a", {"by": "hand"})]
    assert (change.source, change.agent) == ("found", None)
    raw.hset(data, mapping={"c": "3", "big": json.dumps("x" * 4000)})
    assert sorted(said([watch.next(), watch.next()])) == [("set", "big", "x" * 4000), ("set", "c", 3)]
    raw.hdel(data, "b")
    assert said([watch.next()]) == [("delete", "b", None)]
    raw.rename(data, data + "x")
    assert said([watch.next()]) == [("clear", None, None)]
    raw.rename(data + "x", data)
    assert sorted(said([watch.next() for _ in range(3)]))[0] == ("set", "a", {"by": "hand"})
    raw.unlink(data)
    assert said([watch.next()]) == [("clear", None, None)]


def test_mixed_external_and_own_writes_converge(side: WatchSide, raw: redis.Redis, data: str) -> None:
    watch = side.watch()
    for i in range(300):
        if i % 3 == 0:
            raw.hset(data, f"k{i % 50}", i)
        elif i % 7 == 0:
            raw.hdel(data, f"k{i % 50}")
        else:
            side.set(f"k{i % 50}", i)
    _same_state_in_the_end(watch, side)


def _same_state_in_the_end(watch: Any, side: WatchSide) -> None:
    state: dict[Any, Any] = {}
    expected = side.get_all()
    while state != expected:
        change = watch.next()
        if change.op == "set":
            state[change.key] = change.value
        elif change.op in ("delete", "expire"):
            state.pop(change.key, None)
        else:
            state.clear()


def test_an_expired_key_is_noticed(side: WatchSide, real_server: Server, raw: redis.Redis, data: str) -> None:
    if not real_server.has_ttl:
        refuses_ttl(side)
        return
    side.set("before", 1, ttl=0.3)
    watch = side.watch()
    side.set("kept", 1)
    side.set("short", 1, ttl=0.05)
    side.set("renewed", 1, ttl=0.05)
    side.set("renewed", 2)
    assert [watch.next().key for _ in range(4)] == ["kept", "short", "renewed", "renewed"]
    assert said([watch.next(), watch.next()]) == [("expire", "short", None), ("expire", "before", None)]
    raw.execute_command("HPEXPIRE", data, 50, "FIELDS", 1, "kept")
    assert said([watch.next()]) == [("expire", "kept", None)]
    assert side.get_all() == {"renewed": 2}


def test_a_namespace_that_expires_whole(side: WatchSide, raw: redis.Redis, data: str) -> None:
    side.set("a", 1)
    watch = side.watch()
    raw.pexpire(data, 30)
    assert said([watch.next()]) == [("clear", None, None)]


def test_expiry_costs_no_comparison(side: WatchSide, real_server: Server, raw: redis.Redis, data: str) -> None:
    if not real_server.has_ttl:
        refuses_ttl(side)
        return
    side.set_many({f"k{i}": i for i in range(2000)})
    watch = side.watch()
    wait_until(lambda: raw.exists(data.replace(":ns:", ":seen:")), "the namespace is learned")
    before = _scans(raw)
    for i in range(5):
        side.set(f"t{i}", 1, ttl=0.02)
    assert [watch.next().op for _ in range(10)].count("expire") == 5
    side.set("b", 1)
    watch.next()
    assert _scans(raw) - before <= 1


def _scans(raw: redis.Redis) -> int:
    stats = raw.info("commandstats")
    return int(stats.get("cmdstat_hscan", {}).get("calls", 0))


def test_a_flushed_server_gives_a_reset(side: WatchSide, start: Any, open_watch_side: Any, real_server: Server) -> None:
    server = start(real_server.kind)
    mine = open_watch_side(server.url, user="u")
    mine.set("a", 1)
    watch = mine.watch()
    with server.client() as raw:
        raw.flushall()
    assert said([watch.next()]) == [("reset", None, None)]
    mine.set("b", 2)
    assert said([watch.next()]) == [("set", "b", 2)]


def test_an_evicted_namespace_is_noticed(start: Any, open_watch_side: Any, real_server: Server) -> None:
    server = start(real_server.kind)
    side = open_watch_side(server.url, user="u")
    side.set_many({f"k{i}": "x" * 1000 for i in range(100)})
    watch = side.watch()
    with server.client() as raw:
        # This policy evicts only Redis keys with a ttl, so the data hash is the only candidate.
        raw.expire("user:u:ns:default", 1000)
        raw.config_set("maxmemory-policy", "volatile-lru")
        raw.persist("user:u:log:default")
        raw.persist("user:u:seen:default")
        raw.config_set("maxmemory", raw.info("memory")["used_memory"] - 50_000)
    assert watch.next().op in ("clear", "reset")


def test_full_server_still_reports_changes(start: Any, open_watch_side: Any, real_server: Server) -> None:
    server = start(real_server.kind)
    side = open_watch_side(server.url, user="u")
    side.set_many({"a": 1, "b": 2, "c": 3})
    watch = side.watch()
    with server.client() as raw:
        raw.config_set("maxmemory", 1)
        raw.hdel("user:u:ns:default", "a")
        assert said([watch.next()]) == [("delete", "a", None)]
        side.delete("b")
        assert said([watch.next()]) == [("delete", "b", None)]


def test_a_value_that_is_not_json_is_raised_once(side: WatchSide, raw: redis.Redis, data: str) -> None:
    watch = side.watch()
    raw.hset(data, "bad", "{not json")
    with pytest.raises(CorruptValue, match="bad"):
        watch.next()
    side.set("good", 1)
    assert said([watch.next()]) == [("set", "good", 1)]


def test_take_gives_available_changes(side: WatchSide) -> None:
    watch = side.watch()
    assert watch.take(10, timeout=0) == []
    side.set_many({f"k{i}": i for i in range(25)})
    found = watch.take(10)
    while len(found) < 25:
        more = watch.take(10)
        assert 1 <= len(more) <= 10
        found += more
    assert [change.key for change in found] == [f"k{i}" for i in range(25)]


@pytest.mark.parametrize("real_server", ["valkey9"], indirect=True)
def test_unread_changes_become_a_reset(side: WatchSide) -> None:
    idle, reader = side.watch(), side.watch()
    for part in range(16):
        side.set_many({f"k{i}": part for i in range(1000)})
        for _ in range(1000):
            reader.next()
    changes = idle.until(lambda change: change.op == "reset")
    missed = changes[-1].value
    assert missed is not None
    assert len(changes) - 1 + missed == 16_000
    state = {change.key: change.value for change in (idle.next() for _ in range(1000))}
    assert state == side.get_all()
    side.set("after", 1)
    assert said([idle.next()]) == [("set", "after", 1)]


def test_all_namespaces_include_later_ones(side: WatchSide) -> None:
    side.use_namespace("files:a").set("x", 1)
    side.use_namespace("jobs").set("x", 1)
    watch = side.watch_all(prefix="files:")
    side.use_namespace("files:a").set("y", 2)
    side.use_namespace("jobs").set("y", 2)
    assert [(c.namespace, c.key, c.value) for c in [watch.next()]] == [("files:a", "y", 2)]
    side.use_namespace("files:b").set_many({"new": 3})
    change = watch.next()
    assert (change.namespace, change.op, change.key, change.value) == ("files:b", "set", "new", 3)
    side.use_namespace("files:b").set("new", 4)
    change = watch.next()
    assert (change.namespace, change.value, change.source) == ("files:b", 4, "log")


def test_watched_namespaces_are_bounded(side: WatchSide, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = NamespaceBudget(2)
    monkeypatch.setattr(WatchRequest, "of_all", staticmethod(partial(WatchRequest.of_all, budget=budget)))
    for name in ("a", "b"):
        side.use_namespace(name).set("x", 1)
    watch = side.watch_all()
    with pytest.raises(LimitExceeded, match="At most 2 namespaces"):
        side.watch_all("b")
    side.use_namespace("a").set("x", 2)
    mailbox = watch.watch._watching.mailbox  # type: ignore[union-attr]
    wait_until(lambda: mailbox._put_changes == 1, "the change is there")
    side.use_namespace("c").set("x", 3)
    wait_until(lambda: budget.taken == 0, "it is refused")
    assert [(change.namespace, change.value) for change in watch.take(10)] == [("a", 2)], "which came before"
    for _ in range(2):
        with pytest.raises(LimitExceeded, match="At most 2 namespaces"):
            watch.take(10)
    assert side.watch_all("c", initial=True).next().value == 3


def test_each_watcher_of_a_new_namespace_begins_where_it_joined(side: WatchSide) -> None:
    """One of all namespaces gets every key of it, also if another watcher was there first; a later one of its own gets none."""
    first, everything = side.watch(), side.watch_all()
    side.set("a", 1)
    assert (first.next().key, everything.next().key) == ("a", "a")
    new = side.use_namespace("new")
    new.set("b", 2)
    assert everything.next().key == "b"
    later = new.watch()
    new.set("c", 3)
    assert (later.next().key, everything.next().key) == ("c", "c")


def test_all_namespaces_go_on_from_cursors(side: WatchSide) -> None:
    watch = side.watch_all()
    side.use_namespace("a").set("x", 1)
    side.use_namespace("b").set("x", 1)
    cursors = {change.namespace: change.cursor for change in [watch.next(), watch.next()]}
    watch.close()
    side.use_namespace("a").set("x", 2)
    side.use_namespace("c").set("x", 3)
    again = side.watch_all(since=cursors)
    assert sorted((c.namespace, c.value) for c in [again.next(), again.next()]) == [("a", 2), ("c", 3)]


def test_waiting_for_a_key(side: WatchSide, raw: redis.Redis, data: str) -> None:
    side.set("there", None)
    assert side.wait_for("there", timeout=0) is None
    with pytest.raises(WaitTimeout, match="'never'"):
        side.wait_for("never", timeout=0.05)
    later = threading.Timer(0.05, lambda: raw.hset(data, "later", "[1]"))
    later.start()
    assert side.wait_for("later", timeout=20) == [1]
    later.join()


def test_waiting_for_a_value(side: WatchSide, real_server: Server, user: str) -> None:
    from redis_store import connect

    def count() -> None:
        with connect(real_server.url, user=user) as store:
            for i in range(50):
                store.set("n", i)

    thread = threading.Timer(0.02, count)
    thread.start()
    assert side.wait_until("n", lambda value: value == 17 or value > 40, timeout=20) in (17, 41)
    thread.join()
    with pytest.raises(ZeroDivisionError):
        side.wait_until("n", lambda value: 1 / 0 > 1)


def test_own_operations_are_not_external_writes(
    side: WatchSide, raw: redis.Redis, data: str, real_server: Server
) -> None:
    """Each script records in its log entry how many events it fires. A wrong number would cause a comparison."""
    side.set_many({f"k{i}": i for i in range(1500)})
    watch = side.watch()
    wait_until(lambda: raw.exists(data.replace(":ns:", ":seen:")), "the namespace is learned")
    before = _scans(raw)
    side.set("a", 1, metadata={"m": 1})
    side.increment("a")
    side.append("list", 1, 2)
    side.update("a", lambda value: value + 1)
    side.set_if_absent("b", 1)
    side.compare_and_set("b", 1, {"n": 2})
    side.rename("b", "c")
    side.pop("c")
    side.get_or_set("made", lambda: "x" * 3000)
    side.delete_many([f"k{i}" for i in range(1200)])
    if real_server.has_ttl:
        side.set("t", 1, ttl=1000)
        side.increment("t")
        side.expire("t", 2000)
        side.rename("t", "u")
        side.persist("u")
        side.set_many({f"t{i}": i for i in range(1100)}, ttl=1000)
    side.set("last", 0)
    changes = watch.up_to("last")
    side.clear()
    side.set("only", 1)
    side.delete("only")
    changes += watch.until(lambda change: (change.op, change.key) == ("delete", "only"))
    assert {change.source for change in changes} == {"log"}
    assert _scans(raw) == before
