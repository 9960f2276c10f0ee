"""`AsyncClient`, the connections that asyncio stores share, and `connect_async`, a store with a client of its own."""

from typing import Self, Unpack

from redis_store.aio import AsyncDataStore
from redis_store.clients.options import (
    OF_ONE_STORE,
    OF_THREADS,
    ClientOptions,
    ConnectOptions,
    prepare_client,
    prepare_store,
)
from redis_store.connections.address import without_secrets
from redis_store.connections.resolver import make_resolver
from redis_store.drivers.aio import AsyncCore, AsyncDriver
from redis_store.drivers.telemetry import set_up
from redis_store.namespace.keys import DEFAULT_NAMESPACE
from redis_store.namespace.scope import Scope
from redis_store.operations import AsyncServerOperations
from redis_store.ops.server_info import ping, server_info
from redis_store.options import shows
from redis_store.settings import Settings
from redis_store.types import ServerInfo


@shows(ConnectOptions)
def connect_async(url: str | None = None, *, user: str, **options: Unpack[ConnectOptions]) -> AsyncDataStore:
    """Open a user's store for asyncio. The arguments are those of `connect`; the call itself is not awaited.

    The store connects (and joins the embedded server) at its first call. It opens one connection per event loop, which all small
    calls of the loop share. For many users, make one `AsyncClient`, and its stores.
    """
    settings, scope_with = prepare_store(url, user, options)
    shared = _AsyncShared(settings)
    return shared.open(scope_with(shared.form, shared.core.hits), owns_core=True)


class AsyncClient:
    """Connections to one server, for the asyncio stores of any number of users. An asynchronous context manager.

    ``client.store(user=...)`` returns a store in microseconds, and is not awaited: make one for each request. All small calls of
    an event loop share one connection; big reads and transactions have up to 8 more. The near cache has one connection besides,
    and waiting and watching up to three, for all users.

    The server is found as by `connect`, and the options are those of `ClientOptions`. The client connects, and joins the embedded
    server, at the first call. It may be used from any number of event loops, and after a fork: the child opens connections of its
    own.
    """

    @shows(ClientOptions)
    def __init__(self, url: str | None = None, **options: Unpack[ClientOptions]) -> None:
        settings, self._common = prepare_client(url, options, ("url",), {**OF_ONE_STORE, **OF_THREADS})
        self._shared = _AsyncShared(settings)
        self._options = ClientOptions(**options)

    @property
    def url(self) -> str:
        """The server's url, including the password if there is one."""
        return self._shared.core.url

    @property
    def options(self) -> ClientOptions:
        """The options that were given to it, besides `url`."""
        return self._options.copy()

    def store(
        self, *, user: str, namespace: str = DEFAULT_NAMESPACE, agent: str | None = None, run: str | None = None
    ) -> AsyncDataStore:
        """Return a user's store on the connections of this client. `agent` and `run` name the writer, as for `connect`.

        Nothing is sent, and it need not be closed. Closing it ends its watches and waits and refuses its later calls; the
        connections stay open for the others. Raises `InvalidInput` for an invalid user id, namespace, agent or run.
        """
        shared = self._shared
        return shared.open(self._common.scope(user, namespace, agent, run, shared.form, shared.core.hits))

    async def ping(self) -> bool:
        """Return True if the server replies within the time-out; else raise `StoreUnavailable` or `ServerRefused`."""
        return await AsyncDriver(self._shared.core).run(ping())

    async def server_info(self) -> ServerInfo:
        """Ask the server what it is, and what it lacks that the store would use. Takes about ten short requests."""
        return await AsyncDriver(self._shared.core).run(server_info())

    async def close(self) -> None:
        """Close the connections, for all stores of this client. Calls in progress fail, and later ones raise `StoreClosed`.

        May be repeated. The embedded server stops when its last user closes.
        """
        await self._shared.core.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncClient at {without_secrets(self.url)}>"


def async_core_of(client: AsyncClient) -> AsyncCore:
    """Return what the stores of a client share, for operators' operations, which concern no user or all of them."""
    return client._shared.core


def async_scope_in(client: AsyncClient, user: str, namespace: str = DEFAULT_NAMESPACE) -> Scope:
    """Return the scope of a namespace, for operators' operations on one user."""
    shared = client._shared
    return client._common.scope(user, namespace, None, None, shared.form, shared.core.hits)


class _AsyncShared:
    """What the stores of one client share."""

    def __init__(self, settings: Settings) -> None:
        resolver = make_resolver(settings, at_once=False)
        self.form = resolver.form
        self.core = AsyncCore(resolver, settings.timeout_s, configures=settings.configures)
        if settings.near_cache:
            self.core.use_near_cache(settings.near_cache_bytes)
        self._totals = set_up(self.core)

    def open(self, scope: Scope, *, owns_core: bool = False) -> AsyncDataStore:
        driver = AsyncDriver(self.core, scope.user, owns_core=owns_core)
        if self._totals is not None:
            self._totals.add(driver, scope.counters)
        return AsyncDataStore(AsyncServerOperations(driver, scope))
