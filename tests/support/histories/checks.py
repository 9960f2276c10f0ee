"""What a history must satisfy. Each check returns the violations that it finds."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.support.histories.acts import ACCOUNTS, BANKS, BATCHES, COUNTERS, DATA, FIRST_BALANCE, WATCHED
from tests.support.histories.history import FAILED, Operation, Violation
from tests.support.histories.search import Undecided, find_violation

VALUES = (DATA, COUNTERS, BATCHES, WATCHED)

Final = dict[str, Any]
"""The values at the end by key, as keys are called in a history."""


def linearizable(operations: Sequence[Operation]) -> Iterator[Violation]:
    """The operations on a key have an order that explains all results; reads from a near cache are not among them."""
    for key, of_key in _by_key(operations).items():
        try:
            shown = find_violation([one for one in of_key if not one.near])
        except Undecided as error:
            yield Violation("undecided", str(error))
            continue
        if shown is not None:
            yield Violation("linearizable", f"no order explains {key}", tuple(shown))


def read_what_was_written(operations: Sequence[Operation]) -> Iterator[Violation]:
    """A value that was read was written under that key by a call that had begun, and that did not fail."""
    for key, of_key in _by_key(operations).items():
        if key.startswith(COUNTERS):
            wrong = [one for one in of_key if one.ok and not _has_size(one)]
            yield from (Violation("written", f"{one.result!r} was never written to {key}", (one,)) for one in wrong)
            continue
        writes = {value: one for one in of_key for value in one.args[-1:]}
        for one in of_key:
            if not one.ok or one.kind not in ("get", "pop", "update"):
                continue
            for value in _values_of(one.result):
                write = writes.get(value)
                if write is None:
                    yield Violation("written", f"{value!r} was never written to {key}", (one,))
                elif write.outcome == FAILED:
                    yield Violation("written", f"{value!r} is in {key} though its write failed", (write, one))
                elif one.returned is not None and write.invoked > one.returned:
                    yield Violation("written", f"{value!r} was read before it was written to {key}", (write, one))


def never_back(operations: Sequence[Operation]) -> Iterator[Violation]:
    """No store reads an older value of a key than it has read: here of counters that only grow, and lists that only grow."""
    seen: dict[tuple[str, str], list[Operation]] = defaultdict(list)
    for key, of_key in _by_key(operations).items():
        if key.startswith(COUNTERS) or _is_list(key):
            for one in of_key:
                if one.ok and one.kind != "append" and _has_size(one):
                    seen[one.store, key].append(one)
    for (store, key), reads in seen.items():
        yield from _going_back(store, key, reads)


def _going_back(store: str, key: str, reads: list[Operation]) -> Iterator[Violation]:
    ended: list[tuple[int, int, Operation]] = []
    newest: Operation | None = None
    for number, one in enumerate(sorted(reads, key=lambda one: one.invoked)):
        while ended and ended[0][0] < one.invoked:
            earlier = heapq.heappop(ended)[2]
            if newest is None or _size(earlier) > _size(newest):
                newest = earlier
        if newest is not None and _size(newest) > _size(one):
            yield Violation("never back", f"{store} has read a newer {key} before", (newest, one))
            return
        heapq.heappush(ended, (one.returned or 0, number, one))


def exactly_once(operations: Sequence[Operation], final: Final) -> Iterator[Violation]:
    """Acknowledged increments and appends are there once, those of unknown outcome at most once, failed ones never."""
    for key, of_key in _by_key(operations).items():
        if key.startswith(COUNTERS):
            adding = [one for one in of_key if one.kind == "increment"]
            sure = sum(one.args[0] for one in adding if one.ok)
            most = sum(one.args[0] for one in adding if one.outcome != FAILED)
            if not sure <= (final.get(key) or 0) <= most:
                shown = tuple(one for one in adding if not one.ok)[-10:]
                yield Violation("exactly once", f"{key} is {final.get(key)}, not from {sure} to {most}", shown)
        elif _is_list(key):
            found = final.get(key) or []
            for one in of_key:
                if one.kind in ("append", "update"):
                    yield from _counted(one, found.count(one.args[0]), key)


def _counted(one: Operation, times: int, place: str) -> Iterator[Violation]:
    least, most = (1, 1) if one.ok else (0, int(one.outcome != FAILED))
    if not least <= times <= most:
        yield Violation("exactly once", f"{one.args[0]} is {times} times in {place}", (one,))


def whole_batches(operations: Sequence[Operation]) -> Iterator[Violation]:
    """Readers see all items of a `set_many` or none."""
    for one in operations:
        if one.ok and one.key.startswith(BATCHES) and isinstance(one.result, dict):
            yield Violation("batches", "a part of a batch was read", (one,))


def constant_sum(operations: Sequence[Operation], final: Final) -> Iterator[Violation]:
    """Transfers keep the sum of all accounts, for each reader and at the end; each is in both accounts once, or in none."""
    for place, of_place in _by_key(operations, banks=True).items():
        age = place.removeprefix("bank/")
        accounts = [f"{bank}/{age}a{number}" for bank in BANKS for number in range(ACCOUNTS)]
        last = {account: final.get(account) for account in accounts}
        for one in of_place:
            if one.ok and one.kind == "audit":
                yield from _balanced(one.result, (one,))
            elif one.kind == "transfer":
                move, source, target, _ = one.args
                times = [_moves(last.get(account)).count(move) for account in (source, target)]
                if times[0] != times[1]:
                    yield Violation("transactions", f"{move} is in one of its accounts: {times}", (one,))
                yield from _counted(one, times[0], place)
        yield from _balanced(last, tuple(of_place[-5:]))


def _balanced(accounts: dict[str, Any], shown: tuple[Operation, ...]) -> Iterator[Violation]:
    balances = [FIRST_BALANCE if account is None else account["units"] for account in accounts.values()]
    if sum(balances) != FIRST_BALANCE * len(balances):
        yield Violation("transactions", f"the sum of {accounts} is {sum(balances)}", shown)


def _moves(account: dict[str, Any] | None) -> list[str]:
    return [move for move, _ in account["moves"]] if account else []


def exclusive_locks(operations: Sequence[Operation]) -> Iterator[Violation]:
    """No two holders are inside at once without being told, and fences grow from holder to holder."""
    held: dict[str, list[Operation]] = defaultdict(list)
    for one in operations:
        if one.kind == "lock" and one.result:
            held[one.key].append(one)
    for name, holders in held.items():
        holders.sort(key=lambda one: one.result["entered"])
        last, fences = None, {}
        for one in holders:
            fence = one.result["fence"]
            if fence in fences:
                yield Violation("locks", f"{name} gave the fence {fence} twice", (fences[fence], one))
            fences[fence] = one
            if last is not None and last.result["inside"] > one.result["entered"]:
                yield Violation("locks", f"two holders of {name} were inside", (last, one))
            if last is not None and last.result["inside"] < one.invoked and last.result["fence"] > fence:
                yield Violation("locks", f"a later holder of {name} has a lower fence", (last, one))
            if last is None or one.result["inside"] > last.result["inside"]:
                last = one


def every_change(operations: Sequence[Operation], changes: Sequence[tuple[int, Any]]) -> Iterator[Violation]:
    """A watcher is given every acknowledged write, in order, or a reset instead; and nothing that was not written."""
    writes = {one.args[0]: one for one in operations if one.kind == "set" and one.key.startswith(WATCHED)}
    resets = [at for at, change in changes if change.op == "reset"]
    told: set[str] = set()
    latest: Operation | None = None
    for _, change in changes:
        if change.op == "reset":
            latest = None
        if change.op != "set":
            continue
        one = writes.get(change.value)
        if one is None or one.outcome == FAILED:
            yield Violation("watchers", f"told of {change}, which was not written", (one,) if one else ())
            continue
        if change.value in told or change.source == "snapshot":
            told.add(change.value)
            continue
        told.add(change.value)
        if latest is not None and one.returned is not None and one.returned < latest.invoked:
            yield Violation("watchers", "told of two writes in the wrong order", (latest, one))
        if latest is None or one.invoked > latest.invoked:
            latest = one
    for value, one in writes.items():
        if one.ok and value not in told and not any(one.invoked < at for at in resets):
            yield Violation("watchers", f"never told of {value}", (one,))


def told_state(changes: Sequence[tuple[int, Any]]) -> dict[str, Any]:
    """Return the values that a watcher would have, by key."""
    state: dict[str, Any] = {}
    for _, change in changes:
        if change.op == "set":
            state[change.key] = change.value
        elif change.key is not None:
            state.pop(change.key, None)
        else:
            state.clear()
    return state


CHECKS: tuple[Callable[[Sequence[Operation]], Iterator[Violation]], ...] = (
    linearizable, read_what_was_written, never_back, whole_batches, exclusive_locks,
)  # fmt: skip
CHECKS_OF_THE_END = (exactly_once, constant_sum)


def all_violations(
    operations: Sequence[Operation], final: Final, changes: Sequence[tuple[int, Any]]
) -> list[Violation]:
    """Return what is wrong with a history, its last values and what its watcher was told."""
    found = [violation for check in CHECKS for violation in check(operations)]
    found += [violation for check in CHECKS_OF_THE_END for violation in check(operations, final)]
    return [*found, *every_change(operations, changes)]


def _by_key(operations: Sequence[Operation], banks: bool = False) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = defaultdict(list)
    for one in operations:
        if one.key.startswith("bank/") if banks else one.key.split("/")[0] in VALUES:
            found[one.key].append(one)
    return found


def _is_list(key: str) -> bool:
    return key.rpartition(":")[2].startswith("l")


def _values_of(result: Any) -> list[Any]:
    if isinstance(result, dict):
        return [value for value in result["torn"] if value is not None]
    return result if isinstance(result, list) else [] if result is None else [result]


def _has_size(one: Operation) -> bool:
    return one.result is None or isinstance(one.result, list if _is_list(one.key) else int)


def _size(one: Operation) -> int:
    return len(one.result) if isinstance(one.result, list) else one.result or 0
