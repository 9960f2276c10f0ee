"""Resolvers, which return the server's address before each new connection.

`sentinel.py` finds the primary of a service. On a cluster each node has a resolver; `topology.py` knows the node of each slot.
"""

from __future__ import annotations

import copy
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from redis_store.connections import forks
from redis_store.connections.address import Address, is_cluster_url, is_sentinel_url, parse_address
from redis_store.connections.credentials import Credentials
from redis_store.connections.generation import Known
from redis_store.connections.lookout import leave, look_out
from redis_store.connections.sentinel import find_primary, parse_sentinels
from redis_store.connections.tls import check_files
from redis_store.connections.topology import Topology, known_topology, parse_cluster, topology_of
from redis_store.errors import ConnectionLost, DataStoreError, StoreClosed
from redis_store.namespace.keys import PLAIN, TAGGED, Form
from redis_store.protocol.redirects import Node
from redis_store.settings import URL_VARIABLE, Settings

if TYPE_CHECKING:
    from redis_store.server import EmbeddedServer


logger = logging.getLogger("redis_store")


class Resolver:
    """Returns the server's address each time that a connection is made. The defaults are those of a single server."""

    may_block = False
    """Whether `address` may take long, so that it must not run in an event loop's thread."""
    node: Node | None = None
    """The node, for the resolver of one node of a cluster."""
    _topology: Topology | None = None

    def __init__(self, url: str, login: str, form: Form, min_replicas: int = 0) -> None:
        self._url = url
        self._login = login
        self.form = form
        """The form of the Redis keys on this server, which may be unknown yet."""
        self.min_replicas = min_replicas
        """The number of replicas that must have each write."""

    @property
    def url(self) -> str:
        """The server's url, including secrets."""
        return self._url

    @property
    def login(self) -> str:
        """What tells this server and login from others of the process, for what stores of one login share."""
        return self._login

    @property
    def is_known(self) -> bool:
        """Whether this process has looked at the server, with this login."""
        return self.form.tagged is not None and self.login in _known_logins

    def note_known(self) -> None:
        """Note that it has."""
        _known_logins.add(self.login)

    @property
    def topology(self) -> Topology | None:
        """The cluster, if the server is known to be a node of one."""
        return self._topology

    def find_topology(self) -> Topology | None:
        """Return the cluster of a server that has behaved as a node of one; None if it cannot be."""
        return self.topology

    def note_slots(self, reply: Any) -> None:
        """Take the reply to ``CLUSTER SLOTS``, which is an error if the server is no cluster, or keeps its nodes to itself."""

    def address(self) -> Address:
        """Return the address to connect to now, or raise `StoreUnavailable`."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop using the server. Idempotent."""


_known_logins: set[str] = set()
"""The logins that were found to have what every store needs."""


def login_of(url: str, credentials: Credentials | None, min_replicas: int) -> str:
    """Return what tells a server and login from others: which stores share what the process knows, and a near cache."""
    parts = [url]
    if credentials is not None:
        parts.append(str(id(credentials.provider)))
    if min_replicas:
        parts.append(f"min_replicas={min_replicas}")
    return " ".join(parts)


class UrlResolver(Resolver):
    """The resolver of a server with a fixed url. It may turn out to be a node of a cluster."""

    def __init__(
        self,
        url: str,
        timeout_s: float | None,
        credentials: Credentials | None = None,
        *,
        hash_tags: bool = False,
        min_replicas: int = 0,
    ) -> None:
        self._address = parse_address(url, timeout_s, credentials, min_replicas)
        form: Form = TAGGED if hash_tags else self._address.known
        super().__init__(url, login_of(url, credentials, min_replicas), form, min_replicas)
        self._address.new_connection()  # raises now if the url is wrong
        check_files(self._address)

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


