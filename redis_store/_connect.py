"""`connect` and `connect_async`, which build the settings, scope and driver of a new store."""

from pathlib import Path
from typing import Annotated, TypedDict, Unpack

from redis_store.aio import AsyncDataStore
from redis_store.connections.resolver import Source, make_resolver
from redis_store.drivers.aio import AsyncDriver
from redis_store.drivers.loans import OwnConnections
from redis_store.drivers.sync import SyncDriver
from redis_store.drivers.telemetry import set_up
from redis_store.limits import (
    LOG_BYTES,
    LOG_DAYS,
    LOG_ENTRIES,
    MAX_BATCH_BYTES,
    MAX_LOG_DAYS,
    MAX_VALUE_BYTES,
    Limits,
    LogBounds,
)
from redis_store.namespace.keys import DEFAULT_NAMESPACE, UserKeys
from redis_store.namespace.scope import Scope, Writer
from redis_store.operations import ServerOperations
from redis_store.options import Default, defaults_of, settle, shows
from redis_store.server_config import Durability
from redis_store.settings import NEAR_CACHE_BYTES, Settings, check_count, resolve_url
from redis_store.store import DataStore
from redis_store.values.codec import Values
from redis_store.values.compression import Compression, check_compress_above


class ConnectOptions(TypedDict, total=False):
    """Options of `connect` and `connect_async`.

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
    """

    namespace: Annotated[str, Default(DEFAULT_NAMESPACE)]
    agent: str | None
    run: str | None
    timeout: float | None
    max_value_bytes: Annotated[int, Default(MAX_VALUE_BYTES)]
    max_batch_bytes: Annotated[int, Default(MAX_BATCH_BYTES)]
    data_dir: str | Path | None
    durability: Annotated[Durability, Default("everysec")]
    log_entries: Annotated[int, Default(LOG_ENTRIES)]
    log_bytes: Annotated[int, Default(LOG_BYTES)]
    log_days: Annotated[int, Default(LOG_DAYS)]
    configure_server: Annotated[bool, Default(False)]
    compress_above: int | None
    near_cache: Annotated[bool, Default(False)]
    near_cache_bytes: Annotated[int, Default(NEAR_CACHE_BYTES)]


_DEFAULTS = defaults_of(ConnectOptions)
_COUNTS = ("max_value_bytes", "max_batch_bytes", "log_entries", "log_bytes", "log_days", "near_cache_bytes")


@shows(ConnectOptions)
def connect(url: str | None = None, *, user: str, **options: Unpack[ConnectOptions]) -> DataStore:
    """Open a user's store: at `url`, else at ``REDIS_URL``, else on the embedded server, which is started if necessary.

    The options are those of `ConnectOptions`, which explains them: `namespace`, the writer's `agent` and `run`, `timeout`,
    limits of values, change log and near cache, and the settings of the embedded server.

    Connections are opened when they are needed. A store may be used from any number of threads, and after a fork.

    Raises `InvalidInput` for an invalid user id, namespace, url or option, and `EmbeddedServerError` if the embedded server
    cannot run.
    """
    settings, scope = _prepared(url, user, options)
    source = Source(make_resolver(settings), settings.configures)
    driver = SyncDriver(OwnConnections(source.resolver), source, settings.timeout_s)
    if settings.near_cache:
        driver.use_near_cache(settings.near_cache_bytes)
    set_up(driver, scope.counters)
    return DataStore(ServerOperations(driver, scope))


@shows(ConnectOptions)
def connect_async(url: str | None = None, *, user: str, **options: Unpack[ConnectOptions]) -> AsyncDataStore:
    """Open a user's store for asyncio. The arguments are those of `connect`; the call itself is not awaited.

    The store connects (and joins the embedded server) at its first call. It opens one connection per event loop, which all small
    calls of the loop share.
    """
    settings, scope = _prepared(url, user, options)
    resolver = make_resolver(settings, at_once=False)
    driver = AsyncDriver(resolver, settings.timeout_s, configures=settings.configures)
    if settings.near_cache:
        driver.use_near_cache(settings.near_cache_bytes)
    set_up(driver, scope.counters)
    return AsyncDataStore(driver, scope)


def _prepared(url: str | None, user: str, options: ConnectOptions) -> tuple[Settings, Scope]:
    """Check the options and combine them: those that concern the server, and those that concern the user and the values."""
    given = settle(options, _DEFAULTS, ("url", "user"))
    for name, value in given.items():
        if name in _COUNTS:
            check_count(name, value, *((MAX_LOG_DAYS,) if name == "log_days" else ()))
    check_compress_above(given["compress_above"])
    settings = Settings(
        resolve_url(url),
        given["timeout"],
        None if given["data_dir"] is None else Path(given["data_dir"]),
        given["durability"],
        given["configure_server"],
        given["near_cache"],
        given["near_cache_bytes"],
    )
    limits = Limits(given["max_value_bytes"], given["max_batch_bytes"])
    log = LogBounds(given["log_entries"], given["log_bytes"], given["log_days"])
    codec = Values(Compression(given["compress_above"], limits.max_value_bytes))
    writer = Writer.of(given["agent"], given["run"])
    return settings, Scope(UserKeys.of(user), given["namespace"], writer, codec, limits, log)
