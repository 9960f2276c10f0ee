"""`DataStore`, the blocking store, for services and for agents alike: each method is one line over `Operations`.

A service's store carries its operations out on a server (`operations.py`); an agent's passes them to its host. For the agent's
sake this module imports only what the agent's process has too.
"""

# mypy: disable-error-code="no-any-return"
# What an operation returns is known where it is carried out; the types here are those that the contract suite holds.

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from random import random
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, Self, TypeVar, overload

from redis_store.errors import DataStoreError
from redis_store.flows import optimistic
from redis_store.flows.compute_once import LOCK_TIMEOUT_S, OUTAGES, check_on_error, log_miss
from redis_store.flows.flow import Flow
from redis_store.limits import check_max_items, check_max_keys, check_sliding, default_ttl_ms
from redis_store.locks import Lock, RateLimit, Semaphore
from redis_store.mapping import StoreMapping
from redis_store.memo import CacheDecorator, CachedFunction, KeyMaker, Options, TagMaker, bare
from redis_store.namespace.access import NO_WRITES, Access
from redis_store.sequence import StoredSequence
from redis_store.stats import StoreStats
from redis_store.transaction import PendingTransaction, Transaction
from redis_store.types import MISSING, Json, JsonInput, KeyInfo, Missing, OnError, Ttl
from redis_store.values.typed import converter

if TYPE_CHECKING:  # an agent has another `Watch`, with the same methods
    from redis_store.protocol.call import Op
    from redis_store.watch.sync import Watch

T = TypeVar("T")
D = TypeVar("D")
P = ParamSpec("P")
R = TypeVar("R")


_MISSES: dict[str, Callable[..., Any]] = {
    "get": lambda key, default: default,
    "get_many": lambda keys: {},
    "get_touched": lambda key, touch, default: default,
    "get_sliding": lambda key, ttl, default: default,
    "get_many_sliding": lambda keys, ttl: {},
    "contains": lambda key: False,
}
"""What the reads of a cache find while the store is unavailable."""


def found_nothing(operation: str, arguments: tuple[Any, ...], error: DataStoreError) -> Any:
    """Return what a read of a cache finds while the store is unavailable, and log that; raise the error of another operation."""
    if operation not in _MISSES:
        raise error
    log_miss(operation, error)
    return _MISSES[operation](*arguments)


def call_sliding(call: Callable[..., Any], operation: str, *arguments: Any) -> Any:
    """Do `call` for a handle that renews the ttl of what it reads."""
    if operation == "get":
        key, default = arguments
        return call("get_sliding", key, None, default)
    if operation == "get_many":
        return call("get_many_sliding", *arguments, None)
    return call(operation, *arguments)


