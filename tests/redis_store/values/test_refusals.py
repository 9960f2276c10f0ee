"""A server that refuses: replicas, access rules, wrong passwords, an emptied script cache."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import redis

from redis_store import (
    DataStore,
    PermissionDenied,
    ServerReadOnly,
    ServerRefused,
    WrongKeyType,
    connect,
)
from tests.support.redis_view import NamespaceView
from tests.support.servers import REAL_KINDS, Server, wait_until

MANY = {f"key-{number}": number for number in range(2500)}
BIG = {f"key-{number}": "x" * 2000 for number in range(1200)}

each_kind = pytest.mark.parametrize("kind", REAL_KINDS)

WRITES: dict[str, Callable[[DataStore], Any]] = {
    "set": lambda store: store.set("key", 1),
    "set with metadata": lambda store: store.set("key", 1, metadata={"m": 1}),
    "set_many": lambda store: store.set_many(MANY),
    "set_many of big values": lambda store: store.set_many(BIG),
    "set_many of a big value that is there": lambda store: store.set_many({"old": "x" * 2000}),
    "set_many with metadata": lambda store: store.set_many(MANY, metadata={"m": 1}),
    "delete": lambda store: store.delete("old"),
    "delete_many": lambda store: store.delete_many(["old", *MANY]),
    "clear": lambda store: store.clear(),
    "pop": lambda store: store.pop("old", None),
    "rename": lambda store: store.rename("old", "new") if "old" in store else None,
    "increment": lambda store: store.increment("old"),
    "set in a bound": lambda store: store.use_namespace("default", max_keys=1).set("key", 1),
}


@each_kind
def test_a_replica_takes_no_writes(
    kind: str, start: Callable[..., Server], open_store: Any, raw_of: Callable[..., redis.Redis]
) -> None:
    server = start(kind)
    store = open_store(server.url, "alice")
    store.set("old", 1)
    view = NamespaceView(raw_of(server), "alice")
    view.watch()
    view.raw.replicaof("127.0.0.1", 1)
    before = view.snapshot()
    for name, write in WRITES.items():
        with pytest.raises(ServerReadOnly, match="primary") as caught:
            write(store)
        assert isinstance(caught.value, ServerRefused)
        assert view.snapshot() == before, name
    assert store.get_all() == {"old": 1}
    assert store.list_namespaces() == ["default"]


@each_kind
def test_a_server_that_cannot_save_takes_no_writes(
    kind: str, start: Callable[..., Server], open_store: Any, raw_of: Callable[..., redis.Redis]
) -> None:
    server = start(kind)
    store = open_store(server.url, "alice")
    store.set("old", 1)
    view = NamespaceView(raw_of(server), "alice")
    (server.folder / "dump.rdb").mkdir()  # so that it cannot be written
    view.raw.config_set("save", "3600 1")
    view.raw.bgsave()
    wait_until(lambda: view.raw.info("persistence")["rdb_last_bgsave_status"] == "err", "saving has failed")
    before = view.snapshot()
    for name, write in WRITES.items():
        with pytest.raises(ServerReadOnly, match="save"):
            write(store)
        assert view.snapshot() == before, name
    assert store.get("old") == 1


@each_kind
def test_too_few_replicas(
    kind: str, start: Callable[..., Server], open_store: Any, raw_of: Callable[..., redis.Redis]
) -> None:
    server = start(kind)
    store = open_store(server.url, "alice")
    store.set("old", 1)
    view = NamespaceView(raw_of(server), "alice")
    view.raw.config_set("min-replicas-to-write", 1)
    before = view.snapshot()
    for name, write in WRITES.items():
        with pytest.raises(ServerReadOnly, match="replicas"):
            write(store)
        assert view.snapshot() == before, name


RULES = {
    "no commands": ["-@all", "+hello", "+auth"],
    "no scripts": ["+@all", "-@scripting"],
    "read only": ["+@all", "-@write"],
    "another user's keys": ["+@all"],
    "no SADD": ["+@all", "-sadd"],
    "no XADD": ["+@all", "-xadd"],
    "no SREM": ["+@all", "-srem"],
    "no UNLINK": ["+@all", "-unlink"],
    "no EXEC": ["+@all", "-exec"],
    "no MULTI": ["+@all", "-multi"],
    "no WATCH": ["+@all", "-watch"],
    "no WATCH and no XADD": ["+@all", "-watch", "-xadd"],
    "no HMGET": ["+@all", "-hmget"],
    "no HEXISTS": ["+@all", "-hexists"],
    "no HSET": ["+@all", "-hset"],
    "no HLEN": ["+@all", "-hlen"],
    "no HRANDFIELD": ["+@all", "-hrandfield"],
    "no TIME": ["+@all", "-time"],
    "no EXISTS": ["+@all", "-exists"],
}
NEEDLESS = {"no EXISTS"}
"""The rules that stop none of these writes."""


@each_kind
@pytest.mark.parametrize("rule", RULES)
def test_access_rules_refuse_whole(
    kind: str,
    rule: str,
    servers: Any,
    open_store: Any,
    raw_of: Callable[..., redis.Redis],
    user: str,
) -> None:
    """A write that an access rule stops has written nothing."""
    server = servers.get(kind)
    raw = raw_of(server)
    view = NamespaceView(raw, user)
    raw.execute_command(
        "ACL", "SETUSER", user, "on", ">pw", *(["~other:*"] if rule == "another user's keys" else ["~*"]), *RULES[rule]
    )
    limited = open_store(f"{server.url}?username={user}&password=pw", user)
    refused = []
    try:
        for name, write in WRITES.items():
            for old in ({"old": 1}, {}):
                start_over(server, view, user, old)
                before = view.snapshot()
                with suppress(PermissionDenied):
                    write(limited)
                    continue
                refused.append(name)
                assert view.snapshot() == before, f"{name} was refused and has written something"
    finally:
        raw.execute_command("ACL", "DELUSER", user)
    assert refused or rule in NEEDLESS


@each_kind
@pytest.mark.parametrize("right", ["hdel", "persist"])
def test_computed_value_refused_in_part_is_not_kept(
    kind: str,
    right: str,
    servers: Any,
    open_store: Any,
    raw_of: Callable[..., redis.Redis],
    user: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = servers.get(kind)
    raw = raw_of(server)
    raw.execute_command("ACL", "SETUSER", user, "on", ">pw", "~*", "+@all", f"-{right}")
    limited = open_store(f"{server.url}?username={user}&password=pw", user)
    view = NamespaceView(raw, user)
    before = view.snapshot()
    try:
        assert limited.get_or_set("key", lambda: 1, tags=["t"]) == 1
    finally:
        raw.execute_command("ACL", "DELUSER", user)
    assert view.snapshot() == before
    assert [record.levelname for record in caplog.records if right in record.message.lower()] == ["WARNING"]


@each_kind
def test_a_value_that_could_not_be_deleted_keeps_its_tag(
    kind: str, servers: Any, open_store: Any, raw_of: Callable[..., redis.Redis], user: str
) -> None:
    server = servers.get(kind)
    raw = raw_of(server)
    store = open_store(server.url, user)
    store.get_or_set("key", lambda: 1, tags=["t"])
    keys = NamespaceView(raw, user).keys
    raw.rename(keys["info"], "elsewhere-" + user)
    raw.set(keys["info"], "of another type")
    with pytest.raises(WrongKeyType):
        store.invalidate_tag("t")
    raw.rename("elsewhere-" + user, keys["info"])
    raw.execute_command("ACL", "SETUSER", user, "on", ">pw", "~*", "+@all", "-zrem")
    try:
        with pytest.raises(PermissionDenied, match="ZREM"):
            open_store(f"{server.url}?username={user}&password=pw", user).invalidate_tag("t")
    finally:
        raw.execute_command("ACL", "DELUSER", user)
    assert store.get("key") == 1
    assert store.invalidate_tag("t") == 1
    assert store.get("key") is None


def start_over(server: Server, view: NamespaceView, user: str, items: dict[str, Any]) -> None:
    """Create a watched namespace that holds exactly these items."""
    view.raw.delete(*view.keys.values())
    with connect(server.url, user=user) as owner:
        owner.set_many(items)
    view.watch()


def test_an_emptied_script_cache(real_server: Server, open_store: Any, raw_of: Any, user: str) -> None:
    store, raw = open_store(real_server.url, user), raw_of(real_server)
    calls: dict[str, Callable[[], Any]] = {
        "set": lambda: store.set("key", 1),
        "set with metadata": lambda: store.set("key", 1, metadata={"m": 1}),
        "set_many": lambda: store.set_many(MANY),
        "set_many with metadata": lambda: store.set_many(MANY, metadata={"n": 1}),
        "info": lambda: store.info("key"),
        "list_keys": lambda: store.list_keys(),
        "get_all": lambda: store.get_all(),
        "list_namespaces": lambda: store.list_namespaces(),
        "iter_items": lambda: list(store.iter_items()),
        "delete_many": lambda: store.delete_many(list(MANY)),
        "delete": lambda: store.delete("key"),
        "clear": lambda: store.clear(),
    }
    results = {}
    for name, call in calls.items():
        raw.script_flush()
        results[name] = call()
    everything = {"key": 1, **MANY}
    assert results["set_many"] == results["set_many with metadata"] == results["delete_many"] == 2500
    assert results["info"].metadata == {"m": 1}
    assert results["list_keys"] == sorted(everything)
    assert results["get_all"] == dict(results["iter_items"]) == everything
    assert results["list_namespaces"] == ["default"]
    assert results["delete"] is True
    assert results["clear"] == 0
