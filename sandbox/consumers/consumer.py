"""Agents that run on changes: a consumer passes the changes of a namespace to an agent, and keeps its cursor in Redis."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, Unpack

from redis_store.limits import shown
from redis_store.namespace.keys import MAX_AGENT_BYTES, encode_name, encode_prefix
from redis_store.options import shows
from sandbox.consumers.batches import ConsumerEvent, Reaction
from sandbox.consumers.loop import Work
from sandbox.errors import InvalidInput, InvalidType
from sandbox.given.given import make_given
from sandbox.given.job import make_task
from sandbox.given.options import RunOptions, split
from sandbox.given.sources import Source, SourceOrPath
from sandbox.isolation.lacks import start_failures, start_thread
from sandbox.limits import check_whole

logger = logging.getLogger("sandbox")


@shows(RunOptions)
def on_change(
    source_or_path: SourceOrPath,
    *,
    user: str,
    prefix: str | None = None,
    consumer: str | None = None,
    batch: int = 20,
    concurrency: int = 4,
    retries: int = 3,
    first_wait: float = 0.5,
    longest_wait: float = 30.0,
    initial: bool = False,
    own_writes: bool = False,
    configure_server: bool = False,
    on_event: Callable[[ConsumerEvent], object] | None = None,
    **options: Unpack[RunOptions],
) -> Consumer:
    """Return a `Consumer` that runs an agent on the changes of a namespace, with ``{"changes": [...]}`` as its input.

    The agent is its source, as a `str`, or the path of its file, as a `pathlib.Path`, as for `run`.

    Call its `run`, ``await`` its `arun`, or use it in a ``with`` block, during which it works in a thread.

    A run gets at most `batch` changes. At most `concurrency` runs are under way at once, and at most one for each key.

    A failed run is retried `retries` times: after `first_wait` seconds, then after twice as long each time, up to
    `longest_wait`. Then the changes of its batch are tried alone, and those that fail are stored in the namespace
    ``dead-letter:<consumer>``. If the agent cannot be loaded, the consumer ends with the error instead and stores no dead
    letters. What the host lacks for a moment, such as memory or a file of `agents`, uses up no retries: the consumer waits.

    `consumer` is the name under which Redis keeps the cursor, by default that of the agent's file. Of several processes with
    one name, one works and the others stand by. With `initial`, a new consumer begins with every existing key.

    Changes written by the agent name `agent` (by default the consumer's name), and by agents that it called, are skipped, so
    that the agent does not trigger itself; `own_writes` includes them. The other options are those of `run`, explained in
    `RunOptions`.
    """
    tell = _guarded(on_event)
    of_start, of_sandbox = split(options, inspect.signature(on_change).parameters)
    if isinstance(of_sandbox["packages"], Iterator):
        of_sandbox["packages"] = tuple(of_sandbox["packages"])  # for every run
    with start_failures():
        task = make_task(make_given(of_sandbox), source_or_path, {"changes": []}, user, of_start)
    name = consumer if consumer is not None else _name(task.job.source, of_start["agent"])
    encode_name(name, "consumer name", MAX_AGENT_BYTES)
    of_start["agent"] = agent = of_start["agent"] or name
    encode_prefix(prefix)
    for what, value in {"initial": initial, "own_writes": own_writes}.items():
        if not isinstance(value, bool):
            raise InvalidType(f"{what} must be True or False, not {type(value).__name__}.")
    reaction = Reaction(
        source_or_path=source_or_path,
        user=user,
        prefix=prefix,
        consumer=name,
        agent=agent,
        options={**of_start, **of_sandbox},
        batch=check_whole("batch", batch, 1, 1000),
        concurrency=check_whole("concurrency", concurrency, 1, 64),
        retries=check_whole("retries", retries, 0, 100),
        first_wait_s=_seconds("first_wait", first_wait),
        longest_wait_s=_seconds("longest_wait", longest_wait),
        initial=initial,
        own_writes=own_writes,
        configure_server=configure_server,
        tell=tell,
    )
    if task.namespace == reaction.dead_letters:
        raise InvalidInput(f"The consumer {name!r} cannot watch its own dead letters: give another consumer name.")
    return Consumer(reaction)


class Consumer:
    """An agent that runs on changes. Made by `on_change`; can be started once."""

    def __init__(self, reaction: Reaction) -> None:
        self._reaction = reaction
        self._work = Work(reaction)
        self._thread: threading.Thread | None = None
        self._begun = threading.Event()
        self._error: BaseException | None = None

    @property
    def name(self) -> str:
        """The name under which Redis keeps the cursor."""
        return self._reaction.consumer

    @property
    def dead_letters(self) -> str:
        """The namespace, of the same user, for changes that failed on every try."""
        return self._reaction.dead_letters

    def run(self) -> None:
        """Work until `stop`, in this thread.

        Raises the store's error if the server cannot be used at the start. Raises the run's error (with
        `SandboxError.loading_failed`) if the agent cannot be loaded; its changes are delivered again at the next start.
        """
        with start_failures():
            asyncio.run(self.arun())

    async def arun(self) -> None:
        """Work until `stop`, like `run`, on the running event loop; async tools run on it too.

        Cancelling it ends the runs under way.
        """
        with start_failures():
            await self._work.run(self._begun.set)

    def stop(self, *, now: bool = False) -> None:
        """Stop: start no more runs, finish those under way and save the cursor. May be called from any thread, at any time.

        `now` also ends the runs under way; their changes are delivered again to the next consumer of this name.
        """
        self._work.stop(now)

    def __enter__(self) -> Self:
        """Start working in a thread; return when every later write will be seen, or when the consumer stands by."""
        self._thread = threading.Thread(target=self._run_in_thread, name=f"sandbox-consumer-{self.name}", daemon=True)
        start_thread(self._thread)
        self._begun.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop(now=kind is not None)
        assert self._thread is not None
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def __repr__(self) -> str:
        asked = self._reaction
        return f"<Consumer {asked.consumer!r} of user={asked.user!r} namespace={asked.options['namespace']!r}>"

    def _run_in_thread(self) -> None:
        try:
            self.run()
        except BaseException as error:
            self._error = error
            if self._begun.is_set():
                logger.error("the consumer %r has ended: %s", self.name, error)
        finally:
            self._begun.set()


def _name(source: Source, agent: str | None) -> str:
    if source.is_file:
        return source.name
    if agent is not None:
        return agent
    raise InvalidInput("An agent that is passed as source code has no consumer name: pass consumer= or agent=.")


def _guarded(on_event: Callable[[ConsumerEvent], object] | None) -> Callable[[ConsumerEvent], None]:
    if on_event is not None and not callable(on_event):
        raise InvalidType(f"on_event must be a function that takes an event, not {type(on_event).__name__}.")

    def tell(event: ConsumerEvent) -> None:
        if on_event is not None:
            try:
                on_event(event)
            except Exception:
                logger.exception("on_event raised; the consumer continues")

    return tell


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidType(f"{name} must be a number of seconds, not {type(value).__name__}.")
    if not 0 < value <= 86400:
        raise InvalidInput(f"{name}={shown(value)} cannot be used: give more than 0 and at most 86,400 seconds.")
    return float(value)
