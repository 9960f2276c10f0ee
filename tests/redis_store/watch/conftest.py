"""One blocking interface to the watchers of threads and asyncio, so that each test is written once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from redis_store import AsyncDataStore, Change, DataStore, UnsupportedByServer, connect, connect_async
from redis_store.watch.aio import AsyncWatch
from redis_store.watch.sync import Watch
from tests.support.servers import Server

PATIENCE_S = 20.0
"""Longest wait for a change that a test expects, in seconds. It measures nothing."""


class Watcher:
    """A `Watch`, or an `AsyncWatch` in an event loop of its own."""

    def __init__(self, watch: Watch | AsyncWatch, loop: asyncio.AbstractEventLoop | None) -> None:
        self.watch = watch
        self._loop = loop
        if isinstance(watch, AsyncWatch):
            self.run(watch.begin())

    def run(self, result: Any) -> Any:
        return result if self._loop is None else self._loop.run_until_complete(result)

    def next(self, timeout: float = PATIENCE_S) -> Change:
        """Return the next change. Fails if none arrives."""
        change = self.run(self.watch.next_change(timeout))
        assert change is not None, "no change came"
        return change

    def until(self, wanted: Callable[[Change], bool]) -> list[Change]:
        """Return all changes up to the first that is wanted, with it."""
        found = [self.next()]
        while not wanted(found[-1]):
            found.append(self.next())
        return found

    def up_to(self, key: str) -> list[Change]:
        """Return all changes before the first one of a key."""
        return self.until(lambda change: change.key == key)[:-1]

    def take(self, most: int, timeout: float = PATIENCE_S) -> list[Change]:
        found: list[Change] = self.run(self.watch.take(most, timeout))
        return found

    def done(self, change: Change) -> None:
        self.run(self.watch.done(change))

    def close(self) -> None:
        self.run(self.watch.close())


class WatchSide:
    """A store of one side, sync or async, with a blocking interface."""

    def __init__(
        self, store: DataStore | AsyncDataStore, loop: asyncio.AbstractEventLoop | None, stack: ExitStack
    ) -> None:
        self.store = store
        self._loop = loop
        self._stack = stack

    def use_namespace(self, name: str) -> WatchSide:
        return WatchSide(self.store.use_namespace(name), self._loop, self._stack)

    def watch(self, *args: Any, **options: Any) -> Watcher:
        return self._opened(self.store.watch(*args, **options))

    def watch_all(self, *args: Any, **options: Any) -> Watcher:
        return self._opened(self.store.watch_all(*args, **options))

    def call(self, name: str, *args: Any, **options: Any) -> Any:
        result = getattr(self.store, name)(*args, **options)
        return result if self._loop is None else self._loop.run_until_complete(result)

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: self.call(name, *args, **options)

    def _opened(self, watch: Any) -> Watcher:
        watcher = Watcher(watch, self._loop)
        self._stack.callback(watcher.close)
        return watcher


OpenWatchSide = Callable[..., WatchSide]


@pytest.fixture(params=["sync", "async"])
def open_watch_side(request: pytest.FixtureRequest) -> Iterator[OpenWatchSide]:
    """Open a store of either side: ``open_watch_side(url, user="alice", ...)``. It is closed when the test ends."""
    with ExitStack() as stack:
        loop = None
        if request.param == "async":
            loop = asyncio.new_event_loop()
            stack.callback(loop.close)

        def open_one(url: str, **options: Any) -> WatchSide:
            options = {"configure_server": True, **options}
            if loop is None:
                return WatchSide(stack.enter_context(connect(url, **options)), None, stack)
            store = connect_async(url, **options)
            stack.callback(lambda: loop.run_until_complete(store.close()))
            return WatchSide(store, loop, stack)

        yield open_one


@pytest.fixture
def side(open_watch_side: OpenWatchSide, real_server: Server, user: str) -> WatchSide:
    """A store of either side, on each kind of server in turn, with keyspace events enabled."""
    return open_watch_side(real_server.url, user=user, agent="writer", run="r1")


@pytest.fixture
def raw(real_server: Server, raw_of: Callable[..., redis.Redis]) -> redis.Redis:
    """A plain client, for external writes."""
    return raw_of(real_server)


@pytest.fixture
def data(user: str) -> str:
    """The Redis key of the default namespace."""
    return f"user:{user}:ns:default"


def said(changes: list[Change]) -> list[tuple[Any, ...]]:
    """Return the operation, key and value of each change."""
    return [(change.op, change.key, change.value) for change in changes]


def refuses_ttl(side: WatchSide) -> None:
    """Check that a server without expiry of single keys refuses a ttl. It then has no expiries to notice."""
    with pytest.raises(UnsupportedByServer):
        side.set("k", 1, ttl=0.05)
