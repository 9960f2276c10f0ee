"""The tree of a run and its nested runs: shared state, shared limits and common cancellation."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import redis_store
from redis_store.brokers.lease import lease
from redis_store.errors import LimitExceeded
from redis_store.limits import MAX_VALUE_BYTES
from redis_store.namespace.access import Access
from redis_store.namespace.keys import MAX_NAMESPACE_BYTES
from redis_store.values.printable import one_line
from sandbox.errors import RunCancelled, SandboxError
from sandbox.given.given import Given
from sandbox.given.job import Job, Task
from sandbox.limits import exceeded
from sandbox.protocol.charges import CURSOR_BYTES, WATCH_BYTES
from sandbox.record.timeline import Timeline
from sandbox.running.output import Delivery, Transcript
from sandbox.running.pace import Pace
from sandbox.running.quota import Quota
from sandbox.running.slots import Slots
from sandbox.running.stop import Stop
from sandbox.running.watched import budget_of_run

MOST_CHARGED = 10_000
"""Limit of the namespaces that a run is known to have been charged for."""


class ProcessBroker(Protocol):
    """Serves the data socket of one agent process."""

    patience_s: float

    def serve(self) -> SandboxError | None: ...
    def close(self) -> None: ...


class OtherBroker(Protocol):
    """A broker outside the host process, which serves the data sockets of agent processes."""

    def serve(self, data: socket.socket, job: Job, tree: Tree, stop: Stop) -> ProcessBroker: ...


class Tree:
    """State shared by all processes of one run. Safe to use from any thread."""

    def __init__(
        self,
        task: Task,
        given: Given,
        store: redis_store.DataStore,
        loop: Callable[[], asyncio.AbstractEventLoop],
        context: contextvars.Context,
        broker: OtherBroker | None = None,
    ) -> None:
        self.given = given
        self.broker = broker
        """Broker outside the host process; None if the host carries out the store calls itself."""
        self.run = task.job.who.run
        """Id of the first run."""
        self.granted = task.granted
        self.user = task.user
        self.namespace = task.namespace
        self.loop = loop
        self.context = context
        self.timeline = Timeline(given.limits.timeline)
        self.delivery = None if task.on_output is None else Delivery(task.on_output, context, self.cancel)
        """Passes the output on; None if nobody wants it."""
        self.transcript = Transcript(given.limits.output_bytes, self.delivery)
        self.deadline = time.monotonic() + given.limits.timeout_s
        self.isolation = ""
        """Tier of isolation; empty until the first process has started."""
        self.quota = Quota(task.granted, store.url, task.user)
        self._store = store
        # Twice the bytes that reach an agent: sizes are unknown before a read, and part of a page may be read already.
        self._max_read_bytes = 2 * max(given.limits.frame_bytes, MAX_VALUE_BYTES)
        self._lock = threading.RLock()
        self._stops: set[Stop] = set()
        self._error: SandboxError | None = None
        self._operations = itertools.count(1)
        self._tool_calls = itertools.count(1)
        self._nested_runs = itertools.count(1)
        self._bytes_written = 0
        self.pace = Pace()
        self._charged: set[str] = set()
        self._watched: set[bytes] = set()
        self.watched = budget_of_run(store.url, task.user, self._spend_watched)
        """Limits the namespaces that all agents of the run watch."""
        self._levels = [Slots(given.limits.nested_at_once) for _ in range(given.limits.nested_depth)]

    def store_of(self, job: Job) -> redis_store.DataStore:
        """Return a store with the rights of this run, with the job's agent as the writer."""
        agent, run = job.who
        return lease(
            self._store,
            user=self.user,
            namespace=self.namespace,
            agent=agent,
            run=run,
            root=job.root,
            access=self.granted.access,
            max_read_bytes=self._max_read_bytes,
        )

    def open_unrestricted(self) -> redis_store.DataStore:
        """Return the user's store with every right, for the host's own use."""
        return lease(self._store, user=self.user, namespace=self.namespace)

    def open_to_release(self) -> redis_store.DataStore:
        """Return the user's store with every namespace and the names of this run, to release what a process holds."""
        access = Access(names=self.granted.access.names)
        return lease(self._store, user=self.user, namespace=self.namespace, access=access)

    def open_for_questions(self) -> redis_store.DataStore:
        """Return the user's store with the rights of this run, for hints."""
        rights, most = self.granted.access, self._max_read_bytes
        return lease(self._store, user=self.user, namespace=self.namespace, access=rights, max_read_bytes=most)

    @contextmanager
    def stopping(self, stop: Stop) -> Iterator[None]:
        """Register a `Stop` for the duration of the block: ending the tree ends its process."""
        with self._lock:
            self._stops.add(stop)
            error = self._error
        if error is not None:
            stop.end(error)
        try:
            yield
        finally:
            with self._lock:
                self._stops.discard(stop)

    def end(self, error: SandboxError) -> None:
        """End every run of the tree. The first error becomes that of the result, later ones are ignored."""
        with self._lock:
            if self._error is None:
                self._error = error
            stops, error = list(self._stops), self._error
        for stop in stops:
            stop.end(error)

    @property
    def error(self) -> SandboxError | None:
        """The error with which the tree was ended, or None."""
        return self._error

    def cancel(self) -> None:
        """End every run with `RunCancelled`."""
        self.end(RunCancelled("The run was cancelled; what the agent had written stays."))

    def level(self, depth: int) -> Slots:
        """Return the slots for runs at a depth. Each depth has its own, so that no run waits for a slot that its caller holds."""
        return self._levels[depth - 1]

    def spend_operation(self) -> None:
        """Count a call of the store; above the limit, end the tree and raise `LimitExceeded`."""
        if next(self._operations) > self.given.limits.operations:
            self._over("operations")

    def spend_written(self, size: int) -> None:
        """Count bytes before they are written; above the limit, end the tree and raise `LimitExceeded`."""
        with self._lock:
            self._bytes_written += size
            over = self._bytes_written > self.given.limits.bytes_written
        if over:
            self._over("bytes_written")

    def uncharged(self, namespaces: Iterable[str]) -> list[str]:
        """Return those of the namespaces that this run is not known to have been charged for."""
        return [name for name in namespaces if name not in self._charged]

    def note_charged(self, namespaces: Sequence[str]) -> None:
        """Remember namespaces that this run has been charged for; some of very many are forgotten, and charged again."""
        with self._lock:
            if len(self._charged) + len(namespaces) > MOST_CHARGED:
                self._charged.clear()
            self._charged.update(name for name in namespaces if len(name) <= MAX_NAMESPACE_BYTES)

    def _spend_watched(self, names: Sequence[bytes]) -> None:
        """Count what watching namespaces takes in the server, once for each; raises the store's `LimitExceeded`."""
        new = [name for name in names if name not in self._watched]
        self._spend_following(sum(WATCH_BYTES + 3 * len(name) for name in new), [b"ns:" + name for name in new])
        with self._lock:
            if len(self._watched) + len(new) > MOST_CHARGED:
                self._watched.clear()
            self._watched.update(new)

    def spend_cursors(self, names: Sequence[bytes]) -> None:
        """Count the cursors of a consumer that begins to follow namespaces; raises the store's `LimitExceeded`."""
        self._spend_following(sum(CURSOR_BYTES + len(name) for name in names), ())

    def _spend_following(self, size: int, listed: Sequence[bytes]) -> None:
        self.quota.count(size, listed)
        try:
            self.spend_written(size)
        except SandboxError as error:
            raise LimitExceeded(str(error), limit="bytes_written") from None

    def spend_tool_call(self) -> None:
        """Count a call of a host function; above the limit, end the tree and raise `LimitExceeded`."""
        if next(self._tool_calls) > self.given.limits.tool_calls:
            self._over("tool_calls")

    def spend_nested_run(self, callers: tuple[str, ...]) -> None:
        """Count a call of an agent by the last of `callers`; above a limit, end the tree and raise `LimitExceeded`."""
        if len(callers) > self.given.limits.nested_depth:
            self._over("nested_depth", path=one_line(" → ".join([*callers[:3], "…"] if len(callers) > 3 else callers)))
        if next(self._nested_runs) > self.given.limits.nested_runs:
            self._over("nested_runs")

    def _over(self, limit: str, **texts: str) -> None:
        error = exceeded(self.given.limits, limit, **texts)
        self.end(error)
        raise error
