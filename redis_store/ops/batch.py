"""Operations on many keys at once, each atomic for readers and writers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from redis_store.errors import Conflict, InvalidType, InvalidValue, LimitExceeded, WrongKeyType
from redis_store.limits import TAG_ENTRY_BYTES, UNBOUNDED, too_much_at_once
from redis_store.namespace.keys import NamespaceKeys, encode_key
from redis_store.namespace.scope import Scope, check_value_size
from redis_store.ops.bounds import Bound, bound_of, ending, settled
from redis_store.ops.key_info import key_info
from redis_store.ops.run_script import read_together, run_delete, run_each, run_script, write_transaction
from redis_store.ops.values import check_metadata, encode_metadata, merge_metadata, wanted_ttl
from redis_store.protocol.call import Alone, Call, Op, as_is, watch
from redis_store.protocol.command import Argument, Command
from redis_store.protocol.read import Read
from redis_store.scripts import BOUNDED, BURDEN, CLEAR, DELETE, INFO, METADATA, SIZES, SMALL, WRITE, Script
from redis_store.types import Json, KeyInfo, Ttl

KEYS_PER_SCRIPT = 1000
"""Keys that one script call carries: ``unpack`` fails at 8,000 arguments in the servers' Lua."""

KEYS_PER_READ = 3800
"""Keys that one ``HMGET`` reads, also because of `MOST_ARGUMENTS`; more are read in one transaction."""

INLINE_BYTES = 1024
"""Values up to this size are copied into the change log; a script need not see bigger ones (`scripts/write.lua`)."""

COPIED_BYTES = 64 * 1024
"""Size up to which a text of a batch is copied: where orjson made it, up to 30 KiB stay unused beside it, so that a batch would
take 4 times its memory, and the time to map it."""

SMALL_READ_KEYS = 100
"""A read of more keys than this counts as bulk, so that small calls do not wait behind it."""

MIXED_BYTES = 4 * 1024 * 1024
"""Bytes of a batch from which its big values go beside the script even if it has small ones."""

SMALL_READ_BYTES = 64 * 1024
"""Bytes of values that the script which measures them returns at once."""

INFOS_AT_ONCE = 200
"""Infos that one step reads, which takes the server about a millisecond."""

FREED_AT_ONCE = 64
"""Keys of a namespace up to which a server frees their values at once when it is cleared, and not in the background."""

BATCH_TRIES = 50
"""Limit of tries to store a batch with metadata while other callers write to the same namespace."""


async def get_many(scope: Scope, keys: Iterable[str]) -> dict[str, Json]:
    scope.check_readable()
    fields = fields_of(keys)
    if not fields:
        return {}
    if scope.bounds is not UNBOUNDED:
        scope.bounds.check_names(fields)
        size_bytes, found, _ = await run_script(
            SIZES, (scope.keys.data,), (SMALL_READ_BYTES, "", *fields), repeatable=True
        )
        if found:
            return _got_many(scope, fields.values(), None, found)
        scope.bounds.check_read(len(fields), size_bytes)
    if len(fields) <= KEYS_PER_READ:
        texts = await Call((("HMGET", scope.keys.data, *fields),), as_is, True, len(fields) > SMALL_READ_KEYS)
    else:
        parts: list[Command] = [("HMGET", scope.keys.data, *part) for part in _parts(list(fields), KEYS_PER_READ)]
        texts = [text for found in await read_together(parts) for text in found]
    return _got_many(scope, fields.values(), None, texts)


def _got_many(scope: Scope, keys: Collection[str], default: None, texts: list[bytes | None]) -> dict[str, Json]:
    scope.counters.read_many(texts)
    return scope.codec.decode_found(keys, texts, scope.namespace)


def _got_many_again(scope: Scope, keys: Collection[str], default: None, kept: list[Any]) -> dict[str, Json]:
    texts, counters = [each.text for each in kept], scope.counters
    missing = texts.count(None)
    counters.near_hits += len(texts)
    counters.misses += missing
    counters.hits += len(texts) - missing
    return scope.codec.decode_found(keys, texts, scope.namespace)