class ClusterResolver(Resolver):
    """The resolver of any node of a cluster, for what concerns no user."""

    may_block = True
    _topology: Topology

    def __init__(
        self, url: str, timeout_s: float | None, credentials: Credentials | None = None, min_replicas: int = 0
    ) -> None:
        super().__init__(url, login_of(url, credentials, min_replicas), TAGGED, min_replicas)
        nodes = parse_cluster(url, timeout_s, credentials, min_replicas)
        self._topology = topology_of(f"{self.login} {timeout_s}", nodes)

    def address(self) -> Address:
        """Return the address of a node that has slots. The first call reads the table of slots."""
        topology = self._topology
        if not topology.primaries:
            topology.refresh()
        if (node := topology.owner(None)) is None:
            raise ConnectionLost(
                f"No node of the cluster at {topology.shown} has any hash slot: assign them, for example with redis-cli"
                " --cluster create."
            )
        return topology.address_of(node)


class NodeResolver(Resolver):
    """The resolver of one node of a cluster."""

    _topology: Topology
    node: Node

    def __init__(self, of: Resolver, topology: Topology, node: Node) -> None:
        super().__init__(of.url, f"{of.login} {node.host}:{node.port}", TAGGED, of.min_replicas)
        self._topology = topology
        self.node = node
        self._of = of

    @property
    def is_known(self) -> bool:
        return self._of.is_known

    def note_known(self) -> None:
        self._of.note_known()

    def address(self) -> Address:
        return self._topology.address_of(self.node)

    def at(self, node: Node) -> NodeResolver:
        """Return the resolver of another node."""
        return NodeResolver(self._of, self._topology, node)


class SentinelResolver(Resolver):
    """The resolver of the primary of a service."""

    may_block = True

    def __init__(
        self,
        url: str,
        timeout_s: float | None,
        credentials: Credentials | None = None,
        *,
        hash_tags: bool = False,
        min_replicas: int = 0,
    ) -> None:
        form: Form = TAGGED if hash_tags else PLAIN  # Sentinels watch no clusters
        super().__init__(url, login_of(url, credentials, min_replicas), form, min_replicas)
        self._sentinels = parse_sentinels(url, timeout_s, credentials, min_replicas)
        self._order = list(self._sentinels.addresses)
        """The Sentinels, beginning with the one that helped last."""
        self._closed = False
        self._asking = threading.RLock()
        self._asked_at = 0.0
        self._outcome: Address | DataStoreError | None = None
        """What came of the last search, which began at that time."""
        forks.inherited.add(self)

    def address(self) -> Address:
        """Return the address of the primary, and look out for another from now on."""
        if not self._closed:
            look_out(self.login, self)
        return self.search()

    def search(self) -> Address:
        """Return the address of the primary. Callers that come during a search share the next one."""
        came_at = monotonic()
        with self._asking:
            if self._outcome is None or self._asked_at < came_at:
                self._asked_at, self._outcome = monotonic(), None
                try:
                    self._outcome = self._found(find_primary(self._order, self._sentinels))
                except DataStoreError as error:
                    self._outcome = copy.copy(error)
                    raise
            outcome = self._outcome
        if isinstance(outcome, DataStoreError):
            raise copy.copy(outcome)
        return outcome

    def close(self) -> None:
        self._closed = True
        leave(self.login, self)

    def leave_to_parent(self) -> None:
        """Start over in a forked child: a thread of the parent may have held the lock."""
        self._asking = threading.RLock()

    def _found(self, primary: Address) -> Address:
        former = _primaries.get(self._sentinels.shown)
        _primaries[self._sentinels.shown] = primary.known
        if former is not primary.known:
            logger.info(
                "the primary of %s is %s:%s", self._sentinels.service, primary.options["host"], primary.options["port"]
            )
            if former is not None:
                former.end()  # no store of the process goes on asking the former primary
        return primary


_primaries: dict[str, Known] = {}
"""The primary that was found last in this process, by the url without secrets."""


class EmbeddedResolver(Resolver):
    """The resolver of the embedded server, which is joined when first needed and started again if it died."""

    may_block = True
    is_known = True  # our own server has everything

    def __init__(self, settings: Settings) -> None:
        super().__init__("", "", TAGGED if settings.hash_tags else PLAIN)
        self._settings = settings
        self._joining = threading.RLock()
        self._server: EmbeddedServer | None = None
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
        self._login = self._login or self.url
        return self._login

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
