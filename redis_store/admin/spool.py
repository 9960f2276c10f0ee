"""Sorting of any number of records in bounded memory: what does not fit is kept in temporary files."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO

MEMORY_BYTES = 4 * 1024 * 1024
"""Size of the records that are kept in memory until they are sorted and written to a file, in bytes."""

RECORD_BYTES = 60
"""Memory of a record beside its bytes."""

BIG_BYTES = 32 * 1024
"""Size from which a record's rest is kept apart, in bytes: while runs are merged, one record of each is in memory."""

MOST_RUNS = 96
"""Files of runs, at most; then they are merged into one."""

_BIG = b"@"


class Spool:
    """Records of a name and a rest, which are given out in the order of their names, each name once, with its last rest.

    A name has no tab and no newline, and a rest ends with its only newline, or is empty: then the name is left out.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._most_bytes = memory_bytes
        self._records: list[bytes] = []
        self._bytes = 0
        self._runs: list[IO[bytes]] = []
        self._big: IO[bytes] | None = None
        self._turn = 0
        self._floor = 0

    def add(self, names: Iterable[bytes], rests: Iterable[bytes]) -> None:
        """Add records. They replace earlier ones of the same names."""
        self._turn += 1
        turn = b"\t%012x\t" % self._turn
        size = 0
        for name, rest in zip(names, rests, strict=True):
            if len(rest) >= BIG_BYTES:
                rest = self._apart(rest)
            record = b"%b%b%b" % (name, turn, rest or b"\n")
            size += len(record) + RECORD_BYTES
            self._records.append(record)
        self._bytes += size
        if self._bytes > self._most_bytes:
            self._write_run()

    def clear(self) -> None:
        """Forget all records that were added until now."""
        self._floor = self._turn

    def sorted(self) -> Iterator[tuple[bytes, bytes]]:
        """Return the names and rests in their order. Nothing may be added any more."""
        self._records.sort()
        runs: list[Iterable[bytes]] = [*self._runs]
        for run in self._runs:
            run.seek(0)
        records: Iterable[bytes] = heapq.merge(*runs, self._records) if runs else self._records
        floor = b"%012x" % self._floor
        last_name, last_rest = b"", b"\n"
        for record in records:
            name, turn, rest = record.split(b"\t", 2)
            if turn <= floor:
                continue
            if name != last_name:
                if last_rest != b"\n":
                    yield last_name, self._whole(last_rest)
                last_name = name
            last_rest = rest
        if last_rest != b"\n":
            yield last_name, self._whole(last_rest)

    def close(self) -> None:
        """Remove the files."""
        for file in (*self._runs, *([self._big] if self._big is not None else [])):
            file.close()
        self._runs, self._records, self._big = [], [], None

    def _write_run(self) -> None:
        self._records.sort()
        run = _new_file()
        run.writelines(self._records)
        self._runs.append(run)
        self._records, self._bytes = [], 0
        if len(self._runs) == MOST_RUNS:
            for old in self._runs:
                old.seek(0)
            merged = _new_file()
            merged.writelines(heapq.merge(*self._runs))
            for old in self._runs:
                old.close()
            self._runs = [merged]

    def _apart(self, rest: bytes) -> bytes:
        if self._big is None:
            self._big = _new_file()
        start = self._big.seek(0, 2)
        self._big.write(rest)
        return b"%b%d,%d\n" % (_BIG, start, len(rest))

    def _whole(self, rest: bytes) -> bytes:
        if not rest.startswith(_BIG):
            return rest
        start, _, size = rest[1:-1].partition(b",")
        assert self._big is not None
        self._big.seek(int(start))
        return self._big.read(int(size))


def _new_file() -> IO[bytes]:
    return tempfile.TemporaryFile()  # `close` closes it
