"""The history checker reports each fault that is planted in the product here."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
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

Rounds = Callable[..., Iterator[set[str]]]


@pytest.fixture
def rounds(one_server: Server, start: Callable[..., Server], tmp_path: Path) -> Rounds:
    """Return the checks that fail in rounds with certain faults, each a set of names."""

    def run(*faults: str, options: tuple[str, ...] = ALWAYS) -> Iterator[set[str]]:
        server = start(one_server.kind, *options)
        for seed in range(TRIES):
            report = Round(server, tmp_path, seed, ROUND_S, faults, patience_s=5).go()
            print(report)
            yield {violation.check for violation in report.violations}

    return run


def all_reported(failing: Iterator[set[str]], *checks: str) -> bool:
    """Whether each of these checks fails in one of the rounds."""
    left = set(checks)
    return any(not (left := left - found) for found in failing)


def test_nothing_planted_is_nothing_found(rounds: Rounds) -> None:
    assert [*itertools.islice(rounds("cut_after"), 2)] == [set(), set()]


def test_a_near_cache_that_hears_no_invalidation(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Entries, "heard", lambda *_: None)
    monkeypatch.setattr(Entries, "drop", lambda *_: None, raising=False)
    assert all_reported(rounds(), "never back")


def test_a_server_that_forgets_when_it_is_killed(rounds: Rounds) -> None:
    assert all_reported(rounds("kill_server", options=()), "linearizable", "exactly once")


def test_a_write_that_is_acknowledged_and_lost(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(store: DataStore, key: str, value: Any) -> None:
        return None

    plant_every(20, "set", lost, monkeypatch)
    assert all_reported(rounds(), "linearizable", "watchers")


def test_a_write_that_failed_and_is_there(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    real = DataStore.set

    def failed(store: DataStore, key: str, value: Any) -> None:
        real(store, key, value)
        raise ConnectionLost("planted", outcome_unknown=False)

    plant_every(20, "set", failed, monkeypatch)
    assert all_reported(rounds(), "written")


def test_a_write_that_is_sent_again_after_its_reply_was_lost(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    def repeating(real: Callable[..., Any]) -> Callable[..., Any]:
        def method(store: DataStore, *args: Any) -> Any:
            try:
                return real(store, *args)
            except StoreUnavailable:
                return real(store, *args)

        return method

    monkeypatch.setattr(DataStore, "increment", repeating(DataStore.increment))
    monkeypatch.setattr(DataStore, "append", repeating(DataStore.append))
    assert all_reported(rounds("cut_after"), "exactly once")


def test_an_append_that_is_made_twice(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    real = DataStore.append

    def twice(store: DataStore, key: str, *items: Any) -> None:
        real(store, key, *items, *items)

    plant_every(5, "append", twice, monkeypatch)
    assert all_reported(rounds(), "linearizable", "exactly once")


def test_a_transaction_that_does_not_look_at_what_it_has_read(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    real = transactions.commit_parts
    monkeypatch.setattr(transactions, "commit_parts", lambda scope, reads, *rest: real(scope, {}, *rest))
    assert all_reported(rounds(), "transactions")


def test_a_batch_that_is_written_key_by_key(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    def set_many(store: DataStore, items: dict[str, Any]) -> int:
        for key, value in items.items():
            store.set(key, value)
        return len(items)

    monkeypatch.setattr(DataStore, "set_many", set_many)
    assert all_reported(rounds(), "batches")


def test_two_holders_of_one_lock(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    real = DataStore.lock
    monkeypatch.setattr(
        DataStore, "lock", lambda self, name, **options: real(self, name + os.urandom(4).hex(), **options)
    )
    assert all_reported(rounds(), "locks")


def test_a_watch_that_drops_a_change(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Watch.next_change
    counted = itertools.count(1)

    def next_change(watch: Watch, timeout: float | None = None) -> Any:
        if next(counted) % 10 == 0:
            real(watch, timeout)
        return real(watch, timeout)

    monkeypatch.setattr(Watch, "next_change", next_change)
    assert all_reported(rounds(), "watchers")


def test_a_watch_that_swaps_changes(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert all_reported(rounds(), "watchers")


def test_an_answer_to_another_question(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    real = DataStore.get
    last = threading.local()

    def answer(store: DataStore, key: str) -> Any:
        value = real(store, key)
        value, last.value = getattr(last, "value", value), value
        return value

    plant_every(10, "get", answer, monkeypatch)
    assert all_reported(rounds(), "written")


def plant_every(number: int, name: str, planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every so many calls of a method do something else."""
    real = getattr(DataStore, name)
    counted = itertools.count(1)

    def method(store: DataStore, *args: Any, **kwargs: Any) -> Any:
        return (planted if next(counted) % number == 0 else real)(store, *args, **kwargs)

    monkeypatch.setattr(DataStore, name, method)
