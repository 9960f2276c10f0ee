"""Operations that read a namespace or the list of namespaces, whole or page by page, without blocking the server for long."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import blake2b

from redis_store.errors import PermissionDenied, ServerRefused, StoreUnavailable, UnsupportedByServer
from redis_store.limits import UNBOUNDED, check_cursor, too_much_at_once
from redis_store.namespace.keys import decode_names, encode_prefix, glob_for_prefix
from redis_store.namespace.scope import Scope
from redis_store.ops.run_script import run_each, run_script
from redis_store.protocol.call import Alone, Call, as_is, read, transaction, watch
from redis_store.protocol.command import Command
from redis_store.scripts import EMPTY, PRUNE, SCAN_KEYS, SIZES, SMALL
from redis_store.types import Json

SNAPSHOT_KEYS = 10_000
SNAPSHOT_BYTES = 16 * 1024 * 1024
"""Limits of a namespace that is read in one reply, as a snapshot, in keys and bytes of memory."""

TINY_KEYS = 500
"""Limit of a namespace that a script reads, in keys: copying the reply through Lua costs less than another round trip."""

PAGE_KEYS = 500
PAGE_BYTES = 1024 * 1024
"""Size of a page of values, in keys; with big values a page has fewer keys, about `PAGE_BYTES` of them."""

LISTING_PAGE_KEYS = 2000
"""Size of a page of keys, which takes the server 0.3 ms; `PAGE_KEYS` if keys may be long."""

FEW_KEYS = 500
"""Limit of a namespace whose names are read whole for each page of its big values, in keys."""

BIG_PAGE_KEYS = 16
"""Size of a page, in keys, up to which the few values of a namespace are so big that the host's stores measure them too."""

PART_BYTES = 2 * PAGE_BYTES
"""Limit of values that a script measures and reads, in bytes; it copies them, and those of a page are about half of it."""

MATCH_BYTES = 16 * 1024 * 1024
"""Bytes of names that one step compares with a prefix, at most, which takes the server 30 ms."""

NAMES_PER_COUNT = 70
"""Names that a server compares for a ``COUNT`` of 1, at most: 10 buckets of 7, if none matches."""

SNAPSHOT_TRIES = 3
"""Limit of tries to read a big namespace as a snapshot while other callers write to it."""

FIELD_BYTES = 64
"""Bytes that a name or a value counts beside its own, for a reader with a bound: its reader has to keep and sort them."""

NAMESPACES_PER_SCRIPT = 500
NAMESPACES_PER_TRIP = 10_000
REGISTRY_PAGE = 20_000
"""Buckets of the registry's table per page: enough for 10,000 namespaces in one round trip."""

_HASHES_THAT_EXPIRE = re.compile(rb"(?:subexpiry|keys_with_volatile_items)=(\d+)")
"""The number of hashes in a database that have fields with a time to live, as Redis and Valkey name it in ``INFO``."""

START = "0"
"""The cursor of the first page; the last page returns it as the next cursor."""

_FIRST_PLACE = 1 << 62
"""The first cursor that is a place in the order of `_place`. Cursors of ``HSCAN`` are less than the size of a table."""

Page = Callable[[Scope, str, str, int], Awaitable[tuple[str, list[bytes]]]]
"""Returns the next cursor, and fields, or fields and values in turn. A field may appear in two pages."""


def list_keys(scope: Scope, prefix: str | None = None) -> Alone[list[str]]:
    wanted = encode_prefix(prefix)
    return Alone(lambda: _list_keys(scope, wanted))


def get_all(scope: Scope, prefix: str | None = None) -> Alone[dict[str, Json]]:
    wanted = encode_prefix(prefix)
    return Alone(lambda: _get_all(scope, wanted))


async def scan_page(scope: Scope, cursor: str = START, prefix: str | None = None) -> tuple[str, list[str]]:
    """Return one page of keys, and the cursor of the next; after the last page it is `START`."""
    scope.check_readable()
    check_cursor(cursor)
    following, page = await _key_page(scope, cursor, encode_prefix(prefix), PAGE_KEYS)
    return following, decode_names(dict.fromkeys(page))


async def scan_items_page(
    scope: Scope, cursor: str = START, prefix: str | None = None, page_keys: int | None = None
) -> tuple[str, dict[str, Json]]:
    """Return one page of keys and values, and the cursor of the next; after the last page it is `START`.

    Without `page_keys` the size of a page is asked for first, which costs another round trip.
    """
    scope.check_readable()
    check_cursor(cursor)
    wanted = encode_prefix(prefix)
    following, page = await item_page(scope, cursor, wanted, page_keys or await page_size(scope))
    return following, _decoded(scope, page)


