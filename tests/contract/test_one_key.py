"""One key: get, set, delete, info."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from redis_store import KeyInfo
from tests.support.sides import OpenSide, Side

VALUES = [
    None, True, False, 0, -1, 1.5, -0.0, 1e308, 5e-324, 2**63, -(2**64), 10**400, "", "text", "\x00\n\u2028 é 🦊",
    [], {}, [[]], {"": ""}, {"a": [1, {"b": None}], "é\x00": "\x7f"}, [1, 2.0, "3", None, True],
]  # fmt: skip

KEYS = [
    "a", " ", "with space", "a/b.py", "a:b", "*", "?", "[a]", "\\", "^-$", "{}", "%41", "line\nbreak", "nul\x00nul", "é",
    "e\u0301", "日本", "🦊", "\u200b", "'\"", "\x01", "k" * 65536,
]  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, with the same types at every level."""
    return repr(a) == repr(b)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_a_value_comes_back_as_it_was(store: Side, value: Any) -> None:
    store.set("key", value)
    assert same(store.get("key", "default"), value)
    assert same(store.get_many(["key"]), {"key": value})
    assert same(store.get_all(), {"key": value})


def test_set_returns_none_and_replaces(store: Side) -> None:
    assert store.set("key", 1) is None
    assert store.set("key", [2]) is None
    assert store.get("key") == [2]
    assert store.list_keys() == ["key"]


def test_an_absent_key_gives_the_default(store: Side) -> None:
    assert store.get("absent") is None
    for default in (None, 0, False, "", [], "other"):
        assert same(store.get("absent", default), default)
        assert same(store.get("absent", default=default), default)
    store.set("there", 1)
    assert store.get("absent", 7) == 7


def test_a_stored_null_is_not_the_default(store: Side) -> None:
    store.set("null", None)
    assert store.get("null", "default") is None
    assert store.list_keys() == ["null"]
    assert store.delete("null") is True
    assert store.get("null", "default") == "default"


@pytest.mark.parametrize("value", [0, False, "", [], {}], ids=repr)
def test_a_stored_falsy_value_is_not_the_default(store: Side, value: Any) -> None:
    store.set("falsy", value)
    assert same(store.get("falsy", "default"), value)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: ascii(key)[:20])
def test_any_character_may_stand_in_a_key(store: Side, key: str) -> None:
    store.set("neighbour", 0)
    store.set(key, {"of": key})
    assert store.get(key) == {"of": key}
    assert store.list_keys() == sorted(["neighbour", key])
    assert store.get_many([key]) == {key: {"of": key}}
    assert store.info(key).key == key
    assert store.delete(key) is True
    assert store.list_keys() == ["neighbour"]


def test_keys_that_look_alike_are_different(store: Side) -> None:
    alike = ["é", "e\u0301", "E", "e", " e", "e ", "e\x00", "%65"]
    for number, key in enumerate(alike):
        store.set(key, number)
    assert store.get_all() == {key: number for number, key in enumerate(alike)}


def test_delete_returns_whether_the_key_existed(store: Side) -> None:
    assert store.delete("key") is False
    store.set("key", 1)
    assert store.delete("key") is True
    assert store.delete("key") is False
    assert store.get("key") is None


def test_info_of_an_absent_key_is_none(store: Side) -> None:
    assert store.info("key") is None
    store.set("key", 1)
    store.delete("key")
    assert store.info("key") is None


def test_info_has_writer_times_and_size(store: Side, raw: redis.Redis) -> None:
    before = server_time(raw)
    store.set("key", {"a": "é"})
    after = server_time(raw)
    info = store.info("key")
    assert info == KeyInfo(
        key="key",
        created_at=info.created_at,
        created_by="tester",
        updated_at=info.created_at,
        updated_by="tester",
        metadata={},
        size=len('{"a":"é"}'.encode()),
        expires_at=None,
        version=info.version,
        run=info.run,
    )
    assert before - timedelta(milliseconds=1) <= info.created_at <= after
    assert info.created_at.tzinfo is UTC


def test_rewrite_keeps_creator(store: Side, open_side: OpenSide, user: str, side: str) -> None:
    store.set("key", 1)
    created = store.info("key")
    second = store if side == "sandbox" else open_side(user, agent="second")
    second.set("key", [1, 2])
    info = store.info("key")
    assert (info.created_at, info.created_by) == (created.created_at, "tester")
    assert info.updated_at >= created.created_at
    assert info.updated_by == ("tester" if side == "sandbox" else "second")
    assert info.size == 5


@pytest.mark.parametrize("side", ["sync", "async"], indirect=True)
def test_a_writer_without_a_name_is_none(open_side: OpenSide, user: str) -> None:
    named, unnamed = open_side(user, agent='a "b" \\ ,"metadata":{} é\n'), open_side(user, agent=None)
    unnamed.set("key", 1)
    assert (unnamed.info("key").created_by, unnamed.info("key").updated_by) == (None, None)
    named.set("key", 1, metadata={"m": 1})
    info = unnamed.info("key")
    assert (info.created_by, info.updated_by) == (None, 'a "b" \\ ,"metadata":{} é\n')
    assert info.metadata == {"m": 1}
    named.set("other", 1)
    unnamed.set("other", 2)
    info = unnamed.info("other")
    assert (info.created_by, info.updated_by) == ('a "b" \\ ,"metadata":{} é\n', None)


def test_a_key_that_was_deleted_starts_over(store: Side) -> None:
    store.set("key", 1, metadata={"old": True})
    store.set("other", 1)
    store.delete("key")
    store.set("key", 2)
    assert store.info("key").metadata == {}


def test_the_class_of_a_value_does_not_show(store: Side) -> None:
    store.set("tuple", (1, (2, 3)))
    store.set("keys", {2: "a", None: "b", True: "c", 1.5: "d", -0.0: "e"})
    assert store.get("tuple") == [1, [2, 3]]
    assert store.get("keys") == {"2": "a", "null": "b", "true": "c", "1.5": "d", "-0.0": "e"}


def server_time(raw: redis.Redis) -> datetime:
    """Return the server's clock."""
    seconds, microseconds = raw.time()
    return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)
