"""Values together with their infos: `get_many`, `get_all` and `iter_items` with ``info=True``."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import redis

from redis_store import InvalidInput, StoredDataError
from redis_store.namespace.keys import UserKeys
from tests.support.servers import KINDS_WITH_TTL
from tests.support.sides import Side


class Point(NamedTuple):
    x: int


def separately(store: Side) -> dict[str, Any]:
    """What the reads must return, by other calls."""
    return {key: (value, store.info(key)) for key, value in store.get_all().items()}


def test_values_come_with_their_infos(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    assert store.get_many(["a"], info=True) == store.get_many([], info=True) == store.get_all(info=True) == {}
    store.set("a", {"x": [1, None]}, metadata={"m": {"é": 1}})
    store.set_many({"b": None, "bb": 2})
    raw.hset(keys.namespace("default").data, "by hand", "3")
    wanted = separately(store)
    assert wanted["a"][1].metadata == {"m": {"é": 1}}
    assert (wanted["b"][0], wanted["by hand"][1].version) == (None, None)
    assert store.get_all(info=True) == dict(store.iter_items(info=True)) == wanted
    found = store.get_many(["bb", "missing", "a", "bb", "by hand"], info=True)
    assert list(found) == ["bb", "a", "by hand"]
    assert found == {key: wanted[key] for key in found}
    begin_with_b = {"b", "bb", "by hand"}
    assert store.get_all("b", info=True).keys() == dict(store.iter_items("b", info=True)).keys() == begin_with_b


@pytest.mark.parametrize("server", KINDS_WITH_TTL, indirect=True)
def test_infos_say_when_values_expire(store: Side) -> None:
    store.set("short", 1, ttl=1000)
    store.set("ever", 2)
    wanted = separately(store)
    assert wanted["short"][1].expires_at is not None
    assert wanted["ever"][1].expires_at is None
    assert store.get_all(info=True) == store.get_many(["short", "ever"], info=True) == wanted
    assert dict(store.iter_items(info=True)) == wanted


@pytest.mark.parametrize(
    ("count", "size"), [(4200, 1), (10_100, 1), (30, 600_000)], ids=["two reads", "pages", "big values"]
)
@pytest.mark.parametrize("side", ["sync"], indirect=True)
@pytest.mark.parametrize("server", ["redis7", "valkey9"], indirect=True)
def test_big_namespaces(store: Side, count: int, size: int) -> None:
    """They are read in other ways than small ones."""
    items = {f"k{number}": f"{number}".ljust(size, "x") for number in range(count)}
    half = count // 2
    store.set_many(dict(list(items.items())[:half]))
    store.set_many(dict(list(items.items())[half:]), {"m": 1} if size == 1 else None)
    found = store.get_all("k", info=True)
    assert {key: value for key, (value, _) in found.items()} == items
    assert found == dict(store.iter_items(info=True))
    some = list(items)[: 20 if size > 1 else 10_000]
    assert store.get_many(some, info=True) == {key: found[key] for key in some}
    assert [found[key][1] for key in ("k0", f"k{count - 1}")] == [store.info("k0"), store.info(f"k{count - 1}")]


@pytest.mark.parametrize("side", ["sync", "async"], indirect=True)
def test_as_type_with_infos(store: Side) -> None:
    store.set("point", [1])
    assert store.get_many(["point"], as_type=Point, info=True) == {"point": (Point(1), store.info("point"))}
    store.set("point", ["x"])
    with pytest.raises(StoredDataError):
        store.get_many(["point"], as_type=Point, info=True)


def test_keys_and_prefixes_are_checked(store: Side) -> None:
    for keys in ("key", [5], [""], None):
        with pytest.raises(InvalidInput):
            store.get_many(keys, info=True)
    with pytest.raises(InvalidInput):
        store.get_all(5, info=True)
    with pytest.raises(InvalidInput):
        list(store.iter_items(5, info=True))
