"""Digests of a namespace's values, and a sketch of them for Redis, to find out whether the log is complete. No I/O.

In memory a digest of each value is kept: about 200 bytes a key, whatever the size of the values.

Without a watcher, 2 KB are kept in Redis (`NamespaceKeys.seen`): the log's position and a *sketch* of the namespace at that
position, a kind of invertible Bloom lookup table. Each key with its digest is added, by exclusive or, to three cells out of 192.
A later watcher has the current namespace and the log since then. The log names the keys that were written, but not their old
values, so one sum of all keys could not be compared. With few such keys (up to about 150), their cells hold nothing else that is
unknown: the old digests can be read off. If all cells are then empty, the log is complete. If not, watchers get a reset.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import chain

_CELLS = 192
_CELL_BYTES = 12
SKETCH_BYTES = _CELLS * _CELL_BYTES

_MASK64 = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15


def digest_of(text: bytes) -> int:
    """Return a 64-bit digest of a value's text, the same in every process."""
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


class Digests:
    """The keys of a namespace with the digests of their values, and a sketch of them."""

    __slots__ = ("_cells", "of")

    def __init__(self) -> None:
        self.of: dict[bytes, int] = {}
        self._cells = [0] * _CELLS

    def __len__(self) -> int:
        return len(self.of)

    def __contains__(self, field: bytes) -> bool:
        return field in self.of

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.of)

    def put(self, field: bytes, digest: int) -> bool:
        """Set a key's digest. Return whether that changes it."""
        old = self.of.get(field)
        if old == digest:
            return False
        if old is not None:
            _toggle(self._cells, field, old)
        _toggle(self._cells, field, digest)
        self.of[field] = digest
        return True

    def drop(self, field: bytes) -> bool:
        """Remove a key. Return whether it was there."""
        old = self.of.pop(field, None)
        if old is None:
            return False
        _toggle(self._cells, field, old)
        return True

    def clear(self) -> bool:
        """Remove all keys. Return whether there were any."""
        had = bool(self.of)
        self.of = {}
        self._cells = [0] * _CELLS
        return had

    def sketch(self) -> bytes:
        return b"".join(cell.to_bytes(_CELL_BYTES, "little") for cell in self._cells)

    def only_touched(self, saved: bytes, touched: Iterable[bytes], known: Mapping[bytes, int | None]) -> bool:
        """Whether no other keys than the touched ones have changed since a sketch was saved.

        `known` holds old digests of touched keys, None for an absent key. The others are read off the sketch: False if they are
        too many.
        """
        cells = [
            int.from_bytes(saved[at * _CELL_BYTES : (at + 1) * _CELL_BYTES], "little") ^ cell
            for at, cell in enumerate(self._cells)
        ]
        unknown = {}
        for field in touched:
            for digest in (self.of.get(field), known.get(field)):
                if digest is not None:
                    _toggle(cells, field, digest)
            if field not in known:
                unknown[field] = _places(zlib.crc32(field))
        while unknown:
            shared = Counter(chain.from_iterable(unknown.values()))
            alone = {field: at for field, places in unknown.items() for at in places if shared[at] == 1}
            for field, at in alone.items():
                del unknown[field]
                if entry := cells[at]:  # empty if the key was absent
                    _toggle(cells, field, entry >> 32)
                    if cells[at]:  # a mixture of several keys
                        return False
            if not alone:
                return False
        return not any(cells)


def _toggle(cells: list[int], field: bytes, digest: int) -> None:
    """Add a key with its digest to a sketch, or remove it if it is there."""
    crc = zlib.crc32(field)
    # A checksum of key and digest, so that a mixture of keys is not mistaken for one.
    entry = digest << 32 | ((digest ^ crc * _ODD) * _ODD & _MASK64) >> 32
    for at in _places(crc):
        cells[at] ^= entry


def _places(crc: int) -> tuple[int, int, int]:
    return crc & 63, 64 + (crc >> 6 & 63), 128 + (crc >> 12 & 63)
