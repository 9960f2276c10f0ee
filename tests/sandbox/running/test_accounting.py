"""Stored bytes are counted by the space that they take, whatever operation an agent sends them with."""

from __future__ import annotations

from typing import Any

import pytest

import sandbox
from redis_store import DataStore
from sandbox.protocol.operations import OPERATIONS

TOKEN = "token-of-mine"


@pytest.mark.parametrize(
    ("operation", "arguments", "written", "noted"),
    [
        ("set", ["k", b"1", None, None], 2, 0),
        ("set", ["é", b"1", b"{}", None], 5, 0),
        ("set_many", [b"{}", None, "a", b"1", "€", b"22"], 4 + 7, 0),
        ("append", ["é", None, None, b"1", b"2"], 4, 0),
        ("increment", ["k", b"12", None], 3, 0),
        ("rename", ["k", "éé"], 4, 0),
        ("commit_transaction", [1, "ns", "é", b"1", None, 2, "ns", "gone", None, None], 3, 0),
        ("acquire_lock", ["é", TOKEN, 1, 0], 0, 2),
        ("claim_value", ["key", TOKEN, None, None, 1, 0], 0, 3),
        ("claim_value", ["key", TOKEN, None, None, 1, 0, "é", "b"], 0, 3 + 5 + 4),
        ("renew_value", ["key", TOKEN, 1, "a", "b"], 0, 3 + 4 + 4),
        ("commit_value", ["key", TOKEN, b"12", None, None, "a", "b"], 5, 4 + 4),
        ("get", ["k"], 0, 0),
    ],
)
def test_bytes_of_a_call(operation: str, arguments: list[Any], written: int, noted: int) -> None:
    row = OPERATIONS[operation]
    assert row.shape.fits(arguments)
    assert (row.bytes_written(arguments), row.bytes_noted(arguments)) == (written, noted)


@pytest.mark.parametrize(
    "body",
    [
        "data_store.set('a', 1)\nfor n in range(10): data_store.rename('a' if n == 0 else str(n - 1) * 1000, str(n) * 1000)",
        "data_store._operations.send('claim_value', 'k' * 100, 'token-of-mine', None, None, 30, 0, *map(str, range(60)))",
        "data_store.set('\U0001f600' * 1500, 1)",
    ],
    ids=["new names", "tags", "keys that are not ASCII"],
)
def test_write_limit_counts_names(run: Any, store: DataStore, body: str) -> None:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    result = run(f"def run():\n{lines}\n    return {{}}\n", limits=sandbox.Limits(bytes_written=5000))
    assert isinstance(result.error, sandbox.WriteLimitExceeded)
