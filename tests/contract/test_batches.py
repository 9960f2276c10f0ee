"""Many keys at once: get_many, get_all, set_many, delete_many, clear."""

from __future__ import annotations

import threading
from collections import ChainMap, OrderedDict, UserDict
from typing import Any

import pytest

from redis_store import InvalidInput, InvalidType, InvalidValue, LimitExceeded
from tests.support.servers import REAL_KINDS
from tests.support.sides import OpenSide, Side


def test_get_many_answers_in_the_order_asked(store: Side) -> None:
    store.set_many({"a": 1, "b": None, "c": [3]})
    found = store.get_many(["c", "missing", "a", "b"])
    assert list(found.items()) == [("c", [3]), ("a", 1), ("b", None)]


def test_get_many_gives_each_key_once(store: Side) -> None:
    store.set_many({"a": 1, "b": 2})
    assert list(store.get_many(["b", "a", "b", "b"]).items()) == [("b", 2), ("a", 1)]


def test_keys_may_come_from_any_iterable(store: Side, side: str) -> None:
    store.set_many({"a": 1, "b": 2, "c": 3})
    for keys in (("a", "b"), {"a": 0, "b": 0}, ["a", "b"]):
        assert store.get_many(keys) == {"a": 1, "b": 2}
    assert store.get_many({"a"}) == {"a": 1}
    if side != "sandbox":  # a generator cannot be sent
        assert store.get_many(key for key in "ab") == {"a": 1, "b": 2}
        assert store.delete_many(key for key in "ab") == 2


def test_a_batch_of_big_values(store: Side) -> None:
    store.set("key-0", "old", metadata={"m": 1})
    items = {f"key-{number}": ["x" * 2000, number] for number in range(1100)}
    assert store.set_many(items) == 1100
    assert store.get_all() == items
    assert store.list_namespaces() == ["default"]
    info = store.info("key-0")
    assert info is not None
    assert (info.metadata, info.size) == ({"m": 1}, 2006)


@pytest.mark.parametrize("count", [100, 101, 1000, 1001, 4100])
def test_get_many_of_every_size(store: Side, count: int) -> None:
    items = {f"key-{number}": number for number in range(count)}
    store.set_many(items)
    assert store.get_many([*items, "missing"]) == items


def test_empty_batches(store: Side) -> None:
    assert store.get_many([]) == {}
    assert store.set_many({}) == 0
    assert store.set_many({}, metadata={"a": 1}) == 0
    assert store.delete_many([]) == 0
    assert store.clear() == 0
    assert store.get_all() == {}
    assert store.list_keys() == []
    assert store.iter_keys() == []
    assert store.iter_items() == []
    assert store.list_namespaces() == []


def test_set_many_returns_count_and_replaces(store: Side) -> None:
    store.set("a", 0, metadata={"m": 1})
    assert store.set_many({"a": 1, "b": 2}) == 2
    assert store.get_all() == {"a": 1, "b": 2}
    assert store.info("a").metadata == {"m": 1}
    assert store.info("b").created_by == "tester"


@pytest.mark.parametrize("kind", [OrderedDict, ChainMap, UserDict, dict])
def test_any_mapping_is_a_batch(store: Side, kind: Any) -> None:
    assert store.set_many(kind({"a": 1, "b": 2})) == 2
    assert store.get_all() == {"a": 1, "b": 2}


# fakeredis runs the commands of a MULTI one by one while other clients read.
@pytest.mark.parametrize(("side", "server"), [("sync", kind) for kind in REAL_KINDS], indirect=True)
@pytest.mark.parametrize("count", [300, 2500])
def test_readers_see_a_batch_whole(open_side: OpenSide, user: str, count: int) -> None:
    writer, reader = open_side(user), open_side(user)
    keys = [f"key-{number}" for number in range(count)]
    writer.set_many(dict.fromkeys(keys, 0))
    rounds = 25
    done = threading.Event()

    def write() -> None:
        for number in range(1, rounds):
            writer.set_many(dict.fromkeys(keys, number))
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen: list[set[int]] = []
    while True:
        last = done.is_set()
        seen.append(set(reader.get_many(keys).values()))
        seen.append(set(reader.get_all().values()))
        if last:
            break
    thread.join()
    assert [values for values in seen if len(values) != 1] == []
    assert seen[-1] == {rounds - 1}


