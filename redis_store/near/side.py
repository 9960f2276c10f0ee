"""The common base of the sides of a near cache: entries that one tracked connection keeps current."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

from redis_store.connections.resolver import Resolver
from redis_store.connections.spin import Spinner
from redis_store.connections.topology import Topology
from redis_store.errors import DataStoreError, LimitExceeded, PermissionDenied, ServerRefused, StoreUnavailable
from redis_store.flows.clock import clock
from redis_store.namespace.keys import UserKeys, encode_key
from redis_store.namespace.scope import Scope
from redis_store.near import ops as near_ops
from redis_store.near.entries import Entries
from redis_store.protocol.call import Op
from redis_store.protocol.error_replies import SlotElsewhere
from redis_store.protocol.read import Read

T = TypeVar("T")

logger = logging.getLogger("redis_store")

UNANSWERED: Final = object()
"""What a side returns if the server has to be asked as if there were no cache."""

SILENCE_S = 1.0
"""Silence on a connection after which the next read goes to the server, in seconds."""

NEAR_RETRY_S = 1.0
"""Time between a failed connection and the next attempt, in seconds."""

MOST_USERS = 64
"""Bound on the users whose values one side keeps: the server compares each write with every user's prefix."""


class Owner(Protocol):
    """The parts of a near cache that its sides use."""

    off: bool
    max_bytes: int
    read_beside: object

    def resolver(self) -> Resolver | None: ...
    def refused(self, error: DataStoreError) -> None: ...


class Reader(Protocol):
    """The driver of a store that reads."""

    @property
    def core(self) -> object:
        """The core of its client, or of its lease."""

    @property
    def measured(self) -> Callable[[Op[Any]], Op[Any]] | None: ...
    def run(self, op: Op[T]) -> T: ...


class AsyncReader(Protocol):
    """The driver of an asyncio store that reads."""

    @property
    def measured(self) -> Callable[[Op[Any]], Op[Any]] | None: ...
    async def run(self, op: Op[T]) -> T: ...


class Tracked(Protocol):
    """A tracked connection."""

    has_ttl: bool
    users: set[bytes]

    def close(self) -> None: ...


C = TypeVar("C", bound=Tracked)


class Side(Generic[C]):
    """Entries that one tracked connection keeps current. The two kinds of sides differ in how they wait and lock."""

    def __init__(self, cache: Owner) -> None:
        self.cache = cache
        self.entries = Entries(cache.max_bytes)
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        """The cores of the open clients that read through this side; the last one to leave closes it."""
        self._connection: C | None = None
        self._level_with: object = None
        """The cache's `read_beside` when the last read on the tracked connection began: all that it stands for was heard of."""
        self._retry_at = -math.inf
        self._spinner = Spinner()
        self._topology: Topology | None = None
        """The cluster, if the connection leads to a node of one."""
        self._confirmed: dict[bytes, float] = {}
        """On a cluster: when the node last had the data of a user, by prefix. What moved is announced by another node."""
        self._version = 0
        """The version of the topology for which this holds."""

    @property
    def live(self) -> bool:
        """Whether it is connected, so that it can answer."""
        return self._connection is not None

    def close(self) -> None:
        """Close the connection and drop all entries."""
        raise NotImplementedError

    def _is_elsewhere(self, topology: Topology, user: UserKeys, now: float) -> bool:
        """Whether a user's data may be at another node of a cluster, so that its writes would not be announced here."""
        self._note_version(topology)
        return now - self._confirmed.get(user.prefix, -math.inf) > SILENCE_S

    def _note_version(self, topology: Topology) -> None:
        if topology.version != self._version:
            self._confirmed, self._version = {}, topology.version

    def _may_connect(self) -> bool:
        return not self.cache.off and clock() >= self._retry_at

    async def _track(self, connection: C, user: UserKeys) -> None:
        """Track a user's writes, if that is not done yet."""
        if user.prefix in connection.users:
            return
        if len(connection.users) >= MOST_USERS:
            connection.users.clear()
            self._confirmed = {}
            self.entries.clear()  # before a call that may be cancelled: nothing would announce writes to what is kept
            await near_ops.untrack()
        await near_ops.track(user)
        connection.users.add(user.prefix)

    async def _fetch(
        self, connection: C, read: Read[Any], scope: Scope, wanted: Any, reader: Reader | AsyncReader
    ) -> Any:
        """Read from the server, keep the reply, and return it as the operation itself would get it."""
        data, asked = scope.keys.data, clock()
        keys = wanted if read.many else [wanted]
        space, read_beside = self.entries.space(data), self.cache.read_beside
        topology = self._topology
        if topology is not None:
            self._note_version(topology)
        fetching: Op[list[near_ops.Fetched]] = near_ops.fetch(
            scope, [encode_key(key) for key in keys], connection.has_ttl
        )
        try:
            fetched = await (fetching if reader.measured is None else reader.measured(fetching))
        except SlotElsewhere:
            self._confirmed.pop(scope.user.prefix, None)
            raise
        if connection is self._connection:
            if topology is not None and topology.version == self._version:
                self._confirmed[scope.user.prefix] = asked
            self._level_with = read_beside
            for key, (text, ttl_ms, certain) in zip(keys, fetched, strict=True):
                if certain:
                    self.entries.keep(data, space, key, text, math.inf if ttl_ms is None else asked + ttl_ms / 1000)
        return [each.text for each in fetched] if read.many else fetched[0].text

    def _failed(self, error: DataStoreError) -> None:
        """Handle an error. It is mostly not raised: the call to the server that follows does so, if it concerns that too."""
        if isinstance(error, LimitExceeded):
            raise error
        if isinstance(error, (ServerRefused, PermissionDenied)):
            self._drop()
            self.cache.refused(error)
        elif isinstance(error, SlotElsewhere):
            return  # the connection is as good for the node's other users
        elif isinstance(error, StoreUnavailable):
            self._drop()
            self._retry_at = clock() + NEAR_RETRY_S
            logger.debug("the near cache is not connected: %s", error)

    def _drop(self) -> None:
        """Drop all entries and close the connection."""
        # In one statement, which no signal handler interrupts. New entries, because a change of the old ones may be half done.
        connection, self._connection, self.entries = self._connection, None, Entries(self.cache.max_bytes)
        if connection is not None:
            connection.close()