GET_MANY: Read[dict[str, Json]] = Read(
    lambda scope, keys, default: get_many(scope, keys), _got_many_again, _got_many, many=True
)


async def infos(scope: Scope, keys: Iterable[str]) -> dict[str, KeyInfo]:
    """Return the infos of those keys that exist, each as it was at one moment."""
    scope.check_readable()
    fields = fields_of(keys)
    scope.bounds.check_names(fields)
    found: dict[str, KeyInfo] = {}
    size_bytes = 0
    names = list(fields)
    for start in range(0, len(names), INFOS_AT_ONCE):
        part = names[start : start + INFOS_AT_ONCE]
        replies = await run_each(INFO, [((scope.keys.data, scope.keys.info), (field,)) for field in part])
        for field, reply in zip(part, replies, strict=True):
            if reply is not None:
                size, text, expires_ms = reply
                size_bytes += len(text or b"")
                found[fields[field]] = key_info(fields[field], text, size, expires_ms)
        if size_bytes > scope.max_read_bytes:
            raise too_much_at_once(scope.max_read_bytes)
    return found


async def delete_many(scope: Scope, keys: Iterable[str], tx: str) -> int:
    scope.check_writable()
    fields = list(fields_of(keys))
    if not fields:
        return 0
    if scope.bounds is not UNBOUNDED:
        scope.bounds.check_names(fields)
        await check_burden(scope, {}, {scope.keys: fields})
    return int(await run_delete(DELETE, scope, (tx, *fields)))


async def clear(scope: Scope) -> int:
    scope.check_writable()
    if scope.bounds is not UNBOUNDED:
        count, memory_bytes, _ = await run_script(SMALL, (scope.keys.data,), ("keys", 0, 0), repeatable=True)
        scope.bounds.check_burden(0, memory_bytes if 1 < count <= FREED_AT_ONCE else 0)
    return int(await run_delete(CLEAR, scope, ()))


async def check_burden(
    scope: Scope, written: Mapping[NamespaceKeys, list[bytes]], deleted: Mapping[NamespaceKeys, list[bytes]]
) -> None:
    """Raise `LimitExceeded` if several fields, by namespace, hold too much already to be written or deleted by one call."""
    if scope.bounds is UNBOUNDED or sum(map(len, (*written.values(), *deleted.values()))) < 2:
        return
    calls: list[tuple[tuple[bytes, ...], tuple[Argument, ...]]] = [
        ((keys.data, keys.info), (most_bytes, len(keys.name) + TAG_ENTRY_BYTES, *part))
        for group, most_bytes in ((written, scope.bounds.info_bytes), (deleted, 0))
        for keys, fields in group.items()
        for part in _parts(fields, KEYS_PER_SCRIPT)
    ]
    try:
        moved, freed = map(sum, zip(*await run_each(BURDEN, calls), strict=True))
    except WrongKeyType:
        return  # the call itself will say which key it is
    scope.bounds.check_burden(moved, freed)


def set_many(
    scope: Scope,
    items: Mapping[str, Any],
    metadata: dict[str, Json] | None,
    ttl: Ttl,
    tx: str,
) -> Op[int] | Alone[int]:
    """Return the operation that stores a batch; with metadata it needs a connection of its own."""
    if metadata:
        return Alone(lambda: _set_many_with_metadata(scope, items, metadata, ttl, tx))
    check_metadata(metadata)
    return _set_many(scope, items, ttl, tx)


async def _set_many(scope: Scope, items: Mapping[str, Any], ttl: Ttl, tx: str) -> int:
    scope.check_writable()
    ttl_ms = wanted_ttl(scope, ttl)
    texts = _texts(scope, items)
    if not texts:
        return 0
    await check_burden(scope, {scope.keys: list(texts)}, {})
    size_bytes = sum(map(len, texts.values()))
    small = {field: text for field, text in texts.items() if len(text) <= INLINE_BYTES}
    beside = (
        ttl_ms == ""
        and scope.max_keys is None
        and (not small or size_bytes > min(MIXED_BYTES, scope.bounds.script_bytes))
    )
    for _ in range(1 if size_bytes <= scope.bounds.script_bytes else BATCH_TRIES):
        if beside and await _set_beside_script(scope, small, texts, tx):
            scope.counters.bytes_written += size_bytes
            return len(texts)
    scope.bounds.check_script(size_bytes)
    flat = _flat(texts)
    parts = list(_parts(flat, 2 * KEYS_PER_SCRIPT))
    await _write_parts(scope, tx, parts, ttl_ms, "keep", texts)
    scope.counters.bytes_written += size_bytes
    return len(texts)


