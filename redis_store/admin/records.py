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


@dataclass(frozen=True, slots=True)
class ChangeRecord:
    """A change of the last minutes, as a change log or the info of a key tells it."""

    at: datetime
    user: str
    namespace: str
    key: str | None
    """None for a change of the whole namespace, and if only the event is known."""
    op: str
    """``set``, ``delete``, ``clear`` or ``expire``."""
    agent: str | None
    run: str | None
    source: str
    """``log``; ``info``, which tells the last write of each key only, and no deletions; or ``event``, which tells no key."""


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A key that a search has found, by its name or its value."""

    user: str
    namespace: str
    key: str
    found_in: str
    """``key`` or ``value``."""
    excerpt: str
    """The place in the key, or in the value as JSON text."""


@dataclass(frozen=True, slots=True)
class HeldLock:
    """A lock that is held, or a semaphore of which slots are, with its waiters."""

    user: str
    name: str
    kind: str
    """``lock`` or ``semaphore``."""
    agent: str | None
    """The agent whose own name it is; None for the user's."""
    held: int
    """Number of slots that are held; 0 for a lock that is kept for its first waiter."""
    slots: int | None
    """Number of slots of a semaphore, 1 for a lock."""
    holder: str | None
    """The agent that holds the lock, or None if it gave no name."""
    owner: str | None
    """The token of the lock's holder."""
    since: datetime | None
    """Time at which the lock was acquired."""
    expires_at: datetime | None
    """Time at which it expires unless it is renewed; of a semaphore, that of its last slot."""
    waiters: int


@dataclass(frozen=True, slots=True)
class RateLimitState:
    """A rate limit in use: how much of it is used, and when it lets the next call through."""

    user: str
    name: str
    agent: str | None
    """The agent whose own name it is; None for the user's."""
    n: int
    """Calls that it lets through in each period."""
    per_s: float
    """The period, in seconds."""
    used: int
    """Calls of the last period."""
    waiting: int
    """Callers that have a later moment and wait for it."""
    free_in_s: float
    """Seconds until a new caller would be let through; 0 if it is at once."""


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """How far a consumer is in a namespace, and which process works as it."""

    user: str
    consumer: str
    agent: str | None
    """The agent whose own name it is; None for the user's."""
    namespace: str
    is_held: bool
    """Whether a process works as the consumer now."""
    holder: str | None
    """The agent of that process, or None if it gave no name."""
    cursor: str
    at: datetime | None
    """Time of the last change that the consumer has done; None if it has to begin with a reset."""
    behind: int | None
    """Number of entries of the change log after that; None if there is no log, or the consumer has to begin with a reset."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A change that an agent could not process, with the error of the last try."""

    user: str
    consumer: str
    id: str
    """The key of the dead letter, in the namespace ``dead-letter:<consumer>``."""
    at: datetime | None
    """Time at which it was stored."""
    namespace: str | None
    key: str | None
    op: str | None
    writer: str | None
    """The agent that wrote the change."""
    agent: str | None
    """The agent that could not process it."""
    tries: int | None
    error_type: str | None
    error: str | None
    traceback: str | None


@dataclass(frozen=True, slots=True)
class ComputedValue:
    """A value that is being computed, or whose computation has failed in the last seconds."""

    user: str
    namespace: str
    key: str
    expires_at: datetime | None
    """Time at which another caller computes the value, unless the claim is renewed; None for a failure."""
    failed_at: datetime | None
    error: str | None


@dataclass(frozen=True, slots=True)
class CacheRate:
    """How often `get_or_set` and cached functions found a value in a namespace, today and yesterday (UTC)."""

    user: str
    namespace: str
    hits: int
    """Values that were found, as far as processes have reported them: each keeps up to 1,000 to itself."""
    computations: int
    """Computations that were begun, by all processes."""

    @property
    def rate(self) -> float:
        """Hits divided by hits and computations, from 0 to 1; 0 if there are neither."""
        asked = self.hits + self.computations
        return self.hits / asked if asked else 0.0


@dataclass(frozen=True, slots=True)
class TagUsage:
    """A tag of cached values."""

    user: str
    tag: str
    agent: str | None
    """The agent whose own name it is; None for the user's."""
    values: int
    """Number of values that have the tag, some of which may be gone."""


@dataclass(frozen=True, slots=True)
class ServerStats:
    """What a server counts. Each count is since its start, and is that of the server, not of one database."""

    engine: str
    version: str
    role: str
    uptime_s: int
    clients: int
    blocked_clients: int
    memory_bytes: int
    max_memory_bytes: int
    """0 if there is no limit."""
    policy: str
    redis_keys: int
    """Redis keys of this database."""
    commands: int
    commands_per_s: int
    hits: int
    """Redis keys that were found by reads, and not found (`misses`); a read of a field counts the namespace."""
    misses: int
    expired: int
    evicted: int
    received_bytes: int
    sent_bytes: int
    rejected_clients: int
    saves: bool
    """Whether the last save to disk, of either kind, succeeded."""

    @property
    def hit_ratio(self) -> float:
        """Hits divided by hits and misses; 0 if there are neither."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0
