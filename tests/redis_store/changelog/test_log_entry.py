"""Entries and cursors: entries of the scripts are parsed, and any other entry is survived."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_store import InvalidInput
from redis_store.changelog.entry import CursorFormat, Position, parse_entry
from redis_store.namespace.keys import UserKeys

raw_bytes = st.binary(max_size=20)


def test_entry_parses_to_changes_and_head() -> None:
    head = b'{"agent":"a","run":"r","n":2,"x":99}'
    entry = parse_entry([b"5-1", [b"", head, b"k", b"s[1]", b"g", b"d", b"b", b"r", b"e", b"e", b"", b"c"]])
    assert entry.news == [
        ("set", b"k", b"[1]"),
        ("delete", b"g", None),
        ("set", b"b", None),
        ("expire", b"e", None),
        ("clear", None, None),
    ]
    assert (entry.agent, entry.run, entry.events, entry.expires_ms, entry.order) == ("a", "r", 2, 99, (5, 1))


@given(st.lists(raw_bytes, max_size=8).filter(lambda flat: len(flat) % 2 == 0))
def test_externally_written_entry_is_harmless(flat: list[bytes]) -> None:
    parse_entry([b"1-1", flat])


@pytest.mark.parametrize("head", [b"", b"{", b"[]", b"1", b'{"n":"x"}', b'{"n":[]}', b'{"x":{}}', b"\xff"])
def test_invalid_head_is_an_entry_without_changes(head: bytes) -> None:
    assert parse_entry([b"1-1", [b"", head, b"k", b"s1"]]).news == []


@given(
    st.binary(min_size=1, max_size=50),
    st.integers(0, 2**63),
    st.integers(0, 2**63),
    st.integers(-1, 10**6),
    st.integers(0, 2**32 - 1),
)
def test_cursor_round_trips(namespace: bytes, ms: int, sequence: int, taken: int, mark: int) -> None:
    cursors = CursorFormat(UserKeys.of("u"), namespace)
    position = Position(b"%d-%d" % (ms, sequence), mark, taken)
    found = cursors.read(cursors.write(b"0123456789abcdef", position))
    assert found is not None
    assert (found.epoch, found.position) == (b"0123456789abcdef", position)


@given(st.text())
def test_invalid_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        CursorFormat(UserKeys.of("u"), b"n").read(text)


@given(st.integers(0, 100), st.characters())
def test_a_cursor_with_a_character_changed_is_refused_or_another(at: int, character: str) -> None:
    cursors = CursorFormat(UserKeys.of("u"), b"n")
    text = cursors.write(b"0123456789abcdef", Position(b"123-4", 77))
    changed = text[:at] + character + text[at + 1 :]
    with contextlib.suppress(InvalidInput):
        assert changed == text or cursors.read(changed) != cursors.read(text)


def test_a_cursor_belongs_to_a_user_and_a_namespace() -> None:
    text = CursorFormat(UserKeys.of("u"), b"n").write(b"0123456789abcdef", Position(b"1-1", 0))
    for other in (CursorFormat(UserKeys.of("u"), b"m"), CursorFormat(UserKeys.of("v"), b"n")):
        with pytest.raises(InvalidInput, match="another"):
            other.read(text)
    assert CursorFormat(UserKeys.of("u"), b"n").read(CursorFormat(UserKeys.of("u"), b"n").reset) is None
