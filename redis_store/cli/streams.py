"""The standard streams of our commands. A closed stream, or a pipe without a reader, drops what is written and fails nothing."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, Protocol, TextIO

from redis_store.values.printable import traceback_of

_NOBODY_READS = {errno.EPIPE, errno.EBADF, errno.EIO, errno.ECONNRESET}
"""Errors of a stream that was closed: its pipe or socket has no reader, or its terminal is gone."""


class Output(Protocol):
    """A place for bytes."""

    def write(self, data: memoryview, /) -> int | None: ...

    def flush(self) -> None: ...

    def isatty(self) -> bool: ...


class _Drain(io.FileIO):
    """Writes to a descriptor until that fails, and drops the rest."""

    def __init__(self, descriptor: int, *, silent: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._silent = silent
        self.failed = False

    def write(self, data: Any, /) -> int:
        """Write, or drop. Raises `OSError` once, for a full disk and the like, unless silent."""
        if not self.failed:
            try:
                return super().write(data)
            except BlockingIOError:
                raise
            except OSError as error:
                self.failed = True
                if not self._silent and error.errno not in _NOBODY_READS:
                    raise
        return memoryview(data).nbytes


@contextlib.contextmanager
def safe_streams(command: str) -> Iterator[None]:
    """Open the standard streams for a command, and say in one line if stdout cannot take the output.

    Tracebacks of errors that nobody expected are quoted, because they may hold the text of an agent.
    """
    open_streams()
    before, threading.excepthook = threading.excepthook, _show_failed_thread
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and stdout_failed():
            print(f"{command}: the output cannot be written: {error.strerror}.", file=sys.stderr)
        else:
            print(traceback_of(error), file=sys.stderr)
        sys.exit(1)
    finally:
        threading.excepthook = before


def open_streams() -> None:
    """Make this process's standard streams safe to use.

    A closed one is opened on the null device: otherwise the next socket would get its number, and what programs and
    libraries print there. Streams that somebody has replaced, as test runners do, stay as they are.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number, this one
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115  # for as long as the process lives
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text_stream(1, sys.stdout, silent=False)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text_stream(2, sys.stderr, silent=True)


def stdout_failed() -> bool:
    """Whether stdout took less than what was written: it has no reader any more, or its disk is full."""
    drain = _drain_of(sys.stdout)
    return drain is not None and drain.failed


def takes_no_more(output: Output) -> bool:
    """Whether what is written there is dropped from now on."""
    return isinstance(output, _Drain) and output.failed


@contextlib.contextmanager
def stdout_for_results() -> Iterator[Output]:
    """Yield the real stdout, and let everything else that is written to stdout go to stderr.

    In a process whose streams `open_streams` has opened, that includes what C libraries and other programs write, and it
    stays so: a thread that is left over prints nothing behind the result.
    """
    stdout, drain = sys.stdout, _drain_of(sys.stdout)
    stdout.flush()
    sys.stdout = sys.stderr
    if drain is not None:
        if drain.fileno() == 1:
            drain = _Drain(os.dup(1), silent=False)
            os.dup2(2, 1)
        yield drain
        return
    try:
        yield stdout.buffer
    finally:
        sys.stdout = stdout


def write_to(output: Output, text: str) -> None:
    """Write text as UTF-8, whatever the locale, and flush it."""
    rest = memoryview(text.encode(errors="backslashreplace"))
    while rest:
        rest = rest[output.write(rest) or 0 :]
    output.flush()


def _show_failed_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None and not isinstance(failed.exc_value, SystemExit):
        print(traceback_of(failed.exc_value), file=sys.stderr)


def _drain_of(stream: TextIO) -> _Drain | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Drain) else None


def _text_stream(descriptor: int, closed_or_not: TextIO | None, *, silent: bool) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(_Drain(descriptor, silent=silent)),
        encoding=getattr(closed_or_not, "encoding", "utf-8"),
        errors=getattr(closed_or_not, "errors", "backslashreplace"),
        line_buffering=silent or os.isatty(descriptor),
    )
