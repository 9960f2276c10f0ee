"""The only judge of times to live.

It imports `errors` only, because the sandbox's child uses it too.
"""

from __future__ import annotations

from datetime import timedelta

from redis_store.errors import InvalidInput, InvalidType

MAX_TTL_S = 100 * 365 * 86400
"""A hundred years: beyond it the servers' own bounds on times of expiry come near."""


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