async def _set_beside_script(scope: Scope, small: dict[bytes, bytes], texts: dict[bytes, bytes], tx: str) -> bool:
    """Store big values by plain commands beside a script, which would copy each of them in and out; `small` ones go through it.

    One round trip, except for a store's first such call, and all or nothing as always. Return False if another caller wrote to
    the namespace meanwhile, or the login lacks a right; then the caller stores the batch by the script.
    """
    big = {field: text for field, text in texts.items() if field not in small}
    parts = [*_parts(_flat(small), 2 * KEYS_PER_SCRIPT)]
    modes = ["keep"] * len(parts)
    parts += _parts(list(big), KEYS_PER_SCRIPT)
    modes += ["beside"] * (len(parts) - len(modes))
    values = _parts(_flat(big), 2 * KEYS_PER_SCRIPT)
    commands: list[Command] = []
    for mode, script in zip(
        modes, _commands(WRITE, scope.script_keys, _arguments(scope, tx, parts, "", modes)), strict=True
    ):
        commands.append(script)
        if mode == "beside":
            commands.append(("HSET", scope.keys.data, *next(values)))
    return await write_transaction(scope, commands, checked=True) is not None


def _flat(texts: dict[bytes, bytes]) -> list[bytes]:
    return [part for pair in texts.items() for part in pair]


async def _set_many_with_metadata(
    scope: Scope, items: Mapping[str, Any], metadata: dict[str, Json], ttl: Ttl, tx: str
) -> int:
    scope.check_writable()
    ttl_ms = wanted_ttl(scope, ttl)
    added = encode_metadata(scope, metadata)
    texts = _texts(scope, items)
    if not texts:
        return 0
    scope.bounds.check_script(sum(map(len, texts.values())) + len(texts) * len(added))
    await check_burden(scope, {scope.keys: list(texts)}, {})
    field_parts = list(_parts(list(texts), KEYS_PER_SCRIPT))
    for _ in range(BATCH_TRIES):
        # One script compares the old metadata itself; one of several could refuse after another has written.
        if len(field_parts) > 1:
            await watch(scope.keys.data, scope.keys.info)
        parts = [await _with_merged_metadata(scope, fields, texts, added) for fields in field_parts]
        replies = await _write_parts(scope, tx, parts, ttl_ms, "put", texts)
        if replies is not None and all(reply == 1 for reply in replies):
            scope.counters.bytes_written += sum(map(len, texts.values()))
            return len(texts)
    raise Conflict(
        f"Namespace {scope.namespace!r} was written to by others at each of {BATCH_TRIES} tries to store a batch with"
        " metadata: nothing was written. Try again, or store smaller batches."
    )


async def _with_merged_metadata(
    scope: Scope, fields: list[bytes], texts: dict[bytes, bytes], added: bytes
) -> list[bytes]:
    known = await run_script(METADATA, (scope.keys.data, scope.keys.info), tuple(fields), repeatable=True)
    return [
        part
        for field, old in zip(fields, known, strict=True)
        for part in (field, texts[field], merge_metadata(scope, old, added), old)
    ]


async def _write_parts(
    scope: Scope, tx: str, parts: list[list[bytes]], ttl_ms: int | str, mode: str, stay: Collection[bytes]
) -> list[Any] | None:
    """Write all parts in one transaction; in a namespace with a bound, the last part evicts other keys."""
    arguments, bound = _arguments(scope, tx, parts, ttl_ms, [mode] * len(parts)), bound_of(scope, stay)
    if bound is None:
        return await write_transaction(scope, _commands(WRITE, scope.script_keys, arguments))
    bound.check_room(scope.namespace)
    replies = await write_transaction(scope, _bounded_commands(scope.script_keys, arguments, bound))
    if replies is not None:
        replies[-1] = await settled(scope, replies[-1], bound)
    return replies


