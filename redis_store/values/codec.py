"""Encoding of values as bytes and back: by orjson where it agrees with `values/rules.py`, else by the rules themselves.

Values that orjson accepts but the rules do not are found by work in C: `ormsgpack`, told to, encodes exact builtin types only (no
UUID, enum, tuple or subclass), and its bytes keep a NaN, which orjson writes as ``null``. orjson's own bound on nesting is the
rules' bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
import ormsgpack

from redis_store.errors import CorruptValue, InvalidType, InvalidValue, StoredDataError
from redis_store.limits import ANY_SIZE, too_much_at_once
from redis_store.values import rules
from redis_store.values.compression import PLAIN, RESERVED_FIRST_BYTE, Compression
from redis_store.values.count import check_values

_STRICT = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_EXACT_TYPES = (
    ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
_NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]").search
"""Finds each NaN and infinity in MessagePack, as a float of 64 bits whose exponent is all ones, and rarely other bytes."""
_UNSAFE_DIGITS = 19
_DIGITS_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * _UNSAFE_DIGITS
_SAMPLE = 9
_SAMPLED_LONG_NUMBER = b"0" * (_UNSAFE_DIGITS // _SAMPLE)
_MOST_LOOKS = 32
_TEXTS_AT_ONCE = 64
_BYTES_AT_ONCE = 256 * 1024
"""Bytes of text to scan together at most: enough to share the cost of a scan, and little to join for it."""
_LONG_TEXT = 512
"""Bytes of text above which it is cheaper to see that a flat value has no float (a rounded number is one) than to scan it."""
_ALL_BUT_OPENING = bytes(set(range(256)) - set(b"[{"))
_FEW = 16
_RESERVED = bytes([RESERVED_FIRST_BYTE])
_SCALARS = frozenset({str, int, bool, type(None)})


class Codec(Protocol):
    """Conversion between the values of callers, JSON text, and the bytes that Redis holds."""

    @property
    def packing(self) -> Compression:
        """The conversion of JSON text into the bytes that Redis holds: mostly unchanged."""

    def encode(self, value: Any) -> bytes:
        """Return the JSON text of a value, or raise `InvalidValue`."""

    def decode(self, text: bytes, namespace: str, key: str) -> Any:
        """Return the value of stored bytes, or raise a `StoredDataError` that names the namespace and key."""

    def decode_again(self, text: bytes, /) -> Any:
        """Return the value of a text that is plain (`is_plain`) and that `decode` has accepted before."""

    def decode_found(self, keys: Iterable[str], texts: Iterable[bytes | None], namespace: str) -> dict[str, Any]:
        """Return the values of the texts that are not None, by their keys."""


@dataclass(frozen=True, slots=True)
class Values:
    """The codec for Python values, used by every store that agents see."""

    packing: Compression = PLAIN

    def encode(self, value: Any) -> bytes:
        try:
            text = orjson.dumps(value, None, _STRICT)
            packed = ormsgpack.packb(value, None, _EXACT_TYPES)
            # Two searches for a single byte are faster than the pattern, and spare most values the other two.
            if (
                (packed.find(0x7F) >= 0 or packed.find(0xFF) >= 0)
                and text.rfind(b"null") >= 0
                and _NOT_FINITE(packed) is not None
            ):
                return rules.dump(value)
        except (TypeError, ValueError, RecursionError):
            # The rules encode what orjson refuses needlessly (tuples, subclasses, big ints, number keys), or give the reason.
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

    decode_again = staticmethod(orjson.loads)

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
            except ValueError:  # decoded one by one, the error names the key
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
            # This package never packs a value twice, and unpacking repeatedly would have no bound.
            return (
                _load_strictly(plain, namespace, key) if plain[:1] == _RESERVED else self.decode(plain, namespace, key)
            )
        return _load_strictly(text, namespace, key)


@dataclass(frozen=True, slots=True)
class JsonText:
    """The codec for JSON text as bytes, for brokers and gateways that pass values on without parsing them."""

    packing: Compression = PLAIN
    max_read_bytes: int = ANY_SIZE
    """Bound on texts that are unpacked together, in bytes."""
    max_values: int = ANY_SIZE
    """Bound on the JSON values in a text that is checked, which takes decoding it."""
    errors_as_values: bool = False
    """Whether `decode` returns the error of an unreadable value instead of raising it."""

    def encode(self, value: Any) -> bytes:
        if not isinstance(value, bytes):
            raise InvalidType(f"This store takes JSON text as bytes, not {type(value).__name__}.")
        if len(value) > self.max_values:  # as many bytes at least
            check_values(value, self.max_values)
        try:
            parsed = orjson.loads(value)
            if _may_be_deep(value):
                orjson.dumps(parsed)
        except (ValueError, TypeError, RecursionError):
            rules.dump(_load_or_refuse(value))
        return value

    def decode(self, text: bytes, namespace: str, key: str) -> bytes | StoredDataError:
        try:
            return self.packing.plain(text, namespace, key)
        except StoredDataError as error:
            if self.errors_as_values:
                return error
            raise

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


def _is_plain_and_flat(value: Any) -> bool:
    """Whether a check of a few elements shows that orjson encodes `value` exactly, as it does most documents."""
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
    """Whether orjson alone decodes a text exactly."""
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
    """Whether a text contains a run of 19 digits, which orjson may have rounded."""
    # A run contains at least two consecutive samples of every ninth byte; only where both are digits is it scanned fully.
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
    """Whether a text has enough opening brackets, including those in strings, for a nesting over the limit."""
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
