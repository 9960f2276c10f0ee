"""The listener: a thread, and one connection for all that a server sends unasked to this process.

It wakes waiting flows (`drivers/wakeups.py`), for which scripts publish messages, and runs the hub (`hub/run_hub.py`). It begins
with the first waiter or watcher, and ends with its connections soon after the last. It replaces broken connections, with the
resolver of any current waiter or watcher.
"""

from __future__ import annotations

import contextlib
import logging
import math
import select
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Protocol

from redis_store.connections import forks
from redis_store.connections.resolver import Source
from redis_store.connections.spin import Spinner
from redis_store.connections.sync import HeldConnection
from redis_store.errors import ConnectionLost, DataStoreError
from redis_store.flows.renewing import start_thread
from redis_store.protocol.command import Command, ReplyError
from redis_store.protocol.error_replies import translate

_log = logging.getLogger("redis_store.watch.sync")

LINGER_S = 0.5
"""Time for which unused connections stay open, in seconds, in case a waiter or a watcher comes."""

REFUSED_S = 60.0
"""Time before flows subscribe again after the server refused it, in seconds."""

_WAITERS_POLL = (
    "The server does not let this login subscribe, so waits for locks, values and computations poll, and end up to half a second"
    " late: allow SUBSCRIBE, and the channels user:*. (%s)"
)

_FIRST_RETRY_S = 0.05
_LONGEST_RETRY_S = 1.0

Heard = Callable[[Any], None]


class Wakeup:
    """One flow's subscription to the message that wakes it."""

    def __init__(self, channel: bytes, word: bytes, ring: Callable[[], None]) -> None:
        self.channel = channel
        self.word = word
        self.ring = ring
        self.live = False
        """Whether the subscription is active, so that the flow may poll less often."""


class Tenant(Protocol):
    """Work that the thread does besides waking flows. It ends itself by setting `Listener.tenant` to None."""

    deaf_until: float
    """The time before which no message changes its work."""

    def ask(self, request: Any) -> None:
        """Take a request."""

    def work(self) -> float:
        """Work until there is nothing to do. Return the time until which to wait."""

    def heard(self, reply: Any) -> None:
        """Take a message for a channel without a waiter."""

    def lost(self, error: DataStoreError, *, were_made: bool) -> None:
        """Note that the connections are gone, or could not be made."""

    def abandon(self) -> None:
        """End everything that waits for it, because the thread is gone."""


