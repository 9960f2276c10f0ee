"""The main loop of a consumer: take changes, have them processed, and move the cursor past those that are done."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from redis_store import AsyncWatch, Change, connect_async
from redis_store.errors import DataStoreError
from sandbox.consumers.backlog import Backlog, Item
from sandbox.consumers.batches import Reaction, Reactor
from sandbox.errors import SandboxError

_TAKE_AT_ONCE = 200
_TURN_S = 1.0
"""Longest wait for a change, in seconds; after each, check whether another process has become the consumer."""

_LAST_WORD_S = 5.0
"""Timeout for saving the cursor when the consumer stops, in seconds; the server may be unreachable."""


class Work:
    """The work of one consumer, from start to stop."""

    def __init__(self, reaction: Reaction) -> None:
        self._reaction = reaction
        self._backlog = Backlog()
        self._runs: dict[asyncio.Task[bool], list[Item]] = {}
        self._done: Change | None = None
        self._lock = threading.RLock()
        self._asked: list[bool] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._standing_by = False
        self._failure: SandboxError | DataStoreError | None = None
        """The error that prevents every run, whatever the change."""

    def stop(self, now: bool) -> None:
        """Stop, from any thread; may also be called before `run`."""
        with self._lock:
            self._asked.append(now)
            loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop is closed, and the work is over
                loop.call_soon_threadsafe(self._heed)

    async def run(self, begun: Callable[[], None]) -> None:
        """Work until told to stop; raises the error that prevents every run."""
        asked, client = self._reaction, self._reaction.options["client"]
        self._stopping = asyncio.Event()
        with self._lock:
            self._loop = asyncio.get_running_loop()
        self._heed()
        async with connect_async(
            asked.options["url"] if client is None else client.url,
            user=asked.user,
            namespace=asked.options["namespace"],
            agent=asked.agent,
            configure_server=asked.configure_server,
        ) as store:
            self._reactor = Reactor(asked, store, self._stopping)
            # Values as text, and errors as values, so that a change with an unreadable value becomes a dead letter.
            texts = store.as_json_text(errors_as_values=True)
            watch = texts.watch(asked.prefix, consumer=asked.consumer, initial=asked.initial)
            async with watch:
                self._look(watch, begun=True)
                begun()
                await self._work(watch)
        failure = self._failure
        asked.say("stopped", error=failure)
        if failure is not None:
            raise failure

    def _heed(self) -> None:
        with self._lock:
            asked = list(self._asked)
        if asked:
            self._stopping.set()
        if any(asked):
            for run in self._runs:
                run.cancel()

    async def _work(self, watch: AsyncWatch) -> None:
        taking: asyncio.Task[list[Change]] | None = None
        saving: asyncio.Task[None] | None = None
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            while not stopping.done() or self._runs:
                if not stopping.done():
                    if taking is None and self._backlog.room:
                        most = min(self._backlog.room, _TAKE_AT_ONCE)
                        taking = asyncio.ensure_future(watch.take(most, _TURN_S))
                    self._begin_runs()
                if saving is None and self._done is not None:
                    saving, self._done = asyncio.ensure_future(watch.done(self._done)), None
                waiting = [taking, saving, *self._runs, None if stopping.done() else stopping]
                await asyncio.wait([task for task in waiting if task], return_when=asyncio.FIRST_COMPLETED)
                if stopping.done() and taking is not None:
                    await _end([taking])
                    taking = None
                if taking is not None and taking.done():
                    self._add(taking.result())
                    taking = None
                    self._look(watch)
                if saving is not None and saving.done():
                    saving.result()
                    saving = None
                self._end_runs()
        finally:
            await _end(task for task in (taking, stopping, *self._runs) if task is not None)
            await self._save_last(watch, saving)

    def _begin_runs(self) -> None:
        while len(self._runs) < self._reaction.concurrency and not self._standing_by:
            batch = self._backlog.next_batch(self._reaction.batch)
            if not batch:
                return
            self._runs[asyncio.ensure_future(self._reactor.carry_out(batch))] = batch

    def _end_runs(self) -> None:
        for run in [run for run in self._runs if run.done()]:
            batch = self._runs.pop(run)
            try:
                done = not run.cancelled() and run.result()
            except (SandboxError, DataStoreError) as error:
                done, self._failure = False, self._failure or error
                self._stopping.set()  # the other runs may finish
            if done:
                self._done = self._backlog.finish(batch) or self._done
            else:
                self._backlog.give_up(batch)

    def _add(self, changes: list[Change]) -> None:
        asked = self._reaction
        for change in changes:
            # The agent of the outermost run: a write of an agent that this one calls is this one's own.
            is_own = (change.root or change.agent) == asked.agent
            self._backlog.add(change, skip=is_own and not asked.own_writes)
        self._done = self._backlog.settle() or self._done

    def _look(self, watch: AsyncWatch, *, begun: bool = False) -> None:
        """Check whether another process has become the consumer, or this one has."""
        if not begun and watch.standing_by == self._standing_by:
            return
        self._standing_by = watch.standing_by
        if self._standing_by:
            self._backlog.clear()
            self._done = None
        self._reaction.say("standing by" if self._standing_by else "watching")

    async def _save_last(self, watch: AsyncWatch, saving: asyncio.Task[None] | None) -> None:
        """Move the cursor past the last change that is done, if the server can be reached."""
        with suppress(TimeoutError, DataStoreError):
            async with asyncio.timeout(_LAST_WORD_S):
                if saving is not None:
                    await saving
                if self._done is not None:
                    await watch.done(self._done)


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
