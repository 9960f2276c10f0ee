"""How names, times and sizes look on a page: nothing hides, or reverses the text around it, or is cut for good."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from redis_store.values.printable import escaped, one_line
from redis_store.values.quantities import ago, counted, size

LONGEST_NAME = 120
"""Characters of a name that a page shows in a line; the whole name is its title."""


NOTHING = Markup('<span class="none">\u2013</span>')
"""What stands where there is no time or number."""


def name(text: object, longest: int = LONGEST_NAME) -> Markup:
    """Return a name of others: control characters and marks of direction are seen, and a long one is cut in its middle."""
    whole = one_line(text)
    if len(whole) <= longest:
        return Markup('<bdi class="name">{}</bdi>').format(_marked(str(text)))
    half = (longest - 1) // 2
    return Markup('<bdi class="name" title="{}">{}<span class="cut">…</span>{}</bdi>').format(
        whole, whole[:half], whole[-half:]
    )


def _marked(text: str) -> Markup:
    """Return a text whose escapes are told from the same characters in the text."""
    if one_line(text) == text:
        return escape(text)
    seen = ((character, one_line(character)) for character in text)
    mark = Markup('<span class="escape">{}</span>')
    return Markup("").join(escape(each) if each == told else mark.format(told) for each, told in seen)


def when(moment: datetime | None) -> Markup:
    """Return a time relative to now, with the exact one as its title."""
    if moment is None:
        return NOTHING
    exact = moment.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds").replace("+00:00", " UTC")
    machine = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(machine, exact, ago(moment))


def number(count: float | None) -> str:
    """Return a number with separators."""
    return NOTHING if count is None else f"{count:,}"


def bytes_(count: int | None) -> Markup:
    """Return a number of bytes with its unit, and the exact number as its title."""
    if count is None:
        return NOTHING
    return Markup('<span title="{} bytes">{}</span>').format(f"{count:,}", size(count))


FILTERS: dict[str, Callable[..., Any]] = {
    "name": name,
    "when": when,
    "number": number,
    "bytes": bytes_,
    "counted": counted,
    "one_line": one_line,
    "text": escaped,
}
"""The filters of templates."""
