"""The Redis keys of a namespace, as an operator sees them with redis-cli: names, types and texts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import redis

from redis_store import DataStore
from redis_store.ops.key_info import version_in, version_of
from redis_store.scripts import _load
from tests.support.redis_view import NamespaceView
from tests.support.servers import KINDS_WITH_TTL, Server, wait_until


@pytest.fixture
def store(real_server: Server, open_store: Callable[..., DataStore], user: str) -> DataStore:
    return open_store(real_server.url, user, namespace="files:my repo", agent="ingest")


@pytest.fixture
def view(raw: redis.Redis, user: str) -> NamespaceView:
    return NamespaceView(raw, user, "files:my repo")


def keys_of(raw: redis.Redis, user: str) -> set[str]:
    """Return all Redis keys of a user."""
    return {key.decode() for key in raw.scan_iter(match=f"user:{user}:*", count=10_000)}


def now_ms(raw: redis.Redis) -> int:
    """Return the server's clock."""
    seconds, microseconds = raw.time()
    return int(seconds * 1000 + microseconds // 1000)


def test_the_keys_and_their_types(store: DataStore, raw: redis.Redis, user: str) -> None:
    store.set("src/main.py", {"lines": 120})
    expected = {
        f"user:{user}:ns:files:my repo": b"hash",
        f"user:{user}:namespaces": b"set",
        f"user:{user}:info:files:my repo": b"hash",
        f"user:{user}:format": b"string",
    }
    assert keys_of(raw, user) == set(expected)
    assert {name: raw.type(name) for name in expected} == expected
    assert raw.hgetall(f"user:{user}:ns:files:my repo") == {b"src/main.py": b'{"lines":120}'}
    assert raw.smembers(f"user:{user}:namespaces") == {b"files:my repo"}
    assert raw.hkeys(f"user:{user}:info:files:my repo") == [b"src/main.py"]


def test_a_user_id_is_percent_encoded(real_server: Server, open_store: Any, raw: redis.Redis, user: str) -> None:
    store = open_store(real_server.url, f"{user}:ä b*", namespace="*:{x}")
    store.set("key", 1)
    assert keys_of(raw, f"{user}%3A%C3%A4%20b%2A") == {
        f"user:{user}%3A%C3%A4%20b%2A:{part}" for part in ("ns:*:{x}", "namespaces", "info:*:{x}", "format")
    }
    store.clear()


def test_values_are_compact_json_text(store: DataStore, raw: redis.Redis, view: NamespaceView) -> None:
    for value, text in (
        ({"a": [1, 2.5, None, True], "é": "🦊\n"}, '{"a":[1,2.5,null,true],"é":"🦊\\n"}'),
        (None, "null"),
        ([], "[]"),
        ({}, "{}"),
        (2**70, "1180591620717411303424"),
        ("x", '"x"'),
    ):
        store.set("key", value)
        assert raw.hget(view.keys["data"], "key").decode() == text
        store.set_many({"key": 0, "other": value})
        assert raw.hget(view.keys["data"], "other").decode() == text


def info_text(view: NamespaceView, key: str = "key") -> str:
    return view.raw.hget(view.keys["info"], key).decode()


def test_info_is_compact_and_leaves_out_what_is_equal_or_empty(
    real_server: Server, store: DataStore, open_store: Any, view: NamespaceView, user: str
) -> None:
    nobody = open_store(real_server.url, user, namespace="files:my repo")
    second = open_store(real_server.url, user, namespace="files:my repo", agent='ind"ex\\é')
    begun = now_ms(view.raw)
    store.set("key", 1)
    created = re.fullmatch(r'(\{"created":(\d{16})),"by":"ingest"\}', info_text(view))
    assert created
    assert begun <= int(created[2]) // 1000 <= now_ms(view.raw), "the server's clock, in µs"
    first = re.escape(created[1]) + r',"updated":\d{16},"by":"ingest"'

    store.set("key", 2)
    assert re.fullmatch(first + r"\}", info_text(view))
    second.set("key", 3, metadata={"b": [1], "a": {"é": None}})
    assert re.fullmatch(
        first + r',"updated_by":"ind\\u0022ex\\u005c\\u00e9","metadata":\{"b":\[1\],"a":\{"é":null\}\}\}',
        info_text(view),
    )
    nobody.set("key", 4)
    assert re.fullmatch(
        first + r',"updated_by":null,"metadata":\{"b":\[1\],"a":\{"é":null\}\}\}',
        info_text(view),
    )
    nobody.set("nobody's", 1)
    assert re.fullmatch(r'\{"created":\d{16}\}', info_text(view, "nobody's"))
    second.set("nobody's", 1)
    assert re.fullmatch(
        r'\{"created":\d{16},"updated":\d{16},"updated_by":"ind\\u0022ex\\u005c\\u00e9"\}',
        info_text(view, "nobody's"),
    )
    nobody.set("new", 1, metadata={"m": 1})
    assert re.fullmatch(r'\{"created":\d{16},"metadata":\{"m":1\}\}', info_text(view, "new"))


def test_a_batch_writes_the_same_info_as_single_writes(store: DataStore, view: NamespaceView) -> None:
    store.set("key-5", 0, metadata={"own": 1})
    store.set_many({f"key-{number}": number for number in range(2500)}, metadata={"b": 1})
    for key, text in view.raw.hgetall(view.keys["info"]).items():
        known = json.loads(text)
        assert next(iter(known)) == "created"
        assert list(known)[-1] == "metadata"
        assert known["metadata"] == ({"own": 1, "b": 1} if key == b"key-5" else {"b": 1})
    assert view.raw.hlen(view.keys["info"]) == 2500


def test_no_log_without_watcher(store: DataStore, view: NamespaceView) -> None:
    store.set("key", 1)
    store.set_many({f"key-{number}": number for number in range(1500)})
    store.delete("key")
    store.clear()
    assert view.raw.exists(view.keys["log"]) == 0


def test_deletes_leave_nothing(store: DataStore, raw: redis.Redis, view: NamespaceView, user: str) -> None:
    ways: dict[str, Callable[[], Any]] = {
        "delete": lambda: store.delete("key"),
        "delete_many": lambda: store.delete_many(["key", "absent"]),
        "clear": store.clear,
    }
    for name, empty in ways.items():
        store.set("key", 1, metadata={"m": 1})
        empty()
        assert keys_of(raw, user) == set(), name
    store.set_many({"key": 1, "stays": 2})
    store.delete("key")
    assert raw.hgetall(view.keys["data"]) == {b"stays": b"2"}
    assert raw.hkeys(view.keys["info"]) == [b"stays"]


def test_info_of_a_key_deleted_by_hand_stays_dead(store: DataStore, view: NamespaceView) -> None:
    store.set_many({"key": 1, "stays": 1}, metadata={"old": 1})
    view.raw.hdel(view.keys["data"], "key")
    assert store.info("key") is None
    for write in (
        lambda: store.set("key", 2),
        lambda: store.set_many({"key": 2, "new": 1}),
        lambda: store.set("key", 2, metadata={"new": 1}),
        lambda: store.set_many({"key": 2}, metadata={"new": 1}),
    ):
        view.raw.hset(view.keys["info"], "key", '{"created":1,"by":"ghost","metadata":{"old":1}}')
        view.raw.hdel(view.keys["data"], "key")
        write()
        assert "old" not in info_text(view)
        assert "ghost" not in info_text(view)
        assert json.loads(info_text(view))["created"] > 1


@pytest.mark.parametrize("real_server", [kind for kind in KINDS_WITH_TTL if kind != "fakeredis"], indirect=True)
class TestTimesToLive:
    """A ttl is per field, in the info hash too."""

    def expiries(self, view: NamespaceView, *fields: str) -> list[Any]:
        """Return the expiry times of some fields, in the data and in the info hash."""
        return [
            view.raw.execute_command("HPEXPIRETIME", view.keys[part], "FIELDS", len(fields), *fields)
            for part in ("data", "info")
        ]

    def test_of_one_key(self, store: DataStore, view: NamespaceView) -> None:
        store.set("stays", 1)
        begun = now_ms(view.raw)
        store.set("key", 1, ttl=100)
        data, info = self.expiries(view, "key", "stays")
        assert data == info
        assert begun + 100_000 <= data[0] <= now_ms(view.raw) + 100_000
        assert data[1] == -1
        store.set("key", 2)
        assert self.expiries(view, "key") == [[-1], [-1]]

    def test_of_a_batch(self, store: DataStore, view: NamespaceView) -> None:
        store.set_many({f"key-{number}": number for number in range(1500)}, ttl=100, metadata={"m": 1})
        data, info = self.expiries(view, *(f"key-{number}" for number in range(1500)))
        assert data == info
        assert min(data) > now_ms(view.raw)
        store.set_many({f"key-{number}": number for number in range(1500)})
        data, info = self.expiries(view, *(f"key-{number}" for number in range(1500)))
        assert set(data) == set(info) == {-1}

    def test_expired_keys_leave_no_redis_keys(self, store: DataStore, raw: redis.Redis, user: str) -> None:
        store.set_many({"a": 1, "b": 2}, ttl=0.02)
        wait_until(lambda: store.get_many(["a", "b"]) == {}, "they have expired")
        store.list_namespaces()
        wait_until(lambda: store.list_namespaces() == [] and keys_of(raw, user) == set(), "nothing is left")


def test_a_batch_is_one_transaction_of_scripts(store: DataStore, raw: redis.Redis, user: str) -> None:
    store.get("key-0")  # the first operation for a user also looks at what the user has
    with raw.monitor() as monitor:
        store.set_many({f"key-{number}": number for number in range(2500)})
        raw.echo("the end")
        seen = []
        for command in monitor.listen():
            if command["client_type"] == "lua":
                continue
            words = command["command"].split(" ")
            if words[0] == "ECHO":
                break
            if user in command["command"] or words[0] in ("MULTI", "EXEC"):
                seen.append(words[0].upper())
    assert seen == ["MULTI", "EVAL", "EVALSHA", "EVALSHA", "EXEC"]


def test_one_write_is_one_command(store: DataStore, raw: redis.Redis, user: str) -> None:
    store.set("warm", 1)
    store.delete("warm")
    store.clear()
    with raw.monitor() as monitor:
        store.set("key", 1)
        store.set("key", 1, metadata={"m": 1})
        store.delete("key")
        store.clear()
        raw.echo("the end")
        seen = []
        for command in monitor.listen():
            if command["command"].startswith("ECHO"):
                break
            if command["client_type"] != "lua" and user in command["command"]:
                seen.append(command["command"].split(" ")[0])
    assert seen == ["EVALSHA"] * 4, "also with metadata, where the key had none"


def test_nothing_scans_the_keyspace(store: DataStore, raw: redis.Redis) -> None:
    raw.config_resetstat()
    store.set_many({f"key-{number}": number for number in range(1200)}, metadata={"m": 1})
    store.list_keys("key-1"), store.get_all(), store.list_namespaces(), list(store.iter_items()), store.info("key-1")
    store.delete_many(["key-1", "key-2"]), store.clear()
    used = {name.removeprefix("cmdstat_") for name in raw.info("commandstats")}
    assert not used & {"keys", "scan", "flushdb", "flushall", "select", "config|get"}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (b'{"created":1795451319752}', 1795451319752000),
        (b'{"created":1795451319752,"by":"a","updated":1795451319761}', 1795451319761000),
        (b'{"created":1795451319752000,"updated":1795451319752001,"by":"a"}', 1795451319752001),
        (b'{"created":1,"by":"a","updated":99999999999999999999}', 1000),
        (b'{"created":99999999999999999999}', None),
        (b'{"created":"1795451319752"}', None),
        (b'{ "created": 1795451319752}', None),
        (b'{"by":"a"}', None),
        (b"", None),
        (None, None),
    ],
)
def test_version_of_an_info(text: bytes | None, version: int | None, one_server: Server) -> None:
    """Scripts and callers read the same version in an info."""
    assert version_in(text) == version
    with one_server.client() as raw:
        raw.hset("{v}data", "key", 1)
        if text is not None:
            raw.hset("{v}info", "key", text)
        script = _load("base", "times", "version").text + b"return version_of(KEYS[1], KEYS[2], 'key')"
        assert version_of(raw.eval(script, 2, "{v}data", "{v}info")) == version
        raw.delete("{v}data", "{v}info")
