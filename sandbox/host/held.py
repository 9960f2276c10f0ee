"""What an agent's process holds: locks, places of semaphores, values that it computes; given back when the process is gone.

Noted down before it is asked for, so that also what was taken with an answer that nobody heard is given back. Where the host
itself dies, all of it lapses with its ttl.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from redis_store import DataStore
from redis_store.brokers.steps import Steps
from redis_store.errors import DataStoreError, LimitExceeded, StoreUnavailable
from sandbox.protocol.messages import CLAIMED

MAX_HELD = 1000
"""So much one process may hold or wait for at a time; giving it back is the host's work."""

_TAKES = {"acquire_lock": "release_lock", "acquire_place": "release_place", "claim_value": "fail_value"}
_ENDS = {"release_lock": "release_lock", "release_place": "release_place"} | {
    "fail_value": "fail_value",
    "commit_value": "fail_value",
}


class Holding(NamedTuple):
    """One thing held, or waited for."""

    release: str
    namespace: str
    """Empty for what belongs to the user."""
    name: str
    token: str


class Held:
    """What one process holds."""

    def __init__(self) -> None:
        self._places: dict[Holding, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def begin(self, operation: str, namespace: str, arguments: list[Any]) -> Holding | None:
        """Note down what a call may take, and return it where that is news; `LimitExceeded` where it is too much."""
        release = _TAKES.get(operation)
        if release is None:
            return None
        holding = _holding(release, namespace, arguments)
        if holding in self._places:
            return None
        if len(self._places) >= MAX_HELD:
            raise LimitExceeded(
                f"This agent holds or waits for {MAX_HELD:,} locks, places and computed values already: release some first.",
                limit="held",
                limit_count=MAX_HELD,
                size_bytes=MAX_HELD + 1,
            )
        self._places[holding] = arguments[2] if operation == "acquire_place" else 1
        return holding

    def forget(self, news: Holding | None) -> None:
        """Take back what `begin` noted down, as a call was refused before anything was sent."""
        if news is not None:
            del self._places[news]

    def end(
        self, operation: str, namespace: str, arguments: list[Any], answer: list[Any], news: Holding | None
    ) -> None:
        """Forget what is held no longer after a call that was answered."""
        if operation in _ENDS:
            self._places.pop(_holding(_ENDS[operation], namespace, arguments), None)
        elif news is not None and _was_not_taken(operation, arguments, answer):
            del self._places[news]

    def release(self, store: DataStore) -> None:
        """Give everything back, as far as the server can be reached; harmless for what has lapsed."""
        places, self._places = self._places, {}
        for (release, namespace, name, token), n in places.items():
            try:
                steps = Steps(store.use_namespace(namespace) if namespace else store)
                if release == "release_lock":
                    steps.release_lock(name, token)
                elif release == "release_place":
                    steps.release_place(name, token, n)
                else:
                    steps.fail_value(name, token)
            except StoreUnavailable:
                return
            except DataStoreError:
                continue


def _was_not_taken(operation: str, arguments: list[Any], answer: list[Any]) -> bool:
    """Whether a call that could take something has neither taken it nor a place in its queue."""
    if operation == "claim_value":
        return bool(answer[0] != CLAIMED)
    return not answer[0] and not arguments[-1]


def _holding(release: str, namespace: str, arguments: list[Any]) -> Holding:
    return Holding(release, namespace if release == "fail_value" else "", arguments[0], arguments[1])
