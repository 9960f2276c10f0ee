"""Files of exports: compressed by their names when they are written, recognized by their first bytes when they are read."""

from __future__ import annotations

import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol, cast

from redis_store.admin.importing import Lines
from redis_store.admin.lines import Row
from redis_store.errors import DataStoreError, InvalidInput, InvalidSettings

LONGEST_LINE = 1024 * 1024 * 1024
"""Limit of a line that is read, in bytes. The servers' own limit of a value is half of it."""

FILE_READ_BYTES = 256 * 1024
"""Part of a file that is read at once, in bytes."""


class Writable(Protocol):
    """What takes the bytes of an export: a file, or what has its method `write`."""

    def write(self, data: bytes, /) -> object: ...


_GZIP_START = b"\x1f\x8b"
_ZSTD_START = b"\x28\xb5\x2f\xfd"


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for an export. It gets its name when it is complete: until then, and after a failure, nothing has changed.

    Raises `InvalidInput` if it cannot be written.
    """
    try:
        with _written(path) as file:
            yield file
    except OSError as error:
        if isinstance(error, DataStoreError):
            raise
        raise InvalidInput(
            f"The file {str(path)!r} cannot be written: {error.strerror or error}. Nothing was exported: choose another place."
        ) from error


@contextmanager
def _written(path: Path) -> Iterator[IO[bytes]]:
    if _is_special(path):
        with path.open("wb") as target:
            yield target
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            os.fchmod(file.fileno(), stat.S_IRUSR | stat.S_IWUSR)  # it holds everything that the users have
            with _compressing(path.suffix, file) as target:
                yield target
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()


def lines_of_file(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of an export, uncompressed."""
    buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(Any, file), FILE_READ_BYTES)
    start = buffered.peek(4)[:4]
    plain: Any = buffered
    if start.startswith(_GZIP_START):
        plain = gzip.GzipFile(fileobj=buffered)
    elif start.startswith(_ZSTD_START):
        plain = _zstd().ZstdFile(buffered)
    number, broken = 0, (EOFError, zlib.error, gzip.BadGzipFile, _zstd_error())
    try:
        while line := plain.readline(LONGEST_LINE):
            number += 1
            yield line
    except broken as error:
        raise InvalidInput(
            f"Line {number + 1:,} of the export cannot be used: the compressed file is cut off or broken here ({error})."
        ) from None
    finally:
        if buffered is not file:
            buffered.detach()  # which would close the file


@contextmanager
def rows_of(file: str | Path | IO[bytes], user: str | None, namespace: str | None) -> Iterator[Iterable[Row]]:
    """Open an export for its keys. One that can be read twice is checked as a whole first."""
    if isinstance(file, (str, Path)):
        try:
            opened = Path(file).open("rb", FILE_READ_BYTES)  # noqa: SIM115  # closed below
        except OSError as error:
            raise InvalidInput(f"The file {str(file)!r} cannot be read: {error.strerror}.") from None
        with opened, rows_of(opened, user, namespace) as rows:
            yield rows
        return
    if can_be_read_twice(file):
        start = file.tell()
        try:
            Lines(lines_of_file(file)).check()
        except InvalidInput as error:
            raise InvalidInput(f"{error} Nothing was imported.") from None
        file.seek(start)
    yield Lines(lines_of_file(file), user, namespace)


def can_be_read_twice(file: IO[bytes]) -> bool:
    """Whether a file may be read from its beginning again."""
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.seekable()
    except (OSError, io.UnsupportedOperation):
        return isinstance(file, io.BytesIO)


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file()


@contextmanager
def _compressing(suffix: str, file: IO[bytes]) -> Iterator[IO[bytes]]:
    if suffix == ".gz":
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as target:
            yield cast("IO[bytes]", target)
    elif suffix == ".zst":
        with _zstd().ZstdFile(file, "wb") as target:
            yield target
    else:
        yield file


def _zstd() -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise InvalidSettings(
            "A file that ends with .zst needs zstd, which is not installed here: pip install backports.zstd, or use .gz."
        ) from None
    return zstd


def _zstd_error() -> type[Exception]:
    try:
        return cast("type[Exception]", _zstd().ZstdError)
    except InvalidSettings:
        return zlib.error
