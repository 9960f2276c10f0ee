"""Listing keys: sorted, complete at every size, the prefix literal."""

from __future__ import annotations

import itertools

import pytest

from redis_store import InvalidInput, InvalidType
from tests.support.sides import SIDES_OF_THE_HOST, Side

SPECIAL = ["*", "?", "[", "]", "[a]", "[^a]", "\\", "\\*", "^", "-", "a-z", "{a,b}", ".*", "%", "\n", "\x00", "é", "🦊"]


@pytest.mark.parametrize("count", [0, 1, 2, 499, 500, 501, 999, 1000, 1001, 2600])
def test_everything_is_listed_at_every_size(store: Side, count: int) -> None:
    items = {f"key-{number}": number for number in range(count)}
    assert store.set_many(items) == count
    assert store.list_keys() == sorted(items)
    assert store.get_all() == items
    assert sorted(store.iter_keys()) == sorted(items)
    assert dict(store.iter_items()) == items
    assert store.list_keys("key-1") == sorted(key for key in items if key.startswith("key-1"))
    assert store.get_all("key-49") == {key: n for key, n in items.items() if key.startswith("key-49")}


@pytest.mark.parametrize(
    ("side", "server"),
    [("sync", "valkey9"), ("async", "redis8"), ("sync", "redis7"), ("sandbox", "valkey9"), ("sync", "fakeredis")],
    indirect=True,
)
@pytest.mark.parametrize("count", [9_999, 10_000, 10_001])
def test_around_the_size_of_a_snapshot(store: Side, count: int) -> None:
    items = {f"key-{number}": number for number in range(count)}
    for first in range(0, count, 5_000):  # an agent's call names at most 10,000 keys
        store.set_many(dict(itertools.islice(items.items(), first, first + 5_000)))
    assert store.list_keys() == sorted(items)
    assert store.get_all() == items
    assert store.list_keys("key-77") == sorted(key for key in items if key.startswith("key-77"))


@pytest.mark.parametrize(("side", "server"), [("sync", "redis7"), ("async", "valkey9")], indirect=True)
def test_a_hundred_thousand_keys(store: Side) -> None:
    items = {f"key-{number}": number for number in range(100_001)}
    assert store.set_many(items) == 100_001
    assert store.list_keys() == sorted(items)
    assert store.get_all() == items
    assert store.list_keys("key-9999") == [key for key in sorted(items) if key.startswith("key-9999")]
    assert store.get_all("key-100") == {key: n for key, n in items.items() if key.startswith("key-100")}
    assert sorted(store.iter_keys()) == sorted(items)
    assert store.clear() == 100_001
    assert store.list_keys() == []


@pytest.mark.parametrize("server", ["redis7", "valkey9"], indirect=True)
@pytest.mark.parametrize("side", ["sync", "async"], indirect=True)
def test_a_few_keys_with_big_values(store: Side) -> None:
    items = {f"key-{number}": str(number) * 3_000_000 for number in range(7)}
    store.set_many(items)
    assert store.get_all() == items
    assert dict(store.iter_items()) == items
    assert store.get_many(items) == items
    assert store.list_keys() == sorted(items)


@pytest.mark.parametrize("many", [False, True], ids=["few keys", "many keys"])
def test_a_prefix_is_literal(store: Side, many: bool) -> None:
    keys = {first + second for first in SPECIAL for second in ("", "x", "*")} | {"x", "xx", "ab"}
    if many:
        keys |= {f"~{number}" for number in range(600)}
    store.set_many(dict.fromkeys(keys, 0))
    for prefix in [*SPECIAL, "x", "a", "[a]x", "absent", "\\*x"]:
        expected = sorted(key for key in keys if key.startswith(prefix))
        assert store.list_keys(prefix) == expected
        assert sorted(store.get_all(prefix)) == expected
        assert sorted(store.iter_keys(prefix)) == expected
        assert sorted(key for key, _ in store.iter_items(prefix)) == expected


def test_no_prefix_and_the_empty_one_match_everything(store: Side) -> None:
    store.set_many({"a": 1, "b": 2})
    for prefix in (None, ""):
        assert store.list_keys(prefix) == ["a", "b"]
        assert store.list_keys(prefix=prefix) == ["a", "b"]
        assert store.get_all(prefix=prefix) == {"a": 1, "b": 2}


def test_keys_are_sorted_by_code_points(store: Side) -> None:
    keys = ["b", "a", "B", "é", "z", "10", "9", "🦊", "\ufffd"]
    store.set_many(dict.fromkeys(keys))
    assert store.list_keys() == sorted(keys)


@pytest.mark.parametrize("side", SIDES_OF_THE_HOST, indirect=True)
def test_pages_lead_to_the_end(store: Side) -> None:
    items = {f"key-{number}": number for number in range(1300)}
    store.set_many(items)
    keys: list[str] = []
    found: dict[str, int] = {}
    cursor = "0"
    while True:
        cursor, page = store.scan_page(cursor, "key-1")
        keys += page
        if cursor == "0":
            break
    while True:
        cursor, some = store.scan_items_page(cursor)
        found |= some
        if cursor == "0":
            break
    assert sorted(keys) == sorted(key for key in items if key.startswith("key-1"))
    assert found == items


@pytest.mark.parametrize("prefix", [1, b"a", ["a"], True])
def test_a_prefix_must_be_text(store: Side, prefix: object) -> None:
    for method in (store.list_keys, store.get_all, store.iter_keys, store.iter_items, store.list_namespaces):
        with pytest.raises(InvalidType):
            method(prefix)


def test_a_prefix_with_a_lone_surrogate_is_refused(store: Side) -> None:
    for method in (store.list_keys, store.get_all, store.iter_keys, store.list_namespaces):
        with pytest.raises(InvalidInput, match="surrogate"):
            method("\ud800")
