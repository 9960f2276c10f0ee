"""Any sequence of calls has the same results as on a dict of dicts."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from redis_store import DataStore, connect
from redis_store.namespace.keys import UserKeys
from tests.support.servers import Server
from tests.support.values import json_values

NAMESPACES = ["default", "other", "a:b", "*"]
KEYS = ["a", "b", "ab", "*", "a*", "\\", "é", "\x00", "key-1", "key-2"]

namespaces = st.sampled_from(NAMESPACES)
keys = st.sampled_from(KEYS)
metadata = st.none() | st.dictionaries(st.sampled_from(["m", "n", "é"]), st.integers() | st.none(), max_size=2)
small_values = st.one_of(st.none(), st.integers(), st.just([]), st.just({}), json_values)


class StoreAgainstDicts(RuleBasedStateMachine):
    """Makes each call on a store and on dicts, and compares every answer."""

    server: Server

    @initialize()
    def open(self) -> None:
        self.user = f"model-{uuid.uuid4().hex}"
        self.store = connect(self.server.url, user=self.user, agent="model")
        self.raw = self.server.client()
        self.values: dict[str, dict[str, Any]] = {name: {} for name in NAMESPACES}
        self.metadata: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in NAMESPACES}

    def teardown(self) -> None:
        if hasattr(self, "store"):
            for name in NAMESPACES:
                self.at(name).clear()
            self.store.close()
            self.raw.close()

    def at(self, name: str) -> DataStore:
        return self.store.use_namespace(name)

    @rule(name=namespaces, key=keys, value=small_values, added=metadata)
    def set(self, name: str, key: str, value: Any, added: Any) -> None:
        assert self.at(name).set(key, value, metadata=added) is None
        self._note(name, key, value, added)

    @rule(name=namespaces, items=st.dictionaries(keys, small_values, max_size=6), added=metadata)
    def set_many(self, name: str, items: dict[str, Any], added: Any) -> None:
        assert self.at(name).set_many(items, metadata=added) == len(items)
        for key, value in items.items():
            self._note(name, key, value, added)

    @rule(name=namespaces, key=keys, default=small_values)
    def get(self, name: str, key: str, default: Any) -> None:
        assert repr(self.at(name).get(key, default)) == repr(self.values[name].get(key, default))

    @rule(name=namespaces, wanted=st.lists(keys, max_size=8))
    def get_many(self, name: str, wanted: list[str]) -> None:
        expected = {key: self.values[name][key] for key in wanted if key in self.values[name]}
        found = self.at(name).get_many(wanted)
        assert repr(found) == repr(expected)

    @rule(name=namespaces, key=keys)
    def delete(self, name: str, key: str) -> None:
        assert self.at(name).delete(key) is (key in self.values[name])
        self._forget(name, key)

    @rule(name=namespaces, gone=st.lists(keys, max_size=6))
    def delete_many(self, name: str, gone: list[str]) -> None:
        there = set(gone) & set(self.values[name])
        assert self.at(name).delete_many(gone) == len(there)
        for key in there:
            self._forget(name, key)

    @rule(name=namespaces)
    def clear(self, name: str) -> None:
        assert self.at(name).clear() == len(self.values[name])
        self.values[name].clear()
        self.metadata[name].clear()

    @rule(name=namespaces, key=keys)
    def info(self, name: str, key: str) -> None:
        found = self.at(name).info(key)
        if key not in self.values[name]:
            assert found is None
        else:
            assert repr(found.metadata) == repr(self.metadata[name][key])
            assert found.created_at is None or found.created_at <= found.updated_at  # None: an external write

    @rule(name=namespaces, prefix=st.sampled_from(["", "a", "*", "a*", "\\", "key-", "nothing"]))
    def list_keys(self, name: str, prefix: str) -> None:
        expected = {key: value for key, value in self.values[name].items() if key.startswith(prefix)}
        assert self.at(name).list_keys(prefix) == sorted(expected)
        assert repr(sorted(self.at(name).get_all(prefix).items())) == repr(sorted(expected.items()))
        assert sorted(self.at(name).iter_keys(prefix)) == sorted(expected)
        assert len(dict(self.at(name).iter_items(prefix))) == len(expected)

    @rule(name=namespaces, key=keys, value=st.integers())
    def by_hand_set(self, name: str, key: str, value: int) -> None:
        """An external write with redis-cli: HSET, and SADD as the documentation asks."""
        user_keys = UserKeys.of(self.user)
        self.raw.hset(user_keys.data(name.encode()), key, str(value))
        self.raw.sadd(user_keys.registry, name)
        self.values[name][key] = value
        self.metadata[name].setdefault(key, {})

    @rule(name=namespaces, key=keys)
    def by_hand_delete(self, name: str, key: str) -> None:
        self.raw.hdel(UserKeys.of(self.user).data(name.encode()), key)
        self._forget(name, key)
        # Its entry in the info hash must not return with a later set, but a later external HSET would find it again.
        self.raw.hdel(UserKeys.of(self.user).namespace(name).info, key)

    @precondition(lambda self: any(self.values.values()))
    @rule(name=namespaces)
    def by_hand_del(self, name: str) -> None:
        user_keys = UserKeys.of(self.user).namespace(name)
        self.raw.delete(user_keys.data, user_keys.info)
        self.values[name].clear()
        self.metadata[name].clear()

    @rule()
    def flush_scripts(self) -> None:
        self.raw.script_flush()

    @invariant()
    def the_listing_is_right(self) -> None:
        if hasattr(self, "store"):
            assert self.store.list_namespaces() == sorted(name for name, items in self.values.items() if items)
            for name, items in self.values.items():
                assert len(self.at(name)) == len(items)

    def _note(self, name: str, key: str, value: Any, added: Any) -> None:
        self.values[name][key] = value
        known = self.metadata[name].setdefault(key, {})
        known.update(added or {})

    def _forget(self, name: str, key: str) -> None:
        self.values[name].pop(key, None)
        self.metadata[name].pop(key, None)


@pytest.mark.parametrize("kind", ["redis7", "valkey9"])
def test_a_store_is_a_dict_of_dicts(kind: str, start: Callable[..., Server]) -> None:
    machine = type(f"StoreOn{kind}", (StoreAgainstDicts,), {"server": start(kind)})
    bounds = settings(
        max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck),
        derandomize=bool(os.environ.get("CI")),
    )  # fmt: skip
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(machine, settings=bounds)
