"""The parts of a Redis key: whose it is, and what for. For operators' listings, which find keys of all users."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from redis_store.namespace.keys import PLAIN, UserKeys

_WRITTEN = re.compile(
    rb"user:(\{)?([A-Za-z0-9_.%-]+)(?(1)\}):(?:own:([A-Za-z0-9_.%-]+):)?([a-z]+)(?::(.*))?", re.DOTALL
)

EVERY_KEY = b"user:*"
"""The MATCH pattern of the Redis keys of all users."""


class RedisKey(NamedTuple):
    """The parts of one of a user's Redis keys."""

    user: str
    tagged: bool
    """Whether the key has a hash tag."""
    agent: str | None
    """The agent whose own name it is, see `UserKeys.own`."""
    kind: str
    """What follows the user: ``ns``, ``info``, ``lock`` and so on."""
    name: bytes
    """What follows the kind; empty if nothing does."""

    @property
    def keys(self) -> UserKeys:
        """The builder of the user's Redis keys in the same form."""
        return UserKeys.of(self.user, hash_tag=self.tagged)


def parse_redis_key(raw: bytes) -> RedisKey | None:
    """Return the parts of a user's Redis key, or None for any other key."""
    match = _WRITTEN.fullmatch(raw)
    if match is None:
        return None
    brace, user, agent, kind, name = match.groups()
    plain = _decoded(user)
    if plain is None:
        return None
    return RedisKey(plain, brace is not None, None if agent is None else _decoded(agent), kind.decode(), name or b"")


def glob_for_user(user: str) -> bytes:
    """Return a MATCH pattern for a user's Redis keys in both forms. It also matches some keys of others: parse what it finds."""
    return b"user:*%b*:*" % _encoded(user)


def _encoded(user: str) -> bytes:
    return UserKeys.of(user, form=PLAIN).prefix.removeprefix(b"user:").removesuffix(b":")


@lru_cache(maxsize=1024)
def _decoded(raw: bytes) -> str | None:
    """Return the text of a percent-encoded name, or None if it is not what the store makes of one."""
    try:
        plain = unquote_to_bytes(raw).decode()
        return plain if _encoded(plain) == raw else None
    except ValueError:
        return None
