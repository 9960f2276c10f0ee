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
from sandbox.errors import SandboxError, UnknownAgent
from sandbox.given.job import Job, new_run_id
from sandbox.host.tools import describe, load_json
from sandbox.protocol.frames import FrameError, Part
from sandbox.record.timeline import Called, Who
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

Post = Callable[[list[Part], threading.Event | None], None]
CarryOut = Callable[[Job, Tree, Stop], "bytes | SandboxError"]


class NestedHost:
    """The nested runs that one process has started; they end with it."""

    def __init__(self, tree: Tree, job: Job, post: Post, carry_out: CarryOut) -> None:
        self._tree = tree
        self._job = job
        self._post = post
        self._carry_out = carry_out
        self._lock = threading.Lock()
        self._inputs: dict[int, int] = {}
        """The unanswered calls, by number, with the size of each input as JSON in bytes."""
        self._tickets: dict[int, Ticket] = {}
        self._running: dict[int, tuple[Stop, threading.Thread]] = {}
        self._leaving: set[threading.Event] = set()
        """Events of the big answers that the agent has not received yet."""
        self._closed = False
        self.held_bytes = 0
        """Size of the inputs of the calls under way, as JSON, in bytes."""

    @property
    def under_way(self) -> int:
        """Number of calls that have not been answered yet."""
        return len(self._inputs)

    def call(self, number: int, name: str, input_text: bytes) -> None:
        """Start a call, or queue it for a slot; its answer is posted when the nested run has ended."""
        if number in self._inputs:
            raise FrameError("a call of an agent under a number in use")
        load_json(input_text, dict)
        callers = (*self._job.callers, self._job.who.agent)
        self._tree.spend_nested_run(callers)
        source = self._tree.given.agents.get(name)
        with self._lock:
            self._inputs[number] = len(input_text)
            self.held_bytes += len(input_text)
        if source is None:
            self._answer(number, _unknown(name, list(self._tree.given.agents)))
            return
        job = Job(Who(source.name, new_run_id()), source, input_text, callers)
        slots = self._tree.level(job.depth)
        ticket = slots.enter(self._job.who.run, lambda: self._begin(number, job))
        with self._lock:
            if number in self._inputs:
                self._tickets[number] = ticket

    def close(self) -> None:
        """End the nested runs, and wait until they are gone."""
        with self._lock:
            self._closed = True
            tickets, self._tickets = list(self._tickets.values()), {}
            running = list(self._running.values())
            for sent in self._leaving:
                sent.set()
        for ticket in tickets:
            ticket.withdraw()
        for stop, _ in running:
            stop.end(SandboxError("The agent that called this one has ended."))
        deadline = time.monotonic() + _NESTED_PATIENCE_S
        for _, thread in running:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _begin(self, number: int, job: Job) -> None:
        """Take a free slot and start a thread for the run; this is called in the thread that freed the slot."""
        with self._lock:
            if not self._closed:
                stop = Stop()
                thread = threading.Thread(
                    target=self._work, args=(number, job, stop), name=f"sandbox-run-{job.who.run}", daemon=True
                )
                self._running[number] = stop, thread
                try:
                    thread.start()
                except RuntimeError as error:  # the system has no more threads
                    del self._running[number]
                    stop.close()
                    failure: BaseException = error
                else:
                    return
            else:
                failure = SandboxError("The agent that called this one has ended.")
        self._tree.level(job.depth).leave()
        self._answer(number, failure)

    def _work(self, number: int, job: Job, stop: Stop) -> None:
        received, start = time.time(), time.perf_counter()
        outcome: bytes | BaseException
        try:
            with closing(stop), self._tree.stopping(stop):
                outcome = self._carry_out(job, self._tree, stop)
        except (SandboxError, DataStoreError) as error:
            outcome = error
        except Exception as error:
            logger.exception("a nested run failed")
            outcome = error
        failed = type(outcome).__name__ if isinstance(outcome, BaseException) else None
        duration_ms = (time.perf_counter() - start) * 1000
        self._tree.timeline.called.add(
            Called(received, self._job.who, "agent", job.who.agent, duration_ms, failed, job.who.run)
        )
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
            message = ["answer", number, outcome]
        elif isinstance(outcome, SandboxError):
            message = ["agent_failed", number, *_error_parts(outcome)]
        else:
            message = ["failed", number, describe(outcome)]
        sent = threading.Event() if isinstance(outcome, bytes) and len(outcome) > _BIG_RESULT_BYTES else None
        with self._lock:
            self.held_bytes -= self._inputs.pop(number, 0)
            self._tickets.pop(number, None)
            self._running.pop(number, None)
            if self._closed:
                return None
            self._post(message, sent)
            if sent is not None:
                self._leaving = {one for one in self._leaving if not one.is_set()} | {sent}
        return sent


def _unknown(name: str, known: list[str]) -> UnknownAgent:
    shown = name if len(name) <= 80 else name[:77] + "..."
    there = ", ".join(map(repr, known)) if known else "none were given"
    return UnknownAgent(f"There is no agent {shown!r}; there are: {there}.", name=shown, known=known)


def _error_parts(error: SandboxError) -> list[Part]:
    """Return an error as it is sent: its class, its message, its facts as JSON."""
    known = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in sandbox_errors.__all__)
    facts = {name: fact for name, fact in error.__dict__.items() if _is_plain(fact)}
    message = str(error).encode(errors="backslashreplace").decode()
    return [known, message, json.dumps(facts).encode()]


def _is_plain(fact: Any) -> bool:
    return fact is None or isinstance(fact, (bool, int, float, str, list))
