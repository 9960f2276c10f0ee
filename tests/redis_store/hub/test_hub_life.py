"""One hub for each process and server, whatever is watched. It ends when it is unused, and only then."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from redis_store import ConnectionLost, DataStore, StoreClosed, connect, connect_async
from redis_store.changelog.consumers import CURSORS_DAYS
from redis_store.changelog.ops import BLANK_LIFE_MS
from redis_store.connections import forks
from tests.support.servers import Server, wait_until


@pytest.fixture
def own(start: Callable[..., Server]) -> Server:
    """A server without other clients."""
    wait_until(lambda: not threads(), "the hubs of other tests end")
    return start("valkey9")


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "redis-store-listener"]


def connections(server: Server) -> int:
    """Return the number of the store's connections."""
    with server.client() as raw:
        return len(
            [client for client in raw.client_list() if "lib-name=agent-data-store" in f"lib-name={client['lib-name']}"]
        )


def test_fifty_watchers_use_two_connections_and_one_thread(own: Server) -> None:
    stores = [connect(own.url, user=f"u{i % 5}", configure_server=True) for i in range(10)]
    before = connections(own)
    watches = [store.use_namespace(f"n{i}").watch() for i in range(5) for store in stores]
    assert len(threads()) == 1
    assert connections(own) == before + 2
    stores[0].use_namespace("n0").set("a", 1)
    assert next(watches[0]).key == "a"
    assert next(watches[5]).key == "a"
    for store in stores:
        store.close()
    wait_until(lambda: not threads() and connections(own) == 0, "the hub ends")


def test_asyncio_and_threads_share_the_hub(own: Server) -> None:
    async def use(store: DataStore) -> None:
        async with connect_async(own.url, user="u", configure_server=True) as other, other.watch() as watch:
            assert len(threads()) == 1
            store.set("a", 1)
            assert (await anext(watch)).key == "a"

    with connect(own.url, user="u", configure_server=True) as store, store.watch() as watch:
        asyncio.run(use(store))
        assert next(watch).key == "a"
    wait_until(lambda: not threads(), "the hub ends")


def test_abandoned_watch_is_released(own: Server) -> None:
    with connect(own.url, user="u", configure_server=True) as store:
        store.set("a", 1)
        for change in store.watch(initial=True):
            assert change.key == "a"
            break
        wait_until(lambda: not threads(), "the hub ends")


def test_a_watch_may_be_collected_at_any_moment(own: Server) -> None:
    with connect(own.url, user="u", configure_server=True) as store:
        watch = store.watch()
        # The garbage collector runs in any thread that creates an object, even one that holds this lock.
        with forks.registries_lock:
            del watch
            gc.collect()
        wait_until(lambda: not threads(), "the hub ends")


def test_wait_leaves_nothing_behind(own: Server) -> None:
    with connect(own.url, user="u", configure_server=True) as store:
        with pytest.raises(TimeoutError):
            store.wait_for("k", timeout=0.01)
        wait_until(lambda: not threads(), "the hub ends")


