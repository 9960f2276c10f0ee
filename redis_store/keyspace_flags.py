"""Flags of `notify-keyspace-events` that watching needs. The same for every server, embedded or not."""

from __future__ import annotations

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
