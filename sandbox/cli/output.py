"""Output of the commands: results on stdout, everything else on stderr."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console

from redis_store.cli.streams import Output, write_to
from redis_store.errors import DataStoreError, InvalidInput
from redis_store.values import printable
from sandbox import errors
from sandbox.consumers.batches import TOLD_AS_EVENT
from sandbox.protocol.operations import WRITES
from sandbox.result import RunResult, lines_above
from sandbox.trace import trace_tree, write_trace

FAILED = 1
CALLED_WRONGLY = 2
INTERRUPTED = 130

_LONGEST_REST = 4096
"""Size of the beginning of a line that is kept until its end is printed, in characters; more is shown as a line."""


def kept(result: RunResult) -> str:
    """Return a clause about the writes of an interrupted run."""
    written: Counter[str] = Counter()
    for one in result.operations:
        if one.operation in WRITES and one.error is None:
            written[one.namespace] += 1
    if not written:
        return "it had written nothing"
    times = sum(written.values())
    names = ", ".join(map(repr, sorted(written)[:5])) + (" and others" if len(written) > 5 else "")
    more = "at least " if result.operations_left_out else ""
    where = "namespace" if len(written) == 1 else "namespaces"
    return f"it had written {more}{times:,} {'time' if times == 1 else 'times'} to {where} {names}, which stays"


def show(result: RunResult, out: Output, trace: bool, trace_file: Path | None) -> int:
    """Show the outcome of a run, and return the exit code."""
    finish_output()
    if trace:
        Console(stderr=True, highlight=False).print(trace_tree(result))
    if trace_file is not None:
        write_trace_file(result, trace_file)
    code = _show_outcome(result, out)
    if trace or trace_file is not None or sys.stderr.isatty():
        for hint in result.hints:
            say(f"hint: {hint}")
    return code


def write_trace_file(result: RunResult, trace_file: Path) -> None:
    """Write the trace of a run to a file, or say why it cannot be written."""
    try:
        write_trace(result, trace_file)
    except OSError as error:
        say(f"The trace cannot be written to {trace_file}: {error.strerror}.")


def _show_outcome(result: RunResult, out: Output) -> int:
    failure = result.error
    if failure is None:
        indent = 2 if out.isatty() else None
        try:
            write_to(out, printable.json_text(result.output, indent) + "\n")
        except OSError as error:
            say(f"The result cannot be written: {error.strerror}. What the agent had stored stays.")
            return FAILED
        return 0
    say_printable(explained(failure))
    return FAILED


def explained(failure: errors.SandboxError) -> str:
    """Return the message of an error, after the agent's traceback or offending lines, quoted, if it has any.

    The line of the traceback that the message repeats is left out.
    """
    details = getattr(failure, "traceback", "") or getattr(failure, "details", "")
    lines = lines_above(str(failure), details)
    return (printable.quoted(lines) + "\n" if lines else "") + printable.message(str(failure))


class _Printed:
    """What agents print at a terminal, in whole lines, each behind `MARK`: a line without it is the command's own.

    Other programs and threads write there too, so the end of a line that is not complete would not show whose it is.
    """

    def __init__(self) -> None:
        self._rest = ""
        self._lock = threading.RLock()

    def add(self, text: str) -> None:
        """Write the lines that are complete."""
        with self._lock:
            *lines, rest = (self._rest + text).split("\n")
            self._rest = "" if len(rest) > _LONGEST_REST else rest
            self._write_lines([*lines, rest] if len(rest) > _LONGEST_REST else lines)

    def finish(self) -> None:
        """Write the rest as a line."""
        with self._lock:
            rest, self._rest = self._rest, ""
            self._write_lines([rest] if rest else [])

    @staticmethod
    def _write_lines(lines: list[str]) -> None:
        if lines:
            _write(_in_rows(printable.MARK + printable.message("\n".join(lines))) + "\n")


_printed = _Printed()


def pass_on(text: str) -> None:
    """Write on stderr what an agent prints; at a terminal, which it could control, escaped and with a mark before each line."""
    if sys.stderr.isatty():
        _printed.add(text)
    else:
        _write(text)


def finish_output() -> None:
    """Write what agents have printed last, if that is no whole line yet."""
    _printed.finish()


def say(text: str) -> None:
    """Write a message on stderr. None of its lines, whoever's text they hold, can be mistaken for another message."""
    say_printable(printable.message(text))


def say_printable(text: str) -> None:
    """Write a text on stderr that is `printable` already, such as that of `explained`."""
    finish_output()
    _write(_in_rows(text) + "\n")


def _in_rows(text: str) -> str:
    columns = 0
    with suppress(OSError, ValueError):  # no terminal, or a stream of a test runner's
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    return printable.folded(text, columns)


def _write(text: str) -> None:
    sys.stderr.flush()
    write_to(sys.stderr.buffer, text)


class _Handler(logging.Handler):
    """Shows records as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        say_printable(f"{record.levelname.lower()}: {self.format(record)}")


@contextmanager
def library_warnings() -> Iterator[None]:
    """Show on stderr what the library warns of, such as a server that evicts or sends no keyspace events."""
    handler = _Handler(logging.WARNING)
    handler.addFilter(printable.PrintableRecords())
    handler.addFilter(lambda record: not hasattr(record, TOLD_AS_EVENT))  # `sandbox watch` has a line for each event
    loggers = [logging.getLogger(name) for name in ("redis_store", "sandbox")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


@contextmanager
def leaving_on_errors() -> Iterator[None]:
    """Turn an error into its message and the exit code that the commands document for it."""
    try:
        yield
    except (errors.InvalidInput, InvalidInput) as error:
        leave(str(error), CALLED_WRONGLY)
    except errors.SandboxError as error:
        say_printable(explained(error))
        raise typer.Exit(FAILED) from None
    except DataStoreError as error:
        leave(str(error), FAILED)


def leave(message: str, code: int) -> NoReturn:
    say(message)
    raise typer.Exit(code)
