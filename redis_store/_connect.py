"""`connect` and `connect_async`, which build the settings, scope and driver of a new store."""

from __future__ import annotations

from pathlib import Path

from redis_store.aio import AsyncDataStore
from redis_store.connections.resolver import Source, make_resolver
from redis_store.drivers.aio import AsyncDriver
from redis_store.drivers.loans import OwnConnections
from redis_store.drivers.sync import SyncDriver
from redis_store.drivers.telemetry import set_up
from redis_store.durability import Durability
from redis_store.limits import LOG_BYTES, LOG_DAYS, LOG_ENTRIES, MAX_BATCH_BYTES, MAX_VALUE_BYTES, Limits, LogBounds
from redis_store.namespace.keys import DEFAULT_NAMESPACE, UserKeys
from redis_store.namespace.scope import Scope, Writer
from redis_store.near.async_reads import share_with_loops
from redis_store.near.sync_reads import share_with_threads
from redis_store.settings import NEAR_CACHE_BYTES, Settings, resolve_url
from redis_store.store import DataStore
from redis_store.values.codec import Values
from redis_store.values.compression import Compression, check_compress_above


def connect(
    url: str | None = None,
    *,
    user: str,
    namespace: str = DEFAULT_NAMESPACE,
    agent: str | None = None,
    run: str | None = None,
    timeout: float | None = None,
    max_value_bytes: int = MAX_VALUE_BYTES,
    max_batch_bytes: int = MAX_BATCH_BYTES,
    data_dir: str | Path | None = None,
    durability: Durability = "everysec",
    log_entries: int = LOG_ENTRIES,
    log_bytes: int = LOG_BYTES,
    log_days: int = LOG_DAYS,
    configure_server: bool = False,
    compress_above: int | None = None,
    near_cache: bool = False,
    near_cache_bytes: int = NEAR_CACHE_BYTES,
) -> DataStore:
    """Open a user's store: at `url`, else at ``REDIS_URL``, else on the embedded server, which is started if necessary.

    `agent` and `run` name the writer; they appear in `info` and in the change log. `timeout` is in seconds, for each reply of
    the server (default: the url's ``socket_timeout``, else 5). `max_value_bytes` and `max_batch_bytes` bound one value and one
    batch, as JSON text. `data_dir` and `durability` apply to the embedded server only.

    `log_entries` and `log_bytes` bound the change log of each watched namespace; the settings of the writers apply. A change log
    that is not watched for `log_days` days is deleted. With `configure_server`, watchers may add the events that they need to
    the server's ``notify-keyspace-events``; on the embedded server they always do.

    Values of more than `compress_above` bytes as JSON are stored compressed; None never compresses. Every store reads
    compressed values, whatever its own setting.

    With `near_cache`, values that were read are kept in the process until their namespace is written to, within
    `near_cache_bytes`; see ``docs/caching.md``. All stores of a process with the same url share a near cache.

    Connections are opened when they are needed. A store may be used from any number of threads, and after a fork.

    Raises `InvalidInput` for an invalid user id, namespace, url or option, and `EmbeddedServerError` if the embedded server
    cannot run.
    """
    limits = Limits(max_value_bytes, max_batch_bytes)
    log = LogBounds(log_entries, log_bytes, log_days)
    settings = make_settings(
        url, timeout, limits, data_dir, durability, log, configure_server, (near_cache, near_cache_bytes)
    )
    scope = make_scope(settings, user, namespace, agent, run, compress_above)
    source = Source(make_resolver(settings), settings.configures)
    driver = SyncDriver(OwnConnections(source.resolver), source, settings.timeout_s)
    if settings.near_cache:
        share_with_threads(driver, settings.near_cache_bytes)
    set_up(driver, scope.counters)
    return DataStore(driver, scope)


def make_settings(
    url: str | None,
    timeout: float | None,
    limits: Limits,
    data_dir: str | Path | None,
    durability: Durability,
    log: LogBounds,
    configure_server: bool,
    near: tuple[bool, int],
) -> Settings:
    """Check and combine the arguments of `connect` and `connect_async` that concern the server."""
    folder = None if data_dir is None else Path(data_dir)
    return Settings(resolve_url(url), timeout, folder, durability, limits, log, configure_server, *near)


def make_scope(
    settings: Settings, user: str, namespace: str, agent: str | None, run: str | None, compress_above: int | None = None
) -> Scope:
    """Check and combine the arguments of `connect` and `connect_async` that concern the user and the values."""
    check_compress_above(compress_above)
    codec = Values(Compression(compress_above, settings.limits.max_value_bytes))
    return Scope.of(UserKeys.of(user), namespace, Writer.of(agent, run), codec, settings.limits, settings.log)


def connect_async(
    url: str | None = None,
    *,
    user: str,
    namespace: str = DEFAULT_NAMESPACE,
    agent: str | None = None,
    run: str | None = None,
    timeout: float | None = None,
    max_value_bytes: int = MAX_VALUE_BYTES,
    max_batch_bytes: int = MAX_BATCH_BYTES,
    data_dir: str | Path | None = None,
    durability: Durability = "everysec",
    log_entries: int = LOG_ENTRIES,
    log_bytes: int = LOG_BYTES,
    log_days: int = LOG_DAYS,
    configure_server: bool = False,
    compress_above: int | None = None,
    near_cache: bool = False,
    near_cache_bytes: int = NEAR_CACHE_BYTES,
) -> AsyncDataStore:
    """Open a user's store for asyncio. The arguments are those of `connect`; the call itself is not awaited.

    The store connects (and joins the embedded server) at its first call. It opens one connection per event loop, which all small
    calls of the loop share.
    """
    limits = Limits(max_value_bytes, max_batch_bytes)
    log = LogBounds(log_entries, log_bytes, log_days)
    settings = make_settings(
        url, timeout, limits, data_dir, durability, log, configure_server, (near_cache, near_cache_bytes)
    )
    scope = make_scope(settings, user, namespace, agent, run, compress_above)
    resolver = make_resolver(settings, at_once=False)
    driver = AsyncDriver(resolver, settings.timeout_s, configures=settings.configures)
    if settings.near_cache:
        share_with_loops(driver, settings.near_cache_bytes)
    set_up(driver, scope.counters)
    return AsyncDataStore(driver, scope)
