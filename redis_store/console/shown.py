"""How names, times and sizes look on a page: nothing hides, or reverses the text around it, or is cut for good."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from redis_store.values.printable import escaped, one_line
from redis_store.values.quantities import ago, counted, size

LONGEST_NAME = 120
"""Characters of a name that a page shows in a line; the whole name is its title."""

LONGEST_TITLE = 1000
"""Characters of a name in its title. The name's own page has all of it."""

_PIECES = re.compile(r"[ -~]+|.", re.DOTALL)
"""Runs of common characters, and each other character."""

NOTHING = Markup('<span class="none">\u2013</span>')
"""What stands where there is no time or number."""


def name(text: object, longest: int = LONGEST_NAME) -> Markup:
    """Return a name of others: control characters and marks of direction are seen, and a long one is cut in its middle."""
    whole = str(text)
    if len(whole) <= longest:
        return Markup(f'<bdi class="name">{visible(whole, one_line)}</bdi>')
    half = (longest - 1) // 2
    start, end = visible(whole[:half], one_line), visible(whole[-half:], one_line)
    title = escape(one_line(whole[:LONGEST_TITLE]) + ("…" if len(whole) > LONGEST_TITLE else ""))
    return Markup(f'<bdi class="name" title="{title}">{start}<span class="cut">…</span>{end}</bdi>')


def short(text: str) -> str:
    """Return a name as plain text, cut, for where no markup is possible."""
    return one_line(text[:LONGEST_NAME]) + ("…" if len(text) > LONGEST_NAME else "")


def visible(text: str, escaping: Callable[[str], str] = escaped) -> Markup:
    """Return a text with control characters and marks of direction as escapes, which look unlike the same characters in it.

    `escaping` makes them. With `printable.escaped`, line ends and tabs stay.
    """
    if escaping(text) == text:
        return escape(text)
    parts = (
        Markup('<span class="escape">{}</span>').format(said) if (said := escaping(each)) != each else escape(each)
        for each in _PIECES.findall(text)
    )
    return Markup("").join(parts)


def when(moment: datetime | None) -> Markup:
    """Return a time relative to now, with the exact one as its title."""
    if moment is None:
        return NOTHING
    machine = moment.astimezone(UTC).isoformat(timespec="milliseconds")  # nothing here has to be escaped
    exact = f"{machine[:10]} {machine[11:23]} UTC"
    return Markup(f'<time datetime="{machine}" title="{exact}">{ago(moment)}</time>')


def number(count: float | None) -> str:
    """Return a number with separators."""
    return NOTHING if count is None else f"{count:,}"


def bytes_(count: int | None) -> Markup:
    """Return a number of bytes with its unit, and the exact number as its title."""
    if count is None:
        return NOTHING
    return Markup(f'<span title="{counted(count, "byte")}">{size(count)}</span>')


def took(ms: float) -> Markup:
    """Return a duration in the unit that suits it, with the exact one as its title."""
    digits = 0 if ms == 0 or ms >= 100 else 2 if ms < 10 else 1
    told = f"{ms:.{digits}f} ms" if ms < 1000 else f"{ms / 1000:,.2f} s"
    return Markup('<span title="{} ms">{}</span>').format(f"{ms:,.3f}", told)


FILTERS: dict[str, Callable[..., Any]] = {
    "name": name,
    "when": when,
    "number": number,
    "bytes": bytes_,
    "counted": counted,
    "took": took,
    "one_line": one_line,
    "text": escaped,
    "python": lambda text: json.dumps(text, ensure_ascii=True),
    "short": short,
}
"""The filters of templates."""
