"""`connect` and `connect_async`: settings, scope and driver of a new store."""

from __future__ import annotations

from pathlib import Path

from redis_store.aio import AsyncDataStore
from redis_store.connections.resolver import make_resolver
from redis_store.drivers.aio import AsyncDriver
from redis_store.drivers.sync import SyncDriver
from redis_store.drivers.telemetry import set_up
from redis_store.limits import LOG_BYTES, LOG_DAYS, LOG_ENTRIES, MAX_BATCH_BYTES, MAX_VALUE_BYTES, Limits, LogBounds
from redis_store.namespace.keys import DEFAULT_NAMESPACE, UserKeys
from redis_store.namespace.scope import Scope, Writer
from redis_store.near.async_reads import share_with_loops
from redis_store.near.sync_reads import share_with_threads
from redis_store.server_config import Durability
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
    """Open a user's store: at `url`, else at ``REDIS_URL``, else on the embedded server, which is started if need be.

    `agent` and `run` name who writes; `info` and the change log show them. `timeout` is in seconds, for each answer of the
    server (default: the url's ``socket_timeout``, else 5). `data_dir` and `durability` are the embedded server's.

    `log_entries` and `log_bytes` bound the history that is kept of each watched namespace, and a log that nobody has watched for
    `log_days` goes; the writers' settings count. With `configure_server` watchers may add the events that they need to the
    server's ``notify-keyspace-events``; on the embedded server they do.

    Values that take more than `compress_above` bytes as JSON are stored compressed; every store reads them, whatever it was
    given here. None compresses nothing.
    With `near_cache`, values that were read stay in the process, `near_cache_bytes` at most, until somebody writes in their
    namespace, as the server tells; see ``docs/caching.md``. All stores of a process at one url share them.

    Connections are made when they are needed. Safe to use from any number of threads, and after a fork.
    Raises `InvalidInput` for a user id, a namespace or a url that cannot be used, `EmbeddedServerError` where the embedded
    server cannot run.
    """
    limits = Limits(max_value_bytes, max_batch_bytes)
    log = LogBounds(log_entries, log_bytes, log_days)
    settings = make_settings(
        url, timeout, limits, data_dir, durability, log, configure_server, (near_cache, near_cache_bytes)
    )
    scope = make_scope(settings, user, namespace, agent, run, compress_above)
    driver = SyncDriver(make_resolver(settings), settings.timeout_s, configures=settings.configures)
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
    """Check what `connect` and `connect_async` were given about the server."""
    folder = None if data_dir is None else Path(data_dir)
    return Settings(resolve_url(url), timeout, folder, durability, limits, log, configure_server, *near)


def make_scope(
    settings: Settings, user: str, namespace: str, agent: str | None, run: str | None, compress_above: int | None = None
) -> Scope:
    """Check what `connect` and `connect_async` were given about the user and his values."""
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
    """Open a user's store for asyncio; everything as in `connect`, and nothing of it awaited.

    It connects (and joins the embedded server) at the first call, once per event loop: one connection that all small calls
    of a loop share.
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