def test_delete_many_counts_existing_keys(store: Side) -> None:
    store.set_many({"a": 1, "b": 2, "c": 3})
    assert store.delete_many(["a", "missing", "b", "a"]) == 2
    assert store.get_all() == {"c": 3}
    assert store.delete_many(["a", "b"]) == 0
    assert store.info("a") is None


@pytest.mark.parametrize("count", [1000, 1001, 4100])
def test_delete_many_of_every_size(store: Side, count: int) -> None:
    store.set_many({f"key-{number}": number for number in range(count)} | {"stays": 1})
    assert store.delete_many([f"key-{number}" for number in range(count + 10)]) == count
    assert store.get_all() == {"stays": 1}
    assert store.list_namespaces() == ["default"]
    assert store.delete_many(["stays"]) == 1
    assert store.list_namespaces() == []


def test_clear_empties_one_namespace(store: Side) -> None:
    other = store.use_namespace("other")
    store.set_many({f"key-{number}": number for number in range(1200)}, metadata={"m": 1})
    other.set("key", 1)
    assert store.clear() == 1200
    assert store.clear() == 0
    assert store.get_all() == {}
    assert other.get_all() == {"key": 1}
    assert store.list_namespaces() == ["other"]
    store.set("key-1", 1)
    assert store.info("key-1").metadata == {}


@pytest.mark.parametrize("keys", ["abc", b"abc", 1, None, True], ids=repr)
def test_a_single_key_is_no_batch(store: Side, keys: Any) -> None:
    for method in (store.get_many, store.delete_many):
        with pytest.raises(InvalidType):
            method(keys)


@pytest.mark.parametrize("items", [[("a", 1)], "ab", None, 1, {"a"}], ids=repr)
def test_a_batch_must_be_a_mapping(store: Side, items: Any) -> None:
    with pytest.raises(InvalidType):
        store.set_many(items)


@pytest.mark.parametrize("metadata", [None, {"m": 1}], ids=["plain", "metadata"])
@pytest.mark.parametrize("count", [3, 2500])
def test_one_bad_element_stops_a_whole_batch(store: Side, count: int, metadata: Any) -> None:
    store.set("key-0", "old")
    good: dict[Any, Any] = {f"key-{number}": number for number in range(count)}
    for bad, error in (({"last": {1}}, InvalidValue), ({"": 1}, InvalidInput), ({7: 1}, InvalidType)):
        with pytest.raises(error):
            store.set_many({**good, **bad}, metadata=metadata)
    with pytest.raises(InvalidValue, match=r"value\[1\]\[\"x\"\]") as caught:
        store.set_many({**good, "the last": [0, {"x": b""}]}, metadata=metadata)
    assert "the last" in str(caught.value) or store.name == "sandbox"
    assert store.get_all() == {"key-0": "old"}


def test_one_bad_key_stops_a_whole_delete(store: Side) -> None:
    store.set("a", 1)
    for keys in (["a", ""], ["a", 1], ["a", None], ["a", "\udfff"], ["a", "k" * 65537]):
        with pytest.raises(InvalidInput):
            store.delete_many(keys)
        with pytest.raises(InvalidInput):
            store.get_many(keys)
    assert store.get("a") == 1


@pytest.mark.parametrize("side", ["sync"], indirect=True)
def test_limits_of_a_batch_and_of_a_value(server: Any, open_store: Any, user: str) -> None:
    store = open_store(server.url, user, max_value_bytes=100, max_batch_bytes=1000)
    store.set("fits", "x" * 98)
    with pytest.raises(LimitExceeded, match="101 bytes") as caught:
        store.set("key", "x" * 99)
    assert (caught.value.limit, caught.value.limit_bytes, caught.value.size_bytes) == ("max_value_bytes", 100, 101)
    with pytest.raises(LimitExceeded) as caught:
        store.set_many({f"k{number}": "x" * 90 for number in range(11)})
    assert (caught.value.limit, caught.value.limit_bytes) == ("max_batch_bytes", 1000)
    with pytest.raises(LimitExceeded):
        store.set_many({"a": 1, "key": "x" * 99})
    assert store.list_keys() == ["fits"]
