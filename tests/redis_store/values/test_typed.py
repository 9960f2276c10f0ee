"""Values converted to a type of the caller: what fits, what does not and where, and what is no such type."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import pydantic
import pytest

from redis_store import InvalidType, StoredDataError
from redis_store.values.typed import converter


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: float = 0.5


class Model(pydantic.BaseModel):
    count: int
    when: date | None = None


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    when: date
    pair: tuple[int, int]


@pydantic.dataclasses.dataclass
class Checked:
    count: Annotated[int, pydantic.Field(gt=0)]


@dataclass
class Line:
    points: list[Point]
    colour: Colour | None = None
    model: Model | None = None


@dataclass
class Positive:
    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("it is negative")


class Row(TypedDict):
    name: str


class Pair(NamedTuple):
    first: int
    second: str


class Unknown:
    pass


@dataclass
class Holder:
    inner: Unknown


FIT = [
    (Point, {"x": 1, "y": 2}, Point(1, 2.0)),
    (Point, {"x": 1, "unknown": 0}, Point(1)),
    (Point, b'{"x": 1}', Point(1)),
    (Line, {"points": [{"x": 1}], "colour": "red"}, Line([Point(1)], Colour.RED)),
    (Line, {"points": [], "model": {"count": 1, "when": "2026-11-30"}}, Line([], None, Model(count=1, when=date(2026, 11, 30)))),
    (Row, {"name": "a"}, {"name": "a"}),
    (Pair, [1, "a"], Pair(1, "a")),
    (list[Point], [{"x": 1}], [Point(1)]),
    (dict[int, Point], {"7": {"x": 1}}, {7: Point(1)}),
    (datetime, "2026-11-30T12:00:00", datetime(2026, 11, 30, 12)),
    (int, 10**30, 10**30),
    (int | None, None, None),
    (Any, {"any": 1}, {"any": 1}),
    (Annotated[int, []], 5, 5),
    (Model, {"count": 1}, Model(count=1)),
    (list[Model], [{"count": 1}], [Model(count=1)]),
    (Model | None, None, None),
    (Strict, {"when": "2026-11-30", "pair": [1, 2]}, Strict(when=date(2026, 11, 30), pair=(1, 2))),
    (Checked, {"count": 1}, Checked(count=1)),
]  # fmt: skip
MISFITS = [
    (Point, None, "value", "Expected `object`, got `null`"),
    (Point, {"x": "secret"}, 'value["x"]', "Expected `int`, got `str`"),
    (Point, {}, "value", "Object missing required field `x`"),
    (Line, {"points": [{"x": 1}, {"x": []}]}, 'value["points"][1]["x"]', "Expected `int`, got `array`"),
    (Line, {"points": [], "colour": "secret"}, 'value["colour"]', "Invalid enum value"),
    (Line, {"points": [], "model": {"count": "secret"}}, 'value["model"]["count"]', "Input should be a valid integer"),
    (Positive, {"number": -1}, "value", "it is negative"),
    (Row, {}, "value", "Object missing required field `name`"),
    (Literal["a"], "secret", "value", "Invalid enum value"),
    (Model, {"count": "secret"}, 'value["count"]', "Input should be a valid integer"),
    (list[Model], [{"count": 1}, {}], 'value[1]["count"]', "Field required"),
    (Strict, {"when": "2026-11-30", "pair": ["1", 2]}, 'value["pair"][0]', "Input should be a valid integer"),
    (Checked, {"count": 0}, 'value["count"]', "Input should be greater than 0"),
]


@pytest.mark.parametrize(("as_type", "value", "expected"), FIT)
def test_value_is_converted(as_type: Any, value: Any, expected: Any) -> None:
    converted = converter(as_type)(value, "namespace", "key")
    assert (type(converted), converted) == (type(expected), expected)


@pytest.mark.parametrize(("as_type", "value", "path", "reason"), MISFITS)
def test_misfit_is_named_with_its_path(as_type: Any, value: Any, path: str, reason: str) -> None:
    with pytest.raises(StoredDataError) as caught:
        converter(as_type)(value, "the namespace", "the key")
    error = caught.value
    assert (error.namespace, error.key, error.path) == ("the namespace", "the key", path)
    name = as_type.__name__ if as_type in (Point, Line, Model) else ""
    assert str(error).startswith(f"The value of 'the key' in namespace 'the namespace' does not fit {name}")
    assert f": {path}: {reason}" in str(error)
    assert "secret" not in f"{error} {error.__cause__}", "no error shows a stored value"


def test_exception_of_a_class_is_the_cause() -> None:
    with pytest.raises(StoredDataError) as caught:
        converter(Positive)({"number": -1}, "namespace", "key")
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("as_type", [Unknown, "Point", 5, object, len, [Point]], ids=repr)
def test_no_type_of_values_is_refused_before_anything_is_read(as_type: Any) -> None:
    with pytest.raises(InvalidType, match="as_type must be a type to which JSON can be converted"):
        converter(as_type)


def test_unknown_type_within_a_type_is_refused() -> None:
    with pytest.raises(InvalidType, match="Unknown"):
        converter(Holder)({"inner": 1}, "namespace", "key")
