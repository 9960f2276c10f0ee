"""The steps of `redis_store.brokers.steps`, called by name as a broker calls them, with answers that tests can read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from redis_store import Conflict, DataStore
from redis_store.brokers import steps
from redis_store.flows.compute_once import Claimed, Computing, Failed, Found
from redis_store.flows.hold import Busy, Taken
from redis_store.flows.optimistic import TransactionParts


class Claim(NamedTuple):
    """An answer to `claim_value`."""

    state: str
    value: Any = None
    since_ms: int = 0
    error_type: str = ""
    error_message: str = ""
    left_ms: int = 0


class Acquired(NamedTuple):
    """An answer to `acquire_lock` and `acquire_place`."""

    acquired: bool
    fence: int = 0
    retry_ms: int = 0
    place: int = 0


class Steps:
    """The steps on the namespace of a store."""

    def __init__(self, store: DataStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Callable[..., Any]:
        signature = inspect.signature(steps._STEPS[name])

        def call(*arguments: Any, **named: Any) -> Any:
            bound = signature.bind(None, *arguments, **named)
            bound.apply_defaults()
            return _readable(steps.carry_out(self._store, name, *bound.args[1:]))

        return call

    def commit_transaction(self, *parts: Any) -> tuple[str, str] | None:
        """Return the namespace and key that changed, or None if everything was written."""
        try:
            steps.carry_out(self._store, "commit_transaction", TransactionParts(parts[0], parts[1], parts[2], {}))
        except Conflict as conflict:
            return conflict.namespace, conflict.key
        return None


def _readable(answer: Any) -> Any:
    if isinstance(answer, Found):
        return Claim("value", answer.text)
    if isinstance(answer, Computing):
        return Claim("busy", since_ms=answer.now_ms, left_ms=answer.left_ms)
    if isinstance(answer, Failed):
        return Claim("error", error_type=answer.error_type, error_message=answer.message)
    if isinstance(answer, Claimed):
        return Claim("claimed")
    if isinstance(answer, Taken):
        return Acquired(True, answer.fence)
    return Acquired(False, 0, *answer) if isinstance(answer, Busy) else answer
