"""Strategies for the values that a caller may pass, valid and invalid."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import uuid
from typing import Any, NamedTuple

from hypothesis import strategies as st


class Colour(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    A = "a"


class Flags(enum.Flag):
    X = 1


@dataclasses.dataclass
class Record:
    a: int = 1


class Pair(NamedTuple):
    left: Any
    right: Any


class MyDict(dict): ...


class MyList(list): ...


class MyStr(str):
    def __str__(self) -> str:
        return "a lie"


class MyInt(int):
    def __repr__(self) -> str:
        return "a lie"


class MyFloat(float):
    def __repr__(self) -> str:
        return "a lie"


LONG = 10**4300

big_ints = st.one_of(
    st.integers(),
    st.integers(min_value=2**53, max_value=2**66),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 10**18, 10**19, 10**25]),
    st.sampled_from([1, -1]).map(lambda sign: sign * (LONG - 1)),
)
floats = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([-0.0, 0.0, 1e308, 1.7976931348623157e308, 5e-324, 1e16, 1e22, 0.1, 123456789012345678.0]),
)
texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["null", "\x00", "\u2028", "\x7f", '"\\', "[[[[", "{{{{", "0" * 20, "é", "🦊", "a,null"]),
)
scalars = st.one_of(st.none(), st.booleans(), big_ints, floats, texts)

json_values = st.recursive(
    scalars,
    lambda children: st.one_of(st.lists(children, max_size=20), st.dictionaries(texts, children, max_size=20)),
    max_leaves=30,
)
"""Values that are read back exactly as written."""

too_long = st.sampled_from([1, -1]).map(lambda sign: sign * LONG)  # Python refuses to show such a number

_odd_scalars = too_long | st.sampled_from(
    [
        float("nan"), float("inf"), float("-inf"), b"x", bytearray(b"x"), memoryview(b"x"), {1}, frozenset(), 1j,
        Ellipsis, NotImplemented, object, range(3), uuid.UUID(int=1), Colour.RED, Number.ONE, Word.A, Flags.X, Record(),
        datetime.datetime(2026, 1, 1), datetime.date(2026, 1, 1), datetime.time(1), datetime.timedelta(1), decimal.Decimal("1.5"),
        "\ud800", "a\udfffb", MyStr("text"), MyStr("\ud800"), MyInt(7), MyInt(2**70), MyFloat(1.5), MyFloat("nan"), Pair(1, 2),
        collections.OrderedDict(b=1, a=2), collections.Counter("aab"), collections.defaultdict(list, a=[1]), MyDict(a=1),
        MyList([1, 2]), collections.deque([1]), collections.UserDict(a=1), (i for i in "ab"), len, Exception("x"),
    ]
)  # fmt: skip

_odd_keys = st.one_of(
    too_long,
    texts,
    big_ints,
    floats,
    st.none(),
    st.booleans(),
    st.sampled_from(
        [
            float("nan"),
            float("inf"),
            b"key",
            (1, 2),
            "\ud800",
            MyStr("key"),
            MyInt(1),
            MyFloat(0.5),
            Number.ONE,
            Word.A,
            Colour.RED,
            uuid.UUID(int=2),
            datetime.date(2026, 1, 1),
            frozenset({1}),
        ]
    ),
)


def _containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(children, max_size=18),
        st.lists(children, max_size=4).map(tuple),
        st.lists(children, max_size=4).map(MyList),
        st.dictionaries(texts, children, max_size=18),
        st.dictionaries(_odd_keys, children, max_size=3),
        st.dictionaries(texts, children, max_size=3).map(MyDict),
        st.tuples(children, children).map(lambda pair: Pair(*pair)),
    )


anything = st.recursive(st.one_of(scalars, _odd_scalars), _containers, max_leaves=12)
"""Any value that a caller may pass; most contain something that JSON cannot represent."""


def nested(depth: int, innermost: Any = None, kind: str = "list") -> Any:
    """Return a value nested this many levels deep."""
    value: Any = ([] if kind == "list" else {}) if innermost is None else [innermost]
    for level in range(depth - 1):
        value = {"k": value} if kind == "dict" or (kind == "mixed" and level % 2) else [value]
    return value
