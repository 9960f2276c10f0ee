"""Run one agent."""

from __future__ import annotations

from typing import Any, Unpack

from redis_store.options import shows
from sandbox.given.options import RunOptions, split
from sandbox.given.sources import SourceOrPath
from sandbox.pool import Sandbox
from sandbox.result import RunResult


@shows(RunOptions)
def run(
    source_or_path: SourceOrPath, input_dict: dict[str, Any], *, user: str, **options: Unpack[RunOptions]
) -> RunResult:
    """Run an agent in its own isolated process and return its result. A failure of the agent is returned in `RunResult.error`.

    The agent is Python source, as a `str`, or the path of a file, as a `pathlib.Path`. A `str` never names a file: a line that
    looks like a path is refused with `InvalidInput`, and nothing is read. The agent's `run(input_dict, tools)` is called. The
    global `data_store` is the store of `user` on the server at `url` or of `client`.

    The options are those of `sandbox.RunOptions`: `namespace`, `agent` and `on_output` of the run, explained in `StartOptions`,
    and `url`, `client`, `tools`, `agents`, `globals`, `modules`, `env`, `packages`, `permissions`, `limits` and `isolation`,
    explained in `SandboxOptions`.

    While an event loop is running, this function blocks it; use `arun` instead.

    Raises `InvalidInput` before anything is started if an argument is invalid, and an error of `redis_store` if the store
    cannot be reached. Raises `IsolationUnavailable` if the system does not offer the tier of isolation, and `StartFailed` if
    no process can be started.
    """
    of_start, of_sandbox = split(options)
    with Sandbox(**of_sandbox) as box:
        return box.run(source_or_path, input_dict, user=user, **of_start)


@shows(RunOptions)
async def arun(
    source_or_path: SourceOrPath, input_dict: dict[str, Any], *, user: str, **options: Unpack[RunOptions]
) -> RunResult:
    """Run an agent like `run`, for asyncio. Async tools and `on_output` are called on the caller's event loop.

    Cancelling the task ends the run and its nested runs at once; completed writes stay.
    """
    of_start, of_sandbox = split(options)
    async with Sandbox(**of_sandbox) as box:
        return await box.arun(source_or_path, input_dict, user=user, **of_start)
