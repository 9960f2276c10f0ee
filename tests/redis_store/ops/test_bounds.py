"""Namespaces with `max_keys`: never more keys than the bound when a write returns, and nothing left of evicted keys."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from redis_store import (
    MISSING,
    AccessDenied,
    Conflict,
    DataStore,
    InvalidInput,
    InvalidType,
    LimitExceeded,
    PermissionDenied,
    ServerFull,
    UnsupportedByServer,
    WrongKeyType,
    WrongValueType,
    connect_async,
)
from redis_store.ops.bounds import Bound
from tests.support.brokered_side import BrokeredSide, brokered
from tests.support.redis_view import NamespaceView
from tests.support.servers import REAL_KINDS, Server, wait_until
from tests.support.sides import SIDES_WITH_FUNCTIONS, AsyncSide, Side, SyncSide
from tests.support.steps import Steps

MOST = 5
SIDES = pytest.mark.parametrize("side", SIDES_WITH_FUNCTIONS)


@pytest.fixture
def open_bounded(server: Server, user: str, open_store: Callable[..., DataStore]) -> Iterator[Callable[..., Side]]:
    """Open the namespace "cache" of the test's user with a bound, on either side."""
    loop = asyncio.new_event_loop()
    opened = []
    brokers = ExitStack()

    def open_one(side: str, max_keys: int | None = MOST, **options: Any) -> Side:
        if side == "sync":
            store = open_store(server.url, user, agent="tester")
            return SyncSide(store.use_namespace("cache", max_keys=max_keys, **options))
        if side == "brokered":
            agents = brokers.enter_context(brokered(open_store(server.url, user, agent="tester"))).store
            return BrokeredSide(agents.use_namespace("cache", max_keys=max_keys, **options))
        waiting = connect_async(server.url, user=user, agent="tester")
        opened.append(waiting)
        return AsyncSide(waiting.use_namespace("cache", max_keys=max_keys, **options), loop)

    with brokers:
        yield open_one
    for store in opened:
        loop.run_until_complete(store.close())
    loop.close()


@pytest.fixture
def view(server: Server, user: str) -> Iterator[NamespaceView]:
    with server.client() as raw:
        yield NamespaceView(raw, user, "cache")


def fields(view: NamespaceView, part: str = "data") -> set[str]:
    return {field.decode() for field in view.raw.hkeys(view.keys[part])}


def check(view: NamespaceView, most: int = MOST) -> None:
    """Check that there are exactly as many keys as allowed, and info of exactly these."""
    assert len(fields(view)) == most
    assert fields(view, "info") == fields(view)
    assert view.raw.sismember(view.keys["registry"], "cache")


WRITES: dict[str, Callable[[Any], Any]] = {
    "set": lambda store: store.set("new", 1),
    "set with metadata": lambda store: store.set("new", 1, metadata={"a": 1}),
    "set_many": lambda store: store.set_many({"new": 1, "newer": 2, "newest": 3}),
    "set_many with metadata": lambda store: store.set_many({"new": 1, "newer": 2}, metadata={"a": 1}),
    "set_many of big values": lambda store: store.set_many({"new": "x" * 2000, "newer": "x" * 2000}),
    "set_many of as many as may be": lambda store: store.set_many({"new": 1, **{f"n{i}": i for i in range(MOST - 1)}}),
    "set_if_absent": lambda store: store.set_if_absent("new", 1),
    "compare_and_set": lambda store: store.compare_and_set("new", MISSING, 1),
    "increment": lambda store: store.increment("new"),
    "increment by a float": lambda store: store.increment("new", 0.5),
    "append": lambda store: store.append("new", 1),
    "append of some": lambda store: store.append("new", 1, max_items=3),
    "update": lambda store: store.update("new", lambda value: 1),
    "get_or_set": lambda store: store.get_or_set("new", lambda: 1, tags=["tag"]),
}
WRITES_OF_THREADS: dict[str, Callable[[DataStore], Any]] = {
    "transact": lambda store: store.transact(lambda transaction: transaction.set("new", 1)),
    "transaction elsewhere": lambda store: _from_elsewhere(store),
    "mapping": lambda store: store.__setitem__("new", 1),
    "setdefault": lambda store: store.setdefault("new", 1),
    "cached": lambda store: store.cached(key="new")(lambda: 1)(),
    "Steps.replace": lambda store: Steps(store).replace("new", MISSING, 1),
    "Steps.commit_value": lambda store: (
        Steps(store).claim_value("new", "t" * 20),
        Steps(store).commit_value("new", "t" * 20, 1),
    ),
    "JSON text": lambda store: store.as_json_text().set("new", b"1"),
}


def _from_elsewhere(store: DataStore) -> None:
    with store.use_namespace("elsewhere").transaction() as transaction:
        transaction.set("other", 1)
        transaction.use_namespace("cache", max_keys=MOST).set("new", 1)


