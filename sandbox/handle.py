"""Handles of runs in progress."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from typing import Any

from sandbox.errors import RunCancelled
from sandbox.given.job import Task
from sandbox.result import RunResult
from sandbox.running.slots import Slots, Ticket
from sandbox.running.tree import Tree


class RunHandle:
    """A handle to wait for a run or to cancel it, returned by `Sandbox.start`. Awaitable, and safe to use from any thread."""

    def __init__(self, task: Task, execute: Callable[[RunHandle], RunResult]) -> None:
        self._task = task
        self._execute = execute
        self._future: Future[RunResult] = Future()
        self._lock = threading.RLock()
        self._ticket: Ticket | None = None
        self._tree: Tree | None = None
        self._cancelled = False
        self._has_place = False

    @property
    def run(self) -> str:
        """The id of the run."""
        return self._task.job.who.run

    @property
    def agent(self) -> str:
        """The name of the agent."""
        return self._task.job.who.agent

    @property
    def stdout(self) -> str:
        """The text printed so far."""
        tree = self._tree
        if tree is not None:
            return tree.transcript.text
        return self._future.result().stdout if self._future.done() and not self._future.exception() else ""

    def done(self) -> bool:
        """Whether the run is over."""
        return self._future.done()

    def cancel(self) -> None:
        """End the run and its nested runs at once. Completed writes stay, and `RunResult.error` is `RunCancelled`."""
        with self._lock:
            self._cancelled = True
            tree, ticket = self._tree, self._ticket
        if tree is not None:
            tree.cancel()
        elif ticket is not None and ticket.withdraw():
            self._settle(self._without_a_start())

    def result(self, timeout: float | None = None) -> RunResult:
        """Wait for the run and return its result. Raises what `sandbox.run` raises, or `TimeoutError` after `timeout` seconds."""
        try:
            return self._future.result(timeout)
        except FutureTimeout:
            if self._future.done():
                raise
            raise TimeoutError(
                f"The run is not over after {timeout:g} s and continues: wait again, or cancel it."
            ) from None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the run, at most `timeout` seconds, and return whether it is over."""
        with suppress(BaseException):
            self._future.exception(timeout)
        return self._future.done()

    def __await__(self) -> Generator[Any, None, RunResult]:
        return asyncio.shield(asyncio.wrap_future(self._future)).__await__()

    async def settled(self, timeout: float) -> None:
        """Wait until the run is over, however it ends, at most `timeout` seconds."""
        await asyncio.wait([asyncio.wrap_future(self._future)], timeout=timeout)

    def __repr__(self) -> str:
        return f"<RunHandle {self.agent!r} {self.run} {'done' if self.done() else 'under way'}>"

    def attach(self, tree: Tree) -> None:
        """Store the tree of the run, so that it can be cancelled."""
        with self._lock:
            self._tree = tree
            cancelled = self._cancelled
        if cancelled:
            tree.cancel()

    def wait_for(self, slots: Slots, begin: Callable[[], None]) -> None:
        """Call `begin` once a slot is free."""

        def enter() -> None:
            self._has_place = True
            begin()

        ticket = slots.enter(self._task.user, enter)
        with self._lock:
            self._ticket = ticket
            cancelled = self._cancelled
        if cancelled:
            self.cancel()

    def work(self) -> RunResult:
        """Carry out the run in this thread."""
        try:
            result = self._execute(self)
        except BaseException as error:
            self.fail(error)
            raise
        self._settle(result)
        self._tree = None  # to free its memory: the result holds all that is needed
        return result

    def finish(self, slots: Slots) -> None:
        """Free the slot, or stop waiting for one."""
        if self._has_place or (self._ticket is not None and not self._ticket.withdraw() and self._has_place):
            slots.leave()
        self._settle(self._without_a_start())  # only if the wait was interrupted: otherwise the outcome is set already

    def fail(self, error: BaseException) -> None:
        """Store the error with which the run has failed, unless its outcome is known already."""
        with suppress(InvalidStateError):
            self._future.set_exception(error)

    def when_done(self, callback: Callable[[RunHandle], None]) -> None:
        """Call a function when the run is over."""
        self._future.add_done_callback(lambda _: callback(self))

    def _without_a_start(self) -> RunResult:
        error = RunCancelled("The run was cancelled before it began.")
        return RunResult(None, error, "", [], 0.0, isolation="", run=self.run, agent=self.agent)

    def _settle(self, result: RunResult) -> None:
        with suppress(InvalidStateError):  # the outcome is set already
            self._future.set_result(result)
