"""Following the changes of all users, for asyncio: a thread of its own does it, so that a busy event loop misses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from types import TracebackType
from typing import Self

from redis_store.admin.follow_sync import FollowedChanges
from redis_store.admin.records import ChangeRecord
from redis_store.connections.resolver import Source
from redis_store.errors import StoreClosed
from redis_store.flows.renewing import start_thread
from redis_store.limits import check_timeout

MOST_UNREAD = 10_000
"""Changes that wait to be taken, about, before the thread reads no more."""


class AsyncFollowedChanges(AsyncIterator[ChangeRecord]):
    """An asynchronous iterator over the changes of all users, as they come. Made by `AsyncAdmin.follow_changes`.

    Also a context manager: it begins with ``async with``, or with the first request for a change, and earlier changes come only
    with `since`. While the server is away it waits, up to 15 seconds, and then goes on without a loss; after that it raises
    `StoreUnavailable`.
    """

    def __init__(
        self, source: Callable[[], Awaitable[Source]], user: str | None, namespace: str | None, since: datetime | None
    ) -> None:
        self._source = source
        self._what = (user, namespace, since)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._room = threading.Event()
        self._found: deque[ChangeRecord] = deque()
        self._following: FollowedChanges | None = None
        self._error: BaseException | None = None
        self._closed = False

    async def begin(self) -> Self:
        """Begin to follow. Every change after this returns is seen. Repeating it is harmless."""
        if self._loop is None:
            source = await self._source()
            self._loop = asyncio.get_running_loop()
            start_thread(lambda: self._follow(source), "redis-store-follower")
        while self._following is None and self._error is None:
            await self._next_news(None)
        if self._error is not None and not self._found:
            raise self._error
        return self

    async def take(self, timeout: float | None = None) -> list[ChangeRecord]:
        """Wait for changes and return those that are there, or an empty list after `timeout` seconds.

        Raises `StoreClosed` after `close`.
        """
        limit_s = check_timeout(timeout)
        await self.begin()
        if not self._found:
            with contextlib.suppress(TimeoutError):
                await self._next_news(limit_s)
        found = [self._found.popleft() for _ in range(len(self._found))]
        self._room.set()
        if not found and self._error is not None:
            raise self._error
        return found

    async def close(self) -> None:
        """End it. A task that waits for a change gets none. Repeating it is harmless."""
        self._closed = True
        self._error = self._error or StoreClosed("The changes are not followed any more: close was called.")
        self._room.set()
        self._news.set()
        if self._following is not None:
            self._following.close()

    async def __anext__(self) -> ChangeRecord:
        try:
            await self.begin()
            while not self._found:
                if self._error is not None:
                    raise self._error
                await self._next_news(None)
        except StoreClosed:
            raise StopAsyncIteration from None
        self._room.set()
        return self._found.popleft()

    async def __aenter__(self) -> Self:
        return await self.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncFollowedChanges{' (closed)' if self._closed else ''}>"

    async def _next_news(self, limit_s: float | None) -> None:
        """Wait until the thread has begun, found something or ended."""
        async with asyncio.timeout(limit_s):
            await self._news.wait()
        self._news.clear()

    def _follow(self, source: Source) -> None:
        """Run in the thread."""
        try:
            with FollowedChanges(source, *self._what) as following:
                self._following = following
                self._ring()
                while not self._closed:
                    self._found.extend(following.take())
                    self._ring()
                    while len(self._found) >= MOST_UNREAD and not self._closed:
                        self._room.clear()
                        self._room.wait(1.0)
        except BaseException as error:
            self._error = self._error or error
        self._ring()

    def _ring(self) -> None:
        assert self._loop is not None, "the thread is started by a task"
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:  # the loop is closed, and its waiting tasks are gone
            self._closed = True
