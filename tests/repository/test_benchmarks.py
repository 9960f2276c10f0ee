"""The parts of the benchmarks are correct: turns are fair, sides are compared, bytes on the wire are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks import tables
from benchmarks.clients import Clients, connected
from benchmarks.race import Entrant, race, same
from benchmarks.rows import _one_key, all_rows
from benchmarks.server import running_server
from benchmarks.wire import counting_relay


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_entrants_alternate_and_rotate_who_is_first(loop: asyncio.AbstractEventLoop) -> None:
    calls: list[str] = []

    async def third() -> None:
        calls.append("c")

    entrants = [
        Entrant("a", lambda: calls.append("a"), prepare=lambda number: calls.append(f"prepare {number}")),
        Entrant("b", lambda: calls.append("b")),
        Entrant("c", third, awaited=True),
    ]
    finishes = race(entrants, loop, rounds=3, calls=2, budget_s=60)
    assert [finish.name for finish in finishes] == ["a", "b", "c"]
    warm_up = ["prepare 1", "a", "b", "c"] * 2
    turns = ["prepare 2", *"aabbcc", *"bbcc", "prepare 2", *"aa", *"cc", "prepare 2", *"aabb"]
    assert calls == warm_up + turns
    assert finishes[-1].ratio == 1
    assert finishes[-1].quartiles == (1, 1)


def test_slow_entrant_runs_once(loop: asyncio.AbstractEventLoop) -> None:
    calls: list[int] = []
    (finish,) = race([Entrant("slow", lambda: calls.append(1))], loop, budget_s=0)
    assert len(calls) == 1
    assert finish.quartiles == (1, 1)


def test_concurrent_calls_share_the_time(loop: asyncio.AbstractEventLoop) -> None:
    def work() -> int:
        return sum(range(2000))

    alone, shared = race(
        [Entrant("alone", work), Entrant("shared", work, calls_at_once=1000)], loop, rounds=5, calls=20
    )
    assert alone.us > shared.us


def test_different_results_stop_the_benchmark() -> None:
    same("get", 1, 1, 1)
    with pytest.raises(SystemExit, match="get: the sides gave different answers, so nothing was timed"):
        same("get", 1, 1, 2)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running_server() as server:
        yield server.port


def test_relay_counts_round_trips_and_bytes(port: int, loop: asyncio.AbstractEventLoop) -> None:
    with counting_relay(port) as (relay_port, traffic), connected(relay_port, loop) as clients:
        store = clients.store.use_namespace("counted")
        store.set_many({f"key-{number}": "x" * 1000 for number in range(2500)})
        store.get("key-1")
        traffic.reset()
        assert store.get("key-1") == "x" * 1000
        assert traffic.round_trips == 1
        assert 1000 < traffic.bytes_in < 1020
        assert 0 < traffic.bytes_out < 100
        traffic.reset()
        store.set_many({f"key-{number}": "y" * 1000 for number in range(2500)})
        assert traffic.round_trips == 1
        assert traffic.bytes_out > 2_500_000
        traffic.reset()
        assert clients.run(clients.astore.use_namespace("counted").get("key-2")) == "y" * 1000
        clients.store.clear()


def test_rows_are_checked_before_timing(port: int, loop: asyncio.AbstractEventLoop) -> None:
    with connected(port, loop) as clients:
        names = [row.name for row in _one_key(clients)]
        assert names == ["get 100 B", "get 2 KB", "get 100 KB", "get, miss", "set 100 B", "set 2 KB"]
        wrong = Clients(clients.store.use_namespace("other"), clients.astore, clients.bare, clients.abare, loop)
        rows = _one_key(wrong)
        wrong.bare.set("bare", "no hash")
        with pytest.raises(Exception, match="WRONGTYPE"):
            next(rows)
        clients.bare.delete("bare")


def test_every_row_of_small_calls_runs(port: int, loop: asyncio.AbstractEventLoop) -> None:
    with connected(port, loop) as clients:
        for row in all_rows(clients):
            if row.name.startswith("set_many"):
                break  # the big sizes take seconds
            race([row.ours, row.theirs], loop, rounds=2, calls=1)


def test_table_marks_rows_over_their_target() -> None:
    def figures(ratio: float, aim: float | None) -> dict[str, float | None]:
        return {"ratio": ratio, "low": 0.4, "high": 0.6, "ours_us": 12.3, "theirs_us": 1234.5, "at_most": aim}

    cost = {"round_trips": 1.0, "bytes_out": 2000.0, "bytes_in": 30.5}
    shown = tables.rows(
        [
            {
                "name": "get",
                "pinned": figures(0.5, 0.48),
                "spread": figures(0.3, 0.35),
                "cost": {"ours": cost, "theirs": cost, "json_us": 0.5},
            }
        ]
    )
    assert "get  0.48     0.50*     [0.40 0.60]  12.3 / 1,234" in shown
    assert "0.30 " in shown
    assert "2,000 / 2,000" in shown
