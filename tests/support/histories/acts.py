"""The calls that clients make: chosen at random, with unique values, so that each read names the write that it saw."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from redis_store import MISSING
from tests.support.histories.history import clock

DATA, COUNTERS, BATCHES, WATCHED = "data", "counters", "batches", "watched"
BANKS = ("bank-a", "bank-b")

BATCH_KEYS = 4
ACCOUNTS = 2
WATCHED_KEYS = 6
FIRST_BALANCE = 100
LOCK_TTL_S = 1.0
LOCK_TIMEOUT_S = 0.3
LOOKS = 3
"""Number of times a holder of a lock looks whether it still has it."""

AGE_NS = 500_000_000
"""Time after which clients go on to new keys, so that the histories of single keys stay short; in nanoseconds."""

Call: TypeAlias = tuple[str, str, list[Any]]
"""The kind of an operation, its key in the history, and its arguments."""

Note: TypeAlias = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Act:
    """One call on a store, and the operations as which it is recorded."""

    namespace: str
    calls: list[Call]
    make: Callable[[Any, Note], Any]
    """Makes the call on a handle of the namespace. On an asynchronous one the result is awaited."""
    results: Callable[[Any], list[Any]] = lambda raw: [raw]
    """Returns the result of each recorded operation from that of the call."""
    near: bool = False
    """Whether a near cache may answer."""


class Chooser:
    """Chooses the acts of one client."""

    def __init__(self, client: str, seed: int, began: int, *, is_async: bool, waits: bool = True) -> None:
        self.chance = random.Random(f"{seed}:{client}")
        self._client = client
        self._began = began
        self._is_async = is_async
        self._lock_timeout = LOCK_TIMEOUT_S if waits else 0
        self._made = 0
        self._last_read: dict[str, Any] = {}

    def choose(self) -> Act:
        """Return the next act."""
        kinds = [
            (self._register, 30), (self._counter, 26), (self._list, 10), (self._queue, 8), (self._batch, 12),
            (self._bank, 8), (self._watched, 10), (self._lock, 4),
        ]  # fmt: skip
        age = (clock() - self._began) // AGE_NS
        return self.chance.choices(*zip(*kinds, strict=True))[0](f"{age}:")

    def learn(self, act: Act, results: list[Any]) -> None:
        """Remember what was read, for the next `compare_and_set`."""
        if act.namespace == DATA and act.calls[0][0] == "get":
            self._last_read[act.calls[0][1]] = results[0]

    def _new(self) -> str:
        self._made += 1
        return f"{self._client}.{self._made}"

    def _register(self, age: str) -> Act:
        key = f"{age}r{self.chance.randrange(3)}"
        place, value = f"{DATA}/{key}", self._new()
        last = self._last_read.get(place)
        acts = [
            (Act(DATA, [("get", place, [])], lambda s, _: s.get(key), near=True), 6),
            (Act(DATA, [("set", place, [value])], lambda s, _: s.set(key, value)), 4),
            (Act(DATA, [("delete", place, [])], lambda s, _: s.delete(key)), 1),
            (Act(DATA, [("pop", place, [])], lambda s, _: s.pop(key, None)), 1),
            (Act(DATA, [("set_if_absent", place, [value])], lambda s, _: s.set_if_absent(key, value)), 2),
            (
                Act(
                    DATA,
                    [("compare_and_set", place, [last, value])],
                    lambda s, _: s.compare_and_set(key, MISSING if last is None else last, value),
                ),
                2,
            ),
        ]
        return self._one_of(acts)

    def _counter(self, age: str) -> Act:
        keys = [f"{age}c0", f"{age}c1"]
        key = self.chance.choice(keys)
        places = [f"{COUNTERS}/{one}" for one in keys]
        place = f"{COUNTERS}/{key}"
        reads = [("get", one, []) for one in places]

        def both(found: dict[str, Any]) -> list[Any]:
            return [found.get(one) for one in keys]

        acts = [
            (Act(COUNTERS, [("get", place, [])], lambda s, _: s.get(key), near=True), 8),
            (Act(COUNTERS, reads, lambda s, _: s.get_many(keys), both, near=True), 2),
            (Act(COUNTERS, reads, lambda s, _: s.get_all(f"{age}c"), both), 2),
            (Act(COUNTERS, reads, self._in_transaction(keys), both), 1),
            (Act(COUNTERS, [("increment", place, [1])], lambda s, _: s.increment(key)), 4),
            (
                Act(COUNTERS, [("increment", place, [1])], lambda s, _: s.update(key, lambda n: (n or 0) + 1)),
                1,
            ),
        ]
        return self._one_of(acts)

    def _list(self, age: str) -> Act:
        key, value = f"{age}l{self.chance.randrange(2)}", self._new()
        place = f"{DATA}/{key}"
        acts = [
            (Act(DATA, [("get", place, [])], lambda s, _: s.get(key), near=True), 3),
            (Act(DATA, [("append", place, [value])], lambda s, _: s.append(key, value)), 3),
            (
                Act(DATA, [("update", place, [value])], lambda s, _: s.update(key, lambda old: [*(old or []), value])),
                1,
            ),
        ]
        return self._one_of(acts)

    def _queue(self, age: str) -> Act:
        key, value = f"{age}q", self._new()
        place = f"{DATA}/{key}"
        acts = [
            (Act(DATA, [("get", place, [])], lambda s, _: s.get(key), near=True), 1),
            (Act(DATA, [("append", place, [value])], lambda s, _: s.append(key, value)), 3),
            (Act(DATA, [("pop", place, [])], lambda s, _: s.pop(key, None)), 1),
        ]
        return self._one_of(acts)

    def _batch(self, age: str) -> Act:
        keys = [f"{age}b{number}" for number in range(BATCH_KEYS)]
        place, value = f"{BATCHES}/{age}b", self._new()
        get = [("get", place, [])]

        def the_value(found: dict[str, Any]) -> list[Any]:
            return [one_value_of(found, keys)]

        acts = [
            (Act(BATCHES, get, lambda s, _: s.get_many(keys), the_value, near=True), 3),
            (Act(BATCHES, get, lambda s, _: s.get_all(f"{age}b"), the_value), 2),
            (Act(BATCHES, [("set", place, [value])], lambda s, _: s.set_many(dict.fromkeys(keys, value)), _nothing), 3),
        ]
        return self._one_of(acts)

    def _bank(self, age: str) -> Act:
        accounts = [(bank, f"{age}a{number}") for bank in BANKS for number in range(ACCOUNTS)]
        place = f"bank/{age}"
        if self.chance.random() < 0.3:
            make = _audit_async if self._is_async else _audit
            return Act(BANKS[0], [("audit", place, [])], lambda s, _: make(s, accounts))
        source, target = self.chance.sample(accounts, 2)
        units, move = self.chance.randrange(1, 10), self._new()
        transfer = _transfer_async if self._is_async else _transfer
        return Act(
            BANKS[0],
            [("transfer", place, [move, f"{source[0]}/{source[1]}", f"{target[0]}/{target[1]}", units])],
            lambda s, _: transfer(s, move, source, target, units),
            _nothing,
        )

    def _watched(self, age: str) -> Act:
        key, value = f"w{self.chance.randrange(WATCHED_KEYS)}", self._new()
        place = f"{WATCHED}/{key}"
        if self.chance.random() < 0.1:
            return Act(WATCHED, [("delete", place, [])], lambda s, _: s.delete(key))
        return Act(WATCHED, [("set", place, [value])], lambda s, _: s.set(key, value))

    def _lock(self, age: str) -> Act:
        name = f"lock{self.chance.randrange(2)}"
        hold = _hold_async if self._is_async else _hold
        return Act(DATA, [("lock", name, [])], lambda s, note: hold(s, name, self._lock_timeout, note))

    def _in_transaction(self, keys: list[str]) -> Callable[[Any, Note], Any]:
        def read(store: Any, note: Note) -> Any:
            return store.transact(lambda transaction: {key: transaction.get(key) for key in keys})

        async def read_async(store: Any, note: Note) -> Any:
            async def body(transaction: Any) -> dict[str, Any]:
                return {key: await transaction.get(key) for key in keys}

            return await store.transact(body)

        return read_async if self._is_async else read

    def _one_of(self, acts: list[tuple[Act, int]]) -> Act:
        return self.chance.choices(*zip(*acts, strict=True))[0]


def one_value_of(found: dict[str, Any], keys: list[str]) -> Any:
    """Return the value that all keys of a batch have, or None if all are missing; if they differ, what was found."""
    values = [found.get(key) for key in keys]
    return values[0] if values.count(values[0]) == len(values) else {"torn": values}


def _nothing(raw: Any) -> list[Any]:
    return [None]


def _moved(account: Any, move: str, units: int) -> dict[str, Any]:
    account = account or {"units": FIRST_BALANCE, "moves": []}
    return {"units": account["units"] + units, "moves": [*account["moves"], [move, units]]}


Account: TypeAlias = tuple[str, str]


def _transfer(store: Any, move: str, source: Account, target: Account, units: int) -> None:
    def body(transaction: Any) -> None:
        for (bank, key), change in ((source, -units), (target, units)):
            at = transaction.use_namespace(bank)
            at.set(key, _moved(at.get(key), move, change))

    store.transact(body)


async def _transfer_async(store: Any, move: str, source: Account, target: Account, units: int) -> None:
    async def body(transaction: Any) -> None:
        for (bank, key), change in ((source, -units), (target, units)):
            at = transaction.use_namespace(bank)
            at.set(key, _moved(await at.get(key), move, change))

    await store.transact(body)


def _audit(store: Any, accounts: list[Account]) -> dict[str, Any]:
    return store.transact(
        lambda transaction: {f"{bank}/{key}": transaction.use_namespace(bank).get(key) for bank, key in accounts}
    )


async def _audit_async(store: Any, accounts: list[Account]) -> dict[str, Any]:
    async def body(transaction: Any) -> dict[str, Any]:
        return {f"{bank}/{key}": await transaction.use_namespace(bank).get(key) for bank, key in accounts}

    return await store.transact(body)


def _hold(store: Any, name: str, timeout: float, note: Note) -> dict[str, int]:
    with store.lock(name, ttl=LOCK_TTL_S, timeout=timeout) as lock:
        entered = clock()
        for _ in range(LOOKS):
            held = {"fence": lock.fence, "entered": entered, "inside": clock()}
            lock.check()
            note(held)
            time.sleep(0.001)
    return held


async def _hold_async(store: Any, name: str, timeout: float, note: Note) -> dict[str, int]:
    async with store.lock(name, ttl=LOCK_TTL_S, timeout=timeout) as lock:
        entered = clock()
        for _ in range(LOOKS):
            held = {"fence": lock.fence, "entered": entered, "inside": clock()}
            lock.check()
            note(held)
            await asyncio.sleep(0.001)
    return held
