"""The reply to a request on the control channel, for a waiting thread or task.

The agent's signal handlers may raise at any point, so nothing here has a lock that a handler could leave held, as a
`threading.Event` and a `concurrent.futures.Future` do.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Reply:
    """The reply to one request. The control thread sets it; one thread or task waits for it."""

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.error: Exception | None = None
        self._is_set = False
        self._rings: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._wake: Callable[[], object] | None = None

    def set(self, parts: list[Any], error: Exception | None) -> None:
        self.parts, self.error = parts, error
        self._is_set = True
        self._rings.put(None)
        if self._wake is not None:
            self._wake()

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until it is set. Return False if that takes longer than the timeout."""
        if not self._is_set:
            with suppress(queue.Empty):
                self._rings.get(timeout=timeout_s)
        return self._is_set

    async def wait_async(self) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def done() -> None:
            if not future.done():
                future.set_result(None)

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed, and its waiting task is gone
                loop.call_soon_threadsafe(done)

        self._wake = wake
        if not self._is_set:  # looked at after `_wake` was set, as `set` does it the other way round
            await future
