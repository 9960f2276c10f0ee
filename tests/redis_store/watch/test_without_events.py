"""A server without keyspace events: watching continues with ``XREAD``, and one warning lists the drawbacks."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from redis_store import connect
from redis_store.admin.logins import COMMANDS
from redis_store.server_config import NEEDED_FLAGS
from tests.redis_store.watch.conftest import OpenWatchSide, refuses_ttl, said
from tests.support.servers import Server, wait_until


@pytest.fixture(autouse=True)
def frequent_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without events, external writes are noticed when the hub looks. It looks more often than it normally does."""
    monkeypatch.setattr("redis_store.hub.hub.TICK_S", 0.05)
    monkeypatch.setattr("redis_store.hub.compare.REST_S", 0.05)


@pytest.fixture
def silent(start: Callable[..., Server], real_server: Server) -> Server:
    return start(real_server.kind)


def test_writes_come_in_order_and_warning_once(
    silent: Server, open_watch_side: OpenWatchSide, caplog: pytest.LogCaptureFixture
) -> None:
    side = open_watch_side(silent.url, user="u", configure_server=False)
    watch, other = side.watch(), side.use_namespace("other").watch()
    side.set("a", 1)
    side.set_many({"b": "x" * 3000, "c": 3})
    assert said([watch.next() for _ in range(3)]) == [("set", "a", 1), ("set", "b", "x" * 3000), ("set", "c", 3)]
    side.clear()
    assert said([watch.next()]) == [("clear", None, None)]
    side.use_namespace("other").set("o", 1)
    assert other.next().key == "o"
    assert len([record for record in caplog.records if "no keyspace events" in record.message]) == 1


def test_external_key_count_change_is_noticed(silent: Server, open_watch_side: OpenWatchSide) -> None:
    side = open_watch_side(silent.url, user="u", configure_server=False)
    side.set_many({"a": 1, "b": 2})
    watch = side.watch()
    with silent.client() as raw:
        raw.hset("user:u:ns:default", "by hand", "1")
        assert said([watch.next()]) == [("set", "by hand", 1)]
        raw.hdel("user:u:ns:default", "a")
        assert said([watch.next()]) == [("delete", "a", None)]
        raw.flushall()
        assert watch.next().op in ("clear", "reset")


def test_an_expired_key_is_noticed(silent: Server, open_watch_side: OpenWatchSide) -> None:
    side = open_watch_side(silent.url, user="u", configure_server=False)
    if not silent.has_ttl:
        refuses_ttl(side)
        return
    watch = side.watch()
    side.set("a", 1, ttl=0.05)
    assert said([watch.next(), watch.next()]) == [("set", "a", 1), ("expire", "a", None)]


def test_waiting_and_new_namespaces(silent: Server, open_watch_side: OpenWatchSide) -> None:
    side = open_watch_side(silent.url, user="u", configure_server=False)
    watch = side.watch_all()
    side.use_namespace("new").set("a", 1)
    assert watch.next().namespace == "new"
    with silent.client() as raw:
        raw.hset("user:u:ns:default", "by hand", "1")
    assert side.wait_for("by hand", timeout=20) == 1


def test_lost_server_is_reconnected(silent: Server, open_watch_side: OpenWatchSide) -> None:
    side = open_watch_side(silent.url, user="u", configure_server=False)
    watch = side.watch()
    silent.restart()
    wait_until(lambda: _written(side), "the server is back")
    assert watch.until(lambda change: change.key == "a")[0].op == "reset"


def _written(side: Any) -> bool:
    from redis_store import StoreUnavailable

    try:
        side.set("a", 1)
    except StoreUnavailable:
        return False
    return True


@pytest.mark.parametrize(
    "rights",
    [
        "+@all -config -client",
        "+@all -config -publish",
        "+@all -config -subscribe -unsubscribe",
        "+@all -config resetchannels",
    ],
)
def test_user_without_config_right(
    silent: Server, open_watch_side: OpenWatchSide, rights: str, caplog: pytest.LogCaptureFixture
) -> None:
    with silent.client() as raw:
        raw.execute_command("ACL", "SETUSER", "weak", "on", ">secret", "~*", "&*", *rights.split())
    url = silent.url.replace("unix://", "unix://weak:secret@")
    side = open_watch_side(url, user="u", configure_server=True)
    watch = side.watch()
    side.set("a", 1)
    assert said([watch.next()]) == [("set", "a", 1)]
    with connect(silent.url, user="u") as writer:
        for key in ("b", "c"):
            later = threading.Timer(0.02, writer.set, (key, 2))
            later.start()
            assert side.wait_for(key, timeout=20) == 2
            later.join()
    assert said([watch.next(), watch.next()]) == [("set", "b", 2), ("set", "c", 2)]
    assert "no keyspace events" in caplog.text
    assert "secret" not in caplog.text
    assert "interrupted" not in caplog.text


def test_documented_rights_suffice(
    silent: Server, open_watch_side: OpenWatchSide, caplog: pytest.LogCaptureFixture
) -> None:
    text = (Path(__file__).parents[3] / "docs" / "data-model.md").read_text()
    found = re.search(r"^ACL SETUSER store on >password (.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    rules = found[1].split()
    assert {rule[1:] for rule in rules if rule.startswith("+")} == set(COMMANDS)
    with silent.client() as raw:
        raw.config_set("notify-keyspace-events", NEEDED_FLAGS)  # as the operator does
        raw.execute_command("ACL", "SETUSER", "plain", "on", ">secret")
        for rule in rules:
            with contextlib.suppress(redis.ResponseError):  # Redis 7.0 does not know all of them
                raw.execute_command("ACL", "SETUSER", "plain", rule)
    side = open_watch_side(silent.url.replace("unix://", "unix://plain:secret@"), user="u")
    watch = side.watch_all(consumer="c", initial=True)
    side.set("a", 1)
    assert watch.next().key == "a"
    with silent.client() as raw:
        raw.hset("user:u:ns:default", "b", "2")
        assert watch.next().key == "b"
        assert side.wait_for("b") == 2
        refused = {entry["object"] for entry in raw.acl_log() if entry["username"] == "plain"}
        assert refused <= {"info", "config|get"}, "which are asked for and not needed"
    assert "no keyspace events" not in caplog.text


def test_events_turned_off_and_on(silent: Server) -> None:
    with connect(silent.url, user="u", configure_server=True) as store, store.watch() as watch, silent.client() as raw:
        raw.config_set("notify-keyspace-events", "")
        for i in range(3):
            store.set("a", i)
            change = watch.next_change(20)
            assert change is not None
            assert change.value == i
        wait_until(lambda: _flags(raw), "they are turned on again")


def test_events_turned_off_with_external_writes_only(silent: Server) -> None:
    with connect(silent.url, user="u", configure_server=True) as store, silent.client() as raw:
        store.set("a", 1)
        with store.watch() as watch:
            raw.config_set("notify-keyspace-events", "")
            raw.hset("user:u:ns:default", "a", 2)
            change = watch.next_change(20)
            assert change is not None
            assert (change.op, change.value, change.source) == ("set", 2, "found")


def _flags(raw: Any) -> str:
    return str(raw.config_get("notify-keyspace-events")["notify-keyspace-events"])