async def page_size(scope: Scope) -> int:
    """Return how many keys of this namespace make a page of values of moderate size."""
    scope.check_readable()
    fields, memory_bytes, _ = await run_script(SMALL, (scope.keys.data,), ("keys", 0, 0), repeatable=True)
    return page_size_of(fields, memory_bytes)


async def memory_bytes(scope: Scope) -> int:
    """Return how much memory the namespace's data takes in the server, without the info about its keys."""
    scope.check_readable()
    _, memory, _ = await run_script(SMALL, (scope.keys.data,), ("keys", 0, 0), repeatable=True)
    if memory < 0:
        raise UnsupportedByServer("The server does not report how much memory a key takes (MEMORY USAGE).")
    return int(memory)


async def list_namespaces(scope: Scope, prefix: str | None = None) -> list[str]:
    """Return the namespaces that hold data and may be read."""
    wanted = encode_prefix(prefix).encode()
    names = sorted(await _registered(scope))
    if wanted:
        names = [name for name in names if name.startswith(wanted)]
    empty: set[bytes] = set()
    for start in range(0, len(names), NAMESPACES_PER_TRIP):
        empty |= await _empty(scope, names[start : start + NAMESPACES_PER_TRIP])
    holding = sorted(decode_names([name for name in names if name not in empty] if empty else names))
    if scope.access.is_everything:
        if empty:
            await _prune(scope, sorted(empty)[:NAMESPACES_PER_SCRIPT])
        return holding
    return [name for name in holding if scope.access.may_read(name)]


async def namespaces_page(scope: Scope, cursor: str) -> tuple[str, list[str]]:
    """Return the next cursor, and a page of the namespaces that hold data. Prunes none; a name may come twice."""
    raw, names = await read("SSCAN", scope.keys.registry, cursor, "COUNT", NAMESPACES_PER_SCRIPT, bulk=True)
    empty = await _empty(scope, names) if names else set()
    return raw.decode(), decode_names([name for name in names if name not in empty])


async def _list_keys(scope: Scope, prefix: str) -> list[str]:
    scope.check_readable()
    fields, memory_bytes, whole = await _small(scope, "keys")
    at_once = fields <= SNAPSHOT_KEYS and memory_bytes <= SNAPSHOT_BYTES
    if whole is None and at_once and not prefix:
        whole = await read("HKEYS", scope.keys.data, bulk=True)
    # A table has up to twice as many buckets as fields, so this page covers all of them.
    page_keys = 2 * SNAPSHOT_KEYS if at_once else _listing_page_size(fields, memory_bytes)
    found = whole if whole is not None else dict.fromkeys(await one_moment(scope, _key_page, prefix, page_keys))
    keys = decode_names(found)
    return sorted([key for key in keys if key.startswith(prefix)] if prefix else keys)


async def _get_all(scope: Scope, prefix: str) -> dict[str, Json]:
    scope.check_readable()
    count, memory_bytes, flat = await _small(scope, "items")
    if flat is None and count <= SNAPSHOT_KEYS and 0 <= memory_bytes <= SNAPSHOT_BYTES:
        flat = await read("HGETALL", scope.keys.data, bulk=True)
    if flat is None:
        flat = await one_moment(scope, item_page, prefix, page_size_of(count, memory_bytes))
    fields, texts = flat[::2], flat[1::2]
    if prefix:
        start = prefix.encode()
        texts = [text for field, text in zip(fields, texts, strict=True) if field.startswith(start)]
        fields = [field for field in fields if field.startswith(start)]
    return scope.codec.decode_found(decode_names(fields), texts, scope.namespace)


async def _small(scope: Scope, what: str) -> tuple[int, int, list[bytes] | None]:
    fields, memory_bytes, whole = await run_script(
        SMALL, (scope.keys.data,), (what, TINY_KEYS, SNAPSHOT_BYTES), repeatable=True, bulk=True
    )
    return fields, memory_bytes, whole


