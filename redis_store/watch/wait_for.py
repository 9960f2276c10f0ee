"""Waiting for a key: when to read it, and whether its value is accepted. No I/O."""

from __future__ import annotations

from collections.abc import Callable

from redis_store.errors import StoreClosed, WaitTimeout, waited_too_long
from redis_store.flows.optimistic import not_a_function
from redis_store.hub.mailbox import (
    Closed,
    Delivery,
    HistoryGone,
    Item,
    Mailbox,
    Opened,
    Overflow,
    Suspicion,
    WatchFailed,
)
from redis_store.hub.requests import Join
from redis_store.namespace.keys import encode_key
from redis_store.namespace.scope import Scope
from redis_store.ops import values
from redis_store.protocol.call import Op
from redis_store.types import Json

NOT_THERE = object()


class Waiting:
    """One wait, until a key exists and its value satisfies the predicate."""

    def __init__(self, scope: Scope, key: str, predicate: Callable[[Json], bool] | None) -> None:
        if predicate is not None and not callable(predicate):
            raise not_a_function("wait_until", "a function of the value", predicate, "write `lambda value: ...`")
        self._scope = scope
        self._key = key
        self._field = encode_key(key)
        self._predicate = predicate
        self.value: Json = None
        self.fulfilled = False

    def look(self) -> Op[Json]:
        """Read the key, not by way of the near cache, which may hear of a change after the hub. `NOT_THERE` if it is missing."""
        return values.get(self._scope, self._key, NOT_THERE)

    def accepts(self, value: Json) -> bool:
        """Whether a value ends the wait."""
        if value is NOT_THERE:
            return False
        if self._predicate is None or self._predicate(value):
            self.value, self.fulfilled = value, True
        return self.fulfilled

    def request(self, mailbox: Mailbox) -> Join:
        scope = self._scope
        return Join(mailbox, scope.user, scope.keys, scope.log)

    def concerns(self, item: Item, mailbox: Mailbox) -> bool:
        """Look through an item from the hub. Return True if the key must be read."""
        if isinstance(item, Delivery):
            for entry in item.entries:
                for news in entry.news:
                    if news is not None and news[1] == self._field and news[2] is not None:
                        value = self._scope.codec.decode(news[2], self._scope.namespace, self._key)
                        if self.accepts(value):
                            return False
            return False
        if isinstance(item, Overflow):
            mailbox.reopen()
            return True
        if isinstance(item, WatchFailed):
            raise item.error
        if isinstance(item, Closed):
            raise StoreClosed("The store was closed during a wait for a key.")
        return isinstance(item, (Opened, Suspicion, HistoryGone))

    def too_late(self, timeout: float | None) -> WaitTimeout:
        """Return the error for a wait that timed out."""
        what = "was not there" if self._predicate is None else "had no value that was waited for"
        return waited_too_long(self._key, self._scope.namespace, what, timeout)
