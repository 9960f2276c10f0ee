"""Following the changes of all users, for threads: the connections of the finders, one for each server that holds keys."""

from __future__ import annotations

import contextlib
import logging
import secrets
import select
import socket
import threading
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from math import inf
from time import monotonic
from typing import Any, Self

from redis_store.admin.follow import ChangeFinder, Progress
from redis_store.admin.records import ChangeRecord
from redis_store.admin.usage import check_time
from redis_store.connections.resolver import Source, database_of
from redis_store.connections.spin import Spinner
from redis_store.connections.sync import HeldConnection
from redis_store.drivers.nodes import source_at
from redis_store.errors import (
    AuthenticationFailed,
    ConnectionLost,
    InvalidInput,
    PermissionDenied,
    StoreClosed,
    StoreUnavailable,
)
from redis_store.limits import check_timeout
from redis_store.protocol.call import Op
from redis_store.protocol.drive import drive
from redis_store.protocol.redirects import Node
from redis_store.server_config import WISHED_FLAGS

_log = logging.getLogger("redis_store")

LOOKS_APART_S = 0.005
"""Shortest time between two reads of the logs, in seconds, so that a busy writer costs the server few reads."""

AWAY_S = 15.0
"""Time for which a server may be away, in seconds. After that, following ends with an error."""

NODES_S = 5.0
"""Interval at which the nodes of a cluster are looked up, in seconds."""

_ATTEMPTS_APART_S = 0.1
_LONGEST_PAUSE_S = 1.0
_SUBSCRIBED_S = 5.0

_NOT_SURE = (
    "The server does not announce all changes (%s), so they are looked for about once a second, or less often if there is much"
    " data. To have them at once, set notify-keyspace-events to %s."
)


class _Server:
    """A server, and what follows it."""

    def __init__(self, source: Source, finder: ChangeFinder) -> None:
        self.source = source
        self.finder = finder
        self._spinner = Spinner()
        self.listening: HeldConnection | None = None
        self._reading: HeldConnection | None = None

    def connect(self) -> None:
        """Connect and subscribe."""
        self.disconnect()
        self.finder.refused = None
        listening = self.listening = HeldConnection(self.source.resolver.address(), self._spinner)
        self._reading = HeldConnection(self.source.resolver.address(), self._spinner)
        confirmed: list[Any] = []
        listening.send(("PSUBSCRIBE", self.finder.pattern))
        end = monotonic() + _SUBSCRIBED_S
        while not confirmed:
            if monotonic() > end:
                raise ConnectionLost(f"The server at {listening.shown} did not confirm a subscription.")
            poller = select.poll()
            poller.register(listening, select.POLLIN)
            poller.poll(1000 * _SUBSCRIBED_S)
            listening.receive(confirmed.append)
        for message in confirmed:
            self.finder.heard(message)

    def run(self, op: Op[Any]) -> Any:
        """Run an operation of the finder."""
        reading = self._reading
        if reading is None:
            op.close()
            raise ConnectionLost("The connection is closed.")
        self.finder.now = monotonic()
        return drive(op, lambda call: reading.exchange(call.commands, True), Exception)

    def hear(self) -> None:
        """Pass on the messages that have come. Raises `ConnectionLost` if a connection has ended or is stale."""
        if self.listening is None or self._reading is None:
            raise ConnectionLost("The connection is closed.")
        self.listening.check()
        self._reading.check()
        self.listening.receive(self.finder.heard)

    def end(self) -> None:
        self.disconnect()
        self.finder.stop()

    def disconnect(self) -> None:
        for each in (self.listening, self._reading):
            if each is not None:
                each.close()
        self.listening = self._reading = None


