"""What a near cache says to the server: how it asks to be told of writes, and how it reads what it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from redis_store.errors import ServerRefused
from redis_store.limits import too_much_at_once
from redis_store.namespace.keys import UserKeys
from redis_store.namespace.scope import Scope
from redis_store.ops.script import run_script
from redis_store.protocol.call import Call, Command, as_is, read
from redis_store.scripts import SIZES

_LITTLE_BYTES = 64 * 1024
"""Up to here a script reads what it has counted: that copies it once more, and saves a round trip."""


class Fetched(NamedTuple):
    """A field's value, None where it is absent."""

    text: bytes | None
    ttl_ms: int | None
    """How long it lives; None for ever."""
    certain: bool
    """Whether value and time to live fit together; where a writer came between them, they may not."""


async def begin(user: UserKeys) -> bool:
    """Switch a new connection to the protocol with pushes; whether this server's fields can expire."""
    await read("HELLO", 3)
    try:
        await read("HPTTL", user.registry + b":none", "FIELDS", 1, "none")
    except ServerRefused:
        return False
    return True


async def track(user: UserKeys) -> None:
    """Ask to be told of every write to a user's values; on top of the users already asked for."""
    await read("CLIENT", "TRACKING", "ON", "BCAST", "NOLOOP", "PREFIX", user.data(b""))


async def untrack() -> None:
    """Take back all that was asked for."""
    await read("CLIENT", "TRACKING", "OFF")


async def fetch(scope: Scope, fields: Sequence[bytes], has_ttl: bool) -> list[Fetched]:
    """Read fields of a namespace, with how long each lives."""
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
    """Have the server count the values' bytes, and read them at once if they are few; None where they are more.

    Raises `LimitExceeded` where they are more than may be read at once: to begin to read them and give it up would cost the
    connection, and with it all that everybody keeps.
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
        ttls = [_TTL_OF_ABSENT] * len(texts)  # some versions say nothing else of a key that does not exist
    return [_fetched(text, ttl) for text, ttl in zip(texts, ttls, strict=True)]


def _fetched(text: bytes | None, ttl_ms: int) -> Fetched:
    certain = (text is None) == (ttl_ms == _TTL_OF_ABSENT)
    return Fetched(text, ttl_ms if ttl_ms >= 0 else None, certain)
