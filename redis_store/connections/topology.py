"""Redis Cluster: its urls, and which node has which hash slots.

A user's keys are in one slot, so a store talks to one node at a time. The table of slots is read when it is first needed, and
again when a node was not reached, or has sent a call to another node: in the call that noticed, one reader at a time.
"""

from __future__ import annotations

import copy
import logging
import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

from redis import exceptions as redis_errors

from redis_store.connections import forks
from redis_store.connections.address import A_NODE, Address, another_node, parse_one_of, without_secrets
from redis_store.connections.credentials import Credentials
from redis_store.connections.sync import ask_once
from redis_store.connections.tls import check_files
from redis_store.errors import (
    AuthenticationFailed,
    ConnectionLost,
    DataStoreError,
    InvalidSettings,
    PermissionDenied,
    StoreUnavailable,
)
from redis_store.namespace.keys import SLOTS
from redis_store.protocol.redirects import Node, Redirection

logger = logging.getLogger("redis_store")

_PATIENCE_S = 1.0
"""Maximum time to wait for each reply of one node that is asked for the table, in seconds: the others may be alive."""

_APART_S = 0.1
"""Shortest time between two readings of the table, in seconds."""

_OLD_S = 60.0
"""Age at which the table is read again by the next store that looks at the server, in seconds, though nothing contradicts it."""

_CLUSTER_FORM = "redis+cluster://host:6379,host:6379"


class Topology:
    """What the process knows about one cluster. Thread-safe."""

    def __init__(self, seeds: Sequence[Address]) -> None:
        self._seeds = tuple(seeds)
        self._owners: list[Node | None] = [None] * SLOTS
        self.primaries: tuple[Node, ...] = ()
        """The nodes that have slots."""
        self.version = 0
        """Grows when a slot is found at another node than before."""
        self._order: list[Address] = list(seeds)
        """The nodes to ask for the table, in turn."""
        self._addresses: dict[Node, Address] = {}
        self._reading = threading.RLock()
        self._read_at = 0.0
        self._outcome: DataStoreError | None = None
        self._stale = True
        self._fresh_for_s = _OLD_S
        forks.inherited.add(self)

    @property
    def shown(self) -> str:
        """The url without secrets, for messages."""
        return self._seeds[0].shown

    @property
    def timeout_s(self) -> float:
        return self._seeds[0].timeout_s

    @property
    def spreads(self) -> bool:
        """Whether several nodes have slots."""
        return len(self.primaries) > 1

    def owner(self, slot: int | None) -> Node | None:
        """Return the node of a slot as far as known, or of any slot; None if none is known."""
        if slot is None:
            return self.primaries[0] if self.primaries else None
        return self._owners[slot]

    def address_of(self, node: Node) -> Address:
        """Return the address of a node."""
        address = self._addresses.get(node)
        if address is None:
            host = node.host or self._seeds[0].options.get("host", "localhost")
            address = self._addresses[node] = another_node(self._seeds[0], host, node.port)
        return address

    def redirected(self, redirection: Redirection, said_by: Node | None) -> Redirection:
        """Note what a node says about a slot. Return it with the host of that node, if it names none."""
        node = redirection.node
        if node is not None and not node.host and said_by is not None:
            node = Node(said_by.host, node.port)
        if redirection.slot is not None and node is not None:
            self.moved(redirection.slot, node)
        return redirection._replace(node=node)

    def moved(self, slot: int, node: Node) -> None:
        """Note that a slot is at another node, as a node says."""
        if self._owners[slot] != node:
            self._owners[slot] = node
            self.version += 1
            if node not in self.primaries:
                self.primaries = (*self.primaries, node)
            self._stale = True

    def doubt(self) -> None:
        """Note that the table may be wrong, because a node was not reached or refuses."""
        self._stale = True

    @property
    def is_due(self) -> bool:
        """Whether the table was contradicted, or is old."""
        return self._stale or monotonic() - self._read_at > self._fresh_for_s

    def refresh_if_due(self) -> None:
        """Read the table if that `is_due`. Never raises `StoreUnavailable`: the former table stays."""
        if self.is_due:
            try:
                self.refresh()
            except StoreUnavailable as error:
                logger.info("the cluster's table of slots could not be read again; the former one stays: %s", error)

    def refresh(self, *, at_once: bool = False) -> None:
        """Read the table from the first node that replies. Callers that come meanwhile share the outcome.

        A table that was just read is kept, unless it is to be read `at_once`.
        """
        came_at = monotonic()
        with self._reading:
            now = monotonic()
            apart_s = 0.0 if at_once or not self.primaries else _APART_S * random.uniform(0.5, 1)
            if self._read_at >= came_at or now - self._read_at < apart_s:
                if self._outcome is not None:
                    raise copy.copy(self._outcome)
                return
            self._outcome = None
            try:
                self._read()
            except DataStoreError as error:
                self._outcome = copy.copy(error)
                raise
            finally:
                self._read_at = monotonic()
                self._fresh_for_s = _OLD_S * random.uniform(0.8, 1.2)

    def leave_to_parent(self) -> None:
        """Start over in a forked child: a thread of the parent may have held the lock."""
        self._reading = threading.RLock()

    def learn(self, reply: Any, asked: Address) -> None:
        """Take a reply to ``CLUSTER SLOTS``. Raises `InvalidSettings` if it is none."""
        asked_host: str = asked.options.get("host", "localhost")
        owners: list[Node | None] = [None] * SLOTS
        others: list[Node] = []
        try:
            for first, last, *nodes in reply:
                owner, *replicas = [_node(each[0], each[1], asked_host) for each in nodes]
                owners[first : last + 1] = [owner] * (last + 1 - first)
                others += [each for each in replicas if each is not None]
        except (ValueError, TypeError, AttributeError, IndexError):
            raise InvalidSettings(f"The server at {self.shown} sent no table of slots that can be read.") from None
        primaries = tuple(dict.fromkeys(owner for owner in owners if owner is not None))
        gone = set(self.primaries) - set(primaries)
        if self.primaries and gone:
            logger.info(
                "nodes of the cluster without slots now: %s", ", ".join(f"{each.host}:{each.port}" for each in gone)
            )
        if owners != self._owners:
            self.version += 1
        self._owners, self.primaries, self._stale = owners, primaries, False
        nodes = dict.fromkeys((*primaries, *others))
        # The next reading begins at another node: this one may be cut off from the others, or be the next to fail.
        addresses = [self.address_of(each) for each in nodes]
        start = next((at + 1 for at, each in enumerate(addresses) if each.known is asked.known), 0)
        self._order = [*addresses[start:], *addresses[:start], *self._seeds]

    def _read(self) -> None:
        problems: list[DataStoreError] = []
        tried: set[int] = set()
        until = monotonic() + self.timeout_s
        for address in list(self._order):
            if id(address.known) in tried or (problems and monotonic() > until):
                continue
            tried.add(id(address.known))
            try:
                self.learn(_slots_of(_hurried(address)), address)
                return
            except DataStoreError as error:
                problems.append(error)
        raise self._failure(problems)

    def _failure(self, problems: Sequence[DataStoreError]) -> DataStoreError:
        for kind in (AuthenticationFailed, PermissionDenied, InvalidSettings):
            for problem in problems:
                if isinstance(problem, kind):
                    return problem
        if len({str(problem) for problem in problems}) == 1:
            return problems[0]
        said = "; ".join(dict.fromkeys(str(problem).replace(self.shown, "it").rstrip(".") for problem in problems))
        return ConnectionLost(f"No node of the cluster at {self.shown} tells where its data is ({said}). Try again.")

    def none_has(self, slot: int | None) -> DataStoreError:
        """Return the error for a slot of which no node is known to have it."""
        if not self.primaries and self._outcome is not None:
            return copy.copy(self._outcome)
        return ConnectionLost(
            f"No node of the cluster at {self.shown} has the hash slot of this user ({slot}): nothing was sent by this call."
            " Assign the slot, for example with redis-cli --cluster fix."
        )


