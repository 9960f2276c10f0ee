"""A server that says no: replicas, access rules, wrong passwords, an emptied script cache."""

from __future__ import annotations

import asyncio
import logging
import pickle
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import redis

from redis_store import (
    AuthenticationFailed,
    DataStore,
    DataStoreError,
    PermissionDenied,
    ServerReadOnly,
    ServerRefused,
    StoreUnavailable,
    connect,
    connect_async,
)
from tests.redis_view import NamespaceView
from tests.servers import REAL_KINDS, Server, wait_until

MANY = {f"key-{number}": number for number in range(2500)}
PASSWORD = "s3cr-%40-pässwörd"

each_kind = pytest.mark.parametrize("kind", REAL_KINDS)

WRITES: dict[str, Callable[[DataStore], Any]] = {
    "set": lambda store: store.set("key", 1),
    "set with metadata": lambda store: store.set("key", 1, metadata={"m": 1}),
    "set_many": lambda store: store.set_many(MANY),
    "set_many with metadata": lambda store: store.set_many(MANY, metadata={"m": 1}),
    "delete": lambda store: store.delete("old"),
    "delete_many": lambda store: store.delete_many(["old", *MANY]),
    "clear": lambda store: store.clear(),
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
}


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
    """Whatever a rule forbids, a write that it stops has written nothing."""
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
    assert refused


def start_over(server: Server, view: NamespaceView, user: str, items: dict[str, Any]) -> None:
    """Put a watched namespace in place that holds these items and nothing else."""
    view.raw.delete(*view.keys.values())
    with connect(server.url, user=user) as owner:
        owner.set_many(items)
    view.watch()


@each_kind
def test_a_wrong_password(kind: str, start: Callable[..., Server], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = start(kind, "--requirepass", PASSWORD)
    good = f"{server.url}?password={redis_quote(PASSWORD)}"
    errors: list[BaseException] = []
    for url in (server.url, f"{server.url}?password=wr0ng-guess", f"{server.url}?username=bob&password=wr0ng-guess"):
        with connect(url, user="alice") as store, pytest.raises(AuthenticationFailed) as caught:
            store.get("key")
        errors.append(caught.value)
        errors.append(async_error(url))
    with connect(good, user="alice") as store:
        store.set("key", 1)
        assert store.get("key") == 1
        assert PASSWORD not in repr(store)
        assert redis_quote(PASSWORD) not in repr(store)
        server.restart()
        server.kill()
        with pytest.raises(StoreUnavailable) as lost:
            store.set("key", 1)
        errors.append(lost.value)
        errors.append(async_error(good))
    for error in errors:
        shown = "".join([str(error), repr(error), repr(error.__dict__), *traceback.format_exception(error)])
        assert not any(secret in shown for secret in (PASSWORD, redis_quote(PASSWORD), "wr0ng-guess"))
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert PASSWORD not in caplog.text
    assert "wr0ng-guess" not in caplog.text


def async_error(url: str) -> DataStoreError:
    """The error of a get that fails."""

    async def main() -> DataStoreError:
        async with connect_async(url, user="alice") as store:
            with pytest.raises(StoreUnavailable) as caught:
                await store.get("key")
            assert PASSWORD not in repr(store)
            return caught.value

    return asyncio.run(main())


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@127.0.0.1:1/0",
        "redis://bob:hunter2@127.0.0.1:1/0",
        "redis://127.0.0.1:1/0?password=hunter2",
        "redis://:hunter2@host:port/0",
        "redis://:hunter2@127.0.0.1:1/0?nonsense=1",
        "redis://:hunter2@127.0.0.1:1/0?db=hunter3",
        "http://:hunter2@127.0.0.1",
        "redis+sentinel://:hunter2@host/service/0",
        "unix:///nowhere?password=hunter2",
        "rediss://:hunter2@127.0.0.1:1/0",
        "redis://:hunter2/and@127.0.0.1:1/0",
        "redis://:hunter2#and@127.0.0.1:1/0",
        "redis://:hunter2?and@127.0.0.1:1/0",
        "redis://bob:1/hunter2@127.0.0.1:1/0",
        "redis://bob:1#hunter2@127.0.0.1:1/0",
        "redis://bob:1?hunter2@127.0.0.1:1/0",
        "redis://[:hunter2@127.0.0.1:1/0",
    ],
)
def test_a_password_never_shows(url: str, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> None:
    caplog.set_level(logging.DEBUG)
    shown = []
    for attempt in (sync_attempt, async_attempt):
        try:
            shown.append(attempt(url))
        except DataStoreError as error:
            shown += [str(error), repr(error), repr(error.facts), *traceback.format_exception(error)]
    assert shown
    assert not [text for text in [*shown, caplog.text] if "hunter2" in text.replace(url, "")]


def sync_attempt(url: str) -> str:
    """Use a store at a url, and return what it shows of itself."""
    with connect(url, user="alice") as store:
        try:
            store.set("key", 1)
        finally:
            shown = repr(store)
    return shown


def async_attempt(url: str) -> str:
    """The same for asyncio."""

    async def main() -> str:
        async with connect_async(url, user="alice") as store:
            with pytest.raises(StoreUnavailable) as caught:
                await store.set("key", 1)
            return repr(store) + str(caught.value)

    return asyncio.run(main())


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


def redis_quote(text: str) -> str:
    """A password as a url wants it."""
    from urllib.parse import quote

    return quote(text, safe="")
