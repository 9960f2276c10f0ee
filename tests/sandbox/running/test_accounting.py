"""Stored bytes are counted by the space that they take, whatever operation an agent sends them with."""

from __future__ import annotations

from typing import Any

import pytest
import redis

import sandbox
from redis_store import DataStore
from redis_store.operations import operations_of
from redis_store.ops.compute_once import ComputePlan, tag_name
from redis_store.values import rules
from sandbox.protocol.arguments import charge_of_metadata, charge_of_tag
from sandbox.protocol.charges import HELD_BYTES, KEY_BYTES, LOGGED_BYTES, NAMESPACE_BYTES, TAG_BYTES
from sandbox.protocol.operations import OPERATIONS
from tests.support.brokered_side import brokered

TOKEN = "token-of-mine"


@pytest.mark.parametrize(
    ("operation", "arguments", "written", "noted"),
    [
        ("set", ["k", b"1", None, None], KEY_BYTES + 2 + 1, 0),
        ("set", ["é", b"1", b"{}", None], KEY_BYTES + 4 + 1 + 2, 0),
        ("set_many", [b"{}", None, "a", b"1", "€", b"22"], 2 * (KEY_BYTES + 2) + 2 + 6 + 3, 0),
        ("append", ["é", None, None, b"1", b"2"], KEY_BYTES + LOGGED_BYTES + 4 + 2, 0),
        ("increment", ["k", b"12", None], KEY_BYTES + LOGGED_BYTES + 2 + 2, 0),
        ("rename", ["k", "éé"], KEY_BYTES + LOGGED_BYTES + 8, 0),
        ("expire", ["é", 5], 0, LOGGED_BYTES + 2),
        ("persist", ["k"], 0, LOGGED_BYTES + 1),
        ("commit_transaction", [1, "other", "é", b"1", None, 2, "gone", "k", None, None], KEY_BYTES + 4 + 1, 0),
        ("acquire_lock", ["é", TOKEN, 1, 0], 0, HELD_BYTES + 6 + 2 * len(TOKEN)),
        ("acquire_place", ["é", TOKEN, 1, 1, 0], 0, HELD_BYTES + 6 + 2 * len(TOKEN)),
        ("take_moment", ["é", 1, 1, None], 0, HELD_BYTES + 6),
        ("claim_value", ["key", TOKEN, None, None, 1, 0], 0, HELD_BYTES + 9 + 2 * len(TOKEN) + 2),
        (
            "claim_value",
            ["key", TOKEN, None, None, 1, 0, "é", "b"],
            0,
            HELD_BYTES + 9 + 2 * len(TOKEN) + 2 + 2 * (TAG_BYTES + 5) + 2 * len(r"\u00e9") + 2,
        ),
        (
            "renew_value",
            ["key", TOKEN, 1, "a", "b"],
            0,
            HELD_BYTES + 9 + 2 * len(TOKEN) + 2 + 2 * (TAG_BYTES + 5) + 2 + 2,
        ),
        ("commit_value", ["key", TOKEN, b"12", None, None, "a", "b"], KEY_BYTES + 6 + 2, 2 * (TAG_BYTES + 5) + 4),
        ("fail_value", ["key", TOKEN, "E", "message"], 0, HELD_BYTES + 9 + 2 * (len(TOKEN) + 8) + 2),
        ("delete", ["k"], 0, 0),
        ("get", ["k"], 0, 0),
    ],
)
def test_bytes_of_a_call(operation: str, arguments: list[Any], written: int, noted: int) -> None:
    row = OPERATIONS[operation]
    assert row.shape.fits(arguments)
    assert (row.bytes_written(arguments), row.bytes_noted("ns", arguments)) == (written, noted)


@pytest.mark.parametrize("tag", ["plain", "é€😀", "\x01\x7f", '\\"}{', "}" * 9])
def test_a_tag_is_charged_as_infos_have_it(store: DataStore, tag: str) -> None:
    store.get("k")  # it finds out the form of the keys
    scope = operations_of(store).scope
    keys, raw = tag_name(scope, tag)
    prefix = keys.tag(raw).removesuffix(raw)
    (text,) = ComputePlan.of(scope, "k", tags=[tag]).tag_texts
    assert charge_of_tag(tag) == 2 * max(len(text) - len(prefix), len(tag.encode()))


@pytest.mark.parametrize("number", ["1e15", "-1.5E15", "9e+15", "1e-5", "1E0", "0.5", "1e300"])
def test_metadata_is_charged_as_it_is_written_again(store: DataStore, number: str) -> None:
    sent = f'{{"a":[{",".join([number] * 50)}]}}'.encode()
    store.set("k", 1, metadata=rules.load(sent))
    with redis.Redis.from_url(store.url) as raw:
        kept = raw.hget(f"user:{store.user}:info:{store.namespace}", "k")
    assert len(kept.partition(b',"metadata":')[2]) - 1 <= charge_of_metadata(sent)


def test_namespaces_of_a_call() -> None:
    transaction = [1, "a", "k", b"1", None, 1, "b", "k", b"1", None, 2, "c", "k", None, None, 0, "d", "k", None, None]
    assert set(OPERATIONS["commit_transaction"].written_namespaces("ns", transaction)) == {"a", "b"}
    assert list(OPERATIONS["set"].written_namespaces("ns", ["k", b"1", None, None])) == ["ns"]
    assert not OPERATIONS["get"].written_namespaces("ns", ["k"])


def test_a_run_is_charged_once_for_each_namespace(store: DataStore) -> None:
    with brokered(store) as bound:
        charged = []
        for name in ("a", "a", "b", "a"):
            before = bound.tree.written
            bound.store.use_namespace(name).set("k", 1)
            charged.append(bound.tree.written - before)
    first, again = KEY_BYTES + 2 + 1 + NAMESPACE_BYTES + 3, KEY_BYTES + 2 + 1
    assert charged == [first, again, first, again]


@pytest.mark.parametrize(
    "body",
    [
        "data_store.set('a', 1)\nfor n in range(10): data_store.rename('a' if n == 0 else str(n - 1) * 1000, str(n) * 1000)",
        "for n in range(5): data_store.use_namespace(str(n) * 1000).set('k', 1)",
        "for n in range(13): data_store.use_namespace(str(n)).set('k', 1)",
        "data_store.set_many({str(n): 1 for n in range(25)})",
        "data_store.set('k', 1)\nfor n in range(12): data_store.append('list', [1])",
        "data_store._operations.send('claim_value', 'k' * 100, 'token-of-mine', None, None, 30, 0, *map(str, range(60)))",
        "data_store.set('\U0001f600' * 1500, 1)",
    ],
    ids=[
        "new names",
        "long namespaces",
        "namespaces",
        "small keys",
        "logged values",
        "tags",
        "keys that are not ASCII",
    ],
)
def test_write_limit_counts_names(run: Any, store: DataStore, body: str) -> None:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    result = run(f"def run():\n{lines}\n    return {{}}\n", limits=sandbox.Limits(bytes_written=5000))
    assert isinstance(result.error, sandbox.WriteLimitExceeded)
