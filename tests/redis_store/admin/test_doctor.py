"""What the doctor finds, and what it mends."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import redis

from redis_store import Client, connect
from redis_store.admin import Admin, AsyncAdmin, doctor
from redis_store.connections.sync import HeldConnection
from redis_store.protocol.command import Command
from redis_store.server import ServerStatus, destroy
from redis_store.values import compression
from tests.redis_store.admin.conftest import HARD_NAMES, Ended

DATA_CHECKS = {"registry", "info", "values", "forms", "locks", "logs", "format", "type"}


def test_sound_data_is_not_complained_of(admin: Admin, client: Client) -> None:
    for name in HARD_NAMES:
        client.store(user="alice", namespace=name).set_many({"a": 1, "b": "x" * 1000})
    with client.store(user="alice").lock("l"):
        assert {one.check for one in admin.doctor()} & DATA_CHECKS == set()


def test_what_is_inconsistent_is_found_and_mended(raw: redis.Redis, client: Client, run: Callable[..., Ended]) -> None:
    hard = HARD_NAMES[0]
    store = client.store(user="alice", namespace=hard)
    store.set("ok", 1)
    raw.srem("user:alice:namespaces", hard)
    raw.hset("user:alice:info:gone", "k", '{"created":1}')
    raw.hset(f"user:alice:ns:{hard}", "bad", "20 apples")
    raw.set("user:alice:lock:stuck", "{}")
    raw.set("user:bob:format", '{"format":7,"read_since":"3.2.1"}')
    raw.hset("user:bob:ns:default", "bad", "20 apples")  # not to be judged by this version
    raw.set("user:dave:ns:default", "text")
    raw.xadd("user:dave:log:default", {"": "{}"})
    raw.sadd("user:carol:namespaces", "a")
    raw.sadd("user:{carol}:namespaces", "a")
    found = run("doctor", "--json", code=1).records
    by_check = {one["check"]: one for one in found}
    assert set(by_check) >= DATA_CHECKS
    assert (by_check["registry"]["namespace"], by_check["values"]["key"]) == (hard, "bad")
    assert all(one["means"] and one["mend"] for one in found)
    assert {one["check"] for one in found if one["user"] == "bob"} == {"format"}
    shown = run("doctor", code=1).out
    assert (
        "wrong: registry: The namespace is not in the registry.\n    user       alice\n    namespace  x\\nuser:bob"
        in shown
    )
    mended = [one for one in run("doctor", "--repair", "--json", code=1).records if one["mended"]]
    assert {one["check"] for one in mended} == {"registry", "info", "logs"}
    assert 6 < raw.pttl("user:dave:log:default") / 86_400_000 <= 7
    assert client.store(user="alice").list_namespaces() == [hard]
    assert not raw.exists("user:alice:info:gone")
    assert store.get("ok") == 1
    assert raw.hget(f"user:alice:ns:{hard}", "bad") == b"20 apples"
    assert {one["check"] for one in run("doctor", "--json", code=1).records} & {"registry", "info", "logs"} == set()


def test_namespaces_are_asked_about_together(
    raw: redis.Redis, client: Client, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"n{number}" for number in range(40)]
    for name in names:
        client.store(user="alice", namespace=name).set_many({str(number): number for number in range(3)})
    client.store(user="alice", namespace="long").set_many({str(number): "x" * 100 for number in range(1200)})
    client.store(user="alice", namespace="heavy").set_many({str(number): "x" * 200_000 for number in range(4)})
    raw.hset("user:alice:ns:n7", "bad", "20 apples")
    raw.hset("user:alice:ns:long", "1199", "20 apples")
    raw.hset("user:alice:ns:heavy", "bad", "20 apples")
    raw.srem("user:alice:namespaces", "n3")
    exchanges = []
    exchange = HeldConnection.exchange

    def counted(self: HeldConnection, commands: Sequence[Command], *rest: Any) -> Any:
        exchanges.append(commands)
        return exchange(self, commands, *rest)

    monkeypatch.setattr(HeldConnection, "exchange", counted)
    found = {(one.check, one.namespace, one.key) for one in admin.doctor() if one.check in DATA_CHECKS}
    assert found == {
        ("values", "n7", "bad"),
        ("values", "long", "1199"),
        ("values", "heavy", "bad"),
        ("registry", "n3", None),
    }
    assert len(exchanges) < len(names)


def test_settings_are_checked(url: str) -> None:
    async def main() -> set[str]:
        async with AsyncAdmin(url) as admin:
            return {one.check for one in await admin.doctor()}

    assert "persistence" in asyncio.run(main())  # the server of the tests saves nothing


def test_compressed_values_are_looked_into(
    raw: redis.Redis, url: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")
    with connect(url, user="alice", compress_above=100) as store:
        store.set("sound", "x" * 1000)
    packed = raw.hget("user:alice:ns:default", "sound")
    assert packed is not None
    assert packed[:1] == b"\x01"
    raw.hset("user:alice:ns:default", mapping={"cut": packed[:-3], "newer": b"\x01new", "not installed": b"\x01"})
    told = {one.key: one.what for one in admin.doctor() if one.check == "values"}
    assert set(told) == {"cut", "newer", "not installed"}
    assert "its end is missing" in told["cut"]
    assert "upgrade" in told["newer"]
    # Where zstd is missing, only what has an unknown encoding is told of.
    monkeypatch.setattr(compression, "_zstd", _missing)
    assert {one.key for one in admin.doctor() if one.check == "values"} == {"newer", "not installed"}


def _missing() -> NoReturn:
    raise ImportError


def test_big_namespaces_that_are_kept_for_undo_are_told(
    raw: redis.Redis, client: Client, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "SLOW_TO_EXPIRE", 2)
    client.store(user="alice").set_many({"a": 1, "b": 2})
    admin.clear("alice", "default")
    before = raw.config_get("lazyfree-lazy-expire")["lazyfree-lazy-expire"]
    try:
        for setting in ("no", "yes"):
            raw.config_set("lazyfree-lazy-expire", setting)
            assert any(one.check == "undo" for one in admin.doctor()) is (setting == "no")
    finally:
        raw.config_set("lazyfree-lazy-expire", before)


def test_the_embedded_server_is_told_of() -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with Admin(data_dir=folder) as admin:
                told = [one for one in admin.doctor() if one.check == "embedded"]
                wanted = (
                    f"in {folder!r}: valkey {admin.server_stats()[0].version}, ready, everysec, not pinned, used by 1 "
                )
        finally:
            destroy(folder, force=True)
    (one,) = told
    assert (one.level, wanted in one.what) == ("note", True)
    state = ServerStatus(Path("/d"), Path("/s"), "unix:///s", True, "ready", 1, "valkey", "9", "always", True, 2)
    assert [one.level for one in doctor.check_embedded(state, 10, 11)] == ["note", "wrong"]


def test_data_of_a_newer_format_is_not_read_or_written(
    raw: redis.Redis, client: Client, run: Callable[..., Ended], tmp_path: Path
) -> None:
    client.store(user="alice", namespace="dead-letter:c").set("k", {"a": 1})
    raw.hset(
        "user:newer:ns:dead-letter:c", "k", '{"a":1}'
    )  # not by a store: no process of this version has looked at this user
    raw.hset("user:newer:info:dead-letter:c", "k", "{}")
    raw.sadd("user:newer:namespaces", "dead-letter:c")
    raw.set("user:newer:format", '{"format":7,"read_since":"3.2.1"}')
    before = {key: raw.dump(key) for key in raw.keys("user:newer:*")}
    for arguments in (
        ("export", str(tmp_path / "all.jsonl")),
        ("export", "--user", "newer", str(tmp_path / "newer.jsonl")),
        ("export", "--user", "newer", "--namespace", "dead-letter:c", str(tmp_path / "one.jsonl")),
        ("search", "a"),
        ("tail", "--since", "10m"),
        ("dead-letters",),
        ("consumers", "--user", "newer"),
        ("copy", "dead-letter:c", "b", "--user", "newer"),
        ("rename", "dead-letter:c", "b", "--user", "newer"),
        ("clear", "--user", "newer", "--prefix", "dead", "--yes"),
        ("clear", "--user", "newer", "--namespace", "dead-letter:c", "--yes"),
        ("undo", "--user", "newer", "--namespace", "dead-letter:c"),
        ("user", "delete", "newer", "--yes"),
    ):
        ended = run(*arguments, code=1)
        assert "'newer' has format 7" in ended.err, arguments
        assert "3.2.1" in ended.err
    assert list(tmp_path.iterdir()) == []
    assert {key: raw.dump(key) for key in raw.keys("user:newer:*")} == before
    assert run("export", "--user", "alice", str(tmp_path / "alice.jsonl")).code == 0
