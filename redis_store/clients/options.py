"""The options of clients and of `connect`, checked and combined: those of the server, and those of the stores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

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
from redis_store.namespace.keys import DEFAULT_NAMESPACE, PLAIN, Form, UserKeys
from redis_store.namespace.scope import Scope, Writer
from redis_store.options import Default, defaults_of, settle
from redis_store.server_config import Durability
from redis_store.settings import NEAR_CACHE_BYTES, Settings, check_count, check_switches, resolve_url
from redis_store.stats import HitCounts
from redis_store.values.codec import Values
from redis_store.values.compression import Compression, check_compress_above

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider


class ClientOptions(TypedDict, total=False):
    """Options of `Client` and `AsyncClient`, and of `connect` and `connect_async`.

    `timeout` is in seconds, for each reply of the server (default: the url's ``socket_timeout``, else 5). `max_value_bytes` and
    `max_batch_bytes` bound one value and one batch, as JSON text.

    ``embedded=False`` refuses the embedded server: without a url and ``REDIS_URL``, `InvalidSettings` is raised. If it is not
    given, ``REDIS_STORE_EMBEDDED`` decides: 0 refuses, 1 allows, as by default. `data_dir` and `durability` apply to the embedded
    server only.

    `log_entries` and `log_bytes` bound the change log of each watched namespace; the settings of the writers apply. A change log
    that is not watched for `log_days` days is deleted. With `configure_server`, watchers may add the events that they need to
    the server's ``notify-keyspace-events``; on the embedded server they always do.

    With ``log_values=False`` the log names the keys that this client's stores set, without the values. So nothing of a value
    stays there when the key is deleted or expires. Watchers get the value that the key has when they read it; if it was deleted
    before, they get only the deletion.

    Values of more than `compress_above` bytes as JSON are stored compressed; None never compresses. Every store reads
    compressed values, whatever its own setting.

    With `near_cache`, values that were read are kept in the process until their namespace is written to, within
    `near_cache_bytes`; see ``docs/caching.md``. All stores of a process with the same url and login share a near cache.

    With `hash_tags`, the Redis keys of a user have a hash tag, ``user:{<id>}:...``, as they always have on a cluster; see
    ``docs/data-model.md``. It is for single servers whose data will move to a cluster.

    With `min_replicas`, a write is acknowledged when this many replicas have it too. If fewer confirm it within half of
    `timeout`, `StoreTimeout` with `outcome_unknown` is raised; see ``docs/durability.md``. A server without ``WAIT`` is refused.

    `credential_provider` is redis-py's ``CredentialProvider``, for user names and passwords that change, such as tokens; see
    ``docs/managed-services.md``. The url then has none.
    """

    timeout: float | None
    max_value_bytes: Annotated[int, Default(MAX_VALUE_BYTES)]
    max_batch_bytes: Annotated[int, Default(MAX_BATCH_BYTES)]
    embedded: bool | None
    data_dir: str | Path | None
    durability: Annotated[Durability, Default("everysec")]
    log_entries: Annotated[int, Default(LOG_ENTRIES)]
    log_bytes: Annotated[int, Default(LOG_BYTES)]
    log_days: Annotated[int, Default(LOG_DAYS)]
    log_values: Annotated[bool, Default(True)]
    configure_server: Annotated[bool, Default(False)]
    compress_above: int | None
    near_cache: Annotated[bool, Default(False)]
    near_cache_bytes: Annotated[int, Default(NEAR_CACHE_BYTES)]
    hash_tags: Annotated[bool, Default(False)]
    min_replicas: Annotated[int, Default(0)]
    credential_provider: "CredentialProvider | None"


class StoreOptions(TypedDict, total=False):
    """Options of one store. `agent` and `run` name the writer; they appear in `info` and in the change log."""

    namespace: Annotated[str, Default(DEFAULT_NAMESPACE)]
    agent: str | None
    run: str | None


class ConnectOptions(StoreOptions, ClientOptions, total=False):
    """Options of `connect` and `connect_async`: those of one store, `StoreOptions`, and of its client, `ClientOptions`."""


CLIENT_DEFAULTS = defaults_of(ClientOptions)
CONNECT_DEFAULTS = defaults_of(ConnectOptions)
_COUNTS = ("max_value_bytes", "max_batch_bytes", "log_entries", "log_bytes", "log_days", "near_cache_bytes")

OF_ONE_STORE = dict.fromkeys(
    ("user", *defaults_of(StoreOptions)), "it belongs to one store: pass it to the client's method store."
)
OF_A_CLIENT = {"max_connections": "it bounds the connections of a redis_store.Client, which takes it."}
OF_THREADS = {
    "max_connections": "an asyncio client has one connection in each event loop, and up to 8 for big reads and transactions."
}
"""Where options belong that a function does not have, for those who pass them to it."""


@dataclass(frozen=True, slots=True)
class Common:
    """What the stores of one client have in common, besides connections."""

    codec: Values
    limits: Limits
    log: LogBounds

    def scope(
        self, user: str, namespace: str, agent: str | None, run: str | None, form: Form, hits: HitCounts
    ) -> Scope:
        """Check the names, and return the scope of a new store."""
        # A service makes a store for each request, mostly with the same agent.
        writer = _writer_of(agent) if type(agent) is str and run is None else Writer.of(agent, run)
        keys = UserKeys.of(user, form=form)
        return Scope(keys, namespace, writer, self.codec, self.limits, self.log, hits=hits)


@lru_cache(maxsize=128)
def _writer_of(agent: str) -> Writer:
    return Writer.of(agent, None)


def prepare_client(
    url: str | None, options: ClientOptions, own: tuple[str, ...], elsewhere: Mapping[str, str]
) -> tuple[Settings, Common]:
    """Check and combine the options of a client.

    `own` are the caller's parameters besides these options, and `elsewhere` says where others belong.
    """
    return _combined(url, settle(options, CLIENT_DEFAULTS, own, elsewhere))


def prepare_store(
    url: str | None, user: str, options: ConnectOptions
) -> tuple[Settings, Callable[[Form, HitCounts], Scope]]:
    """Check and combine the options of a store with a client of its own. Its scope depends on the form of the keys."""
    given = settle(options, CONNECT_DEFAULTS, ("url", "user"), OF_A_CLIENT)
    settings, common = _combined(url, given)

    def scope(form: Form, hits: HitCounts) -> Scope:
        return common.scope(user, given["namespace"], given["agent"], given["run"], form, hits)

    scope(PLAIN, HitCounts())  # raises for invalid names, before a server is started
    return settings, scope


def _combined(url: str | None, given: Mapping[str, Any]) -> tuple[Settings, Common]:
    for name, value in given.items():
        if name in _COUNTS:
            check_count(name, value, *((MAX_LOG_DAYS,) if name == "log_days" else ()))
    check_switches(log_values=given["log_values"])
    check_compress_above(given["compress_above"])
    settings = Settings(
        resolve_url(url, given["embedded"]),
        given["timeout"],
        None if given["data_dir"] is None else Path(given["data_dir"]),
        given["durability"],
        given["configure_server"],
        given["near_cache"],
        given["near_cache_bytes"],
        given["hash_tags"],
        given["min_replicas"],
        given["credential_provider"],
    )
    limits = Limits(given["max_value_bytes"], given["max_batch_bytes"])
    log = LogBounds(given["log_entries"], given["log_bytes"], given["log_days"], given["log_values"])
    return settings, Common(Values(Compression(given["compress_above"], limits.max_value_bytes)), limits, log)
