"""How many keys a namespace that bounds itself may hold."""

from __future__ import annotations

from redis_store.errors import InvalidInput, InvalidType


def check_max_keys(max_keys: int | None) -> int | None:
    """Check what a caller gives as a bound."""
    if max_keys is None:
        return None
    if isinstance(max_keys, bool) or not isinstance(max_keys, int):
        raise InvalidType(f"max_keys must be a whole number or None, not {type(max_keys).__name__}.")
    if max_keys < 1:
        raise InvalidInput(f"max_keys must be at least 1, not {max_keys}.")
    return max_keys
