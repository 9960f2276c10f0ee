"""Who has what: users and namespaces with their keys, memory and last write."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from redis_store import Client, LockLost, StoreUnavailable
from redis_store.admin import Admin, AsyncAdmin
from redis_store.admin.usage import infos_per_scan
from redis_store.cli.tables import Column, table, takes_colors
from redis_store.errors import InvalidInput, InvalidSettings, InvalidType
from redis_store.server import join
from redis_store.values.quantities import ago, parse_age, size
from tests.redis_store.admin.conftest import HARD_NAMES, HARD_USERS, Ended
from tests.support.servers import Server


def test_every_user_is_listed_with_what_it_has(client: Client, admin: Admin) -> None:
    for user in HARD_USERS:
        client.store(user=user).set_many({"a": 1, "b\n": 2})
        client.store(user=user, namespace="x\nuser:bob:ns:default").set("c", "v")
    began = datetime.now(UTC) - timedelta(seconds=60)
    found = admin.list_users()
    assert [(one.user, one.namespaces, one.keys) for one in found] == [(user, 2, 3) for user in sorted(HARD_USERS)]
    for one in found:
        assert one.last_write is not None
        assert one.last_write > began
        assert one.bytes is not None
        assert one.bytes > 100


def test_namespaces_of_one_user_are_no_other_users(client: Client, admin: Admin, raw: redis.Redis) -> None:
    for user in HARD_USERS:
        for name in HARD_NAMES:
            client.store(user=user, namespace=name).set("k", 1)
    for user in HARD_USERS:
        assert [(one.user, one.namespace) for one in admin.list_namespaces(user)] == [
            (user, name) for name in sorted(HARD_NAMES)
        ]
    assert [one.namespace for one in admin.list_namespaces("alice", prefix="*")] == ["*"]
    assert [one.user for one in admin.list_namespaces(prefix="a b")] == sorted(HARD_USERS)
    raw.hset("user:{carol}:ns:by hand", "k", "1")
    assert [(one.namespace, one.keys, one.last_write) for one in admin.list_namespaces("carol")] == [
        ("by hand", 1, None)
    ]


def test_orders_and_ages(client: Client, admin: Admin, raw: redis.Redis) -> None:
    client.store(user="big").set("k", "x" * 10_000)
    client.store(user="many").set_many({str(number): 1 for number in range(2500)})
    client.store(user="old").set("k", 1)
    raw.hset("user:old:info:default", "k", '{"created":1600000000000,"by":"a","updated":1600000001000,"metadata":{}}')
    raw.set("user:holder:lock:l", "x")
    assert admin.list_users("keys")[0].user == "many"
    assert [one.user for one in admin.list_users("memory")][:2] == ["many", "big"]
    assert [one.user for one in admin.list_users("last-write")] == ["holder", "old", "big", "many"]
    assert [(one.user, one.keys, one.namespaces, one.last_write) for one in admin.list_users()[1:2]] == [
        ("holder", 0, 0, None)
    ]
    long_ago = admin.list_users(unwritten_since=datetime(2025, 1, 1, tzinfo=UTC))
    assert [(one.user, one.last_write) for one in long_ago] == [("old", datetime.fromtimestamp(1600000001, UTC))]
    with pytest.raises(InvalidInput, match="by must be one of 'name'"):
        admin.list_users("size")  # type: ignore[arg-type]


def test_the_last_write_is_found_in_infos_of_all_forms(client: Client, admin: Admin, raw: redis.Redis) -> None:
    client.store(user="u").set("k", 1)
    for text, seconds in [
        ('{"created":1700000000000}', 1700000000),
        ('{"created":1700000000000,"updated":1700000002000,"updated_by":"x"}', 1700000002),
        ('{"created":1700000000000,"by":"a","metadata":{"updated":1800000000000}}', 1700000000),
        ('{"created":1700000000000,"by":"a","updated":1700000004000}', 1700000004),
        ('{"created":1700000000000000,"updated":1700000003000000,"by":"a"}', 1700000003),
        ("not ours", None),
    ]:
        raw.hset("user:u:info:default", "k", text)
        (one,) = admin.list_users()
        assert one.last_write == (None if seconds is None else datetime.fromtimestamp(seconds, UTC)), text


def test_big_infos_are_read_few_at_a_time(client: Client, admin: Admin) -> None:
    began = datetime.now(UTC) - timedelta(seconds=60)
    client.store(user="u").set_many({str(number): 1 for number in range(150)}, metadata={"m": "x" * 20_000})
    (one,) = admin.list_users()
    assert one.last_write is not None
    assert one.last_write > began
    assert infos_per_scan(150, 150 * 20_000) == 26
    assert len(admin.list_changes(began)) == 150


def test_redis_keys_of_another_type_do_not_stop_a_listing(client: Client, admin: Admin, raw: redis.Redis) -> None:
    client.store(user="fine").set("k", 1)
    raw.set("user:odd:ns:default", "x")
    raw.set("user:odd:info:default", "x")
    raw.set("user:", "x")
    raw.set("user:%zz:ns:a", "x")
    assert [(one.user, one.keys) for one in admin.list_users()] == [("fine", 1), ("odd", 0)]


def test_a_listing_that_is_left_early_leaves_nothing_behind(admin: Admin) -> None:
    for number in range(3):
        admin.note(f"change {number}")
    entries = admin.iter_audit()
    assert next(entries).what == "change 0"
    entries.close()
    assert len(list(admin.iter_audit())) == 3


def test_asyncio_has_the_same(url: str, client: Client, admin: Admin) -> None:
    client.store(user="alice").set("k", 1)

    async def listed() -> None:
        async with AsyncAdmin(url, operator="async") as same:
            assert await same.list_users() == admin.list_users()
            assert await same.list_namespaces("alice") == admin.list_namespaces("alice")
            await same.note("looked", user="alice", count=1)
            assert [entry async for entry in same.iter_audit()] == list(admin.iter_audit())
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
            listing = asyncio.ensure_future(same.list_users())
            await asyncio.sleep(0)
            listing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await listing
            assert await same.list_users() == admin.list_users()

    failures: list[object] = []
    asyncio.run(listed())
    assert failures == []
    (entry,) = admin.iter_audit()
    assert (entry.by, entry.what, entry.outcome, entry.user, entry.count) == ("async", "looked", "done", "alice", 1)


def test_commands_show_names_in_a_line_and_give_them_exactly(client: Client, run: Callable[..., Ended]) -> None:
    for user in HARD_USERS:
        for name in HARD_NAMES:
            client.store(user=user, namespace=name).set("k", 1)
    shown = run("users")
    assert len(shown.out.splitlines()) == 1 + len(HARD_USERS)
    assert "a\\nb " in shown.out
    assert shown.err == f"{len(HARD_USERS)} users.\n"
    assert "\x1b" not in run("namespaces", "--user", "alice").out
    exact = run("namespaces", "--user", "a\nb", "--json", "-q")
    assert [(one["user"], one["namespace"]) for one in exact.records] == [("a\nb", name) for name in sorted(HARD_NAMES)]
    assert exact.err == ""
    assert exact.records[0]["last_write"].endswith("Z")


def test_wrong_usage_and_a_server_that_is_not_there(run: Callable[..., Ended]) -> None:
    assert "'3x' is no time: write" in run("users", "--older-than", "3x", code=2).err
    assert "by must be" in run("users", "--by", "size", code=2).err
    assert "Cannot connect" in run("users", "--url", "redis://127.0.0.1:1", code=5).err
    assert run("namespaces", "--user", "", code=2).err.startswith("redis-store: The user id must not be empty")


def test_options_belong_to_the_client(client: Client) -> None:
    with pytest.raises(InvalidSettings, match="A client has its own options: pass timeout to Client"):
        Admin(client, timeout=3)
    with pytest.raises(InvalidInput, match="operator must be a str of 1 to 256 characters"):
        Admin(client, operator="")


def test_times_have_a_time_zone(admin: Admin) -> None:
    naive = datetime(2026, 1, 1)
    for call in (
        lambda: admin.list_users(unwritten_since=naive),
        lambda: admin.list_namespaces(unwritten_since=naive),
        lambda: admin.list_changes(naive),
        lambda: list(admin.iter_audit(naive)),
    ):
        with pytest.raises(InvalidInput, match="has no time zone: pass"):
            call()
    with pytest.raises(InvalidType, match="must be a datetime or None, not int"):
        list(admin.iter_audit(7))  # type: ignore[arg-type]


def test_times_that_no_clock_shows_are_left_out(client: Client, admin: Admin, raw: redis.Redis) -> None:
    client.store(user="u").set("k", 1)
    raw.hset("user:u:info:default", "k", '{"created":99999999999999999999}')
    raw.hset("user:u:flight:default", "ck", "999999999999999 token -")
    raw.set("user:u:lock:l", '{"fence":99999999999999999999,"owner":"t"}')
    raw.xadd("user:u:log:default", {"": '{"n":1}', "k": "d"}, id="18446744073709551615-1")
    raw.xadd("user::audit", {"by": "x", "count": "9" * 30}, id="18446744073709551615-1")
    assert admin.list_users()[0].keys == 1
    assert admin.list_computations()[0].expires_at is None
    assert admin.list_locks()[0].since is None
    assert [one.source for one in admin.list_changes(datetime(2020, 1, 1, tzinfo=UTC))] == []
    assert list(admin.iter_audit()) == []


def test_ctrl_c_says_how_to_go_on(run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Admin, "list_users", interrupted)
    ended = run("users", code=130)
    assert ended.err == "Stopped by Ctrl-C. Nothing was changed. To start over, run the command again.\n"


def test_warnings_of_the_library_are_shown(run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    def warning(*_: object) -> list[object]:
        logging.getLogger("redis_store.watch").warning("something %s", "odd\x1b")
        return []

    monkeypatch.setattr(Admin, "list_users", warning)
    assert run("users", "-q").err == "redis-store: something odd\\x1b\n"


def test_colors_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert takes_colors(Terminal())
    assert not takes_colors(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not takes_colors(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not takes_colors(Terminal())
    assert list(table([Column("A"), Column("N", True)], [("x\n", 1000), (None, 5)], bold=True)) == [
        "\x1b[1mA        N\x1b[0m",
        "x\\n  1,000",
        "-        5",
    ]


def test_ages_and_sizes() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert ago(now - timedelta(minutes=3), now) == "3 min ago"
    assert ago(now + timedelta(hours=2), now) == "in 2 h"
    assert ago(now, now) == "now"
    assert [size(count) for count in (None, 5, 1024, 3 * 1024**3)] == [None, "5 B", "1.0 KiB", "3.0 GiB"]
    assert parse_age("1.5h") == timedelta(minutes=90)
    for wrong in ("", "5", "-5m", "5 years", "1e9d"):
        with pytest.raises(ValueError, match="is no time: write"):
            parse_age(wrong)


def test_both_forms_of_redis_keys(url: str, client: Client, raw: redis.Redis) -> None:
    client.store(user="plain").set("k", 1)
    with Client(url, hash_tags=True) as tagged, Admin(tagged) as admin:
        store = tagged.store(user="a{b}*", namespace="n", agent="x")
        store.get_or_set("k", lambda: "needle", tags=["t"])
        tagged.store(user="a{b}*", namespace="dead-letter:c").set("odd", 1)
        assert [(one.user, one.keys) for one in admin.list_users()] == [("a{b}*", 2), ("plain", 1)]
        assert [one.namespace for one in admin.list_namespaces("a{b}*")] == ["dead-letter:c", "n"]
        assert [hit.key for hit in admin.search("needle")] == ["k"]
        assert [one.tag for one in admin.list_tags("a{b}*")] == ["t"]
        assert [one.id for one in admin.iter_dead_letters("a{b}*")] == ["odd"]
        lock = store.lock("l")
        lock.acquire()
        assert admin.list_locks()[0].holder == "x"
        assert admin.release_lock("a{b}*", "l")
        assert admin.list_locks() == []
        with pytest.raises(LockLost):
            lock.release()


def test_a_server_that_goes_away_in_the_middle(start: Callable[..., Server]) -> None:
    server = start("valkey9")
    with Client(server.url) as client, Admin(client) as admin:
        for number in range(60):
            client.store(user=f"u{number}").set("k", 1)
        admin.on_step = lambda _: server.kill()
        with pytest.raises(StoreUnavailable):
            admin.list_users()
        with pytest.raises(StoreUnavailable):
            list(admin.search("needle"))


def test_a_folder_names_its_server_also_beside_a_url(client: Client, run: Callable[..., Ended], tmp_path: Path) -> None:
    client.store(user="elsewhere").set("k", 1)
    assert [one["user"] for one in run("users", "--json").records] == ["elsewhere"]
    with join(tmp_path / "data") as here, Client(here.url) as other:
        other.store(user="here").set("k", 1)
        assert [one["user"] for one in run("users", "--json", "--data-dir", str(tmp_path / "data")).records] == ["here"]
