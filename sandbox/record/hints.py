"""Hints: suggestions for the author of an agent, derived from its calls of the store."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import groupby, islice
from typing import Protocol, TypeAlias

from redis_store.limits import MAX_VALUE_BYTES
from sandbox.limits import Limits
from sandbox.protocol.operations import OF_THE_USER, REFUSABLE, WRITES
from sandbox.result import Hint, Operation

GETS_IN_A_ROW = 20
"""Number of single gets in a row from which a hint suggests `get_many`."""

MISSES_OF_A_CACHE = 5
"""Number of missed keys, all of them also set, from which a namespace counts as a cache."""

NEAR = 0.8
"""Fraction of a limit from which a value counts as near it."""


MOST_OF_A_KIND = 10
"""Maximum number of agent and namespace pairs examined for a hint of each kind.

Bounds the work of the host: agents choose how many there are.
"""

_NO_READS = (OF_THE_USER - WRITES) | {"watch", "watch_all", "wait_for", "claim_value", "renew_value", "fail_value"}

_COMPARED, _COMPARED_CHARACTERS = 500, 48
"""Maximum number of names, and of characters of each, compared with the name of an empty namespace.

Bounds the work of the host: agents choose the names.
"""


class Questions(Protocol):
    """The store operations that hints use. The store has the agent's rights, so that hints reveal no more than it may read."""

    def list_namespaces(self) -> list[str]: ...
    def use_namespace(self, name: str) -> Questions: ...
    def __len__(self) -> int: ...


Store: TypeAlias = "AbstractContextManager[Questions]"


def find_hints(operations: list[Operation], limits: Limits, open_store: Callable[[], Store]) -> list[Hint]:
    """Return the hints for a run, grouped by kind. The store is opened only for hints that need to read it."""
    hints = [*islice(_single_gets(operations), MOST_OF_A_KIND), *_near_limit(operations, limits)]
    by_place = {place: list(group) for place, group in groupby(sorted(operations, key=_place), key=_place)}
    empty = dict(islice(((place, group) for place, group in by_place.items() if _found_nothing(group)), MOST_OF_A_KIND))
    caches = dict(islice(((place, group) for place, group in by_place.items() if _never_hit(group)), MOST_OF_A_KIND))
    if empty or caches:
        with open_store() as store:
            hints += _empty_namespaces(empty, store)
            hints += _useless_caches(caches, store)
    return hints


def refused_writes(operations: list[Operation]) -> Iterator[Hint]:
    """Yield a hint for each agent, namespace and error of writes that were refused, for a run that went on all the same."""
    refused: dict[tuple[str, str, str], list[Operation]] = {}
    for one in operations:
        if one.error is not None and one.operation in REFUSABLE:
            refused.setdefault((one.agent, one.namespace, one.error), []).append(one)
    for (agent, namespace, error), group in islice(refused.items(), MOST_OF_A_KIND):
        times = "a write" if len(group) == 1 else f"{len(group):,} writes"
        first = group[0].key
        key = "" if first is None else f" of {first[:64]!r}{'' if len(group) == 1 else ' and others'}"
        yield Hint(
            "refused_writes",
            f"{agent} went on after {times}{key} in namespace {namespace!r} raised {error}, and nothing was stored: handle"
            " the error, or let it end the run.",
            agent,
            namespace,
        )


def kept_values(operations: list[Operation]) -> Iterator[Hint]:
    """Yield a hint for each agent and tag whose values it could not all delete; it does not say where the others are."""
    kept = {(one.agent, one.key): one.kept for one in operations if one.kept}
    for (agent, tag), count in islice(kept.items(), MOST_OF_A_KIND):
        yield Hint(
            "kept_values",
            f"{agent} invalidated the tag {(tag or '')[:64]!r}, and {count:,} {'value' if count == 1 else 'values'} of it stayed,"
            " in namespaces that it may not write: grant these with Permissions(write=), or call invalidate_tag in the host.",
            agent,
        )


def _place(operation: Operation) -> tuple[str, str]:
    return operation.agent, operation.namespace


def _single_gets(operations: list[Operation]) -> Iterator[Hint]:
    """Yield a hint for each agent and namespace with consecutive gets of different keys."""
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
                f" {took:.0f} ms in the store): get_many(keys) reads them in one call.",
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
            f"{one.agent}: {what} in namespace {one.namespace!r} takes {one.bytes:,} of at most {most:,} bytes"
            f" ({name}): store it in parts.",
            one.agent,
            one.namespace,
        )


def _reads(group: list[Operation]) -> list[Operation]:
    """Return the successful operations on a namespace, without those that wait for another writer."""
    return [one for one in group if one.error is None and one.operation not in _NO_READS]


def _found_nothing(group: list[Operation]) -> bool:
    """Whether there were reads, all of which found nothing, and no writes."""
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
            f"{agent} read from namespace {namespace!r} {times:,} {'time' if times == 1 else 'times'}, but it"
            f" is empty: {instead}",
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
    return f"the user has {shown}{' and more' if len(there) > 5 else ''}."


def _never_hit(group: list[Operation]) -> bool:
    """Whether at least `MISSES_OF_A_CACHE` keys were read, none of them existed, and each was stored."""
    asked = [one for one in group if one.operation == "get"]
    missed = {one.key for one in asked if one.hit is False}
    stored = {one.key for one in group if one.operation == "set" and one.error is None}
    return len(missed) >= MISSES_OF_A_CACHE and not any(one.hit for one in asked) and missed <= stored


def _useless_caches(caches: dict[tuple[str, str], list[Operation]], store: Questions) -> Iterator[Hint]:
    """Yield a hint for each cache that held at least as many keys before the run as were read, and yet had no hit.

    A cache that is filled for the first time also has only misses; it gets no hint.
    """
    for (agent, namespace), group in caches.items():
        missed = list(dict.fromkeys(one.key for one in group if one.operation == "get"))
        before = len(store.use_namespace(namespace)) - len({one.key for one in group if one.operation == "set"})
        if before >= len(missed):
            yield Hint(
                "useless_cache",
                f"{agent} looked up {len(missed):,} keys in the cache {namespace!r} and found none, though it holds"
                f" {before:,} others: does {missed[0]!r} contain a part that changes each time, such as a time or an id?",
                agent,
                namespace,
            )
