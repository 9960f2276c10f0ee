"""Public types: JSON values, times to live, info about keys, and changes."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
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
    "OnError",
    "Ttl",
]

Json: TypeAlias = Any
"""A value as returned: None, bool, int, float, str, list, or dict with str keys, nested."""

JsonInput: TypeAlias = "bool | int | float | str | Sequence[Any] | Mapping[Any, Any] | None"
"""A value as accepted: like `Json`, but also tuples, and int, float, bool and None as dict keys."""


class Never(Enum):
    """The type of `NEVER`."""

    NEVER = "never"


NEVER: Final = Never.NEVER
"""A ttl that stands for no expiry, even if the namespace has a default ttl."""

Ttl: TypeAlias = "float | timedelta | Literal[Never.NEVER] | None"
"""A time to live, in seconds or as a timedelta. None stands for the namespace's default ttl, or no expiry without one."""


OnError: TypeAlias = Literal["raise", "compute"]
"""What `get_or_set` and `cached` do if the store fails: raise its error, or compute the value without it."""


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""A sentinel for a key that is missing, and for an argument that was not passed."""


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 100
_BRIEF.maxlevel = 3


def brief(value: object) -> str:
    """Return the `repr` of a value, shortened to a line."""
    text = _BRIEF.repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def record_repr(record: Any, *long: str) -> str:
    """Return the `repr` of a dataclass, with brief values of the fields that may be long: a notebook shows it as it is."""
    values = ((each.name, getattr(record, each.name)) for each in fields(record))
    shown = (f"{name}={brief(value) if name in long else repr(value)}" for name, value in values)
    return f"{type(record).__name__}({', '.join(shown)})"


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """The info kept beside a value. Times are by the server's clock, in UTC.

    A value that was written externally (`redis-cli HSET`) has no history: its times and agents are None.
    """

    key: str
    created_at: datetime | None
    created_by: str | None
    updated_at: datetime | None
    updated_by: str | None
    metadata: dict[str, Json]
    size: int
    """Size of the stored JSON text, in bytes."""
    expires_at: datetime | None
    version: int | None = None
    """The version: the time of the last write, in µs since 1970, which grows with each write of the key. It is for `if_version`.

    None for a value without history. An external write over a value does not change its version.
    """
    run: str | None = None
    """The run of the last writer, or None if it had none."""

    def __repr__(self) -> str:
        return record_repr(self, "key", "metadata")


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server is, and what it lacks of what the store uses."""

    engine: str
    """``valkey`` or ``redis``. A service that speaks their protocol reports one of the two."""
    version: str
    """The engine's version, such as ``9.0.1``; empty if the server does not tell it."""
    mode: str
    """``standalone``, ``cluster`` or ``sentinel``."""
    lacks: dict[str, str]
    """What the server lacks, or refuses to this login, each with what the store does without it."""


ChangeOp: TypeAlias = Literal["set", "delete", "clear", "expire", "reset"]
"""The kind of a change. `clear` and `reset` concern the whole namespace, the others one key."""

ChangeSource: TypeAlias = Literal["log", "found", "snapshot"]
"""How a change became known.

`log`: its writer appended it to the change log. `found`: a watcher found it by comparing (external write, expiry, eviction).
`snapshot`: part of a snapshot, as requested by `initial=True` and after a reset.
"""


@dataclass(frozen=True, slots=True)
class Change:
    """A write, deletion or expiry in a namespace, as yielded by `watch`.

    A `reset` means that changes were lost or were too many to keep: discard your view of the namespace. A `set` for every
    existing key follows, then the changes after that.
    """

    namespace: str
    key: str | None
    """The key; None for `clear` and `reset`, which concern the whole namespace."""
    op: ChangeOp
    value: Json
    """The stored value, for `set`. For `reset`, the number of changes that were dropped unread, or None if unknown. Else None."""
    cursor: str
    """The position of this change: `watch(since=cursor)` continues after it."""
    source: ChangeSource
    agent: str | None = None
    """The agent that wrote, or None if unknown."""
    run: str | None = None
    """The run of the writer, or None if unknown."""
    root: str | None = None
    """The agent of the outermost run, if the writer is a nested run: one that an agent started by calling another. Else None."""

    def __repr__(self) -> str:
        return record_repr(self, "key", "value")
