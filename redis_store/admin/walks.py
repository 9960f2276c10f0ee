"""Walks: listings without I/O, as asynchronous generators that await `Call`s and yield a list of records for each step.

`sync.py` and `aio.py` run each step with a driver, as an operation of its own. A walk awaits nothing while it is closed.
"""

from __future__ import annotations

import types
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

from redis_store.errors import UnsupportedEncoding
from redis_store.namespace.format import check_mark
from redis_store.namespace.redis_key import EVERY_KEY, RedisKey, glob_for_user, parse_redis_key
from redis_store.ops.listing import START
from redis_store.protocol.call import Call, all_replies, read

T = TypeVar("T")

Walk: TypeAlias = AsyncGenerator[list[T], None]
"""A listing in steps."""

SCAN_COUNT = 1000
"""Redis keys that one step of a scan looks at, about, which takes the server half a millisecond."""


MOST_KNOWN = 10_000
"""Users whose format is remembered during a walk, at most; then they are looked at again."""


class _WalkEnded(BaseException):
    """Ends a walk."""


@types.coroutine
def next_page(walk: Walk[T]) -> Generator[Call[Any], Any, list[T] | None]:
    """The operation of one step: return the next records of a walk, or None at its end.

    What ends the operation early also ends the walk and those in it, by an error: Python closes no generator that another awaits.
    """
    step: Any = walk.__anext__()
    try:
        call = step.send(None)
        while True:
            try:
                reply = yield call
            except GeneratorExit:
                with suppress(_WalkEnded):
                    step.throw(_WalkEnded)
                raise
            except BaseException as error:
                call = step.throw(error)
            else:
                call = step.send(reply)
    except StopIteration as stop:
        page: list[T] = stop.value
        return page
    except StopAsyncIteration:
        return None


async def redis_keys(user: str | None = None, kind: str = "", *, once: bool = True) -> Walk[tuple[bytes, RedisKey]]:
    """Find the Redis keys of all users, or of one; with `kind`, the keys of that Redis type only.

    A scan finds some keys twice. To yield each `once` takes memory for the names of them all.
    """
    pattern = EVERY_KEY if user is None else glob_for_user(user)
    met: set[bytes] = set()
    cursor = START
    while True:
        typed = ("TYPE", kind) if kind else ()
        raw, page = await read("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT, *typed, bulk=True)
        new = [key for key in dict.fromkeys(page) if key not in met]
        if once:
            met.update(new)
        parsed = ((key, parse_redis_key(key)) for key in new)
        yield [(key, parts) for key, parts in parsed if parts is not None and user in (None, parts.user)]
        cursor = raw.decode()
        if cursor == START:
            return


async def hash_pages(key: bytes, count: int) -> Walk[tuple[bytes, bytes]]:
    """Yield the fields of a hash with their values, about `count` in each step. A field may come twice."""
    cursor = START
    while True:
        raw, flat = await read("HSCAN", key, cursor, "COUNT", count, bulk=True)
        yield list(zip(flat[::2], flat[1::2], strict=True))
        cursor = raw.decode()
        if cursor == START:
            return


Unreadable: TypeAlias = dict[tuple[str, bool], UnsupportedEncoding | None]
"""The users whose marks were looked at, in each form of Redis keys: the error if this version cannot read the data."""


async def look_at_marks(page: Sequence[tuple[bytes, RedisKey]], known: Unreadable) -> Unreadable:
    """Look at the format versions of the users of a page who are not in `known`; add them, and return them alone."""
    new = {(parts.user, parts.tagged): parts for _, parts in page if (parts.user, parts.tagged) not in known}
    if not new:
        return {}
    looked: Unreadable = {}
    marks = await all_replies(*(("GET", parts.keys.format_in(parts.tagged)) for parts in new.values()))
    for each, raw in zip(new, marks, strict=True):
        try:
            check_mark(raw if isinstance(raw, bytes) else None, each[0])
        except UnsupportedEncoding as error:
            looked[each] = error
        else:
            looked[each] = None
    known.update(looked)
    return looked


async def readable_keys(user: str | None = None, kind: str = "", *, once: bool = True) -> Walk[tuple[bytes, RedisKey]]:
    """Find Redis keys as `redis_keys` does. Raises `UnsupportedEncoding` at the first user whose data has a newer format."""
    known: Unreadable = {}
    async for page in redis_keys(user, kind, once=once):
        if len(known) > MOST_KNOWN:
            known.clear()
        for error in (await look_at_marks(page, known)).values():
            if error is not None:
                raise error
        yield page


def parts_of(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield a sequence in parts of at most this size."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
