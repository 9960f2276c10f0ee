"""Digests of a namespace's values, and a sketch of them for Redis, to find writes that are missing from the log. No I/O.

In memory a digest of each value is kept: about 200 bytes a key, whatever the size of the values.

Without a watcher, 2 KB are kept in Redis (`NamespaceKeys.seen`): the log's position and a *sketch* of the namespace at that
position, a kind of invertible Bloom lookup table. Each key with its digest is added, by exclusive or, to three cells out of 192.
A later watcher has the current namespace and the log since then. The log names the keys that were written, but not their old
values. With few such keys (up to about 150), their cells hold nothing else that is unknown: the old digests can be read off and
checked. If all cells are then empty, the log is complete. If not, it is not known what was written, and consumers get a reset.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b

_ROWS = 3
_ROW_CELLS = 64
CELLS = _ROWS * _ROW_CELLS
_CELL_BYTES = 12
SKETCH_BYTES = CELLS * _CELL_BYTES

_MASK64 = (1 << 64) - 1
_MASK32 = (1 << 32) - 1
_ODD = 0x9E3779B97F4A7C15


def digest_of(text: bytes) -> int:
    """Return a 64-bit digest of a value's text, the same in every process."""
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


class Sketch:
    """A set of keys with their digests, in a fixed number of cells."""

    __slots__ = ("cells",)

    def __init__(self, cells: list[int] | None = None) -> None:
        self.cells = [0] * CELLS if cells is None else cells

    def toggle(self, field: bytes, digest: int) -> None:
        """Add a key with its digest, or remove it if it is there."""
        crc = zlib.crc32(field)
        mixed = _mixed(crc, digest)
        cells = self.cells
        cells[crc & 63] ^= mixed
        cells[64 + (crc >> 6 & 63)] ^= mixed
        cells[128 + (crc >> 12 & 63)] ^= mixed

    def to_bytes(self) -> bytes:
        return b"".join(cell.to_bytes(_CELL_BYTES, "little") for cell in self.cells)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Sketch:
        step = _CELL_BYTES
        return cls([int.from_bytes(raw[at : at + step], "little") for at in range(0, SKETCH_BYTES, step)])

    def minus(self, other: Sketch) -> Sketch:
        """Return the symmetric difference: the keys with digests that are in only one of the two sketches."""
        return Sketch([a ^ b for a, b in zip(self.cells, other.cells, strict=True)])

    def resolve(self, fields: Iterable[bytes]) -> dict[bytes, int | None] | None:
        """Return each key's digest, None for a key that is not in the sketch. Empties the sketch.

        Returns None if the sketch holds anything else, or too many keys share cells.
        """
        left: dict[bytes, tuple[int, tuple[int, int, int]]] = {}
        inside: list[set[bytes]] = [set() for _ in range(CELLS)]
        for field in fields:
            crc = zlib.crc32(field)
            left[field] = crc, _places(crc)
            for place in left[field][1]:
                inside[place].add(field)
        found: dict[bytes, int | None] = {}
        alone = [place for place in range(CELLS) if len(inside[place]) == 1]
        while alone:
            place = alone.pop()
            if len(inside[place]) != 1:
                continue
            (field,) = inside[place]
            crc, places = left.pop(field)
            mixed = self.cells[place]
            if mixed and not _is_of(crc, mixed):
                return None
            found[field] = mixed >> 32 if mixed else None
            for other in places:
                self.cells[other] ^= mixed
                inside[other].discard(field)
                if len(inside[other]) == 1:
                    alone.append(other)
        return None if left or any(self.cells) else found

    def may_hold(self, field: bytes) -> bool:
        """Whether a key may be in the sketch: none of its cells is empty."""
        a, b, c = _places(zlib.crc32(field))
        return bool(self.cells[a] and self.cells[b] and self.cells[c])


class Digests:
    """The keys of a namespace with the digests of their values, and a sketch of them."""

    __slots__ = ("of", "sketch")

    def __init__(self) -> None:
        self.of: dict[bytes, int] = {}
        self.sketch = Sketch()

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
            self.sketch.toggle(field, old)
        self.sketch.toggle(field, digest)
        self.of[field] = digest
        return True

    def drop(self, field: bytes) -> bool:
        """Remove a key. Return whether it was there."""
        old = self.of.pop(field, None)
        if old is None:
            return False
        self.sketch.toggle(field, old)
        return True

    def clear(self) -> bool:
        """Remove all keys. Return whether there were any."""
        had = bool(self.of)
        self.of = {}
        self.sketch = Sketch()
        return had

    def before(
        self, saved: bytes, touched: Iterable[bytes], known: Mapping[bytes, int | None]
    ) -> dict[bytes, int | None] | None:
        """Return the old digests of touched keys, from a saved sketch. Return None if any other key has changed since.

        `known` holds the old digests that are known, None for an absent key. The others are read off the sketch.
        """
        touched = list(touched)
        rest = self.difference(saved, touched, known)
        found = rest.resolve(field for field in touched if field not in known)
        return None if found is None else {**known, **found}

    def difference(self, saved: bytes, touched: Iterable[bytes], known: Mapping[bytes, int | None]) -> Sketch:
        """Return a saved sketch without the unchanged keys, and without the touched keys whose old digests are known."""
        rest = Sketch.from_bytes(saved).minus(self.sketch)
        for field in touched:
            if (now := self.of.get(field)) is not None:
                rest.toggle(field, now)
            if (was := known.get(field)) is not None:
                rest.toggle(field, was)
        return rest


def _places(crc: int) -> tuple[int, int, int]:
    return crc & 63, 64 + (crc >> 6 & 63), 128 + (crc >> 12 & 63)


def _mixed(crc: int, digest: int) -> int:
    """Return 96 bits: the digest and a checksum of digest and key, so that a mixture of keys is not mistaken for one."""
    return digest << 32 | _check(crc, digest)


def _check(crc: int, digest: int) -> int:
    return ((digest ^ crc * _ODD) * _ODD & _MASK64) >> 32


def _is_of(crc: int, mixed: int) -> bool:
    return _check(crc, mixed >> 32) == mixed & _MASK32
