"""The mapping protocol: a namespace as a dict."""

from __future__ import annotations

from collections.abc import MutableMapping

import pytest

from redis_store import DataStore, InvalidInput, InvalidValue
from redis_store.mapping import StoreMapping
from tests.support.sides import Side

pytestmark = pytest.mark.parametrize("side", ["sync", "sandbox"], indirect=True)


@pytest.fixture
def mapping(store: Side) -> StoreMapping:
    """The store as a mapping."""
    return store.as_mapping()


def test_items_are_set_got_and_deleted(mapping: StoreMapping) -> None:
    mapping["a"] = [1]
    mapping["null"] = None
    assert mapping["a"] == [1]
    assert mapping["null"] is None
    del mapping["a"]
    with pytest.raises(KeyError, match="a"):
        mapping["a"]
    with pytest.raises(KeyError, match="a"):
        del mapping["a"]


def test_membership(mapping: StoreMapping) -> None:
    mapping["a"] = None
    assert "a" in mapping
    assert "b" not in mapping
    for no_key in (1, None, b"a", "", ("a",)):
        assert no_key not in mapping


def test_length_truth_and_iteration(mapping: StoreMapping) -> None:
    assert len(mapping) == 0
    assert list(mapping) == []
    assert bool(mapping) is True, "agents ask `if data_store`, whether they have one"
    items = {f"key-{number}": number for number in range(1300)}
    mapping.update(items)
    assert len(mapping) == 1300
    assert sorted(mapping) == sorted(items)
    assert dict(mapping.items()) == items
    assert sorted(mapping.keys()) == sorted(items)
    assert sorted(mapping.values()) == sorted(items.values())


def test_the_rest_of_the_protocol(mapping: StoreMapping) -> None:
    mapping["a"] = 1
    assert mapping.setdefault("a", 2) == 1
    assert mapping.setdefault("b", 2) == 2
    assert mapping.pop("b") == 2
    assert mapping.pop("b", "default") == "default"
    with pytest.raises(KeyError):
        mapping.pop("b")
    assert mapping.popitem() == ("a", 1)
    with pytest.raises(KeyError):
        mapping.popitem()
    mapping.update({"x": 1})
    mapping.update([("y", 2)], z=3)
    assert dict(mapping.items()) == {"x": 1, "y": 2, "z": 3}
    mapping.clear()
    assert len(mapping) == 0


def test_unstorable_values(mapping: StoreMapping) -> None:
    with pytest.raises(InvalidValue):
        mapping["a"] = {1}
    with pytest.raises(InvalidValue):
        mapping.update({"a": 1, "b": object})
    for key in ("", "\ud800", 1):
        with pytest.raises(InvalidInput):
            mapping[key] = 1
    assert len(mapping) == 0


def test_a_store_is_a_mutable_mapping_equal_to_itself_only(store: Side, side: str) -> None:
    if side == "sandbox":
        store = store.use_namespace("other")
        return
    one: DataStore = store.store
    other = one.use_namespace(one.namespace)
    assert isinstance(one, MutableMapping)
    assert one == one
    assert one != other
    assert len({one, other, one}) == 2
