"""What agents pass to their store, checked as outside, in the form in which it crosses to the host."""

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
    encode_key(key)  # type: ignore[arg-type]  # it judges whatever an agent passes
    return str.__str__(key)


def key_texts(keys: Iterable[str]) -> list[str]:
    """Return keys as exact strs."""
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable):
        raise InvalidType(f"Keys must be a list of str, not {type(keys).__name__}: put a single key in a list.")
    return [key_text(key) for key in keys]


def dump_of(key: str, value: object) -> bytes:
    """Return a value's JSON text; a refusal names the key."""
    try:
        return rules.dump(value)
    except InvalidValue as error:
        raise InvalidValue(f"Under the key {key!r}: {error}", path=error.path, key=key) from None


def metadata_text(metadata: dict[str, Json] | None) -> bytes | None:
    """Return metadata as JSON text, None where there is none."""
    if metadata is not None and not isinstance(metadata, dict):
        raise InvalidType(f"Metadata must be a dict or None, not {type(metadata).__name__}.")
    return rules.dump(metadata) if metadata else None


def ttl_seconds(ttl: Ttl, default_s: float | None) -> float | None:
    """Return how long something written now lives, None for ever; the host knows neither `NEVER` nor a namespace's default."""
    if ttl is None:
        return default_s
    return None if ttl is NEVER else ttl_to_ms(ttl) / 1000


def max_keys_number(max_keys: int | None) -> int | None:
    """Check how many keys a namespace may hold."""
    most = check_max_keys(max_keys)
    # The largest number that a message can carry bounds nothing either.
    return None if most is None else min(most, _LARGEST_INT)


def new_token() -> str:
    """Return a random text by which the server knows who holds or computes something."""
    return os.urandom(8).hex()
