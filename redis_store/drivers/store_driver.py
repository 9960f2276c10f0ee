"""What the drivers of one store have in common, for threads and for asyncio: the core of its client, and its watches."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar

from redis_store.connections import forks
from redis_store.connections.resolver import Resolver, Source
from redis_store.connections.topology import Topology
from redis_store.drivers.form import unsure
from redis_store.drivers.nodes import Following, Nodes, is_of_cluster
from redis_store.errors import StoreClosed
from redis_store.flows.flow import Flow
from redis_store.namespace.keys import UserKeys
from redis_store.near.cache import NearCache, join_cache
from redis_store.protocol.call import Op
from redis_store.protocol.command import Command
from redis_store.protocol.redirects import Node, first_redirection
from redis_store.stats import HitCounts


class Core:
    """What the stores of one client share: base of `drivers.sync.SyncCore` and `drivers.aio.AsyncCore`.

    On a cluster there is one for each node that its stores need, besides the first one.
    """

    def __init__(self, source: Source, timeout_s: float | None) -> None:
        self.source = source
        """The server's address and configuration right, for the hub."""
        self.timeout_s = timeout_s
        self.watching: weakref.WeakSet[Any] = weakref.WeakSet()
        """The drivers that have watchers or pauses, which are closed with the client."""
        self.near: NearCache | None = None
        """The near cache, if the client has one; it is asked before the server."""
        self.around: Callable[[Op[Any]], Op[Any]] | None = None
        """Wrapper of each operation, if the near cache or telemetry observes its calls."""
        self.measured: Callable[[Op[Any]], Op[Any]] | None = None
        """The telemetry part of `around`, for operations that do not run through a driver's `run`."""
        self.traced: Callable[[Flow[Any]], Flow[Any]] | None = None
        """Wrapper of each flow of a store's methods, if telemetry observes them."""
        self.hits = HitCounts()
        """The hits that the stores have not reported yet."""
        self.is_closed = False
        self._near_bytes = 0
        self._nodes: Nodes[Self] | None = None

    @property
    def cluster(self) -> Topology | None:
        """The cluster, if the server is known to be a node of one."""
        return self.source.resolver.topology

    @property
    def url(self) -> str:
        """The server's url, including secrets."""
        return self.source.resolver.url

    def at(self, node: Node) -> Self:
        """Return the core for a node of the cluster."""
        if node == self.source.resolver.node:
            return self
        if self._nodes is None:
            with forks.registries_lock:
                self._nodes = self._nodes or Nodes(self, self._for_node)
        return self._nodes.at(node, self.source)

    def _for_node(self, source: Source) -> Self:
        raise NotImplementedError

    def _primaries(self, topology: Topology | None) -> list[Self]:
        """Return the cores for all nodes that have slots; on a single server this one."""
        if topology is None or not topology.spreads:
            return [self]
        return [self.at(node) for node in topology.primaries]

    def use_near_cache(self, max_bytes: int) -> None:
        """Read through the near cache of the server from now on."""
        self._near_bytes = max_bytes
        self.near = near = join_cache(self, self.source.resolver, max_bytes)
        measured = self.measured
        self.around = near.watching if measured is None else lambda op: near.watching(measured(op))

    def _everyone(self) -> list[Self]:
        """Note that the client is closed, and return the cores of all its nodes."""
        everyone = [self] if self._nodes is None else self._nodes.all()
        for core in everyone:
            core.is_closed = True
        return everyone


CoreT = TypeVar("CoreT", bound=Core)
Watching = TypeVar("Watching")


class StoreDriver(Generic[CoreT, Watching]):
    """Base of `SyncDriver` and `AsyncDriver`."""

    __slots__ = ("__weakref__", "_owns_core", "_unsure", "_user", "_watches", "core")

    stays: ClassVar[bool] = False
    """Whether all operations begin at the same node of a cluster, and none goes on at another because this one fails: a listing
    of a node's keys means nothing elsewhere. Commands about keys that have moved follow them."""

    def __init__(self, core: CoreT, user: UserKeys | None = None, *, owns_core: bool = False) -> None:
        """`owns_core` closes the connections with the store. Without a user, no operation needs Redis keys."""
        self.core = core
        self._user = user
        if core.cluster is not None:
            self._settle()
        self._unsure = unsure(user, core.source.resolver)
        """The user, until it is known that its operations find its data."""
        self._owns_core = owns_core
        self._watches: weakref.WeakSet[Watching] | None = None

    @property
    def slot(self) -> int | None:
        """The hash slot of the user on a cluster; None if its keys are not all in one, or there is no user."""
        return None if self._user is None or not self._user.form.tagged else self._user.slot

    def _settle(self) -> None:
        """Use the node that has the user's data, as far as that is known."""
        topology = self.core.cluster
        if topology is not None and topology.spreads and not self.core.is_closed and not self.stays:
            node = topology.owner(self.slot)
            if node is not None and node != self.core.source.resolver.node:
                self.core = self.core.at(node)

    def _is_refused(self, reply: Any, commands: Sequence[Command], resolver: Resolver) -> bool:
        """Whether a node has refused commands as nodes of a cluster do, so that they are to be sent again."""
        redirection = first_redirection(reply, commands)
        if redirection is None or (self.stays and redirection.elsewhere):
            return False
        return is_of_cluster(reply, resolver)

    def _following(
        self, resolver: Resolver, commands: Sequence[Command] = (("EXEC",),), patience_s: float | None = None
    ) -> Following:
        """Return the way of a call, or of an operation on one connection, to the node that has the user's data."""
        return Following(resolver, self.slot, commands, patience_s)

    def _stay(self, core: CoreT, following: Following) -> None:
        """Use the node that has carried out a call for later ones too, unless it does not have the slot yet."""
        if core is not self.core and not following.asking and not self.core.is_closed and not self.stays:
            self.core = core
            if core.near is not None:
                core.near.note_read_beside()  # the call may have written what is kept there

    @property
    def url(self) -> str:
        """The server's url, including secrets."""
        return self.core.url

    @property
    def source(self) -> Source:
        """The server's address and configuration right, for the hub."""
        return self.core.source

    @property
    def timeout_s(self) -> float | None:
        return self.core.timeout_s

    @property
    def near(self) -> NearCache | None:
        """The near cache, if the client has one."""
        return self.core.near

    @property
    def measured(self) -> Callable[[Op[Any]], Op[Any]] | None:
        """The telemetry part of the wrapper of each operation."""
        return self.core.measured

    @property
    def watches(self) -> weakref.WeakSet[Watching]:
        """Watchers and pauses, which are closed with the store. Made when first needed, as most stores have none.

        Raises `StoreClosed` if the store is closed.
        """
        if self.core.is_closed:
            raise StoreClosed("The store is closed: connect again.")
        if self._watches is None:
            with forks.registries_lock:
                if self._watches is None:
                    self._watches = weakref.WeakSet()
            if not self._owns_core:
                self.core.watching.add(self)
        return self._watches
