"""Leases: connections of another store, counted and closed by themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redis_store import DataStore
from redis_store.brokers.lease import lease
from redis_store.errors import LimitExceeded, StoreClosed
from redis_store.operations import operations_of
from tests.support.servers import Server


@pytest.fixture
def store(one_server: Server, open_store: Callable[..., DataStore], user: str) -> DataStore:
    return open_store(one_server.url, user)


def test_lease_uses_the_owners_connections(store: DataStore) -> None:
    store.set("key", "of the owner")
    owner = operations_of(store).driver.loans
    before = set(owner._every)  # type: ignore[attr-defined]
    with lease(store, user=f"{store.user}-2", namespace=store.namespace) as leased:
        leased.set("key", 1)
        assert leased.get("key") == 1
        assert store.get("key") == "of the owner"
    assert owner._every == before  # type: ignore[attr-defined]
    assert store.get("key") == "of the owner"


def test_closed_lease_leaves_its_owner_open(store: DataStore) -> None:
    leased = lease(store, user=store.user, namespace=store.namespace)
    leased.close()
    leased.close()
    with pytest.raises(StoreClosed):
        leased.get("key")
    assert store.get("key") is None


def test_closing_a_lease_closes_what_it_has_in_use(store: DataStore) -> None:
    leased = lease(store, user=store.user, namespace=store.namespace)
    loans, owner = operations_of(leased).driver.loans, operations_of(store).driver.loans
    idle, in_use = loans.take(), loans.take()
    loans.put_back(idle)
    leased.close()
    every: Any = owner._every  # type: ignore[attr-defined]
    assert idle in every
    assert in_use not in every
    loans.put_back(in_use)
    assert store.get("key") is None


def test_lease_bounds_what_is_read_at_once(store: DataStore) -> None:
    store.set("key", "x" * 10_000)
    with lease(store, user=store.user, namespace=store.namespace, max_read_bytes=1000) as leased:
        with pytest.raises(LimitExceeded):
            leased.get("key")
        leased.set("small", 1)
        assert leased.get("small") == 1
    assert store.get("key") == "x" * 10_000, "the bound is not left on the connection"