def _node(host: bytes | None, port: int, asked_host: str) -> Node | None:
    """Return a node as it is announced: without a host, it has that of the node which was asked; ``?`` is an unknown one."""
    name = (host or b"").decode()
    if type(port) is not int:
        raise TypeError
    return None if name == "?" else Node(name or asked_host, port)


def _hurried(address: Address) -> Address:
    patience_s = min(_PATIENCE_S, address.timeout_s)
    options = {**address.options, "socket_timeout": patience_s, "socket_connect_timeout": patience_s}
    return replace(address, timeout_s=patience_s, options=options)


def _slots_of(address: Address) -> Any:
    try:
        return ask_once(address, "CLUSTER", "SLOTS")
    except redis_errors.ResponseError as error:
        text = str(error).rstrip(".")
        if "cluster support disabled" in text.lower() or "unknown command" in text.lower():
            scheme = address.url.partition("://")[0].replace("+cluster", "")
            raise InvalidSettings(
                f"The server at {address.shown} is no node of a cluster: write {scheme}:// for a single server."
            ) from None
        if isinstance(error, redis_errors.NoPermissionError):
            raise PermissionDenied(
                f"The cluster at {address.shown} does not allow CLUSTER SLOTS to this login, which tells where the data is:"
                " allow it (ACL SETUSER ... +cluster|slots)."
            ) from None
        raise ConnectionLost(f"The node refuses to tell its slots ({text})") from None


_topologies: dict[str, Topology] = {}
"""The clusters that this process knows, by login."""


def known_topology(login: str) -> Topology | None:
    """Return the cluster of a login, if the process knows that it is one."""
    return _topologies.get(login)


def topology_of(login: str, seeds: Sequence[Address]) -> Topology:
    """Return the cluster of a login, which all stores of the process share."""
    return known_topology(login) or _topologies.setdefault(login, Topology(seeds))


def parse_cluster(
    url: str, timeout_s: float | None, credentials: Credentials | None = None, min_replicas: int = 0
) -> tuple[Address, ...]:
    """Parse the url of a cluster. Raises `InvalidSettings`, without the url's secrets, if it cannot be carried out."""
    shown = without_secrets(url)
    scheme, _, rest = url.partition("+cluster://")
    place, mark, query = rest.partition("?")
    login, at, place = place.rpartition("@")
    hosts, slash, path = place.partition("/")
    if not all(hosts.split(",")):
        raise InvalidSettings(f"The url {shown} cannot be used: it has a node without a host. Write {_CLUSTER_FORM}.")
    addresses = []
    for host in hosts.split(","):
        single = f"{scheme}://{login}{at}{host}{slash}{path}{mark}{query}"
        address = parse_one_of(single, shown, timeout_s, credentials, min_replicas)
        if address.database:
            raise InvalidSettings(
                f"The url {shown} cannot be used: a cluster has no database but 0. Leave out the number."
            )
        addresses.append(replace(address, url=url, shown=shown, alias=A_NODE))
    addresses[0].new_connection()  # raises now if the url is wrong
    check_files(addresses[0])
    return tuple(addresses)