class FollowedChanges(Iterator[ChangeRecord]):
    """An iterator over the changes of all users, as they come. Made by `Admin.follow_changes`; a context manager.

    One thread at a time may take changes. `close`, from any thread, ends it. While the server is away it waits, up to 15 seconds,
    and then goes on without a loss; after that it raises `StoreUnavailable`.
    """

    def __init__(self, source: Source, user: str | None, namespace: str | None, since: datetime | None) -> None:
        check_time(since, "since")
        self._source = source
        self._told = Progress()
        self._new_finder = partial(
            ChangeFinder, database_of(source.resolver.url), user, namespace, self._told, secrets.token_hex(8)
        )
        self._new_finder()  # raises for what is no user or namespace
        self._servers: dict[Node | None, _Server] = {}
        self._found: deque[ChangeRecord] = deque()
        self._looked_at = self._nodes_at = 0.0
        self._away_since: float | None = None
        self._warned = self._closed = False
        self._turn = threading.Lock()
        self._rung, self._bell = socket.socketpair()
        self._bell.setblocking(False)
        try:
            self._connect(None if since is None else max(0, int(since.timestamp() * 1000)))
        except BaseException:
            self.close()
            raise

    def take(self, timeout: float | None = None) -> list[ChangeRecord]:
        """Wait for changes and return those that are there, or an empty list after `timeout` seconds.

        Raises `StoreClosed` after `close`.
        """
        limit_s = check_timeout(timeout)
        if not self._turn.acquire(blocking=False):
            raise InvalidInput("Another thread takes changes already: let one thread take them.")
        try:
            self._wait_for_some(inf if limit_s is None else monotonic() + limit_s)
            found = list(self._found)
            self._found.clear()
            return found
        finally:
            self._turn.release()
            if self._closed:
                self.close()

    def close(self) -> None:
        """End it. A thread that waits for a change gets none. Repeating it is harmless."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._bell.send(b"!")
        if self._turn.acquire(blocking=False):  # else the thread that waits does this
            try:
                self._end()
            finally:
                self._turn.release()

    def __next__(self) -> ChangeRecord:
        if not self._found:
            try:
                self._found.extend(self.take())
            except StoreClosed:
                raise StopIteration from None
        return self._found.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<FollowedChanges{' (closed)' if self._closed else ''}>"

    def _wait_for_some(self, deadline: float) -> None:
        while not self._found:
            if self._closed:
                raise StoreClosed("The changes are not followed any more: close was called.")
            try:
                until = self._work()
            except (PermissionDenied, AuthenticationFailed):
                raise
            except StoreUnavailable as error:
                until = self._lost(error)
            now = monotonic()
            if self._found or now >= deadline:
                return
            if until > now:
                self._pause(min(until, deadline), deaf=self._away_since is not None)

    def _work(self) -> float:
        """Do one step on each server. Return the time until which to wait for messages; the past if there is more to do."""
        now = monotonic()
        if self._away_since is not None:
            self._refresh()
            self._connect(None)
            self._away_since = None
        elif now >= self._nodes_at:
            self._nodes_at = now + NODES_S
            if self._refresh():
                self._connect(None)
        if (due := self._looked_at + LOOKS_APART_S) > now:
            self._pause(due, deaf=True)
        until = inf
        for server in self._servers.values():
            server.hear()
            found = server.run(server.finder.step())
            if found is None:
                until = min(until, server.finder.until)
            else:
                until = 0.0
                self._found.extend(found)
                if found:
                    self._looked_at = monotonic()
        return until

    def _pause(self, until: float, *, deaf: bool) -> None:
        """Wait for a time or `close`, and unless `deaf` for a message."""
        poller = select.poll()
        poller.register(self._rung, select.POLLIN)
        for server in () if deaf else self._servers.values():
            if server.listening is not None:
                poller.register(server.listening, select.POLLIN)
        poller.poll(max(0.0, min(until - monotonic(), _LONGEST_PAUSE_S)) * 1000)

    def _lost(self, error: StoreUnavailable) -> float:
        """Note that a server is away. Return the time of the next attempt, or raise the error if there is none."""
        now = monotonic()
        for server in self._servers.values():
            server.disconnect()
        if self._away_since is None:
            self._away_since = now
            _log.warning("The changes cannot be followed now, and are looked for again: %s", error)
        elif now - self._away_since > AWAY_S:
            raise error
        return now + _ATTEMPTS_APART_S

    def _refresh(self) -> bool:
        """Read the table of slots of a cluster again. Return whether it has other nodes now."""
        topology = self._source.resolver.topology
        if topology is None:
            return False
        topology.doubt()
        topology.refresh_if_due()
        return self._sources().keys() != self._servers.keys()

    def _sources(self) -> dict[Node | None, Source]:
        topology = self._source.resolver.topology
        if topology is None or not topology.spreads:
            return {None: self._source}
        return {node: source_at(self._source, node) for node in topology.primaries}

    def _connect(self, since_ms: int | None) -> None:
        """Connect to each server. A new one goes on where the others began, unless there are none."""
        sources = self._sources()
        for node in self._servers.keys() - sources.keys():
            self._servers.pop(node).end()
        floors = [server.finder.floor_ms for server in self._servers.values()]
        for node, source in sources.items():
            server = self._servers.get(node)
            if server is None:
                server = _Server(source, self._new_finder())
                try:
                    server.connect()
                    begin_ms = min(floors) if since_ms is None and floors else since_ms
                    server.run(server.finder.begin(begin_ms, source.configures))
                except BaseException:
                    server.end()
                    raise
                self._servers[node] = server
            else:
                server.connect()
                server.run(server.finder.resume())
            self._warn_of(server.finder)

    def _warn_of(self, finder: ChangeFinder) -> None:
        if not (finder.sure or self._warned):
            self._warned = True
            why = "it lacks flags" if finder.refused is None else str(finder.refused).rstrip(".")
            _log.warning(_NOT_SURE, why, WISHED_FLAGS)

    def _end(self) -> None:
        for server in self._servers.values():
            server.end()
        self._servers.clear()
        self._rung.close()
        self._bell.close()
