"""The runner of a hub, in the thread of a listener. Messages come from the listener; the hub's calls have their own connection.

The hub begins with the first watcher, and ends soon after the last.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Coroutine
from functools import partial
from time import monotonic
from typing import Any

from redis_store.connections.resolver import Source, database_of
from redis_store.connections.sync import HeldConnection
from redis_store.drivers import listener as listeners
from redis_store.drivers.listener import LINGER_S, Listener
from redis_store.errors import DataStoreError
from redis_store.hub.hub import Hub
from redis_store.hub.mailbox import Mailbox
from redis_store.hub.requests import HubPause, Join, JoinAll, Leave, Request, Tell
from redis_store.protocol.call import Call

_log = logging.getLogger("redis_store.watch.sync")


class HubRunner:
    """One hub and the connection for its calls. All methods but `abandon` run in the listener's thread."""

    def __init__(self, listener: Listener, database: int) -> None:
        self._listener = listener
        self._hub = Hub(database, secrets.token_hex, _log.warning)
        self._session: Coroutine[Any, Any, None] | None = None
        self._messages: list[Any] = []
        """Messages that have arrived since the hub paused."""
        self._reading: HeldConnection | None = None
        self._blocking: HeldConnection | None = None
        """The connection for ``XREAD``, if the server sends no events."""
        self._end_at = math.inf
        self.deaf_until = 0.0
        self.ask = self._hub.ask
        self.heard = self._messages.append

    def work(self) -> float:
        """Run the hub's session until it pauses. Return infinity when it has been unused for a while."""
        now = monotonic()
        if self._hub.unused:
            self._end_at = min(self._end_at, now + LINGER_S)
            if self._session is not None and now < self._end_at:
                return self._end_at
            self._disconnect()
            return math.inf
        self._end_at = math.inf
        if self._session is None:
            self._hub.configures = any(each.configures for each in self._listener.sources.values())
            self._reading = self._listener.connect()
            self._session = self._hub.session()
        assert self._reading is not None
        self._reading.check()
        return self._run(self._session, self._reading)

    def lost(self, error: DataStoreError, *, were_made: bool) -> None:
        self._disconnect()
        self._hub.disconnected(error, were_made=were_made)

    def abandon(self) -> None:
        for mailbox in self._hub.mailboxes():
            mailbox.close()
        if self._reading is not None:
            self._reading.close()

    def _run(self, session: Coroutine[Any, Any, None], reading: HeldConnection) -> float:
        hub = self._hub
        for message in self._messages:
            hub.heard(message)
        self._messages.clear()
        hub.set_clock(monotonic())
        try:
            step = session.send(None)
            while type(step) is not HubPause:
                reply: Any = None
                if isinstance(step, Call):
                    try:
                        reply = reading.exchange(step.commands, True)
                    except DataStoreError as error:
                        hub.set_clock(monotonic())
                        step = session.throw(error)
                        continue
                    self._listener.look_up()
                else:
                    self._tell(step)
                hub.set_clock(monotonic())
                step = session.send(reply)
        except StopIteration:
            self._disconnect()
            return 0.0
        # A message that `look_up` has read meanwhile is no longer on the socket, so the thread would not wake up for it.
        self.deaf_until = step.deaf_until
        return 0.0 if self._messages else step.until

    def _tell(self, step: Tell) -> None:
        if not step.blocks:
            self._listener.tell(step.command, self.heard)
            return
        if self._blocking is None:
            self._blocking = self._listener.connect_to_block(self.heard)
        self._blocking.send(step.command)

    def _disconnect(self) -> None:
        if self._session is not None:
            self._session.close()
        if self._reading is not None:
            self._reading.close()
        self._session = self._reading = self._blocking = None  # the last is closed with the listener's connection
        self._messages.clear()


_listener_of: dict[int, Listener] = {}
"""The listeners that serve watchers, by the `id` of their mailboxes."""


def join(request: Join | JoinAll, source: Source, timeout_s: float | None) -> None:
    """Have the hub of its server serve a watcher."""
    _listener_of[id(request.mailbox)] = listeners.ask(partial(_ask, request, source), source, timeout_s)


def leave(mailbox: Mailbox) -> None:
    """Stop serving a watcher. Repeating it is harmless. Takes no lock, because a finalizer may call this at any point."""
    listener = _listener_of.pop(id(mailbox), None)
    if listener is not None:
        listener.ask(partial(_ask, Leave(mailbox), None, listener))


def _ask(request: Request, source: Source | None, listener: Listener) -> None:
    if source is None:
        listener.sources.pop(id(request.mailbox), None)
    else:
        listener.sources[id(request.mailbox)] = source
        listener.tenant = listener.tenant or HubRunner(listener, database_of(source.resolver.url))
    if listener.tenant is not None:
        listener.tenant.ask(request)