class Operations(Protocol):
    """What a `DataStore` stands on: the operations on one namespace of a user."""

    @property
    def user(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def scope(self) -> Any:
        """What a `PendingTransaction` takes to know the namespace."""

    def call(self, operation: str, *arguments: Any) -> Any:
        """Carry out an operation and return its result. Names and arguments are those of `DataStore`'s methods."""

    def run(self, op: Op[T]) -> T: ...
    def run_flow(self, flow: Flow[T]) -> T: ...
    def moved(self, name: str, ttl_ms: int | None, max_keys: int | None) -> Self: ...
    def narrowed(self, access: Access) -> Self: ...
    def as_json_text(self, errors_as_values: bool) -> Self: ...
    def draft(self, begun: bool = False) -> PendingTransaction: ...
    def lock(self, name: str, ttl: Ttl, timeout: float | None) -> Lock: ...
    def semaphore(self, name: str, n: int, ttl: Ttl, timeout: float | None) -> Semaphore: ...
    def rate_limit(self, name: str, n: int, per: Ttl, timeout: float | None) -> RateLimit: ...
    def watch(self, prefix: str | None, since: str | None, consumer: str | None, initial: bool) -> Watch: ...
    def watch_all(
        self, prefix: str | None, since: Mapping[str, str] | None, consumer: str | None, initial: bool
    ) -> Watch: ...
    def cached(self, store: DataStore, options: Options) -> CacheDecorator: ...
    def stats(self) -> StoreStats: ...
    def close(self) -> None: ...


class DataStore(StoreMapping):
    """A handle of one namespace of a user: JSON values stored under keys.

    Made by `connect` or `Client.store`; a context manager. `use_namespace` returns handles of the user's other namespaces.
    Methods raise an error of `redis_store.errors`: `InvalidInput` before anything is sent, `StoreUnavailable` if the server
    cannot be reached, `ServerRefused` if it reports an error, and `StoredDataError` for stored data that this package did not
    write.
    """

    def __init__(self, operations: Operations, on_error: OnError = "raise", sliding: bool = False) -> None:
        self._operations = operations
        self._on_error = on_error
        self._sliding = sliding
        self._call = operations.call if on_error == "raise" else self._call_or_miss
        if sliding:
            self._call = partial(call_sliding, self._call)

    @property
    def url(self) -> str:
        """The server's url, including the password if there is one."""
        return self._operations.url

    @property
    def user(self) -> str:
        """The owner of the data."""
        return self._operations.user

    @property
    def namespace(self) -> str:
        """The namespace that the methods work on."""
        return self._operations.namespace

    @overload
    def get(self, key: str, default: Any = None, *, touch: float | timedelta | None = None) -> Json: ...
    @overload
    def get(
        self, key: str, default: None = None, *, as_type: type[T], touch: float | timedelta | None = None
    ) -> T | None: ...
    @overload
    def get(self, key: str, default: D, *, as_type: type[T], touch: float | timedelta | None = None) -> T | D: ...
    def get(self, key: str, default: Any = None, *, as_type: Any = None, touch: float | timedelta | None = None) -> Any:
        """Return the value of a key, or `default` if the key is missing. A stored null is returned as None.

        With `as_type` the value is converted to a dataclass, TypedDict, NamedTuple or pydantic model, or to a container of such:
        ``list[Point]``. `StoredDataError`, with its `path`, is raised if the value does not fit. `default` is never converted.

        With `touch`, an existing key is set to expire that many seconds from now, as by `expire`, in the same round trip. It
        needs the right to write, and the server is asked even if a near cache has the value.
        """
        if as_type is not None:
            convert = converter(as_type)
            value = self.get(key, MISSING, touch=touch)
            return default if value is MISSING else convert(value, self.namespace, key)
        if touch is not None:
            return self._call("get_touched", key, touch, default)
        return self._call("get", key, default)

    def set(
        self,
        key: str,
        value: JsonInput,
        metadata: dict[str, Json] | None = None,
        ttl: Ttl = None,
        *,
        if_version: int | None = None,
    ) -> None:
        """Store a value under a key, replacing any previous value and its ttl.

        `metadata` is merged into the key's existing metadata. `ttl` is in seconds, or a timedelta. Without one the namespace's
        default ttl applies; `NEVER` stores the value without expiry.

        With `if_version`, the value is stored only if the key has this version, `KeyInfo.version`: 0 stands for a missing key.
        Otherwise `Conflict` is raised, with the `version` that the key has, and nothing is written. No value is compared. An
        external write does not change a version.
        """
        if if_version is None:
            self._call("set", key, value, metadata, ttl)
        else:
            self._call("set_if_version", key, value, metadata, ttl, if_version)

    def expire(self, key: str, ttl: float | timedelta) -> bool:
        """Set a key to expire `ttl` from now, replacing any earlier ttl. Return whether the key exists."""
        return self._call("expire", key, ttl)

    def persist(self, key: str) -> bool:
        """Remove the ttl of a key, so that it does not expire. Return whether it had one."""
        return self._call("persist", key)

    def increment(self, key: str, by: float = 1) -> int | float:
        """Add `by` to the number stored under a key, atomically, and return the sum. A missing key counts as 0.

        Integers stay exact, and the key keeps its ttl. Raises `WrongValueType` if the value is not a number.
        """
        return self._call("increment", key, by)

    def append(self, key: str, *items: JsonInput, max_items: int | None = None) -> None:
        """Append items to the list stored under a key, atomically. A missing key counts as an empty list.

        With `max_items`, only that many of the newest items are kept. The key keeps its ttl. Raises `WrongValueType` if the
        value is not a list.
        """
        self._call("append", key, items, max_items)

    def set_if_absent(self, key: str, value: JsonInput, ttl: Ttl = None) -> bool:
        """Store a value if the key is missing, and return whether it was stored. Of concurrent callers, one gets True."""
        return self._call("set_if_absent", key, value, ttl)

    def compare_and_set(self, key: str, expected: JsonInput | Missing, value: JsonInput, ttl: Ttl = None) -> bool:
        """Store a value if the key holds `expected`, atomically, and return whether it was stored.

        With `MISSING` as `expected`, the key must be missing; None means a stored null. 1, 1.0 and true are different values.
        As with `set`, a previous ttl is dropped.
        """
        return self._call("compare_and_set", key, expected, value, ttl)

    def rename(self, key: str, new: str) -> bool:
        """Move a value with its metadata and ttl to another key, replacing that key's value. Return whether `key` exists."""
        return self._call("rename", key, new)

    @overload  # type: ignore[override]  # a store's also takes a key and a function
    def update(self, key: str, function: Callable[[Any], Any], /, default: Any = None) -> Json: ...
    @overload
    def update(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), /, **more: Any) -> None: ...
    def update(self, /, *args: Any, **kwargs: Any) -> Json:
        """Replace a key's value with ``function(value)``, atomically, and return the new value.

        The function gets `default` if the key is missing. It is called again whenever another writer changed the key
        meanwhile. The key keeps its ttl. If the function raises, the exception propagates and nothing is written. Raises
        `Conflict` after 200 tries, which take about 10 seconds with the pauses between them.

        Called with a mapping or pairs, as `dict.update`, stores all items or none.
        """
        if args and (isinstance(args[0], str) or len(args) > 1):
            return self._update(*args, **kwargs)
        return super().update(*args, **kwargs)

    def pop(self, key: str, default: Any = MISSING) -> Json:
        """Delete a key and return its value. If the key is missing, return `default`, or raise KeyError without one.

        Of concurrent callers, one gets the value. It is decoded before it is deleted: a value that cannot be read stays, and
        `StoredDataError` is raised. Raises `Conflict` if the key is changed by others at each of 1,000 tries.
        """
        value = self._call("pop", key, default)
        if value is MISSING:
            raise KeyError(key)
        return value

    def get_or_set(
        self,
        key: str,
        make: Callable[[], Any],
        ttl: Ttl = None,
        stale: Ttl = None,
        lock_timeout: float | timedelta = LOCK_TIMEOUT_S,
        tags: Iterable[str] | None = None,
        timeout: float | None = None,
        on_error: OnError | None = None,
    ) -> Json:
        """Return the value of a key; if it is missing, compute it with ``make()`` and store it.

        Concurrent callers, in any number of processes, compute a missing value once. The others wait for the result and hold
        no connection meanwhile. If `make` raises, its caller gets the exception, the others `ComputeFailed`, and nothing is
        stored. `make` may take any time; if its process dies, another caller computes after `lock_timeout` seconds. An
        asynchronous store and an agent's store await the result of `make` if it is awaitable. A stored null counts as a value.

        With `stale`, an expired value is returned for that many seconds more, while one caller refreshes it. A value with
        `tags` is also deleted by `invalidate_tag`. A value that is deleted while it is computed is not stored.

        `timeout` is in seconds: a caller that has waited so long for another's result gets `WaitTimeout`, and a function that
        runs longer, and longer than `lock_timeout`, no longer keeps others from computing. A result that the store cannot keep
        is returned, and a warning logged. With ``on_error="compute"`` the value is computed without a store that is unavailable.
        """
        return self._call("get_or_set", key, make, ttl, stale, lock_timeout, tags, timeout, on_error or self._on_error)

    @overload
    def cached(self, ttl: Callable[P, R], /) -> CachedFunction[P, R]: ...
    @overload
    def cached(
        self,
        ttl: Ttl = None,
        key: KeyMaker = None,
        version: str | int | None = None,
        tags: TagMaker = None,
        stale: Ttl = None,
        lock_timeout: float | timedelta = LOCK_TIMEOUT_S,
        timeout: float | None = None,
        on_error: OnError | None = None,
    ) -> CacheDecorator: ...
    def cached(
        self,
        ttl: Ttl | Callable[..., Any] = None,
        key: KeyMaker = None,
        version: str | int | None = None,
        tags: TagMaker = None,
        stale: Ttl = None,
        lock_timeout: float | timedelta = LOCK_TIMEOUT_S,
        timeout: float | None = None,
        on_error: OnError | None = None,
    ) -> CacheDecorator | CachedFunction[..., Any]:
        """Decorate a function so that its results are cached in this namespace, as with `get_or_set`.

        By default the key is made of the function's name, `version` and the arguments, which must be JSON values. In a script or
        an agent the text of its file counts as well, so an edit begins with new results. `key` replaces all this: a template
        such as ``"user:{user_id}"``, filled with the arguments, or a function of them. `tags` is a list of such templates, or a
        function. With a new `version`, old results are ignored and expire with their ttl.
        `timeout` and `on_error` are those of `get_or_set`. The decorated function has ``cache_key(...)``, ``invalidate(...)``
        and ``invalidate_all()``. Without options the brackets may be left out: ``@data_store.cached``.
        """
        function, ttl = bare(ttl)
        options = Options(ttl, key, version, tags, stale, lock_timeout, timeout, on_error or self._on_error)
        decorate = self._operations.cached(self, options)
        return decorate if function is None else decorate(function)

    def invalidate_tag(self, tag: str) -> int:
        """Delete the values with a tag, in all namespaces that this handle may write, and return how many were deleted.

        One namespace is done after the other, in steps of 1,000 keys. An error after the first step has `outcome_unknown=True`
        and says how many values were deleted; a cancelled call may have deleted a part. Calling it again deletes the rest.

        Values in other namespaces are kept, without an error. For an agent, `sandbox.Operation.kept` and a hint of the run say
        how many; the agent itself is not told, nor where they are.
        """
        return self._call("invalidate_tag", tag)

    def transaction(self) -> Transaction:
        """Return a transaction over the user's namespaces, to be used as a context manager.

        When its block ends, its writes are stored atomically, provided that no value it has read has changed. Otherwise
        `Conflict` is raised and nothing is stored. Writes by others to keys that it has not read do not conflict.
        `transact` retries on a conflict.
        """
        return Transaction(self._operations, self._operations.draft())

    def transact(self, function: Callable[[Transaction], T]) -> T:
        """Run ``function(transaction)``, commit, and return its result. Run it again after each conflict.

        The function may be called several times, so it should only read and write through the transaction. Raises `Conflict`
        after 200 tries, which take about 10 seconds with the pauses between them.
        """
        operations = self._operations
        return operations.run_flow(
            optimistic.transact(
                lambda: operations.draft(begun=True), lambda draft: Transaction(operations, draft), function, random
            )
        )

    def lock(self, name: str, ttl: float | timedelta = 30, timeout: float | None = None) -> Lock:
        """Return a mutual-exclusion lock, scoped to the user and shared by all namespaces, to be used as a context manager.

        In an agent with limited namespaces its name is the agent's own, unless ``Permissions(locks=...)`` shares it; so with
        semaphores, and in the same way with rate limits, tags and consumers.

        Renewed while the holder and its object are alive; expires `ttl` seconds after that, by the server's clock. If that clock
        jumps forward, another caller may acquire it: only `fence` tells the two apart until the next renewal. Each holder needs
        an object of its own. Waiters acquire it in FIFO order. `timeout` is in seconds: `LockTimeout` is raised if the lock was
        not acquired in time. 0 tries once, None waits without limit.
        """
        return self._operations.lock(name, ttl, timeout)

    def semaphore(self, name: str, n: int, ttl: float | timedelta = 30, timeout: float | None = None) -> Semaphore:
        """Return a semaphore with `n` slots, used like a `lock`. All callers must pass the same `n` for a name."""
        return self._operations.semaphore(name, n, ttl, timeout)

    def rate_limit(self, name: str, n: int, per: float | timedelta, timeout: float | None = None) -> RateLimit:
        """Return a rate limit of `n` uses in any `per` seconds, by the server's clock, to be used as a context manager.

        All callers must pass the same `n` and `per` for a name: an agent that passes others than those in use gets
        `InvalidInput`. Entering waits for the next free use, or raises `LockTimeout` at once if there is none within `timeout`
        seconds.
        """
        return self._operations.rate_limit(name, n, per, timeout)

    def delete(self, key: str, *, if_version: int | None = None) -> bool:
        """Delete a key and return whether it existed.

        With `if_version`, only if the key has this version, as for `set`; with 0, a missing key is expected. Otherwise `Conflict`
        is raised, and nothing is deleted.
        """
        if if_version is None:
            return self._call("delete", key)
        return self._call("delete_if_version", key, if_version)

    def delete_many(self, keys: Iterable[str]) -> int:
        """Delete several keys atomically and return how many existed."""
        return self._call("delete_many", keys)

    def list_keys(self, prefix: str | None = None) -> list[str]:
        """Return the keys that begin with `prefix`, sorted. The prefix is literal, not a pattern.

        They are a snapshot up to 10,000 keys and 16 MiB, and beyond that unless the namespace is written to again and again.
        """
        return self._call("list_keys", prefix)

    def iter_keys(self, prefix: str | None = None) -> Iterator[str]:
        """Iterate over the keys page by page, for namespaces too big for a list.

        Each page is consistent in itself. A key may come twice while the namespace grows.
        """
        for page in self._pages("scan_page", prefix):
            yield from page

    @overload
    def iter_items(self, prefix: str | None = None) -> Iterator[tuple[str, Json]]: ...
    @overload
    def iter_items(
        self, prefix: str | None = None, *, info: Literal[True]
    ) -> Iterator[tuple[str, tuple[Json, KeyInfo]]]: ...
    def iter_items(self, prefix: str | None = None, *, info: bool = False) -> Iterator[tuple[str, Any]]:
        """Iterate over keys and values page by page, as `iter_keys` does, for namespaces too big for a dict.

        With ``info=True``, over keys and tuples of the value and its `KeyInfo`.
        """
        if info:
            for page in self._pages("scan_infos_page", prefix, self._call("infos_page_size")):
                yield from page.items()
            return
        for page in self._pages("scan_items_page", prefix, self._call("page_size")):
            yield from page.items()

    def scan_page(self, cursor: str = "0", prefix: str | None = None) -> tuple[str, list[str]]:
        """Return the cursor of the next page, and one page of keys.

        Begin with the cursor ``"0"``, and stop when it is returned. A key may come in two pages.
        """
        return self._call("scan_page", cursor, prefix)

    def scan_items_page(self, cursor: str = "0", prefix: str | None = None) -> tuple[str, dict[str, Json]]:
        """Return the cursor of the next page, and one page of keys with their values, as `scan_page` does."""
        return self._call("scan_items_page", cursor, prefix)

    def list_namespaces(self, prefix: str | None = None) -> list[str]:
        """Return the user's namespaces that hold data and may be read, sorted. The prefix is literal."""
        return self._call("list_namespaces", prefix)

    def memory_bytes(self) -> int:
        """Return the server memory that the keys and values of this namespace take, in bytes, as estimated by the server."""
        return self._call("memory_bytes")

    @overload
    def get_many(self, keys: Iterable[str]) -> dict[str, Json]: ...
    @overload
    def get_many(self, keys: Iterable[str], *, as_type: type[T]) -> dict[str, T]: ...
    @overload
    def get_many(self, keys: Iterable[str], *, info: Literal[True]) -> dict[str, tuple[Json, KeyInfo]]: ...
    @overload
    def get_many(
        self, keys: Iterable[str], *, as_type: type[T], info: Literal[True]
    ) -> dict[str, tuple[T, KeyInfo]]: ...
    def get_many(self, keys: Iterable[str], *, as_type: Any = None, info: bool = False) -> dict[str, Any]:
        """Return the values of the keys that exist, in the order of `keys`, as a snapshot. `as_type` as in `get`.

        With ``info=True``, return tuples of the value and its `KeyInfo`, of one moment and in one round trip. These do not come
        from the near cache.
        """
        convert = None if as_type is None else converter(as_type)
        if info:
            pairs = self._call("get_many_info", keys)
            if convert is None:
                return pairs
            return {key: (convert(value, self.namespace, key), about) for key, (value, about) in pairs.items()}
        if convert is not None:
            return {key: convert(value, self.namespace, key) for key, value in self.get_many(keys).items()}
        return self._call("get_many", keys)

    @overload
    def get_all(self, prefix: str | None = None) -> dict[str, Json]: ...
    @overload
    def get_all(self, prefix: str | None = None, *, info: Literal[True]) -> dict[str, tuple[Json, KeyInfo]]: ...
    def get_all(self, prefix: str | None = None, *, info: bool = False) -> dict[str, Any]:
        """Return the keys that begin with `prefix`, with their values.

        They are a snapshot up to 10,000 keys and 16 MiB, and beyond that unless the namespace is written to again and again.
        With ``info=True``, the values are tuples of the value and its `KeyInfo`, and 16 MiB include the infos.
        """
        if info:
            return self._call("get_all_info", prefix)
        return self._call("get_all", prefix)

    def set_many(
        self,
        items: Mapping[str, JsonInput],
        metadata: dict[str, Json] | None = None,
        ttl: Ttl = None,
    ) -> int:
        """Store all items or none, and return their number. `metadata` and `ttl` apply to each item, as in `set`.

        Readers see all of the items or none.
        """
        return self._call("set_many", items, metadata, ttl)

    def clear(self) -> int:  # type: ignore[override]  # see StoreMapping
        """Delete every key of the namespace and return how many were deleted."""
        return self._call("clear")

    def info(self, key: str) -> KeyInfo | None:
        """Return a key's info (times, writers, metadata, size), or None if the key is missing."""
        return self._call("info", key)

    def infos(self, keys: Iterable[str]) -> dict[str, KeyInfo]:
        """Return the infos of those keys that exist, in the order of `keys`. Each is a snapshot of its key."""
        return self._call("infos", keys)

    def contains(self, key: str) -> bool:
        """Return whether a key exists; ``key in store`` is the same for threads."""
        return self._call("contains", key)

    def count(self) -> int:
        """Return the number of keys of the namespace; ``len(store)`` is the same for threads.

        It may include keys that have expired and are not removed yet.
        """
        return self._call("count")

    def watch(
        self,
        prefix: str | None = None,
        since: str | None = None,
        consumer: str | None = None,
        initial: bool = False,
    ) -> Watch:
        """Return an iterator over the changes of this namespace from now on; see `Change` and ``docs/watching.md``.

        `prefix` selects keys that begin with it. `since` continues after the change with that `cursor`; a cursor of another
        namespace raises `InvalidInput`. `initial` yields every key first.

        `consumer` names a consumer: its cursor is saved in Redis when the next change is requested, and kept for 90 days. A
        process that is killed therefore gets the change that it was working on again. Of several processes with the same name,
        one works and the others stand by.

        For asyncio, "now" is when the watch is entered (``async with``) or the first change is requested.
        """
        return self._operations.watch(prefix, since, consumer, initial)

    def watch_all(
        self,
        prefix: str | None = None,
        since: Mapping[str, str] | None = None,
        consumer: str | None = None,
        initial: bool = False,
    ) -> Watch:
        """Return an iterator over the changes of all namespaces whose names begin with `prefix`, including new ones.

        As `watch`, except that `since` is a dict of namespaces and cursors. Every key is yielded of a namespace that is not
        in it.
        """
        return self._operations.watch_all(prefix, since, consumer, initial)

    def wait_for(self, key: str, timeout: float | None = None) -> Json:
        """Return the value of a key, waiting until the key exists.

        Raises `WaitTimeout`, a `TimeoutError`, after `timeout` seconds; None waits without limit.
        """
        return self._call("wait_until", key, None, timeout)

    def wait_until(self, key: str, predicate: Callable[[Json], bool], timeout: float | None = None) -> Json:
        """Return the value of a key, waiting until the key exists and ``predicate(value)`` is true. Raises as `wait_for`."""
        return self._call("wait_until", key, predicate, timeout)

    def use_namespace(
        self,
        name: str,
        ttl: Ttl = None,
        max_keys: int | None = None,
        on_error: OnError = "raise",
        sliding: bool = False,
    ) -> DataStore:
        """Return a handle of another namespace of the same user. It shares the connections, and closes with this handle.

        `ttl` is the default ttl of values written through the handle. With `max_keys`, a write through it that exceeds this
        number of keys evicts other keys: from a random sample, those written longest ago. With ``on_error="compute"``, for a
        cache, reads of single keys and `get_many` find nothing while the store is unavailable, and a warning is logged;
        `get_or_set` and `cached` compute.

        With `sliding`, each `get` and `get_many` through the handle renews the ttl of the keys that have one. They need
        the right to write, and the server is asked even if a near cache has the value. Other reads change no ttl.
        """
        check_on_error(on_error)
        check_sliding(sliding, ttl)
        return DataStore(self._operations.moved(name, default_ttl_ms(ttl), check_max_keys(max_keys)), on_error, sliding)

    def sequence(self, name: str, max_items: int | None = None, ttl: Ttl = None) -> StoredSequence:
        """Return a list of any length, stored as the namespace `name`: its items are values, and their keys are positions.

        `append`, `last` and `pop` take one step of the server whatever the length. With `max_items`, each `append` through this
        object deletes the first items beyond that number. `ttl` is that of each item.
        """
        moved = self._operations.moved(name, default_ttl_ms(ttl), None)
        return StoredSequence(moved, None if max_items is None else check_max_items(max_items))

    def read_only(self) -> DataStore:
        """Return a handle that cannot write, neither here nor in the user's other namespaces."""
        return DataStore(self._operations.narrowed(NO_WRITES), self._on_error)

    def restricted(
        self,
        *,
        read: Iterable[str] | None = None,
        write: Iterable[str] | None = None,
        namespaces: Iterable[str] | None = None,
    ) -> DataStore:
        """Return a handle that may use only the given namespaces: `read` to read, `write` to write, `namespaces` for both.

        Each is a name, or a prefix followed by ``*``. An omitted right is lost: ``restricted(read=["shared"])`` cannot write.
        A handle can only be narrowed. Other access raises `AccessDenied` before anything is sent. `list_namespaces` returns
        the namespaces that may be read.
        """
        return DataStore(self._operations.narrowed(Access.of(read, write, namespaces)), self._on_error, self._sliding)

    def as_json_text(self, *, errors_as_values: bool = False) -> DataStore:
        """Return a handle whose values are JSON text in bytes, for brokers that pass them on without parsing them.

        With `errors_as_values`, a watch of this handle returns the `StoredDataError` of a value that cannot be unpacked as the
        change's value, instead of raising it.
        """
        return DataStore(self._operations.as_json_text(errors_as_values), self._on_error, self._sliding)

    def stats(self) -> StoreStats:
        """Return the counts of this store in this process since it was opened, over all of its namespaces and handles."""
        return self._operations.stats()

    def close(self) -> None:
        """Close the connections, for all handles of this store. May be repeated.

        A store of a client only ends its watches and waits, and refuses later calls. The embedded server stops when its last
        user closes.
        """
        self._operations.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<DataStore {self._operations}>"

    def _call_or_miss(self, operation: str, *arguments: Any) -> Any:
        try:
            return self._operations.call(operation, *arguments)
        except OUTAGES as error:
            return found_nothing(operation, arguments, error)

    def _update(self, key: str, function: Callable[[Any], Any], default: Any = None) -> Json:
        return self._call("update", key, function, default)

    def _pages(self, operation: str, prefix: str | None, *more: Any) -> Iterator[Any]:
        cursor = "0"
        while True:
            cursor, page = self._call(operation, cursor, prefix, *more)
            yield page
            if cursor == "0":
                return
