"""Operations that read values together with their infos: each pair is of one moment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from redis_store.limits import MAX_BOUND, UNBOUNDED, check_cursor
from redis_store.namespace.keys import decode_name, encode_prefix, glob_for_prefix
from redis_store.namespace.scope import Scope
from redis_store.ops import listing
from redis_store.ops.batch import KEYS_PER_READ, SMALL_READ_BYTES, fields_of
from redis_store.ops.key_info import key_info
from redis_store.ops.run_script import read_together, run_script
from redis_store.protocol.call import Alone, Call, as_is
from redis_store.protocol.command import Command
from redis_store.scripts import INFOS, SCAN_INFOS, SMALL_INFOS
from redis_store.types import Json, KeyInfo

WithInfo = tuple[Json, KeyInfo]


class _Stored(NamedTuple):
    """A field as it is stored: its value and info as texts, and when it expires (a negative number: never)."""

    name: bytes
    text: bytes
    info: bytes | None
    expires_ms: int


async def get_many(scope: Scope, keys: Iterable[str]) -> dict[str, WithInfo]:
    scope.check_readable()
    names = list(fields_of(keys))
    scope.bounds.check_names(names)
    found = await _read(scope, names)
    scope.counters.hits += len(found)
    scope.counters.misses += len(names) - len(found)
    scope.counters.bytes_read += sum(len(each.text) for each in found)
    return _decoded(scope, found)


def get_all(scope: Scope, prefix: str | None = None) -> Alone[dict[str, WithInfo]]:
    wanted = encode_prefix(prefix)
    return Alone(lambda: _get_all(scope, wanted))


async def scan_page(
    scope: Scope, cursor: str = listing.START, prefix: str | None = None, page_keys: int | None = None
) -> tuple[str, dict[str, WithInfo]]:
    """Do `listing.scan_items_page` with infos."""
    scope.check_readable()
    check_cursor(cursor)
    wanted = encode_prefix(prefix)
    following, found = await _page(scope, cursor, wanted, page_keys or await page_size(scope))
    return following, _decoded(scope, found)


async def page_size(scope: Scope) -> int:
    """Return how many keys of this namespace make a page of values and infos of moderate size."""
    scope.check_readable()
    keys = (scope.keys.data, scope.keys.info)
    return listing.page_size_of(*await run_script(SMALL_INFOS, keys, ("", -1, 0), repeatable=True))


async def _get_all(scope: Scope, prefix: str) -> dict[str, WithInfo]:
    scope.check_readable()
    keys = (scope.keys.data, scope.keys.info)
    arguments = (MAX_BOUND, listing.TINY_KEYS, listing.SNAPSHOT_BYTES)
    count, memory_bytes, *small = await run_script(SMALL_INFOS, keys, arguments, repeatable=True, bulk=True)
    if small:
        infos, (expiries, texts, names) = memory_bytes, small
        found = _stored(names, texts, infos, expiries)
    elif count <= listing.SNAPSHOT_KEYS and 0 <= memory_bytes <= listing.SNAPSHOT_BYTES:
        flat, (_, infos, expiries, _, names) = await read_together(
            [("HGETALL", scope.keys.data), INFOS.by_text(keys, ("",))]
        )
        texts_of = dict(zip(flat[::2], flat[1::2], strict=True))
        found = _stored(names, [texts_of.get(name) for name in names], infos, expiries)
    else:
        page_keys = listing.page_size_of(count, memory_bytes)
        parts = await listing.one_moment(scope, _flat_page, prefix, page_keys)
        found = [
            _Stored(name, text, info or None, int(expires_ms))
            for name, text, info, expires_ms in zip(*[iter(parts)] * 4, strict=True)
        ]
    start = prefix.encode()
    return _decoded(scope, [each for each in found if each.name.startswith(start)])


async def _flat_page(scope: Scope, cursor: str, prefix: str, page_keys: int) -> tuple[str, list[bytes]]:
    following, found = await _page(scope, cursor, prefix, page_keys, watched=True)
    return following, [
        part for each in found for part in (each.name, each.text, each.info or b"", b"%d" % each.expires_ms)
    ]


async def _page(
    scope: Scope, cursor: str, prefix: str, page_keys: int, watched: bool = False
) -> tuple[str, list[_Stored]]:
    """Return the next cursor and a page. Where values are measured before they are read, they are read once more with infos."""
    keys = (scope.keys.data, scope.keys.info)
    if scope.bounds is UNBOUNDED and page_keys > listing.BIG_PAGE_KEYS and listing.is_of_a_scan(cursor):
        arguments = (cursor, glob_for_prefix(prefix), page_keys)
        following, flat, infos, expiries = await run_script(SCAN_INFOS, keys, arguments, repeatable=True, bulk=True)
        return following.decode(), _stored(flat[::2], flat[1::2], infos, expiries)
    following, flat = await listing.item_page(scope, cursor, prefix, page_keys)
    return following, await _read(scope, list(dict.fromkeys(flat[::2])), watched)


async def _read(scope: Scope, names: list[bytes], watched: bool = False) -> list[_Stored]:
    """Read those of these fields that exist, at one moment. If the keys are `watched`, no transaction is used."""
    if not names:
        return []
    keys = (scope.keys.data, scope.keys.info)
    if scope.bounds is not UNBOUNDED:
        size_bytes, *small = await run_script(INFOS, keys, (SMALL_READ_BYTES, *names), repeatable=True)
        if small:
            infos, expiries, texts, _ = small
            return _stored(names, texts, infos, expiries)
        scope.bounds.check_read(2 * len(names), size_bytes)
    parts = [names[start : start + KEYS_PER_READ] for start in range(0, len(names), KEYS_PER_READ)]
    commands: list[Command] = []
    for part in parts:
        commands += [("HMGET", scope.keys.data, *part), INFOS.by_text(keys, ("", *part))]
    replies = iter(await (Call(tuple(commands), as_is, True, True) if watched else read_together(commands)))
    found: list[_Stored] = []
    for part, texts, (_, infos, expiries, *_) in zip(parts, replies, replies, strict=True):
        found += _stored(part, texts, infos, expiries)
    return found


def _stored(
    names: Iterable[bytes], texts: Iterable[bytes | None], infos: Sequence[bytes | None], expiries: Sequence[int]
) -> list[_Stored]:
    rows = zip(names, texts, infos, expiries, strict=True)
    return [_Stored(name, text, info, expires_ms) for name, text, info, expires_ms in rows if text is not None]


def _decoded(scope: Scope, found: list[_Stored]) -> dict[str, WithInfo]:
    keys = [decode_name(each.name) for each in found]
    values: dict[str, Any] = scope.codec.decode_found(keys, [each.text for each in found], scope.namespace)
    return {
        key: (values[key], key_info(key, each.info, len(each.text), each.expires_ms))
        for key, each in zip(keys, found, strict=True)
    }
