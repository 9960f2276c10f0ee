"""Resolvers, which return the server's address before each new connection.

The resolver of Sentinel is in `sentinel.py`. On a cluster each node has a resolver; `topology.py` knows the node of each hash
slot.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from redis_store.connections.address import Address, is_cluster_url, is_sentinel_url, parse_address
from redis_store.connections.credentials import Credentials
from redis_store.connections.sentinel import SentinelResolver, login_of, parse_sentinels
from redis_store.connections.tls import check_files
from redis_store.connections.topology import Topology, known_topology, parse_cluster, topology_of
from redis_store.errors import ConnectionLost, StoreClosed
from redis_store.namespace.keys import PLAIN, TAGGED, Form
from redis_store.protocol.redirects import Node
from redis_store.settings import URL_VARIABLE, Settings

if TYPE_CHECKING:
    from redis_store.server import EmbeddedServer


logger = logging.getLogger("redis_store")


class Resolver(Protocol):
    """Returns the server's address each time that a connection is made."""

    @property
    def url(self) -> str:
        """The server's url, including secrets."""

    @property
    def login(self) -> str:
        """What tells this server and login from others of the process, for what stores of one login share."""

    @property
    def form(self) -> Form:
        """The form of the Redis keys on this server, which may be unknown yet."""

    @property
    def min_replicas(self) -> int:
        """The number of replicas that must have each write."""

    @property
    def is_known(self) -> bool:
        """Whether this process has looked at the server, with this login."""

    def note_known(self) -> None:
        """Note that it has."""

    @property
    def topology(self) -> Topology | None:
        """The cluster, if the server is known to be a node of one."""

    def find_topology(self) -> Topology | None:
        """Return the cluster of a server that has behaved as a node of one; None if it cannot be."""

    def note_slots(self, reply: Any) -> None:
        """Take the reply to ``CLUSTER SLOTS``, which is an error if the server is no cluster, or keeps its nodes to itself."""

    @property
    def node(self) -> Node | None:
        """The node, for the resolver of one node of a cluster."""

    @property
    def may_block(self) -> bool:
        """Whether `address` may take long, so that it must not run in an event loop's thread."""

    def address(self) -> Address:
        """Return the address to connect to now, or raise `StoreUnavailable`."""

    def close(self) -> None:
        """Stop using the server. Idempotent."""


class UrlResolver:
    """The resolver of a server with a fixed url. It may turn out to be a node of a cluster."""

    may_block = False
    node = None

    def __init__(
        self,
        url: str,
        timeout_s: float | None,
        credentials: Credentials | None = None,
        *,
        hash_tags: bool = False,
        min_replicas: int = 0,
    ) -> None:
        self.url = url
        self.login = login_of(url, credentials, min_replicas)
        self.min_replicas = min_replicas
        self._address = parse_address(url, timeout_s, credentials, min_replicas)
        self.form: Form = TAGGED if hash_tags else self._address.known
        self._address.new_connection()  # raises now if the url is wrong
        check_files(self._address)

    @property
    def is_known(self) -> bool:
        return self.form.tagged is not None and self.login in self._address.known.looked

    def note_known(self) -> None:
        self._address.known.looked.add(self.login)

    def address(self) -> Address:
        return self._address

    @property
    def topology(self) -> Topology | None:
        return known_topology(self.login)

    def find_topology(self) -> Topology | None:
        return topology_of(self.login, [self._address]) if self.form.tagged else None

    def note_slots(self, reply: Any) -> None:
        if isinstance(reply, list) and reply:
            topology_of(self.login, [self._address]).learn(reply, self._address)

    def close(self) -> None:
        pass


class ClusterResolver:
    """The resolver of any node of a cluster, for what concerns no user."""

    may_block = True
    node = None

    def __init__(
        self, url: str, timeout_s: float | None, credentials: Credentials | None = None, min_replicas: int = 0
    ) -> None:
        self.url = url
        self.login = login_of(url, credentials, min_replicas)
        self.min_replicas = min_replicas
        self.form: Form = TAGGED
        nodes = parse_cluster(url, timeout_s, credentials, min_replicas)
        self.topology = topology_of(f"{self.login} {timeout_s}", nodes)

    @property
    def is_known(self) -> bool:
        return self.login in _known_clusters

    def note_known(self) -> None:
        _known_clusters.add(self.login)

    def find_topology(self) -> Topology:
        return self.topology

    def note_slots(self, reply: Any) -> None:
        pass

    def address(self) -> Address:
        """Return the address of a node that has slots. The first call reads the table of slots."""
        if not self.topology.primaries:
            self.topology.refresh()
        if (node := self.topology.owner(None)) is None:
            raise ConnectionLost(
                f"No node of the cluster at {self.topology.shown} has any hash slot: assign them, for example with redis-cli"
                " --cluster create."
            )
        return self.topology.address_of(node)

    def close(self) -> None:
        pass


