"""The search for an order that explains the operations on a key."""

from __future__ import annotations

from typing import Any

from tests.support.histories.history import FAILED, OK, UNKNOWN, Operation
from tests.support.histories.search import find_violation


def operation(kind: str, *args: Any, at: tuple[int, int | None], result: Any = None, outcome: str = OK) -> Operation:
    return Operation("client", "store", kind, "data/r", list(args), at[0], False, at[1], outcome, result)


def test_results_that_one_order_explains() -> None:
    assert not find_violation(
        [
            operation("set", "a", at=(0, 10)),
            operation("set", "b", at=(5, 20)),
            operation("get", at=(6, 8), result="b"),
            operation("get", at=(9, 11), result="a"),
            operation("pop", at=(12, 13), result="a"),
            operation("get", at=(14, 15)),
        ]
    )


def test_a_read_of_what_was_overwritten() -> None:
    found = find_violation(
        [
            operation("set", "a", at=(0, 1)),
            operation("set", "b", at=(2, 3)),
            operation("get", at=(4, 5), result="a"),
            operation("get", at=(6, 7), result="b"),
        ]
    )
    assert found is not None
    assert [one.invoked for one in found] == [0, 2, 4], "the history is shown as far as the first wrong result"


def test_a_write_of_unknown_outcome_may_come_late_or_never() -> None:
    late = [
        operation("set", "a", at=(0, None), outcome=UNKNOWN),
        operation("set", "b", at=(1, 2)),
        operation("get", at=(3, 4), result="b"),
    ]
    assert not find_violation(late)
    assert not find_violation([*late, operation("get", at=(5, 6), result="a")])
    assert find_violation(
        [
            *late,
            operation("get", at=(5, 6), result="a"),
            operation("set", "c", at=(7, 8)),
            operation("get", at=(9, 10), result="a"),
        ]
    )


def test_a_write_that_failed_never_happened() -> None:
    failed = operation("set", "a", at=(0, 1), outcome=FAILED)
    assert find_violation([failed, operation("get", at=(2, 3), result="a")])
    assert not find_violation([failed, operation("get", at=(2, 3))])


def test_of_two_callers_that_compare_one_wins() -> None:
    both = [
        operation("set", "a", at=(0, 1)),
        operation("compare_and_set", "a", "b", at=(2, 5), result=True),
    ]
    assert not find_violation([*both, operation("compare_and_set", "a", "c", at=(3, 4), result=False)])
    assert find_violation([*both, operation("compare_and_set", "a", "c", at=(3, 4), result=True)])
