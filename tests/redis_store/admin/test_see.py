"""What operators see of keys, changes, locks, consumers, dead letters and the cache, and the commands for it."""

from __future__ import annotations

import asyncio
import io
import json
import re
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
import redis

from redis_store import AsyncClient, Client, LockLost, connect_async
from redis_store.admin import Admin, AsyncAdmin
from tests.redis_store.admin.conftest import HARD_NAMES, Ended
from tests.support.servers import wait_until

Run = Callable[..., Ended]


def feed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let the next command find a text on its stdin."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_keys_are_complete_sorted_and_fed_on(client: Client, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HARD_NAMES:
        client.store(user="alice", namespace=name).set_many(dict.fromkeys(HARD_NAMES, name))
    listed = run("namespaces", "--json", "-q")
    feed(monkeypatch, listed.out)
    keys = run("keys", "--stdin", "--json", "-q")
    assert [(one["namespace"], one["key"]) for one in keys.records] == [
        (name, key) for name in sorted(HARD_NAMES) for key in sorted(HARD_NAMES)
    ]
    feed(monkeypatch, keys.out)
    values = run("get", "--stdin", "--json", "-q")
    assert [one["value"] for one in values.records] == [one["namespace"] for one in values.records]
    feed(monkeypatch, keys.out)
    infos = run("info", "--stdin", "--json", "-q").records
    assert [(one["namespace"], one["key"]) for one in infos] == [(one["namespace"], one["key"]) for one in keys.records]
    shown = run("keys", "-u", "alice", "-n", HARD_NAMES[0])
    assert shown.out.splitlines() == [name.replace("\n", "\\n").replace("\x1b", "\\x1b") for name in sorted(HARD_NAMES)]
    assert shown.err.startswith(f"{len(HARD_NAMES)} keys in ")
    assert run("keys", "-u", "alice", "-n", "*", "--prefix", "*").out == "*\n"