def test_returning_watcher_is_served_at_once(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redis_store.hub.hub.TICK_S", 60.0)
    with connect(own.url, user="u", configure_server=True) as store:
        store.watch_all().close()
        again = threading.Thread(target=lambda: store.watch_all().close(), daemon=True)
        again.start()
        again.join(20)
        assert not again.is_alive()


def test_close_from_another_thread_ends_the_iteration(own: Server) -> None:
    with connect(own.url, user="u", configure_server=True) as store:
        watch = store.watch()
        threading.Timer(0.05, watch.close).start()
        assert list(watch) == []
        assert list(watch) == []
        with pytest.raises(StoreClosed):
            watch.take()


@pytest.mark.parametrize("wait", [lambda store: list(store.watch()), lambda store: store.wait_for("k")])
def test_closing_the_store_ends_its_watchers(own: Server, wait: Callable[[DataStore], Any]) -> None:
    with connect(own.url, user="u", configure_server=True) as store:
        threading.Timer(0.1, store.close).start()
        with contextlib.suppress(StoreClosed):
            assert wait(store) == []
    wait_until(lambda: not threads(), "the hub ends")


def test_cancelled_task_loses_no_change(own: Server) -> None:
    async def use() -> list[Any]:
        async with connect_async(own.url, user="u", configure_server=True) as store, store.watch() as watch:
            seen = []
            for i in range(200):
                task = asyncio.create_task(anext(watch))
                await asyncio.sleep(0)
                await store.set("k", i)
                if i % 3:
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    seen.append((await task).value)
            await store.set("k", "last")
            while (change := await anext(watch)).value != "last":
                seen.append(change.value)
            return seen

    assert asyncio.run(use()) == list(range(200))


def test_ended_event_loop_leaves_nothing_behind(own: Server) -> None:
    async def use() -> None:
        store = connect_async(own.url, user="u", configure_server=True)
        await store.watch().begin()

    asyncio.run(use())
    wait_until(lambda: not threads(), "the hub ends")


def test_forked_child_has_its_own_hub(own: Server) -> None:
    with connect(own.url, user="u", configure_server=True) as store, store.watch() as watch:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with pytest.raises(StoreClosed, match="forked"):
                    watch.take(1, timeout=5)
                with store.watch() as mine:
                    store.set("child", 1)
                    status = 0 if next(mine).key == "child" and len(threads()) == 1 else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        store.set("parent", 1)
        assert [next(watch).key, next(watch).key] == ["child", "parent"]


def test_missing_server_is_reported_at_once(own: Server) -> None:
    own.kill()
    with connect(own.url, user="u") as store:
        with pytest.raises(ConnectionLost):
            store.watch()
        with pytest.raises(ConnectionLost):
            store.wait_for("k")
    wait_until(lambda: not threads(), "the hub ends")


def test_silent_server_is_lost_connection(own: Server) -> None:
    with connect(own.url, user="u", configure_server=True, timeout=0.5) as store, store.watch() as watch:
        own.pause()
        time.sleep(1.2)  # longer than the timeout, so that the hub drops its connections
        own.resume()
        store.set("a", 1)
        change = watch.next_change(20)
        assert change is not None
        assert change.key == "a"


def test_namespace_of_wrong_type_is_refused_alone(own: Server) -> None:
    with connect(own.url, user="u", configure_server=True) as store, store.watch() as watch:
        with own.client() as raw:
            raw.set("user:u:log:odd", "not a stream")
        with pytest.raises(Exception, match="type"):
            store.use_namespace("odd").watch()
        store.set("a", 1)
        assert next(watch).key == "a"


def test_watching_writes_only_documented_redis_keys(own: Server) -> None:
    with connect(own.url, user="u", configure_server=True) as store, store.watch(consumer="c") as watch:
        store.set("a", 1)
        next(watch)
        with own.client() as raw:
            wait_until(lambda: raw.exists("user:u:seen:default"), "the state is saved")
            assert sorted(raw.keys("*")) == [
                b"user:u:consumer:c",
                b"user:u:format",
                b"user:u:info:default",
                b"user:u:lock:consumer:c:default",
                b"user:u:log:default",
                b"user:u:namespaces",
                b"user:u:ns:default",
                b"user:u:seen:default",
            ]
            week = 7 * 86400
            assert week - 100 < raw.ttl("user:u:log:default") <= week
            assert week - 100 < raw.ttl("user:u:seen:default") <= week


def test_unwatched_log_expires_after_days(own: Server) -> None:
    day_ms = 24 * 3600 * 1000
    with connect(own.url, user="u", configure_server=True, log_days=3) as store, own.client() as raw:
        store.set("k", 1)
        with store.watch():
            assert 2 * day_ms < raw.pttl("user:u:log:default") <= 3 * day_ms


def test_a_log_of_nothing_is_there_only_while_it_is_watched(own: Server) -> None:
    log, seen = "user:u:log:n", "user:u:seen:n"
    with connect(own.url, user="u", configure_server=True) as store, own.client() as raw:
        there = store.use_namespace("n")
        for _ in range(2):  # the second hub finds the log of the first one, and adds nothing to it
            with there.watch(), there.watch("a"):
                assert 0 < raw.pttl(log) <= BLANK_LIFE_MS
            wait_until(lambda: not threads(), "the hub ends")
            assert 0 < raw.pttl(log) <= BLANK_LIFE_MS
            assert raw.xlen(log) == 1
            assert not raw.exists(seen), "nobody could go on from it"
        raw.pexpire(log, 5 * BLANK_LIFE_MS)
        with there.watch():
            assert raw.pttl(log) > 4 * BLANK_LIFE_MS, "another watcher may need it"


@pytest.mark.parametrize("change", ["a write", "an external write", "a consumer"])
def test_a_log_lasts_once_somebody_may_go_on_from_it(own: Server, change: str) -> None:
    log = "user:u:log:n"
    with connect(own.url, user="u", configure_server=True) as store, own.client() as raw:
        there = store.use_namespace("n")
        with there.watch() as watch:
            assert raw.pttl(log) <= BLANK_LIFE_MS
            if change == "a write":
                there.set("k", 1)
            elif change == "an external write":
                raw.hset("user:u:ns:n", "k", "1")
            else:
                there.watch(consumer="c").close()
            wait_until(lambda: raw.pttl(log) > 6 * 86_400_000, "the log is kept")
            if change != "a consumer":
                cursor = next(watch).cursor
                there.delete("k")
        wait_until(lambda: not threads(), "the hub ends")
        assert raw.exists("user:u:seen:n")
        there.set("k", 2)
        if change == "a consumer":
            assert there.watch(consumer="c").next_change(20).value == 2
        else:
            assert [change.op for change in there.watch(since=cursor).take(9, 20)] == ["delete", "set"]
        assert raw.pttl(log) > 6 * 86_400_000


def test_cursors_of_a_consumer_expire_after_its_last_run(own: Server) -> None:
    day_ms = 86_400_000
    with own.client() as raw:
        for days, expected in ((7, CURSORS_DAYS), (1000, 1000)):
            with connect(own.url, user="u", log_days=days) as store, store.watch(consumer="c"):
                assert (expected - 1) * day_ms < raw.pttl("user:u:consumer:c") <= expected * day_ms
                if days == 7:
                    raw.pexpire("user:u:consumer:c", day_ms)
                    wait_until(lambda: raw.pttl("user:u:consumer:c") > day_ms, "it is renewed while the consumer runs")


def test_two_concurrent_hubs_share_the_log(own: Server) -> None:
    with (
        connect(own.url, user="u", configure_server=True) as store,
        connect(own.url, user="u", configure_server=True, timeout=4.5) as other,
    ):
        watches: list[Any] = []
        starters = [threading.Thread(target=lambda s=s: watches.append(s.watch())) for s in (store, other)]
        for starter in starters:
            starter.start()
        for starter in starters:
            starter.join()
        assert len(threads()) == 2
        with own.client() as raw:
            assert len(raw.xinfo_groups("user:u:log:default")) == 1
            raw.hset("user:u:ns:default", "by hand", "1")
            store.set("own", 2)
        for watch in watches:
            # Both hubs find the external write; each watcher gets it once.
            assert sorted((watch.next_change(20).key, watch.next_change(20).key)) == ["by hand", "own"]
            assert watch.next_change(0.3) is None


def raw_flags(server: Server) -> str:
    with server.client() as raw:
        return str(raw.config_get("notify-keyspace-events")["notify-keyspace-events"])


def test_flags_are_added_to_existing_flags(own: Server) -> None:
    with own.client() as raw:
        raw.config_set("notify-keyspace-events", "E$")
    with connect(own.url, user="u", configure_server=True) as store, store.watch():
        assert set(raw_flags(own)) == set("E$Khgsxe")
    with own.client() as raw:
        raw.config_set("notify-keyspace-events", "AK")
    with connect(own.url, user="u", configure_server=True, timeout=4) as store, store.watch():
        assert set(raw_flags(own)) == set("AK")


def test_server_settings_do_not_change_unasked(own: Server) -> None:
    with connect(own.url, user="u") as store, store.watch() as watch:
        store.set("a", 1)
        assert next(watch).key == "a"
    assert raw_flags(own) == ""
