"""A data store on Redis or Valkey, shared by the agents of one user.

from redis_store import connect

with connect(user="alice", agent="indexer") as data_store:
    data_store.set("greeting", {"text": "hello"})
"""

import logging

from redis_store._connect import ConnectOptions, connect, connect_async
from redis_store.aio import AsyncDataStore
from redis_store.errors import (
    AccessDenied,
    AuthenticationFailed,
    ComputeFailed,
    Conflict,
    ConnectionLost,
    CorruptValue,
    DataStoreError,
    EmbeddedServerError,
    InvalidInput,
    InvalidName,
    InvalidSettings,
    InvalidType,
    InvalidValue,
    LimitExceeded,
    LockLost,
    LockTimeout,
    PermissionDenied,
    ServerFull,
    ServerReadOnly,
    ServerRefused,
    StoreClosed,
    StoredDataError,
    StoreTimeout,
    StoreUnavailable,
    UnsupportedByServer,
    UnsupportedEncoding,
    WaitTimeout,
    WrongEventLoop,
    WrongKeyType,
    WrongValueType,
)
from redis_store.stats import StoreStats
from redis_store.store import DataStore
from redis_store.types import MISSING, NEVER, Change, Json, JsonInput, KeyInfo, Never, Ttl
from redis_store.watch.aio import AsyncWatch
from redis_store.watch.sync import Watch

__all__ = [
    "MISSING",
    "NEVER",
    "AccessDenied",
    "AsyncDataStore",
    "AsyncWatch",
    "AuthenticationFailed",
    "Change",
    "ComputeFailed",
    "Conflict",
    "ConnectOptions",
    "ConnectionLost",
    "CorruptValue",
    "DataStore",
    "DataStoreError",
    "EmbeddedServerError",
    "InvalidInput",
    "InvalidName",
    "InvalidSettings",
    "InvalidType",
    "InvalidValue",
    "Json",
    "JsonInput",
    "KeyInfo",
    "LimitExceeded",
    "LockLost",
    "LockTimeout",
    "Never",
    "PermissionDenied",
    "ServerFull",
    "ServerReadOnly",
    "ServerRefused",
    "StoreClosed",
    "StoreStats",
    "StoreTimeout",
    "StoreUnavailable",
    "StoredDataError",
    "Ttl",
    "UnsupportedByServer",
    "UnsupportedEncoding",
    "WaitTimeout",
    "Watch",
    "WrongEventLoop",
    "WrongKeyType",
    "WrongValueType",
    "connect",
    "connect_async",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())
