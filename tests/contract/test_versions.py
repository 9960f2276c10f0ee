"""Versions of keys: they grow with each write, and a write may depend on one."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from redis_store import Conflict, InvalidInput, KeyInfo, LimitExceeded, connect
from redis_store.namespace.keys import UserKeys
from tests.support.servers import KINDS_WITH_TTL, Server
from tests.support.sides import Side

AHEAD = 2_000_000_000_000_000
"""A time of the year 2033, in µs."""


def version(store: Side, key: str = "key") -> Any:
    info = store.info(key)
    assert isinstance(info, KeyInfo)
    return info.version


def test_version_is_the_time_of_the_last_write(store: Side) -> None:
    store.set("key", 1)
    first = store.info("key")
    assert first.version == round(first.updated_at.timestamp() * 1_000_000)
    store.set("key", 1)
    second = store.info("key")
    assert (second.version, second.created_at) == (round(second.updated_at.timestamp() * 1_000_000), first.created_at)
    assert second.version > first.version


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.set("key", 2),
        lambda store: store.set("key", 2, {"m": 1}),
        lambda store: store.set_many({"other": 1, "key": 2}),
        lambda store: store.set_many({"other": 1, "key": 2}, {"m": 1}),
        lambda store: store.increment("key"),
        lambda store: store.compare_and_set("key", 1, 2),
        lambda store: store.rename("other", "key"),
        lambda store: store.set("key", 2, if_version=store.info("key").version),
        lambda store: store.set("key", [2] * 70_000),
        lambda store: store.use_namespace("default").set_many({"key": "x" * 2000, "other": "y" * 2000}),
    ],
    ids=[
        *("set", "with metadata", "batch", "batch with metadata", "increment", "compare_and_set", "rename"),
        *("if_version", "big value", "big values"),
    ],
)
@pytest.mark.parametrize("side", ["sync"], indirect=True)
def test_each_write_has_a_later_version(store: Side, raw: redis.Redis, keys: UserKeys, write: Any) -> None:
    """Also if the last one was by a server whose clock was ahead."""
    store.set_many({"key": 1, "other": 1})
    raw.hset(keys.namespace("default").info, "key", f'{{"created":1795451319752,"updated":{AHEAD},"by":"x"}}')
    write(store)
    assert version(store) == AHEAD + 1
    assert store.get("key") != 1 or store.get("other") is None, "it was written"


@pytest.mark.parametrize("side", ["sync"], indirect=True)
def test_a_batch_has_one_version(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    store.set_many({"key": 1, "behind": 1})
    raw.hset(keys.namespace("default").info, "key", f'{{"created":{AHEAD}}}')
    store.set_many({"behind": 2, "key": 2, "new": 2})
    assert {version(store, key) for key in ("behind", "key", "new")} == {AHEAD + 1}
    store.set_many({"behind": 3, "key": 3, "new": 3}, {"m": 1})
    assert {version(store, key) for key in ("behind", "key", "new")} == {AHEAD + 2}


@pytest.mark.parametrize("side", ["sync"], indirect=True)
def test_a_transaction_has_one_version(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    store.set_many({"key": 1, "other": 1})
    old = f'{{"created":{AHEAD},"by":"x","metadata":{{"m":1}}}}'
    raw.hset(keys.namespace("default").info, "key", old)
    with store.store.transaction() as transaction:
        for key in ("other", "key", "new"):
            transaction.set(key, 2)
    assert {version(store, key) for key in ("other", "key", "new")} == {AHEAD + 1}
    assert (store.info("key").metadata, store.info("key").created_by) == ({"m": 1}, "x")


def test_set_if_version(store: Side) -> None:
    store.set("key", 0, if_version=0)
    first = version(store)
    store.set("key", 1, metadata={"a": 1}, if_version=first)
    store.set("key", 2, metadata={"b": 2}, if_version=version(store))
    second = version(store)
    for wrong in (first, 0, second + 1):
        for metadata in (None, {"c": 3}):
            with pytest.raises(Conflict, match="nothing was written") as caught:
                store.set("key", 3, metadata, if_version=wrong)
            conflict = caught.value
            assert (conflict.namespace, conflict.key, conflict.version) == ("default", "key", second)
            assert not conflict.outcome_unknown
    with pytest.raises(Conflict, match="is missing") as caught:
        store.set("missing", 3, if_version=second)
    assert caught.value.version == 0
    assert store.get_all() == {"key": 2}
    assert (store.info("key").metadata, version(store)) == ({"a": 1, "b": 2}, second)
    assert store.list_namespaces() == ["default"]


def test_delete_if_version(store: Side) -> None:
    assert store.delete("key", if_version=0) is False
    store.set("key", 1)
    written = version(store)
    for wrong in (0, written - 1):
        with pytest.raises(Conflict) as caught:
            store.delete("key", if_version=wrong)
        assert caught.value.version == written
    assert store.delete("key", if_version=written) is True
    with pytest.raises(Conflict, match="is missing"):
        store.delete("key", if_version=written)
    store.set("key", 2, if_version=0)
    assert version(store) > written, "a version does not come again after a delete"


def test_external_value_has_no_version(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    raw.hset(keys.namespace("default").data, "key", "1")
    assert version(store) is None
    for call in (lambda: store.set("key", 2, if_version=0), lambda: store.delete("key", if_version=5)):
        with pytest.raises(Conflict, match="written by hand") as caught:
            call()
        assert caught.value.version is None
    assert store.get("key") == 1


@pytest.mark.parametrize("wrong", [-1, 2**53 + 1, True, 1.0, "1", b"1", []], ids=repr)
def test_version_must_be_a_whole_number(store: Side, wrong: Any) -> None:
    for call in (
        lambda: store.set("key", 1, if_version=wrong),
        lambda: store.set("key", 1, {"m": 1}, if_version=wrong),
        lambda: store.delete("key", if_version=wrong),
    ):
        with pytest.raises(InvalidInput, match="version"):
            call()
    assert store.list_keys() == []


@pytest.mark.parametrize("side", ["sync"], indirect=True)
def test_if_version_in_a_namespace_with_max_keys(store: Side) -> None:
    small = store.store.use_namespace("small", max_keys=2)
    for number in range(4):
        small.set(f"k{number}", number, if_version=0)
    assert len(small) == 2
    assert small["k3"] == 3
    with pytest.raises(Conflict):
        small.set("k3", 1, {"m": 1}, if_version=1)
    small.set("k3", 1, {"m": 1}, if_version=small.info("k3").version)
    assert small.delete("k3", if_version=small.info("k3").version)


@pytest.mark.parametrize("server", KINDS_WITH_TTL, indirect=True)
def test_if_version_with_a_ttl(store: Side) -> None:
    store.set("key", 1, ttl=1000, if_version=0)
    written = version(store)
    assert store.info("key").expires_at is not None
    store.expire("key", 2000)
    assert version(store) == written, "a ttl is no write"
    store.set("key", 2, if_version=written)
    assert store.info("key").expires_at is None


@pytest.mark.parametrize("side", ["sync", "async"], indirect=True)
def test_if_version_checks_the_value_first(store: Side) -> None:
    with pytest.raises(LimitExceeded):
        store.set("key", 1, {"m": "x" * 70_000}, if_version=0)
    with pytest.raises(InvalidInput):
        store.set("key", {1}, if_version=0)
    assert store.list_keys() == []


@pytest.mark.parametrize("side", ["sync", "async"], indirect=True)
def test_run_of_the_last_writer(store: Side, user: str, server: Server) -> None:
    with connect(server.url, user=user, agent="a,b", run="0123456789abcdef") as run:
        run.set("key", 1)
        run.set_many({"tagged": 1, "other": 1}, {"m": 1})
    assert [store.info(key).run for key in ("key", "tagged", "other")] == ["0123456789abcdef"] * 3
    assert (store.info("key").created_by, store.info("other").metadata) == ("a,b", {"m": 1})
    store.set("other", 2)
    info = store.info("other")
    assert (info.run, info.created_by, info.updated_by, info.metadata) == (None, "a,b", "tester", {"m": 1})


@pytest.mark.parametrize("side", ["sandbox"], indirect=True)
def test_agents_run_is_in_its_infos(store: Side) -> None:
    store.set("key", 1)
    run = store.info("key").run
    assert len(run) == 16
    assert int(run, 16)
