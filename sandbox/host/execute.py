"""One run, including its nested runs, from the call to the result."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from typing import TypeAlias

import redis_store
from redis_store.brokers import kept_runs
from redis_store.errors import DataStoreError, StoredDataError
from sandbox.errors import RunCancelled, SandboxError, StartFailed
from sandbox.given.given import Given
from sandbox.given.job import Task
from sandbox.host.outcome import Returned
from sandbox.host.process import carry_out
from sandbox.kept_runs import KeptRuns
from sandbox.record import telemetry
from sandbox.record.hints import find_hints, kept_values, refused_writes
from sandbox.record.kept_run import record_of
from sandbox.record.source_hints import changed_copies, forgotten_awaits
from sandbox.record.timeline import moment
from sandbox.result import Hint, Operation, RunResult
from sandbox.running.output import Delivery
from sandbox.running.stop import Stop
from sandbox.running.tree import OtherBroker, Tree

logger = logging.getLogger("sandbox")

ON_OUTPUT_PATIENCE_S = 0.5
"""Wait for `on_output` to return after a run was ended, or after its time limit, in seconds."""

_DELIVERY_POLL_S = 0.05

Loop: TypeAlias = Callable[[], asyncio.AbstractEventLoop]


def execute(
    task: Task,
    given: Given,
    store: redis_store.DataStore,
    loop: Loop,
    context: contextvars.Context,
    attach: Callable[[Tree], None],
    broker: OtherBroker | None = None,
) -> RunResult:
    """Carry out a run in this thread. `attach` receives the run's `Tree`, through which the run can be ended."""
    started, start = time.time(), time.monotonic()
    tree = Tree(task, given, store, loop, context, broker)
    attach(tree)
    _check_reachable(tree)
    span = telemetry.begin(task.job.who, context)
    outcome: Returned | SandboxError | None = None
    try:
        with closing(Stop()) as stop, tree.stopping(stop):
            outcome = carry_out(task.job, tree, stop)
    except BaseException:  # such as Ctrl-C
        tree.cancel()
        raise
    finally:
        if span is not None:
            span.end(tree.timeline, outcome if isinstance(outcome, SandboxError) else None)
        if tree.delivery is not None:
            _deliver_the_rest(tree, tree.delivery)
    if tree.delivery is not None and tree.delivery.interrupt is not None:
        raise tree.delivery.interrupt
    if isinstance(outcome, StartFailed):
        raise outcome
    duration = time.monotonic() - start
    operations = tree.timeline.operations()
    result = RunResult(
        output=outcome.output if isinstance(outcome, Returned) else None,
        error=outcome if isinstance(outcome, SandboxError) else None,
        stdout=tree.transcript.text,
        operations=operations,
        duration=duration,
        isolation=tree.isolation,
        run=task.job.who.run,
        agent=task.job.who.agent,
        started=moment(started),
        calls=tree.timeline.calls(),
        # No hints after a cancellation: they query the server, which may not reply, and the caller wants the run to end.
        hints=[] if isinstance(outcome, RunCancelled) else _hints(task, tree, operations, outcome),
        operations_left_out=tree.timeline.done.left_out,
    )
    return result if given.keep is None else _kept(result, given.keep, task, tree, outcome)


def _check_reachable(tree: Tree) -> None:
    """Raise the store's error if the server cannot be used, before the agent starts."""
    with tree.open_unrestricted() as store, suppress(StoredDataError):  # bad stored data is reported to the agent
        len(store)


def _kept(
    result: RunResult, keep: KeptRuns, task: Task, tree: Tree, outcome: Returned | SandboxError | None
) -> RunResult:
    """Keep a record of a run that has ended. A store that fails is no failure of the run."""
    output_text = outcome.text if isinstance(outcome, Returned) else None
    left_out = tree.timeline.called.left_out
    try:
        record = record_of(result, task.namespace, task.job.input_text, output_text, left_out)
        with tree.open_unrestricted() as store:
            kept_runs.keep(store, record, keep.runs, keep.bytes, keep.life_ms)
    except DataStoreError as error:
        logger.warning("the run %s has ended, but its record could not be kept: %s", result.run, error)
    except Exception:
        logger.exception("the run %s has ended, but its record could not be kept", result.run)
    else:
        return replace(result, is_kept=True)
    return result


def _deliver_the_rest(tree: Tree, delivery: Delivery) -> None:
    """Wait until `on_output` has had all output, or the run's time is up. What is left then follows when it returns."""
    delivery.close()
    end = tree.deadline + ON_OUTPUT_PATIENCE_S
    while not delivery.is_done(_DELIVERY_POLL_S):
        now = time.monotonic()
        if tree.error is not None:  # the run was ended, by a limit or by its caller
            end = min(end, now + ON_OUTPUT_PATIENCE_S)
        if now >= end:
            logger.warning("a run is over, and on_output has not returned: it gets the rest of the output when it does")
            return


def _hints(task: Task, tree: Tree, operations: list[Operation], outcome: Returned | SandboxError | None) -> list[Hint]:
    called = {call.name for call in tree.timeline.calls() if call.kind == "agent"}
    sources = {name: one.text for name, one in tree.given.agents.items() if name in called}
    sources[task.job.who.agent] = task.job.source.text
    hints = [hint for name, text in sources.items() for hint in changed_copies(name, text)]
    hints += forgotten_awaits(task.job.who.agent, tree.transcript.text)
    if isinstance(outcome, Returned):
        hints += refused_writes(operations)
    hints += kept_values(operations)
    with suppress(DataStoreError):  # the run is over, and its result matters more than hints
        hints += find_hints(operations, tree.given.limits, tree.open_for_questions)
    return hints
