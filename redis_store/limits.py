"""Limits on what one call, one value and one namespace may hold, and how each is checked."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import timedelta

from redis_store.errors import InvalidInput, InvalidType, LimitExceeded

MAX_COUNT = 1_000_000
"""Places of a semaphore, and moments of a rate limit: the server keeps each of them, at about 10 bytes."""

MAX_VALUE_BYTES = 64 * 1024 * 1024
"""How long a value may be as JSON, where nothing else is said."""

MAX_BATCH_BYTES = 256 * 1024 * 1024

LOG_ENTRIES = 10_000

LOG_BYTES = 8 * 1024 * 1024

LOG_DAYS = 7

MAX_TTL_S = 100 * 365 * 86400
"""A hundred years: beyond it the servers' own bounds on times of expiry come near."""

ANY_SIZE = sys.maxsize
"""The bound of those who may read as much at once as they like."""


def check_max_keys(max_keys: int | None) -> int | None:
    """Check what a caller gives as a bound."""
    if max_keys is None:
        return None
    if isinstance(max_keys, bool) or not isinstance(max_keys, int):
        raise InvalidType(f"max_keys must be a whole number or None, not {type(max_keys).__name__}.")
    if max_keys < 1:
        raise InvalidInput(f"max_keys must be at least 1, not {max_keys}.")
    return max_keys


def too_much_at_once(limit_bytes: int) -> LimitExceeded:
    """Return the error of a read that was given up because it brings more than its reader may hold."""
    return LimitExceeded(
        f"The answer takes more than {limit_bytes:,} bytes, which is the most that is read at once here: read in parts,"
        " for example with iter_items.",
        limit="max_read_bytes",
        limit_bytes=limit_bytes,
    )


def ttl_to_ms(ttl: object, what: str = "ttl") -> int:
    """Return a time to live, given in seconds or as a timedelta, in whole milliseconds, at least one.

    `what` is the name of the argument that it was given as.
    """
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise InvalidType(f"{what} must be a number of seconds or a timedelta, not {type(ttl).__name__}.")
    if not 0 < seconds <= MAX_TTL_S:
        # Python refuses to write out an int of more than 4,300 digits.
        shown = repr(ttl) if isinstance(seconds, float) or abs(seconds) < 10**18 else "a huge int"
        raise InvalidInput(
            f"{what}={shown} is out of range: give more than 0 and at most {MAX_TTL_S:,} seconds (100 years)."
        )
    return max(1, round(seconds * 1000))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may carry, in bytes of JSON text."""

    max_value_bytes: int = MAX_VALUE_BYTES
    max_batch_bytes: int = MAX_BATCH_BYTES
    max_metadata_bytes: int = 64 * 1024


@dataclass(frozen=True, slots=True)
class LogBounds:
    """How much of a watched namespace's history its log keeps: the newest entries, and about so many bytes.

    A log that nobody has watched for so many days goes.
    """

    entries: int = LOG_ENTRIES
    max_bytes: int = LOG_BYTES
    days: int = LOG_DAYS

    @property
    def life_ms(self) -> int:
        """How long a log is kept unwatched."""
        return self.days * 86_400_000


def check_timeout(timeout: object) -> float | None:
    """Check how long a caller would wait; None stands for any time, and 0 for a single try."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise InvalidType(f"A timeout must be a number of seconds or None, not {type(timeout).__name__}.")
    if not 0 <= timeout < 1e9:
        raise InvalidInput(f"The timeout {timeout!r} is out of range: give a number of seconds from 0 on, or None.")
    return float(timeout)


def check_places(n: object) -> int:
    """Check the number of a semaphore's places, or of a rate limit's moments."""
    if isinstance(n, bool) or not isinstance(n, int):
        raise InvalidType(f"n must be a whole number, not {type(n).__name__}.")
    if not 1 <= n <= MAX_COUNT:
        raise InvalidInput(f"n must be from 1 to {MAX_COUNT:,}, not {n}.")
    return n
