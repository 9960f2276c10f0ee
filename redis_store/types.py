"""The types that callers see: JSON, and what is known about a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

__all__ = ["NEVER", "Json", "JsonInput", "KeyInfo", "Never", "Ttl"]

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
