"""Leases: connections of another store, counted and closed by themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redis_store import DataStore
from redis_store.brokers import steps
from redis_store.brokers.lease import lease
from redis_store.errors import LimitExceeded, StoreClosed
from redis_store.flows.optimistic import TransactionParts
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


MANY = b"[" + b"[]," * 1000 + b"[]]"
UNDECODED: dict[str, Callable[[DataStore], object]] = {
    "set": lambda store: store.set("key", MANY),
    "set_many": lambda store: store.set_many({"one": b"1", "key": MANY}),
    "set_if_absent": lambda store: store.set_if_absent("other", MANY),
    "compare_and_set": lambda store: store.compare_and_set("key", b"1", MANY),
    "compare_and_set, expected": lambda store: store.compare_and_set("key", MANY, b"1"),
    "append": lambda store: store.append("key", MANY),
    "append, together": lambda store: store.append("key", *[b"[[],[],[],[],[],[]]"] * 200),
    "append, stored": lambda store: store.append("key", b"1", max_items=1),
    "increment, stored": lambda store: store.increment("key", b"1"),
    "transaction": lambda store: steps.carry_out(
        store, "commit_transaction", TransactionParts([], [("default", "key", MANY, None)], [], {})
    ),
    "replace": lambda store: steps.carry_out(store, "replace", "key", b"1", MANY),
    "commit_value": lambda store: steps.carry_out(store, "commit_value", "key", "token-of-mine", MANY),
}


@pytest.mark.parametrize("call", UNDECODED.values(), ids=UNDECODED)
def test_a_text_of_too_many_values_is_not_decoded_for_an_agent(
    store: DataStore, call: Callable[[DataStore], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redis_store.limits.MAX_VALUES", 1000)
    stored = [[]] * 1001
    store.set("key", stored)
    with lease(store, user=store.user, namespace=store.namespace, max_read_bytes=10**6) as leased:
        with pytest.raises(LimitExceeded) as caught:
            call(leased.as_json_text())
        assert (caught.value.limit, caught.value.facts["limit_count"]) == ("max_values", 1000)
        assert store.get_all() == {"key": stored}


def test_a_value_of_too_many_parts_equals_none_that_an_agent_can_expect(
    store: DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redis_store.limits.MAX_VALUES", 1000)
    store.set("key", [[]] * 1001)
    with lease(store, user=store.user, namespace=store.namespace, max_read_bytes=10**6) as leased:
        assert leased.as_json_text().compare_and_set("key", b"[]", b"1") is False


def test_a_host_stores_texts_of_any_number_of_values(store: DataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redis_store.limits.MAX_VALUES", 1000)
    texts = store.as_json_text()
    texts.set("key", MANY)
    texts.append("key", b"1", max_items=1)
    assert store.get("key") == [1]
