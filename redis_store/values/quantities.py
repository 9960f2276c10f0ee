"""Times, sizes and counts as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_UNITS = ((86_400 * 365, "y"), (86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(s|min|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def ago(when: datetime, now: datetime | None = None) -> str:
    """Return a time relative to now, such as ``3 min ago`` or ``in 2 h``."""
    seconds = ((now or datetime.now(UTC)) - when).total_seconds()
    for size, unit in _UNITS:
        if abs(seconds) >= size:
            number = int(abs(seconds) / size)
            return f"{number} {unit} ago" if seconds > 0 else f"in {number} {unit}"
    return "now"


def size(count: int | None) -> str | None:
    """Return a number of bytes with its unit, such as ``3.2 MiB``."""
    if count is None or abs(count) < 1024:
        return None if count is None else f"{count} B"
    number = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        number /= 1024
        if abs(number) < 1024 or unit == "TiB":
            break
    return f"{number:,.1f} {unit}"


def counted(number: int, what: str) -> str:
    """Return a number of things in words, such as ``1 key`` or ``2,000 keys``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def parse_age(text: str) -> timedelta:
    """Return the time that a text such as ``30d``, ``10m``, ``1.5h`` or ``90s`` says; raises `ValueError` for another text."""
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no time: write a number and its unit, such as 30d, 12h, 10m or 90s.")
    return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
