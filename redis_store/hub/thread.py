"""The thread that runs a hub on two connections, and the hubs of this process: one for each server.

The thread begins with the first watcher and ends, with its connections, soon after the last. It replaces broken connections,
with the resolver of any current watcher; the hub then compares.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import select
import socket
import threading
from collections import deque
from time import monotonic
from typing import Any

from redis import connection as redis_connection

from redis_store.connections.listener import Listener
from redis_store.connections.resolver import Source
from redis_store.connections.spin import Spinner
from redis_store.connections.sync import HeldConnection
from redis_store.errors import ConnectionLost, DataStoreError
from redis_store.hub.hub import Hub
from redis_store.hub.mailbox import Mailbox
from redis_store.hub.requests import HubPause, Join, JoinAll, Leave, Request
from redis_store.protocol.call import Call, ReplyError
from redis_store.protocol.error_replies import raise_error_reply

_log = logging.getLogger("redis_store.watch.sync")

HUB_LINGER_S = 0.5
"""Time that an unused hub stays, in seconds, in case a watcher returns."""

_FIRST_RETRY_S = 0.05
_LONGEST_RETRY_S = 1.0


class HubThread:
    """One hub, its thread and its connections."""

    def __init__(self, key: str, database: int) -> None:
        self.key = key
        self._database = database
        self._hub = Hub(database, secrets.token_hex, _log.warning)
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._dropped: deque[Mailbox] = deque()
        self._sources: dict[int, Source] = {}
        self._told, self._teller = socket.socketpair()
        self._told.setblocking(False)
        self._teller.setblocking(False)
        self._listener: Listener | None = None
        self._reading: HeldConnection | None = None
        self._retry_s = _FIRST_RETRY_S
        self._spinner = Spinner()
        self._were_made = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="redis-store-watch", daemon=True)
        self._thread.start()

    def ask(self, request: Request, source: Source | None) -> None:
        """Queue a watcher's request. Called from any thread, under the lock of `_hubs`."""
        with self._lock:
            self._requests.append(request)
            if source is not None:
                self._sources[id(request.mailbox)] = source
            else:
                self._sources.pop(id(request.mailbox), None)
        self.wake()

    def drop(self, mailbox: Mailbox) -> None:
        """Stop serving a watcher that was garbage-collected. Takes no lock."""
        self._dropped.append(mailbox)
        self.wake()

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            self._teller.send(b"!")

    def abandon(self) -> None:
        """Close this process's copies of the parent's connections and sockets. Called in a forked child."""
        self._ended = True
        for mailbox in self._hub.mailboxes():
            mailbox.close()
        if self._listener is not None:
            self._listener.close()
        if self._reading is not None:
            self._reading.close()
        self._told.close()
        self._teller.close()

    def _run(self) -> None:
        try:
            while not self._may_end():
                try:
                    self._connect()
                    self._drive()
                except DataStoreError as error:
                    self._lost(error)
        except BaseException as error:
            _log.exception("The hub's thread failed. All its watchers are closed.")
            self._end_all(error)
        finally:
            self._disconnect()
            self._told.close()
            self._teller.close()

    def _connect(self) -> None:
        source = self._any_source()
        address = source.resolver.address()
        self._hub.configures = any(each.configures for each in list(self._sources.values()))
        self._reading = HeldConnection(address, self._spinner)
        self._listener = Listener(address)
        self._were_made = True

    def _any_source(self) -> Source:
        with self._lock:
            for source in self._sources.values():
                return source
        raise ConnectionLost("No watcher needs a connection.")

    def _drive(self) -> None:
        """Run the hub's session until the hub is unused or a connection breaks."""
        hub, reading, listener = self._hub, self._reading, self._listener
        assert reading is not None
        assert listener is not None
        self._pass_requests()
        session = hub.session()
        try:
            hub.set_clock(monotonic())
            step = session.send(None)
            while True:
                reply: Any = None
                if type(step) is HubPause:
                    if not hub.unused:
                        self._listen(listener, step.until)
                    elif self._rest():
                        return
                elif isinstance(step, Call):
                    try:
                        reply = reading.exchange(step.commands, True)
                        if type(reply) is ReplyError or len(step.commands) > 1:
                            raise_error_reply(reply, step.commands)
                    except DataStoreError as error:
                        hub.set_clock(monotonic())
                        step = session.throw(error)
                        continue
                    self._retry_s = _FIRST_RETRY_S
                else:
                    listener.tell(step.command)
                hub.set_clock(monotonic())
                step = session.send(reply)
        except StopIteration:
            return
        finally:
            session.close()
            self._disconnect()

    def _listen(self, listener: Listener, until: float) -> None:
        """Wait for messages or requests until a time."""
        ready = self._poll(until - monotonic(), listener.sock)
        if listener.sock.fileno() in ready:
            listener.drain(self._hub.heard)
        self._pass_requests()

    def _poll(self, wait_s: float, *socks: socket.socket) -> set[int]:
        poller = select.poll()
        for sock in (self._told, *socks):
            poller.register(sock, select.POLLIN)
        ready = {descriptor for descriptor, _ in poller.poll(max(0.0, wait_s * 1000))}
        if self._told.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._told.recv(4096)
        return ready

    def _pass_requests(self) -> None:
        while self._dropped:
            self.ask(Leave(self._dropped.popleft()), None)
        if self._requests:
            with self._lock:
                requests, self._requests = self._requests, []
            for request in requests:
                self._hub.ask(request)

    def _rest(self) -> bool:
        """Wait a little for a watcher to return. Return True if the hub is still unused."""
        self._poll(HUB_LINGER_S)
        self._pass_requests()
        return self._hub.unused

    def _lost(self, error: DataStoreError) -> None:
        self._disconnect()
        self._pass_requests()
        self._hub.disconnected(error, were_made=self._were_made)
        self._were_made = False
        if self._hub.unused:
            return
        if self._retry_s == _LONGEST_RETRY_S / 2:
            _log.warning("Watching was interrupted; reconnecting: %s", error)
        end = monotonic() + self._retry_s
        self._retry_s = min(_LONGEST_RETRY_S, self._retry_s * 2)
        while (left := end - monotonic()) > 0 and not self._requests:
            self._poll(left)
        self._pass_requests()

    def _may_end(self) -> bool:
        self._pass_requests()
        with _hubs_lock:
            with self._lock:
                if self._requests or self._dropped or not self._hub.unused:
                    return False
            self._ended = True
            if _hubs.get(self.key) is self:
                del _hubs[self.key]
            return True

    def _end_all(self, error: BaseException) -> None:
        with _hubs_lock:
            self._ended = True
            if _hubs.get(self.key) is self:
                del _hubs[self.key]
        self._pass_requests()
        for mailbox in self._hub.mailboxes():
            mailbox.close()

    def _disconnect(self) -> None:
        listener, self._listener = self._listener, None
        reading, self._reading = self._reading, None
        if listener is not None:
            listener.close()
        if reading is not None:
            reading.close()


