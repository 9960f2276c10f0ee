"""Random values that a caller may pass, and random texts that a server may hold: valid, invalid, and nearly either.

It imports only the standard library, because its source is also part of an agent, which makes the same values in the sandbox.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import json
import pathlib
import random
import uuid
from collections.abc import Callable, ItemsView
from typing import Any, NamedTuple

LONG = 10**4300
"""The smallest int that is refused."""

MAX_DEPTH = 254


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


class LyingDict(dict):
    def items(self) -> ItemsView[Any, Any]:  # type: ignore[override]
        return {"a": float("nan"), "b": None}.items()


class MyList(list): ...


class MyTuple(tuple): ...


class MyStr(str):
    def __str__(self) -> str:
        return "a lie"


class MyInt(int):
    def __repr__(self) -> str:
        return "a lie"


class MyFloat(float):
    def __repr__(self) -> str:
        return "a lie"


NAN, INFINITY = float("nan"), float("inf")

INTS = [
    *(sign * (2**bits + off) for bits in (7, 8, 15, 16, 31, 32, 53, 63, 64, 65, 70) for off in (-1, 0, 1) for sign in (1, -1)),
    *(0, 1, -1, 127, -32, -33, 10**18, 10**19, 10**25, 10**100, LONG - 1, 1 - LONG),
]  # fmt: skip
FLOATS = [
    -0.0, 0.0, 0.1, 1.5, 1e16, 1e22, 1e-5, 1e-7, 1e308, 1.7976931348623157e308, 5e-324, 2.2250738585072014e-308,
    123456789012345678.0, 9007199254740993.0, 3.4028234663852886e38,
]  # fmt: skip
TEXTS = [
    "", "a", "key", "null", "true", "1", "-1", "1.5", "2**70", "NaN", "[null]", "a,null", "\x00", "\x1f", "\x7f",
    "\x7f\U0001f600",
    "\xff", "\x80", "\u2028", "\ufeff", "\uffff", "\U0010ffff", '"', "\\", '"\\', "\\u0000", "\\ud800", "[[[[",
    "{{{{", "0" * 20,
    "é", "🦊", "/", "</script>", "x" * 31, "x" * 32, "x" * 255, "x" * 256, "\x7f\U0001f600" + "x" * 198, str(2**64), "9" * 19,
]  # fmt: skip
NOT_FINITE = [NAN, INFINITY, -INFINITY, -NAN]
ODD = [
    *NOT_FINITE, LONG, -LONG, 10**5000, b"x", b"", b"\xff", bytearray(b"x"), memoryview(b"x"), {1}, set(), frozenset(), 1j, ...,
    NotImplemented, object, range(3), uuid.UUID(int=1), Colour.RED, Number.ONE, Word.A, Flags.X, Record(), Record,
    datetime.datetime(2026, 1, 1), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), datetime.date(2026, 1, 1),
    datetime.time(1), datetime.timedelta(1), decimal.Decimal("1.5"), fractions.Fraction(1, 3), pathlib.PurePosixPath("a"),
    "\ud800", "a\udfffb", "x" * 300 + "\udc80", MyStr("\ud800"), MyFloat("nan"), MyFloat("inf"), MyInt(LONG), LyingDict(a=1),
    collections.deque([1]), collections.UserDict(a=1), collections.UserList([1]), collections.ChainMap({"a": 1}),
    {}.keys(), {}.values(), {}.items(), (i for i in "ab"), map(len, ()), len, Exception("x"), {"a": b""}, [None,
    NAN], (INFINITY,),
]  # fmt: skip
UNUSUAL = [
    MyStr("text"), MyStr(""), MyInt(7), MyInt(2**70), MyFloat(1.5), MyFloat(-0.0), (), (1,), (None, ("a",)), MyTuple((1,)),
    Pair(1, 2), collections.OrderedDict(b=1, a=2), collections.Counter("aab"), collections.defaultdict(list, a=[1]),
    MyDict(a=1),
    MyDict(), MyList([1, 2]), MyList(), {1: "number", "1": "text"}, {True: 1, "true": 2}, {None: 1, "null": 2},
    {MyStr("k"): 1, "k2": 2}, {1.0: "a", "1.0": "b"},
]  # fmt: skip
"""Values that JSON can represent and `orjson` or `ormsgpack` refuses, or might."""

UNUSUAL_KEYS = [
    None, True, False, 0, 1, -1, 2**63, 2**64, 2**70, -(2**63) - 1, LONG - 1, 0.5, -0.0, 1e22, 1e-7, MyStr("key"), MyStr(""),
    MyInt(1), MyInt(2**70), MyFloat(0.5),
]  # fmt: skip
ODD_KEYS = [
    *NOT_FINITE, LONG, b"key", (1, 2), (), "\ud800", "a\udfff", MyStr("\ud800"), MyFloat("nan"), Number.ONE, Word.A, Colour.RED,
    Flags.X, uuid.UUID(int=2), datetime.date(2026, 1, 1), datetime.datetime(2026, 1, 1), decimal.Decimal(1),
    frozenset({1}), int,
    pathlib.PurePosixPath("a"),
]  # fmt: skip
DEPTHS = [*range(1, 6), 64, 126, 127, 128, 129, 130, 131, 200, *range(250, 259), 300, 512, 600]
COUNTS = [*range(9), 15, 16, 17, 31, 32, 33]


def random_value(seed: int) -> Any:
    """Return the value of a seed. About half of them can be stored; most of the others have only one or two faults."""
    return _Values(random.Random(seed)).value()


class _Values:
    """Values from one source of chance."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._draw = chance.random
        draw = self._draw()
        self._odd = 0.0 if draw < 0.45 else 0.06 if draw < 0.8 else 0.25
        """The part of the leaves and keys that JSON cannot represent."""
        self._unusual = 0.0 if self._draw() < 0.5 else 0.15
        self._left = int(40 * self._draw() ** 2) + 1
        """Bound on the further elements, so that a value is small."""

    def value(self) -> Any:
        draw = self._draw()
        if draw < 0.04:
            return self._deep()
        if draw < 0.07:
            return self._circular()
        if draw < 0.12:
            return self._near_null()
        if draw < 0.123:
            return self._long()
        return self._tree(0)

    def _pick(self, options: list[Any]) -> Any:
        return options[int(self._draw() * len(options))]

    def _tree(self, depth: int) -> Any:
        if depth > 6 or self._left <= 0 or self._draw() < (0.15 if depth == 0 else 0.5):
            return self._leaf()
        count = self._pick(COUNTS) if self._draw() < 0.1 else int(5 * self._draw())
        self._left -= count
        if self._draw() < 0.5:
            return self._list([self._tree(depth + 1) for _ in range(count)])
        return self._dict([(self._key(), self._tree(depth + 1)) for _ in range(count)])

    def _list(self, items: list[Any]) -> Any:
        if self._draw() >= self._unusual:
            return items
        if len(items) == 2 and self._draw() < 0.2:
            return Pair(*items)
        return self._pick([tuple, MyList, MyTuple])(items)

    def _dict(self, pairs: list[tuple[Any, Any]]) -> Any:
        if self._draw() >= self._unusual:
            return dict(pairs)
        return self._pick([MyDict, collections.OrderedDict])(pairs)

    def _leaf(self) -> Any:
        draw = self._draw()
        if draw < self._odd:
            return self._pick(ODD)
        if draw < self._odd + self._unusual:
            return self._pick(UNUSUAL)
        kind = self._draw()
        if kind < 0.2:
            return None
        if kind < 0.3:
            return self._draw() < 0.5
        if kind < 0.55:
            return self._int()
        if kind < 0.75:
            return self._float()
        return self._text()

    def _int(self) -> int:
        if self._draw() < 0.5:
            return int(self._pick(INTS))
        number = self._chance.getrandbits(int(1 + 80 * self._draw()))
        return -number if self._draw() < 0.5 else number

    def _float(self) -> float:
        draw = self._draw()
        if draw < 0.4:
            return float(self._pick(FLOATS))
        return (draw - 0.7) * 10 ** (int(40 * self._draw()) - 20)

    def _text(self) -> str:
        if self._draw() < 0.6:
            return str(self._pick(TEXTS))
        alphabet = self._pick(
            ["ab", '"\\/,:[]{}', "\x00\x1f\x7f\n\t", "\xff\u07ff\u2028", "🦊\U0010ffff", "0123456789.eE+-"]
        )
        return "".join(self._pick(alphabet) for _ in range(int(24 * self._draw())))

    def _key(self) -> Any:
        draw = self._draw()
        if draw < self._odd / 2:
            return self._pick(ODD_KEYS)
        if draw < self._odd / 2 + self._unusual:
            return self._pick(UNUSUAL_KEYS)
        return self._text() if draw < 0.7 else f"key-{int(20 * self._draw())}"

    def _deep(self) -> Any:
        """Return a value of about the greatest depth that is allowed."""
        depth = self._pick(DEPTHS)
        value: Any = self._pick([[], {}, None, (), "[" * 300, *NOT_FINITE, self._tree(5)])
        kind = self._draw()
        for level in range(depth):
            if kind < 0.3 or (kind < 0.8 and level % 2):
                value = [value]
            elif kind < 0.7:
                value = {"k": value}
            else:
                value = self._pick(
                    [[value], (value,), {1: value}, {"a": None, "b": value}, MyList([value]), MyDict(a=value)]
                )
        return value if self._draw() < 0.7 else [None, value, self._leaf()]

    def _circular(self) -> Any:
        inner: list[Any] = [self._leaf() for _ in range(int(3 * self._draw()))]
        outer = self._pick(
            [{"a": inner}, [inner], (inner,), {1: inner}, MyList([inner]), inner, {"x": None, "y": [inner]}]
        )
        if self._draw() < 0.8:
            inner.append(outer)
        return [outer, inner] if self._draw() < 0.3 else outer  # without a circle, the same object twice

    def _near_null(self) -> Any:
        """Return what `orjson` writes as nulls, beside others that are meant, and bytes that look like both."""
        parts = [None, *NOT_FINITE, "\x7f", "\xff", 0.1, -1, 127, "null", 1e308, "\x7f\U0001f600" + "x" * 198]
        items = [
            self._pick(parts if self._draw() < 0.3 else [None, 0.1, "null", -1])
            for _ in range(1 + int(20 * self._draw()))
        ]
        return items if self._draw() < 0.5 else {f"k{place}": item for place, item in enumerate(items)}

    def _long(self) -> Any:
        """Return a value of some ten thousand bytes, or of many elements."""
        return self._pick(
            [
                self._text() * 3000,
                [self._leaf()] * 1000,
                {f"k{number}": None for number in range(500)},
                ["x" * 65536, self._leaf()],
                [[]] * 2000,
                [self._leaf(), "y" * 70_000, self._leaf()],
            ]
        )