async def one_moment(scope: Scope, page: Page, prefix: str, page_keys: int) -> list[bytes]:
    """Read all pages as one snapshot: again if another caller wrote meanwhile.

    After `SNAPSHOT_TRIES` tries only each key by itself is consistent.
    """
    found: list[bytes] = []
    for _ in range(SNAPSHOT_TRIES):
        await watch(scope.keys.data)
        found = []
        size = 0
        cursor = START
        while True:
            cursor, more = await page(scope, cursor, prefix, page_keys)
            found += more
            size += sum(map(len, more)) + FIELD_BYTES * len(more)
            _check_read_size(scope, size)
            if cursor == START:
                break
        if await transaction([]) is not None:
            break
    return found


async def _key_page(scope: Scope, cursor: str, prefix: str, page_keys: int) -> tuple[str, list[bytes]]:
    following, names = await names_page(scope.keys.data, cursor, prefix, page_keys)
    return following or START, names


async def names_page(data: bytes, cursor: str, prefix: str, page_keys: int) -> tuple[str | None, list[bytes]]:
    """Return the cursor of the next page, and a page of a namespace's fields; no cursor if these are all fields."""
    pattern = glob_for_prefix(prefix)
    if page_keys <= LISTING_PAGE_KEYS:  # a page that covers all was measured before
        page_keys = min(page_keys, max(1, MATCH_BYTES // (NAMES_PER_COUNT * len(pattern.encode()))))
    try:
        following, fields = await read(
            "HSCAN", data, cursor, "MATCH", pattern, "COUNT", page_keys, "NOVALUES", bulk=True
        )
    except ServerRefused as error:
        if "syntax" not in str(error):
            raise
        found = await run_script(SCAN_KEYS, (data,), (cursor, pattern, page_keys, SNAPSHOT_KEYS), True, True)
        if found is None:
            start = prefix.encode()
            return None, [name for name in await read("HKEYS", data, bulk=True) if name.startswith(start)]
        following, fields = found
    return following.decode(), fields


async def item_page(scope: Scope, cursor: str, prefix: str, page_keys: int) -> tuple[str, list[bytes]]:
    """Return a page of fields and values in turn. Few big values, and all of an agent's, are measured before they are read.

    ``HSCAN`` returns whole buckets, so it could read several of the biggest values in one step.
    """
    unbounded, data = scope.bounds is UNBOUNDED, scope.keys.data
    place = int(cursor) if int(cursor) >= _FIRST_PLACE else 0
    if place or page_keys <= (BIG_PAGE_KEYS if unbounded else PAGE_KEYS - 1):
        fields = int(await read("HLEN", data))
        # The bounds differ, so that a namespace that changes a little does not begin again and again.
        if fields <= (2 * FEW_KEYS if place else FEW_KEYS if cursor == START else FEW_KEYS // 2):
            return await _placed_page(scope, place, prefix, page_keys, await read("HKEYS", data, bulk=True))
    at = START if place else cursor
    if unbounded:
        pattern = glob_for_prefix(prefix)
        raw, flat = await read("HSCAN", data, at, "MATCH", pattern, "COUNT", page_keys, bulk=True)
        return raw.decode(), flat
    following, names = await names_page(data, at, prefix, page_keys)
    if following is None:
        return await _placed_page(scope, place, prefix, page_keys, names)
    return following, await values_of(scope, list(dict.fromkeys(names)))


async def _placed_page(
    scope: Scope, place: int, prefix: str, page_keys: int, names: Iterable[bytes]
) -> tuple[str, list[bytes]]:
    """Return a page of those fields that are after a place in the order of `_place`, which does not change as a table does."""
    start = prefix.encode()
    after = sorted((at, name) for name in names if name.startswith(start) and (at := _place(name)) > place)
    most = max(1, min(page_keys, len(after)))
    while True:
        last = after[most - 1][0] if after else 0
        part = [name for at, name in after if at <= last]
        following = START if len(part) == len(after) else str(last)
        _, texts = await _sized(scope, part, PART_BYTES) if most > 1 else (0, None)
        if texts is not None:
            return following, in_turn(part, texts)
        if most == 1:
            return following, await values_of(scope, part)
        most //= 2


def is_of_a_scan(cursor: str) -> bool:
    """Whether a cursor is one of ``HSCAN``, and not a place in the order of `_place`."""
    return int(cursor) < _FIRST_PLACE


def _place(name: bytes) -> int:
    """Return the place of a field in an order that stays, as a cursor."""
    return _FIRST_PLACE | int.from_bytes(blake2b(name, digest_size=8).digest(), "big") >> 2


async def values_of(scope: Scope, names: Sequence[bytes]) -> list[bytes]:
    """Read the values of fields in steps of a few megabytes, or of one value. Return fields and values in turn."""
    flat: list[bytes] = []
    parts, size_bytes = [names] if names else [], 0
    while parts:
        part = parts.pop()
        if len(part) == 1:
            texts = await read("HMGET", scope.keys.data, *part, bulk=True)
            part_bytes = len(texts[0] or b"")
        else:
            part_bytes, texts = await _sized(scope, part, PART_BYTES)
        _check_read_size(scope, size_bytes + part_bytes)
        if texts is None:
            half = len(part) // 2
            parts += (part[half:], part[:half])
        else:
            size_bytes += part_bytes
            flat += in_turn(part, texts)
    return flat


def in_turn(names: Iterable[bytes], texts: Iterable[bytes | None]) -> list[bytes]:
    """Return fields and values in turn, without the missing."""
    return [each for name, text in zip(names, texts, strict=True) if text is not None for each in (name, text)]


async def _sized(scope: Scope, names: Sequence[bytes], most_bytes: int) -> tuple[int, list[bytes | None] | None]:
    """Return the size of some values together, and the values if they take at most this many bytes."""
    size_bytes, texts, _ = await run_script(SIZES, (scope.keys.data,), (most_bytes, "", *names), True, True)
    return size_bytes, texts


def _check_read_size(scope: Scope, size: int) -> None:
    if size > scope.max_read_bytes:
        raise too_much_at_once(scope.max_read_bytes)


def _listing_page_size(fields: int, memory_bytes: int) -> int:
    small = 0 < memory_bytes <= PAGE_BYTES * fields // LISTING_PAGE_KEYS
    return LISTING_PAGE_KEYS if small else PAGE_KEYS


def page_size_of(fields: int, memory_bytes: int) -> int:
    if fields == 0 or memory_bytes <= 0:
        return PAGE_KEYS
    return max(1, min(PAGE_KEYS, PAGE_BYTES * fields // memory_bytes))


def _decoded(scope: Scope, flat: list[bytes]) -> dict[str, Json]:
    return scope.codec.decode_found(decode_names(flat[::2]), flat[1::2], scope.namespace)


async def _registered(scope: Scope) -> set[bytes]:
    names: set[bytes] = set()
    cursor = START
    size = 0
    while True:
        raw, found = await read("SSCAN", scope.keys.registry, cursor, "COUNT", REGISTRY_PAGE, bulk=True)
        names.update(found)
        size += sum(map(len, found)) + FIELD_BYTES * len(found)
        _check_read_size(scope, size)
        cursor = raw.decode()
        if cursor == START:
            return names


async def _empty(scope: Scope, names: list[bytes]) -> set[bytes]:
    """Return the namespaces that hold no data."""
    parts = [names[start : start + NAMESPACES_PER_SCRIPT] for start in range(0, len(names), NAMESPACES_PER_SCRIPT)]
    prefix = scope.user.data(b"")
    keys = [tuple([prefix + name for name in part]) for part in parts]
    doubtful = range(1) if len(parts) == 1 else await _doubtful(keys)
    replies = await run_each(EMPTY, ((keys[at], ()) for at in doubtful))
    return {parts[at][place - 1] for at, places in zip(doubtful, replies, strict=True) for place in places}


async def _doubtful(parts: list[tuple[bytes, ...]]) -> Sequence[int]:
    """Return the positions of the parts that may have hashes without data: none, mostly. A script takes thrice as long."""
    commands: list[Command] = [("COMMAND", "INFO", "HPTTL"), ("INFO", "keyspace")]
    commands += [("EXISTS", *part) for part in parts]
    try:
        known, about, *counts = await Call(tuple(commands), as_is, True, True)
    except (PermissionDenied, ServerRefused):  # for one of the first two
        return range(len(parts))
    hashes_that_expire = _HASHES_THAT_EXPIRE.findall(about)
    if known[0] and set(hashes_that_expire) != {b"0"}:
        return range(len(parts))
    return [at for at, count in enumerate(counts) if count < len(parts[at])]


async def _prune(scope: Scope, names: list[bytes]) -> None:
    """Remove empty namespaces from the registry. A listing is right without that, so a refused write is no error."""
    try:
        keys = (scope.keys.registry, *(scope.user.data(name) for name in names))
        await run_script(PRUNE, keys, tuple(names))
    except (ServerRefused, StoreUnavailable):
        pass
