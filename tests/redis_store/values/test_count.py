"""Counting the values of a text that nobody has decoded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_store.values.count import has_more_values

TEXTS = st.text(alphabet='",[]{}\\ \né1')
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def _openings_and_commas(value: Any) -> int:
    if isinstance(value, (list, dict)):
        parts = value.values() if isinstance(value, dict) else value
        return 1 + max(0, len(value) - 1) + sum(map(_openings_and_commas, parts))
    return 0


@given(VALUES, st.booleans())
def test_what_stands_in_strings_does_not_count(value: Any, ascii_only: bool) -> None:
    text, count = json.dumps(value, ensure_ascii=ascii_only).encode(), _openings_and_commas(value)
    assert not has_more_values(text, count)
    if count:
        assert has_more_values(text, count - 1)


@pytest.mark.parametrize("text", [b'"' + b"," * 100, b'[1,"', b'"\\', b'",",,', b""])
def test_a_text_that_is_no_json_does_no_harm(text: bytes) -> None:
    assert has_more_values(text, 0) in (True, False)
