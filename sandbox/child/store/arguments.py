"""Arguments of store calls in an agent: checked as on the host, and converted to the form that is sent to it."""

from __future__ import annotations

import os
from collections.abc import Iterable

from redis_store.errors import InvalidType, InvalidValue
from redis_store.limits import check_max_keys, ttl_to_ms
from redis_store.namespace.keys import encode_key
from redis_store.types import NEVER, Json, Ttl
from redis_store.values import rules

_LARGEST_INT = 2**63 - 1


def key_text(key: object) -> str:
    """Return a key as an exact str."""
    encode_key(key)  # type: ignore[arg-type]  # it checks an argument of any type
    return str.__str__(key)


def key_texts(keys: Iterable[str]) -> list[str]:
    """Return keys as exact strs."""
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable):
        raise InvalidType(f"Keys must be a list of str, not {type(keys).__name__}: put a single key in a list.")
    return [key_text(key) for key in keys]


def dump_of(key: str, value: object) -> bytes:
    """Return a value's JSON text; an error names the key."""
    try:
        return rules.dump(value)
    except InvalidValue as error:
        raise InvalidValue(f"Under the key {key!r}: {error}", path=error.path, key=key) from None


def metadata_text(metadata: dict[str, Json] | None) -> bytes | None:
    """Return metadata as JSON text, or None without any."""
    if metadata is not None and not isinstance(metadata, dict):
        raise InvalidType(f"Metadata must be a dict or None, not {type(metadata).__name__}.")
    return rules.dump(metadata) if metadata else None


def ttl_seconds(ttl: Ttl, default_s: float | None) -> float | None:
    """Return a ttl in seconds, None for no expiry. Resolved here: the host knows neither `NEVER` nor a namespace's default."""
    if ttl is None:
        return default_s
    return None if ttl is NEVER else ttl_to_ms(ttl) / 1000


def max_keys_number(max_keys: int | None) -> int | None:
    """Check and return a limit on the keys of a namespace."""
    most = check_max_keys(max_keys)
    # Clipped to the largest number that a message can carry, which no namespace reaches.
    return None if most is None else min(most, _LARGEST_INT)


def new_token() -> str:
    """Return a random text that identifies the holder of a lock, a slot or a claim to the server."""
    return os.urandom(8).hex()