def _arguments(
    scope: Scope, tx: str, parts: list[list[bytes]], ttl_ms: int | str, modes: list[str]
) -> list[tuple[Argument, ...]]:
    """Return the script's arguments for each part."""
    heads, agent = _heads(scope, tx, len(parts)), scope.writer.author
    return [(*head, agent, ttl_ms, mode, *part) for head, mode, part in zip(heads, modes, parts, strict=True)]


def _commands(script: Script, keys: tuple[bytes, ...], arguments: list[tuple[Argument, ...]]) -> list[Command]:
    """Return the commands of a transaction. The first carries the script's text, so that the digests after it are known.

    A part with many arguments is run by another form of the script, which has a text of its own.
    """
    commands = [script.by_digest(keys, part) for part in arguments]
    known = set()
    for at, command in enumerate(commands):
        if command[1] not in known:
            known.add(command[1])
            commands[at] = script.by_text(keys, arguments[at])
    return commands


def _bounded_commands(keys: tuple[bytes, ...], arguments: list[tuple[Argument, ...]], bound: Bound) -> list[Command]:
    *others, last = arguments
    evicting = BOUNDED[WRITE.name].by_text(keys, (*last, *ending(*bound.arguments())))
    return [*(_commands(WRITE, keys, others) if others else ()), evicting]


def _heads(scope: Scope, tx: str, parts: int) -> Iterator[tuple[Argument, ...]]:
    """Yield the start of each part's arguments. In the log, `tx` identifies the parts of one transaction."""
    if parts == 1:
        yield scope.script_head
        return
    name, _, *bounds = scope.script_head
    for part in range(1, parts + 1):
        yield name, f'{scope.writer.log_head}"tx":["{tx}",{part},{parts}],', *bounds


def _parts(items: list[bytes], size: int) -> Iterator[list[bytes]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def fields_of(keys: Iterable[str]) -> dict[bytes, str]:
    """Check the keys of a batch and return their fields, each once, in the order given."""
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable):
        raise InvalidType(f"Keys must be a list of str, not {type(keys).__name__}: put a single key in a list.")
    return {encode_key(key): key for key in keys}


def _texts(scope: Scope, items: Mapping[str, Any]) -> dict[bytes, bytes]:
    """Check a whole batch before anything is sent, and return its fields and JSON texts."""
    if not isinstance(items, Mapping):
        raise InvalidType(f"A batch must be a dict of keys and values, not {type(items).__name__}.")
    scope.bounds.check_keys(len(items))
    encode, limit_bytes = scope.codec.encode, scope.limits.max_value_bytes
    texts = {}
    total_bytes = 0
    for key, value in items.items():
        field = encode_key(key)
        try:
            text = encode(value)
        except InvalidValue as error:
            raise InvalidValue(f"Under the key {key!r}: {error}", path=error.path, key=key) from None
        if len(text) > limit_bytes:
            check_value_size(text, limit_bytes, field)
        if text is not value and len(text) < COPIED_BYTES:
            text = b"%b" % text
        texts[field] = scope.codec.packing.pack(text)
        total_bytes += len(field) + len(text)
    if scope.bounds is not UNBOUNDED:
        scope.bounds.check_names(texts)
        scope.bounds.check_batch(len(texts), total_bytes)
    check_batch_size(scope, total_bytes)
    return texts


def check_batch_size(scope: Scope, total_bytes: int) -> None:
    """Raise `LimitExceeded` if a batch takes too many bytes."""
    if total_bytes > scope.limits.max_batch_bytes:
        raise LimitExceeded(
            f"The batch takes {total_bytes:,} bytes, and at most {scope.limits.max_batch_bytes:,} are allowed: store it in"
            " parts, or raise max_batch_bytes.",
            limit="max_batch_bytes",
            limit_bytes=scope.limits.max_batch_bytes,
            size_bytes=total_bytes,
        )
