"""What a watcher remembers of a namespace, to find what was written behind the log's back. No I/O.

In memory that is a digest of each value: about 200 bytes a key, whatever the size of the values.

For the time when nobody watches, 2 KB are left in Redis (`NamespaceKeys.seen`): the log's position and a *sketch* of the
namespace at that position, in the manner of an invertible Bloom lookup table. Each key with its digest is added, by exclusive
or, to three cells out of 192. Who comes later has the namespace as it is and the log since then. The log says which keys were
written, not what they had been before; but such a key's cells hold nothing unknown besides it, as long as there are not too
many (about 150): then its old digest can be read off and checked. If what is left in all cells is nothing, then nothing was
written that the log does not tell. If it is not, nobody can say what was, and consumers get a reset.
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
    """Return 64 bits that stand for a value's text, the same in every process."""
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


class Sketch:
    """A fixed number of cells that stand for a set of keys with their digests."""

    __slots__ = ("cells",)

    def __init__(self, cells: list[int] | None = None) -> None:
        self.cells = [0] * CELLS if cells is None else cells

    def toggle(self, field: bytes, digest: int) -> None:
        """Put a key with its digest in, or take it out."""
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
        """Return what is in one of both only."""
        return Sketch([a ^ b for a, b in zip(self.cells, other.cells, strict=True)])

    def resolve(self, fields: Iterable[bytes]) -> dict[bytes, int | None] | None:
        """Return the digests with which these keys are in it (None: not), if it holds nothing else; else None. Uses it up."""
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
        """Whether a key may be in it: none of its cells is empty."""
        a, b, c = _places(zlib.crc32(field))
        return bool(self.cells[a] and self.cells[b] and self.cells[c])


class Digests:
    """The keys of a namespace with the digests of their values, and their sketch."""

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
        """Remember a key's digest, and tell whether that is news."""
        old = self.of.get(field)
        if old == digest:
            return False
        if old is not None:
            self.sketch.toggle(field, old)
        self.sketch.toggle(field, digest)
        self.of[field] = digest
        return True

    def drop(self, field: bytes) -> bool:
        """Forget a key, and tell whether it was known."""
        old = self.of.pop(field, None)
        if old is None:
            return False
        self.sketch.toggle(field, old)
        return True

    def clear(self) -> bool:
        """Forget all keys, and tell whether there were any."""
        had = bool(self.of)
        self.of = {}
        self.sketch = Sketch()
        return had

    def before(
        self, saved: bytes, touched: Iterable[bytes], known: Mapping[bytes, int | None]
    ) -> dict[bytes, int | None] | None:
        """Return the digests that keys had at the time of a saved sketch, if nothing but the touched ones has changed since.

        `known` tells what is known of them: a digest, or None where they were absent. The others are read off the sketch.
        """
        touched = list(touched)
        rest = self.difference(saved, touched, known)
        found = rest.resolve(field for field in touched if field not in known)
        return None if found is None else {**known, **found}

    def difference(self, saved: bytes, touched: Iterable[bytes], known: Mapping[bytes, int | None]) -> Sketch:
        """Return what a saved sketch holds besides the keys that are there unchanged and those whose digests are known."""
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
    """96 bits: the digest, and a checksum over it and the key, so that a mixture of several is not taken for one."""
    return digest << 32 | _check(crc, digest)


def _check(crc: int, digest: int) -> int:
    return ((digest ^ crc * _ODD) * _ODD & _MASK64) >> 32


def _is_of(crc: int, mixed: int) -> bool:
    return _check(crc, mixed >> 32) == mixed & _MASK32
