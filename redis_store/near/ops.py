"""Operations of the near cache: switching tracking on and off, and reading values with their ttl."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from redis_store.errors import ServerRefused
from redis_store.limits import too_much_at_once
from redis_store.namespace.keys import UserKeys
from redis_store.namespace.scope import Scope
from redis_store.ops.run_script import run_script
from redis_store.protocol.call import Call, as_is, read
from redis_store.protocol.command import Command
from redis_store.scripts import SIZES

_LITTLE_BYTES = 64 * 1024
"""Bytes of values up to which a script reads them as well as counting: one more copy, but one round trip less."""


class Fetched(NamedTuple):
    """The value of a hash field, with its ttl."""

    text: bytes | None
    """The stored text, or None if the field is missing."""
    ttl_ms: int | None
    """The remaining ttl, in ms; None stands for no expiry."""
    certain: bool
    """Whether text and ttl belong together; they may not if a write came between the two reads."""


async def begin(user: UserKeys) -> bool:
    """Switch a new connection to RESP3, which has pushes, and return whether hash fields can expire on this server."""
    await read("HELLO", 3)
    try:
        await read("HPTTL", user.registry + b":none", "FIELDS", 1, "none")
    except ServerRefused:
        return False
    return True


async def track(user: UserKeys) -> None:
    """Track every write to a user's values, in addition to the users already tracked."""
    try:
        await read("CLIENT", "TRACKING", "ON", "BCAST", "NOLOOP", "PREFIX", user.data(b""))
    except ServerRefused as error:
        # No user's prefix begins with another's. So it overlaps with itself: a cancelled call has sent it before.
        if "overlaps with an existing prefix" not in str(error):
            raise


async def untrack() -> None:
    """Stop tracking all users."""
    await read("CLIENT", "TRACKING", "OFF")


async def fetch(scope: Scope, fields: Sequence[bytes], has_ttl: bool) -> list[Fetched]:
    """Read fields of a namespace, with their ttls."""
    data = scope.keys.data
    if len(fields) * scope.limits.max_value_bytes > scope.max_read_bytes:
        little = await _read_if_little(scope, fields, has_ttl)
        if little is not None:
            return little
    values: Command = ("HGET", data, fields[0]) if len(fields) == 1 else ("HMGET", data, *fields)
    if not has_ttl:
        reply = await Call((values,), as_is, True)
        return _all_fetched([reply] if len(fields) == 1 else reply, None)
    reply, ttls = await Call((values, ("HPTTL", data, "FIELDS", len(fields), *fields)), as_is, True)
    return _all_fetched([reply] if len(fields) == 1 else reply, ttls or [])


async def _read_if_little(scope: Scope, fields: Sequence[bytes], has_ttl: bool) -> list[Fetched] | None:
    """Count the bytes of the values on the server, and return the values if they are few, or None if not.

    Raises `LimitExceeded` if they exceed the bound on one read. Giving up a read halfway would cost the connection, and with
    it all entries of the side.
    """
    arguments = (min(_LITTLE_BYTES, scope.max_read_bytes), "1" if has_ttl else "", *fields)
    size_bytes, texts, ttls = await run_script(SIZES, (scope.keys.data,), arguments, repeatable=True)
    if size_bytes > scope.max_read_bytes:
        raise too_much_at_once(scope.max_read_bytes)
    return _all_fetched(texts, (ttls or []) if has_ttl else None) if texts else None


_TTL_OF_ABSENT = -2


def _all_fetched(texts: list[bytes | None], ttls: list[int] | None) -> list[Fetched]:
    if ttls is None:
        return [Fetched(text, None, True) for text in texts]
    if len(ttls) != len(texts):
        ttls = [_TTL_OF_ABSENT] * len(texts)  # for a key that does not exist, some versions reply so
    return [_fetched(text, ttl) for text, ttl in zip(texts, ttls, strict=True)]


def _fetched(text: bytes | None, ttl_ms: int) -> Fetched:
    certain = (text is None) == (ttl_ms == _TTL_OF_ABSENT)
    return Fetched(text, ttl_ms if ttl_ms >= 0 else None, certain)
