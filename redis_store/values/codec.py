"""Encoding of values as bytes, by orjson, and back, by msgspec, where these agree with `values/rules.py`, else by the rules.

Values that orjson accepts but the rules do not are found by work in C: `ormsgpack`, told to, encodes exact builtin types only (no
UUID, enum, tuple or subclass), and its bytes keep a NaN, which orjson writes as ``null``. orjson's own bound on nesting is the
rules' bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import orjson
import ormsgpack

from redis_store.errors import InvalidType, InvalidValue, StoredDataError
from redis_store.limits import ANY_SIZE, too_much_at_once
from redis_store.types import MISSING
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
_EXPONENTS = 0x7F, 0xFF
"""The first bytes of such floats."""
_MOST_LOOKS = 64
"""Number of bytes among them up to which looking at each is faster than the pattern: for 100 KB, 2 µs instead of 20 to 50."""
_load = msgspec.json.decode
_copy = msgspec.to_builtins
"""Copies dicts and lists, at C speed. What cannot be changed is shared by the copies."""
_NOT_LOADED = (msgspec.MsgspecError, ValueError, RecursionError)
_DIGITS_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19
_ALL_BUT_OPENING = bytes(set(range(256)) - set(b"[{"))
_RESERVED = bytes([RESERVED_FIRST_BYTE])


class Kept(Protocol):
    """A stored text in memory, and maybe its decoded value (`near/entries.py`)."""

    text: Any
    value: Any
    keeps_value: bool | None


class Codec(Protocol):
    """Conversion between the values of callers, JSON text, and the bytes that Redis holds."""

    @property
    def packing(self) -> Compression:
        """The conversion of JSON text into the bytes that Redis holds: mostly unchanged."""

    def encode(self, value: Any) -> bytes:
        """Return the JSON text of a value, or raise `InvalidValue`."""

    def decode(self, text: bytes, namespace: str, key: str) -> Any:
        """Return the value of stored bytes, or raise a `StoredDataError` that names the namespace and key."""

    def decode_kept(self, kept: Kept, namespace: str, key: str) -> Any:
        """Return the value of an entry of the near cache, for a caller that may change it."""

    def decode_found(self, keys: Iterable[str], texts: Iterable[bytes | None], namespace: str) -> dict[str, Any]:
        """Return the values of the texts that are not None, by their keys."""


@dataclass(frozen=True, slots=True)
class Values:
    """The codec for Python values, used by every store that agents see."""

    packing: Compression = PLAIN

    def encode(self, value: Any) -> bytes:
        try:
            # First, because orjson has no bound on the nesting of tuples: a circle of them ends the process.
            packed = ormsgpack.packb(value, None, _EXACT_TYPES)
            text = orjson.dumps(value, None, _STRICT)
            # Searches for a single byte are the fastest, and spare most values the others.
            if not (
                (packed.find(0x7F) >= 0 or packed.find(0xFF) >= 0)
                and text.find(b"n") >= 0
                and text.rfind(b"null") >= 0
                and _may_be_not_finite(packed)
            ):
                return text
        except (TypeError, ValueError, RecursionError):
            pass  # not in here, so that the error for the caller has no context of ours
        # The rules encode what orjson refuses needlessly (tuples, subclasses, big ints, number keys), or give the reason.
        return rules.dump(value)

    def decode(self, text: bytes, namespace: str, key: str) -> Any:
        try:
            return _load(text)
        except _NOT_LOADED:
            return self._decode_slowly(text, namespace, key)

    def decode_kept(self, kept: Kept, namespace: str, key: str) -> Any:
        if kept.value is MISSING:
            value = self.decode(kept.text, namespace, key)
            if not kept.keeps_value:
                return value
            kept.value = value
        try:
            return _copy(kept.value)
        except RecursionError:
            return self.decode(kept.text, namespace, key)

    def decode_found(self, keys: Iterable[str], texts: Iterable[bytes | None], namespace: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, text in zip(keys, texts, strict=True):
            if text is not None:
                try:
                    found[key] = _load(text)
                except _NOT_LOADED:
                    found[key] = self._decode_slowly(text, namespace, key)
        return found

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
            parsed = _load(value)  # orjson would take twice the text's memory before it makes the first object
            if _may_be_deep(value):
                orjson.dumps(parsed)
            return value
        except (*_NOT_LOADED, TypeError):
            pass
        rules.dump(_load_or_refuse(value))
        return value

    def decode(self, text: bytes, namespace: str, key: str) -> bytes | StoredDataError:
        try:
            return self.packing.plain(text, namespace, key)
        except StoredDataError as error:
            if self.errors_as_values:
                return error
            raise

    def decode_kept(self, kept: Kept, namespace: str, key: str) -> bytes | StoredDataError:
        return self.decode(kept.text, namespace, key)

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


def _may_be_not_finite(packed: bytes) -> bool:
    """Whether there is a NaN or an infinity in MessagePack, or rarely other bytes that look like one."""
    if sum(map(packed.count, _EXPONENTS)) > _MOST_LOOKS:
        return _NOT_FINITE(packed) is not None
    for first in _EXPONENTS:
        at = packed.find(first)
        while at >= 0:
            if _NOT_FINITE(packed, at - 1, at + 2) is not None:
                return True
            at = packed.find(first, at + 1)
    return False


def _load_or_refuse(text: bytes) -> Any:
    try:
        return rules.load(text)
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"The text is not JSON: {error}.", path="value") from None


def _may_be_deep(text: bytes) -> bool:
    """Whether a text has enough opening brackets, including those in strings, for a nesting over the limit."""
    return len(text) > 2 * rules.MAX_DEPTH and len(text.translate(None, _ALL_BUT_OPENING)) > rules.MAX_DEPTH


def _load_strictly(text: bytes, namespace: str, key: str) -> Any:
    try:
        return rules.load(text)
    except RecursionError:
        with suppress(ValueError):
            return _load_on_a_full_stack(text)
    except ValueError:
        pass
    raise rules.not_json(text, namespace, key)


def _load_on_a_full_stack(text: bytes) -> Any:
    """Load a value whose nesting exceeds the rest of the caller's stack: orjson has a bound of its own, but rounds integers."""
    value = orjson.loads(text)
    if _LONG_NUMBER in text.translate(_DIGITS_AS_ZERO):
        raise ValueError("a number may have been rounded")
    return value
