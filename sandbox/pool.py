"""Concurrent runs that share connections, tools, agents, permissions and limits."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self, Unpack

import redis_store
from redis_store.brokers.lease import with_near_cache
from redis_store.options import shows
from sandbox.errors import InvalidInput, InvalidType, RunCancelled, StartFailed
from sandbox.given.given import make_given
from sandbox.given.job import Task, make_task
from sandbox.given.options import SandboxOptions, StartOptions
from sandbox.given.sources import SourceOrPath
from sandbox.handle import RunHandle
from sandbox.host.execute import Loop, execute
from sandbox.host.remote_broker import BrokerProcess
from sandbox.isolation.lacks import start_failures, start_thread
from sandbox.limits import check_whole
from sandbox.result import RunResult
from sandbox.running.background_loop import background_loop
from sandbox.running.slots import Slots

_CLOSE_PATIENCE_S = 2.0
"""Timeout of waiting for a cancelled run to end, in seconds."""


class Sandbox:
    """Runs agents concurrently with shared connections and settings.

    Safe to use from threads and from asyncio at the same time, and both a context manager and an async one.

    `concurrency` bounds the number of concurrent runs; None means no bound. Further runs wait for a slot. Users take turns, so
    that no user waits for another user's hundred runs. Waiting for a slot does not count towards `Limits.timeout_s`.

    `broker` selects where the agents' calls of the store are carried out. ``"thread"`` uses a thread of this process for each
    run. ``"process"`` uses one separate process for all runs, started by the first run; choose it if the host's own threads
    are busy computing. It has connections of its own, also with `client`, whose options hold there too; a client with a
    `credential_provider`, which cannot be passed to another process, is refused.

    The other options are those of `SandboxOptions`. They are checked and read once, by the constructor: later changes to an
    agent's file have no effect.
    """

    @shows(SandboxOptions)
    def __init__(
        self, *, concurrency: int | None = None, broker: str = "thread", **options: Unpack[SandboxOptions]
    ) -> None:
        with start_failures():
            self._given = make_given(options)
        self._url, self._client = _checked_server(options)
        self._broker = _broker_process(self._url, self._client) if _checked_broker(broker) == "process" else None
        self._slots = Slots(None if concurrency is None else check_whole("concurrency", concurrency, 1, _MOST_AT_ONCE))
        self._lock = threading.RLock()
        self._store: redis_store.DataStore | None = None
        self._handles: set[RunHandle] = set()
        self._closed = False

    @shows(StartOptions)
    def run(
        self, source_or_path: SourceOrPath, input_dict: dict[str, Any], *, user: str, **options: Unpack[StartOptions]
    ) -> RunResult:
        """Wait for a slot, run an agent and return its result, like `sandbox.run`."""
        handle = self._handle(make_task(self._given, source_or_path, input_dict, user, options), background_loop)
        place: queue.SimpleQueue[None] = queue.SimpleQueue()  # a signal handler may put something in at any point
        handle.when_done(lambda _: place.put(None))  # if it is cancelled while it waits
        handle.wait_for(self._slots, lambda: place.put(None))
        try:
            place.get()
            return handle.result() if handle.done() else handle.work()
        finally:
            handle.finish(self._slots)

    @shows(StartOptions)
    async def arun(
        self, source_or_path: SourceOrPath, input_dict: dict[str, Any], *, user: str, **options: Unpack[StartOptions]
    ) -> RunResult:
        """Run an agent like `run`, for asyncio. Cancelling the task ends the run at once."""
        handle = self.start(source_or_path, input_dict, user=user, **options)
        try:
            return await handle
        except asyncio.CancelledError:
            handle.cancel()
            await handle.settled(_CLOSE_PATIENCE_S)
            raise

    @shows(StartOptions)
    def start(
        self, source_or_path: SourceOrPath, input_dict: dict[str, Any], *, user: str, **options: Unpack[StartOptions]
    ) -> RunHandle:
        """Start an agent and return a handle to wait for the run or to cancel it.

        If an event loop is running, async tools and `on_output` are called on it; in that case await the handle.
        """
        task = make_task(self._given, source_or_path, input_dict, user, options)
        loop = _running_loop()
        if loop is None:
            handle = self._handle(task, background_loop)
        else:
            if task.on_output is not None:
                task = replace(task, on_output=_on_loop(loop, task.on_output))
            handle = self._handle(task, lambda: loop)

        def work() -> None:
            try:
                handle.work()
            except BaseException:  # stored in the handle, and raised by `RunHandle.result`
                pass
            finally:
                handle.finish(self._slots)

        name = f"sandbox-run-{handle.run}"

        def begin() -> None:
            try:
                start_thread(threading.Thread(target=work, name=name, daemon=True))
            except StartFailed as error:  # this may be the thread of another run, which has freed the slot
                handle.fail(error)
                handle.finish(self._slots)

        handle.wait_for(self._slots, begin)
        return handle

    def close(self) -> None:
        """Cancel the runs in progress and close the connections. Closing again does nothing."""
        with self._lock:
            self._closed = True
            handles, store, self._store = list(self._handles), self._store, None
        for handle in handles:
            handle.cancel()
        deadline = time.monotonic() + _CLOSE_PATIENCE_S
        for handle in handles:
            handle.wait(max(0.0, deadline - time.monotonic()))
        if self._broker is not None:
            self._broker.close()
        if store is not None:
            store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # Not in the loop's default executor: its threads may all be busy with the host's work.
        closed: Future[None] = Future()

        def close() -> None:
            self.close()
            closed.set_result(None)

        try:
            start_thread(threading.Thread(target=close, name="sandbox-close", daemon=True))
        except StartFailed:
            close()
        await asyncio.shield(asyncio.wrap_future(closed))

    def __repr__(self) -> str:
        broker = "thread" if self._broker is None else "process"
        return f"<Sandbox broker={broker!r}, {len(self._handles)} runs under way>"

    def _handle(self, task: Task, loop: Loop) -> RunHandle:
        """Return the handle of a run that has not started."""
        context = contextvars.copy_context()

        def carry_out(own: RunHandle) -> RunResult:
            with start_failures():
                return execute(task, self._given, self._shared_store(), loop, context, own.attach, self._broker)

        handle = RunHandle(task, carry_out)
        with self._lock:
            if self._closed:
                raise RunCancelled("The sandbox is closed: make another.")
            self._handles.add(handle)
        handle.when_done(self._forget)
        return handle

    def _forget(self, handle: RunHandle) -> None:
        with self._lock:
            self._handles.discard(handle)

    def _shared_store(self) -> redis_store.DataStore:
        """Return the store whose connections all runs share; no run uses its user."""
        with self._lock:
            if self._closed:
                raise RunCancelled("The sandbox is closed: make another.")
            if self._store is None and self._client is not None:
                self._store = with_near_cache(self._client.store(user="sandbox"))
            elif self._store is None:
                self._store = redis_store.connect(self._url, user="sandbox", near_cache=True)
            return self._store


def _checked_server(options: SandboxOptions) -> tuple[str | None, redis_store.Client | None]:
    url, client = options.get("url"), options.get("client")
    if client is None:
        return url, None
    if not isinstance(client, redis_store.Client):
        raise InvalidType(
            f"client must be a redis_store.Client, not {type(client).__name__}: the store calls of agents run in threads."
        )
    if url is not None:
        raise InvalidInput("Both url and client name the server: give one of them.")
    return client.url, client


def _broker_process(url: str | None, client: redis_store.Client | None) -> BrokerProcess:
    options = redis_store.ClientOptions() if client is None else client.options
    if options.pop("credential_provider", None) is not None:
        raise InvalidInput(
            "broker='process' cannot be used with a client that has a credential_provider, because it cannot be passed to another"
            " process: use broker='thread', or a client whose url has the user name and password."
        )
    return BrokerProcess(url, options)


def _checked_broker(broker: object) -> object:
    if not isinstance(broker, str):
        raise InvalidType(f"broker must be a str, not {type(broker).__name__}.")
    if broker not in ("thread", "process"):
        raise InvalidInput(f"broker={broker!r} cannot be used: give 'thread' or 'process'.")
    return broker


_MOST_AT_ONCE = 1_000_000
"""Bound on the number of concurrent runs."""


def _running_loop() -> asyncio.AbstractEventLoop | None:
    with suppress(RuntimeError):
        return asyncio.get_running_loop()
    return None


def _on_loop(loop: asyncio.AbstractEventLoop, on_output: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that calls `on_output` on the event loop, in order."""

    def pass_on(text: str) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(on_output, text)

    return pass_on
