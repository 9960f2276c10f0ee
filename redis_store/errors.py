"""What can go wrong, in one tree.

    DataStoreError
    ├── InvalidInput (ValueError)             fix what you passed
    │   ├── InvalidName                       a key, namespace, user id or agent name that cannot be one
    │   ├── InvalidType (TypeError)           an argument of the wrong type
    │   ├── InvalidValue (TypeError)          a value that JSON cannot say, with the path of the element
    │   ├── LimitExceeded                     a value, batch, name or quota over its limit
    │   ├── AccessDenied (PermissionError)    this handle, or this agent, may not do that
    │   └── InvalidSettings                   a url or an option that cannot be used
    ├── StoredDataError (ValueError)          what lies in the server cannot be read
    │   ├── CorruptValue                      a value that is not JSON, or does not unpack
    │   ├── UnsupportedEncoding               a value written by a newer version, or zstd is not installed here
    │   └── WrongKeyType                      a Redis key of ours that holds another type
    ├── StoreUnavailable (ConnectionError)    try again, or look at the server
    │   ├── ConnectionLost                    broken, refused, closed
    │   ├── StoreTimeout (TimeoutError)       no answer in time
    │   ├── AuthenticationFailed              wrong user or password
    │   ├── PermissionDenied (PermissionError)  the server's ACL forbids it
    │   └── EmbeddedServerError               the embedded server cannot run here
    ├── ServerRefused (RuntimeError)          the server answered, and said no
    │   ├── ServerFull                        maxmemory is reached and nothing may be evicted
    │   ├── ServerReadOnly                    a replica, or a server that cannot save
    │   └── UnsupportedByServer               the server is too old for this
    ├── Conflict (RuntimeError)               others kept changing the same data; nothing was written
    ├── WrongValueType (TypeError)            the stored value is not of the kind that the operation changes
    ├── LockTimeout (TimeoutError)            a lock, a semaphore or a rate limit had no room in time
    ├── LockLost (RuntimeError)               it was held no longer before its holder let go
    ├── ComputeFailed (RuntimeError)          somebody else computed the value that was waited for, and failed
    ├── WaitTimeout (TimeoutError)            what was waited for did not happen in time
    ├── WrongEventLoop (RuntimeError)         an asyncio object was used from a loop that is not its own
    └── StoreClosed (RuntimeError)            used after ``close()``

`DataStoreError.outcome_unknown` is True where a write may or may not have happened. Everywhere else an error means that
nothing was written.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AccessDenied",
    "AuthenticationFailed",
    "ComputeFailed",
    "Conflict",
    "ConnectionLost",
    "CorruptValue",
    "DataStoreError",
    "EmbeddedServerError",
    "InvalidInput",
    "InvalidName",
    "InvalidSettings",
    "InvalidType",
    "InvalidValue",
    "LimitExceeded",
    "LockLost",
    "LockTimeout",
    "PermissionDenied",
    "ServerFull",
    "ServerReadOnly",
    "ServerRefused",
    "StoreClosed",
    "StoreTimeout",
    "StoreUnavailable",
    "StoredDataError",
    "UnsupportedByServer",
    "UnsupportedEncoding",
    "WaitTimeout",
    "WrongEventLoop",
    "WrongKeyType",
    "WrongValueType",
]


class DataStoreError(Exception):
    """Root of every error that this package raises.

    Facts are attributes, given by keyword; they survive pickling and the sandbox's broker.
    Attributes: `outcome_unknown`, True where a write may or may not have happened.
    """

    outcome_unknown: bool = False

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.__dict__.update(facts)

    @property
    def facts(self) -> dict[str, Any]:
        """The attributes that belong to this error, by name."""
        return {name: fact for name, fact in self.__dict__.items() if not name.startswith("_")}


class InvalidInput(DataStoreError, ValueError):
    """An argument cannot be used; nothing was sent."""


class InvalidName(InvalidInput):
    """A key, a namespace, a user id or another name cannot be one. Attributes: `kind`."""

    kind: str


class InvalidType(InvalidInput, TypeError):
    """An argument has the wrong Python type."""


class InvalidValue(InvalidInput, TypeError):
    """JSON cannot say this value. Attributes: `path`, the place of the offending element."""

    path: str


class LimitExceeded(InvalidInput):
    """Something is over its limit. Attributes: `limit` (its name), `limit_bytes` or `limit_count`, `size_bytes`."""

    limit: str


class AccessDenied(InvalidInput, PermissionError):
    """A restricted handle was asked for what it may not do; nothing was sent.

    Attributes: `action` ("read", "write", or the name of an operation), `namespace` where there is one, `readable` and
    `writable`, the patterns of what is allowed.
    """

    action: str
    namespace: str | None = None
    readable: list[str]
    writable: list[str]

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class InvalidSettings(InvalidInput):
    """A url, an environment variable or an option cannot be used."""


class StoredDataError(DataStoreError, ValueError):
    """What the server holds is not what this package wrote. Attributes: `namespace`, `key` where they are known."""

    namespace: str | None = None
    key: str | None = None


class CorruptValue(StoredDataError):
    """A stored value is not JSON, or is compressed and does not unpack to at most `max_value_bytes` of it.

    Attributes: `first_bytes`, at most 32 of them.
    """

    first_bytes: bytes


class UnsupportedEncoding(StoredDataError):
    """A stored value begins with 0x01, and with an encoding behind it that cannot be read here: a later version's, or zstd
    where its library is missing."""


class WrongKeyType(StoredDataError, TypeError):
    """A Redis key that should be ours holds another type; nothing was written. Attributes: `redis_key`."""


class StoreUnavailable(DataStoreError, ConnectionError):
    """The server cannot be reached or used.

    Attributes: `outcome_unknown`, True where the request was a write of which at least a part had gone out, so that it
    may or may not have happened.
    """


class ConnectionLost(StoreUnavailable):
    """The connection could not be made, or broke."""


class StoreTimeout(StoreUnavailable, TimeoutError):
    """No answer came in time."""


class AuthenticationFailed(StoreUnavailable):
    """The server does not accept the user name or password."""


class PermissionDenied(StoreUnavailable, PermissionError):
    """The server's access control list forbids a command or a key."""


