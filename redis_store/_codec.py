"""Values to bytes and back: orjson where it says the same as JSON, `_plain` where it does not.

What orjson would let through is caught with work in C: `marshal` takes exact builtin types only (no UUID, enum, subclass),
reading the text back shows a NaN (written as ``null``), and wrapping the value in lists finds a nesting over the limit.
"""

from __future__ import annotations

import marshal
from typing import Any, Protocol

import orjson

from redis_store import _plain
from redis_store._keys import decode_name
from redis_store.errors import CorruptValue, InvalidType, InvalidValue, LimitExceeded, UnsupportedEncoding

RESERVED_FIRST_BYTE = 0x01
"""No JSON text begins with it; encodings to come do."""

_STRICT = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_MARSHAL_WITHOUT_REFERENCES = 2
_LONGEST_SAFE_DIGITS = 18
_DIGITS_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_TOO_MANY_DIGITS = b"0" * (_LONGEST_SAFE_DIGITS + 1)
_SCALARS = frozenset({str, int, bool, type(None)})


class Codec(Protocol):
    """How a store turns what callers pass into the JSON text that Redis holds, and back."""

    def encode(self, value: Any) -> bytes:
        """Return the JSON text, or raise `InvalidValue`."""

    def decode(self, text: bytes, namespace: str, field: bytes) -> Any:
        """Return the value of a stored text, or raise a `StoredDataError` that names the place."""


class Values:
    """Python values, the codec of every store that agents see."""

    def encode(self, value: Any) -> bytes:
        try:
            text = orjson.dumps(value, None, _STRICT)
            if type(value) in _SCALARS:
                return text
            marshal.dumps(value, _MARSHAL_WITHOUT_REFERENCES)
            if b"null" in text and orjson.loads(text) != value:
                return _plain.dump(value)
            if text.count(b"[") + text.count(b"{") > _plain.MAX_DEPTH:
                orjson.dumps(_wrapped(value), None, _STRICT)
        except (TypeError, ValueError, RecursionError):
            # The reference gives what orjson refuses without need (tuples, subclasses, big ints, number keys), or the reason.
            return _plain.dump(value)
        return text

    def decode(self, text: bytes, namespace: str, field: bytes) -> Any:
        try:
            value = orjson.loads(text)
            if len(text) <= _LONGEST_SAFE_DIGITS or not _may_hold_big_int(text):
                return value
            return _plain.load(text)
        except (ValueError, RecursionError):
            return _decode_slowly(text, namespace, field)


class JsonText:
    """JSON text as bytes, for brokers and gateways that pass values on without reading them."""

    def encode(self, value: Any) -> bytes:
        if not isinstance(value, bytes):
            raise InvalidType(f"This store takes JSON text as bytes, not {type(value).__name__}.")
        try:
            parsed = orjson.loads(value)
            if value.count(b"[") + value.count(b"{") > _plain.MAX_DEPTH:
                orjson.dumps(_wrapped(parsed))
        except (ValueError, TypeError, RecursionError):
            _plain.dump(_load_or_refuse(value))
        return value

    def decode(self, text: bytes, namespace: str, field: bytes) -> bytes:
        return text


VALUES: Codec = Values()
JSON_TEXT: Codec = JsonText()


def check_value_size(text: bytes, limit_bytes: int, field: bytes) -> bytes:
    """Return the text, or raise `LimitExceeded` where it is too long for one value."""
    if len(text) > limit_bytes:
        raise LimitExceeded(
            f"The value of {decode_name(field)!r} takes {len(text):,} bytes as JSON, and at most {limit_bytes:,} are"
            " allowed: store it in parts, or raise max_value_bytes.",
            limit="max_value_bytes",
            limit_bytes=limit_bytes,
            size_bytes=len(text),
        )
    return text


def _load_or_refuse(text: bytes) -> Any:
    try:
        return _plain.load(text)
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"The text is not JSON: {error}.", path="value") from None


def _may_hold_big_int(text: bytes) -> bool:
    """Whether orjson may have rounded an int: a run of 19 digits shows in each 9th byte as two digits side by side."""
    return b"00" in text[::9].translate(_DIGITS_AS_ZERO) and _TOO_MANY_DIGITS in text.translate(_DIGITS_AS_ZERO)


def _decode_slowly(text: bytes, namespace: str, field: bytes) -> Any:
    key = decode_name(field)
    where = f"The value of {key!r} in namespace {namespace!r}"
    if text[:1] == bytes([RESERVED_FIRST_BYTE]):
        raise UnsupportedEncoding(
            f"{where} has an encoding that this version cannot read: upgrade agent-data-store.",
            namespace=namespace,
            key=key,
        )
    try:
        return _plain.load(text)
    except (ValueError, RecursionError):
        first = text[:32]
        raise CorruptValue(
            f"{where} is not JSON (it begins with {first!r}): set it again, or delete it.",
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


_WRAPPING = _find_orjson_depth() - _plain.MAX_DEPTH


def _wrapped(value: Any) -> Any:
    """Nest a value in lists, so that orjson's own bound on nesting comes to stand at `MAX_DEPTH`."""
    for _ in range(_WRAPPING):
        value = [value]
    return value
