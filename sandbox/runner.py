"""A run's life, from the call to the last byte: the store is opened, the process started, watched and cleared away."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import redis_store
from redis_store.errors import StoredDataError
from redis_store.types import Json
from sandbox._background import background_loop
from sandbox._child import Child
from sandbox._endings import output_limit
from sandbox._job import Job, make_job
from sandbox._output import Output
from sandbox._supervisor import Stop, Supervisor
from sandbox._tool_host import ToolHost
from sandbox.broker import Broker
from sandbox.errors import SandboxError, StartFailed
from sandbox.isolation import start_child
from sandbox.limits import Limits
from sandbox.result import RunResult

_PATIENCE_S = 1.0
"""How long to wait for a thread of ours whose socket is closed already."""


def run(
    source_or_path: str | os.PathLike[str],
    input_dict: dict[str, Any],
    *,
    user: str,
    namespace: str = redis_store.store.DEFAULT_NAMESPACE,
    agent: str | None = None,
    tools: Mapping[str, Callable[..., Any]] | None = None,
    url: str | None = None,
    limits: Limits | None = None,
    on_output: Callable[[str], object] | None = None,
    isolation: str | None = None,
) -> RunResult:
    """Run an agent in a process of its own and return what came of it, also where it failed.

    The agent is Python source (a text with a line break or a ``def``) or the path of a file; its `run(input_dict, tools)`
    is called, with `data_store` there as the store of `user` at `url` (as `redis_store.connect` finds it). `tools` are
    called in this process, plain ones in threads, async ones on one event loop that all blocking runs share; what they
    take and return is JSON. `on_output` gets what the agent prints, as it comes, in the thread of this call. `isolation` is
    the tier to use (`sandbox.isolation`), else that of the environment variable SANDBOX_ISOLATION, else the best there is.

    Works where an event loop is running; it blocks that loop, which `arun` does not.
    Raises `sandbox.InvalidInput` before anything is started for what cannot be used, an error of `redis_store` where the
    store cannot be reached, `IsolationUnavailable` where the system cannot keep agents in, `StartFailed` where no process
    can be started. Everything else is `RunResult.error`.
    """
    job = make_job(source_or_path, input_dict, user, namespace, agent, tools, url, limits, on_output, isolation)
    with closing(Stop()) as stop:
        return _execute(job, background_loop, stop)


async def arun(
    source_or_path: str | os.PathLike[str],
    input_dict: dict[str, Any],
    *,
    user: str,
    namespace: str = redis_store.store.DEFAULT_NAMESPACE,
    agent: str | None = None,
    tools: Mapping[str, Callable[..., Any]] | None = None,
    url: str | None = None,
    limits: Limits | None = None,
    on_output: Callable[[str], object] | None = None,
    isolation: str | None = None,
) -> RunResult:
    """Run an agent as `run` does, awaited; async tools and `on_output` are called on the caller's event loop.

    Cancelling it ends the run and what it started, at once; what the agent had written stays.
    """
    job = make_job(source_or_path, input_dict, user, namespace, agent, tools, url, limits, on_output, isolation)
    loop = asyncio.get_running_loop()
    job = replace(job, on_output=_on_loop(loop, job.on_output))
    finished: asyncio.Future[RunResult] = loop.create_future()
    stop = Stop()

    def work() -> None:
        try:
            with closing(stop):
                outcome: RunResult | BaseException = _execute(job, lambda: loop, stop)
        except BaseException as error:
            outcome = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_finish, finished, outcome)

    threading.Thread(target=work, name=f"sandbox-run-{job.run}", daemon=True).start()
    try:
        return await asyncio.shield(finished)
    except asyncio.CancelledError:
        stop.end(SandboxError("The run was cancelled."))
        await asyncio.wait([finished], timeout=_PATIENCE_S)
        raise


def _execute(job: Job, loop: Callable[[], asyncio.AbstractEventLoop], stop: Stop) -> RunResult:
    start = time.monotonic()
    with (
        redis_store.connect(job.url, user=job.user, namespace=job.namespace, agent=job.agent, run=job.run) as store,
        start_child(job.isolation, job.limits) as process,
    ):
        _check_reachable(store)
        output = Output(job.limits.output_bytes, job.on_output)
        broker = Broker(process.data, store.as_json_text(), job.agent, job.limits, stop.end, _addresses(store.url))
        server = threading.Thread(target=broker.serve, name=f"sandbox-broker-{job.run}", daemon=True)
        server.start()
        try:
            outcome = _watch(job, process, stop, output, loop, start + job.limits.timeout_s)
        finally:
            process.kill()
            _shut(process.data)
            server.join(0.01)
            store.close()  # wakes a broker that still waits for the server
            server.join(_PATIENCE_S)
    output.end()
    if isinstance(outcome, StartFailed):
        raise outcome
    return RunResult(
        output=None if isinstance(outcome, SandboxError) else outcome,
        error=outcome if isinstance(outcome, SandboxError) else None,
        stdout=output.text,
        operations=list(broker.operations),
        duration=time.monotonic() - start,
        isolation=process.isolation,
        run=job.run,
    )


def _watch(
    job: Job,
    process: Child,
    stop: Stop,
    output: Output,
    loop: Callable[[], asyncio.AbstractEventLoop],
    deadline: float,
) -> dict[str, Json] | SandboxError:
    """Tell the process what to run, and stay with it until the run is over and the process gone."""
    supervisor: Supervisor
    tools = ToolHost(job.tools, loop, lambda message: supervisor.post(message), job.limits.result_bytes)
    supervisor = Supervisor(job, process, stop, tools, output)
    supervisor.post(
        [
            "start",
            job.user,
            job.namespace,
            job.module,
            job.filename,
            job.source,
            job.input_text,
            job.limits.frame_bytes,
            job.limits.result_bytes,
            *tools.kinds,
        ]
    )
    try:
        outcome = supervisor.watch(deadline)
    finally:
        tools.close()
    process.kill()
    if not supervisor.drain() and not isinstance(outcome, SandboxError):
        return output_limit(job.limits)
    return outcome


def _check_reachable(store: redis_store.DataStore) -> None:
    """Raise an error of the store's where the server cannot be used, before the agent runs into it."""
    with suppress(StoredDataError):  # what lies there is the agent's to find out
        len(store)


def _addresses(url: str) -> tuple[str, ...]:
    """Return the texts that would tell an agent where the server is, for messages to go without."""
    parts = urlsplit(url)
    texts = {url, url.split("?")[0]}
    if parts.hostname:
        texts |= {f"{parts.scheme}://{parts.hostname}:{parts.port}", f"{parts.hostname}:{parts.port}"}
        texts |= {f"{parts.scheme}://{parts.hostname}{parts.path}", f"{parts.hostname}:6379", parts.hostname}
    elif parts.path:
        texts |= {f"{parts.scheme}://{parts.path}", parts.path}
    return tuple(sorted(texts, key=len, reverse=True))


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _on_loop(loop: asyncio.AbstractEventLoop, on_output: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that has `on_output` called on the loop, in order."""

    def pass_on(text: str) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(on_output, text)

    return pass_on


def _finish(finished: asyncio.Future[RunResult], outcome: RunResult | BaseException) -> None:
    if finished.done():
        return
    if isinstance(outcome, BaseException):
        finished.set_exception(outcome)
    else:
        finished.set_result(outcome)
