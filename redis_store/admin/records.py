"""What the methods of `Admin` return. The commands print these names with ``--json``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class UserUsage:
    """What a user has on the server."""

    user: str
    namespaces: int
    """Namespaces that hold data."""
    keys: int
    bytes: int | None
    """Memory of all of the user's Redis keys, as estimated by the server; None if it does not report that."""
    last_write: datetime | None
    """Time of the last write that left a value; None if only external writes did."""


@dataclass(frozen=True, slots=True)
class NamespaceUsage:
    """What a namespace that holds data has on the server."""

    user: str
    namespace: str
    keys: int
    bytes: int | None
    """Memory of the data, its info and its change log, as estimated by the server; None if it does not report that."""
    last_write: datetime | None
    """Time of the last write that left a value; None if only external writes did."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A change that an operator made."""

    at: datetime
    by: str
    """The operator: ``<user>@<host>``, or what was passed as `operator` or ``--as``."""
    what: str
    """The command, such as ``user delete``."""
    outcome: str
    """``begun``, ``done`` or ``failed``."""
    user: str | None = None
    namespace: str | None = None
    key: str | None = None
    count: int | None = None
    """The number of keys, or of what the command changes, that were changed."""
