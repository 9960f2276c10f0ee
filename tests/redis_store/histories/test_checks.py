"""The checks of histories, on short histories by hand; `test_planted.py` has them in real ones."""

from __future__ import annotations

from typing import Any

from redis_store.types import Change
from tests.support.histories import checks
from tests.support.histories.history import FAILED, OK, UNKNOWN, Operation


def operation(
    kind: str, key: str, *args: Any, at: tuple[int, int | None], result: Any = None, outcome: str = OK, store: str = "s"
) -> Operation:
    return Operation("client", store, kind, key, list(args), at[0], False, at[1], outcome, result)


def change(op: Any, value: Any = None, source: Any = "log") -> tuple[int, Change]:
    return 100, Change("watched", "w" if op == "set" else None, op, value, "1-1", source)


def test_an_older_read_of_the_same_store() -> None:
    newer = operation("increment", "counters/0:c0", 1, at=(0, 2), result=2)
    older = operation("get", "counters/0:c0", at=(3, 4), result=1)
    elsewhere = operation("get", "counters/0:c0", at=(3, 4), result=1, store="another")
    meanwhile = operation("get", "counters/0:c0", at=(1, 4), result=1)
    assert [found.operations for found in checks.never_back([newer, older])] == [(newer, older)]
    assert not list(checks.never_back([newer, elsewhere]))
    assert not list(checks.never_back([newer, meanwhile]))


def test_increments_are_counted_between_the_sure_and_the_possible() -> None:
    adding = [
        operation("increment", "counters/0:c0", 1, at=(0, 1), result=1),
        operation("increment", "counters/0:c0", 1, at=(2, None), outcome=UNKNOWN),
        operation("increment", "counters/0:c0", 1, at=(4, 5), outcome=FAILED),
    ]
    wrong = [bool(list(checks.exactly_once(adding, {"counters/0:c0": total}))) for total in (0, 1, 2, 3)]
    assert wrong == [True, False, False, True]


def test_appends_are_counted_one_by_one() -> None:
    adding = [
        operation("append", "data/0:l0", "a", at=(0, 1)),
        operation("append", "data/0:l0", "b", at=(2, None), outcome=UNKNOWN),
        operation("append", "data/0:l0", "c", at=(4, 5), outcome=FAILED),
    ]
    for final, wrong in ((["a"], 0), (["a", "b"], 0), ([], 1), (["a", "a"], 1), (["a", "b", "b"], 1), (["a", "c"], 1)):
        assert len(list(checks.exactly_once(adding, {"data/0:l0": final}))) == wrong, final


def test_a_transfer_is_in_both_accounts_or_in_none() -> None:
    transfer = operation("transfer", "bank/0:", "t", "bank-a/0:a0", "bank-b/0:a0", 5, at=(0, None), outcome=UNKNOWN)
    source = {"units": 95, "moves": [["t", -5]]}
    target = {"units": 105, "moves": [["t", 5]]}
    assert not list(checks.constant_sum([transfer], {}))
    assert not list(checks.constant_sum([transfer], {"bank-a/0:a0": source, "bank-b/0:a0": target}))
    assert list(checks.constant_sum([transfer], {"bank-a/0:a0": source}))
    audit = operation("audit", "bank/0:", at=(1, 2), result={"bank-a/0:a0": source, "bank-b/0:a0": None})
    assert list(checks.constant_sum([audit], {}))


def held(fence: int, entered: int, inside: int, invoked: int = 0) -> Operation:
    result = {"fence": fence, "entered": entered, "inside": inside}
    return operation("lock", "lock0", at=(invoked, inside + 1), result=result)


def test_holders_follow_each_other_with_growing_fences() -> None:
    assert not list(checks.exclusive_locks([held(1, 1, 2), held(2, 3, 9), held(5, 10, 11)]))
    assert list(checks.exclusive_locks([held(1, 1, 4), held(2, 3, 9)])), "two inside"
    assert list(checks.exclusive_locks([held(1, 1, 20), held(2, 30, 31), held(3, 15, 16)])), (
        "two inside, not neighbours"
    )
    assert list(checks.exclusive_locks([held(2, 1, 2), held(1, 4, 5, invoked=3)])), "a lower fence"
    assert list(checks.exclusive_locks([held(1, 1, 2), held(1, 4, 5)])), "a fence twice"


def test_a_watcher_is_told_of_every_write_in_order_or_reset() -> None:
    writes = [
        operation("set", "watched/w", "a", at=(0, 1)),
        operation("set", "watched/w", "b", at=(2, 3)),
        operation("set", "watched/w", "c", at=(4, None), outcome=UNKNOWN),
    ]
    a, b = change("set", "a"), change("set", "b")
    assert not list(checks.every_change(writes, [a, b]))
    assert not list(checks.every_change(writes, [a, b, change("set", "c")]))
    assert list(checks.every_change(writes, [b])), "one is missing"
    assert not list(checks.every_change(writes, [b, change("reset"), change("set", "b", "snapshot")]))
    assert list(checks.every_change(writes, [b, a])), "the wrong order"
    assert list(checks.every_change(writes, [a, b, change("set", "z")])), "nobody wrote it"


def test_half_a_batch_is_no_batch() -> None:
    assert list(checks.whole_batches([operation("get", "batches/0:b", at=(0, 1), result={"torn": ["a", None]})]))
    assert not list(checks.whole_batches([operation("get", "batches/0:b", at=(0, 1), result="a")]))


def test_a_value_that_nobody_wrote_or_whose_write_failed() -> None:
    failed = operation("set", "data/0:r0", "a", at=(0, 1), outcome=FAILED)
    assert list(checks.read_what_was_written([failed, operation("get", "data/0:r0", at=(2, 3), result="a")]))
    assert list(checks.read_what_was_written([operation("get", "data/0:r0", at=(2, 3), result="b")]))
    assert not list(checks.read_what_was_written([failed, operation("get", "data/0:r0", at=(2, 3))]))
