"""Wake-ups for waiting flows: the script that ends a wait (in `scripts`) publishes a message.

All waiting flows of a process on one server share a connection and a thread. These start with the first flow that has waited
for a while, and end soon after the last. A message may be lost with the connection, and the server may forbid subscribing. So
waiters also poll, more often when pub/sub is unavailable; a lost message only costs latency.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from redis_store.connections.listener import Listener
from redis_store.connections.resolver import Source
from redis_store.errors import DataStoreError
from redis_store.flows.flow import Pause
from redis_store.protocol.call import ReplyError

SLEEPS_FIRST = 3
"""Number of pauses before a flow subscribes. Most waits end within them, and a subscription costs more."""

SUBSCRIBER_LINGER_S = 1.0
"""Time for which an unused connection stays open, in seconds."""

_SUBSCRIBE_RETRY_S = 0.5
_REFUSED_S = 60.0
"""Time before subscribing is tried again after the server refused it, in seconds."""


class Wakeup:
    """One flow's subscription to the message that wakes it."""

    def __init__(self, channel: bytes, word: bytes, ring: Callable[[], None], source: Source) -> None:
        self.channel = channel
        self.word = word
        self.ring = ring
        self.source = source
        """The server's address, from a store that stays open during the wait."""
        self.live = False
        """Whether the subscription is active, so that the flow may poll less often."""


