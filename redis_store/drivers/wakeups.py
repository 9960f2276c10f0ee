"""Pauses of waiting flows, which a message ends: the script that ends a wait (in `scripts`) publishes it.

The listener receives the messages, once a flow has waited for a while. A message may be lost with the connection, and the
server may forbid subscribing. So waiters also poll, more often when pub/sub is unavailable; a lost message only costs latency.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import Callable
from functools import partial

from redis_store.connections.resolver import Source
from redis_store.drivers.listener import Listener, Wakeup, wake
from redis_store.flows.flow import Pause

SLEEPS_FIRST = 3
"""Number of pauses before a flow subscribes. Most waits end within them, and a subscription costs more."""


class Alarm:
    """An event for one waiting thread. Unlike a `threading.Event`, a signal handler may set it at any point of that thread."""

    def __init__(self) -> None:
        self._rings: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """End the wait, or the next one."""
        self._rings.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until it is set, and clear it."""
        with contextlib.suppress(queue.Empty):
            self._rings.get(timeout=max(0.0, seconds))
            while True:
                self._rings.get_nowait()


class _Pauses:
    """The pauses of one flow; `ring` ends the current one."""

    def __init__(self, source: Source, timeout_s: float | None, ring: Callable[[], None]) -> None:
        self._source = source
        self._timeout_s = timeout_s
        self._ring = ring
        self._sleeps_left = SLEEPS_FIRST
        self._wakeup: Wakeup | None = None
        self._listener: Listener | None = None

    def close(self) -> None:
        """Unsubscribe, and end the current pause. Idempotent."""
        listener, self._listener = self._listener, None
        if listener is not None and self._wakeup is not None:
            listener.ask(partial(listener.remove, self._wakeup))
        self._ring()

    def _seconds(self, step: Pause) -> float:
        """Return the length of the pause, unless it is woken.

        A pause during which the subscription becomes active ends at that moment, so that the flow polls once more.
        """
        if not step.channel or self._sleeps_left > 0:
            self._sleeps_left -= 1
            return step.seconds
        if self._wakeup is None:
            self._wakeup = Wakeup(step.channel, step.word, self._ring)
            self._listener = wake(self._wakeup, self._source, self._timeout_s)
        # After `close` nothing rings: the store is closing, and the next poll raises that.
        return step.woken_s if self._wakeup.live and self._listener is not None else step.seconds


class SyncPauses(_Pauses):
    """The pauses of a flow that runs in a thread."""

    def __init__(self, source: Source, timeout_s: float | None) -> None:
        self._rung = Alarm()
        super().__init__(source, timeout_s, self._rung.set)

    def pause(self, step: Pause) -> None:
        seconds = self._seconds(step)
        if self._wakeup is None:
            time.sleep(seconds)
        else:
            self._rung.wait(seconds)


class AsyncPauses(_Pauses):
    """The pauses of a flow that runs in an asyncio task."""

    def __init__(self, source: Source, timeout_s: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()
        super().__init__(source, timeout_s, self._ring_from_anywhere)

    async def pause(self, step: Pause) -> None:
        seconds = self._seconds(step)
        if self._wakeup is None:
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            # `asyncio.wait_for` of Python 3.11 swallows a cancellation that comes with the message.
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        self._rung.clear()

    def _ring_from_anywhere(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so no flow waits
            self._loop.call_soon_threadsafe(self._rung.set)
