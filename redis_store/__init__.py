"""A data store on Redis or Valkey, shared by the agents of one user.

from redis_store import connect

with connect(user="alice", agent="indexer") as data_store:
    data_store.set("greeting", {"text": "hello"})
"""

import logging

from redis_store import errors
from redis_store._connect import ConnectOptions, connect, connect_async
from redis_store.aio import AsyncDataStore
from redis_store.errors import *  # noqa: F403
from redis_store.stats import StoreStats
from redis_store.store import DataStore
from redis_store.types import MISSING, NEVER, Change, Json, JsonInput, KeyInfo, Never, Ttl
from redis_store.watch.aio import AsyncWatch
from redis_store.watch.sync import Watch

__all__ = [
    "MISSING",
    "NEVER",
    "AsyncDataStore",
    "AsyncWatch",
    "Change",
    "ConnectOptions",
    "DataStore",
    "Json",
    "JsonInput",
    "KeyInfo",
    "Never",
    "StoreStats",
    "Ttl",
    "Watch",
    "connect",
    "connect_async",
]
__all__ += errors.__all__

logging.getLogger(__name__).addHandler(logging.NullHandler())
