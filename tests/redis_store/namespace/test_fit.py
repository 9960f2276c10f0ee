"""Names of others that do not fit, and bytes."""

from __future__ import annotations

from typing import Any

import pytest

from redis_store import InvalidInput, bytes_from_json, bytes_to_json, fit_name
from redis_store.namespace.keys import MAX_KEY_BYTES, encode_key, encode_namespace


@pytest.mark.parametrize(
    "name", ["a", "é" * 100, "a b\n\0", "x" * MAX_KEY_BYTES, "~", "a~0123"], ids=lambda name: name[:9]
)
def test_a_name_that_fits_stays(name: str) -> None:
    assert fit_name(name) == name


def test_others_get_a_suffix_and_stay_different() -> None:
    long = "é" * MAX_KEY_BYTES
    names = ["", "\udcff", "a\udcff", "x" * (MAX_KEY_BYTES + 1), "x" * (MAX_KEY_BYTES + 2), long, long + "a"]
    names += [fit_name(name) for name in names]
    fitted = [fit_name(name) for name in names]
    assert len({*fitted, *names}) == len(fitted) + len(names) - 7, "what was fitted once is another name"
    for name, made in zip(names, fitted, strict=True):
        assert made == fit_name(name)
        assert encode_key(made)
    assert fit_name(long).startswith("é" * 1000)


@pytest.mark.parametrize("name", ["n" * 1025, "é" * 513, "€" * 400])
def test_name_of_a_namespace(name: str) -> None:
    made = fit_name(name, 1024)
    assert 1020 < len(encode_namespace(made)) <= 1024


def test_bytes_as_values() -> None:
    for data in (b"", b"a", bytes(range(256)), bytearray(b"b")):
        text = bytes_to_json(data)
        assert isinstance(text, str)
        assert bytes_from_json(text) == bytes(data)
    assert bytes_to_json(b"\xfb\xff") == "+/8="


@pytest.mark.parametrize("value", [None, 5, "a", "ab=!", "é", "YQ", ["YQ=="]], ids=repr)
def test_value_that_is_no_bytes(value: Any) -> None:
    with pytest.raises(InvalidInput, match="base64"):
        bytes_from_json(value)


def test_bad_input_to_fit() -> None:
    for call in (lambda: fit_name(5), lambda: fit_name(b"a"), lambda: fit_name("a", 64), lambda: bytes_to_json("a")):
        with pytest.raises(InvalidInput):
            call()  # type: ignore[no-untyped-call]
