"""Operations on sequences: namespaces whose keys are positions, of 16 digits. A script appends, and reads up to 1,000 items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from redis_store.errors import InvalidValue, LimitExceeded
from redis_store.flows.optimistic import pop_value
from redis_store.limits import MAX_APPENDED_ITEMS, check_max_items, check_whole, too_much_at_once
from redis_store.namespace.scope import Scope
from redis_store.ops import batch, listing, values
from redis_store.ops.run_script import run_delete, run_script, run_write
from redis_store.scripts import SEQUENCE_APPEND, SEQUENCE_POP, SEQUENCE_READ
from redis_store.types import Json, Missing, Ttl
from redis_store.values.codec import VALUES, Values


async def append(scope: Scope, items: Sequence[Any], ttl: Ttl = None) -> int:
    """Append items, and return the position for the next one."""
    return await _append(scope, items, "", ttl)


async def append_bounded(scope: Scope, items: Sequence[Any], max_items: int, ttl: Ttl = None) -> int:
    """Append items, and delete the first ones of more than `max_items`. Return the position for the next one."""
    return await _append(scope, items, check_max_items(max_items), ttl)


async def last(scope: Scope, n: int) -> dict[str, Json]:
    """Return the items at the last `n` positions, by their keys."""
    return await _read(scope, "last", check_whole(n, "n"))


async def read_range(scope: Scope, start: int = 0, stop: int | None = None) -> dict[str, Json]:
    """Return the items at the positions from `start` to before `stop`, by their keys."""
    return await _read(scope, check_whole(start, "start"), "" if stop is None else check_whole(stop, "stop"))


async def read_page(scope: Scope, start: int = 0) -> tuple[str, dict[str, Json]]:
    """Return a page of items from a position on, and the position of the next page, '' after the last one."""
    scope.check_readable()
    reached, following, flat = await _page(scope, check_whole(start, "start"), "")
    found = scope.codec.decode_found([name.decode() for name in flat[::2]], flat[1::2], scope.namespace)
    return "" if reached >= following else str(reached), found


async def pop(scope: Scope) -> Json | Missing:
    """Delete the last item and return it; `MISSING` if there is none."""
    scope.check_changeable()
    name = ""

    async def take(there: bytes | None) -> Literal[True] | bytes | None:
        nonlocal name
        done, name, found = await take_last(scope, name, there)
        return True if done else found

    return await pop_value(
        f"the last of {scope.namespace}", take, lambda text: scope.codec.decode(text, scope.namespace, name)
    )


async def take_last(scope: Scope, name: str, there: bytes | None) -> tuple[bool, str, bytes | None]:
    """Delete the last item if it has this name and these bytes. Return whether it was deleted, and the last item."""
    scope.check_changeable()
    reply = await run_delete(
        SEQUENCE_POP, scope, ("" if there is None else name, there or b"", scope.bounds.script_bytes)
    )
    if reply == 1:
        return True, name, there
    if not reply:
        return False, "", None
    found, text, *size = reply
    if size:
        scope.bounds.check_script(size[0])
    return False, found.decode(), text


async def _append(scope: Scope, items: Sequence[Any], most: int | str, ttl: Ttl) -> int:
    scope.check_changeable()
    ttl_ms = values.wanted_ttl(scope, ttl)
    if len(items) > MAX_APPENDED_ITEMS:
        raise LimitExceeded(
            f"{len(items):,} items cannot be appended at once to the sequence {scope.namespace!r}, and at most"
            f" {MAX_APPENDED_ITEMS:,} can: nothing was written. Append them in parts.",
            limit="max_appended_items",
            limit_count=MAX_APPENDED_ITEMS,
            size_bytes=len(items),
        )
    texts = _texts(scope, items)
    size_bytes = sum(map(len, texts))
    batch.check_batch_size(scope, size_bytes)
    scope.bounds.check_script(size_bytes)
    if not texts:
        return int((await _page(scope, "last", 0))[1])
    following = await run_write(SEQUENCE_APPEND, scope, (scope.writer.author, ttl_ms, most, *texts))
    scope.counters.bytes_written += size_bytes
    return int(following)


def _texts(scope: Scope, items: Sequence[Any]) -> list[bytes]:
    try:
        return [scope.packed(scope.codec.encode(item), b"an item") for item in items]
    except InvalidValue:
        if isinstance(scope.codec, Values):
            VALUES.encode(list(items))  # its error names the item
        raise


async def _read(scope: Scope, start: int | str, stop: int | str) -> dict[str, Json]:
    scope.check_readable()
    found: dict[str, Json] = {}
    size_bytes = 0
    while True:
        reached, following, flat = await _page(scope, start, stop)
        size_bytes += sum(map(len, flat)) + listing.FIELD_BYTES * len(flat)
        if size_bytes > scope.max_read_bytes:
            raise too_much_at_once(scope.max_read_bytes)
        scope.counters.hits += len(flat) // 2
        scope.counters.bytes_read += sum(map(len, flat[1::2]))
        found |= scope.codec.decode_found([name.decode() for name in flat[::2]], flat[1::2], scope.namespace)
        stop = following if start == "last" or stop == "" else stop
        if reached >= min(following, int(stop)):
            return found
        start = reached


async def _page(scope: Scope, start: int | str, stop: int | str) -> tuple[int, int, list[bytes]]:
    """Return the position to go on from, the position for the next item, and a page of names and values in turn."""
    arguments = (start, stop, listing.PAGE_BYTES)
    reached, following, names, texts = await run_script(
        SEQUENCE_READ, (scope.keys.data, scope.keys.info), arguments, repeatable=True, bulk=True
    )
    flat = await listing.values_of(scope, names) if texts is None else listing.in_turn(names, texts)
    return int(reached), int(following), flat
