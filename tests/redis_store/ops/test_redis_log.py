"""The change log of a watched namespace: one entry per script call, whose `n` is the number of keyspace events fired."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from redis_store import DataStore
from redis_store.limits import LogBounds
from redis_store.operations import operations_of
from tests.support.redis_view import NamespaceView
from tests.support.servers import Server

INLINE_VALUE = 1024
INLINE_ENTRY = 64 * 1024


@pytest.fixture
def store(real_server: Server, open_store: Callable[..., DataStore], user: str) -> DataStore:
    return open_store(real_server.url, user, agent="ingest", run="run-7")


@pytest.fixture
def view(raw: redis.Redis, user: str) -> NamespaceView:
    """The store's namespace, watched."""
    view = NamespaceView(raw, user)
    view.watch()
    return view


def last(view: NamespaceView) -> tuple[dict[str, Any], list[tuple[bytes, bytes]]]:
    """Return the head and the changes of the newest entry."""
    entry = view.entries()[-1]
    return json.loads(entry.head), entry.changes


def test_a_set_with_its_value(store: DataStore, view: NamespaceView) -> None:
    store.set("é", {"a": [1, "🦊"]})
    assert view.entries()[-1].head == b'{"agent":"ingest","run":"run-7","n":1}'
    assert view.entries()[-1].changes == [("é".encode(), 's{"a":[1,"🦊"]}'.encode())]
    store.set("key", None, metadata={"m": 1})
    assert last(view) == ({"agent": "ingest", "run": "run-7", "n": 1}, [(b"key", b"snull")])
    assert len(view.entries()) == 2


def test_the_head_of_a_nameless_writer(real_server: Server, open_store: Any, view: NamespaceView, user: str) -> None:
    open_store(real_server.url, user).set("key", 1)
    assert view.entries()[-1].head == b'{"n":1}'
    open_store(real_server.url, user, agent='a"b\\é').set("key", 1)
    assert view.entries()[-1].head == rb'{"agent":"a\u0022b\u005c\u00e9","n":1}'


def test_big_batch_values_are_logged_without_text(store: DataStore, view: NamespaceView, user: str) -> None:
    store.set("key-1", "old", metadata={"m": 1})
    big = {f"key-{number}": "x" * 2000 for number in range(1200)}
    assert store.set_many(big) == 1200
    assert [len(entry.changes) for entry in view.entries()[-2:]] == [1000, 200]
    assert {news for entry in view.entries()[-2:] for _, news in entry.changes} == {b"r"}
    assert [json.loads(entry.head)["n"] for entry in view.entries()[-2:]] == [1, 1]
    assert store.get_all() == big
    assert store.info("key-1").metadata == {"m": 1}
    assert store.info("key-7").created_by == "ingest"
    assert not list(view.raw.scan_iter(f"user:{user}:w:*"))


@pytest.mark.parametrize("size", [70_000, 200_000])
def test_big_value_is_stored_beside_the_script_with_all_that_belongs_to_it(
    store: DataStore, view: NamespaceView, user: str, size: int
) -> None:
    big = "x" * size
    store.set("key", "old", metadata={"m": 1})
    store.get_or_set("tagged", lambda: 1, tags=["t"])
    assert view.raw.delete(f"user:{user}:tag:t") == 1  # so that the set must write the tag's member again
    for key in ("key", "tagged", "new"):
        store.set(key, big)
        assert view.entries()[-1].changes == [(key.encode(), b"r")]
        assert json.loads(view.entries()[-1].head)["n"] == 1
        assert store.get(key) == big
    assert store.info("key").metadata == {"m": 1}
    assert store.info("new").created_by == "ingest"
    assert store.invalidate_tag("t") == 1
    assert not list(view.raw.scan_iter(f"user:{user}:w:*"))


@pytest.mark.parametrize(("size", "inline"), [(INLINE_VALUE, True), (INLINE_VALUE + 1, False)])
def test_a_value_up_to_1_kib_stands_inline(store: DataStore, view: NamespaceView, size: int, inline: bool) -> None:
    value = "x" * (size - 2)
    text = json.dumps(value).encode()
    assert len(text) == size
    expected = b"s" + text if inline else b"r"
    store.set("key", value)
    assert last(view)[1] == [(b"key", expected)]
    store.set("key", value, metadata={"m": 1})
    assert last(view)[1] == [(b"key", expected)]
    store.set_many({"a": value, "b": 1})
    assert last(view)[1] == [(b"a", expected), (b"b", b"s1")]


