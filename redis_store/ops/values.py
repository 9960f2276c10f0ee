"""Operations on one key: read, write, delete, expiry, and info."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from redis_store.errors import Conflict, InvalidType, LimitExceeded, WrongKeyType
from redis_store.limits import ttl_to_ms
from redis_store.namespace.keys import decode_name, encode_key
from redis_store.namespace.scope import Scope
from redis_store.ops.bounds import run_put
from redis_store.ops.run_script import run_delete, run_script, run_write, write_transaction
from redis_store.protocol.call import Call, as_is, read
from redis_store.protocol.command import Argument, Command, Opening
from redis_store.protocol.error_replies import ScriptMissing
from redis_store.protocol.packing import opening
from redis_store.protocol.read import Read
from redis_store.scripts import DELETE, EXPIRE, INFO, SET, WRITE
from redis_store.types import NEVER, Json, KeyInfo, Ttl
from redis_store.values import rules
from redis_store.values.codec import VALUES

_YEAR_9999_MS = 253_370_764_800_000
"""Start of the year 9999, the last that a datetime can represent, in ms since 1970."""

BESIDE_BYTES = 128 * 1024
"""Size of a value, in bytes, from which storing it beside the script saves the server more than the checks for it cost."""

MERGE_TRIES = 100
"""Limit of tries to write with metadata while other callers change the metadata of the same key."""


async def get(scope: Scope, key: str, default: Any = None) -> Any:
    return _got(scope, key, default, await _call_of_get(scope, key))


def _call_of_get(scope: Scope, key: str) -> Call[bytes | None]:
    if not scope.readable:
        scope.check_readable()
    field = encode_key(key)
    return Call(((_opening_of_get(scope.keys.data), field),), as_is, True)


def _got(scope: Scope, key: str, default: Any, text: bytes | None) -> Any:
    counters = scope.counters  # counted here, because calling `read` would be measurably slower
    if text is None:
        counters.misses += 1
        return default
    counters.hits += 1
    counters.bytes_read += len(text)
    return scope.codec.decode(text, scope.namespace, key)


def _got_again(scope: Scope, key: str, default: Any, kept: Any) -> Any:
    counters = scope.counters
    counters.near_hits += 1
    if kept.text is None:
        counters.misses += 1
        return default
    counters.hits += 1
    return scope.codec.decode_kept(kept, scope.namespace, key)


GET: Read[Any] = Read(get, _got_again, _got, call=_call_of_get)
"""`get` for drivers with a near cache."""


async def contains(scope: Scope, key: str) -> bool:
    scope.check_readable()
    field = encode_key(key)
    return bool(await read("HEXISTS", scope.keys.data, field))


def _contained(scope: Scope, key: str, default: None, kept: Any) -> bool:
    return kept.text is not None


CONTAINS: Read[bool] = Read(lambda scope, key, default: contains(scope, key), _contained, None)


async def count(scope: Scope) -> int:
    scope.check_readable()
    return int(await read("HLEN", scope.keys.data))


async def set_value(
    scope: Scope,
    key: str,
    value: Any,
    metadata: dict[str, Json] | None = None,
    ttl: Ttl = None,
) -> None:
    scope.check_writable()
    field = encode_key(key)
    text = scope.packed(scope.codec.encode(value), field)
    scope.bounds.check_script(len(text))
    if not metadata:
        check_metadata(metadata)
        ttl_ms = "" if ttl is None and scope.ttl_ms is None else wanted_ttl(scope, ttl)
        done = 0
        if ttl_ms == "":
            try:
                if len(text) >= BESIDE_BYTES and await _set_beside_script(scope, field, text):
                    done = 1
                elif scope.max_keys is None:
                    opening = _opening_of_set(scope.script_keys, scope.script_head, scope.writer.agent_json)
                    done = await Call(((opening, field, text),), as_is)
                else:
                    done = await run_put(SET, scope, (scope.writer.agent_json, field, text), field)
            except (ScriptMissing, WrongKeyType):
                # Neither error follows a write. The retry sends the script's text, or finds the key of the wrong type.
                done = await run_put(SET, scope, (scope.writer.agent_json, field, text), field)
        if done == 0:  # it is to expire, or the key has tags
            await run_put(WRITE, scope, (scope.writer.agent_json, ttl_ms, "keep", field, text), field)
        scope.counters.bytes_written += len(text)
        return
    head = (scope.writer.agent_json, wanted_ttl(scope, ttl), "put", field, text)
    added = encode_metadata(scope, metadata)
    expected, merged = b"", added
    for _ in range(MERGE_TRIES):
        reply = await run_put(WRITE, scope, (*head, merged, expected), field)
        if reply == 1:
            scope.counters.bytes_written += len(text)
            return
        expected = reply[1]
        merged = merge_metadata(scope, expected, added)
    raise Conflict(
        f"The metadata of {key!r} was changed by others at each of {MERGE_TRIES} tries: nothing was written."
    )


async def _set_beside_script(scope: Scope, field: bytes, text: bytes) -> bool:
    """Store a big value by a plain command, as `batch.set_many` does; False if nothing was written."""
    if scope.max_keys is not None:
        return False
    script = _opening_of_beside(scope.script_keys, scope.script_head, scope.writer.agent_json)
    commands: list[Command] = [(script, field), ("HSET", scope.keys.data, field, text)]
    return await write_transaction(scope, commands, checked=True) is not None


async def delete(scope: Scope, key: str) -> bool:
    scope.check_writable()
    field = encode_key(key)
    try:
        return bool(await Call(((_opening_of_delete(scope.delete_keys, scope.script_head), b"", field),), as_is))
    except (ScriptMissing, WrongKeyType):  # as in `set_value`
        return bool(await run_delete(DELETE, scope, ("", field)))


@lru_cache(maxsize=1024)
def _opening_of_get(data: bytes) -> Opening:
    """Return the packed start of the most frequent read, up to its field."""
    return opening("HGET", data, keys=(data,))


@lru_cache(maxsize=1024)
def _opening_of_set(keys: tuple[bytes, ...], head: tuple[Argument, ...], agent_json: str) -> Opening:
    """Return the packed start of the most frequent write, up to its field and value."""
    return SET.opening(keys, (*head, agent_json))


@lru_cache(maxsize=128)
def _opening_of_beside(keys: tuple[bytes, ...], head: tuple[Argument, ...], agent_json: str) -> Opening:
    """Return the packed start of the script beside a big value, up to its field."""
    return WRITE.opening_by_text(keys, (*head, agent_json, "", "beside"))


@lru_cache(maxsize=1024)
def _opening_of_delete(keys: tuple[bytes, ...], head: tuple[Argument, ...]) -> Opening:
    """Return the packed start of the most frequent delete, up to its transaction id, which is empty, and its field."""
    return DELETE.opening(keys, head)


async def info(scope: Scope, key: str) -> KeyInfo | None:
    scope.check_readable()
    field = encode_key(key)
    reply = await run_script(INFO, (scope.keys.data, scope.keys.info), (field,), repeatable=True)
    if reply is None:
        return None
    size, text, expires_ms = reply
    return _key_info(decode_name(field), text, size, expires_ms)


def wanted_ttl(scope: Scope, ttl: Ttl) -> int | str:
    """Return the time to live of something written now, in ms, or '' for none."""
    if ttl is None:
        return "" if scope.ttl_ms is None else scope.ttl_ms
    return "" if ttl is NEVER else ttl_to_ms(ttl)


def check_metadata(metadata: object) -> None:
    """Raise `InvalidType` if metadata is neither a dict nor None."""
    if metadata is not None and not isinstance(metadata, dict):
        raise InvalidType(f"Metadata must be a dict or None, not {type(metadata).__name__}.")


def encode_metadata(scope: Scope, metadata: dict[str, Json]) -> bytes:
    """Check metadata and return its JSON text."""
    check_metadata(metadata)
    return _bounded(scope.limits.max_metadata_bytes, VALUES.encode(metadata))


def merge_metadata(scope: Scope, old: bytes, added: bytes) -> bytes:
    """Return the JSON text of old metadata updated with the added entries, within the limit."""
    if not old:
        return added
    known = _load_object(old)
    return _bounded(scope.limits.max_metadata_bytes, VALUES.encode({**known, **_load_object(added)}))


def _bounded(limit_bytes: int, text: bytes) -> bytes:
    if len(text) > limit_bytes:
        raise LimitExceeded(
            f"The metadata takes {len(text):,} bytes as JSON, and at most {limit_bytes:,} are allowed: store it as a value.",
            limit="max_metadata_bytes",
            limit_bytes=limit_bytes,
            size_bytes=len(text),
        )
    return text


def _load_object(text: bytes) -> dict[str, Json]:
    try:
        known = rules.load(text)
    except (ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _key_info(key: str, text: bytes | None, size: int, expires_ms: int) -> KeyInfo:
    known = _load_object(text or b"{}")
    created = _time(known.get("created"))
    by = _name(known.get("by"))
    metadata = known.get("metadata")
    return KeyInfo(
        key=key,
        created_at=created,
        created_by=by,
        updated_at=_time(known.get("updated")) or created,
        updated_by=_name(known["updated_by"]) if "updated_by" in known else by,
        metadata=metadata if isinstance(metadata, dict) else {},
        size=size,
        expires_at=_time(expires_ms),
    )


def _time(ms: object) -> datetime | None:
    """Convert a time of the server; None if it is not one (from an external write, or a negative reply)."""
    if type(ms) is not int or not 0 < ms < _YEAR_9999_MS:
        return None
    return datetime.fromtimestamp(ms / 1000, UTC)


def _name(name: object) -> str | None:
    return name if isinstance(name, str) else None


async def expire(scope: Scope, key: str, ttl: float | timedelta) -> bool:
    scope.check_changeable()
    field, ttl_ms = encode_key(key), ttl_to_ms(ttl)
    return bool(await run_write(EXPIRE, scope, (field, ttl_ms)))


async def persist(scope: Scope, key: str) -> bool:
    scope.check_changeable()
    return bool(await run_write(EXPIRE, scope, (encode_key(key), "")))
