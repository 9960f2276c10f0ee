"""Leases: a store that uses another store's connections, for another user and agent, and is closed by itself."""

from __future__ import annotations

import threading
import weakref
from urllib.parse import urlsplit

from redis_store.connections.address import without_secrets
from redis_store.connections.sync import HeldConnection
from redis_store.drivers.sync import SyncDriver
from redis_store.errors import StoreClosed
from redis_store.flows.renewing import Keeper
from redis_store.limits import ANY_SIZE
from redis_store.namespace.access import EVERYTHING, Access
from redis_store.namespace.keys import UserKeys
from redis_store.namespace.scope import Scope, Writer
from redis_store.store import DataStore
from redis_store.types import Ttl
from redis_store.values.codec import Values


def lease(
    store: DataStore,
    *,
    user: str,
    namespace: str,
    agent: str | None = None,
    run: str | None = None,
    access: Access = EVERYTHING,
    max_read_bytes: int = ANY_SIZE,
) -> DataStore:
    """Return a store for another user on the same server. It borrows connections from this store and returns them.

    A call that would read more than `max_read_bytes` raises `LimitExceeded`. Closing the lease closes only the connections that
    it has in use at that moment, which ends calls that still wait for the server.
    """
    scope = store._scope
    lent = Scope.of(
        UserKeys.of(user),
        namespace,
        Writer.of(agent, run),
        Values(scope.codec.packing),
        scope.limits,
        scope.log,
        access=access,
        counters=scope.counters,
        max_read_bytes=max_read_bytes,
    )
    return DataStore(_LeasedDriver(store._driver, max_read_bytes), lent)


def with_default_ttl(store: DataStore, ttl: Ttl) -> DataStore:
    """Return a handle for the same namespace with another default ttl and the same bound on keys."""
    return store.use_namespace(store.namespace, ttl, store._scope.max_keys)


class _LeasedDriver(SyncDriver):
    """Runs operations on the connections of another driver."""

    def __init__(self, owner: SyncDriver, max_read_bytes: int) -> None:
        # `SyncDriver.__init__` is not called: a lease has no resolver and no idle connections.
        self._owner = owner
        self._max_read_bytes = max_read_bytes
        self._in_use: set[HeldConnection] = set()
        self._closed = False
        self._lock = threading.Lock()
        self.timeout_s = owner.timeout_s
        self.source = owner.source
        self.watches = weakref.WeakSet()
        self.keeper = Keeper(self.run)
        self.near = self.around = self.measured = None
        if owner.near is not None:
            self.near = owner.near.lent_to(self)
            # Telemetry is not lent: a run's spans come from its record, within the run's own span.
            self.around = owner.near.watching

    @property
    def url(self) -> str:
        return self._owner.url

    def close(self) -> None:
        for watch in list(self.watches):
            watch.close()
        self.keeper.close()
        near, self.near = self.near, None
        with self._lock:
            self._closed = True
            in_use, self._in_use = self._in_use, set()
        if near is not None:
            near.interrupt()
        for held in in_use:
            self._owner._drop(held)

    def _take(self) -> HeldConnection:
        self._refuse_if_closed()
        return self._lent(self._owner._take())

    def _take_new(self) -> HeldConnection:
        # The connection may have been closed by our own `close`; then the call must not be tried again on a silent server.
        self._refuse_if_closed()
        return self._lent(self._owner._take_new())

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreClosed("The store is closed: connect again.")

    def _put_back(self, held: HeldConnection) -> None:
        with self._lock:
            self._in_use.discard(held)
        held.most_bytes = ANY_SIZE
        if self._closed:
            self._owner._drop(held)
        else:
            self._owner._put_back(held)

    def _drop(self, held: HeldConnection) -> None:
        with self._lock:
            self._in_use.discard(held)
        self._owner._drop(held)

    def _lent(self, held: HeldConnection) -> HeldConnection:
        with self._lock:
            if not self._closed:
                self._in_use.add(held)
                held.most_bytes = self._max_read_bytes
                return held
        self._owner._put_back(held)
        raise StoreClosed("The store was closed while it connected: connect again.")


def addresses_of(url: str) -> tuple[str, ...]:
    """Return the texts that reveal the server's address, so that messages to an agent can be masked. Longest first."""
    parts = urlsplit(url)
    texts = {url, url.split("?")[0], without_secrets(url)}
    if parts.hostname:
        texts |= {f"{parts.scheme}://{parts.hostname}:{parts.port}", f"{parts.hostname}:{parts.port}"}
        texts |= {f"{parts.scheme}://{parts.hostname}{parts.path}", f"{parts.hostname}:6379", parts.hostname}
    elif parts.path:
        texts |= {f"{parts.scheme}://{parts.path}", parts.path}
    return tuple(sorted(texts, key=len, reverse=True))
