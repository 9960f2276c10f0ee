"""Watching and waiting on behalf of an agent: with a bound on namespaces, and with one reader at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from redis_store.hub.mailbox import NamespaceBudget
from redis_store.operations import operations_of
from redis_store.settings import new_id
from redis_store.store import DataStore
from redis_store.types import Json
from redis_store.watch.request import WatchRequest
from redis_store.watch.sync import Watch, wait_until

__all__ = ["NamespaceBudget", "wait_in_turn", "watch_all_within", "watch_within"]


def watch_within(
    store: DataStore,
    budget: NamespaceBudget,
    prefix: str | None,
    since: str | None,
    consumer: str | None,
    initial: bool,
) -> Watch:
    """Return what `DataStore.watch` returns, with a budget of namespaces that several watches share."""
    on = operations_of(store)
    plan = WatchRequest.of_namespace(on.scope, prefix, since, consumer, initial, new_id(), budget)
    return Watch(on.driver, plan)


def watch_all_within(
    store: DataStore,
    budget: NamespaceBudget,
    prefix: str | None,
    since: Mapping[str, str] | None,
    consumer: str | None,
    initial: bool,
) -> Watch:
    """Return what `DataStore.watch_all` returns, with a budget of namespaces that several watches share."""
    on = operations_of(store)
    plan = WatchRequest.of_all(on.scope, prefix, since, consumer, initial, new_id(), budget)
    return Watch(on.driver, plan)


def wait_in_turn(
    store: DataStore,
    key: str,
    predicate: Callable[[Json], bool],
    timeout_s: float | None,
    turn: AbstractContextManager[object],
    opened: Callable[[Callable[[], None]], None],
    budget: NamespaceBudget,
) -> Json:
    """Return what `DataStore.wait_until` returns. `turn` is held while the key is read and while `predicate` runs.

    `budget` counts the namespace while it is watched. `opened` gets a function that ends the wait, from any thread:
    `StoreClosed` is raised then.
    """
    on = operations_of(store)
    return wait_until(on.driver, on.scope, key, predicate, timeout_s, turn, opened, budget)
