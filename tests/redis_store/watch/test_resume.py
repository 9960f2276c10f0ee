"""Resuming from a cursor: nothing is lost, and if history is gone there is a reset with every key."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from redis_store import connect
from redis_store.changelog import ops as log_ops
from redis_store.hub.mailbox import Mailbox
from redis_store.hub.subscribers import Members
from tests.redis_store.watch.conftest import OpenWatchSide, WatchSide, refuses_ttl, said
from tests.support.servers import Server, wait_until


def cursor_after(side: WatchSide, key: str = "mark") -> str:
    """Return the cursor after a write, from a watcher that has ended."""
    watch = side.watch()
    side.set(key, 0)
    cursor = watch.until(lambda change: change.key == key)[-1].cursor
    watch.close()
    return cursor


@pytest.mark.parametrize("too_much", [False, True])
def test_writes_while_other_namespaces_open(
    side: WatchSide, real_server: Server, user: str, monkeypatch: pytest.MonkeyPatch, too_much: bool
) -> None:
    cursors = {name: cursor_after(side.use_namespace(name)) for name in ("a", "b")}
    original, delivered = Members.has_opened, threading.Event()
    deliver = Mailbox.deliver

    def has_opened(members: Members, join: Any) -> bool:
        # Delay the report that all are open until a write to one of them has been delivered.
        opened = original(members, join)
        if opened and writer.ident is None:
            writer.start()
        return opened and delivered.is_set()

    def noticing(mailbox: Mailbox, delivery: Any) -> None:
        deliver(mailbox, delivery)
        delivered.set()

    with connect(real_server.url, user=user, namespace="a") as other:
        writer = threading.Thread(target=other.set, args=("meanwhile", 1))
        monkeypatch.setattr(Members, "has_opened", has_opened)
        monkeypatch.setattr(Mailbox, "deliver", noticing)
        with monkeypatch.context() as small:
            small.setattr("redis_store.hub.mailbox.MOST_CHANGES", 0 if too_much else 10)
            watch = side.watch_all(since=cursors)
        writer.join()
    found = watch.until(lambda change: change.key == "meanwhile")
    assert [change.op for change in found if change.key != "mark"] == ["reset"] * 2 * too_much + ["set"]


def test_missed_writes_come_once_and_in_order(side: WatchSide) -> None:
    cursor = cursor_after(side)
    for i in range(50):
        side.set(f"k{i % 5}", i)
    side.set_many({f"m{i}": i for i in range(1500)})
    side.delete("k0")
    watch = side.watch(since=cursor)
    side.set("last", 0)
    expected = [("set", f"k{i % 5}", i) for i in range(50)]
    expected += [("set", f"m{i}", i) for i in range(1500)]
    assert said(watch.up_to("last")) == [*expected, ("delete", "k0", None)]


def test_cursor_inside_transaction(side: WatchSide) -> None:
    watch = side.watch()
    side.set_many({f"k{i}": i for i in range(10)})
    cursors = [watch.next().cursor for _ in range(10)]
    watch.close()
    assert len(set(cursors)) == 10
    again = side.watch(since=cursors[3])
    side.set("last", 0)
    assert said(again.up_to("last")) == [("set", f"k{i}", i) for i in range(4, 10)]


def test_resume_beside_another_watcher(side: WatchSide) -> None:
    other = side.watch()
    watch = side.watch()
    side.set("a", 1)
    cursor = watch.next().cursor
    side.set("b", 2)
    other.until(lambda change: change.key == "b")
    assert said([side.watch(since=cursor).next()]) == [("set", "b", 2)]


@pytest.mark.parametrize(
    "write",
    [
        lambda raw, data: raw.hset(data, mapping={"k1": '"by hand"'}),
        lambda raw, data: raw.hset(data, mapping={"k2": '"by hand"'}),
        lambda raw, data: raw.hset(data, mapping={"new": "1"}),
        lambda raw, data: raw.hset(data, mapping={f"k{i}": -1 for i in range(200)}),
        lambda raw, data: raw.hdel(data, "k1"),
        lambda raw, data: raw.hdel(data, "k3"),
        lambda raw, data: raw.delete(data),
    ],
    ids=["overwritten", "changed", "added", "many", "just deleted", "deleted", "everything"],
)
def test_unwatched_external_writes_lead_to_reset(
    side: WatchSide, raw: redis.Redis, data: str, write: Callable[[redis.Redis, str], object]
) -> None:
    side.set_many({f"k{i}": i for i in range(300)})
    cursor = cursor_after(side)
    _until_nobody_watches(raw, data)
    side.set("own", 1)
    side.set("k1", "own")
    write(raw, data)
    watch = side.watch(since=cursor)
    changes = watch.until(lambda change: change.op == "reset")
    assert said(changes[:-1]) in ([], [("set", "own", 1), ("set", "k1", "own")])
    everything = side.get_all()
    assert {change.key: change.value for change in (watch.next() for _ in everything)} == everything
    side.set("last", 0)
    assert watch.up_to("last") == []


def test_many_unwatched_own_writes_cause_no_reset(side: WatchSide, raw: redis.Redis, data: str) -> None:
    log, seen = data.replace(":ns:", ":log:"), data.replace(":ns:", ":seen:")
    side.set_many({f"old{i}": i for i in range(100)})
    with contextlib.closing(side.watch()):
        side.set_many({f"k{i}": i for i in range(3000)})
    cursor = cursor_after(side)
    _until_nobody_watches(raw, data)
    for i in range(1000):
        side.set(f"k{i}" if i % 2 else f"new{i}", -i)
    for i in range(100):
        side.set(f"old{i}", "x" * 2000)
    saved = raw.get(seen)
    watch = side.watch(since=cursor)
    side.set("last", 0)
    expected = [("set", f"k{i}" if i % 2 else f"new{i}", -i) for i in range(1000)]
    assert said(watch.up_to("last")) == expected + [("set", f"old{i}", "x" * 2000) for i in range(100)]
    wait_until(lambda: raw.get(seen) != saved, "the history is checked")
    assert not any(b'"gap"' in entry[b""] for _, entry in raw.xrange(log))


def test_state_of_another_version_is_unknown(side: WatchSide, raw: redis.Redis, data: str) -> None:
    cursor = cursor_after(side)
    _until_nobody_watches(raw, data)
    raw.append(data.replace(":ns:", ":seen:"), "more")
    assert side.watch(since=cursor).next().op == "reset"


def test_keys_expired_while_unwatched(side: WatchSide, raw: redis.Redis, data: str, real_server: Server) -> None:
    if not real_server.has_ttl:
        refuses_ttl(side)
        return
    watch = side.watch()
    side.set("early", 1, ttl=0.2)
    cursor = watch.next().cursor
    watch.close()
    _until_nobody_watches(raw, data)
    side.set("late", 1, ttl=0.01)
    wait_until(lambda: not side.get_many(["early", "late"]), "both expire")
    again = side.watch(since=cursor)
    assert said([again.next()]) == [("set", "late", 1)]
    assert sorted(said([again.next(), again.next()])) == [("expire", "early", None), ("expire", "late", None)]


def test_trimmed_log(side: WatchSide, raw: redis.Redis, data: str) -> None:
    cursor = cursor_after(side)
    _until_nobody_watches(raw, data)  # a watcher that is still behind would get a reset too
    side.set_many({"a": 1, "b": 2})
    raw.xtrim(data.replace(":ns:", ":log:"), maxlen=1, approximate=False)
    _resets_to_everything(side, cursor)


def test_deleted_log(side: WatchSide, raw: redis.Redis, data: str) -> None:
    cursor = cursor_after(side)
    _until_nobody_watches(raw, data)  # a watcher that is still behind would get a reset too
    raw.delete(data.replace(":ns:", ":log:"))
    side.set_many({"a": 1, "b": 2})
    _resets_to_everything(side, cursor)


def _resets_to_everything(side: WatchSide, cursor: str) -> None:
    watch = side.watch(since=cursor)
    assert watch.next().op == "reset"
    everything = side.get_all()
    changes = [watch.next() for _ in everything]
    assert {change.key: change.value for change in changes} == everything
    # A cursor before the last key leads to a new reset; the last key's cursor continues.
    assert side.watch(since=changes[0].cursor).next().op == "reset"
    side.set("after", 1)
    # Until the hub has checked the history before its start, a resumed watcher may still get a reset.
    last = side.watch(since=changes[-1].cursor).until(lambda change: change.key == "after")[-1]
    assert said([last]) == [("set", "after", 1)]


def test_same_id_in_another_history_is_a_different_entry(side: WatchSide, raw: redis.Redis, data: str) -> None:
    """After a clock went back, or with an older copy of the log, another entry can have the cursor's id."""
    log = data.replace(":ns:", ":log:")
    cursor = cursor_after(side)
    entry_id, _ = raw.xrevrange(log, count=1)[0]
    _until_nobody_watches(raw, data)
    dump = raw.xrange(log)[:-1]
    epoch = raw.xinfo_groups(log)[0]["name"]
    raw.delete(log)
    for other_id, other in dump:
        raw.xadd(log, other, id=other_id)
    raw.xadd(log, {b"": b'{"n":1}', b"mark": b"s1"}, id=entry_id)
    raw.xgroup_create(log, epoch, "0")
    assert side.watch(since=cursor).next().op == "reset"


