"""`Client`, the connections that blocking stores share, and `connect`, a store with a client of its own."""

from typing import Self, Unpack

from redis_store.clients.options import OF_ONE_STORE, ClientOptions, ConnectOptions, prepare_client, prepare_store
from redis_store.connections.address import without_secrets
from redis_store.connections.resolver import Source, make_resolver
from redis_store.drivers.loans import BoundedConnections, OwnConnections
from redis_store.drivers.sync import SyncCore, SyncDriver
from redis_store.drivers.telemetry import set_up
from redis_store.namespace.keys import DEFAULT_NAMESPACE
from redis_store.namespace.scope import Scope
from redis_store.operations import ServerOperations
from redis_store.ops.server_info import ping, server_info
from redis_store.options import shows
from redis_store.settings import Settings, check_count
from redis_store.store import DataStore
from redis_store.types import ServerInfo


@shows(ConnectOptions)
def connect(url: str | None = None, *, user: str, **options: Unpack[ConnectOptions]) -> DataStore:
    """Open a user's store: at `url`, else at ``REDIS_URL``, else on the embedded server, which is started if necessary.

    The options are those of `ConnectOptions`, which explains them: `namespace`, the writer's `agent` and `run`, `timeout`,
    limits of values, change log and near cache, and the settings of the embedded server.

    Connections are opened when they are needed. A store may be used from any number of threads, and after a fork. It has
    connections of its own: for many users, make one `Client`, and its stores.

    Raises `InvalidInput` for an invalid user id, namespace, url or option, and `EmbeddedServerError` if the embedded server
    cannot run.
    """
    settings, scope_with = prepare_store(url, user, options)
    shared = _Shared(settings)
    return shared.open(scope_with(shared.form, shared.core.hits), owns_core=True)


class Client:
    """Connections to one server, for the stores of any number of users. A context manager.

    ``client.store(user=...)`` returns a store in microseconds: make one for each request. Each of its calls borrows a connection
    of the client, and returns it. A connection is opened when none is idle, so there are as many as calls were under way at once.

    With `max_connections`, calls beyond it wait in a queue for at most `timeout`, and then raise `StoreTimeout`. The near cache
    has one connection besides, and waiting and watching up to three, for all users.

    The server is found as by `connect`, and the other options are those of `ClientOptions`. A client may be used from any number
    of threads, and after a fork: the child opens connections of its own.
    """

    @shows(ClientOptions)
    def __init__(
        self, url: str | None = None, *, max_connections: int | None = None, **options: Unpack[ClientOptions]
    ) -> None:
        if max_connections is not None:
            check_count("max_connections", max_connections)
        settings, self._common = prepare_client(url, options, ("url", "max_connections"), OF_ONE_STORE)
        self._options = ClientOptions(**options)
        self._shared = _Shared(settings, max_connections)

    @property
    def url(self) -> str:
        """The server's url, including the password if there is one."""
        return self._shared.core.url

    @property
    def options(self) -> ClientOptions:
        """The options that were given to it, besides `url` and `max_connections`."""
        return self._options.copy()

    def store(
        self, *, user: str, namespace: str = DEFAULT_NAMESPACE, agent: str | None = None, run: str | None = None
    ) -> DataStore:
        """Return a user's store on the connections of this client. `agent` and `run` name the writer, as for `connect`.

        Nothing is sent, and it need not be closed. Closing it ends its watches and waits and refuses its later calls; the
        connections stay open for the others. Raises `InvalidInput` for an invalid user id, namespace, agent or run.
        """
        shared = self._shared
        return shared.open(self._common.scope(user, namespace, agent, run, shared.form, shared.core.hits))

    def ping(self) -> bool:
        """Return True if the server replies within the time-out; else raise `StoreUnavailable` or `ServerRefused`."""
        return SyncDriver(self._shared.core).run(ping())

    def server_info(self) -> ServerInfo:
        """Ask the server what it is, and what it lacks that the store would use. Takes about ten short requests."""
        return SyncDriver(self._shared.core).run(server_info())

    def close(self) -> None:
        """Close the connections, for all stores of this client. Calls in progress fail, and later ones raise `StoreClosed`.

        May be repeated. The embedded server stops when its last user closes.
        """
        self._shared.core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client at {without_secrets(self.url)}>"


def core_of(client: Client) -> SyncCore:
    """Return what the stores of a client share, for operators' operations, which concern no user or all of them."""
    return client._shared.core


def scope_in(client: Client, user: str, namespace: str = DEFAULT_NAMESPACE) -> Scope:
    """Return the scope of a namespace, for operators' operations on one user."""
    shared = client._shared
    return client._common.scope(user, namespace, None, None, shared.form, shared.core.hits)


class _Shared:
    """What the stores of one client share."""

    def __init__(self, settings: Settings, max_connections: int | None = None) -> None:
        source = Source(make_resolver(settings), settings.configures)
        if max_connections is None:
            loans = OwnConnections(source.resolver)
        else:
            loans = BoundedConnections(source.resolver, max_connections)
        self.form = source.resolver.form
        self.core = SyncCore(loans, source, settings.timeout_s)
        if settings.near_cache:
            self.core.use_near_cache(settings.near_cache_bytes)
        self._totals = set_up(self.core)

    def open(self, scope: Scope, *, owns_core: bool = False) -> DataStore:
        driver = SyncDriver(self.core, scope.user, owns_core=owns_core)
        if self._totals is not None:
            self._totals.add(driver, scope.counters)
        return DataStore(ServerOperations(driver, scope))