class Listener:
    """The thread, its connection, and the channels that waiting flows are subscribed to."""

    def __init__(self, key: str, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s
        self.sources: dict[int, Source] = {}
        """The server's address, from each store with a waiter or a watcher, by the `id` of its `Wakeup` or mailbox."""
        self.tenant: Tenant | None = None
        self._key = key
        self._requests: deque[Callable[[], object]] = deque()
        self._told, self._teller = socket.socketpair()
        self._told.setblocking(False)
        self._teller.setblocking(False)
        self._spinner = Spinner()
        self._subscribed: HeldConnection | None = None
        self._connections: dict[HeldConnection, Heard] = {}
        """The connection with the subscriptions and the tenant's, with the functions that take what arrives."""
        self._unanswered: deque[tuple[Heard, int]] = deque()
        """For each command on the connection with the subscriptions, the function that takes its replies, and their number."""
        self._wakeups: dict[bytes, set[Wakeup]] = {}
        self._linger_until = 0.0
        self._connected_at = 0.0
        self._retry_s = _FIRST_RETRY_S
        forks.inherited.add(self)
        start_thread(self._run, "redis-store-listener")

    def ask(self, request: Callable[[], object]) -> None:
        """Have the thread call a function. Takes no lock, because a finalizer may call this at any point."""
        self._requests.append(request)
        with contextlib.suppress(OSError):
            self._teller.send(b"!")

    def leave_to_parent(self) -> None:
        """Close a forked child's copies of the descriptors. The parent's thread goes on using its own."""
        self._leave_registry()
        if self.tenant is not None:
            self.tenant.abandon()
        for connection in self._connections:
            connection.close()
        self._told.close()
        self._teller.close()

    # Called in the thread.

    def add(self, wakeup: Wakeup, source: Source) -> None:
        """Wake a flow from now on."""
        self.sources[id(wakeup)] = source
        there = self._wakeups.setdefault(wakeup.channel, set())
        there.add(wakeup)
        if len(there) > 1:
            wakeup.live = any(other.live for other in there)
            wakeup.ring()
        elif self._subscribed is not None:
            self.tell(("SUBSCRIBE", wakeup.channel), self._heard_subscription)

    def remove(self, wakeup: Wakeup) -> None:
        self.sources.pop(id(wakeup), None)
        there = self._wakeups.get(wakeup.channel, set())
        there.discard(wakeup)
        if not there and self._wakeups.pop(wakeup.channel, None) is not None:
            self._linger_until = monotonic() + LINGER_S
            if self._subscribed is not None:
                self.tell(("UNSUBSCRIBE", wakeup.channel), self._heard_subscription)

    def connect(self) -> HeldConnection:
        """Return a new connection, for the tenant's calls."""
        for source in self.sources.values():
            return HeldConnection(source.resolver.address(), self._spinner)
        raise ConnectionLost("No waiter and no watcher needs a connection.")

    def tell(self, command: Command, heard: Heard) -> None:
        """Send a SUBSCRIBE or UNSUBSCRIBE of channels. Its replies go to `heard`: one for each channel, or an error."""
        if self._subscribed is None:
            self._subscribed = self.connect()
            self._connections[self._subscribed] = self._heard
            self._connected_at = monotonic()
            self._unanswered.clear()
        self._subscribed.send(command)
        self._unanswered.append((heard, len(command) - 1))

    def connect_to_block(self, heard: Heard) -> HeldConnection:
        """Return a connection on which the tenant may block, in place of its subscriptions. Waiting flows subscribe anew."""
        subscribed, self._subscribed = self._subscribed, None
        if subscribed is not None:
            del self._connections[subscribed]
            subscribed.close()
            self._silence()
        connection = self.connect()
        self._connections[connection] = heard
        return connection

    def look_up(self) -> None:
        """Serve flows in the middle of the tenant's work, so that they do not wait for its end."""
        while self._requests:
            self._requests.popleft()()
        if self._wakeups:
            if self._subscribed is None:
                for channel in self._wakeups:
                    self.tell(("SUBSCRIBE", channel), self._heard_subscription)
            assert self._subscribed is not None
            self._subscribed.receive(self._heard)

    def _run(self) -> None:
        try:
            while not self._may_end():
                try:
                    self._serve()
                except DataStoreError as error:
                    self._lost(error)
        except BaseException:
            _log.exception("The listener failed. All watchers are closed.")
            with forks.registries_lock:
                self._leave_registry()
            self._silence()
            if self.tenant is not None:
                self.tenant.abandon()
        finally:
            self._disconnect()
            self._told.close()
            self._teller.close()

    def _serve(self) -> None:
        """Deliver messages and let the tenant work, until there is nobody to serve or a connection breaks."""
        while True:
            for connection in self._connections:
                connection.check()
            self.look_up()
            until = math.inf if self.tenant is None else self.tenant.work()
            if until == math.inf and self.tenant is not None:
                self.tenant = None
                self._disconnect()
            elif until < math.inf or self._wakeups:
                self._listen(until)
            elif monotonic() < self._linger_until:
                self._listen(self._linger_until)
            else:
                return

    def _listen(self, until: float) -> None:
        """Wait for messages or requests until a time, and take the messages. Only for requests, if no message is of use yet."""
        poller = select.poll()
        poller.register(self._told, select.POLLIN)
        if self.tenant is not None and not self._wakeups and self.tenant.deaf_until > monotonic():
            until = min(until, self.tenant.deaf_until)
        else:
            for connection in self._connections:
                poller.register(connection, select.POLLIN)
        wait_ms = None if until == math.inf else max(0.0, (until - monotonic()) * 1000)
        ready = {descriptor for descriptor, _ in poller.poll(wait_ms)}
        if self._told.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._told.recv(4096)
        for connection, heard in self._connections.items():
            if connection.fileno() in ready:
                connection.receive(heard)

    def _heard(self, reply: Any) -> None:
        if isinstance(reply, list) and reply[0] == b"message":
            if reply[1] in self._wakeups:
                for wakeup in self._wakeups[reply[1]]:
                    if reply[2] == wakeup.word:
                        wakeup.ring()
            elif self.tenant is not None:
                self.tenant.heard(reply)
            return
        if not self._unanswered:
            raise ConnectionLost("The server sent a reply without a request")
        heard, replies = self._unanswered.popleft()
        if replies > 1 and not isinstance(reply, ReplyError):
            self._unanswered.appendleft((heard, replies - 1))
        heard(reply)

    def _heard_subscription(self, reply: Any) -> None:
        if isinstance(reply, ReplyError):
            if self._key not in _refused_until:
                _log.warning(_WAITERS_POLL, translate(reply, (("SUBSCRIBE",),)))
            _refused_until[self._key] = monotonic() + REFUSED_S
            self._silence()
            self._wakeups.clear()
        elif reply[0] == b"subscribe":
            for wakeup in self._wakeups.get(reply[1], ()):
                wakeup.live = True
                wakeup.ring()

    def _silence(self) -> None:
        """Tell every flow that no messages come now, so that it polls."""
        for there in self._wakeups.values():
            for wakeup in there:
                wakeup.live = False
                wakeup.ring()

    def _lost(self, error: DataStoreError) -> None:
        were_made = bool(self._connections)
        if were_made and monotonic() - self._connected_at > _LONGEST_RETRY_S:
            self._retry_s = _FIRST_RETRY_S
        self._disconnect()
        while self._requests:
            self._requests.popleft()()
        if self.tenant is not None:
            self.tenant.lost(error, were_made=were_made)
            if self._retry_s < _LONGEST_RETRY_S <= 2 * self._retry_s:
                _log.warning("Watching was interrupted; reconnecting: %s", error)
        end = monotonic() + self._retry_s
        self._retry_s = min(_LONGEST_RETRY_S, self._retry_s * 2)
        while monotonic() < end and not self._requests:
            self._listen(end)

    def _disconnect(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._subscribed = None
        self._silence()

    def _may_end(self) -> bool:
        with forks.registries_lock:
            if self._requests or self._wakeups or self.tenant is not None:
                return False
            self._leave_registry()
            return True

    def _leave_registry(self) -> None:
        if _listeners.get(self._key) is self:
            del _listeners[self._key]


_listeners: dict[str, Listener] = {}
_refused_until: dict[str, float] = {}
"""The times, by `time.monotonic`, at which flows may subscribe again on servers that refused it."""


def ask(request: Callable[[Listener], object], source: Source, timeout_s: float | None) -> Listener:
    """Have the listener of a server call a function in its thread, and return the listener. It begins if there is none."""
    key = f"{source.resolver.login} {timeout_s}"
    with forks.registries_lock:
        listener = _listeners.get(key)
        if listener is None:
            listener = _listeners[key] = Listener(key, timeout_s)
        listener.ask(partial(request, listener))
    return listener


def wake(wakeup: Wakeup, source: Source, timeout_s: float | None) -> Listener | None:
    """Have a flow woken. Return None if the server recently refused to send messages."""
    if _refused_until.get(f"{source.resolver.login} {timeout_s}", 0.0) > monotonic():
        return None
    return ask(lambda listener: listener.add(wakeup, source), source, timeout_s)
