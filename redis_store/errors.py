"""The exceptions of this package: one tree under `DataStoreError`.

    DataStoreError
    ├── InvalidInput (ValueError)             an argument has to be corrected
    │   ├── InvalidName                       an invalid key, namespace, user id or agent name
    │   ├── InvalidType (TypeError)           an argument of the wrong type
    │   ├── InvalidValue (TypeError)          a value that JSON cannot represent, with the path of the element
    │   ├── LimitExceeded                     a value, batch, name or quota over its limit
    │   ├── AccessDenied (PermissionError)    this handle, or this agent, lacks the right
    │   └── InvalidSettings                   an invalid url or option
    ├── StoredDataError (ValueError)          stored data cannot be read
    │   ├── CorruptValue                      a value that is not JSON, or does not decompress
    │   ├── UnsupportedEncoding               data of a newer version, or zstd is not installed here
    │   └── WrongKeyType (TypeError)          one of our Redis keys holds another type
    ├── StoreUnavailable (ConnectionError)    try again, or look at the server
    │   ├── ConnectionLost                    broken, refused or closed connection
    │   ├── StoreTimeout (TimeoutError)       no reply in time
    │   ├── AuthenticationFailed              wrong user or password
    │   ├── PermissionDenied (PermissionError)  the server's ACL forbids it
    │   └── EmbeddedServerError               the embedded server cannot run here
    ├── ServerRefused (RuntimeError)          the server replied with a refusal
    │   ├── ServerFull                        maxmemory is reached and nothing may be evicted
    │   ├── ServerReadOnly                    a replica, or a server that cannot save
    │   └── UnsupportedByServer               the server is too old for this
    ├── Conflict (RuntimeError)               others kept changing the same data; nothing was written
    ├── WrongValueType (TypeError)            the operation does not apply to the stored value
    ├── LockTimeout (TimeoutError)            a lock, semaphore or rate limit was not acquired in time
    ├── LockLost (RuntimeError)               a lock or slot was lost before its holder released it
    ├── ComputeFailed (RuntimeError)          another caller computed the value, and failed
    ├── WaitTimeout (TimeoutError)            the awaited value did not appear in time
    ├── WrongEventLoop (RuntimeError)         an asyncio object was used in another event loop
    └── StoreClosed (RuntimeError)            a call after ``close()``

An error means that nothing was written, unless `DataStoreError.outcome_unknown` is True: then a write may or may not have
happened, or a part of it has, as the message says.
"""

from __future__ import annotations

import re
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

_NOTHING_WRITTEN = re.compile(r"[.:;]? [Nn]othing was written[^.]*\.")


class DataStoreError(Exception):
    """Base class of every exception that this package raises.

    Details are attributes, set by keyword; they survive pickling and the sandbox's broker.
    Attributes: `outcome_unknown`, True if a write may or may not have happened, or only a part of it has.
    """

    outcome_unknown: bool = False

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.__dict__.update(facts)

    @property
    def facts(self) -> dict[str, Any]:
        """The attributes of this error, by name."""
        return {name: fact for name, fact in self.__dict__.items() if not name.startswith("_")}


class InvalidInput(DataStoreError, ValueError):
    """An argument is invalid; nothing was sent to the server."""


class InvalidName(InvalidInput):
    """A key, namespace, user id or other name is invalid. Attributes: `kind`, such as "key" or "namespace"."""

    kind: str


class InvalidType(InvalidInput, TypeError):
    """An argument has the wrong Python type."""


class InvalidValue(InvalidInput, TypeError):
    """JSON cannot represent a value. Attributes: `path`, the location of the offending element, such as ``value["a"][0]``."""

    path: str


class LimitExceeded(InvalidInput):
    """A value, batch, name or quota exceeds its limit.

    Attributes: `limit` (its name), `limit_bytes` or `limit_count`, and `size_bytes`, where they apply.
    """

    limit: str


class AccessDenied(InvalidInput, PermissionError):
    """A handle lacks the right to read, write or call an operation; nothing was sent to the server.

    Attributes: `action` ("read", "write", the name of an operation, or "locks", "limits", "tags" or "consumers" for a name);
    `namespace`, or None if it concerns no namespace;
    `readable` and `writable`, the patterns of the namespaces that are allowed.
    """

    action: str
    namespace: str | None = None
    readable: list[str]
    writable: list[str]


class InvalidSettings(InvalidInput):
    """A url, environment variable or option is invalid."""


class StoredDataError(DataStoreError, ValueError):
    """Stored data is not in a form that this package can read, or does not fit the type that was asked for with `as_type`.

    Attributes: `namespace` and `key`, if known; `path`, for a value that does not fit: the element, such as ``value["a"][0]``.
    """

    namespace: str | None = None
    key: str | None = None
    path: str | None = None


class CorruptValue(StoredDataError):
    """A stored value is not JSON, or is compressed and broken or larger than `max_value_bytes` when decompressed.

    Attributes: `first_bytes`, the first 32 bytes of the stored value.
    """

    first_bytes: bytes


