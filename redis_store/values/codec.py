"""Values to bytes and back: orjson where it says the same as JSON, `values.rules` where it does not.

What orjson would let through is caught with work in C: `marshal` takes exact builtin types only (no UUID, enum, subclass),
reading the text back shows a NaN (written as ``null``), and wrapping the value in lists finds a nesting over the limit.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from redis_store.errors import CorruptValue, InvalidType, InvalidValue
from redis_store.limits import ANY_SIZE, too_much_at_once
from redis_store.values import rules
from redis_store.values.compression import PLAIN, RESERVED_FIRST_BYTE, Compression

_STRICT = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_MARSHAL_WITHOUT_REFERENCES = 2
_UNSAFE_DIGITS = 19
_DIGITS_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * _UNSAFE_DIGITS
_SAMPLE = 9
_SAMPLED_LONG_NUMBER = b"0" * (_UNSAFE_DIGITS // _SAMPLE)
_MOST_LOOKS = 32
_TEXTS_AT_ONCE = 64
_BYTES_AT_ONCE = 256 * 1024
"""So much is looked through together: enough to share the cost of a look, and what is joined for it stays small."""
_LONG_TEXT = 512
"""From so many bytes on it is cheaper to see that a flat value has no float, which a rounded number is, than to read its text."""
_ALL_BUT_OPENING = bytes(set(range(256)) - set(b"[{"))
_FEW = 16
_RESERVED = bytes([RESERVED_FIRST_BYTE])
_SCALARS = frozenset({str, int, bool, type(None)})


class Codec(Protocol):
    """How a store turns what callers pass into JSON text, and what Redis holds back into it."""

    @property
    def packing(self) -> Compression:
        """How a JSON text becomes what Redis holds: mostly as it is."""

    def encode(self, value: Any) -> bytes:
        """Return the JSON text, or raise `InvalidValue`."""

    def decode(self, text: bytes, namespace: str, key: str) -> Any:
        """Return the value of what is stored, or raise a `StoredDataError` that names the place."""

    def decode_again(self, text: bytes) -> Any:
        """Return the value of a text that `is_plain` and that `decode` has taken before."""

    def decode_found(self, keys: Iterable[str], texts: Iterable[bytes | None], namespace: str) -> dict[str, Any]:
        """Return the values of those that are there, by their keys."""


@dataclass(frozen=True, slots=True)
class Values:
    """Python values, the codec of every store that agents see."""

    packing: Compression = PLAIN

    def encode(self, value: Any) -> bytes:
        try:
            text = orjson.dumps(value, None, _STRICT)
            if _is_plain_and_flat(value):
                return text
            marshal.dumps(value, _MARSHAL_WITHOUT_REFERENCES)
            if text.rfind(b"null") >= 0 and orjson.loads(text) != value:
                return rules.dump(value)
            if _may_be_deep(text):
                orjson.dumps(_wrapped(value), None, _STRICT)
        except (TypeError, ValueError, RecursionError):
            # The reference gives what orjson refuses without need (tuples, subclasses, big ints, number keys), or the reason.
            return rules.dump(value)
        return text

    def decode(self, text: bytes, namespace: str, key: str) -> Any:
        try:
            value = orjson.loads(text)
            if len(text) > _LONG_TEXT and _is_plain_and_flat(value):
                return value
            return rules.load(text) if _has_long_number(text) else value
        except (ValueError, RecursionError):
            return self._decode_slowly(text, namespace, key)

    def decode_again(self, text: bytes) -> Any:
        return orjson.loads(text)

    def decode_found(self, keys: Iterable[str], texts: Iterable[bytes | None], namespace: str) -> dict[str, Any]:
        all_keys, all_texts = list(keys), list(texts)
        if None in all_texts:
            all_keys = [key for key, text in zip(all_keys, all_texts, strict=True) if text is not None]
        there = [text for text in all_texts if text is not None]
        values: list[Any] = []
        for start in range(0, len(there), _TEXTS_AT_ONCE):
            part = there[start : start + _TEXTS_AT_ONCE]
            try:
                values += self._decode_part(part)
            except ValueError:  # one by one it shows which value it is
                part_keys = all_keys[start : start + _TEXTS_AT_ONCE]
                values += [self.decode(text, namespace, key) for key, text in zip(part_keys, part, strict=True)]
        return dict(zip(all_keys, values, strict=True))

    def _decode_part(self, texts: list[bytes]) -> list[Any]:
        values = list(map(orjson.loads, texts))
        size_bytes = sum(map(len, texts))
        if size_bytes > _LONG_TEXT * len(texts) and all(map(_is_plain_and_flat, values)):
            return values
        looked_at = texts if size_bytes > _BYTES_AT_ONCE else [b",".join(texts)]
        if any(map(_has_long_number, looked_at)):
            raise ValueError("orjson may have rounded a number")
        return values

    def _decode_slowly(self, text: bytes, namespace: str, key: str) -> Any:
        if text[:1] == _RESERVED:
            plain = self.packing.unpack(text, namespace, key)
            # What is packed twice was written by nobody of ours, and unpacking it again and again would know no bound.
            return (
                _load_strictly(plain, namespace, key) if plain[:1] == _RESERVED else self.decode(plain, namespace, key)
            )
        return _load_strictly(text, namespace, key)


@dataclass(frozen=True, slots=True)
class JsonText:
    """JSON text as bytes, for brokers and gateways that pass values on without reading them."""

    packing: Compression = PLAIN
    max_read_bytes: int = ANY_SIZE
    """What texts that are unpacked together may come to."""

    def encode(self, value: Any) -> bytes:
        if not isinstance(value, bytes):
            raise InvalidType(f"This store takes JSON text as bytes, not {type(value).__name__}.")
        try:
            parsed = orjson.loads(value)
            if _may_be_deep(value):
                orjson.dumps(_wrapped(parsed))
        except (ValueError, TypeError, RecursionError):
            rules.dump(_load_or_refuse(value))
        return value

    def decode(self, text: bytes, namespace: str, key: str) -> bytes:
        return self.packing.plain(text, namespace, key)

    def decode_again(self, text: bytes) -> bytes:
        return text

    def decode_found(self, keys: Iterable[str], texts: Iterable[bytes | None], namespace: str) -> dict[str, bytes]:
        plain = self.packing.plain
        found: dict[str, bytes] = {}
        size_bytes = 0
        for key, text in zip(keys, texts, strict=True):
            if text is not None:
                found[key] = text = plain(text, namespace, key)
                size_bytes += len(text)
                if size_bytes > self.max_read_bytes:
                    raise too_much_at_once(self.max_read_bytes)
        return found


VALUES: Codec = Values()
JSON_TEXT: Codec = JsonText()


def _is_plain_and_flat(value: Any) -> bool:
    """Whether a look at a few elements shows that orjson has said just what `value` says, as with most documents."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is dict:
        parts = value.values()
    elif kind is list:
        parts = value
    else:
        return False
    if len(parts) > _FEW:
        return False
    for part in parts:
        kind = type(part)
        if kind in _SCALARS:
            continue
        if (kind is not list and kind is not dict) or len(part) > _FEW:
            return False
        for leaf in part if kind is list else part.values():
            if type(leaf) not in _SCALARS:
                return False
    return True


