"""Nested runs: an agent's calls of other agents, each in its own process, within the limits of the whole tree."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from redis_store.errors import DataStoreError
from sandbox import errors as sandbox_errors
from sandbox.child.advice import did_you_mean
from sandbox.errors import RunCancelled, SandboxError, StartFailed, UnknownAgent
from sandbox.given.job import Job, new_run_id
from sandbox.host.outbox import OpenCalls
from sandbox.host.outcome import Returned
from sandbox.host.tools import describe, load_json
from sandbox.isolation.lacks import start_failures, start_thread
from sandbox.protocol.frames import FrameError, Part
from sandbox.record.timeline import Begun, Who
from sandbox.running.slots import Ticket
from sandbox.running.stop import Stop
from sandbox.running.tree import Tree

logger = logging.getLogger("sandbox")

_NESTED_PATIENCE_S = 2.0
"""Timeout for the end of nested runs that were told to end, in seconds."""

_BIG_RESULT_BYTES = 64 * 1024
"""Size from which an answer is big, in bytes.

A run with a big answer keeps its slot until the agent has received it, so that the slots bound the big answers in memory.
"""

CarryOut = Callable[[Job, Tree, Stop], "Returned | SandboxError"]


class NestedHost:
    """The nested runs that one process has started; they end with it."""

    def __init__(self, tree: Tree, job: Job, calls: OpenCalls, carry_out: CarryOut) -> None:
        self._tree = tree
        self._job = job
        self._calls = calls
        self._carry_out = carry_out
        self._lock = threading.RLock()
        self._tickets: dict[int, Ticket] = {}
        self._running: dict[int, tuple[Stop, threading.Thread]] = {}

    def call(self, number: int, name: str, input_text: bytes) -> None:
        """Start a call, or queue it for a slot; its answer is posted when the nested run has ended."""
        if number in self._calls:
            raise FrameError("a call of an agent under a number in use")
        load_json(input_text, dict)
        callers = (*self._job.callers, self._job.who.agent)
        self._tree.spend_nested_run(callers)
        source = self._tree.given.agents.get(name)
        self._calls.add(number, len(input_text))
        if source is None:
            self._answer(number, _unknown(name, list(self._tree.given.agents)))
            return
        job = Job(Who(source.name, new_run_id()), source, input_text, callers)
        slots = self._tree.level(job.depth)
        ticket = slots.enter(self._job.who.run, lambda: self._begin(number, job))
        with self._lock:
            if number in self._calls:
                self._tickets[number] = ticket

    def cancel(self, number: int) -> None:
        """End the nested run of a call that the agent gave up, or its wait for a slot."""
        with self._lock:
            ticket, running = self._tickets.get(number), self._running.get(number)
        if running is not None:
            running[0].end(RunCancelled("The agent that called this one gave up waiting for it."))
        elif ticket is not None and ticket.withdraw():
            self._answer(number, RunCancelled("The call was given up before it began."))

    def close(self) -> None:
        """End the nested runs, once their outbox is closed, and wait until they are gone."""
        with self._lock:
            tickets, self._tickets = list(self._tickets.values()), {}
            running = list(self._running.values())
        for ticket in tickets:
            ticket.withdraw()
        for stop, _ in running:
            stop.end(_caller_ended())
        deadline = time.monotonic() + _NESTED_PATIENCE_S
        for _, thread in running:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _begin(self, number: int, job: Job) -> None:
        """Take a free slot and start a thread for the run; this is called in the thread that freed the slot."""
        with self._lock:
            if self._calls.is_given_up(number):
                failure: SandboxError = RunCancelled("The call was given up before it began.")
            elif not self._calls.outbox.closed:
                try:
                    self._start(number, job)
                except StartFailed as error:
                    failure = error
                else:
                    return
            else:
                failure = _caller_ended()
        self._tree.level(job.depth).leave()
        self._end_tree_on(failure)
        self._answer(number, failure)

    def _start(self, number: int, job: Job) -> None:
        with start_failures():
            stop = Stop()
        thread = threading.Thread(
            target=self._work, args=(number, job, stop), name=f"sandbox-run-{job.who.run}", daemon=True
        )
        self._running[number] = stop, thread
        try:
            start_thread(thread)
        except StartFailed:
            del self._running[number]
            stop.close()
            raise

    def _end_tree_on(self, failure: BaseException) -> None:
        """End the tree if the host failed: its agents are not at fault, and cannot do anything about it."""
        if isinstance(failure, StartFailed):
            self._tree.end(failure)

    def _work(self, number: int, job: Job, stop: Stop) -> None:
        begun = Begun()
        outcome: bytes | BaseException
        try:
            with closing(stop), self._tree.stopping(stop):
                ended = self._carry_out(job, self._tree, stop)
            outcome = ended.text if isinstance(ended, Returned) else ended
            del ended
        except (SandboxError, DataStoreError) as error:
            outcome = error
        except Exception as error:
            logger.exception("a nested run failed")
            outcome = error
        failed = None
        if isinstance(outcome, BaseException):
            self._end_tree_on(outcome)
            failed = type(outcome).__name__
        self._tree.timeline.note_call(self._job.who, begun, "agent", job.who.agent, failed, job.who.run)
        try:
            sent = self._answer(number, outcome)
            del outcome
            if sent is not None:
                sent.wait()
        finally:
            self._tree.level(job.depth).leave()

    def _answer(self, number: int, outcome: bytes | BaseException) -> threading.Event | None:
        """Send an answer; for a big one, return an event that is set when the agent has received it or has ended."""
        message: list[Part]
        if isinstance(outcome, bytes):
            message = ["answer", outcome]
        elif isinstance(outcome, SandboxError):
            message = ["agent_failed", *_error_parts(outcome)]
        else:
            message = ["failed", describe(outcome)]
        with self._lock:
            self._tickets.pop(number, None)
            self._running.pop(number, None)
            is_big = isinstance(outcome, bytes) and len(outcome) > _BIG_RESULT_BYTES
            return self._calls.answer(number, *message, awaited=is_big)


def _caller_ended() -> RunCancelled:
    return RunCancelled("The agent that called this one has ended.")


def _unknown(name: str, known: list[str]) -> UnknownAgent:
    shown = name if len(name) <= 80 else name[:77] + "..."
    there = ", ".join(map(repr, known)) if known else "none were given"
    meant = did_you_mean(name, known)
    return UnknownAgent(f"There is no agent {shown!r}; there are: {there}. {meant}".rstrip(), name=shown, known=known)


def _error_parts(error: SandboxError) -> list[Part]:
    """Return an error as it is sent: its class, its message, its facts as JSON."""
    known = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in sandbox_errors.__all__)
    facts = {name: fact for name, fact in error.__dict__.items() if _is_plain(fact)}
    message = str(error).encode(errors="backslashreplace").decode()
    return [known, message, json.dumps(facts).encode()]


def _is_plain(fact: Any) -> bool:
    return fact is None or isinstance(fact, (bool, int, float, str, list))
