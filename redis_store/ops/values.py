"""Operations on one key: read, write, delete, expiry, and info."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import lru_cache
from typing import Any

from redis_store.errors import Conflict, InvalidType, LimitExceeded, WrongKeyType
from redis_store.flows.optimistic import other_version
from redis_store.limits import check_version, ttl_to_ms
from redis_store.namespace.keys import decode_name, encode_key
from redis_store.namespace.scope import Scope
from redis_store.ops.bounds import bound_of, ending, run_put, settled
from redis_store.ops.key_info import key_info, load_object, version_of
from redis_store.ops.run_script import run_delete, run_script, run_write, write_transaction
from redis_store.protocol.call import Call, as_is, read
from redis_store.protocol.command import Argument, Command, Opening
from redis_store.protocol.error_replies import ScriptMissing
from redis_store.protocol.packing import opening
from redis_store.protocol.read import Read
from redis_store.scripts import BOUNDED, DELETE, EXPIRE, IF_VERSION, INFO, SET, SET_BESIDE, WRITE, Script
from redis_store.types import NEVER, Json, KeyInfo, Ttl
from redis_store.values.codec import VALUES

BESIDE_BYTES = 128 * 1024
BESIDE_BYTES_ON_REDIS = 64 * 1024
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
                if len(text) >= BESIDE_BYTES_ON_REDIS and await _set_beside_script(scope, field, text):
                    done = 1
                elif scope.max_keys is None:
                    opening = _opening_of_set(scope.script_keys, scope.script_head, scope.writer.author)
                    done = await Call(((opening, field, text),), as_is)
                else:
                    done = await run_put(SET, scope, (scope.writer.author, field, text), field)
            except (ScriptMissing, WrongKeyType):
                # Neither error follows a write. The retry sends the script's text, or finds the key of the wrong type.
                done = await run_put(SET, scope, (scope.writer.author, field, text), field)
        if done == 0:  # it is to expire, or the key has tags
            await run_put(WRITE, scope, (scope.writer.author, ttl_ms, "keep", field, text), field)
        scope.counters.bytes_written += len(text)
        return
    await _put_merging(scope, key, text, metadata, ttl, lambda arguments: run_put(WRITE, scope, arguments, field))


async def set_if_version(
    scope: Scope, key: str, value: Any, metadata: dict[str, Json] | None, ttl: Ttl, version: int
) -> None:
    """Store a value if the key has this version, 0 for a missing key. Otherwise raise `Conflict`."""
    scope.check_changeable()
    check_version(version)
    field = encode_key(key)
    text = scope.packed(scope.codec.encode(value), field)
    scope.bounds.check_script(len(text))
    if metadata:
        await _put_merging(
            scope, key, text, metadata, ttl, lambda arguments: _if_version(WRITE, scope, arguments, key, version)
        )
        return
    check_metadata(metadata)
    arguments = (scope.writer.author, wanted_ttl(scope, ttl), "keep", field, text)
    await _if_version(WRITE, scope, arguments, key, version)
    scope.counters.bytes_written += len(text)


async def delete_if_version(scope: Scope, key: str, version: int) -> bool:
    """Delete a key if it has this version; with 0, return False if it is missing. Otherwise raise `Conflict`."""
    scope.check_changeable()
    return bool(await _if_version(DELETE, scope, ("", encode_key(key)), key, check_version(version)))


async def _if_version(script: Script, scope: Scope, arguments: tuple[Argument, ...], key: str, version: int) -> Any:
    """Run a script that writes one field if the field has a version. Otherwise raise `Conflict`."""
    field = encode_key(key)
    bound = None if script is DELETE else bound_of(scope, (field,))
    if bound is not None:
        script, arguments = BOUNDED[script.name], (*arguments, *ending(*bound.arguments()))
    reply = await run_delete(IF_VERSION[script.name], scope, (*arguments, field, version))
    if isinstance(reply, list) and reply[0] == b"version":
        raise other_version(scope.namespace, key, version, version_of(reply[1]))
    return reply if bound is None else await settled(scope, reply, bound)


async def _put_merging(
    scope: Scope,
    key: str,
    text: bytes,
    metadata: dict[str, Json],
    ttl: Ttl,
    put: Callable[[tuple[Argument, ...]], Awaitable[Any]],
) -> None:
    """Store a value with metadata, merged into what the key has: `put` runs the script with its arguments."""
    head = (scope.writer.author, wanted_ttl(scope, ttl), "put", encode_key(key), text)
    added = encode_metadata(scope, metadata)
    expected, merged = b"", added
    for _ in range(MERGE_TRIES):
        reply = await put((*head, merged, expected))
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
    if scope.max_keys is not None or not (len(text) >= BESIDE_BYTES or scope.user.form.is_redis):
        return False
    script = _opening_of_beside(scope.script_keys, scope.script_head, scope.writer.author)
    commands: list[Command] = [(script, field), ("HSET", scope.keys.data, field, text)]
    return await write_transaction(scope, commands, checked=True, untagged=field) is not None


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
    return SET_BESIDE.opening_by_text(keys, (*head, agent_json))


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
    return key_info(decode_name(field), text, size, expires_ms)


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
    known = load_object(old)
    return _bounded(scope.limits.max_metadata_bytes, VALUES.encode({**known, **load_object(added)}))


def _bounded(limit_bytes: int, text: bytes) -> bytes:
    if len(text) > limit_bytes:
        raise LimitExceeded(
            f"The metadata takes {len(text):,} bytes as JSON, and at most {limit_bytes:,} are allowed: store it as a value.",
            limit="max_metadata_bytes",
            limit_bytes=limit_bytes,
            size_bytes=len(text),
        )
    return text


async def expire(scope: Scope, key: str, ttl: float | timedelta) -> bool:
    scope.check_changeable()
    field, ttl_ms = encode_key(key), ttl_to_ms(ttl)
    return bool(await run_write(EXPIRE, scope, (field, ttl_ms)))


async def persist(scope: Scope, key: str) -> bool:
    scope.check_changeable()
    return bool(await run_write(EXPIRE, scope, (encode_key(key), "")))
