"""Transactions and updates in an agent: the block or function runs here; the host writes if the values read are unchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import random
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from redis_store.flows import optimistic
from redis_store.flows.flow import Ask, Do, Flow
from redis_store.flows.optimistic import change_value, check_function, check_open, check_parts
from redis_store.types import Json, JsonInput, Ttl
from redis_store.values import rules
from sandbox.child.store.arguments import key_text, ttl_seconds
from sandbox.child.store.run_flows import DRIVER
from sandbox.child.store.session import Session
from sandbox.protocol.frames import Part
from sandbox.protocol.messages import BOUND, DELETE, READ, SET

T = TypeVar("T")

__all__ = ["Transaction"]


@dataclass(slots=True)
class Draft:
    """The reads and pending writes of a transaction: JSON text by namespace and key, None for a missing key or a deletion."""

    session: Session
    reads: dict[tuple[str, str], bytes | None] = field(default_factory=dict)
    writes: dict[tuple[str, str], tuple[bytes | None, float | None]] = field(default_factory=dict)
    bounds: dict[str, int] = field(default_factory=dict)
    begun: bool = False
    over: bool = False

    def check_size(self) -> None:
        check_parts(len(self.reads) + len(self.writes))

    async def commit(self) -> None:
        """Store all writes if every value read is unchanged; otherwise raise `Conflict`."""
        check_open(self.begun, self.over)
        self.over = True
        parts: list[Part] = []
        for (namespace, key), text in self.reads.items():
            parts += (READ, namespace, key, text, None)
        for (namespace, key), (text, ttl_s) in self.writes.items():
            parts += (DELETE if text is None else SET, namespace, key, text, ttl_s)
        for namespace, max_keys in self.bounds.items():
            parts += (BOUND, namespace, "", None, max_keys)
        if parts:
            self.session.call_for_user("commit_transaction", *parts)


class Transaction:
    """Reads and writes in a user's namespaces: all writes are stored or none, and only if every value read is unchanged.

    Made by `DataStore.transaction`; a context manager. Nothing is written if the block raises.
    """

    def __init__(self, session: Session, draft: Draft) -> None:
        self._session = session
        self._draft = draft

    def get(self, key: str, default: Any = None) -> Json:
        """Return the value as this transaction sees it, its own writes included, or `default` if the key is missing."""
        self._session.check("get")
        check_open(self._draft.begun, self._draft.over)
        name = key_text(key)
        place = (self._session.namespace, name)
        if place in self._draft.writes:
            text = self._draft.writes[place][0]
        else:
            if place not in self._draft.reads:
                parts = self._session.call("get", name)
                self._draft.reads[place] = parts[0] if parts else None
                self._draft.check_size()
            text = self._draft.reads[place]
        return default if text is None else self._session.decode(text, key)

    def set(self, key: str, value: JsonInput, ttl: Ttl = None) -> None:
        """Store a value when the transaction ends."""
        self._begin_write()
        place = (self._session.namespace, key_text(key))
        self._draft.writes[place] = (rules.dump(value), ttl_seconds(ttl, self._session.ttl_s))
        if self._session.max_keys is not None:
            self._draft.bounds[self._session.namespace] = self._session.max_keys
        self._draft.check_size()

    def delete(self, key: str) -> None:
        """Delete a key when the transaction ends, if it exists."""
        self._begin_write()
        self._draft.writes[self._session.namespace, key_text(key)] = (None, None)
        self._draft.check_size()

    def use_namespace(self, name: str, ttl: Ttl = None, max_keys: int | None = None) -> Transaction:
        """Return the same transaction for another namespace of the user."""
        return Transaction(self._session.moved(name, ttl, max_keys), self._draft)

    def __enter__(self) -> Self:
        check_open(begun=True, over=self._draft.over)
        self._draft.begun = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            DRIVER.run(self._draft.commit())
        self._draft.over = True

    def _begin_write(self) -> None:
        self._session.check("set")
        check_open(self._draft.begun, self._draft.over)


def transact(session: Session, function: Callable[[Transaction], T]) -> Flow[T]:
    """The flow of `DataStore.transact`."""
    return optimistic.transact(
        lambda: Draft(session, begun=True), lambda draft: Transaction(session, draft), function, Draft.commit, random
    )


async def update(session: Session, key: str, function: Callable[[Any], Any], default: Any = None) -> Json:
    """The flow of `DataStore.update`."""
    session.check("replace")
    name = key_text(key)
    check_function(function)

    async def look() -> bytes | None:
        parts = session.call("get", name)
        return parts[0] if parts else None

    async def change(there: bytes | None) -> bytes:
        value = default if there is None else session.decode(there, name)
        return rules.dump(await Ask[Any](function, (value,)))

    async def replace(text: bytes, there: bytes | None) -> Literal[True] | bytes | None:
        done, *found = session.call("replace", name, there, text, session.ttl_s)
        return True if done else found[0] if found else None

    return session.decode(await change_value(name, await Do(look()), look, change, replace, random), name)
