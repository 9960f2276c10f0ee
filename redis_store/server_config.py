"""What a server is configured to do for us: the keyspace events that watching needs, and when data reaches the disk."""

from __future__ import annotations

from typing import Literal, TypeAlias

from redis_store.errors import InvalidSettings

NEEDED_FLAGS = "Khgxe"
"""Flags that `notify-keyspace-events` must contain: events by key, of hashes, generic commands, expiry and eviction."""

WISHED_FLAGS = "Khgsxe"
"""The needed flags and that of sets, with which a new namespace is noticed at once and not within a second."""

_ALL_CLASSES = frozenset("g$lshzxetd")
"""The flags that ``A`` stands for."""


def missing_flags(flags: str, wanted: str = NEEDED_FLAGS) -> str:
    """Return the wanted flags that a server's `notify-keyspace-events` lacks."""
    present = set(flags) | (_ALL_CLASSES if "A" in flags else set())
    return "".join(flag for flag in wanted if flag not in present)


def facts_of(info: bytes) -> dict[str, str]:
    """Return what a reply to ``INFO`` says, by name."""
    return dict(line.split(":", 1) for line in info.decode(errors="replace").splitlines() if ":" in line)


Durability: TypeAlias = Literal["everysec", "always"]
"""When the embedded server flushes its log to disk: each second, or before each write is acknowledged."""


def check_durability(durability: object) -> None:
    """Raise `InvalidSettings` unless it is one of `Durability`."""
    if durability not in ("everysec", "always"):
        raise InvalidSettings(f"durability must be 'everysec' or 'always', not {durability!r}.")
