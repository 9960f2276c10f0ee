"""Bounds on the number of things in one call, which an agent's side checks before it sends anything, and the host again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from redis_store.errors import LimitExceeded
from redis_store.namespace.access import Access
from redis_store.values import rules
from sandbox.protocol.operations import OPERATIONS

HANDLE = SimpleNamespace(ttl_ms=None, access=Access(), encode=rules.dump)
NARROW = SimpleNamespace(ttl_ms=None, access=Access.of(read=["a"] * 50, write=["a"] * 50))
TOO_NARROW = SimpleNamespace(ttl_ms=None, access=Access.of(read=["a"] * 51, write=["a"] * 50))
KEYS = [f"k{number}" for number in range(10_001)]

CALLS: dict[str, tuple[str, Any, tuple[Any, ...], Any, tuple[Any, ...], str, int]] = {
    "get_many": ("get_many", HANDLE, (KEYS[1:],), HANDLE, (KEYS,), "keys", 10_000),
    "delete_many": ("delete_many", HANDLE, (KEYS[1:],), HANDLE, (KEYS,), "keys", 10_000),
    "set_many": ("set_many", HANDLE, (dict.fromkeys(KEYS[1:], 1),), HANDLE, (dict.fromkeys(KEYS, 1),), "keys", 10_000),
    "append": ("append", HANDLE, ("k", [1] * 100_000), HANDLE, ("k", [1] * 100_001), "items", 100_000),
    "patterns": ("invalidate_tag", NARROW, ("t",), TOO_NARROW, ("t",), "patterns", 100),
    "tags": (
        "commit_value",
        HANDLE,
        ("k", "token", b"1", None, None, KEYS[:1000]),
        HANDLE,
        ("k", "token", b"1", None, None, KEYS[:1001]),
        "tags",
        1000,
    ),
}


@pytest.mark.parametrize("case", CALLS.values(), ids=CALLS)
def test_both_sides_count_what_is_repeated(
    case: tuple[str, Any, tuple[Any, ...], Any, tuple[Any, ...], str, int],
) -> None:
    name, caller, fitting, other, too_many, limit, count = case
    row = OPERATIONS[name]
    parts = row.encode(caller, fitting)
    row.check_counts(parts)
    step = len(row.arguments[row.repeated_at].kinds)
    for refused in (lambda: row.encode(other, too_many), lambda: row.check_counts(parts + parts[-step:])):
        with pytest.raises(LimitExceeded) as caught:
            refused()
        assert (caught.value.limit, caught.value.facts["limit_count"]) == (limit, count)
        assert caught.value.facts["size_bytes"] == count + 1
