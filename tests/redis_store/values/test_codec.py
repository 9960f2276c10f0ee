"""Values to bytes and back: exact, and the fast path agrees with the reference."""

from __future__ import annotations

import inspect
import json
import math
import random
import sys
from collections import Counter
from typing import Any

import msgspec
import orjson
import ormsgpack
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from redis_store import CorruptValue, InvalidType, InvalidValue, StoredDataError, UnsupportedEncoding
from redis_store.near.entries import Entry, Space
from redis_store.values import codec, rules
from redis_store.values.codec import VALUES, JsonText
from tests.support.values import json_values
from tests.support.values_fuzz.generator import LONG, Number, Word, nested
from tests.support.values_fuzz.outcomes import outcome_of_value
from tests.support.values_fuzz.rounds import Disagreement, check_in_this_process

JSON_TEXT = JsonText()
DEPTHS = [1, 2, 126, 127, 128, 129, 130, 131, 200, 253, 254, 255, 256, 260, 2000]


def outcome(encode: Any, value: Any) -> str:
    """Return the outcome for a value: what is read back, or the refusal."""
    texts: list[bytes] = []
    return outcome_of_value(lambda value: texts.append(encode(value)), lambda: rules.load(texts[0]), value)


def decode(text: bytes) -> Any:
    return VALUES.decode(text, "ns", "key")


def entry_of(text: bytes) -> Entry:
    """Return an entry of the near cache that may keep its value."""
    entry = Entry(b"data", Space(), "key", text, math.inf)
    entry.keeps_value = True
    return entry


def test_a_kept_value_is_copied_for_each_caller_or_decoded_again() -> None:
    entry = entry_of(b'{"a":[{"b":[1]}]}')
    first = VALUES.decode_kept(entry, "ns", "key")
    first["a"][0]["b"].append("changed")
    second = VALUES.decode_kept(entry, "ns", "key")
    assert second == {"a": [{"b": [1]}]}
    second["a"].clear()
    assert VALUES.decode_kept(entry, "ns", "key") == {"a": [{"b": [1]}]}


def test_a_kept_value_too_deep_to_copy_is_decoded_again() -> None:
    entry = entry_of(b"[" * 1000 + b"]" * 1000)
    for _ in range(2):
        value, depth = VALUES.decode_kept(entry, "ns", "key"), 1
        while value:
            value, depth = value.pop(), depth + 1
        assert depth == 1000
    assert JSON_TEXT.decode_kept(entry, "ns", "key") == entry.text


@pytest.mark.parametrize("seed", [20261130, None], ids=["fixed", "random"])
def test_the_fast_path_agrees_with_the_rules(seed: int | None) -> None:
    """For longer, and in the sandbox: ``make fuzz-values``."""
    seed = random.randrange(10**9) if seed is None else seed
    print(f"seeds from {seed} on")
    became = Counter(check_in_this_process(seed + place) for place in range(1000))
    assert min(became["stored"], became["refused"]) > 150


@pytest.mark.parametrize(
    "value",
    [
        [None, math.nan],
        {"a": [math.nan] * 20, "b": None},
        [math.inf, None],
        {Number.ONE: 1},
        {Word.A: 1},
        [Word.A, [Number.ONE]],
        ["null", math.nan],
        [None, -math.nan, math.inf],
        {"a": b"bytes", "b": None},
        pytest.param([orjson.Fragment(b"1")], id="fragment"),
        [0.1] * 40 + [math.nan],
        [None, "\x7f", -math.inf, "ÿ"],
        pytest.param([None, *["\x7f"] * 100, math.nan], id="among many bytes that begin a NaN"),
    ],
    ids=lambda value: repr(value)[:20],  # without the address of an object: workers of pytest compare ids
)
def test_refused_values_that_a_library_takes(value: Any) -> None:
    assert outcome(VALUES.encode, value) == outcome(rules.dump, value)
    assert outcome(VALUES.encode, value).startswith("InvalidValue")


def without_the_search_for_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_NOT_FINITE", lambda packed, *part: None)


def with_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_EXACT_TYPES", codec._EXACT_TYPES & ~ormsgpack.OPT_PASSTHROUGH_UUID)


def with_doubles_for_long_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_load", orjson.loads)


