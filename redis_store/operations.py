"""The operations of a store, carried out on a server: what a service's `DataStore` and an `AsyncDataStore` stand on."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import partial
from random import random
from typing import Any, ClassVar, Generic, Self, TypeVar

from redis_store.connections.address import without_secrets
from redis_store.drivers.aio import AsyncDriver
from redis_store.drivers.sync import SyncDriver
from redis_store.flows import run_async, run_sync
from redis_store.flows.compute_once import get_or_set
from redis_store.flows.flow import Flow
from redis_store.locks import AsyncLock, AsyncRateLimit, AsyncSemaphore, Lock, RateLimit, Semaphore
from redis_store.memo import Options, async_decorator, decorator
from redis_store.namespace.access import Access
from redis_store.namespace.scope import Scope
from redis_store.near.cache import stats_of
from redis_store.ops import batch, infos, listing, sequences, touch, updates, values
from redis_store.ops.compute_once import ComputePlan
from redis_store.ops.locks import LockOps, RateLimitOps, SemaphoreOps
from redis_store.ops.tags import invalidate_tag
from redis_store.ops.transactions import Draft
from redis_store.protocol.call import Alone, Op
from redis_store.protocol.read import Read
from redis_store.settings import new_id
from redis_store.stats import StoreStats
from redis_store.store import DataStore
from redis_store.types import Json, Ttl
from redis_store.watch import aio as watch_aio
from redis_store.watch import sync as watch_sync
from redis_store.watch.aio import AsyncWatch
from redis_store.watch.request import WatchRequest
from redis_store.watch.sync import Watch

T = TypeVar("T")


def _get_or_set(scope: Scope, key: str, make: Callable[[], Any], *wanted: Any) -> Flow[Json]:
    return get_or_set(ComputePlan.of(scope, key, *wanted), make, new_id, random)


_READS: dict[str, Read[Any]] = {"get": values.GET, "get_many": batch.GET_MANY, "contains": values.CONTAINS}
"""The reads that a near cache may answer, by the names of the methods of `DataStore`."""

_OPERATIONS: dict[str, Callable[..., Op[Any] | Alone[Any]]] = {
    "set": values.set_value,
    "set_if_version": values.set_if_version,
    "delete": values.delete,
    "delete_if_version": values.delete_if_version,
    "delete_many": lambda scope, keys: batch.delete_many(scope, keys, new_id()),
    "list_keys": listing.list_keys,
    "scan_page": listing.scan_page,
    "scan_items_page": listing.scan_items_page,
    "page_size": listing.page_size,
    "list_namespaces": listing.list_namespaces,
    "memory_bytes": listing.memory_bytes,
    "scan_infos_page": infos.scan_page,
    "infos_page_size": infos.page_size,
    "get_many_info": infos.get_many,
    "get_all_info": infos.get_all,
    "get_all": listing.get_all,
    "set_many": lambda scope, items, metadata, ttl: batch.set_many(scope, items, metadata, ttl, new_id()),
    "clear": batch.clear,
    "info": values.info,
    "infos": batch.infos,
    "count": values.count,
    "get_touched": touch.get_touched,
    "get_sliding": touch.get_sliding,
    "get_many_sliding": touch.get_many_sliding,
    "expire": values.expire,
    "persist": values.persist,
    "set_if_absent": updates.set_if_absent,
    "compare_and_set": updates.compare_and_set,
    "pop": updates.pop,
    "rename": updates.rename,
    "sequence_append": sequences.append,
    "sequence_append_bounded": sequences.append_bounded,
    "sequence_last": sequences.last,
    "sequence_range": sequences.read_range,
    "sequence_page": sequences.read_page,
    "sequence_pop": sequences.pop,
}
"""The other operations."""

_FLOWS: dict[str, Callable[..., Flow[Any]]] = {
    "increment": partial(updates.increment, rand=random),
    "append": partial(updates.append, rand=random),
    "update": partial(updates.update, rand=random),
    "get_or_set": _get_or_set,
    "invalidate_tag": invalidate_tag,
}
"""The methods that take several operations."""


DriverT = TypeVar("DriverT", SyncDriver, AsyncDriver)


@dataclass(frozen=True, slots=True)
class _OnServer(Generic[DriverT]):
    """The operations on one namespace, run by a driver. What its driver returns is a result, or a coroutine for asyncio."""

    driver: DriverT
    scope: Scope

    _lock: ClassVar[Callable[..., Any]]
    _semaphore: ClassVar[Callable[..., Any]]
    _rate_limit: ClassVar[Callable[..., Any]]
    _watch: ClassVar[Callable[..., Any]]
    _wait_until: ClassVar[Callable[..., Any]]
    _decorator: ClassVar[Callable[..., Any]]
    _run_flow: ClassVar[Callable[..., Any]]

    @property
    def user(self) -> str:
        return self.scope.user.user

    @property
    def namespace(self) -> str:
        return self.scope.namespace

    @property
    def url(self) -> str:
        return self.driver.url

    def call(self, operation: str, *arguments: Any) -> Any:
        read = _READS.get(operation)
        if read is not None:
            return self.driver.read(read, self.scope, *arguments)
        function = _OPERATIONS.get(operation)
        if function is None:
            return self._call_others(operation, *arguments)
        made: Any = function(self.scope, *arguments)
        return self.driver.run_alone(made) if type(made) is Alone else self.driver.run(made)

    def _call_others(self, operation: str, *arguments: Any) -> Any:
        if operation == "wait_until":
            return self._wait_until(self.driver, self.scope, *arguments)
        return self.run_flow(_FLOWS[operation](self.scope, *arguments))

    def run_flow(self, flow: Flow[Any]) -> Any:
        traced = self.driver.core.traced
        return self._run_flow(self.driver, flow if traced is None else traced(flow))

    def moved(self, name: str, ttl_ms: int | None, max_keys: int | None) -> Self:
        return replace(self, scope=self.scope.moved(name, ttl_ms, max_keys))

    def narrowed(self, access: Access) -> Self:
        return replace(self, scope=self.scope.narrowed(access))

    def as_json_text(self, errors_as_values: bool) -> Self:
        return replace(self, scope=self.scope.as_json_text(errors_as_values))

    def draft(self, begun: bool = False) -> Draft:
        return Draft(self.scope, new_id(), begun=begun)

    def lock(self, name: str, ttl: Ttl, timeout: float | None) -> Any:
        return self._lock(self.driver, LockOps.of(self.scope, name, ttl), timeout)

    def semaphore(self, name: str, n: int, ttl: Ttl, timeout: float | None) -> Any:
        return self._semaphore(self.driver, SemaphoreOps.of(self.scope, name, n, ttl), timeout)

    def rate_limit(self, name: str, n: int, per: Ttl, timeout: float | None) -> Any:
        return self._rate_limit(self.driver, RateLimitOps.of(self.scope, name, n, per), timeout)

    def watch(self, prefix: str | None, since: str | None, consumer: str | None, initial: bool) -> Any:
        plan = WatchRequest.of_namespace(self.scope, prefix, since, consumer, initial, new_id())
        return self._watch(self.driver, plan)

    def watch_all(
        self, prefix: str | None, since: Mapping[str, str] | None, consumer: str | None, initial: bool
    ) -> Any:
        plan = WatchRequest.of_all(self.scope, prefix, since, consumer, initial, new_id())
        return self._watch(self.driver, plan)

    def cached(self, store: Any, options: Options) -> Any:
        return self._decorator(store, options)

    def stats(self) -> StoreStats:
        return stats_of(self.scope, self.driver.near)

    def close(self) -> Any:
        return self.driver.close()

    def __str__(self) -> str:
        return f"user={self.user!r} namespace={self.namespace!r} at {without_secrets(self.url)}"


class ServerOperations(_OnServer[SyncDriver]):
    """The operations on one namespace for threads."""

    __slots__ = ()
    _lock, _semaphore, _rate_limit, _watch = Lock, Semaphore, RateLimit, Watch
    _wait_until = staticmethod(watch_sync.wait_until)
    _decorator = staticmethod(decorator)
    _run_flow = staticmethod(run_sync.run_flow)

    def run(self, op: Op[T]) -> T:
        return self.driver.run(op)


class AsyncServerOperations(_OnServer[AsyncDriver]):
    """The operations on one namespace for asyncio."""

    __slots__ = ()
    _lock, _semaphore, _rate_limit, _watch = AsyncLock, AsyncSemaphore, AsyncRateLimit, AsyncWatch
    _wait_until = staticmethod(watch_aio.wait_until)
    _decorator = staticmethod(async_decorator)
    _run_flow = staticmethod(run_async.run_flow)

    def run(self, op: Op[T]) -> Coroutine[Any, Any, T]:
        return self.driver.run(op)


def operations_of(store: DataStore) -> ServerOperations:
    """Return what a store that was opened in this process stands on."""
    operations = store._operations
    assert isinstance(operations, ServerOperations)
    return operations
