"""What a refused value's message says to do with it."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import pathlib
import uuid
from typing import Any

import pytest

from redis_store import InvalidValue
from redis_store.values import codec, rules


class OfNumPy:
    """Stands for an array: classes of other libraries are told by their methods."""

    def tolist(self) -> list[int]:
        return []


@dataclasses.dataclass
class Point:
    x: int = 1


async def forgotten() -> None: ...


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (datetime.datetime(2020, 1, 1), "is a datetime: use its .isoformat()."),
        (datetime.date(2020, 1, 1), "is a date: use its .isoformat()."),
        (datetime.timedelta(1), "is a timedelta: use its .total_seconds()."),
        ({1}, "is a set: use a list of its elements, such as sorted(...)."),
        (decimal.Decimal(1), "is a Decimal: use str(...) or float(...) of it."),
        (b"x", "is a bytes: use its .decode() if it is text, or encode it with base64."),
        (uuid.uuid4(), "is a UUID: use str(...) of it."),
        (pathlib.Path(), "Path: use str(...) of it."),
        (range(3), "is a range: use list(...) of it."),
        (Point(), "is a Point: use dataclasses.asdict(...) of it."),
        (OfNumPy(), "is an OfNumPy: use its .tolist()."),
        (forgotten, "is a function: JSON has null, booleans, numbers, strings, lists and objects only."),
    ],
    ids=lambda one: type(one).__name__,
)
def test_advice_about_values_of_common_classes(value: Any, advice: str) -> None:
    for write in (codec.VALUES.encode, rules.dump):
        with pytest.raises(InvalidValue) as caught:
            write({"a": [value]})
        assert str(caught.value).startswith('value["a"][0] is a')
        assert str(caught.value).endswith(advice)


def test_a_forgotten_await_is_named() -> None:
    coroutine = forgotten()
    with pytest.raises(InvalidValue, match=r"value is a coroutine: write await before the call that returned it\."):
        codec.VALUES.encode(coroutine)
    coroutine.close()
