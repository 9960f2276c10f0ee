"""The sync, async and brokered store, each with the blocking methods of `DataStore`, so that a test is written once."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from redis_store import AsyncDataStore, DataStore
from redis_store.mapping import StoreMapping

SIDES = ("sync", "async", "sandbox")
SIDES_OF_THE_HOST = ("sync", "async")
SIDES_WITH_FUNCTIONS = ("sync", "async", "brokered")
"""The sides on which a test's functions run; ``brokered`` is the agent's store without an agent process."""


class SyncSide:
    """`DataStore` with lists in place of iterators."""

    name = "sync"

    def __init__(self, store: DataStore) -> None:
        self.store = store

    def use_namespace(self, name: str, ttl: Any = None) -> SyncSide:
        return SyncSide(self.store.use_namespace(name, ttl))

    def as_mapping(self) -> StoreMapping:
        """The store as a dict-like object."""
        return self.store

    def __getattr__(self, name: str) -> Any:
        return _materializing(getattr(self.store, name))


class AsyncSide:
    """`AsyncDataStore`, driven by an event loop that runs only during each call."""

    name = "async"

    def __init__(self, store: AsyncDataStore, loop: asyncio.AbstractEventLoop) -> None:
        self.store = store
        self._loop = loop

    def use_namespace(self, name: str, ttl: Any = None) -> AsyncSide:
        return AsyncSide(self.store.use_namespace(name, ttl), self._loop)

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.store, name)
        if inspect.isasyncgenfunction(member):
            return lambda *args, **kwargs: self._loop.run_until_complete(_collected(member(*args, **kwargs)))
        if inspect.iscoroutinefunction(member):
            return lambda *args, **kwargs: self._loop.run_until_complete(member(*args, **kwargs))
        return member


def _materializing(member: Any) -> Any:
    if not callable(member):
        return member

    def call(*args: Any, **kwargs: Any) -> Any:
        result = member(*args, **kwargs)
        return list(result) if isinstance(result, Iterator) else result

    return call


async def _collected(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


Side = Any
"""A `SyncSide`, an `AsyncSide` or a `tests.support.agent_side.AgentSide`."""

OpenSide = Callable[..., Side]
"""Opens a user's store: ``open_side(user="alice", namespace="default", agent=None)``."""
