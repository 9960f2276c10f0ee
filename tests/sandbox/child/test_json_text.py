"""The codec of an agent's process: it agrees with the rules, and does not crash where memory is short."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_store.values import rules
from sandbox import Limits
from sandbox.child import json_text
from tests.redis_store.values.test_codec import outcome
from tests.support.values import json_values
from tests.support.values_fuzz.generator import Number, Word, nested

UNREADABLE = [b"1e400", b'"\\ud800"', b"[NaN]", b"01", b'"\xff"', b"\xef\xbb\xbf1", b"1 2", b"9" * 4301, b'"\x01"', b""]


VALUES = [
    {"a": [float("nan")] * 20, "b": None},
    [None, -math.nan, math.inf],
    [0.1] * 40 + [math.nan],
    {Number.ONE: 1},
    [Word.A, [Number.ONE]],
    {"a": b"bytes", "b": None},
    [bytearray(b"1"), memoryview(b"1")],
    {1: 2, "1": 3},
    [(1, 2), {3}],
    [2**63, 2**64, -(2**63), -(2**63) - 1],
    orjson.Fragment(b"1"),
    "\ud800",
    [None, "\x7f\U0001f600" + "x" * 198],
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_writing_agrees_with_the_rules(value: Any) -> None:
    """For many more values: ``make fuzz-values``."""
    assert outcome(json_text.dump, value) == outcome(rules.dump, value)


def test_the_bound_on_depth_is_that_of_the_rules() -> None:
    for depth in (rules.MAX_DEPTH, rules.MAX_DEPTH + 1, 600, 2000):
        value = nested(depth)
        assert outcome(json_text.dump, value) == outcome(rules.dump, value)


@settings(max_examples=80)
@given(json_values)
def test_values_round_trip(value: Any) -> None:
    assert repr(json_text.load(json_text.dump(value))) == repr(value)


@settings(max_examples=80)
@given(st.one_of(st.sampled_from(UNREADABLE), st.binary(max_size=40)))
def test_reading_agrees_with_the_rules(text: bytes) -> None:
    def read(load: Any) -> Any:
        try:
            return repr(load(text))
        except (ValueError, RecursionError):
            return "refused"

    assert read(json_text.load) == read(rules.load)


@pytest.mark.server
@pytest.mark.parametrize("left", [100_000, 1_000_000])
def test_a_value_is_refused_or_stored_where_memory_is_short(run: Any, left: int) -> None:
    source = f"""
        def run(input_dict, tools):
            value, pieces = [None] * 20_000, []
            for size in (2**20, 2**16, 2**12):
                try:
                    while True:
                        pieces.append(bytearray(size))
                except MemoryError:
                    pass
            del pieces[-{left} // 2**12:]
            try:
                data_store.set("k", value)
            except MemoryError:
                return {{"set": False}}
            return {{"set": data_store.get("k") == value}}
        """
    result = run(source, limits=Limits(memory_bytes=64 * 2**20))
    assert result.error is None, result.error
    assert result.output["set"] in (True, False)


@pytest.mark.parametrize("name", ["msgpack", "msgspec", "orjson"])
def test_its_packages_are_unknown_to_agents(run: Any, name: str) -> None:
    source = f"""
        import sys
        def run(input_dict, tools):
            found = [one for one in sys.modules if one.split(".")[0] == "{name}"]
            for line in ("import {name}", "from {name}.{name} import *", "from {name}._core import *"):
                try:
                    exec(line, {{}})
                except ModuleNotFoundError as error:
                    assert error.name == "{name}", error
                else:
                    found.append(line)
            return {{"found": found}}
        """
    assert run(source).check() == {"found": []}


@pytest.mark.parametrize("tier", [None, "restricted"])
def test_a_given_package_is_whole(run: Any, tier: str | None) -> None:
    source = """
        import msgspec, msgspec.yaml, orjson
        class Point(msgspec.Struct):
            x: int
        def run(input_dict, tools):
            data_store.set("k", {"x": 2})
            return {"x": msgspec.json.decode(orjson.dumps(data_store.get("k")), type=Point).x, "y": orjson.loads("1")}
        """
    assert run(source, packages=["msgspec", "orjson"], isolation=tier).check() == {"x": 2, "y": 1}