def test_live_watcher_meets_older_log(side: WatchSide, raw: redis.Redis, data: str) -> None:
    """A failover to a replica that is behind: the end of the log is lost, with the latest data."""
    log = data.replace(":ns:", ":log:")
    watch = side.watch()
    side.set("a", 1)
    side.set("b", 1)
    last = watch.until(lambda change: change.key == "b")[-1]
    with raw.pipeline() as pipe:
        pipe.xdel(log, last.cursor.split(".")[3])
        pipe.hdel(data, "b")
        pipe.execute()
    assert said(watch.until(lambda change: change.op == "set")) == [("reset", None, None), ("set", "a", 1)]


@pytest.mark.parametrize("lost", ["data and log", "nothing"])
def test_restarted_server(
    start: Callable[..., Server], open_watch_side: OpenWatchSide, real_server: Server, lost: str
) -> None:
    options = [] if lost != "nothing" else ["--appendonly", "yes", "--appendfsync", "always"]
    server = start(real_server.kind, *options)
    side = open_watch_side(server.url, user="u")
    side.set("a", 1)
    watch = side.watch()
    side.set("b", 2)
    assert watch.next().key == "b"
    server.restart()
    _again(lambda: side.set("c", 3))
    if lost == "nothing":
        assert said([watch.next()]) == [("set", "c", 3)]
    else:
        assert said(watch.until(lambda change: change.key == "c"))[0] == ("reset", None, None)


