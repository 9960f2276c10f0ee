"""The pace at which a run moves bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redis_store import DataStore
from redis_store.brokers.lease import lease
from redis_store.limits import TAG_ENTRY_BYTES
from sandbox.running import pace
from sandbox.running.pace import MOVED_AT_ONCE, MOVED_BYTES_S, Pace
from tests.support.brokered_side import Brokered, brokered


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
    served = Brokered(store)
    waited: list[float] = []
    wait_for_end = served.broker._channel.wait_for_end

    def wait(timeout_s: float) -> None:
        waited.append(timeout_s)
        wait_for_end(timeout_s)

    monkeypatch.setattr(served.broker._channel, "wait_for_end", wait)
    agent = served.store
    agent.set("small", 1)
    assert agent.get("small") == 1
    assert not waited
    getattr(agent, work)(*arguments)
    served.close()  # fails if the broker is still there
    assert [timeout_s > 1_000_000 for timeout_s in waited] == [True]


def test_pace_of_what_a_call_moves_beside_its_bytes(
    server_url: str, open_store: Callable[..., DataStore], user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two keys that have many tags are a small call, and the entries in the tags move with them."""
    store = open_store(server_url, user)
    for key in ("one", "two"):
        store.get_or_set(key, lambda: 1, tags=[f"tag-{number}" for number in range(1000)])
    spent: list[int] = []
    monkeypatch.setattr(Pace, "spend", lambda _, moved_bytes: spent.append(moved_bytes))
    with (
        lease(store, user=user, namespace="default", max_read_bytes=10**9) as leased,
        brokered(leased) as agent,
    ):
        agent.store.set_many({"one": 2, "two": 2})
        agent.store.set("small", 1)
    assert [moved_bytes > 2 * 1000 * TAG_ENTRY_BYTES for moved_bytes in spent] == [True]
