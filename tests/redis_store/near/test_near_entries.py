"""Entries of a near cache, without I/O: what drops them, what supersedes a pending read, and their size."""

from __future__ import annotations

import json
import sys
from typing import Any

from hypothesis import given, settings

from redis_store.limits import Limits, LogBounds
from redis_store.namespace.keys import UserKeys
from redis_store.namespace.scope import Scope, Writer
from redis_store.near.entries import ENTRY_BYTES, Entries, decoded_bytes, redis_keys_of
from redis_store.scripts import SET, TRANSACT
from redis_store.values.codec import VALUES
from tests.support.values import json_values

A, B = b"user:a:ns:x", b"user:a:ns:y"


def keep(entries: Entries, data: bytes, key: str, text: bytes | None, **more: float) -> None:
    entries.keep(data, entries.space(data), key, text, **more)


def found(entries: Entries, data: bytes, key: str, now: float = 0) -> list[bytes | None]:
    entry = entries.find(data, key, now)
    return [] if entry is None else [entry.text]


def test_values_and_absences_are_kept_by_namespace() -> None:
    entries = Entries(10_000)
    keep(entries, A, "k", b"1")
    keep(entries, A, "absent", None)
    keep(entries, B, "k", b"2")
    assert found(entries, A, "k") == [b"1"]
    assert found(entries, A, "absent") == [None]
    assert found(entries, B, "k") == [b"2"]
    assert found(entries, B, "other") == []
    assert len(entries) == 3


def test_an_invalidation_drops_its_namespace_whole_and_no_other() -> None:
    entries = Entries(10_000)
    keep(entries, A, "k", b"1")
    keep(entries, A, "l", b"1")
    keep(entries, B, "k", b"2")
    entries.heard([b"invalidate", [A, b"user:a:ns:never seen"]])
    assert found(entries, A, "k") == found(entries, A, "l") == []
    assert found(entries, B, "k") == [b"2"]
    assert len(entries) == 1
    entries.heard([b"invalidate", None])
    assert len(entries) == entries.size_bytes == 0


def test_other_messages_drop_nothing() -> None:
    entries = Entries(10_000)
    keep(entries, A, "k", b"1")
    entries.heard([b"message", b"channel", A])
    assert found(entries, A, "k") == [b"1"]


def test_reply_overtaken_by_write_is_not_kept() -> None:
    entries = Entries(10_000)
    asked = entries.space(A)
    entries.drop(A)
    entries.keep(A, asked, "k", b"old")
    assert found(entries, A, "k") == []
    keep(entries, A, "k", b"new")
    entries.keep(A, asked, "k", b"old")
    assert found(entries, A, "k") == [b"new"]
    assert len(entries) == 1


def test_entry_expires_on_time() -> None:
    entries = Entries(10_000)
    keep(entries, A, "k", b"1", expires_at=5)
    assert found(entries, A, "k", now=4.9) == [b"1"]
    assert found(entries, A, "k", now=5) == []


def test_bytes_are_bounded_and_recent_entries_stay() -> None:
    entries = Entries(20 * (ENTRY_BYTES + 101))
    for number in range(20):
        keep(entries, A if number % 2 else B, str(number % 10), b"x" * 100)
    keep(entries, A, "new", b"x" * 98)
    assert entries.size_bytes <= entries.max_bytes
    for number in range(1000):
        assert found(entries, A, "new") == [b"x" * 98]
        keep(entries, B, f"other {number}", b"x" * 90)
        assert entries.size_bytes <= entries.max_bytes
    assert 15 < len(entries) <= 20
    assert found(entries, B, "other 0") == []
    assert found(entries, B, "other 999") == [b"x" * 90]


def test_replacing_an_entry_counts_it_once() -> None:
    entries = Entries(10_000)
    for size in (10, 500, 20):
        keep(entries, A, "k", b"x" * size)
        assert entries.size_bytes == ENTRY_BYTES + 1 + size
    assert len(entries) == 1


def test_oversized_entry_is_not_kept() -> None:
    entries = Entries(80_000)
    keep(entries, A, "small", b"1")
    keep(entries, A, "big", b"x" * 10_000)
    assert found(entries, A, "big") == []
    assert found(entries, A, "small") == [b"1"]


def test_value_that_is_read_again_is_kept_decoded_if_there_is_room() -> None:
    text = b"[" + b",".join([b"{}"] * 1000) + b"]"
    size_bytes = sys.getsizeof(loaded := json.loads(text)) + sum(map(sys.getsizeof, loaded))
    for max_bytes in (4_000_000, 400_000):
        entries = Entries(max_bytes)
        keep(entries, A, "k", text)
        keep(entries, A, "small", b"{}")
        before = entries.size_bytes
        entry, small = entries.find(A, "k", 0), entries.find(A, "small", 0)
        assert entry is not None
        assert small is not None
        assert not small.keeps_value
        assert entry.keeps_value == (max_bytes == 4_000_000)
        assert entries.size_bytes - before >= (size_bytes if entry.keeps_value else 0)
        assert entries.find(A, "k", 0) is entry
        entries.drop(A)
        entries.clear()
        assert entries.size_bytes == 0


def test_decoded_value_evicts_no_other_entry() -> None:
    entries = Entries(200_000)
    for key in range(100):
        keep(entries, A, str(key), b"[" + b"0," * 500 + b"0]")
    for key in range(100):
        assert entries.find(A, str(key), 0) is not None
        assert entries.size_bytes <= entries.max_bytes
    assert len(entries) == 100


@settings(max_examples=40)
@given(json_values)
def test_size_of_decoded_value_is_not_underestimated(value: Any) -> None:
    assert decoded_bytes(VALUES.encode(value)) + ENTRY_BYTES >= memory_of(value)


def memory_of(value: Any) -> int:
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return sys.getsizeof(value) + sum(map(memory_of, parts))


def test_the_keys_of_writes_are_found() -> None:
    scope = Scope(UserKeys.of("a"), "x", Writer.of(None, None), VALUES, Limits(), LogBounds())
    for command in (
        (SET.opening(scope.script_keys, scope.script_head), b"field", b"value"),
        SET.by_digest(scope.script_keys, (b"y", 1)),
        TRANSACT.by_text(scope.script_keys, ()),
        ("RENAME", A, b"user:a:trash:x"),
    ):
        assert A in redis_keys_of([command])
    assert B not in redis_keys_of([SET.by_digest(scope.script_keys, (B,))])
