"""The runner of a hub, in the thread of a listener. Messages come from the listener; the hub's calls have their own connection.

The hub begins with the first watcher, and ends soon after the last.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Coroutine, Sequence
from functools import partial
from time import monotonic
from typing import Any

from redis_store.connections.resolver import Source, database_of
from redis_store.connections.sync import HeldConnection
from redis_store.connections.topology import Topology
from redis_store.drivers import listener as listeners
from redis_store.drivers.listener import LINGER_S, Listener
from redis_store.drivers.nodes import source_at
from redis_store.errors import DataStoreError
from redis_store.hub.hub import Hub
from redis_store.hub.mailbox import Mailbox
from redis_store.hub.requests import HubPause, Join, JoinAll, Leave, Request, Tell
from redis_store.hub.subscribers import Moving
from redis_store.protocol.call import Call
from redis_store.protocol.command import Command, ReplyError
from redis_store.protocol.error_replies import plainly_lost
from redis_store.protocol.redirects import first_redirection

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
        if (until := self._bring_back(now)) is not None:
            return until
        if self._session is None:
            self._hub.configures = any(each.configures for each in self._listener.sources.values())
            self._reading = self._listener.connect()
            self._session = self._hub.session()
        assert self._reading is not None
        self._reading.check()
        return self._run(self._session, self._reading)

    def lost(self, error: DataStoreError, *, were_made: bool) -> None:
        self._disconnect()
        topology = self._topology()
        if topology is not None:
            self._hub.patience_s = topology.timeout_s
            if not self._hand_over(topology):
                topology.doubt()
                topology.refresh_if_due()
                self._hand_over(topology)
        self._hub.disconnected(plainly_lost(error), were_made=were_made)

    def _bring_back(self, now: float) -> float | None:
        """Bring watchers back that were set apart, each after a while. Return the time to wait until if there are no others."""
        hub, topology = self._hub, self._topology()
        for apart in hub.apart[:]:
            if now < apart.due:
                continue
            hub.apart.remove(apart)
            for mailbox in apart.moving.mailboxes():
                if mailbox.left:
                    apart.moving.leave(mailbox)
            hub.members.adopt(apart.moving)
            if topology is not None:
                topology.refresh_if_due()
                self._hand_over(topology)
                hub.members.fail_late(apart.moving.mailboxes(), now, topology.timeout_s, plainly_lost(apart.error))
        if hub.apart and hub.members.some_user() is None and not hub.members.asked:
            return min(each.due for each in hub.apart)
        return None

    def adopt(self, moving: Moving) -> None:
        """Take watchers from the hub of another node."""
        self._hub.members.adopt(moving)

    def _source(self) -> Source | None:
        return next(iter(self._listener.sources.values()), None)

    def _topology(self) -> Topology | None:
        source = self._source()
        return None if source is None else source.resolver.topology

    def _hand_over(self, topology: Topology) -> bool:
        """Pass the watchers of users whose data is on other nodes to the hubs of these. Return whether there were any."""
        source = self._source()
        if source is None:
            return False
        here = source.resolver.node
        moved = False
        for user in self._hub.members.users().values():
            node = topology.owner(user.slot)
            if node is None or node == here or (here is None and not topology.spreads):
                continue
            moved = True
            moving, there = self._hub.members.release(user), source_at(source, node)
            for mailbox in moving.mailboxes():
                self._listener.sources.pop(id(mailbox), None)
            listeners.ask(partial(_adopt, moving, there), there, self._listener.timeout_s)
        return moved

    def _note(self, reply: Any, commands: Sequence[Command] = (("XREAD",),)) -> None:
        """Note where the slot of a user is, if a reply says so."""
        redirection, source = first_redirection(reply, commands), self._source()
        if redirection is not None and source is not None and source.resolver.topology is not None:
            source.resolver.topology.redirected(redirection, source.resolver.node)

    def abandon(self) -> None:
        for mailbox in self._hub.mailboxes():
            mailbox.close()
        if self._reading is not None:
            self._reading.close()

    def _run(self, session: Coroutine[Any, Any, None], reading: HeldConnection) -> float:
        hub = self._hub
        for message in self._messages:
            if isinstance(message, ReplyError):
                self._note(message)
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
                    if reading.standing.turned_away:
                        self._note(reply, step.commands)
                    self._listener.look_up()
                else:
                    self._tell(step)
                hub.set_clock(monotonic())
                step = session.send(reply)
        except StopIteration:
            self._disconnect()
            return 0.0
        until = min([step.until, *(each.due for each in hub.apart)])
        # A message that `look_up` has read meanwhile is no longer on the socket, so the thread would not wake up for it.
        self.deaf_until = step.deaf_until
        return 0.0 if self._messages else until

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
    mailbox.left = True
    listener = _listener_of.pop(id(mailbox), None)
    if listener is not None:
        listener.ask(partial(_ask, Leave(mailbox), None, listener))


def _adopt(moving: Moving, source: Source, listener: Listener) -> None:
    """Have the hub of a node take watchers from that of another."""
    mailboxes = moving.mailboxes()
    for mailbox in mailboxes:
        listener.sources[id(mailbox)] = source
        _listener_of[id(mailbox)] = listener
    tenant = listener.tenant = listener.tenant or HubRunner(listener, 0)
    assert isinstance(tenant, HubRunner), "there is no other kind"
    tenant.adopt(moving)
    for mailbox in mailboxes:
        if mailbox.left:  # meanwhile: its hub may have been asked before it had this watcher, or after
            _listener_of.pop(id(mailbox), None)
            _ask(Leave(mailbox), None, listener)


def _ask(request: Request, source: Source | None, listener: Listener) -> None:
    if source is None:
        listener.sources.pop(id(request.mailbox), None)
    else:
        listener.sources[id(request.mailbox)] = source
        listener.tenant = listener.tenant or HubRunner(listener, database_of(source.resolver.url))
    if listener.tenant is not None:
        listener.tenant.ask(request)
