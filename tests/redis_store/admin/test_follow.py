"""Following the changes of all users as they come, in Python and with ``redis-store tail``."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest
import redis

from redis_store import AsyncClient, Client, InvalidInput, StoreClosed
from redis_store.admin import Admin, AsyncAdmin, ChangeRecord, FollowedChanges, follow
from redis_store.server_config import WISHED_FLAGS
from tests.redis_store.admin.conftest import HARD_NAMES, HARD_USERS
from tests.support.clusters import Cluster, users_by_node
from tests.support.servers import Server, wait_until

LONGEST_S = 10.0


@pytest.fixture(autouse=True)
def events(raw: redis.Redis) -> Iterator[None]:
    """The server announces all changes, as the embedded one does."""
    (flags,) = raw.config_get("notify-keyspace-events").values()
    raw.config_set("notify-keyspace-events", WISHED_FLAGS)
    yield
    raw.config_set("notify-keyspace-events", flags)


def taken(changes: FollowedChanges, count: int) -> list[ChangeRecord]:
    """Return this many changes, or those that came in time."""
    found: list[ChangeRecord] = []
    end = monotonic() + LONGEST_S
    while len(found) < count and monotonic() < end:
        found += changes.take(end - monotonic())
    return found


def told(found: list[ChangeRecord]) -> list[tuple[str, str, str | None, str, str | None]]:
    return [(one.user, one.namespace, one.key, one.op, one.agent) for one in found]


def test_all_users_and_new_ones_are_followed(client: Client, admin: Admin, raw: redis.Redis) -> None:
    client.store(user="alice").set("before", 1)
    written_at = raw.time()
    while raw.time()[1] // 1000 == written_at[1] // 1000:  # what is written in the millisecond of the beginning is told
        pass
    with admin.follow_changes() as changes:
        for user, name in zip(HARD_USERS, HARD_NAMES, strict=False):
            client.store(user=user, namespace=name, agent="a", run="r").set("k", 1)
        found = taken(changes, len(HARD_USERS))
        assert sorted(told(found)) == sorted(
            (user, name, "k", "set", "a") for user, name in zip(HARD_USERS, HARD_NAMES, strict=False)
        )
        store = client.store(user="alice")
        store.set("k", 2)
        assert told(taken(changes, 1)) == [("alice", "default", "k", "set", None)]
        store.set_many({"a": 1, "b": 2})
        store.delete("k")
        store.clear()
        assert [(one.key, one.op, one.source) for one in taken(changes, 4)] == [
            ("a", "set", "log"), ("b", "set", "log"), ("k", "delete", "log"), (None, "clear", "log"),
        ]  # fmt: skip
        assert changes.take(0.05) == []
        assert 0 < raw.pttl("user:alice:log:default") <= follow.LOG_LIFE_MS  # nothing outlives it for long


def test_what_is_deleted_where_there_is_no_log_has_no_key(client: Client, admin: Admin) -> None:
    store = client.store(user="alice", namespace="n")
    store.set_many({"a": 1, "b": 2})
    with admin.follow_changes() as changes:
        store.delete("a")
        assert [(one.key, one.op, one.source) for one in taken(changes, 1)] == [(None, "delete", "event")]
        admin.delete_user("alice")
        assert (None, "clear") in {(one.key, one.op) for one in taken(changes, 1)}
        assert list(client.store(user="alice").list_namespaces()) == []


def test_only_a_user_and_a_namespace(client: Client, admin: Admin) -> None:
    with admin.follow_changes("*", "a*") as changes:
        for user in ("*", "alice"):
            for name in ("a*", "ab", "default"):
                client.store(user=user, namespace=name).set("k", 1)
        assert told(taken(changes, 1)) == [("*", "a*", "k", "set", None)]
        assert changes.take(0.05) == []
    with pytest.raises(InvalidInput, match="must not be empty"):
        admin.follow_changes(namespace="")
    with pytest.raises(InvalidInput, match="time zone"):
        admin.follow_changes(since=datetime.now())


def test_since_a_time_and_on(client: Client, admin: Admin, raw: redis.Redis) -> None:
    raw.hset("user:old:ns:default", "k", "1")
    raw.hset("user:old:info:default", "k", '{"created":1600000000000}')
    client.store(user="alice").set("plain", 1)
    watched = client.store(user="bob")
    with watched.watch() as watch:
        watched.set_many({f"k{number}": number for number in range(60)})
        for number in range(60):
            watched.set("again", number)
        watch.take(1, timeout=LONGEST_S)
    with admin.follow_changes(since=datetime.now(UTC) - timedelta(minutes=5)) as changes:
        found = taken(changes, 121)
        assert [one.at for one in found] == sorted(one.at for one in found)
        assert {(one.user, one.key) for one in found} == {
            ("alice", "plain"), ("bob", "again"), *(("bob", f"k{number}") for number in range(60)),
        }  # fmt: skip
        client.store(user="alice").set("plain", 2)
        watched.set("again", 0)
        assert sorted(told(taken(changes, 2))) == [
            ("alice", "default", "plain", "set", None), ("bob", "default", "again", "set", None),
        ]  # fmt: skip
        assert changes.take(0.05) == []


def test_a_burst_is_told_whole_and_in_order(client: Client, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "MOST_WAITING", 3)  # more namespaces than that are looked for in a pass
    monkeypatch.setattr(follow, "MOST_KNOWN", 5)
    stores = [client.store(user=f"u{number}") for number in range(10)]
    with admin.follow_changes() as changes:
        for round_ in range(3):
            for store in stores:
                store.set(f"k{round_}", 1)
            found = taken(changes, len(stores))
            assert {(one.user, one.key) for one in found} >= {(f"u{number}", f"k{round_}") for number in range(10)}


def test_connections_that_break_lose_nothing(client: Client, admin: Admin, raw: redis.Redis) -> None:
    logged, unlogged = client.store(user="alice"), client.store(user="bob")
    with admin.follow_changes() as changes:
        logged.set("a", 1)
        assert len(taken(changes, 1)) == 1
        for each in changes._servers.values():
            each.disconnect()
        logged.set("b", 1)
        unlogged.set("c", 1)
        assert sorted(one.key or "" for one in taken(changes, 2)) == ["b", "c"]
        logged.set("d", 1)
        assert [one.key for one in taken(changes, 1)] == ["d"]
        assert changes.take(0.05) == []


def test_connections_that_break_again_and_again_tell_each_change_once(client: Client, admin: Admin) -> None:
    stores = [client.store(user=f"u{number}") for number in range(40)]
    found: list[ChangeRecord] = []
    with admin.follow_changes() as changes:
        for round_ in range(6):
            for store in stores:
                store.set(f"k{round_}", 1)
            for _ in range(2 + 3 * round_):  # steps: the connections break in scans, in looks and in passes
                found += changes.take(0)
            for each in changes._servers.values():
                each.disconnect()
        found += taken(changes, 6 * len(stores) - len(found))
        found += changes.take(0.1)
    assert sorted((one.user, one.key) for one in found) == sorted(
        (f"u{number}", f"k{round_}") for number in range(40) for round_ in range(6)
    )


def test_a_server_without_events_is_looked_at(
    client: Client, admin: Admin, raw: redis.Redis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw.config_set("notify-keyspace-events", "")
    monkeypatch.setattr(follow, "FIRST_PASS_S", 0.05)
    with admin.follow_changes() as changes:
        store = client.store(user="alice")
        store.set("k", 1)
        assert [one.key for one in taken(changes, 1)] == ["k"]
        wait_until(lambda: not changes.take(0.01) and raw.exists("user:alice:log:default") == 1, "it has a log now")
        store.set("k", 2)
        store.delete("k")
        assert [(one.key, one.op) for one in taken(changes, 2)] == [("k", "set"), ("k", "delete")]
    assert "set notify-keyspace-events to Khgsxe" in caplog.text


def test_closing_ends_the_wait(admin: Admin) -> None:
    changes = admin.follow_changes()
    ended = threading.Event()

    def read() -> None:
        assert list(changes) == []
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(changes._turn.locked, "it waits")
    changes.close()
    thread.join(LONGEST_S)
    assert ended.is_set()
    changes.close()
    with pytest.raises(StoreClosed):
        changes.take(0)


def test_a_server_that_stays_away_is_an_error(start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    from redis_store import ConnectionLost
    from redis_store.admin import follow_sync

    monkeypatch.setattr(follow_sync, "AWAY_S", 0.2)
    server = start("valkey9")
    with Admin(server.url) as admin, admin.follow_changes() as changes:
        server.kill()
        with pytest.raises(ConnectionLost):
            changes.take(LONGEST_S)


def test_asyncio_follows_the_same(url: str, client: Client) -> None:
    async def look() -> None:
        async with AsyncClient(url) as other, AsyncAdmin(other) as admin:
            async with admin.follow_changes() as changes:
                assert await changes.take(0.01) == []
                client.store(user="alice").set("k", 1)
                client.store(user="bob").set("k", 2)
                found = [await anext(changes), await anext(changes)]
                assert sorted(one.user for one in found) == ["alice", "bob"]
                waiting = asyncio.create_task(anext(changes, None))
                await asyncio.sleep(0)
                await changes.close()
                assert await waiting is None
                with pytest.raises(StoreClosed):
                    await changes.take()
            with pytest.raises(InvalidInput):
                await admin.follow_changes(namespace="").begin()

    asyncio.run(asyncio.wait_for(look(), LONGEST_S))


def test_tail_shows_all_users_until_ctrl_c(url: str, client: Client) -> None:
    environment = {**os.environ, "REDIS_URL": url, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "redis_store", "tail", "--json", "--since", "1m", "--follow"]
    client.store(user="carol").set("k", 1)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as tail:
        try:
            assert tail.stdout is not None
            assert json.loads(tail.stdout.readline())["user"] == "carol"
            client.store(user="x\ny", namespace="n").set("k\x1b", 1)
            assert json.loads(tail.stdout.readline()).items() >= {"user": "x\ny", "key": "k\x1b", "op": "set"}.items()
            began = monotonic()
            tail.send_signal(signal.SIGINT)
            _, err = tail.communicate(timeout=LONGEST_S)
            assert monotonic() - began < 5
            assert (tail.returncode, err) == (0, b"Waiting for changes (press Ctrl-C to quit) ...\n")
        finally:
            with suppress(ProcessLookupError):
                tail.kill()


def test_users_of_all_nodes_of_a_cluster_are_followed(cluster: Cluster) -> None:
    users = sorted(some[0] for some in users_by_node(cluster, 1).values())
    for node in cluster.primaries:
        node.ask("CONFIG", "SET", "notify-keyspace-events", WISHED_FLAGS)
    with Client(cluster.url) as client, Admin(client) as admin, admin.follow_changes() as changes:
        for user in users:
            client.store(user=user, namespace="followed").set("k", 1)
        found = taken(changes, len(users))
        assert sorted(one.user for one in found if one.namespace == "followed") == users
        for user in users:
            client.store(user=user, namespace="followed").clear()
