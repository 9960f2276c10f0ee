"""Processing of one batch of changes: runs and retries."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_never,
)
from tenacity.wait import wait_base, wait_exponential, wait_random

from redis_store import AsyncDataStore
from redis_store.errors import DataStoreError, ServerRefused, StoredDataError, StoreUnavailable
from redis_store.types import Json
from sandbox.child.reports import text_of
from sandbox.consumers.backlog import Item
from sandbox.consumers.dead_letters import DeadLetters, namespace_of
from sandbox.errors import AgentError, AgentNotFound, InvalidInput, IsolationUnavailable, SandboxError, StartFailed
from sandbox.given.options import RunOptions, split
from sandbox.given.sources import SourceOrPath
from sandbox.pool import Sandbox
from sandbox.result import RunResult

T = TypeVar("T")
logger = logging.getLogger("sandbox")
TOLD_AS_EVENT = "told_as_event"
"""Attribute of log records about what `on_event` is told too."""

EventKind: TypeAlias = Literal["watching", "standing by", "ran", "failed", "dead letter", "waiting", "stopped"]

_HOST = (StoreUnavailable, ServerRefused, AgentNotFound)
"""Errors of what a run needs, beside those with `SandboxError.host_failed`."""


@dataclass(frozen=True, slots=True)
class ConsumerEvent:
    """An event of a consumer; `on_event` gets each.

    `kind` is one of:

    - "watching": this process is the consumer from now on;
    - "standing by": another process is the consumer;
    - "ran": a run succeeded;
    - "failed": a run failed; it is retried unless its changes become dead letters;
    - "dead letter": a change was stored as a dead letter;
    - "waiting": the consumer waits `wait_s` seconds for the server or for what the agent needs to start;
    - "stopped": the consumer has ended, with an `error` if no run can begin.
    """

    kind: EventKind
    consumer: str
    keys: tuple[str | None, ...] = ()
    """The keys of the changes, in order; None for a change of the whole namespace."""
    run: str | None = None
    seconds: float | None = None
    """Duration of the run, in seconds."""
    output: dict[str, Json] | None = None
    error: str | None = None
    attempt: int = 1
    wait_s: float | None = None
    traceback: str | None = None
    """The agent's traceback, or its lines that do not compile."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """The checked arguments of a consumer."""

    source_or_path: SourceOrPath
    user: str
    prefix: str | None
    consumer: str
    agent: str
    options: RunOptions
    """Options of its runs, all with their defaults."""
    batch: int
    concurrency: int
    retries: int
    first_wait_s: float
    longest_wait_s: float
    initial: bool
    own_writes: bool
    configure_server: bool
    tell: Callable[[ConsumerEvent], None]

    @property
    def dead_letters(self) -> str:
        """Namespace of the consumer's dead letters."""
        return namespace_of(self.consumer)

    def say(
        self, kind: EventKind, keys: tuple[str | None, ...] = (), *, error: BaseException | None = None, **facts: Any
    ) -> None:
        """Pass an event to `on_event`, and warn of what an operator should know."""
        if kind == "dead letter":
            self._warn(
                "could not process %r, and stored a dead letter in %r: %s", keys[0], self.dead_letters, _kind(error)
            )
        elif kind == "waiting":
            self._warn("waits, and tries again in %.1f s: %s", facts["wait_s"], _kind(error))
        told = None if error is None else text_of(error)
        lines = getattr(error, "traceback", None) or getattr(error, "details", None)
        self.tell(ConsumerEvent(kind, self.consumer, keys, error=told, traceback=lines, **facts))

    def _warn(self, what: str, *facts: object) -> None:
        logger.warning(f"the consumer %r {what}", self.consumer, *facts, extra={TOLD_AS_EVENT: True})


def _kind(error: BaseException | None) -> str:
    """Return the kind of an error for the log: the text of an agent's may hold what the user has stored."""
    if error is None or isinstance(error, AgentError):
        return repr(getattr(error, "type_name", type(error).__name__))
    return text_of(error)


def _is_hosts(error: BaseException) -> bool:
    """Whether the host lacks something that a run needs: the consumer waits for it, without a time limit, and counts no try."""
    return isinstance(error, _HOST) or (isinstance(error, SandboxError) and error.host_failed)


def _may_pass(error: BaseException) -> bool:
    """Whether another try may succeed: not if the input of the run is invalid."""
    if isinstance(error, SandboxError):
        return error.loading_failed or not isinstance(error, InvalidInput)
    return not isinstance(error, (DataStoreError, Left)) and isinstance(error, Exception)


def _fails_every_run(error: BaseException | None) -> bool:
    """Whether every change would fail: the agent cannot be loaded, or its isolation is not available."""
    return isinstance(error, IsolationUnavailable) or (isinstance(error, SandboxError) and error.loading_failed)


class Left(Exception):
    """The consumer shall stop: a batch that needs another try stays for the next start."""