_hubs: dict[str, HubThread] = {}
_hubs_lock = threading.Lock()


def join(request: Join | JoinAll, source: Source, timeout_s: float | None) -> None:
    """Have the hub of its server serve a watcher."""
    url = source.resolver.url
    key = f"{url} {timeout_s}"
    with _hubs_lock:
        hub = _hubs.get(key)
        if hub is None:
            hub = _hubs[key] = HubThread(key, database_of(url))
        hub.ask(request, source)
    _hub_of[id(request.mailbox)] = hub


def leave(mailbox: Mailbox) -> None:
    """Stop serving a watcher. Repeating it is harmless."""
    with _hubs_lock:
        hub = _hub_of.pop(id(mailbox), None)
        if hub is not None:
            hub.ask(Leave(mailbox), None)


def let_go(mailbox: Mailbox) -> None:
    """Stop serving a watcher, from a finalizer: it may run at any point, even while this thread holds the lock of `_hubs`."""
    hub = _hub_of.pop(id(mailbox), None)
    if hub is not None:
        hub.drop(mailbox)


_hub_of: dict[int, HubThread] = {}


def database_of(url: str) -> int:
    """Return the database number in a URL, as redis-py reads it. Keyspace channels contain it."""
    database: int = redis_connection.parse_url(url).get("db", 0)
    return database


def _after_fork_in_child() -> None:
    global _hubs_lock
    _hubs_lock = threading.Lock()
    for hub in [*_hubs.values()]:
        hub.abandon()
    _hubs.clear()
    _hub_of.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)

__all__ = ["HubThread", "Source", "database_of", "join", "leave", "let_go"]
