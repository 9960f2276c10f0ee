"""Linearizability of the operations on one key: a search after Wing and Gong, with Lowe's memory of visited states.

An order is searched in which each operation takes effect between its call and its return and has the result that it had.
Operations of unknown outcome may take effect at any moment after their call, or never.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

from tests.support.histories.history import FAILED, UNKNOWN, Operation

MOST_VISITED = 300_000
"""Number of states after which a search is given up."""

SHOWN = 14
"""Number of operations shown of a history that has no such order."""


class Undecided(Exception):
    """The search was given up."""


class WrongResult(Exception):
    """An operation cannot have this result in this state."""


def apply(operation: Operation, state: Any) -> Any:
    """Return the state after an operation, or raise `WrongResult`. A state is a value, and None if the key is missing."""
    after, result = _carried_out(operation, state)
    if operation.ok and result != operation.result:
        raise WrongResult
    return after


def _carried_out(operation: Operation, state: Any) -> tuple[Any, Any]:
    args = operation.args
    match operation.kind:
        case "get":
            return state, list(state) if isinstance(state, tuple) else state
        case "set":
            return args[0], None
        case "delete":
            return None, state is not None
        case "pop":
            return None, list(state) if isinstance(state, tuple) else state
        case "increment":
            total = (state or 0) + args[0]
            return total, total
        case "append":
            return (*(state or ()), args[0]), None
        case "update":
            longer = (*(state or ()), args[0])
            return longer, list(longer)
        case "set_if_absent":
            return (args[0], True) if state is None else (state, False)
        case "compare_and_set":
            return (args[1], True) if state == args[0] else (state, False)
    raise AssertionError(operation.kind)


def find_violation(operations: Sequence[Operation]) -> list[Operation] | None:
    """Return None if the operations on a key are linearizable, else the end of the shortest beginning that is not."""
    counted = sorted((one for one in operations if one.outcome != FAILED), key=lambda one: one.invoked)
    if _is_linearizable(counted):
        return None
    ends = sorted(one.returned for one in counted if one.returned is not None)
    # Each beginning of a linearizable history is linearizable, so the shortest that is not can be found by halving.
    first = bisect.bisect_left(ends, True, key=lambda end: not _is_linearizable(_until(counted, end)))
    return [one for one in counted if one.invoked <= ends[first]][-SHOWN:]


def _until(operations: Sequence[Operation], end: int) -> list[Operation]:
    """Return a beginning of a history: the outcome of what returned later is unknown."""
    return [
        one if one.returned is not None and one.returned <= end else _unknown(one)
        for one in operations
        if one.invoked <= end
    ]


def _unknown(one: Operation) -> Operation:
    return Operation(one.client, one.store, one.kind, one.key, one.args, one.invoked, outcome=UNKNOWN)


def _is_linearizable(operations: Sequence[Operation]) -> bool:
    required = sum(1 << at for at, one in enumerate(operations) if one.ok)
    stack: list[tuple[int, Any]] = [(0, None)]
    visited = {stack[0]}
    while stack:
        done, state = stack.pop()
        if done & required == required:
            return True
        for after in reversed(_steps(operations, done, state)):
            if after not in visited:
                visited.add(after)
                stack.append(after)
        if len(visited) > MOST_VISITED:
            raise Undecided(f"{len(operations)} operations on {operations[0].key}")
    return False


def _steps(operations: Sequence[Operation], done: int, state: Any) -> list[tuple[int, Any]]:
    """Return what may come next: each operation that was called before any of those left returned."""
    found: list[tuple[int, Any]] = []
    horizon: float = float("inf")
    first = ((~done) & (done + 1)).bit_length() - 1
    for at in range(first, len(operations)):
        if done >> at & 1:
            continue
        one = operations[at]
        if one.invoked > horizon:
            break
        if one.ok and one.returned is not None:
            horizon = min(horizon, one.returned)
        try:
            after = apply(one, state)
        except WrongResult:
            continue
        if after != state:
            found.append((done | 1 << at, after))
        elif one.ok:
            # What changes nothing and fits may as well come now, whatever follows.
            return [(done | 1 << at, state)]
    return found
