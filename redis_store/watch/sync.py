"""Watching, for threads: an iterator of changes, and waiting for a key.

This module holds the blocking part. The watcher's steps are in `watch/watcher.py` and `watch/reader.py`, the hub in `hub/hub.py`.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Self, TypeVar

from redis_store.drivers.sync import SyncDriver
from redis_store.drivers.wakeups import Alarm
from redis_store.errors import DataStoreError, StoreClosed, StoreTimeout, second_taker
from redis_store.flows.clock import clock, time_for_reply
from redis_store.flows.flow import Do, Flow, Pause, Receive, Step
from redis_store.flows.run_sync import carry_out
from redis_store.hub.mailbox import Mailbox, NamespaceBudget
from redis_store.hub.run_hub import join, leave
from redis_store.limits import check_timeout, check_whole
from redis_store.namespace.scope import Scope
from redis_store.protocol.drive import drive
from redis_store.types import Change, Json
from redis_store.watch.request import WatchRequest
from redis_store.watch.wait_for import Waiting
from redis_store.watch.watcher import Watching

T = TypeVar("T")


class Watch(Iterator[Change]):
    """An iterator over the changes of one namespace, or of all namespaces of a user. Made by `DataStore.watch` and `watch_all`.

    It waits for the next change, and is a context manager. One thread at a time may take changes: a second one gets
    `InvalidInput`. `close`, from any thread, ends it. An exception that a signal handler raises loses no change. The watch waits
    while the server is unavailable, and continues after a restart.
    """

    def __init__(self, driver: SyncDriver, plan: WatchRequest) -> None:
        self._driver = driver
        self._closed = False
        self._closing = Alarm()
        self._watching = Watching(plan, lambda: driver.source, driver.timeout_s, None)
        self._finalizer = weakref.finalize(self, self._watching.leave)
        driver.watches.add(self)
        try:
            driver.make_sure(keeps=False)
            self._drive(self._watching.begin())
        except BaseException:
            self.close()
            raise

    @property
    def standing_by(self) -> bool:
        """Whether another process holds this consumer, and this one stands by to take over."""
        return self._watching.standing_by

    def take(self, most: int = 1, timeout: float | None = None) -> list[Change]:
        """Wait for a change, and return it with the others that are ready, up to `most`.

        Returns an empty list after `timeout` seconds.

        The consumer's cursor does not move: call `done` with the last change that you are done with. Raises `StoredDataError`
        once for a value that is not JSON, and continues after it; raises `StoreClosed` after `close`.
        """
        most, deadline = check_whole(most, "The number of changes to take", 1), _deadline(timeout)
        watching = self._watching
        if watching.busy:
            raise second_taker()
        watching.busy = True
        try:
            found = self._drive(watching.take(most, deadline), deadline)
            watching.taken = found  # no call may come after this
            if found.error is not None:
                raise found.error
            return found.changes
        finally:
            watching.busy = False

    def done(self, change: Change) -> None:
        """Move the consumer's cursor past this change. Does nothing without a consumer's name."""
        self._drive(self._watching.done(change))

    def next_change(self, timeout: float | None = None) -> Change | None:
        """Return the next change, or None after `timeout` seconds. The change returned before counts as done."""
        deadline = _deadline(timeout)
        watching = self._watching
        if watching.busy:
            raise second_taker()
        watching.busy = True
        try:
            found = self._drive(watching.next_change(deadline), deadline)
            watching.taken = found  # no call may come after this
            if found.error is not None:
                raise found.error
            return found.changes[0] if found.changes else None
        finally:
            watching.busy = False

    def close(self) -> None:
        """End the watch. A thread that waits for the next change gets none. Repeating it is harmless."""
        self._closed = True
        self._closing.set()
        if self._watching.end():
            with contextlib.suppress(DataStoreError):
                self._driver.run(self._watching.plan.release())

    def __next__(self) -> Change:
        try:
            change = self.next_change()
        except StoreClosed:
            if self._closed:
                raise StopIteration from None
            raise
        assert change is not None, "next_change returns None only after a timeout"
        return change

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Watch of {self._watching.plan}{' (closed)' if self._closed else ''}>"

    def _drive(self, flow: Flow[T], deadline: float | None = None) -> T:
        return drive(flow, partial(self._carry_out, deadline), Exception)

    def _carry_out(self, deadline: float | None, step: Step) -> Any:
        if isinstance(step, Do):
            return self._driver.run(step.op, time_for_reply(deadline))
        if isinstance(step, Receive):
            item = self._watching.mailbox.peek(_left(step.deadline))
            if self._driver.near is not None:
                self._driver.near.note_read_beside()
            return item
        if isinstance(step, Pause):
            if not self._closed:
                self._closing.wait(step.seconds)
            return self._closed
        return carry_out(self._driver, step)


def wait_until(
    driver: SyncDriver,
    scope: Scope,
    key: str,
    predicate: Callable[[Json], bool] | None,
    timeout: float | None,
    turn: contextlib.AbstractContextManager[object] | None = None,
    opened: Callable[[Callable[[], None]], None] | None = None,
    budget: NamespaceBudget | None = None,
) -> Json:
    """Wait until a key exists and its value satisfies the predicate, and return the value.

    `turn` is entered while the key is read and the predicate is called with the value read. `opened` gets a function that ends
    the wait, from any thread. The namespace counts in the `budget` while it is watched.
    """
    turn = turn or contextlib.nullcontext()
    waiting = Waiting(scope, key, predicate)
    deadline = _deadline(timeout)

    def look() -> None:
        try:
            with turn:
                waiting.accepts(driver.run(waiting.look(), time_for_reply(deadline)))
        except StoreTimeout:
            if deadline is None or clock() < deadline:
                raise
            raise waiting.too_late(timeout) from None

    look()
    if waiting.fulfilled:
        return waiting.value
    mailbox = Mailbox(light=True)
    mailbox.budget = budget
    if opened is not None:
        opened(mailbox.close)
    driver.watches.add(mailbox)
    join(waiting.request(mailbox), driver.source, driver.timeout_s)
    try:
        while True:
            item = mailbox.take(_left(deadline))
            if driver.near is not None:
                driver.near.note_read_beside()
            if item is None:
                raise waiting.too_late(timeout)
            if waiting.concerns(item, mailbox):
                look()
            if waiting.fulfilled:
                return waiting.value
    finally:
        leave(mailbox)


def _deadline(timeout: float | None) -> float | None:
    limit_s = check_timeout(timeout)
    return None if limit_s is None else clock() + limit_s


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - clock())
