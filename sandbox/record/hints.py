"""What the author of an agent might do better, seen from what it did."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import groupby, islice
from typing import Protocol, TypeAlias

from redis_store.limits import MAX_VALUE_BYTES
from sandbox.limits import Limits
from sandbox.protocol.messages import OF_THE_USER, WRITES
from sandbox.result import Hint, Operation

GETS_IN_A_ROW = 20
"""From so many single gets on, one `get_many` is worth a word."""

MISSES_OF_A_CACHE = 5
"""From so many misses that were all filled on, a namespace is looked at as a cache."""

NEAR = 0.8
"""The part of a limit at which a value is near it."""


MOST_OF_A_KIND = 10
"""So many places are looked at for a hint of each kind: an agent decides how many there are, and looking takes time."""

_NO_READS = (OF_THE_USER - WRITES) | {"watch", "watch_all", "wait_for", "claim_value", "renew_value", "fail_value"}

_COMPARED, _COMPARED_CHARACTERS = 500, 48
"""So many names, and so much of each, are compared with one that holds nothing; agents make names as they like."""


class Questions(Protocol):
    """What hints ask the store; it shows no more than the agent may read."""

    def list_namespaces(self) -> list[str]: ...
    def use_namespace(self, name: str) -> Questions: ...
    def __len__(self) -> int: ...


Store: TypeAlias = "AbstractContextManager[Questions]"


def find_hints(operations: list[Operation], limits: Limits, open_store: Callable[[], Store]) -> list[Hint]:
    """Return hints in the order of what they are about; the store is opened only where a question is left to ask."""
    hints = [*islice(_single_gets(operations), MOST_OF_A_KIND), *_near_limit(operations, limits)]
    by_place = {place: list(group) for place, group in groupby(sorted(operations, key=_place), key=_place)}
    empty = dict(islice(((place, group) for place, group in by_place.items() if _found_nothing(group)), MOST_OF_A_KIND))
    caches = dict(islice(((place, group) for place, group in by_place.items() if _never_hit(group)), MOST_OF_A_KIND))
    if empty or caches:
        with open_store() as store:
            hints += _empty_namespaces(empty, store)
            hints += _useless_caches(caches, store)
    return hints


def _place(operation: Operation) -> tuple[str, str]:
    return operation.agent, operation.namespace


def _single_gets(operations: list[Operation]) -> Iterator[Hint]:
    """Look for gets of different keys that one agent made one after the other in one namespace."""
    longest: dict[tuple[str, str], list[Operation]] = {}
    by_run = groupby(sorted(operations, key=lambda one: one.run), key=lambda one: one.run)
    for _, group in by_run:
        for (_, operation), streak in groupby(group, key=lambda one: (one.namespace, one.operation)):
            if operation != "get":
                continue
            gets = list({one.key: one for one in streak}.values())
            place = _place(gets[0])
            if len(gets) > len(longest.get(place, ())):
                longest[place] = gets
    for (agent, namespace), gets in longest.items():
        if len(gets) >= GETS_IN_A_ROW:
            took = sum(one.duration_ms for one in gets)
            yield Hint(
                "single_gets",
                f"{agent} made {len(gets):,} single gets in a row in namespace {namespace!r} ({gets[0].key!r} first;"
                f" {took:.0f} ms in the store): get_many(keys) answers them at once.",
                agent,
                namespace,
            )


def _near_limit(operations: list[Operation], limits: Limits) -> Iterator[Hint]:
    most, name = min((MAX_VALUE_BYTES, "max_value_bytes"), (limits.frame_bytes, "Limits.frame_bytes"))
    big = [one for one in operations if one.bytes >= NEAR * most and one.error is None]
    if big:
        one = max(big, key=lambda one: one.bytes)
        what = f"the value of {one.key!r}" if one.key is not None else f"a {one.operation}"
        yield Hint(
            "near_limit",
            f"{one.agent}: {what} in namespace {one.namespace!r} takes {one.bytes:,} bytes, and {most:,} are the most"
            f" ({name}): store it in parts.",
            one.agent,
            one.namespace,
        )


def _reads(group: list[Operation]) -> list[Operation]:
    """Return what was carried out in a namespace, without what waits for others to write there."""
    return [one for one in group if one.error is None and one.operation not in _NO_READS]


def _found_nothing(group: list[Operation]) -> bool:
    """Whether there were reads that all found nothing, and no writes."""
    done = _reads(group)
    return bool(done) and not any(one.count or one.operation in WRITES for one in done)


def _empty_namespaces(empty: dict[tuple[str, str], list[Operation]], store: Questions) -> Iterator[Hint]:
    if not empty:
        return
    there = store.list_namespaces()
    for (agent, namespace), group in empty.items():
        if namespace in there:
            continue
        near = _nearest(namespace, there)
        times = len(_reads(group))
        instead = f"did it mean {' or '.join(map(repr, near))}?" if near else _others(there)
        yield Hint(
            "empty_namespace",
            f"{agent} read from namespace {namespace!r} {times:,} {'time' if times == 1 else 'times'}, which"
            f" holds nothing: {instead}",
            agent,
            namespace,
        )


def _nearest(namespace: str, there: list[str]) -> list[str]:
    beginnings: dict[str, str] = {}
    for name in there[:_COMPARED]:
        beginnings.setdefault(name[:_COMPARED_CHARACTERS], name)
    return [beginnings[one] for one in difflib.get_close_matches(namespace[:_COMPARED_CHARACTERS], beginnings, n=3)]


def _others(there: list[str]) -> str:
    if not there:
        return "the user has no data yet."
    shown = ", ".join(map(repr, there[:5]))
    return f"there are {shown}{' and more' if len(there) > 5 else ''}."


def _never_hit(group: list[Operation]) -> bool:
    """Whether keys were asked for, none was there, and each was stored then."""
    asked = [one for one in group if one.operation == "get"]
    missed = {one.key for one in asked if one.hit is False}
    stored = {one.key for one in group if one.operation == "set" and one.error is None}
    return len(missed) >= MISSES_OF_A_CACHE and not any(one.hit for one in asked) and missed <= stored


def _useless_caches(caches: dict[tuple[str, str], list[Operation]], store: Questions) -> Iterator[Hint]:
    """A cache that is filled for the first time misses too; one that held as much before, and gave nothing, is useless."""
    for (agent, namespace), group in caches.items():
        missed = list(dict.fromkeys(one.key for one in group if one.operation == "get"))
        before = len(store.use_namespace(namespace)) - len({one.key for one in group if one.operation == "set"})
        if before >= len(missed):
            yield Hint(
                "useless_cache",
                f"{agent} asked the cache {namespace!r} for {len(missed):,} keys and found none, though {before:,} others"
                f" lie there: does {missed[0]!r} hold something that is new each time, such as a time or an id?",
                agent,
                namespace,
            )