@SIDES
@pytest.mark.parametrize("name", WRITES)
def test_every_write_keeps_the_bound(open_bounded: Any, view: NamespaceView, side: str, name: str) -> None:
    store = open_bounded(side)
    for number in range(MOST):
        store.set(f"old-{number}", number)
    WRITES[name](store)
    check(view)
    assert "new" in fields(view), "what was just written stays"


@pytest.mark.parametrize("name", WRITES_OF_THREADS)
def test_other_writes_keep_the_bound(open_bounded: Any, view: NamespaceView, name: str) -> None:
    store = open_bounded("sync").store
    store.set_many({f"old-{number}": number for number in range(MOST)})
    WRITES_OF_THREADS[name](store)
    check(view)
    assert "new" in fields(view)


def test_agent_transaction_keeps_the_bound(open_bounded: Any, view: NamespaceView) -> None:
    store = open_bounded("brokered").store
    store.set_many({f"old-{number}": number for number in range(MOST)})
    with store.transaction() as transaction:
        transaction.set("new", 1)
    check(view)
    assert "new" in fields(view)


@SIDES
def test_bound_with_ttl(open_bounded: Any, view: NamespaceView, server: Server, side: str) -> None:
    if not server.has_ttl:
        return
    store = open_bounded(side, ttl=1000)
    for number in range(2 * MOST):
        store.set(f"key-{number}", number)
    store.set_many({"a": 1, "b": 2})
    store.rename("a", "c")
    check(view)
    assert store.info("c").expires_at is not None


@SIDES
def test_a_rename_adds_no_key(open_bounded: Any, view: NamespaceView, side: str) -> None:
    store = open_bounded(side)
    for number in range(MOST):
        store.set(f"old-{number}", number)
    assert store.rename("old-3", "new") is True
    assert fields(view) == {"old-0", "old-1", "old-2", "old-4", "new"}
    assert store.rename("nothing", "new") is False
    check(view)


def test_rewriting_existing_keys_evicts_nothing(open_bounded: Any, view: NamespaceView) -> None:
    store = open_bounded("sync")
    for number in range(MOST):
        store.set(f"old-{number}", number)
    before = fields(view)
    store.set("old-0", 1)
    store.increment("old-1")
    assert store.set_if_absent("old-2", 1) is False
    assert store.get_or_set("old-3", lambda: 1) == 3
    assert fields(view) == before


def test_oldest_keys_are_evicted_first(open_bounded: Any, view: NamespaceView) -> None:
    """With no more keys than an eviction samples, exactly the key that was written longest ago is evicted."""
    free = open_bounded("sync", None)
    for number in range(6):
        free.set(f"key-{number}", number)
        wait_for_the_next_ms(view.raw)
    free.set("key-0", "again")
    view.raw.hset(view.keys["data"], "by hand", "1")
    wait_for_the_next_ms(view.raw)
    store = open_bounded("sync")
    store.set("new", 1)
    assert fields(view) == {"key-0", "key-3", "key-4", "key-5", "new"}, "what has no info, key-1 and key-2 have gone"
    wait_for_the_next_ms(view.raw)
    store.set("newer", 1, metadata={"updated": 1})
    assert fields(view) == {"key-0", "key-4", "key-5", "new", "newer"}


