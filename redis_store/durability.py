"""`Durability` of the embedded server, and its check."""

from __future__ import annotations

from typing import Literal, TypeAlias

from redis_store.errors import InvalidSettings

Durability: TypeAlias = Literal["everysec", "always"]
"""When the embedded server flushes its log to disk: each second, or before each write is acknowledged."""


def check_durability(durability: object) -> None:
    """Raise `InvalidSettings` unless it is one of `Durability`."""
    if durability not in ("everysec", "always"):
        raise InvalidSettings(f"durability must be 'everysec' or 'always', not {durability!r}.")
