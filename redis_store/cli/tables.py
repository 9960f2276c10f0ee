"""Tables for people. Names are shown in one line, with control characters as escapes.

A long name is shown by its beginning and its end, so that one of them does not push the columns of all rows off the screen. Exact
names are those of ``--json``.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TextIO

from redis_store.values.printable import one_line
from redis_store.values.quantities import ago

WIDEST_CELL = 72
"""Columns of the terminal that a cell of a table takes, at most."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    is_number: bool = False
    """Whether the column is aligned to the right."""


def table(columns: Sequence[Column], rows: Iterable[Sequence[object]], *, bold: bool = False) -> Iterable[str]:
    """Yield the lines of a table, the titles first. A cell that is None is shown as ``-``."""
    cells = [[_shortened(cell(each)) for each in row] for row in rows]
    widths = [max(len(column.title), *(_width(row[at]) for row in cells), 0) for at, column in enumerate(columns)]
    title = _line([column.title for column in columns], columns, widths)
    yield f"\x1b[1m{title}\x1b[0m" if bold else title
    for row in cells:
        yield _line(row, columns, widths)


def _line(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    padded = (
        " " * (width - _width(text)) + text if column.is_number else text + " " * (width - _width(text))
        for text, column, width in zip(cells, columns, widths, strict=True)
    )
    return "  ".join(padded).rstrip()


def _width(text: str) -> int:
    """Return how many columns of a terminal a line takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text
    )


def _shortened(text: str) -> str:
    if _width(text) <= WIDEST_CELL:
        return text
    half = (WIDEST_CELL - 1) // 2
    return f"{_beginning(text, half)}…{_beginning(text[::-1], half)[::-1]}"


def _beginning(text: str, width: int) -> str:
    end = min(len(text), width)
    while _width(text[:end]) > width:
        end -= 1
    return text[:end]


def cell(value: object) -> str:
    """Return a value in a line: a time relative to now, a number with separators, a text with escapes."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3g}"
    if isinstance(value, datetime):
        return ago(value)
    return one_line(value)


def takes_escapes(stream: TextIO) -> bool:
    """Whether a stream is a terminal that understands escape sequences."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def takes_colors(stream: TextIO) -> bool:
    """Whether a stream is a terminal that understands colors, and ``NO_COLOR`` is not set."""
    return takes_escapes(stream) and not os.environ.get("NO_COLOR")