def is_plain(text: bytes) -> bool:
    """Whether orjson alone reads what a text says."""
    if _has_long_number(text):
        return False
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True


def _load_or_refuse(text: bytes) -> Any:
    try:
        return rules.load(text)
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"The text is not JSON: {error}.", path="value") from None


def _has_long_number(text: bytes) -> bool:
    """Whether there is a run of 19 digits, which orjson may have rounded."""
    # Two of each ninth byte fall into such a run, one after the other: where they are digits it pays to look closely.
    sample = text[::_SAMPLE].translate(_DIGITS_AS_ZERO)
    at = sample.find(_SAMPLED_LONG_NUMBER)
    for _ in range(_MOST_LOOKS):
        if at < 0:
            return False
        around = text[max(0, _SAMPLE * (at - 1)) : _SAMPLE * (at - 1) + _SAMPLE + _UNSAFE_DIGITS]
        if _LONG_NUMBER in around.translate(_DIGITS_AS_ZERO):
            return True
        at = sample.find(_SAMPLED_LONG_NUMBER, at + 1)
    return _LONG_NUMBER in text.translate(_DIGITS_AS_ZERO)


def _may_be_deep(text: bytes) -> bool:
    """Whether there are enough brackets for a nesting over the limit; those inside strings count too."""
    return len(text) > 2 * rules.MAX_DEPTH and len(text.translate(None, _ALL_BUT_OPENING)) > rules.MAX_DEPTH


def _load_strictly(text: bytes, namespace: str, key: str) -> Any:
    try:
        return rules.load(text)
    except (ValueError, RecursionError):
        first = text[:32]
        raise CorruptValue(
            f"The value of {key!r} in namespace {namespace!r} is not JSON (it begins with {first!r}): set it again, or"
            " delete it.",
            namespace=namespace,
            key=key,
            first_bytes=first,
        ) from None


def _find_orjson_depth() -> int:
    """Return how deep orjson writes, found by trying, so that a new release cannot make the depth check wrong."""
    value: list[Any] = []
    for depth in range(1, 10_000):
        try:
            orjson.dumps(value)
        except TypeError:
            return depth - 1
        value = [value]
    return 10_000


_WRAPPING = _find_orjson_depth() - rules.MAX_DEPTH


def _wrapped(value: Any) -> Any:
    """Nest a value in lists, so that orjson's own bound on nesting comes to stand at `MAX_DEPTH`."""
    for _ in range(_WRAPPING):
        value = [value]
    return value
