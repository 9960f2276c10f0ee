"""Watching, for threads: an iterator of changes, and waiting for a key.

What a watcher does stands in `watch.watcher` and `watch.reader`, what its hub does in `hub.hub`; here is what blocks.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar

from redis_store.connections.resolver import Source
from redis_store.drivers.sync import SyncDriver
from redis_store.errors import DataStoreError, StoreClosed
from redis_store.hub.mailbox import Mailbox
from redis_store.hub.thread import join, leave, let_go
from redis_store.limits import check_timeout
from redis_store.namespace.scope import Scope
from redis_store.types import Change, Json
from redis_store.watch.request import WatchRequest, check_most
from redis_store.watch.wait_for import Waiting
from redis_store.watch.watcher import Nap, Receive, Run, Watching

T = TypeVar("T")


class Watch(Iterator[Change]):
    """The changes of a namespace, or of all of a user's, as they come; made by `DataStore.watch` and `watch_all`.

    An iterator that waits for the next change, and a context manager. `close`, from any thread, ends it. One thread at a time
    may take changes. It outlives a server that is restarted: then it waits.
    """

    def __init__(self, driver: SyncDriver, source: Source, plan: WatchRequest) -> None:
        self._driver = driver
        self._closed = threading.Event()
        self._watching = Watching(plan, source, driver.timeout_s, None)
        self._finalizer = weakref.finalize(self, _let_go, self._watching)
        driver.watches.add(self)
        try:
            self._drive(self._watching.begin())
        except BaseException:
            self.close()
            raise

    @property
    def standing_by(self) -> bool:
        """Whether another process works as this consumer, and this one waits for its end."""
        return self._watching.standing_by

    def take(self, most: int = 1, timeout: float | None = None) -> list[Change]:
        """Wait for a change and return it, with what is there besides up to `most`; nothing if `timeout` seconds pass.

        A consumer's cursor does not move: say `done` of the last change that you are done with. Raises `StoredDataError` for a
        value that is not JSON, once, and goes on behind it; raises `StoreClosed` after `close`.
        """
        return self._drive(self._watching.take(check_most(most), _deadline(timeout)))

    def done(self, change: Change) -> None:
        """Move the consumer's cursor behind this change; without a consumer's name there is nothing to move."""
        self._drive(self._watching.done(change))

    def next_change(self, timeout: float | None = None) -> Change | None:
        """Return the next change, None if `timeout` seconds pass; the one given before counts as done."""
        return self._drive(self._watching.next_change(_deadline(timeout)))

    def close(self) -> None:
        """End it; whoever waits for the next change, in any thread, gets none. Harmless when repeated."""
        self._closed.set()
        if self._watching.end():
            with contextlib.suppress(DataStoreError):
                self._driver.run(self._watching.plan.release())

    def __next__(self) -> Change:
        try:
            change = self.next_change()
        except StoreClosed:
            if self._closed.is_set():
                raise StopIteration from None
            raise
        assert change is not None, "without a timeout there is one"
        return change

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Watch of {self._watching.plan}{' (closed)' if self._closed.is_set() else ''}>"

    def _drive(self, steps: Coroutine[Any, Any, T]) -> T:
        answer: Any = None
        try:
            step = steps.send(None)
            while True:
                try:
                    if isinstance(step, Run):
                        answer = self._driver.run(step.op)
                    elif isinstance(step, Receive):
                        answer = self._watching.mailbox.take(_left(step.deadline))
                    else:
                        answer = self._nap(step)
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            steps.close()

    def _nap(self, nap: Nap) -> bool:
        left = _left(nap.deadline)
        self._closed.wait(nap.seconds if left is None else min(left, nap.seconds))
        return left is None or left > nap.seconds


def wait_until(
    driver: SyncDriver,
    scope: Scope,
    key: str,
    predicate: Callable[[Json], bool] | None,
    timeout: float | None,
    turn: contextlib.AbstractContextManager[object] | None = None,
) -> Json:
    """Wait until a key is there, with a value for which the predicate holds, and return the value.

    With a `turn`, it is entered for reading the key and for what the predicate does with the value then.
    """
    turn = turn or contextlib.nullcontext()
    waiting = Waiting(scope, key, predicate)
    deadline = _deadline(timeout)
    with turn:
        if waiting.accepts(driver.run(waiting.look())):
            return waiting.value
    mailbox = Mailbox(light=True)
    driver.watches.add(mailbox)
    join(waiting.request(mailbox), driver.source, driver.timeout_s)
    try:
        while True:
            item = mailbox.take(_left(deadline))
            if item is None:
                raise waiting.too_late(timeout)
            if waiting.concerns(item, mailbox):
                with turn:
                    waiting.accepts(driver.run(waiting.look()))
            if waiting.fulfilled:
                return waiting.value
    finally:
        leave(mailbox)


def _deadline(timeout: float | None) -> float | None:
    limit_s = check_timeout(timeout)
    return None if limit_s is None else monotonic() + limit_s


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - monotonic())


def _let_go(watching: Watching) -> None:
    let_go(watching.mailbox)  # by now it may be another than at the beginning