def wait_for_the_next_ms(raw: redis.Redis) -> None:
    seconds, micros = raw.time()
    wait_until(lambda: (now := raw.time()) and (now[0], now[1] // 1000) > (seconds, micros // 1000), "the next ms")


def test_old_key_of_many_is_evicted(open_bounded: Any, view: NamespaceView) -> None:
    """One of the 10 sampled keys is old: at least 85 of 100 are old, so that a sample without one occurs once in 10^9 times."""
    open_bounded("sync", None).set_many({f"old-{number}": number for number in range(90)})
    wait_for_the_next_ms(view.raw)
    store = open_bounded("sync", 100)
    store.set_many({f"new-{number}": number for number in range(10)})
    wait_for_the_next_ms(view.raw)
    for number in range(5):
        store.set(f"newest-{number}", number)
    assert len({field for field in fields(view) if field.startswith("new")}) == 15, "only old ones have gone"
    check(view, 100)


def test_old_keys_of_big_namespace_are_evicted(open_bounded: Any, view: NamespaceView) -> None:
    """In a big namespace, a page from a random part of the table replaces random keys."""
    store = open_bounded("sync", 1000)
    store.set_many({f"old-{number}": number for number in range(1000)})
    wait_for_the_next_ms(view.raw)
    for number in range(100):
        store.set(f"new-{number}", number)
    check(view, 1000)
    assert sum(field.startswith("new") for field in fields(view)) > 80, "hardly ever a new one"


@pytest.mark.parametrize("server", ["valkey9"], indirect=True)
def test_a_namespace_that_others_have_filled(open_bounded: Any, view: NamespaceView) -> None:
    """More keys must go than one script evicts; and a batch whose own keys must all stay finds the few others."""
    free = open_bounded("sync", None)
    free.set_many({f"key-{number}": number for number in range(3500)})
    store = open_bounded("sync", 1500)
    store.set("new", 1)
    check(view, 1500)
    batch = {f"batch-{number}": number for number in range(1500)}
    store.set_many(batch)
    assert fields(view) == set(batch)
    free.set("one", 1)
    store.set_many({**batch, "batch-0": "again"})
    assert fields(view) == set(batch)


@pytest.mark.parametrize("server", ["valkey9"], indirect=True)
def test_calls_that_write_nothing_evict_nothing(open_bounded: Any, view: NamespaceView) -> None:
    free, store = open_bounded("sync", None).store, open_bounded("sync", 2).store
    before = {"text": "a", "other": 1, "third": 1}
    free.set_many(before)

    def transact() -> None:
        with store.transaction() as transaction:
            transaction.set("text", transaction.get("other"))
            free.set("other", 1 + before["other"])  # type: ignore[operator]

    assert not store.set_if_absent("text", 1)
    assert not store.compare_and_set("text", "b", "c")
    assert not store.rename("missing", "text")
    for call, error in (
        (lambda: store.increment("text"), WrongValueType),
        (lambda: store.append("text", 1), WrongValueType),
        (transact, Conflict),
    ):
        with pytest.raises(error):
            call()
    assert fields(view) == set(before)
    assert store.rename("text", "new")
    check(view, 2)
    assert "new" in fields(view)


def test_batch_over_the_bound_is_refused_whole(open_bounded: Any, view: NamespaceView) -> None:
    store = open_bounded("sync").store
    store.set("old", 1)
    too_many = {f"n{number}": number for number in range(MOST + 1)}

    def transact() -> None:
        with store.transaction() as transaction:
            for key in too_many:
                transaction.set(key, 1)

    for write in (
        lambda: store.set_many(too_many),
        lambda: store.set_many(too_many, metadata={"a": 1}),
        transact,
    ):
        with pytest.raises(
            LimitExceeded, match=r"6 keys cannot be written at once .*'cache', which holds at most 5"
        ) as caught:
            write()
        assert (caught.value.limit, caught.value.limit_count) == ("max_keys", MOST)
        assert fields(view) == {"old"}


def test_watchers_get_evictions(
    real_server: Server, user: str, open_store: Callable[..., DataStore], raw_of: Callable[..., redis.Redis]
) -> None:
    raw = raw_of(real_server)
    store = open_store(real_server.url, user, agent="tester").use_namespace("cache", max_keys=MOST)
    data = NamespaceView(raw, user, "cache").keys["data"].decode()
    store.set("first", 0)  # what an empty namespace holds is not kept in mind
    with store.watch() as watch:
        wait_until(lambda: raw.exists(data.replace(":ns:", ":seen:")), "the namespace is learned")
        pages = _scans(raw)
        known: dict[str, Any] = {"first": 0}
        for number in range(3 * MOST):
            store.set(f"key-{number}", number)
        store.set_many({f"many-{number}": number for number in range(4)})
        store.get_or_set("made", lambda: 1)
        store.increment("made")
        store.rename("made", "last")
        while not (known.keys() >= {"last"} and "made" not in known):
            change = watch.next_change(20)
            assert change is not None
            assert (change.source, change.agent) == ("log", "tester")
            if change.op == "delete":
                known.pop(change.key)
            else:
                assert change.op == "set"
                known[change.key] = change.value
            assert len(known) <= MOST + 4, "each write is followed by what it made go"
        assert known == store.get_all()
        assert _scans(raw) == pages, "nothing was taken for a write by hand"


def _scans(raw: redis.Redis) -> int:
    stats = raw.info("commandstats")
    return int(stats.get("cmdstat_hscan", {"calls": 0})["calls"])


RACER = """
import sys
from redis_store import connect
most = int(sys.argv[3])
with connect(sys.argv[1], user=sys.argv[2]) as store:
    cache = store.use_namespace("cache", max_keys=most)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(90):
        key = f"{sys.argv[4]}-{number}"
        if number % 3 == 0:
            cache.set(key, number)
        elif number % 3 == 1:
            cache.set_many({key: 1, key + "a": 2})
        else:
            cache.get_or_set(key, lambda: number)
        assert len(cache) <= most, len(cache)
"""


@pytest.mark.parametrize("server", ["valkey9"], indirect=True)
def test_two_processes_together_keep_the_bound(server: Server, user: str, view: NamespaceView) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, server.url, user, "20", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, said = process.communicate(timeout=50)
        assert process.returncode == 0, said
    check(view, 20)


def test_expired_keys_make_room(open_bounded: Any, view: NamespaceView, server: Server) -> None:
    if not server.has_ttl:
        return
    store = open_bounded("sync")
    store.set_many({f"short-{number}": number for number in range(MOST)}, ttl=0.001)
    wait_until(lambda: not store.get_all() and len(store.store) == 0, "the server has removed them")
    store.set_many({f"key-{number}": number for number in range(MOST)})
    check(view)


@pytest.mark.parametrize("kind", REAL_KINDS)
def test_full_server_refuses_and_evicts_nothing(
    kind: str, start: Callable[..., Server], open_store: Callable[..., DataStore], raw_of: Callable[..., redis.Redis]
) -> None:
    server = start(kind, "--maxmemory-policy", "noeviction")
    store = open_store(server.url, "alice").use_namespace("cache", max_keys=MOST)
    store.set_many({f"key-{number}": number for number in range(MOST)})
    view = NamespaceView(raw_of(server), "alice", "cache")
    before = view.snapshot()
    view.raw.config_set("maxmemory", 1)
    for write in (lambda: store.set("new", 1), lambda: store.set_many({"new": 1}), lambda: store.increment("new")):
        with pytest.raises(ServerFull):
            write()
        assert view.snapshot() == before


def test_rights_are_checked_before_writing(
    real_server: Server, raw: redis.Redis, user: str, open_store: Callable[..., DataStore]
) -> None:
    store = open_store(real_server.url, user).use_namespace("cache", max_keys=MOST)
    store.set_many({f"key-{number}": number for number in range(MOST)})
    view = NamespaceView(raw, user, "cache")
    before = view.snapshot()
    raw.execute_command("ACL", "SETUSER", user, "on", ">secret", "~*", "+@all", "-hdel")
    limited = open_store(f"{real_server.url}?username={user}&password=secret", user)
    try:
        with pytest.raises(PermissionDenied):
            limited.use_namespace("cache", max_keys=MOST).set("new", 1)
        assert view.snapshot() == before
        limited.use_namespace("cache", max_keys=MOST + 1).set("new", 1)
    finally:
        raw.execute_command("ACL", "DELUSER", user)
    with pytest.raises(AccessDenied):
        store.read_only().set("new", 1)


@pytest.mark.parametrize(
    ("max_keys", "error"),
    [(0, InvalidInput), (-1, InvalidInput), (1.5, InvalidType), (True, InvalidType), ("9", InvalidType)],
)
def test_invalid_bound(open_bounded: Any, max_keys: Any, error: type[Exception]) -> None:
    for side in SIDES_WITH_FUNCTIONS:
        with pytest.raises(error, match="max_keys must be"):
            open_bounded(side, max_keys)


def test_a_bound_belongs_to_the_handle(open_bounded: Any, view: NamespaceView) -> None:
    store = open_bounded("sync").store
    assert store.use_namespace("cache").set_many({f"key-{number}": number for number in range(2 * MOST)}) == 2 * MOST
    assert len(store) == 2 * MOST
    store.restricted(write=["cache"]).set("new", 1)
    check(view)


def test_one_key_is_a_bound_too(open_bounded: Any, view: NamespaceView) -> None:
    store = open_bounded("sync", 1)
    for number in range(3):
        store.set(f"key-{number}", number)
        assert store.get_all() == {f"key-{number}": number}
    check(view, 1)


def test_script_arguments_of_a_bound() -> None:
    keys: Any = None
    assert Bound(keys, 7, (b"a", b"b")).arguments(6) == (6, 7, 2, b"a", b"b")


@SIDES
def test_a_ttl_where_the_server_has_none_is_refused_whole(
    open_bounded: Any, view: NamespaceView, server: Server, side: str
) -> None:
    if server.has_ttl:
        return
    store = open_bounded(side, ttl=1000)
    for write in (lambda: store.set("new", 1), lambda: store.set_many({"new": 1}), lambda: store.increment("new")):
        with pytest.raises(UnsupportedByServer, match=r"Redis 7\.4"):
            write()
    assert view.snapshot() == {"data": None, "info": None, "registry": None, "log": None}


@pytest.mark.parametrize("part", NamespaceView.PARTS)
def test_a_key_of_another_type_is_named_and_nothing_is_written(
    open_bounded: Any, view: NamespaceView, part: str
) -> None:
    store = open_bounded("sync")
    store.set_many({f"old-{number}": number for number in range(MOST)})
    spoilt = view.spoil(part)
    before = view.snapshot()
    for write in (
        lambda: store.set("new", 1),
        lambda: store.set_many({"new": 1}),
        lambda: store.rename("old-1", "new"),
    ):
        with pytest.raises(WrongKeyType) as caught:
            write()
        assert caught.value.redis_key == spoilt.decode()
        assert view.snapshot() == before
