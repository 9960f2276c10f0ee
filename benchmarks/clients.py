"""The clients of both sides on one server: our stores and redis-py's clients, blocking and asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import redis
import redis.asyncio

from redis_store import AsyncDataStore, DataStore, connect, connect_async

USER = "bench"


@dataclass(frozen=True, slots=True)
class Clients:
    """Connected clients of both sides; the asyncio ones belong to `loop`."""

    store: DataStore
    astore: AsyncDataStore
    bare: redis.Redis
    abare: redis.asyncio.Redis
    loop: asyncio.AbstractEventLoop

    def run(self, awaitable: object) -> object:
        """Run an awaitable in the loop of the asyncio clients."""
        return self.loop.run_until_complete(awaitable)


@contextmanager
def connected(port: int, loop: asyncio.AbstractEventLoop, url: str | None = None) -> Iterator[Clients]:
    """Connect all clients to a port of this machine, or our stores to a url."""
    url = url or f"redis://127.0.0.1:{port}"
    with connect(url, user=USER, agent="bench") as store, redis.Redis(port=port) as bare:
        astore = connect_async(url, user=USER, agent="bench")
        abare = redis.asyncio.Redis(port=port, max_connections=1100)
        try:
            yield Clients(store, astore, bare, abare, loop)
        finally:
            loop.run_until_complete(astore.close())
            loop.run_until_complete(abare.aclose())