def test_what_is_not_there(client: Client, run: Run, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    client.store(user="alice").set("k", {"a": "é\x1b"}, metadata={"m": 1}, ttl=1000)
    raw.hset("user:alice:ns:default", "broken", "no json")
    assert run("get", "-u", "alice", "k").out == '{\n  "a": "é\\u001b"\n}\n'
    assert run("get", "-u", "alice", "k", "none", code=3).err == (
        "There is no key 'none' in namespace 'default' of 'alice'.\n"
    )
    broken = run("get", "-u", "alice", "broken", "k", "--json", code=1)
    assert "is not JSON" in broken.err
    assert [one["value"] for one in broken.records] == [{"a": "é\x1b"}]
    told = run("info", "-u", "alice", "k", "--json").records[0]
    assert (told["user"], told["key"], told["metadata"], told["size"]) == ("alice", "k", {"m": 1}, 16)
    assert told["expires_at"] > told["created_at"]
    assert 'metadata    {"m": 1}\n' in run("info", "-u", "alice", "k").out
    assert run("keys", "-u", "bob", code=3).out == ""
    assert "The user 'bob' has no data." in run("namespaces", "-u", "bob", code=3).err
    assert "The key is missing: pass KEY, or --stdin" in run("get", "-u", "alice", code=2).err
    assert "The user is missing: pass --user" in run("get", "k", code=2).err
    feed(monkeypatch, '{"user": "alice", "key": "k"}\nnonsense\n')
    half = run("get", "--stdin", code=2)
    assert half.err == "redis-store: Line 2 of stdin is no JSON object: pass the output of a listing with --json.\n"
    feed(monkeypatch, '{"user": "alice"}\n')
    assert "The key is missing in line 1 of stdin" in run("get", "--stdin", code=2).err


def test_wrong_names_are_explained(client: Client, run: Run) -> None:
    client.store(user="alice", namespace="work").set_many({"k": 1, "-x": 2})
    where = ("-u", "alice", "-n", "work")
    dashes = "No such option: -x. If that is no option but a name, write it last, after two dashes: ... -- -x\n"
    for command in (("get", *where, "-x"), ("delete", *where, "-x"), ("set", *where, "-x", "1"), ("search", "-x")):
        assert run(*command, code=2).err.endswith(dashes)
    assert run("get", *where, "--", "-x").out == "2\n"
    assert "two dashes" not in run("users", "-x", code=2).err  # which takes no names
    assert "two dashes" not in run("get", "--usr", "alice", "k", code=2).err
    for command in (("keys", "alice"), ("tail", "alice"), ("namespaces", "alice")):
        assert "Name whose data it is by options: --user NAME" in run(*command, code=2).err
    assert "--user NAME" not in run("users", "alice", code=2).err
    for command in (("get", "k"), ("keys",), ("info", "k")):
        ended = run(*command, "-u", "alice", code=3)
        assert "That namespace holds no data. The user has 'work': name one with --namespace." in ended.err
        ended = run(*command, "-u", "nobody", code=3)
        assert "The user 'nobody' has no data: see `redis-store users`." in ended.err
    assert run("get", *where, "none", code=3).err == "There is no key 'none' in namespace 'work' of 'alice'.\n"
    for place in (("-n", "none"), ("--prefix", "none")):
        assert "no key was there" in run("clear", "-u", "alice", *place, "--yes", code=3).err
    assert "no dead letter 'x' of user 'alice'" in run("dead-letters", "show", "x", "-u", "alice", code=3).err


def test_infos_of_many_keys(client: Client, admin: Admin) -> None:
    store = client.store(user="alice", agent="x")
    store.set_many({str(number): number for number in range(450)}, metadata={"m": 1})
    found = store.infos([str(number) for number in range(0, 900, 2)])
    assert list(found) == [str(number) for number in range(0, 450, 2)]
    assert found["8"] == store.info("8")


def test_a_search_finds_text_in_keys_and_values(client: Client, admin: Admin, run: Run) -> None:
    for number in range(3):
        client.store(user=f"u{number}", namespace="a b").set_many({f"key{n}": {"n": n} for n in range(300)})
    store = client.store(user="alice", namespace="x\ny")
    store.set_many({"quoted": 'say "hello"\n', "umlaut": {"name": "GRÜEZI " + "x" * 200}, "needle*": 1, "other": 2})
    assert [(hit.key, hit.found_in) for hit in admin.search('say "hello"\n')] == [("quoted", "value")]
    assert [(hit.key, hit.found_in) for hit in admin.search("needle*")] == [("needle*", "key")]
    assert list(admin.search("needle?")) == []
    (hit,) = admin.search("grüezi", ignore_case=True)
    assert (hit.user, hit.namespace, hit.key) == ("alice", "x\ny", "umlaut")
    assert "GRÜEZI" in hit.excerpt
    assert len(hit.excerpt) < 100
    assert {hit.user for hit in admin.search("key299")} == {"u0", "u1", "u2"}
    assert len(list(admin.search("key", "u1", "a b", keys_only=True))) == 300
    assert list(admin.search('"n":7', keys_only=True)) == []
    assert run("search", "needle*").out == "alice  x\\ny  needle*\n"
    assert run("search", "needle*", "--json").records[0]["namespace"] == "x\ny"
    assert run("search", "nothing like it", code=3).out == ""
    assert "must not be empty" in run("search", "", code=2).err


def test_a_search_reads_compressed_values(url: str, admin: Admin) -> None:
    with Client(url, compress_above=100) as packing:
        packing.store(user="alice").set("big", {"text": "needle " * 100})
    assert [hit.found_in for hit in admin.search("needle", "alice")] == ["value"]


def test_changes_of_the_last_minutes(client: Client, admin: Admin, raw: redis.Redis, run: Run) -> None:
    began = datetime.now(UTC) - timedelta(minutes=1)
    plain = client.store(user="alice", namespace="plain", agent="one", run="r1")
    plain.set_many({"a": 1, "b": 2})
    plain.delete("b")
    raw.hset("user:alice:ns:plain", "old", "1")
    raw.hset("user:alice:info:plain", "old", '{"created":1600000000000,"by":"a"}')
    watched = client.store(user="bob", namespace="watched\n", agent="two")
    with watched.watch() as watch:
        watched.set("c", 1)
        watched.set("c", 2)
        watched.delete("c")
        watched.set("d", 1)
        watch.take(4, timeout=10)
    found = admin.list_changes(began)
    assert [(one.user, one.namespace, one.op, one.key, one.agent, one.source) for one in found] == [
        ("alice", "plain", "set", "a", "one", "info"),
        ("bob", "watched\n", "set", "c", "two", "log"),
        ("bob", "watched\n", "set", "c", "two", "log"),
        ("bob", "watched\n", "delete", "c", "two", "log"),
        ("bob", "watched\n", "set", "d", "two", "log"),
    ]
    assert [(one.key, one.run) for one in admin.list_changes(began, "alice")] == [("a", "r1")]
    assert admin.list_changes(datetime.now(UTC) + timedelta(minutes=1)) == []
    shown = run("tail", "--since", "10m", "-u", "bob", "--json").records
    assert [one["op"] for one in shown] == ["set", "set", "delete", "set"]
    assert "only the last write of each key is known" in run("tail", "--since", "10m").err


def test_tail_follows_changes_until_ctrl_c(client: Client, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from redis_store.cli import see

    store = client.store(user="alice", namespace="x\ny", agent="writer")
    store.set("before", 1)
    shown: list[str] = []
    show = see._show_change

    def show_two(session: object, user: str, change: object) -> None:
        show(session, user, change)  # type: ignore[arg-type]
        shown.append("")
        if len(shown) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(see, "_show_change", show_two)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.wait(0.05):
            store.set("k", number := number + 1)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        ended = run("tail", "-u", "alice")
    finally:
        stop.set()
        writing.join()
    assert ended.out.count("  x\\ny  set  k  by writer\n") == 2
    assert ended.err == "Waiting for changes (press Ctrl-C to quit) ...\n"


def test_locks_and_their_release(client: Client, admin: Admin, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    store = client.store(user="alice", agent="index")
    lock = store.lock("build\n*", ttl=300)
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(LockLost))
        stack.enter_context(store.semaphore("slots", 3))
        stack.enter_context(lock)
        waiting = threading.Thread(target=lambda: store.lock("build\n*", timeout=20).acquire())
        waiting.start()
        wait_until(lambda: admin.list_locks("alice")[0].waiters == 1, "the other waits")
        one, other = admin.list_locks()
        assert (one.user, one.name, one.kind, one.held, one.slots, one.holder) == (
            "alice", "build\n*", "lock", 1, 1, "index",
        )  # fmt: skip
        assert one.since is not None
        assert one.expires_at is not None
        assert one.expires_at - one.since > timedelta(seconds=290)
        assert (other.name, other.kind, other.held, other.slots, other.holder) == ("slots", "semaphore", 1, 3, None)
        assert admin.list_locks("alic") == []
        monkeypatch.setattr(sys, "stdin", io.StringIO("no\n"))
        refused = run("locks", "release", "build\n*", "-u", "alice", code=1)
        assert "held by index since" in refused.err
        assert "Nothing was changed" in refused.err
        assert admin.list_locks()[0].owner == one.owner
        feed(monkeypatch, "\n".join(run("locks", "--json", "-q").out.splitlines()[:1]))
        run("locks", "release", "--stdin", "--yes", "--as", "me")
        waiting.join(20)
        assert admin.list_locks()[0].owner not in (None, one.owner)
        assert "Nobody holds the lock 'slots'" in run("locks", "release", "slots", "-u", "alice", code=3).err
        assert "The name is missing: pass NAME" in run("locks", "release", "-u", "alice", code=2).err
    (entry,) = admin.iter_audit()
    assert (entry.by, entry.what, entry.user, entry.key) == ("me", "locks release", "alice", "build\n*")


def test_consumers_and_how_far_they_are_behind(client: Client, admin: Admin, run: Run) -> None:
    store = client.store(user="alice", namespace="a\nb", agent="worker")
    with store.watch(consumer="c:1\n") as watch:
        store.set("k", 0)
        assert watch.next_change(timeout=10) is not None
        store.set_many({"a": 1})
        store.set_many({"b": 1})
        watch.done(watch.next_change(timeout=10))  # type: ignore[arg-type]
        (one,) = admin.list_consumers()
        assert (one.user, one.consumer, one.namespace, one.is_held, one.holder) == (
            "alice", "c:1\n", "a\nb", True, "worker",
        )  # fmt: skip
        assert one.at is not None
    (one,) = admin.list_consumers("alice")
    assert not one.is_held
    assert one.behind is not None
    behind = one.behind
    store.set("k", 1)
    assert admin.list_consumers("alice")[0].behind == behind + 1
    client.store(user="alice").set("x", 1)
    with client.store(user="bob").watch_all(consumer="all") as everything:
        client.store(user="bob", namespace="n").set("k", 1)
        everything.done(everything.next_change(timeout=10))  # type: ignore[arg-type]
        assert {(one.namespace, one.is_held) for one in admin.list_consumers("bob")} >= {("n", True)}
    shown = run("consumers", "-u", "alice")
    assert "c:1\\n" in shown.out
    assert run("consumers", "--json").records[0]["behind"] == behind + 1


def letter(key: str, op: str = "set") -> dict[str, object]:
    change = {"namespace": "work", "key": key, "op": op, "agent": "writer", "cursor": "c"}
    error = {"type": "ValueError", "message": "bad\x1b", "traceback": "Traceback:\n  line 1\nValueError: bad"}
    return {"change": change, "error": error, "agent": "worker", "tries": 4}


def test_dead_letters(client: Client, admin: Admin, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    work = client.store(user="alice", namespace="work")
    work.set("k\n", {"v": 1}, metadata={"m": 1}, ttl=1000)
    expires_at = work.info("k\n").expires_at  # type: ignore[union-attr]
    dead = client.store(user="alice", namespace="dead-letter:con:sumer")
    dead.set_many({"k\n@1": letter("k\n"), "gone@2": letter("gone"), "d@3": letter("k\n", "delete"), "odd": [1]})
    found = {one.id: one for one in admin.iter_dead_letters()}
    one = found["k\n@1"]
    assert (one.user, one.consumer, one.namespace, one.key, one.op, one.writer, one.agent, one.tries) == (
        "alice", "con:sumer", "work", "k\n", "set", "writer", "worker", 4,
    )  # fmt: skip
    assert (one.error_type, one.error, one.at is not None) == ("ValueError", "bad\x1b", True)
    assert found["odd"].error is None
    assert len(list(admin.iter_dead_letters("alice", "con:sumer"))) == 4
    assert list(admin.iter_dead_letters("alice", "other")) == []
    where = ("-u", "alice", "--consumer", "con:sumer")
    shown = run("dead-letters", "show", "k\n@1", *where)
    assert "| Traceback:\n|   line 1\n| ValueError: bad\n" in shown.out
    assert "\x1b" not in shown.out
    with monkeypatch.context() as terminal:
        terminal.setattr("redis_store.cli.session.takes_escapes", lambda stream: True)
        terminal.setattr("redis_store.cli.session._SILENT_S", 0)
        terminal.setattr(sys, "stderr", sys.stdout)
        on_screen = run("dead-letters", "show", "k\n@1", *where).out
        assert on_screen != shown.out
        assert re.sub(r"[^\n]*\r", "", on_screen) == shown.out  # the line of progress is gone before the first fact
    run("dead-letters", "show", "nothing", *where, code=3)
    with work.watch() as watch:
        kept = run("dead-letters", "retry", "k\n@1", "gone@2", "d@3", "none", *where, "--yes", code=3)
        change = watch.next_change(timeout=10)
        assert change is not None
        assert (change.op, change.key, change.value) == ("set", "k\n", {"v": 1})
    assert kept.err.splitlines() == [
        "'gone@2' was not retried: its key was deleted since.",
        "'d@3' was not retried: it was no write.",
        "'none' was not retried: there is no such dead letter.",
        "1 dead letter retried.",
    ]
    told = work.info("k\n")
    assert told is not None
    assert (told.metadata, told.expires_at) == ({"m": 1}, expires_at)
    assert dead.list_keys() == ["d@3", "gone@2", "odd"]
    listed = run("dead-letters", "--json", "-q")
    feed(monkeypatch, listed.out)
    assert "--yes" in run("dead-letters", "drop", "--stdin", code=1).err
    feed(monkeypatch, listed.out)
    run("dead-letters", "drop", "--stdin", "--yes")
    assert dead.list_keys() == []
    assert [(entry.what, entry.key) for entry in admin.iter_audit()] == [
        ("dead-letters retry", "k\n@1"), *(("dead-letters drop", one["id"]) for one in listed.records),
    ]  # fmt: skip


def test_rate_limits_tell_what_is_used_and_how_long_a_caller_would_wait(
    client: Client, admin: Admin, raw: redis.Redis
) -> None:
    store = client.store(user="alice")
    for _ in range(2):
        assert store.rate_limit("calls\n", 3, per=600).try_acquire()
    (one,) = admin.list_rate_limits()
    assert (one.user, one.name, one.agent, one.n, one.per_s) == ("alice", "calls\n", None, 3, 600)
    assert (one.used, one.waiting, one.free_in_s) == (2, 0, 0)
    assert store.rate_limit("calls\n", 3, per=600).try_acquire()
    assert 500 < admin.list_rate_limits("alice")[0].free_in_s <= 600
    # two callers wait, each for a moment a period after one before
    taken = int(raw.lindex("user:alice:rate:calls\n", -1).split()[0])  # type: ignore[union-attr]
    raw.rpush("user:alice:rate:calls\n", *(f"{taken + wait} {taken} 0" for wait in (600_000, 600_001)))
    (one,) = admin.list_rate_limits()
    assert (one.used, one.waiting) == (3, 2)
    raw.rpush("user:alice:rate:old", "1600000000000 1600000000000 0")  # of an earlier version, without terms
    raw.set("user:alice:rate:other", "no list")
    assert [each.name for each in admin.list_rate_limits()] == ["calls\n"]
    assert admin.list_rate_limits("bob") == []


def test_the_cache(client: Client, admin: Admin, run: Run) -> None:
    store = client.store(user="alice", namespace="c\nd")
    seen = []

    def make() -> int:
        seen.extend(admin.list_computations())
        return 1

    store.get_or_set("k", make, ttl=100, tags=["t:1", "t2"])
    store.get_or_set("k2", lambda: 2, tags=["t:1"])
    with pytest.raises(ZeroDivisionError):
        store.get_or_set("bad", lambda: 1 // 0)
    (one,) = seen
    assert (one.user, one.namespace, one.key, one.failed_at, one.error) == ("alice", "c\nd", "k", None, None)
    assert one.expires_at is not None
    (failed,) = admin.list_computations("alice")
    assert failed.failed_at is not None
    assert "ZeroDivisionError" in (failed.error or "")
    assert [(tag.tag, tag.values) for tag in admin.list_tags()] == [("t:1", 2), ("t2", 1)]
    assert "failed" in run("cache").out
    assert run("cache", "tags", "--json").records[0] == {"user": "alice", "tag": "t:1", "agent": None, "values": 2}


def test_stats_of_the_server(client: Client, admin: Admin, run: Run) -> None:
    client.store(user="alice").set("k", 1)
    (one,) = admin.server_stats()
    assert one.engine in ("redis", "valkey")
    assert one.memory_bytes > 100_000
    assert one.redis_keys == 4
    assert one.role == "master"
    told = run("stats", "--json").records[0]
    assert told["version"] == one.version
    assert 0 <= told["hit_ratio"] <= 1
    lines = run("stats", "--prometheus").out.splitlines()
    assert 'redis_store_redis_keys{server="0",role="master"} 4' in lines
    assert "# TYPE redis_store_commands_total counter" in lines
    assert "memory bytes" in run("stats").out


def test_asyncio_sees_the_same(url: str, client: Client, admin: Admin) -> None:
    client.store(user="alice").set_many({"k": "needle", "l": 2})
    client.store(user="alice", namespace="work").set("k", 1)
    client.store(user="alice", namespace="dead-letter:c").set_many({"a": letter("k"), "b": letter("k")})
    began = datetime.now(UTC) - timedelta(minutes=1)

    async def look() -> None:
        async with AsyncClient(url) as other, AsyncAdmin(other, operator="x") as same:
            assert await same.list_changes(began) == admin.list_changes(began)
            assert [hit async for hit in same.search("needle")] == list(admin.search("needle"))
            assert [one async for one in same.iter_dead_letters()] == list(admin.iter_dead_letters())
            assert await same.retry_dead_letter("alice", "c", "a") == "retried"
            assert await same.drop_dead_letter("alice", "c", "b")
            assert not await same.drop_dead_letter("alice", "c", "b")
            async with same.store("alice").lock("l"):
                assert len(await same.list_locks()) == 1
                assert [one.owner for one in await same.list_locks()] == [one.owner for one in admin.list_locks()]
            assert not await same.release_lock("alice", "l")
            assert await same.list_rate_limits() == []
            assert await same.list_consumers() == await same.list_computations() == await same.list_tags() == []
            assert (await same.server_stats())[0].redis_keys > 3
            assert [entry.what async for entry in same.iter_audit()] == ["dead-letters retry", "dead-letters drop"]
        async with connect_async(url, user="alice") as store:
            assert await store.contains("k")
            assert not await store.contains("none")
            assert await store.count() == 2
            assert list(await store.infos(["k", "none", "l"])) == ["k", "l"]

    asyncio.run(look())


def test_json_of_a_listing_is_one_object_a_line(client: Client, run: Run) -> None:
    client.store(user="alice", namespace="a\u2028b").set("k\x7f", 1)
    line = run("keys", "-u", "alice", "-n", "a\u2028b", "--json", "-q").out
    assert line.count("\n") == 1
    assert "\u2028" not in line
    assert json.loads(line) == {"user": "alice", "namespace": "a\u2028b", "key": "k\x7f"}


def test_tables_stay_readable_with_long_and_wide_names(client: Client, run: Callable[..., Ended]) -> None:
    names = ("n" * 500 + "end", "日本語", "plain", "e\u0301")
    for name in names:
        client.store(user="alice", namespace=name).set("k", 1)
    title, *rows = run("namespaces", "--user", "alice").out.splitlines()
    assert len(title) < 130
    ends = {sum(1 + (each in "日本語") - (each == "\u0301") for each in row[: row.index("  1  ") + 3]) for row in rows}
    assert len(ends) == 1  # the number of keys is below its title in each row
    assert any(row.startswith("alice  nnn") and "…nnn" in row and "nnend " in row for row in rows)
    assert {one["namespace"] for one in run("namespaces", "--user", "alice", "--json").records} == set(names)