@pytest.mark.parametrize("fault", [without_the_search_for_nan, with_ids, with_doubles_for_long_integers])
def test_faults_of_the_fast_path_are_found(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    with pytest.raises(Disagreement):
        Counter(map(check_in_this_process, range(2000)))


def test_bytes_that_look_like_nan_are_no_nan() -> None:
    # In MessagePack: a text of 203 bytes that begins with DEL and an emoji, which looks like a NaN, beside a null.
    value = [None, "\x7f\U0001f600" + "x" * 198]
    assert decode(VALUES.encode(value)) == value


@pytest.mark.parametrize("count", [1, 100])
def test_bytes_that_begin_a_nan_cost_no_second_encoding(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "dump", None)
    assert decode(VALUES.encode([None, 127, *["\x7f"] * count])) == [None, 127, *["\x7f"] * count]


def test_bound_on_depth_is_that_of_orjson() -> None:
    orjson.dumps(nested(rules.MAX_DEPTH))
    with pytest.raises(TypeError):
        orjson.dumps(nested(rules.MAX_DEPTH + 1))


@pytest.mark.parametrize("kind", ["list", "dict", "mixed"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_the_depth_that_is_allowed(depth: int, kind: str) -> None:
    for value in (
        nested(depth, kind=kind),
        nested(depth, innermost="[{" * 300, kind=kind),
        [nested(depth - 1, kind=kind)] * 3,
    ):
        went = outcome(VALUES.encode, value)
        assert went == outcome(rules.dump, value)
        assert went.startswith("value") is (depth <= rules.MAX_DEPTH)
        text = json.dumps(value).encode() if depth < 900 else b"[" * depth + b"]" * depth
        if depth <= rules.MAX_DEPTH:
            assert JSON_TEXT.encode(text) == text
            assert decode(text) == value
        else:
            with pytest.raises(InvalidValue, match=r"254|recursion"):
                JSON_TEXT.encode(text)


@pytest.mark.parametrize(
    "number", [LONG - 1, 1 - LONG, LONG, -LONG, 10**5000], ids=["4300", "-4300", "4301", "-4301", "5001"]
)
def test_the_digits_that_are_allowed(number: int) -> None:
    for value in (number, [number], {"a": {"b": number}}, [None, number, 1.5]):
        assert outcome(VALUES.encode, value) == outcome(rules.dump, value)
        if abs(number) < LONG:
            assert decode(VALUES.encode(value)) == value
    assert outcome(VALUES.encode, {number: 1}).startswith("value") is (abs(number) < LONG)


def test_circular_values_are_refused() -> None:
    own: list[Any] = [1]
    own.append(own)
    loop: dict[str, Any] = {"a": []}
    loop["a"].append(loop)
    two = [loop, own]
    inner: list[Any] = []
    tuples = (inner,)
    inner.append(tuples)  # orjson would follow it until the process ends
    for value in (own, loop, two, (own,), {1: own}, tuples, inner):
        assert outcome(VALUES.encode, value) == outcome(rules.dump, value)
        assert outcome(VALUES.encode, value).startswith("InvalidValue")


def test_deep_tuples_are_refused() -> None:
    value: Any = ()
    for _ in range(100_000):
        value = (value,)
    assert outcome(VALUES.encode, value) == outcome(rules.dump, value)


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ({"a": [0, 1, 2, {1}]}, 'value["a"][3]', 'value["a"][3] is a set'),
        ([[b""]], "value[0][0]", "value[0][0] is a bytes"),
        ({"a": {"é\n": float("nan")}}, 'value["a"]["é\\n"]', "is nan"),
        ({1: {None: 1j}}, "value[1][None]", "value[1][None] is a complex"),
        (["\ud800"], "value[0]", "lone surrogate at character 0"),
        ({"x": {"\ud800": 1}}, 'value["x"]', 'a key of value["x"] has a lone surrogate'),
        ({"x": {(1,): 1}}, 'value["x"]', 'value["x"] has a tuple as a key'),
        ({"x" * 500: object()}, None, "is an object"),
        (float("-inf"), "value", "value is -inf"),
    ],
)
def test_a_refusal_names_the_path(value: Any, path: str | None, message: str) -> None:
    for encode in (VALUES.encode, rules.dump):
        with pytest.raises(InvalidValue) as caught:
            encode(value)
        assert message in str(caught.value)
        assert len(str(caught.value)) < 400
        assert caught.value.__context__ is None or caught.value.__suppress_context__  # its traceback shows no other
        if path is not None:
            assert caught.value.path == path


def test_the_first_offender_is_named() -> None:
    with pytest.raises(InvalidValue) as caught:
        VALUES.encode({"a": 1, "b": [{1}, {2}], "c": b""})
    assert caught.value.path == 'value["b"][0]'


def test_keys_become_text_as_json_makes_them() -> None:
    for key in (1, -1, 0, 2**70, 1.5, -0.0, 1e22, 1e-7, None, True, False):
        value = {key: [key]}
        assert json.loads(VALUES.encode(value)) == json.loads(json.dumps(value))
        assert outcome(VALUES.encode, value) == outcome(rules.dump, value)


def test_keys_that_become_the_same_text_are_one_key() -> None:
    assert decode(VALUES.encode({1: "number", "1": "text"})) == {"1": "text"}
    assert VALUES.encode({1: "number", "1": "text"}).count(b'"1"') == 1


@settings(max_examples=300)
@given(st.lists(st.integers(min_value=-(10**40), max_value=10**40), max_size=6), st.integers(0, 40))
def test_integers_keep_their_digits_wherever_they_stand(numbers: list[int], offset: int) -> None:
    value = ["x" * offset, *numbers]
    for text in (VALUES.encode(value), json.dumps(value).encode()):
        assert decode(text) == value
        assert VALUES.decode_found(["key"], [text], "ns") == {"key": value}


NOISE = ["x" * 7, 20261123, "1 2 3 4 5 6 7 8 9", 0.1234567890123, [list(range(40))], "1763924096123", "12" * 8]


@pytest.mark.parametrize("place", [0, 1, 63, 64, 65, 129])
@pytest.mark.parametrize("size", [1, 20_000], ids=["small", "big"])
def test_a_long_integer_keeps_its_digits_among_a_batch(place: int, size: int) -> None:
    for offset in range(20):
        value = ["x" * offset, NOISE, "y" * size, -9_999_999_999_999_999_999, NOISE]
        texts: list[bytes | None] = [orjson.dumps([number, NOISE]) for number in range(130)]
        texts[place], texts[place - 7] = json.dumps(value).encode(), None
        found = VALUES.decode_found(map(str, range(130)), texts, "ns")
        assert found.pop(str(place)) == value
        assert len(found) == 128
        assert all(found[key] == [int(key), NOISE] for key in found)


@settings(max_examples=300)
@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(1, 30))
def test_floats_with_many_digits_are_read_as_json_reads_them(number: float, digits: int) -> None:
    text = f"[{number:.{digits}f}, {number:.{digits}e}]".encode()
    assume(all(map(math.isfinite, json.loads(text))))  # rounding may exceed the range
    assert repr(decode(text)) == repr(json.loads(text))


