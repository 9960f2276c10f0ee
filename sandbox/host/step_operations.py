"""The steps of flows, as a broker carries them out; between steps the agent process waits or runs its own functions.

Each step answers at once, so that nothing waits in the host; the agent process polls again. A step takes checked arguments
and plain JSON text; the host never sees a function of the agent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis_store import DataStore
from redis_store.brokers import steps
from redis_store.errors import LimitExceeded
from redis_store.flows.optimistic import changed_since_read, check_parts
from redis_store.types import MISSING
from sandbox.host import operations
from sandbox.host.operations import Answered, TextStore, with_ttl
from sandbox.protocol.frames import FrameError
from sandbox.protocol.messages import BOUND, BUSY, CLAIMED, DELETE, FAILED, READ, SET, VALUE

MAX_TAGS = 1000
"""Limit of the tags of one value in the sandbox; the server is blocked while it stores them."""


def store_of_the_host(store: TextStore) -> DataStore:
    """Return the broker's store as a `DataStore`; elsewhere the narrower `TextStore` suffices."""
    assert isinstance(store, DataStore)
    return store


def steps_of(store: TextStore) -> steps.Steps:
    """Return the steps of flows for a store's namespace."""
    return steps.Steps(store_of_the_host(store))


def _replace(store: TextStore, arguments: list[Any]) -> Answered:
    key, expected, text, ttl = arguments
    done, there = steps_of(with_ttl(store, ttl)).replace(key, MISSING if expected is None else expected, text)
    if done:
        return Answered([True], 1, True, len(text), text)
    return Answered([False] if there is MISSING else [False, there], 0, False)


def _claim_value(store: TextStore, arguments: list[Any]) -> Answered:
    key, token, ttl, stale, lock_timeout, since_ms, *tags = arguments
    _check_tags(tags)
    answer = steps_of(store).claim_value(key, token, ttl, stale, lock_timeout, tags, since_ms)
    if answer.state == "value":
        return Answered([VALUE, answer.value], 1, True, len(answer.value), answer.value)
    if answer.state == "busy":
        return Answered([BUSY, answer.left_ms, answer.since_ms], 0, False)
    if answer.state == "error":
        return Answered([FAILED, answer.error_type, answer.error_message], 0, False)
    return Answered([CLAIMED], 0, False)


def _renew_value(store: TextStore, arguments: list[Any]) -> Answered:
    key, token, lock_timeout, *tags = arguments
    _check_tags(tags)
    return _whether(steps_of(store).renew_value(key, token, lock_timeout, tags))


def _commit_value(store: TextStore, arguments: list[Any]) -> Answered:
    key, token, text, ttl, stale, *tags = arguments
    _check_tags(tags)
    stored = steps_of(store).commit_value(key, token, text, ttl, stale, tags)
    return Answered([stored], int(stored), stored, len(text), text)


def _fail_value(store: TextStore, arguments: list[Any]) -> Answered:
    return _whether(steps_of(store).fail_value(*arguments))


def _invalidate_tag(store: TextStore, arguments: list[Any]) -> Answered:
    tag, to_read, *patterns = arguments
    if not 0 <= to_read <= len(patterns):
        raise FrameError("more patterns than there are")
    count = store_of_the_host(store).restricted(read=patterns[:to_read], write=patterns[to_read:]).invalidate_tag(tag)
    return Answered([count], count)


def _commit_transaction(store: TextStore, arguments: list[Any]) -> Answered:
    check_parts(len(arguments) // 5)
    reads, sets, deletes = [], [], []
    bounds: dict[str, int] = {}
    for start in range(0, len(arguments), 5):
        what, namespace, key, text, ttl = arguments[start : start + 5]
        if what == READ:
            reads.append((namespace, key, MISSING if text is None else text))
        elif what == SET and text is not None:
            sets.append((namespace, key, text, ttl))
        elif what == DELETE:
            deletes.append((namespace, key))
        elif what == BOUND and isinstance(ttl, int):
            bounds[namespace] = ttl
        else:
            raise FrameError("a step of a transaction that is none")
    changed = steps_of(store).commit_transaction(reads, sets, deletes, bounds)
    if changed is not None:
        raise changed_since_read(*changed)
    texts = [text for _, _, text, _ in sets]
    return Answered([], len(sets) + len(deletes), size=sum(map(len, texts)), value=texts[0] if texts else None)


def _acquire_lock(store: TextStore, arguments: list[Any]) -> Answered:
    name, token, ttl, wait = arguments
    return _acquired(steps_of(store).acquire_lock(name, token, ttl, bool(wait)))


def _renew_lock(store: TextStore, arguments: list[Any]) -> Answered:
    return _whether(steps_of(store).renew_lock(*arguments))


def _release_lock(store: TextStore, arguments: list[Any]) -> Answered:
    return _whether(steps_of(store).release_lock(*arguments))


def _acquire_place(store: TextStore, arguments: list[Any]) -> Answered:
    name, token, n, ttl, wait = arguments
    return _acquired(steps_of(store).acquire_place(name, token, n, ttl, bool(wait)))


def _renew_place(store: TextStore, arguments: list[Any]) -> Answered:
    return _whether(steps_of(store).renew_place(*arguments))


def _release_place(store: TextStore, arguments: list[Any]) -> Answered:
    return _whether(steps_of(store).release_place(*arguments))


def _take_moment(store: TextStore, arguments: list[Any]) -> Answered:
    taken, wait_ms = steps_of(store).take_moment(*arguments)
    return Answered([taken, wait_ms], 0, taken)


def _acquired(answer: steps.Acquired) -> Answered:
    return Answered([answer.acquired, answer.fence, answer.retry_ms, answer.place], 0, answer.acquired)


def _whether(done: bool) -> Answered:
    return Answered([done], 0, done)


def _check_tags(tags: list[str]) -> None:
    if len(tags) > MAX_TAGS:
        raise LimitExceeded(
            f"A value has {len(tags):,} tags, and at most {MAX_TAGS:,} are allowed inside the sandbox: use fewer.",
            limit="tags",
            limit_count=MAX_TAGS,
            size_bytes=len(tags),
        )


ALL_HANDLERS: dict[str, Callable[[TextStore, list[Any]], Answered]] = {
    **operations.HANDLERS,
    "replace": _replace,
    "claim_value": _claim_value,
    "renew_value": _renew_value,
    "commit_value": _commit_value,
    "fail_value": _fail_value,
    "invalidate_tag": _invalidate_tag,
    "commit_transaction": _commit_transaction,
    "acquire_lock": _acquire_lock,
    "renew_lock": _renew_lock,
    "release_lock": _release_lock,
    "acquire_place": _acquire_place,
    "renew_place": _renew_place,
    "release_place": _release_place,
    "take_moment": _take_moment,
}
"""Handlers of all operations of `protocol.messages.OPERATIONS`."""

ALL_WITH_KEY = operations.WITH_KEY | (ALL_HANDLERS.keys() - operations.HANDLERS.keys() - {"commit_transaction"})
"""Operations whose first argument is a key or another name, such as that of a lock or a tag."""