class Subscriber:
    """The connection that listens for all waiting flows, and its thread."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._listener: Listener | None = None
        self._news: deque[tuple[Wakeup, bool]] = deque()
        self._wakeups: dict[bytes, set[Wakeup]] = {}
        self._told, self._teller = socket.socketpair()
        self._told.setblocking(False)
        self._teller.setblocking(False)
        self.refused_until = 0.0
        self.ended = False
        threading.Thread(target=self._run, name="redis-store-wakeups", daemon=True).start()

    def add(self, wakeup: Wakeup) -> None:
        self._tell(wakeup, True)

    def remove(self, wakeup: Wakeup) -> None:
        self._tell(wakeup, False)

    def abandon(self) -> None:
        """Close a forked child's copies of the descriptors. The parent's thread goes on using its own."""
        if self._listener is not None:
            self._listener.close()
        self._told.close()
        self._teller.close()

    def _tell(self, wakeup: Wakeup, wanted: bool) -> None:
        self._news.append((wakeup, wanted))
        with contextlib.suppress(OSError):
            self._teller.send(b"!")

    def _run(self) -> None:
        while not self._may_end():
            self._take_news(None)
            if not self._wakeups:
                continue
            any_of_them, *_ = next(iter(self._wakeups.values()))
            try:
                self._listener = Listener(any_of_them.source.resolver.address())
                self._listen(self._listener)
            except DataStoreError:
                self._lose()
                self._poll(_SUBSCRIBE_RETRY_S)
                self._take_news(None)
            finally:
                listener, self._listener = self._listener, None
                if listener is not None:
                    listener.close()
        self._told.close()
        self._teller.close()

    def _listen(self, listener: Listener) -> None:
        """Subscribe and deliver messages until no flow waits or subscribing is refused."""
        for channel in self._wakeups:
            listener.tell(("SUBSCRIBE", channel))
        while True:
            self._take_news(listener)
            ready = self._poll(None if self._wakeups else SUBSCRIBER_LINGER_S, listener.sock)
            if listener.sock.fileno() in ready:
                listener.drain(self._heard)
            if not ready and not self._news and not self._wakeups:
                return
            if self.refused_until:
                self._lose()
                return

    def _take_news(self, listener: Listener | None) -> None:
        while self._news:
            wakeup, wanted = self._news.popleft()
            there = self._wakeups.get(wakeup.channel)
            if wanted:
                if there is None:
                    self._wakeups[wakeup.channel] = {wakeup}
                    if listener is not None:
                        listener.tell(("SUBSCRIBE", wakeup.channel))
                else:
                    there.add(wakeup)
                    wakeup.live = any(other.live for other in there)
                    wakeup.ring()
            elif there is not None:
                there.discard(wakeup)
                if not there:
                    del self._wakeups[wakeup.channel]
                    if listener is not None:
                        listener.tell(("UNSUBSCRIBE", wakeup.channel))

    def _heard(self, reply: Any) -> None:
        if isinstance(reply, ReplyError):  # the server refuses the subscription
            self.refused_until = monotonic() + _REFUSED_S
            return
        if not isinstance(reply, list) or len(reply) != 3:
            return
        kind, channel, payload = reply
        for wakeup in self._wakeups.get(channel, ()):
            if kind == b"subscribe":
                wakeup.live = True
                wakeup.ring()
            elif kind == b"message" and payload == wakeup.word:
                wakeup.ring()

    def _lose(self) -> None:
        """Tell every flow that no more messages come, so that it polls."""
        for there in self._wakeups.values():
            for wakeup in there:
                wakeup.live = False
                wakeup.ring()

    def _poll(self, wait_s: float | None, *socks: socket.socket) -> set[int]:
        poller = select.poll()
        for sock in (self._told, *socks):
            poller.register(sock, select.POLLIN)
        ready = {descriptor for descriptor, _ in poller.poll(None if wait_s is None else wait_s * 1000)}
        if self._told.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._told.recv(4096)
        return ready

    def _may_end(self) -> bool:
        with _lock:
            if self._news or self._wakeups:
                if not self.refused_until:
                    return False
                self._take_news(None)
            self.ended = True
            if not self.refused_until and _subscribers.get(self._key) is self:
                del _subscribers[self._key]
            return True


_subscribers: dict[str, Subscriber] = {}
_lock = threading.Lock()


def _subscribe(wakeup: Wakeup, timeout_s: float | None) -> Subscriber | None:
    """Subscribe for a flow and return the subscriber, or None if the server recently refused."""
    key = f"{wakeup.source.resolver.url} {timeout_s}"
    with _lock:
        subscriber = _subscribers.get(key)
        if subscriber is not None and subscriber.refused_until > monotonic():
            return None
        if subscriber is None or subscriber.ended:
            subscriber = _subscribers[key] = Subscriber(key)
        subscriber.add(wakeup)
        return subscriber


class _Pauses:
    """The pauses of one flow; `ring` ends the current one."""

    def __init__(self, source: Source, timeout_s: float | None, ring: Callable[[], None]) -> None:
        self._source = source
        self._timeout_s = timeout_s
        self._ring = ring
        self._sleeps_left = SLEEPS_FIRST
        self._wakeup: Wakeup | None = None
        self._subscriber: Subscriber | None = None

    def close(self) -> None:
        """Unsubscribe, and end the current pause. Idempotent."""
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is not None and self._wakeup is not None:
            subscriber.remove(self._wakeup)
        self._ring()

    def _seconds(self, step: Pause) -> float:
        """Return the length of the pause, unless it is woken.

        A pause during which the subscription becomes active ends at that moment, so that the flow polls once more.
        """
        if not step.channel or self._sleeps_left > 0:
            self._sleeps_left -= 1
            return step.seconds
        if self._wakeup is None:
            self._wakeup = Wakeup(step.channel, step.word, self._ring, self._source)
            self._subscriber = _subscribe(self._wakeup, self._timeout_s)
        # After `close` nothing rings: the store is closing, and the next poll raises that.
        return step.woken_s if self._wakeup.live and self._subscriber is not None else step.seconds


class SyncPauses(_Pauses):
    """The pauses of a flow that runs in a thread."""

    def __init__(self, source: Source, timeout_s: float | None) -> None:
        self._rung = threading.Event()
        super().__init__(source, timeout_s, self._rung.set)

    def pause(self, step: Pause) -> None:
        seconds = self._seconds(step)
        if self._wakeup is None:
            time.sleep(seconds)
        else:
            self._rung.wait(seconds)
            self._rung.clear()


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
            await asyncio.wait_for(self._rung.wait(), seconds)
        self._rung.clear()

    def _ring_from_anywhere(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so no flow waits
            self._loop.call_soon_threadsafe(self._rung.set)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    for subscriber in _subscribers.values():
        subscriber.abandon()
    _subscribers.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
