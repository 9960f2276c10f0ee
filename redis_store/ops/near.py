"""What a near cache says to the server: how it asks to be told of writes, and how it reads what it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from redis_store._call import Call, Command, as_is, read
from redis_store._keys import UserKeys
from redis_store._replies import too_much_at_once
from redis_store._scope import Scope
from redis_store.errors import ServerRefused
from redis_store.ops._script import run_script
from redis_store.scripts import SIZES


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
        await _check_sizes(scope, fields)
    values: Command = ("HGET", data, fields[0]) if len(fields) == 1 else ("HMGET", data, *fields)
    if not has_ttl:
        reply = await Call((values,), as_is, True)
        return [Fetched(text, None, True) for text in ([reply] if len(fields) == 1 else reply)]
    reply, ttls = await Call((values, ("HPTTL", data, "FIELDS", len(fields), *fields)), as_is, True)
    texts: list[bytes | None] = [reply] if len(fields) == 1 else reply
    if not isinstance(ttls, list) or len(ttls) != len(texts):
        ttls = [_ABSENT] * len(texts)  # some versions say nothing else of a key that does not exist
    return [_fetched(text, ttl) for text, ttl in zip(texts, ttls, strict=True)]


async def _check_sizes(scope: Scope, fields: Sequence[bytes]) -> None:
    """Raise `LimitExceeded` where the fields' values are more together than may be read at once.

    To begin to read them and give it up would cost the connection, and with it all that everybody keeps.
    """
    if await run_script(SIZES, (scope.keys.data,), tuple(fields), repeatable=True) > scope.max_read_bytes:
        raise too_much_at_once(scope.max_read_bytes)


_ABSENT = -2


def _fetched(text: bytes | None, ttl_ms: int) -> Fetched:
    certain = (text is None) == (ttl_ms == _ABSENT)
    return Fetched(text, ttl_ms if ttl_ms >= 0 else None, certain)
