"""Leases: a store that uses another store's connections, for another user and agent, and is closed by itself."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from redis_store.connections.address import Address, is_cluster_url, is_sentinel_url, without_secrets
from redis_store.connections.sentinel import parse_sentinels
from redis_store.connections.topology import parse_cluster
from redis_store.drivers.loans import LentConnections, Loans
from redis_store.drivers.sync import SyncCore, SyncDriver
from redis_store.limits import ANY_SIZE, UNBOUNDED, CallBounds
from redis_store.namespace.access import EVERYTHING, Access
from redis_store.namespace.keys import UserKeys
from redis_store.namespace.scope import Scope, Writer
from redis_store.operations import ServerOperations, operations_of
from redis_store.settings import NEAR_CACHE_BYTES
from redis_store.store import DataStore
from redis_store.values.codec import Values


def lease(
    store: DataStore,
    *,
    user: str,
    namespace: str,
    agent: str | None = None,
    run: str | None = None,
    root: str | None = None,
    access: Access = EVERYTHING,
    max_read_bytes: int = ANY_SIZE,
) -> DataStore:
    """Return a store for another user on the same server. It borrows connections from this store and returns them.

    `root` is the agent of the outermost run, if `run` is nested.

    With `max_read_bytes` it has the bounds of an agent's store (`CallBounds`), and a call that would read more bytes raises
    `LimitExceeded`. Closing the lease closes only the connections that it has in use at that moment, which ends calls that
    still wait for the server.
    """
    on = operations_of(store)
    owner, scope = on.driver, on.scope

    def lend(loans: Loans) -> Loans:
        return LentConnections(loans, max_read_bytes)

    core = SyncCore(lend(owner.loans), owner.source, owner.timeout_s, (owner.core, lend))
    if owner.near is not None:
        core.near = owner.near
        # Telemetry is not lent: a run's spans come from its record, within the run's own span.
        core.around = owner.near.watching
    lent = Scope(
        UserKeys.of(user, form=owner.source.resolver.form),
        namespace,
        Writer.of(agent, run, root),
        Values(scope.codec.packing),
        scope.limits,
        scope.log,
        access=access,
        counters=scope.counters,
        max_read_bytes=max_read_bytes,
        bounds=UNBOUNDED if max_read_bytes == ANY_SIZE else CallBounds.of_agent(),
        hits=scope.hits,
    )
    return DataStore(ServerOperations(SyncDriver(core, lent.user, owns_core=True), lent))


def with_near_cache(store: DataStore) -> DataStore:
    """Return a store on the connections of another, with a near cache also if the other has none. Closing it leaves them open."""
    on = operations_of(store)
    if on.driver.near is not None:
        return store
    core = on.driver.core.with_near_cache(NEAR_CACHE_BYTES)
    return DataStore(ServerOperations(SyncDriver(core, on.scope.user, owns_core=True), on.scope))


def addresses_of(url: str) -> tuple[str, ...]:
    """Return the texts that reveal the server's address, so that messages to an agent can be masked. Longest first."""
    if is_sentinel_url(url):
        return _addresses_of_several(url, parse_sentinels(url, None).addresses)
    if is_cluster_url(url):
        return _addresses_of_several(url, parse_cluster(url, None))
    parts = urlsplit(url)
    texts = {url, url.split("?")[0], without_secrets(url)}
    if parts.hostname:
        texts |= {f"{parts.scheme}://{parts.hostname}:{parts.port}", f"{parts.hostname}:{parts.port}"}
        texts |= {f"{parts.scheme}://{parts.hostname}{parts.path}", f"{parts.hostname}:6379", parts.hostname}
    elif parts.path:
        texts |= {f"{parts.scheme}://{parts.path}", parts.path}
    return tuple(sorted(texts, key=len, reverse=True))


def _addresses_of_several(url: str, addresses: Iterable[Address]) -> tuple[str, ...]:
    texts = {url, url.split("?")[0], without_secrets(url)}
    for address in addresses:
        host, port = address.options["host"], address.options["port"]
        texts |= {without_secrets(address.url), f"{host}:{port}", f"[{host}]:{port}", host}
    return tuple(sorted(texts, key=len, reverse=True))
