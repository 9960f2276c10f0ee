"""How much there may be: keys in a namespace that bounds itself, bytes in what is read for others."""

from __future__ import annotations

import sys

from redis_store.errors import InvalidInput, InvalidType, LimitExceeded

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
