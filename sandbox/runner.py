"""Run one agent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from redis_store.namespace.keys import DEFAULT_NAMESPACE
from sandbox.given.sources import Agents
from sandbox.limits import Limits
from sandbox.permissions import Permissions
from sandbox.pool import Sandbox
from sandbox.result import RunResult

__all__ = ["arun", "run"]


def run(
    source_or_path: str | os.PathLike[str],
    input_dict: dict[str, Any],
    *,
    user: str,
    namespace: str = DEFAULT_NAMESPACE,
    agent: str | None = None,
    tools: Mapping[str, Callable[..., Any]] | None = None,
    agents: Agents | None = None,
    globals: Mapping[str, Any] | None = None,  # noqa: A002  # the name that says it
    modules: Mapping[str, Mapping[str, Any]] | None = None,
    env: Mapping[str, str] | None = None,
    packages: Iterable[str] | None = None,
    permissions: Permissions | None = None,
    url: str | None = None,
    limits: Limits | None = None,
    isolation: str | None = None,
    on_output: Callable[[str], object] | None = None,
) -> RunResult:
    """Run an agent in its own isolated process and return its result. A failure of the agent is returned in `RunResult.error`.

    The agent is Python source (a text with a line break or a ``def``) or the path of a file. Its `run(input_dict, tools)` is
    called. The global `data_store` is the store of `user` on the server at `url`, found as by `redis_store.connect`.

    - `tools`: host functions that the agent may call, by name. They run in this process: plain ones in threads, async ones on
      one event loop that all blocking runs share. Arguments and results are JSON. The agent sees their signatures and docstrings.
    - `agents`: agents that this one may call with ``await agents.call(name, input_dict)``. Give a dict of names and sources or
      paths, or a folder. Each call runs in its own process, with the same arguments and the rest of this run's limits.
    - `globals`: names that are available without an import. `modules`: modules that the agent can import. Both hold JSON values
      and functions of this process, which work like tools.
    - `env`: variables of the agent's ``os.environ``. `packages`: names of installed packages that the agent may import, with
      their dependencies, besides the standard library.
    - `permissions`: what the agent may do in the store. `limits`: how much it may use.
    - `isolation`: a tier of `sandbox.isolation`; None selects the best one available.
    - `on_output`: a function called with text as the agent prints it, in the thread of this call or of a nested run. Calls do
      not overlap.

    While an event loop is running, this function blocks it; use `arun` instead.

    Raises `InvalidInput` before anything is started if an argument is invalid, and an error of `redis_store` if the store
    cannot be reached. Raises `IsolationUnavailable` if the system does not offer the tier of isolation, and `StartFailed` if
    no process can be started.
    """
    with Sandbox(
        url=url,
        tools=tools,
        agents=agents,
        globals=globals,
        modules=modules,
        env=env,
        packages=packages,
        permissions=permissions,
        limits=limits,
        isolation=isolation,
    ) as box:
        return box.run(source_or_path, input_dict, user=user, namespace=namespace, agent=agent, on_output=on_output)


async def arun(
    source_or_path: str | os.PathLike[str],
    input_dict: dict[str, Any],
    *,
    user: str,
    namespace: str = DEFAULT_NAMESPACE,
    agent: str | None = None,
    tools: Mapping[str, Callable[..., Any]] | None = None,
    agents: Agents | None = None,
    globals: Mapping[str, Any] | None = None,  # noqa: A002  # the name that says it
    modules: Mapping[str, Mapping[str, Any]] | None = None,
    env: Mapping[str, str] | None = None,
    packages: Iterable[str] | None = None,
    permissions: Permissions | None = None,
    url: str | None = None,
    limits: Limits | None = None,
    isolation: str | None = None,
    on_output: Callable[[str], object] | None = None,
) -> RunResult:
    """Run an agent like `run`, for asyncio. Async tools and `on_output` are called on the caller's event loop.

    Cancelling the task ends the run and its nested runs at once; completed writes stay.
    """
    async with Sandbox(
        url=url,
        tools=tools,
        agents=agents,
        globals=globals,
        modules=modules,
        env=env,
        packages=packages,
        permissions=permissions,
        limits=limits,
        isolation=isolation,
    ) as box:
        return await box.arun(
            source_or_path, input_dict, user=user, namespace=namespace, agent=agent, on_output=on_output
        )
