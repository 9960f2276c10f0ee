"""The pace at which a run moves bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redis_store import DataStore
from sandbox.running import pace
from sandbox.running.pace import MOVED_AT_ONCE, MOVED_BYTES_S, Pace
from tests.support.brokered_side import Brokered


def test_run_waits_once_it_has_moved_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    one = Pace()
    assert one.spend(MOVED_AT_ONCE) == 0
    assert one.spend(MOVED_BYTES_S) == pytest.approx(1)
    assert one.spend(MOVED_BYTES_S) == pytest.approx(2)
    now += 2
    assert one.spend(MOVED_BYTES_S // 2) == pytest.approx(0.5)
    now += 1000
    assert one.spend(MOVED_AT_ONCE) == 0, "what was not used does not add up"
    assert one.spend(MOVED_BYTES_S) == pytest.approx(1)


@pytest.mark.parametrize(
    ("work", "arguments"),
    [("set", ("key", "x" * 1_000_000)), ("get", ("big",)), ("rename", ("big", "new")), ("append", ("big", 1))],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_wait_of_a_broker_ends_with_its_run(
    work: str,
    arguments: tuple[Any, ...],
    server_url: str,
    open_store: Callable[..., DataStore],
    user: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "MOVED_BYTES_S", 1)
    monkeypatch.setattr(pace, "MOVED_AT_ONCE", 1000)
    store = open_store(server_url, user)
    store.set("big", ["x" * 1_100_000])
    brokered = Brokered(store)
    waited: list[float] = []
    wait_for_end = brokered.broker._channel.wait_for_end

    def wait(timeout_s: float) -> None:
        waited.append(timeout_s)
        wait_for_end(timeout_s)

    monkeypatch.setattr(brokered.broker._channel, "wait_for_end", wait)
    agent = brokered.store
    agent.set("small", 1)
    assert agent.get("small") == 1
    assert not waited
    getattr(agent, work)(*arguments)
    brokered.close()  # fails if the broker is still there
    assert [timeout_s > 1_000_000 for timeout_s in waited] == [True]
