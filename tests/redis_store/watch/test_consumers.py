"""Durable consumers: the cursor is in Redis, one process at a time holds the consumer, and killing it loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from redis_store import InvalidInput, InvalidType, StoredDataError, connect, connect_async
from redis_store.changelog.consumers import LOCK_MS, advance, claim
from redis_store.operations import operations_of
from redis_store.watch.request import SAVE_AFTER
from tests.redis_store.watch.conftest import OpenWatchSide, WatchSide, said
from tests.support.servers import Server, wait_until

CONSUMER = """
import json, sys
from redis_store import StoredDataError, connect
from redis_store.watch.request import SAVE_AFTER
url, user, path = sys.argv[1:]
with connect(url, user=user, configure_server=True) as store, open(path, "a", buffering=1) as out:
    with store.watch(consumer="c") as watch:
        out.write(json.dumps(["stands by" if watch.standing_by else "works", None]) + "\\n")
        for change in watch:
            out.write(json.dumps([change.op, change.value]) + "\\n")
"""


class Consumers:
    """Consumer processes, and the changes that they recorded."""

    def __init__(self, url: str, user: str, folder: Path) -> None:
        self._arguments = [url, user]
        self._folder = folder
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self) -> Any:
        path = self._folder / f"out{len(self.running)}"
        path.touch()
        self.running.append(subprocess.Popen([sys.executable, "-c", CONSUMER, *self._arguments, str(path)]))

        def lines() -> list[Any]:
            return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]

        wait_until(lines, "the consumer has begun")
        return lines


@pytest.fixture
def consumers(real_server: Server, user: str, tmp_path: Path) -> Iterator[Consumers]:
    found = Consumers(real_server.url, user, tmp_path)
    yield found
    for process in found.running:
        process.kill()
        process.wait()


def test_cursor_moves_when_next_change_is_requested(side: WatchSide, raw: redis.Redis, user: str) -> None:
    watch = side.watch(consumer="c")
    side.set_many({"a": 1, "b": 2, "c": 3})
    assert said([watch.next(), watch.next()]) == [("set", "a", 1), ("set", "b", 2)]
    watch.close()
    assert list(raw.hgetall(f"user:{user}:consumer:c")) == [b"default"]
    again = side.watch(consumer="c")
    assert said([again.next(), again.next()]) == [("set", "b", 2), ("set", "c", 3)]


def test_writes_before_first_change_are_not_lost(side: WatchSide) -> None:
    side.watch(consumer="c").close()
    side.set("a", 1)
    assert said([side.watch(consumer="c").next()]) == [("set", "a", 1)]


def test_batch_consumer_marks_changes_done(side: WatchSide) -> None:
    watch = side.watch(consumer="c")
    side.set_many({f"k{i}": i for i in range(10)})
    batch = watch.take(10)
    watch.done(batch[4])
    watch.close()
    again = side.watch(consumer="c")
    assert said([again.next()]) == [("set", batch[5].key, batch[5].value)]


def test_only_changes_of_the_watch_can_be_done(
    side: WatchSide, open_watch_side: OpenWatchSide, real_server: Server, raw: redis.Redis, user: str
) -> None:
    elsewhere, stranger = side.use_namespace("elsewhere"), open_watch_side(real_server.url, user=f"{user}-2")
    watches = [each.watch() for each in (elsewhere, stranger)]
    elsewhere.set("a", 1)
    stranger.set("a", 1)
    theirs, foreign = [each.next() for each in watches]
    watch = side.watch(consumer="c")
    before = raw.hgetall(f"user:{user}:consumer:c")
    with pytest.raises(InvalidInput, match="is of namespace 'elsewhere', and this is a watch of 'default'"):
        watch.done(theirs)
    with pytest.raises(InvalidInput, match="another namespace or another user"):
        watch.done(foreign)
    nothing: Any = None
    with pytest.raises(InvalidType, match="not NoneType"):
        watch.done(nothing)
    assert raw.hgetall(f"user:{user}:consumer:c") == before


def test_cancelled_begin_leaves_no_lock(real_server: Server, user: str, raw: redis.Redis) -> None:
    async def main() -> None:
        async with connect_async(real_server.url, user=user, configure_server=True) as store:
            beginning = asyncio.ensure_future(store.watch(consumer="c").begin())
            while not await asyncio.to_thread(raw.exists, f"user:{user}:lock:consumer:c:default"):
                pass
            beginning.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await beginning).close()
            assert not raw.exists(f"user:{user}:lock:consumer:c:default")

    asyncio.run(main())


def test_collected_begin_awaits_nothing(real_server: Server, user: str) -> None:
    async def main() -> None:
        async with connect_async(real_server.url, user=user, configure_server=True) as store:
            await store.get("k")
            beginning = store.watch(consumer="c").begin()
            beginning.send(None)
            beginning.close()  # as the garbage collector does; an await during that would raise `RuntimeError`

    asyncio.run(main())


def test_interrupted_initial_snapshot_restarts(side: WatchSide) -> None:
    side.set_many({f"k{i}": i for i in range(10)})
    watch = side.watch(consumer="c", initial=True)
    assert [watch.next().source for _ in range(5)] == ["snapshot"] * 5
    watch.close()
    again = side.watch(consumer="c", initial=True)
    assert again.next().op == "reset"
    assert {c.key: c.value for c in (again.next() for _ in range(10))} == side.get_all()
    assert again.run(again.watch.next_change(0.01)) is None
    again.close()
    side.set("after", 1)
    last = side.watch(consumer="c", initial=True)
    assert last.until(lambda change: change.key == "after")[-1].source == "log"


def test_unrelated_entries_move_cursor(side: WatchSide, raw: redis.Redis, data: str) -> None:
    watch = side.watch(prefix="mine:", consumer="c")
    side.set("mine:1", 1)
    assert watch.next().key == "mine:1"
    assert watch.run(watch.watch.next_change(0)) is None
    cursors = data.replace(":ns:default", ":consumer:c")
    saved = raw.hgetall(cursors)
    assert saved
    for i in range(900):
        side.set("other", i)

    def moved() -> bool:
        assert watch.run(watch.watch.next_change(0.05)) is None
        return bool(raw.hgetall(cursors) != saved)

    wait_until(moved, "the cursor moves")
    watch.close()
    raw.xtrim(data.replace(":ns:", ":log:"), maxlen=500, approximate=False)
    again = side.watch(prefix="mine:", consumer="c")
    side.set("mine:2", 2)
    assert said([again.next()]) == [("set", "mine:2", 2)]


def test_cursor_does_not_pass_unfinished_changes(side: WatchSide, raw: redis.Redis, data: str) -> None:
    watcher = side.watch("mine:", consumer="c")
    side.set("mine:1", 1)
    taken = watcher.take(10)
    for number in range(SAVE_AFTER + 1):
        side.set("other", number)
    raw.hset(data, "mine:broken", "{")
    with pytest.raises(StoredDataError):
        watcher.take(10)
    watcher.close()
    again = side.watch("mine:", consumer="c")
    assert said(again.take(1)) == said(taken)
    again.close()


def test_all_namespaces_for_a_consumer(side: WatchSide) -> None:
    side.watch_all(consumer="c").close()
    side.use_namespace("a").set("x", 1)
    watch = side.watch_all(consumer="c")
    assert [(c.namespace, c.value) for c in [watch.next()]] == [("a", 1)]
    side.use_namespace("b").set("x", 2)
    assert [(c.namespace, c.value) for c in [watch.next()]] == [("b", 2)]
    watch.close()
    side.use_namespace("a").set("x", 3)
    again = side.watch_all(consumer="c")
    found = [again.next() for _ in range(3)]
    # The consumer was not done with its first change of b.
    assert sorted((c.namespace, c.op, c.value) for c in found) == [
        ("a", "set", 3),
        ("b", "reset", None),
        ("b", "set", 2),
    ]


def test_changes_of_deleted_namespaces_are_reported(side: WatchSide, raw: redis.Redis, user: str) -> None:
    deleted, cleared, left = (side.use_namespace(name) for name in ("deleted", "cleared", "left"))
    for each in (deleted, cleared, left):
        each.set("x", 1)
    watch = side.watch_all(consumer="c", initial=True)
    for _ in range(3):
        watch.next()
    watch.run(watch.watch.next_change(0.01))
    watch.close()
    deleted.delete("x")
    cleared.clear()
    again = side.watch_all(consumer="c", initial=True)
    found = {change.namespace: change.op for change in (again.next(), again.next())}
    assert found == {"deleted": "delete", "cleared": "clear"}
    again.run(again.watch.next_change(0.01))
    again.close()
    # Both namespaces are empty and their changes were given, so no cursor of them is kept.
    last = side.watch_all(consumer="c")
    assert set(raw.hkeys(f"user:{user}:consumer:c")) == {b"left", b""}
    cleared.set("y", 2)
    assert (change := last.next()).namespace == "cleared"
    assert change.value == 2


def test_returning_consumer_of_empty_namespace_loses_nothing(side: WatchSide) -> None:
    side.set("a", 1)
    watch = side.watch(consumer="c")
    side.delete("a")
    watch.next()
    watch.run(watch.watch.next_change(0.01))
    watch.close()
    side.watch(consumer="c").close()
    side.set("x", 1)
    assert said([side.watch(consumer="c").next()]) == [("set", "x", 1)]


def test_new_namespace_is_recorded_before_its_first_change(side: WatchSide) -> None:
    watch = side.watch_all(consumer="c")
    side.use_namespace("new").set("x", 1)
    assert watch.next().value == 1
    watch.close()  # as if it had been killed while handling that change
    side.use_namespace("new").clear()
    assert (change := side.watch_all(consumer="c").next()).namespace == "new"
    assert change.op == "reset"


def test_unfinished_reset_of_killed_consumer_repeats(side: WatchSide, raw: redis.Redis, user: str, data: str) -> None:
    watch = side.watch(consumer="c")
    raw.delete(f"user:{user}:consumer:c", data.replace(":ns:", ":log:"))  # as `FLUSHDB` does
    side.set("a", 1)
    wait_until(lambda: raw.hget(f"user:{user}:consumer:c", "default"), "the loss is noted")
    watch.close()
    found = side.watch(consumer="c").until(lambda change: change.op == "set")
    assert said(found) == [("reset", None, None), ("set", "a", 1)]


@pytest.mark.parametrize("everywhere", [False, True])
def test_standby_without_cursor_begins_with_reset(
    side: WatchSide, raw: redis.Redis, user: str, everywhere: bool
) -> None:
    lock, cursors = f"user:{user}:lock:consumer:c:{'' if everywhere else 'default'}", f"user:{user}:consumer:c"
    raw.set(lock, '{"owner":"another"}')
    raw.hset(cursors, mapping={"default": "its cursor", **({"": "all"} if everywhere else {})})
    watch = side.watch_all(consumer="c") if everywhere else side.watch(consumer="c")
    assert watch.watch.standing_by
    raw.delete(lock, cursors)  # as `FLUSHDB` does
    side.set("a", 1)
    assert said(watch.until(lambda change: change.op == "set")) == [("reset", None, None), ("set", "a", 1)]


def test_consumer_continues_on_full_server(start: Any, open_watch_side: OpenWatchSide, real_server: Server) -> None:
    server = start(real_server.kind)
    side = open_watch_side(server.url, user="u")
    side.set_many({"a": 1, "b": 2, "c": 3})
    watch = side.watch(consumer="c")
    with server.client() as raw:
        raw.config_set("maxmemory", 1)
        side.delete("a")
        side.delete("b")
        assert said([watch.next(), watch.next()]) == [("delete", "a", None), ("delete", "b", None)]
        watch.close()
        again = side.watch(consumer="c")
        assert said([again.next()]) == [("delete", "b", None)]
        # Its lock is renewed on the existing connections.
        raw.pexpire("user:u:lock:consumer:c:default", 1000)
        made = raw.info("stats")["total_connections_received"]
        wait_until(lambda: raw.pttl("user:u:lock:consumer:c:default") > 1000, "the lock is renewed")
        assert raw.info("stats")["total_connections_received"] == made


@pytest.mark.parametrize("state", ["busy", "a replica"])
def test_consumer_waits_while_server_refuses_writes(
    start: Any, open_watch_side: OpenWatchSide, real_server: Server, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = start(real_server.kind)
    side = open_watch_side(server.url, user="u")
    watch = side.watch(consumer="c")
    side.set_many({"a": 1, "b": 2})
    assert watch.next().key == "a"
    with server.client() as raw, server.client() as other:
        if state == "busy":
            raw.config_set("busy-reply-threshold", 1)
            script = threading.Thread(target=run_until_killed, args=(other,))
            script.start()
            wait_until(lambda: is_busy(raw), "the server is busy")
        else:
            raw.replicaof("127.0.0.1", 1)
        try:
            # The cursor cannot be moved past a now, but b has already arrived.
            assert said([watch.next(0.1)]) == [("set", "b", 2)]
            assert watch.run(watch.watch.next_change(0.1)) is None
            assert sum("A watcher is waiting" in record.message for record in caplog.records) == 1
        finally:
            if state == "busy":
                raw.script_kill()
                script.join()
            else:
                raw.replicaof("NO", "ONE")
    side.set("c", 3)
    assert watch.until(lambda change: change.key == "c")


def run_until_killed(raw: redis.Redis) -> None:
    with contextlib.suppress(redis.ResponseError):
        raw.eval("while true do end", 0)


def is_busy(raw: redis.Redis) -> bool:
    try:
        raw.ping()
    except redis.RedisError:
        return True
    return False


ONE_WRITER = pytest.mark.parametrize(("real_server", "open_watch_side"), [("valkey9", "sync")], indirect=True)
"""For tests whose consumers are processes: nothing in them depends on the side that writes."""


@ONE_WRITER
def test_second_process_takes_over_from_killed_consumer(
    side: WatchSide, consumers: Consumers, raw: redis.Redis, user: str
) -> None:
    lock = f"user:{user}:lock:consumer:c:default"
    first = consumers.start()
    second = consumers.start()
    assert (first()[0][0], second()[0][0]) == ("works", "stands by")
    for i in range(20):
        side.set("k", i)
    wait_until(lambda: len(first()) == 21, "the first has seen all")
    consumers.running[0].kill()
    consumers.running[0].wait()
    assert 0 < raw.pttl(lock) <= LOCK_MS
    raw.pexpire(lock, 1)  # as when its time has passed
    for i in range(20, 40):
        side.set("k", i)
    wait_until(lambda: second()[-1] == ["set", 39], "the second has taken over")
    seen = [value for _, value in second()[1:]]
    # Only the change that the first process was handling is given again.
    assert seen in (list(range(19, 40)), list(range(20, 40)))


@ONE_WRITER
def test_long_stopped_consumer_is_replaced(side: WatchSide, consumers: Consumers, raw: redis.Redis, user: str) -> None:
    first = consumers.start()
    second = consumers.start()
    consumers.running[0].send_signal(signal.SIGSTOP)
    raw.delete(f"user:{user}:lock:consumer:c:default")  # as if it had expired
    wait_until(lambda: raw.exists(f"user:{user}:lock:consumer:c:default"), "the second has taken over")
    side.set("k", 1)
    wait_until(lambda: second()[-1] == ["set", 1], "the second works")
    consumers.running[0].send_signal(signal.SIGCONT)
    side.set("k", 2)
    wait_until(lambda: second()[-1] == ["set", 2], "the second goes on")
    consumers.running[1].kill()
    raw.delete(f"user:{user}:lock:consumer:c:default")
    side.set("k", 3)
    wait_until(lambda: first()[-1] == ["set", 3], "the first takes over again")


def test_consumer_cursor_moves_only_for_its_holder(real_server: Server, user: str, raw: redis.Redis) -> None:
    lock, cursors = f"user:{user}:lock:consumer:c:n".encode(), f"user:{user}:consumer:c".encode()
    with connect(real_server.url, user=user) as store:
        run = operations_of(store).driver.run
        assert run(claim(lock, cursors, "one", (b"n",))) == [None]
        assert run(claim(lock, cursors, "two", (b"n",))) is None
        assert run(advance(lock, cursors, "two", {b"n": "a cursor"})) is False
        assert raw.hgetall(cursors) == {}
        assert run(advance(lock, cursors, "one", {b"n": "a cursor"})) is True
        assert raw.hgetall(cursors) == {b"n": b"a cursor"}


def test_standby_takes_over_when_holder_closes(side: WatchSide) -> None:
    first = side.watch(consumer="c")
    second = side.watch(consumer="c")
    assert (first.watch.standing_by, second.watch.standing_by) == (False, True)
    assert second.take(1, timeout=0.02) == []
    first.close()
    side.set("a", 1)
    assert said([second.next()]) == [("set", "a", 1)]


def test_standby_can_be_closed(real_server: Server, user: str) -> None:
    with connect(real_server.url, user=user, configure_server=True) as store, store.watch(consumer="c"):
        second = store.watch(consumer="c")
        threading.Timer(0.05, second.close).start()
        assert list(second) == []


def test_consumer_name_is_per_namespace(side: WatchSide) -> None:
    side.watch(consumer="c")
    assert not side.use_namespace("other").watch(consumer="c").watch.standing_by


def test_name_of_all_namespaces_consumer_is_in_use(side: WatchSide, raw: redis.Redis, user: str) -> None:
    everywhere = side.watch_all(consumer="c")
    with pytest.raises(InvalidInput, match=r"'c' watches all namespaces .* pass another name"):
        side.watch(consumer="c")
    everywhere.close()
    assert not raw.exists(f"user:{user}:lock:consumer:c:default")


def test_corrupt_cursor_leads_to_reset(side: WatchSide, raw: redis.Redis, user: str) -> None:
    side.watch(consumer="c").close()
    raw.hset(f"user:{user}:consumer:c", "default", "nonsense")
    side.set("a", 1)
    watch = side.watch(consumer="c")
    assert said([watch.next(), watch.next()]) == [("reset", None, None), ("set", "a", 1)]


def test_closing_the_store_hands_over_at_once(
    open_watch_side: OpenWatchSide, real_server: Server, user: str, raw: redis.Redis
) -> None:
    side = open_watch_side(real_server.url, user=user)
    side.watch(consumer="c")
    assert raw.exists(f"user:{user}:lock:consumer:c:default")
    side.close()
    assert not raw.exists(f"user:{user}:lock:consumer:c:default")
