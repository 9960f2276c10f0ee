"""Reads that also set the ttl of what they read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis_store.limits import ttl_to_ms
from redis_store.namespace.keys import encode_key
from redis_store.namespace.scope import Scope
from redis_store.ops import batch
from redis_store.ops.run_script import run_write
from redis_store.ops.updates import stored
from redis_store.ops.values import wanted_ttl
from redis_store.scripts import TOUCH
from redis_store.types import Json, Ttl

_COPIED_BYTES = 64 * 1024
"""Values up to this size together come with the script, in bytes; bigger ones are read after it."""

_READ_NOTHING = -1
"""Limit with which the script returns no values, in bytes."""


async def get_touched(scope: Scope, key: str, touch: Ttl, default: Any = None) -> Any:
    """Do `get`, and set the key to expire `touch` from now."""
    return await _get(scope, key, ttl_to_ms(touch), "", default)


async def get_sliding(scope: Scope, key: str, ttl: Ttl = None, default: Any = None) -> Any:
    """Do `get`. If the key has a ttl, it begins anew; None stands for the default of the handle."""
    return await _get(scope, key, wanted_ttl(scope, ttl), "1", default)


async def get_many_sliding(scope: Scope, keys: Iterable[str], ttl: Ttl = None) -> dict[str, Json]:
    """Do `get_many`. The ttls of keys that have one begin anew."""
    scope.check_changeable()
    fields = batch.fields_of(keys)
    scope.bounds.check_names(fields)
    names, ttl_ms = list(fields), wanted_ttl(scope, ttl)
    # The values that several scripts return are no snapshot.
    most_bytes = _COPIED_BYTES if len(names) <= batch.KEYS_PER_SCRIPT else _READ_NOTHING
    texts: list[bytes | None] | None = []
    for start in range(0, len(names), batch.KEYS_PER_SCRIPT):
        texts = await _touch(scope, names[start : start + batch.KEYS_PER_SCRIPT], ttl_ms, "1", most_bytes)
    if texts is None:
        return await batch.get_many(scope, fields.values())
    scope.counters.read_many(texts)
    return scope.codec.decode_found(fields.values(), texts, scope.namespace)


async def _get(scope: Scope, key: str, ttl_ms: int | str, only: str, default: Any) -> Any:
    scope.check_changeable()
    field = encode_key(key)
    found = await _touch(scope, [field], ttl_ms, only)
    text = await stored(scope, field) if found is None else found[0]
    scope.counters.read_many([text])
    return default if text is None else scope.codec.decode(text, scope.namespace, key)


async def _touch(
    scope: Scope, fields: list[bytes], ttl_ms: int | str, only: str, most_bytes: int = _COPIED_BYTES
) -> list[bytes | None] | None:
    """Set the ttl of fields, and return their values, or None if they take more than `most_bytes`."""
    reply: list[bytes | None] | None = await run_write(TOUCH, scope, (ttl_ms, only, most_bytes, *fields))
    return reply
