"""Runs one agent, and what it starts."""

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
    """Run an agent in a process of its own and return what came of it, also where it failed.

    The agent is Python source (a text with a line break or a ``def``) or the path of a file; its `run(input_dict, tools)`
    is called, with `data_store` there as the store of `user` at `url` (as `redis_store.connect` finds it).

    - `tools` are called in this process, plain ones in threads, async ones on one event loop that all blocking runs share;
      what they take and return is JSON. Inside they have their signatures and docstrings.
    - `agents`, by name (source or path) or a folder of them, can be called with ``await agents.call(name, input_dict)``; each
      call runs in a process of its own, with what this run is given and within what is left of its limits.
    - `globals` are names that are there without an import, `modules` are what the agent can import; both hold JSON values
      and functions of this process, which work as tools do.
    - `env` goes into the agent's ``os.environ``, `packages` are installed packages that it may import besides the standard
      library, with what they depend on.
    - `permissions` say what it may do with the store, `limits` how much it may use.
    - `isolation` asks for a tier of `sandbox.isolation`; None takes the best that this system has.
    - `on_output` gets what is printed, as it comes, in the thread of this call or of a nested run, one call at a time.

    Works where an event loop is running; it blocks that loop, which `arun` does not.
    Raises `sandbox.InvalidInput` before anything is started for what cannot be used, an error of `redis_store` where the
    store cannot be reached, `IsolationUnavailable` where the system cannot keep agents in, `StartFailed` where no process
    can be started. Everything else is `RunResult.error`.
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
    """Run an agent as `run` does, awaited; async tools and `on_output` are called on the caller's event loop.

    Cancelling it ends the run and what it started, at once; what the agent had written stays.
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
