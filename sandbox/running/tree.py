"""A run and the runs nested in it: what they share, what they may use together, and their common end."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import redis_store
from redis_store.brokers.lease import lease
from redis_store.limits import MAX_VALUE_BYTES
from sandbox.errors import (
    LimitExceeded,
    NestingLimitExceeded,
    OperationLimitExceeded,
    RunCancelled,
    SandboxError,
    ToolCallLimitExceeded,
    WriteLimitExceeded,
)
from sandbox.given.given import Given
from sandbox.given.job import Job, Task
from sandbox.record.timeline import Timeline
from sandbox.running.output import Transcript
from sandbox.running.quota import Quota
from sandbox.running.slots import Slots
from sandbox.running.stop import Stop


class ProcessBroker(Protocol):
    """Serves the data socket of one agent process."""

    patience_s: float

    def serve(self) -> SandboxError | None: ...
    def close(self) -> None: ...


class OtherBroker(Protocol):
    """Serves the data sockets of agent processes outside this process."""

    def serve(self, data: socket.socket, job: Job, tree: Tree, stop: Stop) -> ProcessBroker: ...


class Tree:
    """Shared by all processes of one run; safe to use from their threads."""

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
        """Serves the store to the agent processes, where the host does not."""
        self.run = task.job.who.run
        """The id of the first run."""
        self.granted = task.granted
        self.user = task.user
        self.namespace = task.namespace
        self.loop = loop
        self.context = context
        self.timeline = Timeline(given.limits.timeline)
        self.transcript = Transcript(given.limits.output_bytes, task.on_output)
        self.deadline = time.monotonic() + given.limits.timeout_s
        self.isolation = ""
        """How the agents are kept in; known when the first process is there."""
        self.quota = Quota(task.granted, self.open_unrestricted)
        self._store = store
        # Twice what reaches an agent: the server says nothing of a size before, and some of a page may be there already.
        self._max_read_bytes = 2 * max(given.limits.frame_bytes, MAX_VALUE_BYTES)
        self._lock = threading.Lock()
        self._stops: set[Stop] = set()
        self._error: SandboxError | None = None
        self._operations = itertools.count(1)
        self._tool_calls = itertools.count(1)
        self._nested_runs = itertools.count(1)
        self._bytes_written = 0
        self._levels = [Slots(given.limits.nested_at_once) for _ in range(given.limits.nested_depth)]

    def store_of(self, job: Job) -> redis_store.DataStore:
        """Return a store with the rights of this run, which writes in the name of the job's agent."""
        agent, run = job.who
        return lease(
            self._store,
            user=self.user,
            namespace=self.namespace,
            agent=agent,
            run=run,
            access=self.granted.access,
            max_read_bytes=self._max_read_bytes,
        )

    def open_unrestricted(self) -> redis_store.DataStore:
        """Return the user's store with every right, for the host's own questions."""
        return lease(self._store, user=self.user, namespace=self.namespace)

    def open_for_questions(self) -> redis_store.DataStore:
        """Return the user's store with the rights of the agent, for hints."""
        rights, most = self.granted.access, self._max_read_bytes
        return lease(self._store, user=self.user, namespace=self.namespace, access=rights, max_read_bytes=most)

    @contextmanager
    def stopping(self, stop: Stop) -> Iterator[None]:
        """End a process with the tree, as long as it runs."""
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
        """End every run of the tree; the first error counts, and is that of the result."""
        with self._lock:
            if self._error is None:
                self._error = error
            stops, error = list(self._stops), self._error
        for stop in stops:
            stop.end(error)

    @property
    def error(self) -> SandboxError | None:
        """What the tree was ended with."""
        return self._error

    def cancel(self) -> None:
        """End every run because somebody asked for it."""
        self.end(RunCancelled("The run was cancelled; what the agent had written stays."))

    def level(self, depth: int) -> Slots:
        """The places for runs at a depth; those who wait there hold none of the places that they wait for."""
        return self._levels[depth - 1]

    def spend_operation(self) -> None:
        """Count a call of the store; over the limit the tree ends, and `LimitExceeded` is raised here."""
        limit = self.given.limits.operations
        if next(self._operations) > limit:
            self._over(
                OperationLimitExceeded,
                "operations",
                limit,
                f"The agent called the store more than {limit:,} {_times(limit)}: raise Limits.operations, or use get_many"
                " and set_many.",
            )

    def spend_written(self, size: int) -> None:
        """Count bytes that are about to be written."""
        limit = self.given.limits.bytes_written
        with self._lock:
            self._bytes_written += size
            over = self._bytes_written > limit
        if over:
            self._over(
                WriteLimitExceeded,
                "bytes_written",
                limit,
                f"The agent wrote more than {limit:,} bytes: raise Limits.bytes_written, or write less.",
            )

    def spend_tool_call(self) -> None:
        """Count a call of a function of the host."""
        limit = self.given.limits.tool_calls
        if next(self._tool_calls) > limit:
            self._over(
                ToolCallLimitExceeded,
                "tool_calls",
                limit,
                f"The agent called tools more than {limit:,} {_times(limit)}: raise Limits.tool_calls.",
            )

    def spend_nested_run(self, callers: tuple[str, ...]) -> None:
        """Count a call of an agent by the last of `callers`."""
        limits = self.given.limits
        if len(callers) > limits.nested_depth:
            path = " → ".join([*callers[:3], "…"] if len(callers) > 3 else callers)
            self._over(
                NestingLimitExceeded,
                "nested_depth",
                limits.nested_depth,
                f"Agents called each other more than {limits.nested_depth} deep ({path}): end the recursion, or raise"
                " Limits.nested_depth.",
            )
        if next(self._nested_runs) > limits.nested_runs:
            self._over(
                NestingLimitExceeded,
                "nested_runs",
                limits.nested_runs,
                f"Agents called agents more than {limits.nested_runs:,} {_times(limits.nested_runs)}: call them less"
                " often, or raise Limits.nested_runs.",
            )

    def _over(self, kind: type[LimitExceeded], limit: str, value: int, message: str) -> None:
        error = kind(message, limit=limit, value=value)
        self.end(error)
        raise error


def _times(count: int) -> str:
    return "time" if count == 1 else "times"
