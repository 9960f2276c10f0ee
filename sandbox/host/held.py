"""The locks, semaphore slots and claims that an agent process holds; released when the process has ended.

Each is recorded before it is requested, so that one whose answer was lost is released too. If the host itself dies, each
expires with its ttl.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from redis_store import DataStore
from redis_store.brokers.steps import carry_out
from redis_store.errors import DataStoreError, LimitExceeded, StoreUnavailable
from sandbox.protocol.answers import CLAIMED

MAX_HELD = 1000
"""Limit of what one process may hold or wait for at a time; the host must release all of it."""

_TAKES = {"acquire_lock": "release_lock", "acquire_place": "release_place", "claim_value": "fail_value"}
_ENDS = {**{release: release for release in _TAKES.values()}, "commit_value": "fail_value"}


class Holding(NamedTuple):
    """A lock, slot or claim that is held or waited for."""

    release: str
    namespace: str
    """Empty for locks and slots, which belong to the user."""
    name: str
    token: str


class Held:
    """The holdings of one process."""

    def __init__(self) -> None:
        self._places: dict[Holding, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def begin(self, operation: str, namespace: str, arguments: list[Any]) -> Holding | None:
        """Record what a call may acquire, and return it if it is new; raises `LimitExceeded` over `MAX_HELD`."""
        release = _TAKES.get(operation)
        if release is None:
            return None
        holding = _holding(release, namespace, arguments)
        if holding in self._places:
            return None
        if len(self._places) >= MAX_HELD:
            raise LimitExceeded(
                f"This agent holds or waits for {MAX_HELD:,} locks, slots and computed values already, the most that is"
                " allowed: release some first.",
                limit="held",
                limit_count=MAX_HELD,
                size_bytes=MAX_HELD + 1,
            )
        self._places[holding] = arguments[2] if operation == "acquire_place" else 1
        return holding

    def forget(self, news: Holding | None) -> None:
        """Undo `begin`, after a call that was refused before anything was sent."""
        if news is not None:
            del self._places[news]

    def end(
        self, operation: str, namespace: str, arguments: list[Any], answer: list[Any], news: Holding | None
    ) -> None:
        """Remove what is no longer held after a call was answered."""
        if operation in _ENDS:
            self._places.pop(_holding(_ENDS[operation], namespace, arguments), None)
        elif news is not None and _was_not_taken(operation, arguments, answer):
            del self._places[news]

    def release(self, store: DataStore) -> None:
        """Release everything, as far as the server can be reached; harmless for what has expired."""
        places, self._places = self._places, {}
        for (release, namespace, name, token), n in places.items():
            try:
                more = (n,) if release == "release_place" else ()
                carry_out(store.use_namespace(namespace) if namespace else store, release, name, token, *more)
            except StoreUnavailable:
                return
            except DataStoreError:
                continue


def _was_not_taken(operation: str, arguments: list[Any], answer: list[Any]) -> bool:
    """Whether a call that could acquire something neither acquired it nor joined its queue."""
    if operation == "claim_value":
        return bool(answer[0] != CLAIMED)
    return not answer[0] and not arguments[-1]


def _holding(release: str, namespace: str, arguments: list[Any]) -> Holding:
    return Holding(release, namespace if release == "fail_value" else "", arguments[0], arguments[1])
