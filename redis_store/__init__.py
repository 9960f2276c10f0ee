"""A data store on Redis or Valkey, shared by the agents of one user.

from redis_store import connect

with connect(user="alice", agent="indexer") as data_store:
    data_store.set("greeting", {"text": "hello"})
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from redis_store import errors
from redis_store.errors import *  # noqa: F403
from redis_store.types import (
    MISSING,
    NEVER,
    Change,
    Json,
    JsonInput,
    KeyInfo,
    Missing,
    Never,
    ServerInfo,
    Ttl,
)
from redis_store.values.printable import PrintableRecords

if TYPE_CHECKING:
    from redis_store.aio import AsyncDataStore
    from redis_store.clients.aio import AsyncClient, connect_async
    from redis_store.clients.options import ClientOptions, ConnectOptions
    from redis_store.clients.sync import Client, connect
    from redis_store.locks import AsyncLock, AsyncRateLimit, AsyncSemaphore, Lock, RateLimit, Semaphore
    from redis_store.memo import AsyncCacheDecorator, AsyncCachedFunction, CacheDecorator, CachedFunction
    from redis_store.namespace.fit import bytes_from_json, bytes_to_json, fit_name
    from redis_store.sequence import AsyncStoredSequence, StoredSequence
    from redis_store.stats import StoreStats
    from redis_store.store import DataStore
    from redis_store.transaction import AsyncTransaction, Transaction
    from redis_store.watch.aio import AsyncWatch
    from redis_store.watch.sync import Watch

__all__ = [
    "MISSING",
    "NEVER",
    "AsyncCacheDecorator",
    "AsyncCachedFunction",
    "AsyncClient",
    "AsyncDataStore",
    "AsyncLock",
    "AsyncRateLimit",
    "AsyncSemaphore",
    "AsyncStoredSequence",
    "AsyncTransaction",
    "AsyncWatch",
    "CacheDecorator",
    "CachedFunction",
    "Change",
    "Client",
    "ClientOptions",
    "ConnectOptions",
    "DataStore",
    "Json",
    "JsonInput",
    "KeyInfo",
    "Lock",
    "Missing",
    "Never",
    "RateLimit",
    "Semaphore",
    "ServerInfo",
    "StoreStats",
    "StoredSequence",
    "Transaction",
    "Ttl",
    "Watch",
    "bytes_from_json",
    "bytes_to_json",
    "connect",
    "connect_async",
    "fit_name",
]
__all__ += errors.__all__

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())
logging.getLogger(__name__).addFilter(PrintableRecords())
logging.getLogger(f"{__name__}.watch.sync").addFilter(PrintableRecords())  # a filter sees its own logger's records only

_LATER = {
    "aio": ("AsyncDataStore",),
    "clients.aio": ("AsyncClient", "connect_async"),
    "clients.options": ("ClientOptions", "ConnectOptions"),
    "clients.sync": ("Client", "connect"),
    "locks": ("AsyncLock", "AsyncRateLimit", "AsyncSemaphore", "Lock", "RateLimit", "Semaphore"),
    "memo": ("AsyncCacheDecorator", "AsyncCachedFunction", "CacheDecorator", "CachedFunction"),
    "namespace.fit": ("bytes_from_json", "bytes_to_json", "fit_name"),
    "sequence": ("AsyncStoredSequence", "StoredSequence"),
    "stats": ("StoreStats",),
    "store": ("DataStore",),
    "transaction": ("AsyncTransaction", "Transaction"),
    "watch.aio": ("AsyncWatch",),
    "watch.sync": ("Watch",),
}
"""Modules that are imported when one of their names is first used: with redis-py and asyncio they take most of the time."""
_FOUND_IN = {name: module for module, names in _LATER.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _FOUND_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f"{__name__}.{_FOUND_IN[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
