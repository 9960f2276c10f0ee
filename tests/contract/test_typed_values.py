"""`get` and `get_many` with `as_type`, on each side on which a class can be passed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from redis_store import InvalidType, StoredDataError
from tests.support.sides import SIDES_WITH_FUNCTIONS, Side

pytestmark = [
    pytest.mark.parametrize("side", SIDES_WITH_FUNCTIONS, indirect=True),
    pytest.mark.parametrize("server", ["valkey9"], indirect=True),
]


@dataclass
class Point:
    x: int
    y: int = 0


def test_values_are_converted(store: Side) -> None:
    store.set_many({"a": {"x": 1}, "b": {"x": 2, "y": 3}, "null": None, "list": [{"x": 4}]})
    assert store.get("a", as_type=Point) == Point(1)
    assert store.get("list", as_type=list[Point]) == [Point(4)]
    assert store.get_many(["b", "absent", "a"], as_type=Point) == {"b": Point(2, 3), "a": Point(1)}
    assert store.get("null", 7, as_type=int | None) is None


def test_default_is_not_converted(store: Side) -> None:
    assert store.get("absent", as_type=Point) is None
    assert store.get("absent", "default", as_type=Point) == "default"


def test_misfit_names_namespace_key_and_path(store: Side) -> None:
    other = store.use_namespace("other")
    other.set("the key", {"x": "three"})
    for read in (lambda: other.get("the key", as_type=Point), lambda: other.get_many(["the key"], as_type=Point)):
        with pytest.raises(StoredDataError) as caught:
            read()
        assert (caught.value.namespace, caught.value.key, caught.value.path) == ("other", "the key", 'value["x"]')
    with pytest.raises(InvalidType, match="as_type"):
        other.get("absent", as_type="Point")
