"""The rows of a waterfall: their order, what is folded, and where the bars are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from redis_store.admin import KeptCall, KeptOperation, KeptRun
from redis_store.console.waterfall import BAR_UNITS, DEEPEST_INDENT, WaterfallRow, rows_of, total_ms

BEGAN = datetime(2026, 11, 30, 12, tzinfo=UTC)


def a_run(**facts: Any) -> KeptRun:
    return KeptRun("top", "main", BEGAN, 1.0, "full", "default", "{}", **facts)


def at(ms: float) -> datetime:
    return BEGAN + timedelta(milliseconds=ms)


def a_get(ms: float, run: str = "top", took: float = 1.0, **facts: Any) -> KeptOperation:
    return KeptOperation(at(ms), "main", "get", "default", f"k{ms}", 1, True, 5, took, run=run, **facts)


def a_call(ms: float, name: str, run: str = "top", nested: str | None = None, took: float = 100.0) -> KeptCall:
    return KeptCall(at(ms), "main", "agent" if nested else "tool", name, took, None, run, nested)


def told(rows: list[WaterfallRow]) -> list[tuple[int, str, str]]:
    return [(row.depth, row.kind, row.name) for row in rows]


def test_nested_runs_are_below_the_call_that_started_them() -> None:
    operations = (a_get(50), a_get(120, "inner"), a_get(400))
    calls = (a_call(100, "reader", nested="inner"), a_call(130, "ask", run="inner"), a_call(300, "ask"))
    assert told(rows_of(a_run(operations=operations, calls=calls))) == [
        (0, "run", "main"),
        (1, "store", "get"),
        (1, "agent", "reader"),
        (2, "store", "get"),
        (2, "tool", "ask"),
        (1, "tool", "ask"),
        (1, "store", "get"),
    ]


def test_bars_are_where_the_time_was() -> None:
    run = a_run(operations=(a_get(500, took=250.0), a_get(999.99, took=0.0)))
    assert [row.bars[0] for row in rows_of(run)] == [(0.0, 1000.0), (500.0, 250.0), (996.0, 4)]
    late = a_run(operations=(a_get(1500, took=500.0), a_get(-5)))  # the clocks of a run and of its calls differ
    assert total_ms(late) == 2000
    assert [row.bars[0] for row in rows_of(late)] == [(0.0, 500.0), (0.0, 4), (750.0, 250.0)]


def test_calls_of_one_kind_are_one_row_with_a_bar_for_each() -> None:
    operations = tuple(a_get(100 * number) for number in range(5))
    (_, row) = rows_of(a_run(operations=operations))
    assert (row.operations, row.operation, row.took_ms) == (operations, None, 401.0)
    assert [place for place, _ in row.bars] == [0, 100, 200, 300, 400]
    assert len(rows_of(a_run(operations=operations), folded=False)) == 6
    failed = (*operations, a_get(500, error="AccessDenied"))
    assert [row.error for row in rows_of(a_run(operations=failed))] == [None, None, "AccessDenied"]


def test_bars_that_touch_are_one() -> None:
    (_, row) = rows_of(a_run(operations=tuple(a_get(number / 10) for number in range(5000))))
    assert row.bars == ((0.0, 503.9),)
    assert sum(row.bars[0]) <= BAR_UNITS


def test_runs_whose_call_is_missing_come_last() -> None:
    rows = rows_of(
        a_run(operations=(a_get(100, "lost"), a_get(50)), calls=(a_call(60, "deep", "lost", nested="deep"),))
    )
    assert told(rows) == [
        (0, "run", "main"),
        (1, "store", "get"),
        (1, "agent", "main"),
        (2, "agent", "deep"),
        (2, "store", "get"),
    ]


def test_deep_nesting_and_runs_that_contain_one_another_end() -> None:
    calls = tuple(
        a_call(number, f"a{number}", run=f"r{number - 1}" if number else "top", nested=f"r{number}")
        for number in range(200)
    )
    rows = rows_of(a_run(calls=calls))
    assert (len(rows), max(row.depth for row in rows)) == (201, DEEPEST_INDENT)
    circle = (a_call(1, "a", run="x", nested="y"), a_call(2, "b", run="y", nested="x"), a_call(3, "c", nested="top"))
    assert len(rows_of(a_run(calls=circle))) == 5
