"""Bad input: a clear error before anything is sent, the same on every side."""

from __future__ import annotations

import datetime
import decimal
import http
import pickle
import uuid
from typing import Any

import pytest

from redis_store import DataStoreError, InvalidInput, InvalidName, InvalidType, InvalidValue, LimitExceeded
from tests.support.sides import Side

circular_list: list[Any] = []
circular_list.append(circular_list)
circular_dict: dict[str, Any] = {}
circular_dict["self"] = [circular_dict]


def nested(depth: int) -> Any:
    """Return lists nested this deep."""
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


BAD_VALUES: dict[str, tuple[Any, str]] = {
    "bytes": (b"x", "value is a bytes"),
    "bytearray": ({"a": bytearray(b"x")}, 'value["a"] is a bytearray'),
    "set": ({"a": [0, 1, 2, {3}]}, 'value["a"][3] is a set'),
    "nan": ([float("nan")], "value[0] is nan"),
    "inf": ({"a": {"b": float("-inf")}}, 'value["a"]["b"] is -inf'),
    "nan among nulls": ([None, float("nan"), None], "value[1] is nan"),
    "datetime": ([datetime.datetime(2026, 1, 1)], "value[0] is a datetime"),
    "date": (datetime.date(2026, 1, 1), "value is a date"),
    "decimal": ([decimal.Decimal(1)], "value[0] is a Decimal"),
    "uuid": ([uuid.UUID(int=1)], "value[0] is a UUID"),
    "enum": ([[uuid.SafeUUID.safe]], "value[0][0] is an enum member"),
    "int enum": ({"a": http.HTTPStatus.OK}, 'value["a"] is an enum member'),
    "object": ((1, object), "value[1] is a type"),
    "complex": (1j, "value is a complex"),
    "circular list": (circular_list, "nested deeper than 254"),
    "circular dict": (circular_dict, "nested deeper than 254"),
    "255 deep": (nested(255), "nested deeper than 254"),
    "surrogate": (["a\ud800"], "value[0] has a lone surrogate at character 1"),
    "surrogate key": ([{"\udfff": 1}], "a key of value[0] has a lone surrogate"),
    "bytes key": ({b"a": 1}, "value has a bytes as a key"),
    "tuple key": ([{(1, 2): 1}], "value[0] has a tuple as a key"),
    "nan key": ({float("nan"): 1}, "a key of value is nan"),
    "4301 digits": ([10**4300], "value[0] is an int of more than 4300 digits"),
    "-4301 digits": ({"a": -(10**4300)}, 'value["a"] is an int of more than 4300 digits'),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_non_json_value_is_refused_with_its_path(store: Side, name: str) -> None:
    value, message = BAD_VALUES[name]
    store.set("key", "old")
    for write in (
        lambda: store.set("key", value),
        lambda: store.set("new", value),
        lambda: store.set_many({"new": 1, "key": value}),
    ):
        with pytest.raises(InvalidValue) as caught:
            write()
        assert message in str(caught.value)
        assert caught.value.path.startswith("value")
        assert isinstance(caught.value, DataStoreError)
        assert isinstance(caught.value, (TypeError, ValueError))
    assert store.get_all() == {"key": "old"}


def test_deepest_and_longest_allowed_values(store: Side) -> None:
    for value in (nested(254), {"a": nested(253)}, 10**4300 - 1, -(10**4300 - 1), [{}] * 200):
        store.set("key", value)
        assert store.get("key") == value


BAD_KEYS: list[tuple[Any, type[DataStoreError]]] = [
    ("", InvalidName),
    ("\ud800", InvalidName),
    ("a\udfffb", InvalidName),
    ("k" * 65537, LimitExceeded),
    ("é" * 32769, LimitExceeded),
    (1, InvalidType),
    (None, InvalidType),
    (b"key", InvalidType),
    (True, InvalidType),
    (("a",), InvalidType),
    (["a"], InvalidType),
]


@pytest.mark.parametrize(("key", "error"), BAD_KEYS, ids=lambda part: repr(part)[:14])
def test_a_bad_key_is_refused(store: Side, key: Any, error: type[DataStoreError]) -> None:
    for call in (
        lambda: store.get(key),
        lambda: store.set(key, 1),
        lambda: store.delete(key),
        lambda: store.info(key),
        lambda: store.get_many(["good", key]),
        lambda: store.delete_many([key]),
    ):
        with pytest.raises(error) as caught:
            call()
        assert isinstance(caught.value, InvalidInput)
        assert "key" in str(caught.value)
        assert len(str(caught.value)) < 400
    assert store.list_keys() == []


def test_a_nul_in_a_key_is_a_character_like_others(store: Side) -> None:
    store.set("\x00", 1)
    store.set("\x00\x00", 2)
    assert store.get_all() == {"\x00": 1, "\x00\x00": 2}
    assert store.list_keys("\x00\x00") == ["\x00\x00"]


def test_errors_survive_pickling(store: Side) -> None:
    for call in (lambda: store.set("key", [{1}]), lambda: store.get(""), lambda: store.get("k" * 70_000)):
        with pytest.raises(DataStoreError) as caught:
            call()
        copy = pickle.loads(pickle.dumps(caught.value))
        assert type(copy) is type(caught.value)
        assert str(copy) == str(caught.value)
        assert copy.facts == caught.value.facts
