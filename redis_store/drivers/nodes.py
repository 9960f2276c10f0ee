"""On a cluster: what a client has for each node, and the way of a call to the node that carries it out."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Generic, TypeVar

from redis_store.connections import forks
from redis_store.connections.resolver import NodeResolver, Resolver, Source
from redis_store.errors import ConnectionLost, DataStoreError, ServerRefused, StoreUnavailable
from redis_store.flows.clock import LEAST_REPLY_S
from redis_store.protocol.command import Command
from redis_store.protocol.error_replies import plainly_lost, raise_error_reply
from redis_store.protocol.redirects import Journey, Node, Redirection, first_redirection

T = TypeVar("T")

logger = logging.getLogger("redis_store")


class Nodes(Generic[T]):
    """What a client has for each node of its cluster, made when it is first needed. It stays while the client does."""

    def __init__(self, first: T, make: Callable[[Source], T]) -> None:
        self.first = first
        """What it had before it was known to be a cluster's."""
        self._make = make
        self._made: dict[Node, T] = {}

    def at(self, node: Node, source: Source) -> T:
        """Return what there is for a node. `source` is that of any node."""
        found = self._made.get(node)
        if found is None:
            with forks.registries_lock:
                found = self._made.get(node)
                if found is None:
                    found = self._made[node] = self._make(source_at(source, node))
        return found

    def all(self) -> list[T]:
        """Return what there is, the first included."""
        with forks.registries_lock:
            return [self.first, *self._made.values()]


def source_at(source: Source, node: Node) -> Source:
    """Return the source of another node."""
    resolver = source.resolver
    if resolver.node == node:
        return source
    if isinstance(resolver, NodeResolver):
        return Source(resolver.at(node), source.configures)
    topology = resolver.find_topology()
    assert topology is not None, "a node is known"
    return Source(NodeResolver(resolver, topology, node), source.configures)


class Following:
    """An operation or a call on its way to the node that has the user's data: where to try next, and how long to wait before."""

    def __init__(
        self, resolver: Resolver, slot: int | None, commands: Sequence[Command], patience_s: float | None
    ) -> None:
        topology = resolver.find_topology()
        assert topology is not None, "it is known to be a cluster"
        self.topology = topology
        self.journey = Journey(commands)
        self._slot = slot
        most_s = topology.timeout_s if patience_s is None else min(patience_s, topology.timeout_s)
        self._patience_s = patience_s
        self._until = monotonic() + most_s
        self._hops = 0
        self._pause_s = _FIRST_WAIT_S
        self._at_once = False
        self.anew = False
        """Whether a connection broke, so that others probably did too."""
        self._problem: DataStoreError = ConnectionLost("Nothing was sent by this call.")

    @property
    def asking(self) -> bool:
        """Whether the node to try has the keys, and not yet the slot."""
        return self.journey.redirection.asking

    @property
    def most_s(self) -> float | None:
        """The time that the next attempt may take, in seconds; None for the time-out alone. It is never too short for a reply."""
        return None if self._patience_s is None else max(LEAST_REPLY_S, self._left_s)

    @property
    def _left_s(self) -> float:
        return self._until - monotonic()

    def broke(self, error: StoreUnavailable) -> None:
        """Note that a connection broke before anything was carried out. The server may just have closed it after a rest."""
        self.anew = self._at_once = True
        self.journey.redirection = Redirection()
        self._problem = error

    def failed(self, error: StoreUnavailable) -> None:
        """Note that no connection to a node could be made, or that another one broke."""
        if self._hops == 0:
            logger.info("a node of the cluster is not reached; asking where its data is now: %s", error)
        self.anew = True
        self.journey.redirection = Redirection(elsewhere=True)
        self._problem = error

    def turned_away(self, reply: Any, commands: Sequence[Command], node: Node | None) -> None:
        """Note that a node has refused some of these commands, in a way that is to be followed."""
        redirection = self.topology.redirected(first_redirection(reply, commands) or Redirection(), node)
        self.journey.redirection = redirection
        self.anew = False
        self._at_once = redirection.node is not None
        self._problem = _error_in(reply, commands)

    def replied(self, reply: Any, node: Node | None) -> bool:
        """Take the reply of a node to ``journey.next()``. Return whether the call has ended."""
        if self.journey.replied(reply):
            return True
        self.turned_away(*self.journey.refused, node)
        return False

    def pause(self) -> float:
        """Return the time to wait before the next attempt. If there is no time left for one, raise what went wrong last."""
        self._hops += 1
        at_once, self._at_once = self._at_once and self._hops <= _AT_ONCE, False
        pause_s = 0.0
        if not at_once:
            pause_s = self._pause_s * random.uniform(0.5, 1.0)  # so that callers do not come back all at once
            self._pause_s = min(2 * self._pause_s, _LONGEST_WAIT_S)
        if pause_s >= self._left_s:
            raise copy.copy(self._problem)
        if self.must_look:
            self.topology.doubt()
        return pause_s

    @property
    def must_look(self) -> bool:
        """Whether the table of slots is to be read before the next attempt."""
        return self.journey.redirection.elsewhere

    def node(self) -> Node:
        """Return the node to try next. Raises `StoreUnavailable`, mostly, if none is known."""
        node = self.journey.redirection.node or self.topology.owner(self._slot)
        if node is None:
            raise self.topology.none_has(self._slot)
        return node


def is_of_cluster(reply: Any, resolver: Resolver) -> bool:
    """Whether a node that refuses a call is one of a cluster. Raises if it was none when the form of the keys was found out."""
    if resolver.topology is not None:
        return True
    if resolver.form.tagged is not False:
        return resolver.find_topology() is not None
    if any(str(part).startswith(_ONLY_CLUSTERS) for part in (reply if isinstance(reply, list) else [reply])):
        raise ServerRefused(
            "The server is a cluster, and was none when this process first connected: start the process again. Nothing was"
            " written."
        )
    return False


def _error_in(reply: Any, commands: Sequence[Command]) -> DataStoreError:
    try:
        raise_error_reply(reply, commands)
    except DataStoreError as error:
        return plainly_lost(error)
    return ConnectionLost("The cluster has refused the call: nothing was written by it. Try again.")


_ONLY_CLUSTERS = ("MOVED ", "ASK ")

_FIRST_WAIT_S = 0.01
_LONGEST_WAIT_S = 0.25
_AT_ONCE = 3
"""Attempts that may follow without a pause. More redirections come only while nodes disagree."""


class TurnedAway(BaseException):
    """The end of an operation whose connection leads to a node that refuses it. A driver runs it again, elsewhere."""

    def __init__(self, reply: Any, commands: Sequence[Command], node: Node | None) -> None:
        super().__init__()
        self.reply = reply
        self.commands = commands
        self.node = node