def test_an_entry_has_64_kib_inline_at_most(store: DataStore, view: NamespaceView) -> None:
    store.set_many({f"key-{number:03}": "x" * (INLINE_VALUE - 2) for number in range(70)} | {"small": 1})
    _, changes = last(view)
    assert [key for key, _ in changes] == [*(f"key-{number:03}".encode() for number in range(70)), b"small"]
    inline = [news for _, news in changes if news[:1] == b"s"]
    assert sum(len(news) - 1 for news in inline) <= INLINE_ENTRY
    assert len(inline) == INLINE_ENTRY // INLINE_VALUE
    assert {news for _, news in changes} - set(inline) == {b"r"}


def test_a_batch_of_one_script(store: DataStore, view: NamespaceView) -> None:
    store.set_many({"b": 1, "a": 2}, metadata={"m": 1})
    head, changes = last(view)
    assert head == {"agent": "ingest", "run": "run-7", "n": 1}
    assert changes == [(b"b", b"s1"), (b"a", b"s2")]


@pytest.mark.parametrize("metadata", [None, {"m": 1}], ids=["plain", "metadata"])
def test_the_parts_of_a_big_batch_belong_together(store: DataStore, view: NamespaceView, metadata: Any) -> None:
    store.set_many({f"key-{number}": number for number in range(2500)}, metadata=metadata)
    entries = view.entries()
    heads = [json.loads(entry.head) for entry in entries]
    assert [len(entry.changes) for entry in entries] == [1000, 1000, 500]
    assert [change for entry in entries for change in entry.changes] == [
        (f"key-{number}".encode(), f"s{number}".encode()) for number in range(2500)
    ]
    assert len({head["tx"][0] for head in heads}) == 1
    assert heads[0]["tx"][0]
    assert [head["tx"][1:] for head in heads] == [[1, 3], [2, 3], [3, 3]]
    store.set_many({f"key-{number}": number for number in range(1001)})
    assert json.loads(view.entries()[-1].head)["tx"][0] != heads[0]["tx"][0]


def test_deletes(store: DataStore, view: NamespaceView) -> None:
    store.set_many({f"key-{number}": number for number in range(2500)})
    assert store.delete("absent") is False
    assert store.delete_many(["absent", "gone"]) == 0
    before = len(view.entries())
    store.delete("key-0")
    store.delete_many(["key-1", "absent", "key-2"])
    entries = view.entries()[before:]
    assert [entry.changes for entry in entries] == [[(b"key-0", b"d")], [(b"key-1", b"d"), (b"key-2", b"d")]]
    assert [json.loads(entry.head) for entry in entries] == [{"agent": "ingest", "run": "run-7", "n": 1}] * 2
    store.delete_many([f"key-{number}" for number in range(2500)])
    told = [change for entry in view.entries()[before + 2 :] for change in entry.changes]
    assert told == [(f"key-{number}".encode(), b"d") for number in range(3, 2500)]


def test_a_clear(store: DataStore, view: NamespaceView) -> None:
    store.clear()
    assert view.entries() == []
    store.set_many({"a": 1, "b": 2})
    store.clear()
    assert last(view) == ({"agent": "ingest", "run": "run-7", "n": 1}, [(b"", b"c")])


def test_a_ttl_shows_when_it_ends(store: DataStore, view: NamespaceView, real_server: Server) -> None:
    if not real_server.has_ttl:
        with pytest.raises(Exception, match="ttl"):
            store.set("key", 1, ttl=100)
        assert view.entries() == []
        return
    store.set("key", 1, ttl=100)
    head, changes = last(view)
    [at] = view.raw.execute_command("HPEXPIRETIME", view.keys["data"], "FIELDS", 1, "key")
    assert head == {"agent": "ingest", "run": "run-7", "n": 2, "x": at}
    assert view.entries()[-1].head.endswith(b'"n":2,"x":%d}' % at)
    assert changes == [(b"key", b"s1")]