class EmbeddedServerError(StoreUnavailable):
    """The embedded server cannot be started or used here."""


class ServerRefused(DataStoreError, RuntimeError):
    """The server answered with an error; nothing was written."""


class ServerFull(ServerRefused):
    """`maxmemory` is reached and the policy allows no eviction; reads and deletes go on."""


class ServerReadOnly(ServerRefused):
    """The server takes no writes: a replica, or one that cannot save to disk."""


class UnsupportedByServer(ServerRefused):
    """The server is too old for this feature. The message names the versions that have it."""


class Conflict(DataStoreError, RuntimeError):
    """Other writers changed the same data at every try; nothing was written."""


class WrongValueType(DataStoreError, TypeError):
    """The stored value is of another kind than the operation changes: an increment of a string, an append to a dict.

    Nothing was written. Attributes: `namespace`, `key`.
    """

    namespace: str
    key: str


class LockTimeout(DataStoreError, TimeoutError):
    """A lock, a semaphore or a rate limit had no room within the caller's timeout; nothing is held.

    Attributes: `name`; `retry_after_ms`, when there may be room, where that is known.
    """

    name: str
    retry_after_ms: int | None = None


class LockLost(DataStoreError, RuntimeError):
    """A lock or a semaphore's place was held no longer when its holder let go: it could not be renewed in time.

    Somebody else may have had it meanwhile; a lock's fencing number shows who came last. Attributes: `name`.
    """

    name: str


class ComputeFailed(DataStoreError, RuntimeError):
    """Another caller computed the value that this one waited for, and its function raised; nothing was cached.

    Attributes: `key`; `error_type` and `error_message`, of the exception there.
    """

    key: str
    error_type: str
    error_message: str


class WaitTimeout(DataStoreError, TimeoutError):
    """What was waited for did not happen in time; the server is well. Attributes: `namespace`, `key`."""


class WrongEventLoop(DataStoreError, RuntimeError):
    """An asyncio object was used from an event loop that is not its own."""


class StoreClosed(DataStoreError, RuntimeError):
    """The store was closed before this call."""
