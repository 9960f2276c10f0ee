"""The operations of a blocking store, carried out on a server: the `Operations` of a service's `DataStore`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from random import random
from typing import Any, TypeVar

from redis_store.connections.address import without_secrets
from redis_store.drivers.sync import SyncDriver
from redis_store.flows.compute_once import get_or_set
from redis_store.flows.flow import Flow
from redis_store.flows.run_sync import run_flow
from redis_store.locks import Lock, RateLimit, Semaphore
from redis_store.memo import CacheDecorator, Options, decorator
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
from redis_store.watch.request import WatchRequest
from redis_store.watch.sync import Watch, wait_until

T = TypeVar("T")


def _get_or_set(scope: Scope, key: str, make: Callable[[], Any], *wanted: Any) -> Flow[Json]:
    return get_or_set(ComputePlan.of(scope, key, *wanted), make, new_id, random)


_OPERATIONS: dict[str, Callable[..., Op[Any] | Alone[Any]] | Read[Any]] = {
    "get": values.GET,
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
    "get_many": batch.GET_MANY,
    "get_many_info": infos.get_many,
    "get_all_info": infos.get_all,
    "get_all": listing.get_all,
    "set_many": lambda scope, items, metadata, ttl: batch.set_many(scope, items, metadata, ttl, new_id()),
    "clear": batch.clear,
    "info": values.info,
    "infos": batch.infos,
    "contains": values.CONTAINS,
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
"""The operations by the names of the methods of `DataStore` that they carry out."""

_FLOWS: dict[str, Callable[..., Flow[Any]]] = {
    "increment": partial(updates.increment, rand=random),
    "append": partial(updates.append, rand=random),
    "update": partial(updates.update, rand=random),
    "get_or_set": _get_or_set,
    "invalidate_tag": invalidate_tag,
}
"""The methods that take several operations."""


@dataclass(frozen=True, slots=True)
class ServerOperations:
    """The operations on one namespace, run by a driver."""

    driver: SyncDriver
    scope: Scope

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
        function = _OPERATIONS.get(operation)
        if isinstance(function, Read):
            return self.driver.read(function, self.scope, *arguments)
        if function is None:
            return self._call_others(operation, *arguments)
        made = function(self.scope, *arguments)
        return self.driver.run_alone(made) if type(made) is Alone else self.driver.run(made)  # type: ignore[arg-type]

    def _call_others(self, operation: str, *arguments: Any) -> Any:
        if operation == "wait_until":
            return wait_until(self.driver, self.scope, *arguments)
        return self.run_flow(_FLOWS[operation](self.scope, *arguments))

    def run(self, op: Op[T]) -> T:
        return self.driver.run(op)

    def run_flow(self, flow: Flow[T]) -> T:
        if self.driver.core.traced is not None:
            flow = self.driver.core.traced(flow)
        return run_flow(self.driver, flow)

    def moved(self, name: str, ttl_ms: int | None, max_keys: int | None) -> ServerOperations:
        return replace(self, scope=self.scope.moved(name, ttl_ms, max_keys))

    def narrowed(self, access: Access) -> ServerOperations:
        return replace(self, scope=self.scope.narrowed(access))

    def as_json_text(self, errors_as_values: bool) -> ServerOperations:
        return replace(self, scope=self.scope.as_json_text(errors_as_values))

    def draft(self, begun: bool = False) -> Draft:
        return Draft(self.scope, new_id(), begun=begun)

    def lock(self, name: str, ttl: Ttl, timeout: float | None) -> Lock:
        return Lock(self.driver, LockOps.of(self.scope, name, ttl), timeout)

    def semaphore(self, name: str, n: int, ttl: Ttl, timeout: float | None) -> Semaphore:
        return Semaphore(self.driver, SemaphoreOps.of(self.scope, name, n, ttl), timeout)

    def rate_limit(self, name: str, n: int, per: Ttl, timeout: float | None) -> RateLimit:
        return RateLimit(self.driver, RateLimitOps.of(self.scope, name, n, per), timeout)

    def watch(self, prefix: str | None, since: str | None, consumer: str | None, initial: bool) -> Watch:
        plan = WatchRequest.of_namespace(self.scope, prefix, since, consumer, initial, new_id())
        return Watch(self.driver, plan)

    def watch_all(
        self, prefix: str | None, since: Mapping[str, str] | None, consumer: str | None, initial: bool
    ) -> Watch:
        plan = WatchRequest.of_all(self.scope, prefix, since, consumer, initial, new_id())
        return Watch(self.driver, plan)

    def cached(self, store: DataStore, options: Options) -> CacheDecorator:
        return decorator(store, options)

    def stats(self) -> StoreStats:
        return stats_of(self.scope, self.driver.near)

    def close(self) -> None:
        self.driver.close()

    def __str__(self) -> str:
        return f"user={self.user!r} namespace={self.namespace!r} at {without_secrets(self.url)}"


def operations_of(store: DataStore) -> ServerOperations:
    """Return what a store that was opened in this process stands on."""
    operations = store._operations
    assert isinstance(operations, ServerOperations)
    return operations