def test_a_restored_backup(start: Callable[..., Server], open_watch_side: OpenWatchSide, real_server: Server) -> None:
    server = start(real_server.kind)
    side = open_watch_side(server.url, user="u")
    watch = side.watch()
    side.set("a", 1)
    assert watch.next().key == "a"
    with server.client() as raw:
        raw.save()
    backup = Path(server.folder, "dump.rdb").read_bytes()
    side.set_many({"a": 2, "b": 2})
    assert [watch.next().value, watch.next().value] == [2, 2]
    server.kill()
    Path(server.folder, "dump.rdb").write_bytes(backup)
    server.restart()
    changes = watch.until(lambda change: change.op == "set")
    assert said(changes) == [("reset", None, None), ("set", "a", 1)]


def test_broken_connections_lose_nothing(side: WatchSide, raw: redis.Redis) -> None:
    watch = side.watch()
    seed = random.Random(7)
    for i in range(400):
        if seed.random() < 0.03:
            with contextlib.suppress(redis.ResponseError):
                raw.execute_command("CLIENT", "KILL", "TYPE", seed.choice(["pubsub", "normal"]), "SKIPME", "yes")
        _again(
            lambda i=i: side.set(
                f"big{i}" if i % 10 == 0 else f"k{i % 20}", {"i": i, "pad": "x" * (3000 if i % 10 == 0 else 0)}
            )
        )
    side.set("last", 0)
    seen = [change.value["i"] for change in watch.up_to("last")]
    assert sorted(set(seen)) == list(range(400))


def _again(write: Callable[[], Any]) -> None:
    from redis_store import StoreUnavailable

    def tried() -> bool:
        try:
            write()
        except StoreUnavailable:
            return False
        return True

    wait_until(tried, "the server is back")


def _until_nobody_watches(raw: redis.Redis, data: str) -> None:
    """Wait until the hub has unsubscribed from the namespace."""
    channel = f"__keyspace@0__:{data}"
    wait_until(lambda: raw.pubsub_numsub(channel)[0][1] == 0, "the namespace has no watcher")


def test_large_backlog_is_read_in_parts(
    side: WatchSide, raw: redis.Redis, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cursor = cursor_after(side)
    _until_nobody_watches(raw, data)
    for i in range(10):
        side.set(f"k{i}", str(i) * 2000)
    side.set("small", 1)
    monkeypatch.setattr("redis_store.watch.reader.CATCH_UP_BYTES", 5000)
    read, original = [], log_ops.texts_of

    def texts_of(keys: Any, names: Any) -> Any:
        read.append(len(names))
        return original(keys, names)

    monkeypatch.setattr(log_ops, "texts_of", texts_of)
    watch = side.watch(since=cursor)
    expected = [("set", f"k{i}", str(i) * 2000) for i in range(10)]
    assert said([watch.next() for _ in range(11)]) == [*expected, ("set", "small", 1)]
    assert max(read) <= 2
    side.set("last", 2)
    assert said([watch.next()]) == [("set", "last", 2)]


def test_oversized_batch_is_a_reset(
    side: WatchSide, raw: redis.Redis, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cursor = cursor_after(side)
    _until_nobody_watches(raw, data)
    side.set("before", 1)
    batch = {f"k{i}": str(i) * 2000 for i in range(10)}
    side.set_many(batch)
    monkeypatch.setattr("redis_store.watch.reader.CATCH_UP_BYTES", 5000)
    watch = side.watch(since=cursor)
    assert said([watch.next(), watch.next()]) == [("set", "before", 1), ("reset", None, None)]
    listed = {change.key: change.value for change in (watch.next() for _ in range(12))}
    assert listed == {"mark": 0, "before": 1, **batch}
    side.set("last", 2)
    assert said([watch.next()]) == [("set", "last", 2)]


def test_live_watcher_reads_large_backlog(side: WatchSide, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = side.watch()
    monkeypatch.setattr("redis_store.hub.hub.MOST_NEWS_BYTES", 5000)
    side.set("big", "x" * 9000)
    assert said([watch.next()]) == [("set", "big", "x" * 9000)]
    batch = {f"k{i}": str(i) * 2000 for i in range(10)}
    side.set_many(batch)
    assert watch.next().op == "reset"
    listed = {change.key: change.value for change in (watch.next() for _ in range(11))}
    assert listed == {"big": "x" * 9000, **batch}
    side.delete("big")
    assert said([watch.next()]) == [("delete", "big", None)]
