"""Compression of big values. Stores compress if they are set to; every store reads compressed values.

    0x01, then one zstd frame of the JSON text

0x01 is the reserved first byte. A frame begins with zstd's own magic number, so that other encodings can use the same byte.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from redis_store.errors import CorruptValue, InvalidSettings, UnsupportedEncoding
from redis_store.limits import MAX_BOUND, MAX_VALUE_BYTES, shown
from redis_store.values.rules import not_readable

RESERVED_FIRST_BYTE = 0x01
"""First byte of every encoded value; no JSON text begins with it."""

LEVEL = 3
"""Compression level, zstd's own default: higher levels take several times as long to save a few percent."""

_PREFIX = bytes([RESERVED_FIRST_BYTE])
_ZSTD = b"\x01\x28\xb5\x2f\xfd"
_SMALLEST_WINDOW_LOG, _LARGEST_WINDOW_LOG = 10, 31
_INSTALL_ZSTD = "pip install backports.zstd (Python 3.14 and later include it)"


@dataclass(frozen=True, slots=True)
class Compression:
    """Conversion between JSON texts and the bytes that Redis holds."""

    above_bytes: int | None = None
    """Bytes of JSON text above which a value is compressed; None never compresses. Reading does not depend on it."""
    max_bytes: int = MAX_VALUE_BYTES
    """Bound on a decompressed text, in bytes, whatever size the frame states."""

    def pack(self, text: bytes) -> bytes:
        """Return the bytes to store for a JSON text: compressed, if it is long enough and gets shorter."""
        if self.above_bytes is None or len(text) <= self.above_bytes:
            return text
        packed = _PREFIX + _zstd().compress(text, LEVEL)
        return packed if len(packed) < len(text) else text

    def unpack(self, stored: bytes, namespace: str, key: str) -> bytes:
        """Return the JSON text of stored bytes that begin with the reserved byte.

        Never takes much more memory than `max_bytes`. Raises `UnsupportedEncoding` if the bytes are not a zstd frame or zstd
        is not installed, and `CorruptValue` if the frame is broken or its text is longer than `max_bytes`.
        """
        where = f"The value of {key!r} in namespace {namespace!r}"
        if not stored.startswith(_ZSTD):
            raise not_readable(namespace, key)
        try:
            zstd = _zstd()
        except ImportError as error:
            raise UnsupportedEncoding(
                f"{where} is compressed, and zstd is not installed here: {_INSTALL_ZSTD}.", namespace=namespace, key=key
            ) from error
        # The window of a frame takes memory of its own, so it is bounded too.
        window_log = min(_LARGEST_WINDOW_LOG, max(_SMALLEST_WINDOW_LOG, (self.max_bytes - 1).bit_length()))
        frame = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window_log})
        try:
            text: bytes = frame.decompress(memoryview(stored)[1:], max_length=self.max_bytes + 1)
        except zstd.ZstdError as error:
            raise _corrupt(f"{where} is compressed and broken ({error})", stored, namespace, key) from None
        if len(text) > self.max_bytes:
            raise CorruptValue(
                f"{where} is compressed and takes more than {self.max_bytes:,} bytes as JSON: raise max_value_bytes to read"
                " it, or delete it.",
                namespace=namespace,
                key=key,
                first_bytes=stored[:32],
            )
        if not frame.eof:
            raise _corrupt(f"{where} is compressed and its end is missing", stored, namespace, key)
        if frame.unused_data:
            raise _corrupt(f"{where} is compressed and has extra bytes after its end", stored, namespace, key)
        return text

    def plain(self, stored: bytes, namespace: str, key: str) -> bytes:
        """Return the JSON text of stored bytes, compressed or not."""
        return self.unpack(stored, namespace, key) if stored.startswith(_PREFIX) else stored


PLAIN = Compression()
"""Never compresses, but reads compressed values."""


def check_compress_above(above_bytes: object) -> None:
    """Raise `InvalidSettings` if the threshold is invalid, or zstd is needed and not installed here."""
    if above_bytes is None:
        return
    if isinstance(above_bytes, bool) or not isinstance(above_bytes, int) or not 0 <= above_bytes <= MAX_BOUND:
        raise InvalidSettings(
            f"compress_above must be a whole number of bytes, from 0 to 2**53, or None, not {shown(above_bytes)}."
        )
    try:
        _zstd()
    except ImportError:
        raise InvalidSettings(f"compress_above needs zstd, which is not installed here: {_INSTALL_ZSTD}.") from None


def _zstd() -> Any:
    """Import zstd, from the standard library or its backport, only when it is used."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _corrupt(what: str, stored: bytes, namespace: str, key: str) -> CorruptValue:
    first = stored[:32]
    return CorruptValue(
        f"{what}; it begins with {first!r}: set it again, or delete it.",
        namespace=namespace,
        key=key,
        first_bytes=first,
    )
