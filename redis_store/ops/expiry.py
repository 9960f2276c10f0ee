"""Operations on how long a key lives."""

from __future__ import annotations

from datetime import timedelta

from redis_store.namespace.keys import encode_key
from redis_store.namespace.scope import Scope
from redis_store.ops.script import run_write
from redis_store.ops.values import ttl_to_ms
from redis_store.scripts import EXPIRE


async def expire(scope: Scope, key: str, ttl: float | timedelta) -> bool:
    field, ttl_ms = encode_key(key), ttl_to_ms(ttl)
    return bool(await run_write(EXPIRE, scope, (field, ttl_ms)))


async def persist(scope: Scope, key: str) -> bool:
    return bool(await run_write(EXPIRE, scope, (encode_key(key), "")))