_known_clusters: set[str] = set()
"""The logins that were found to have what every store needs, on a cluster."""


class NodeResolver:
    """The resolver of one node of a cluster."""

    may_block = False

    def __init__(self, of: Resolver, topology: Topology, node: Node) -> None:
        self.url = of.url
        self.login = f"{of.login} {node.host}:{node.port}"
        self.min_replicas = of.min_replicas
        self.form: Form = TAGGED
        self.topology = topology
        self.node = node
        self._of = of

    @property
    def is_known(self) -> bool:
        return self._of.is_known

    def note_known(self) -> None:
        self._of.note_known()

    def find_topology(self) -> Topology:
        return self.topology

    def note_slots(self, reply: Any) -> None:
        pass

    def address(self) -> Address:
        return self.topology.address_of(self.node)

    def at(self, node: Node) -> NodeResolver:
        """Return the resolver of another node."""
        return NodeResolver(self._of, self.topology, node)

    def close(self) -> None:
        pass


class EmbeddedResolver:
    """The resolver of the embedded server, which is joined when first needed and started again if it died."""

    may_block = True
    min_replicas = 0
    node = topology = None

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.form: Form = TAGGED if settings.hash_tags else PLAIN
        self._joining = threading.RLock()
        self._server: EmbeddedServer | None = None
        self._login: str | None = None
        self._closed = False

    @property
    def url(self) -> str:
        """The server's url, also before it is started."""
        if (server := self._server) is not None:
            return server.url
        from redis_store.server import status  # imported here, so that only users of the embedded server pay for it

        return status(self._settings.data_dir).url

    @property
    def login(self) -> str:
        if self._login is None:
            self._login = self.url
        return self._login

    is_known = True  # our own server has everything

    def note_known(self) -> None:
        pass

    def find_topology(self) -> None:
        """Return None: it is a single server."""

    def note_slots(self, reply: Any) -> None:
        pass

    def join(self) -> EmbeddedServer:
        """Join the server, and start it if it is not running."""
        from redis_store.server import join  # as above

        with self._joining:
            if self._closed:
                raise StoreClosed("The store is closed: connect again.")
            if self._server is None:
                self._server = join(self._settings.data_dir, durability=self._settings.durability)
                _tell_once(self._server.data_dir)
            return self._server

    def address(self) -> Address:
        server = self._server or self.join()
        server.ensure_running()
        return parse_address(server.url, self._settings.timeout_s)

    def close(self) -> None:
        with self._joining:
            self._closed = True
            if self._server is not None:
                self._server.close()


_told: set[Path] = set()


def _tell_once(data_dir: Path) -> None:
    """Log where the data is, once for each process and folder: a store per request would log it at each."""
    if data_dir not in _told:
        _told.add(data_dir)
        logger.info("using the embedded server, with its data in %s; set %s to use another", data_dir, URL_VARIABLE)


@dataclass(frozen=True, slots=True)
class Source:
    """A watcher's server, and whether its settings may be changed."""

    resolver: Resolver
    configures: bool


def database_of(url: str) -> int:
    """Return the number of the database in a url."""
    if is_cluster_url(url):
        return 0
    return parse_sentinels(url, None).database if is_sentinel_url(url) else parse_address(url, None).database


def make_resolver(settings: Settings, *, at_once: bool = True) -> Resolver:
    """Return the resolver for the settings. `at_once` joins the embedded server now, so that an error is raised now."""
    if settings.url is not None:
        provider = settings.credential_provider
        credentials = None if provider is None else Credentials(provider)
        if is_cluster_url(settings.url):
            return ClusterResolver(settings.url, settings.timeout_s, credentials, settings.min_replicas)
        kind = SentinelResolver if is_sentinel_url(settings.url) else UrlResolver
        return kind(
            settings.url,
            settings.timeout_s,
            credentials,
            hash_tags=settings.hash_tags,
            min_replicas=settings.min_replicas,
        )
    resolver = EmbeddedResolver(settings)
    if at_once:
        resolver.join()
    return resolver
