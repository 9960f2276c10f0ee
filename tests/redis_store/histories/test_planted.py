"""The history checker reports each fault that is planted in the product here."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redis_store import DataStore, StoreUnavailable
from redis_store.errors import ConnectionLost
from redis_store.near.entries import Entries
from redis_store.ops import transactions
from redis_store.watch.sync import Watch
from tests.support.histories.round import Round
from tests.support.histories.rounds import ALWAYS
from tests.support.servers import Server

TRIES = 8
"""Rounds within which a planted fault must be reported."""

ROUND_S = 1.5


@pytest.fixture
def checks_that_fail(one_server: Server, start: Callable[..., Server], tmp_path: Path) -> Callable[..., set[str]]:
    """Run rounds until a check fails, and return the names of those that did."""

    server = start(one_server.kind, *ALWAYS)

    def run(*faults: str, tries: int = TRIES) -> set[str]:
        for seed in range(tries):
            report = Round(server, tmp_path, seed, ROUND_S, faults, patience_s=5).go()
            print(report)
            if report.violations:
                return {violation.check for violation in report.violations}
        return set()

    return run


def test_nothing_planted_is_nothing_found(checks_that_fail: Callable[..., set[str]]) -> None:
    assert checks_that_fail("cut_after", tries=2) == set()


def test_a_near_cache_that_hears_no_invalidation(
    checks_that_fail: Callable[..., set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Entries, "heard", lambda *_: None)
    monkeypatch.setattr(Entries, "drop", lambda *_: None, raising=False)
    assert "never back" in checks_that_fail()


def test_a_write_that_is_acknowledged_and_lost(
    checks_that_fail: Callable[..., set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(store: DataStore, key: str, value: Any) -> None:
        return None

    plant_every(20, "set", lost, monkeypatch)
    assert {"linearizable", "watchers"} <= checks_that_fail()


def test_a_write_that_failed_and_is_there(
    checks_that_fail: Callable[..., set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DataStore.set

    def failed(store: DataStore, key: str, value: Any) -> None:
        real(store, key, value)
        raise ConnectionLost("planted", outcome_unknown=False)

    plant_every(20, "set", failed, monkeypatch)
    assert "written" in checks_that_fail()


def test_a_write_that_is_sent_again_after_its_reply_was_lost(
    checks_that_fail: Callable[..., set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def repeating(real: Callable[..., Any]) -> Callable[..., Any]:
        def method(store: DataStore, *args: Any) -> Any:
            try:
                return real(store, *args)
            except StoreUnavailable:
                return real(store, *args)

        return method

    monkeypatch.setattr(DataStore, "increment", repeating(DataStore.increment))
    monkeypatch.setattr(DataStore, "append", repeating(DataStore.append))
    assert {"linearizable", "exactly once"} & checks_that_fail("cut_after")


def test_an_append_that_is_made_twice(
    checks_that_fail: Callable[..., set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DataStore.append

    def twice(store: DataStore, key: str, *items: Any) -> None:
        real(store, key, *items, *items)

    plant_every(5, "append", twice, monkeypatch)
    assert {"linearizable", "exactly once"} <= checks_that_fail()


def test_a_transaction_that_does_not_look_at_what_it_has_read(
    checks_that_fail: Callable[..., set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = transactions.commit_parts
    monkeypatch.setattr(transactions, "commit_parts", lambda scope, reads, *rest: real(scope, {}, *rest))
    assert "transactions" in checks_that_fail()


def test_a_batch_that_is_written_key_by_key(
    checks_that_fail: Callable[..., set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def set_many(store: DataStore, items: dict[str, Any]) -> int:
        for key, value in items.items():
            store.set(key, value)
        return len(items)

    monkeypatch.setattr(DataStore, "set_many", set_many)
    assert "batches" in checks_that_fail()


def test_two_holders_of_one_lock(checks_that_fail: Callable[..., set[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    real = DataStore.lock
    monkeypatch.setattr(
        DataStore, "lock", lambda self, name, **options: real(self, name + os.urandom(4).hex(), **options)
    )
    assert "locks" in checks_that_fail()


def test_a_watch_that_drops_a_change(
    checks_that_fail: Callable[..., set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Watch.next_change
    counted = itertools.count(1)

    def next_change(watch: Watch, timeout: float | None = None) -> Any:
        if next(counted) % 10 == 0:
            real(watch, timeout)
        return real(watch, timeout)

    monkeypatch.setattr(Watch, "next_change", next_change)
    assert "watchers" in checks_that_fail()


def test_a_watch_that_swaps_changes(checks_that_fail: Callable[..., set[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    real = Watch.next_change
    kept: list[Any] = []

    def next_change(watch: Watch, timeout: float | None = None) -> Any:
        if kept:
            return kept.pop()
        first = real(watch, timeout)
        if first is None or (second := real(watch, 0.05)) is None:
            return first
        kept.append(first)
        return second

    monkeypatch.setattr(Watch, "next_change", next_change)
    assert "watchers" in checks_that_fail()


def test_an_answer_to_another_question(
    checks_that_fail: Callable[..., set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DataStore.get
    last = threading.local()

    def answer(store: DataStore, key: str) -> Any:
        value = real(store, key)
        value, last.value = getattr(last, "value", value), value
        return value

    plant_every(10, "get", answer, monkeypatch)
    assert {"linearizable", "written"} & checks_that_fail()


def plant_every(number: int, name: str, planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every so many calls of a method do something else."""
    real = getattr(DataStore, name)
    counted = itertools.count(1)

    def method(store: DataStore, *args: Any, **kwargs: Any) -> Any:
        return (planted if next(counted) % number == 0 else real)(store, *args, **kwargs)

    monkeypatch.setattr(DataStore, name, method)