def test_refused_write_is_not_logged(store: DataStore, view: NamespaceView) -> None:
    store.set("key", 1)
    view.spoil("info")
    before = view.entries()
    for write in (
        lambda: store.set("key", 2),
        lambda: store.set_many({"a": 1}),
        lambda: store.delete("key"),
        store.clear,
    ):
        with pytest.raises(TypeError):
            write()
    assert view.entries() == before


def test_the_log_is_bounded_by_entries(real_server: Server, open_store: Any, view: NamespaceView, user: str) -> None:
    store = bounded(open_store(real_server.url, user), LogBounds(entries=300))
    for number in range(900):
        store.set("key", number)
    assert 300 <= view.raw.xlen(view.keys["log"]) <= 300 + 100, "the server trims whole blocks of its own"
    assert view.entries()[-1].changes == [(b"key", b"s899")]


def test_the_log_is_bounded_by_bytes(real_server: Server, open_store: Any, view: NamespaceView, user: str) -> None:
    limit = 2 * 1024 * 1024
    store = bounded(open_store(real_server.url, user), LogBounds(max_bytes=limit))
    batch = {f"key-{number}": "x" * 1000 for number in range(1000)}
    for _ in range(60):
        store.set_many(batch)
    assert view.raw.memory_usage(view.keys["log"], samples=0) < 2 * limit
    assert len(view.entries()) >= 10
    default = open_store(real_server.url, user)
    for _ in range(150):
        default.set_many(batch)
    assert view.raw.memory_usage(view.keys["log"], samples=0) < 2 * LogBounds().max_bytes


def bounded(store: DataStore, bounds: LogBounds) -> DataStore:
    """The same store with other bounds for its change log."""
    operations = operations_of(store)
    scope = operations.scope
    kept = type(scope)(scope.user, scope.namespace, scope.writer, scope.codec, scope.limits, bounds)
    return DataStore(replace(operations, scope=kept))


def test_log_outlives_its_namespace(store: DataStore, view: NamespaceView) -> None:
    store.set("key", 1)
    store.clear()
    assert view.raw.exists(view.keys["log"]) == 1
    store.set("key", 2)
    assert [entry.changes for entry in view.entries()] == [[(b"key", b"s1")], [(b"", b"c")], [(b"key", b"s2")]]


def test_times_come_from_the_server(store: DataStore, view: NamespaceView) -> None:
    """An entry's id and the times in info come from one clock."""
    store.set("key", 1)
    ms = int(view.entries()[-1].id.split(b"-")[0])
    created = json.loads(view.raw.hget(view.keys["info"], "key"))["created"]
    assert abs(ms - created // 1000) <= 5000
    info = store.info("key")
    assert info is not None
    assert info.created_at is not None
    assert (info.created_at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == created == info.version


def test_a_log_without_values(real_server: Server, open_store: Any, view: NamespaceView, user: str) -> None:
    store = open_store(real_server.url, user, log_values=False)
    store.set("a", "secret")
    store.set("b", "secret", metadata={"m": 1})
    store.set_many({"c": "secret", "d": "secret"})
    store.compare_and_set("a", "secret", "secret 2")
    store.append("list", "secret")
    store.increment("number", 4711)
    store.rename("a", "e")
    store.get_or_set("cached", lambda: "secret")
    store.update("f", lambda old: "secret")
    with store.transaction() as pending:
        pending.set("g", "secret")
    if real_server.has_ttl:
        store.set("h", "secret", ttl=100)
    store.use_namespace("default", max_keys=3).set("i", "secret")
    told = [change for entry in view.entries() for change in entry.changes]
    assert {field for field, _ in told} >= set(b"a b c d list number e cached f g i".split())
    assert {news for _, news in told} == {b"r", b"d"}
    with open_store(real_server.url, user).watch(since=None) as changes:
        store.set("j", [1])
        change = changes.next_change(timeout=10)
        assert (change.key, change.value, change.source) == ("j", [1], "log")


def test_watchers_of_a_store_without_logged_values_log_none_either(
    real_server: Server, open_store: Any, view: NamespaceView, user: str
) -> None:
    with open_store(real_server.url, user, log_values=False).watch() as changes:
        assert changes.next_change(timeout=0) is None
        view.raw.hset(view.keys["data"], "by hand", '"secret"')
        assert changes.next_change(timeout=10).value == "secret"
    assert view.entries()[-1].changes == [(b"by hand", b"r")]