@settings(max_examples=250)
@given(st.one_of(st.binary(max_size=40), json_values.map(lambda value: json.dumps(value).encode()[:-1])))
@example(b"1e400")
@example(b'"\\ud800"')
@example(b"[NaN]")
@example(b"\xff\xfe1\x00")
@example(b"9" * 4301)
def test_reading_any_bytes_gives_value_or_located_error(text: bytes) -> None:
    is_zstd = text.startswith(b"\x01\x28\xb5\x2f\xfd")
    expected = UnsupportedEncoding if text[:1] == b"\x01" and not is_zstd else CorruptValue
    for read in (decode, lambda text: VALUES.decode_found(["key"], [text], "ns")["key"]):
        try:
            meant = rules.load(text)
        except (ValueError, RecursionError):
            with pytest.raises(StoredDataError) as caught:
                read(text)
            assert type(caught.value) is expected
            assert (caught.value.namespace, caught.value.key) == ("ns", "key")
            assert expected is not CorruptValue or caught.value.first_bytes == text[:32]
        else:
            assert repr(read(text)) == repr(meant)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"nope", b"[NaN]", b"1e999", b'"\xff"', b'"\\ud800"', b"\x01", b"1 2", b"[" * 300 + b"]" * 300],
    ids=lambda text: repr(text[:8]),
)
def test_invalid_json_text_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidValue) as caught:
        JSON_TEXT.encode(text)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("value", [None, "text", {"a": 1}, 1, bytearray(b"1")])
def test_json_text_must_be_bytes(value: Any) -> None:
    with pytest.raises(InvalidType):
        JSON_TEXT.encode(value)


def test_json_text_passes_through_unread() -> None:
    text = b' {"a": 1.0, "b": 123456789012345678901234567890, "a": 2} '
    assert JSON_TEXT.encode(text) == text
    assert JSON_TEXT.decode(text, "ns", "key") == text
    assert JSON_TEXT.decode_found(["a", "b"], [None, b"not json"], "ns") == {"b": b"not json"}


def test_libraries_are_as_the_codec_expects() -> None:
    """The behaviour that the fast path relies on; a new release that behaves differently fails here first."""
    assert orjson.dumps([float("nan"), float("inf")]) == b"[null,null]"
    with pytest.raises(TypeError):
        orjson.dumps(2**64)
    with pytest.raises(TypeError):
        orjson.dumps("\ud800")
    assert type(orjson.loads(b"18446744073709551616")) is float
    assert msgspec.json.decode(b"[18446744073709551616,-0,-0.0]") == [2**64, 0, 0.0]
    for text in (b"1e400", b'"\\ud800"', b"[NaN]", b"01", b'"\xff"', b"\xef\xbb\xbf1", b"1 2", b"9" * 4301, b'"\x01"'):
        with pytest.raises((msgspec.MsgspecError, ValueError)):
            msgspec.json.decode(text)


def test_nested_value_is_read_on_a_full_stack() -> None:
    """The nesting that fits depends on the caller's own calls, except for orjson."""
    text = VALUES.encode(nested(rules.MAX_DEPTH))

    def call(depth: int) -> Any:
        return decode(text) if depth == 0 else call(depth - 1)

    free = sys.getrecursionlimit() - len(inspect.stack())
    assert call(free - 60) == nested(rules.MAX_DEPTH)