class UnsupportedEncoding(StoredDataError):
    """A stored value, or all of a user's data, has an encoding that cannot be read here.

    A later version of this package wrote it, or it is compressed with zstd, which is not installed here.
    """


class WrongKeyType(StoredDataError, TypeError):
    """A Redis key of this package holds another Redis type; nothing was written. Attributes: `redis_key`."""


class StoreUnavailable(DataStoreError, ConnectionError):
    """The server cannot be reached or used.

    Attributes: `outcome_unknown`, True if at least a part of a write had been sent, so that the write may or may not have
    happened.
    """


class ConnectionLost(StoreUnavailable):
    """A connection could not be opened, or broke."""


class StoreTimeout(StoreUnavailable, TimeoutError):
    """The server did not reply in time, or with `min_replicas` too few replicas confirmed a write in time."""


class AuthenticationFailed(StoreUnavailable):
    """The server rejected the user name or password."""


class PermissionDenied(StoreUnavailable, PermissionError):
    """The server's access control list (ACL) forbids a command or a key."""


class EmbeddedServerError(StoreUnavailable):
    """The embedded server cannot be started or used here."""


class ServerRefused(DataStoreError, RuntimeError):
    """The server replied with an error; nothing was written, unless `outcome_unknown` is True."""


class ServerFull(ServerRefused):
    """The server has reached `maxmemory` and may not evict anything. Reads and deletes still work."""


class ServerReadOnly(ServerRefused):
    """The server accepts no writes, because it is a replica or cannot save to disk.

    After a failover behind one address the next call finds the new primary: connections to a demoted server are given up.
    """


class UnsupportedByServer(ServerRefused):
    """The server is too old for a feature; the message names the versions that have it."""


class Conflict(DataStoreError, RuntimeError):
    """Other writers changed the same data meanwhile, at every try; nothing was written.

    Attributes, where one key is the reason of a transaction or of a write with `if_version`: `namespace`, `key`, and `version`,
    which the key has now: 0 if it is missing, None if it was written by hand.
    """

    namespace: str
    key: str
    version: int | None = None


class WrongValueType(DataStoreError, TypeError):
    """The operation does not apply to the stored value, such as an increment of a string or an append to a dict.

    Nothing was written. Attributes: `namespace`, `key`.
    """

    namespace: str
    key: str


class LockTimeout(DataStoreError, TimeoutError):
    """A lock, semaphore slot or rate limit was not acquired within the caller's timeout; nothing is held.

    Attributes: `name`; `retry_after_ms`, the milliseconds after which it may be free, or None if unknown.
    """

    name: str
    retry_after_ms: int | None = None


class LockLost(DataStoreError, RuntimeError):
    """A lock or semaphore slot was lost before its holder released it, because it was not renewed in time or was removed.

    Another holder may have acquired it meanwhile; the higher fencing number of a lock belongs to the later holder.
    Attributes: `name`.
    """

    name: str


class ComputeFailed(DataStoreError, RuntimeError):
    """The caller that computed an awaited value failed, because its function raised; nothing was stored.

    Attributes: `key`; `error_type` and `error_message`, which describe the exception that was raised there.
    """

    key: str
    error_type: str
    error_message: str


class WaitTimeout(DataStoreError, TimeoutError):
    """An awaited value did not appear in time, although the server replies. Attributes: `namespace`, `key`."""


class WrongEventLoop(DataStoreError, RuntimeError):
    """An asyncio object was used in an event loop other than its own."""


class StoreClosed(DataStoreError, RuntimeError):
    """A method was called after the store was closed."""


def after_a_part(error: DataStoreError, done: str) -> DataStoreError:
    """Return an error of an operation of several writes that came after its first one; `done` says in a sentence what is done."""
    error.args = (f"{_NOTHING_WRITTEN.sub('.', str(error))} {done}",)
    error.outcome_unknown = True
    return error


def waited_too_long(key: str, namespace: str, what: str, timeout: float | None) -> WaitTimeout:
    """Return the error for a wait for a key; `what` says what was not so until then."""
    return WaitTimeout(
        f"The key {key!r} in namespace {namespace!r} {what} within {timeout:g} seconds.", namespace=namespace, key=key
    )


def second_taker() -> InvalidInput:
    """Return the error for a call on a watch from which another call takes changes."""
    return InvalidInput(
        "Another thread, task or signal handler is taking changes from this watch, and one at a time may: open a watch for each."
    )


class DeletedSoFar:
    """What an operation has deleted that takes several calls. If a later call fails, the error says so."""

    def __init__(self) -> None:
        self.count = 0
        self._begun = False

    def add(self, count: int) -> None:
        """Count what one call has deleted."""
        self._begun = True
        self.count += count

    def __enter__(self) -> DeletedSoFar:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._begun and isinstance(error, DataStoreError):
            after_a_part(error, f"Before that, {self.count:,} values were deleted: call it again for the others.")