def random_text(seed: int) -> bytes:
    """Return the stored bytes of a seed: JSON as other programs write it, or spoilt in one place."""
    chance = random.Random(seed)
    draw = chance.random
    values = _Values(chance)
    values._odd = 0.0
    values._unusual = 0.0
    value = values.value() if draw() < 0.7 else values._leaf()
    try:
        text = json.dumps(
            value,
            ensure_ascii=draw() < 0.5,
            indent=2 if draw() < 0.1 else None,
            separators=(",", ":") if draw() < 0.5 else None,
        ).encode(errors="surrogatepass")
    except (TypeError, ValueError, RecursionError):
        text = b"[" * chance.choice(DEPTHS)
    if draw() < 0.5:
        return text
    pieces: list[Callable[[], bytes]] = [
        lambda: chance.choice(SPOILS),
        lambda: bytes([chance.randrange(256)]),
        lambda: str(chance.choice(INTS)).encode(),
        lambda: b"",
    ]
    start = chance.randrange(len(text) + 1)
    piece = chance.choice(pieces)()
    return text[:start] + piece + text[start + chance.choice([0, 0, 1, 1, 2, 5]) :]


SPOILS = [
    b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400", b"1e-400", b"01", b"-0", b"-0.0", b"1.", b".5", b"+1",
    b"1e5", b"1E+5", b"0x1",
    b'"\\ud800"', b'"\\udfff\\ud800"', b'"\\ud83e\\udd8a"', b'"\\ud800\\u0041"', b"\xed\xa0\x80", b"\xff",
    b"\xc0\x80", b"\xef\xbb\xbf",
    b"null", b"nul", b"True", b"'a'", b'"\x01"', b'"\x7f"', b"\x00", b"\x01", b"\x01\x28\xb5\x2f\xfd", b" ",
    b"\n\t\r", b"\x0c", b"\xc2\xa0",
    b",", b",,", b"]", b"}", b"{", b"[", b":", b'{"a":1,"a":2}', b'{"a":1,}', b"[1,]", b"//", b'"\\x"', b'"\\u12"', b'"\\/"',
    b"9" * 4300, b"9" * 4301, b"0." + b"3" * 400, b"1" * 400 + b".5", b"18446744073709551616", b"-9223372036854775809",
    b"123456789012345678901234567890.0", b"1" + b"0" * 309, b"1" + b"0" * 309 + b".0",
]  # fmt: skip


def nested(depth: int, innermost: Any = None, kind: str = "list") -> Any:
    """Return a value nested this many levels deep."""
    value: Any = ([] if kind == "list" else {}) if innermost is None else [innermost]
    for level in range(depth - 1):
        value = {"k": value} if kind == "dict" or (kind == "mixed" and level % 2) else [value]
    return value
