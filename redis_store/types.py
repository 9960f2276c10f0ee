"""The types that callers see: JSON, and what is known about a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

__all__ = [
    "MISSING",
    "NEVER",
    "Change",
    "ChangeOp",
    "ChangeSource",
    "Json",
    "JsonInput",
    "KeyInfo",
    "Missing",
    "Never",
    "Ttl",
]

Json: TypeAlias = Any
"""A value as it is read: None, bool, int, float, str, list or dict with str keys, nested."""

JsonInput: TypeAlias = "bool | int | float | str | Sequence[Any] | Mapping[Any, Any] | None"
"""A value as it may be written: as `Json`, with tuples, and with int, float, bool and None as dict keys too."""


class Never(Enum):
    """The type of `NEVER`."""

    NEVER = "never"


NEVER: Final = Never.NEVER
"""As a ttl: the key does not expire, also in a namespace whose keys do by default."""

Ttl: TypeAlias = "float | timedelta | Literal[Never.NEVER] | None"
"""A time to live in seconds or as a timedelta; None stands for the namespace's default, and where it has none for ever."""


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""Stands for a key that is not there, and for an argument that was not given."""


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What is known about a key beside its value; times are the server's, in UTC.

    A value that was written by hand (`redis-cli HSET`) has no history: its times and agents are None.
    """

    key: str
    created_at: datetime | None
    created_by: str | None
    updated_at: datetime | None
    updated_by: str | None
    metadata: dict[str, Json]
    size: int
    """Bytes of the stored JSON text."""
    expires_at: datetime | None


ChangeOp: TypeAlias = Literal["set", "delete", "clear", "expire", "reset"]
"""What happened to a key, or to the namespace (`clear`, `reset`)."""

ChangeSource: TypeAlias = Literal["log", "found", "snapshot"]
"""How it is known: its writer told the log; a watcher found it by comparing (written by hand, expired, evicted); or it is
how things stand, as `initial=True` asks for and as follows a reset."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened in a namespace, as `watch` gives it.

    A `reset` says that history is gone or was too much to keep: forget what you know of the namespace; a `set` for every key
    that is there follows, then the changes after that.
    """

    namespace: str
    key: str | None
    """The key; None for `clear` and `reset`, which are about the whole namespace."""
    op: ChangeOp
    value: Json
    """What was stored, for `set`. For `reset` the number of changes that were dropped because nobody read them, None where
    it is not known. Else None."""
    cursor: str
    """Where to go on: `watch(since=cursor)` gives what comes after this change."""
    source: ChangeSource
    agent: str | None = None
    """Who wrote, where that is known."""
    run: str | None = None
    """The writer's run, where that is known."""