class Reactor:
    """Processes the batches of a consumer."""

    def __init__(self, reaction: Reaction, store: AsyncDataStore, stopping: asyncio.Event) -> None:
        self._reaction = reaction
        self._dead_letters = DeadLetters(store, reaction.consumer, reaction.agent)
        self._stopping = stopping

    async def carry_out(self, batch: list[Item]) -> bool:
        """Process a batch; False if the consumer stops first and the batch is not done.

        Raises the error that prevents every run, whatever the changes.
        """
        try:
            readable = await self._sort_out(batch)
            if readable and (error := await self._try(readable, self._reaction.retries)) is not None:
                await self._one_by_one(readable, error)
        except Left:
            return False
        return True

    async def _sort_out(self, batch: list[Item]) -> list[tuple[Item, dict[str, Json]]]:
        """Return the changes with their JSON for the agent; a value that is not JSON becomes a dead letter at once."""
        readable = []
        for item in batch:
            try:
                readable.append((item, item.as_json()))
            except StoredDataError as error:
                await self._bury(item, None, error, 0)
        return readable

    async def _one_by_one(self, batch: list[tuple[Item, dict[str, Json]]], error: Exception) -> None:
        """Try the changes of a failed batch alone, so that only those that fail become dead letters."""
        for item, change in batch:
            failure: Exception | None = error
            if len(batch) > 1:
                failure = await self._try([(item, change)], 0)
            if failure is not None:
                await self._bury(item, change, failure, self._reaction.retries + 1 + (len(batch) > 1))

    async def _try(self, batch: list[tuple[Item, dict[str, Json]]], retries: int) -> Exception | None:
        """Run the agent until it succeeds or the tries are used up; return the last error, or raise one that every run meets."""
        keys = tuple(item.change.key for item, _ in batch)
        changes = [change for _, change in batch]
        attempt = 0

        async def run_once() -> None:
            nonlocal attempt
            attempt += 1
            try:
                result = await self._patiently(partial(self._run, changes), keys)
            except SandboxError as error:  # the run did not begin: its input may be too big, for example
                self._reaction.say("failed", keys, error=error, attempt=attempt)
                raise
            except (DataStoreError, Left):
                raise
            except Exception as error:  # unforeseen, and perhaps due to a change, which must not end the consumer
                logger.exception("a run of the consumer %r failed unexpectedly", self._reaction.consumer)
                self._reaction.say("failed", keys, error=error, attempt=attempt)
                raise
            self._reaction.say(
                "ran" if result.error is None else "failed",
                keys,
                run=result.run,
                seconds=result.duration,
                output=result.output,
                error=result.error,
                attempt=attempt,
            )
            result.check()

        def used_up(state: RetryCallState) -> bool:
            # All tries for an agent that cannot be loaded, even for a single change: its file may be about to be saved.
            failed = state.outcome.exception() if state.outcome is not None else None
            return state.attempt_number > (self._reaction.retries if _fails_every_run(failed) else retries)

        retrying = AsyncRetrying(
            stop=used_up,
            wait=self._wait(),
            retry=retry_if_exception(_may_pass),
            sleep=self._pause,
            reraise=True,
        )
        try:
            await retrying(run_once)
        except (DataStoreError, Left):
            raise
        except Exception as error:
            if _fails_every_run(error):
                raise
            return error
        return None

    async def _run(self, changes: list[dict[str, Json]]) -> RunResult:
        """Run the agent once; raise an error with `host_failed` if the host lacks something."""
        if self._stopping.is_set():
            raise Left
        asked = self._reaction
        of_start, of_sandbox = split(asked.options)
        try:
            box = Sandbox(**of_sandbox)
        except AgentNotFound:
            raise
        except InvalidInput as error:  # valid when the consumer began: the packages or the agents' files have changed
            raise StartFailed(str(error), output="") from error
        async with box:
            result = await box.arun(asked.source_or_path, {"changes": changes}, user=asked.user, **of_start)
        if result.error is not None and result.error.host_failed:
            raise result.error
        return result

    async def _patiently(
        self,
        do: Callable[[], Coroutine[Any, Any, T]],
        keys: tuple[str | None, ...],
        passes: Callable[[BaseException], bool] = _is_hosts,
    ) -> T:
        """Retry `do` until it no longer raises an error that passes."""

        def say(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            wait_s = state.next_action.sleep if state.next_action is not None else None
            self._reaction.say("waiting", keys, error=error, wait_s=wait_s)

        retrying = AsyncRetrying(
            stop=stop_never,
            wait=self._wait(),
            retry=retry_if_exception(passes),
            sleep=self._pause,
            before_sleep=say,
        )
        return await retrying(do)

    async def _bury(self, item: Item, change: dict[str, Json] | None, error: Exception, tries: int) -> None:
        """Store a change as a dead letter, with its error. Waits while that fails, whatever the reason: nothing may be lost."""
        keys = (item.change.key,)
        write = partial(self._dead_letters.write, item.change, change, error, tries)

        told: set[str] = set()

        def passes(failure: BaseException) -> bool:
            if isinstance(failure, DataStoreError) and not isinstance(failure, StoreUnavailable) and not told:
                told.add(text_of(failure))  # once is enough
                logger.warning(
                    "a dead letter of consumer %r is refused, and the consumer waits: %s. Correct or delete what is in the way"
                    " in namespace %r.",
                    self._reaction.consumer,
                    text_of(failure).rstrip("."),
                    namespace_of(self._reaction.consumer),
                )
            return isinstance(failure, Exception)

        await self._patiently(write, keys, passes)
        self._reaction.say("dead letter", keys, error=error, attempt=tries)

    def _wait(self) -> wait_base:
        first, longest = self._reaction.first_wait_s, self._reaction.longest_wait_s
        return wait_exponential(multiplier=first, max=longest) + wait_random(0, min(first, longest) / 2)

    async def _pause(self, seconds: float) -> None:
        """Wait before the next try; raises `Left` if the consumer shall stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
        raise Left
