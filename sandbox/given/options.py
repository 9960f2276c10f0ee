"""Options of runs: declared once for `run`, `arun`, `on_change` and `Sandbox`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypedDict, cast

from redis_store import Client
from redis_store.namespace.keys import DEFAULT_NAMESPACE
from redis_store.options import Default, defaults_of, settle
from sandbox.given.sources import Agents
from sandbox.kept_runs import KeptRuns
from sandbox.limits import Limits
from sandbox.permissions import Permissions


class StartOptions(TypedDict, total=False):
    """Options of one run in a `Sandbox`.

    - `namespace`: the namespace that the agent's `data_store` starts in.
    - `agent`: the agent's name, by default that of its file.
    - `on_output`: a function called with text as the agent prints it, in a thread of its own. Calls do not overlap, and get
      all text that was printed meanwhile. The run waits for it until its time limit, and then half a second more.
    """

    namespace: Annotated[str, Default(DEFAULT_NAMESPACE)]
    agent: str | None
    on_output: Callable[[str], object] | None


class SandboxOptions(TypedDict, total=False):
    """Options that the runs of a `Sandbox` share.

    - `url`: the server, found as by `redis_store.connect`. `client`: a `redis_store.Client` instead, whose connections all store
      calls use; it is not closed with the sandbox.
    - `tools`: host functions that the agent may call, by name. They run in this process: plain ones in threads, async ones on
      one event loop that all blocking runs share. Arguments and results are JSON. The agent sees their signatures and docstrings.
    - `agents`: agents that this one may call with ``await agents.call(name, input_dict)``. Give a dict of names and sources
      (`str`) or paths (`Path`), or the `Path` of a folder. Each call runs in its own process, with the same
      arguments and the rest of this run's limits.
    - `globals`: names that are available without an import. `modules`: modules that the agent can import. Both hold JSON values
      and functions of this process, which work like tools.
    - `env`: variables of the agent's ``os.environ``. `packages`: names of installed packages that the agent may import, with
      their dependencies, besides the standard library.
    - `permissions`: what the agent may do in the store. `limits`: how much it may use.
    - `isolation`: a tier of `sandbox.isolation`; None selects the best one available.
    - `keep`: a `KeptRuns`, to keep a record of each run on the server, within its bounds; True stands for ``KeptRuns()``.
    """

    url: str | None
    client: Client | None
    tools: Mapping[str, Callable[..., Any]] | None
    agents: Agents | None
    globals: Mapping[str, Any] | None
    modules: Mapping[str, Mapping[str, Any]] | None
    env: Mapping[str, str] | None
    packages: Iterable[str] | None
    permissions: Permissions | None
    limits: Limits | None
    isolation: str | None
    keep: KeptRuns | bool | None


class RunOptions(StartOptions, SandboxOptions, total=False):
    """Options of `run`, `arun` and `on_change`: those of a sandbox, `SandboxOptions`, and of one run in it, `StartOptions`."""


START_DEFAULTS = defaults_of(StartOptions)
SANDBOX_DEFAULTS = defaults_of(SandboxOptions)
_RUN_DEFAULTS = defaults_of(RunOptions)


_A_LIMIT = "pass limits=sandbox.Limits(timeout_s=...)."
_OF_A_RUN = "it belongs to one run: pass it to the sandbox's run, arun or start."
_OF_ALL_RUNS = (
    "all runs of a sandbox share it: pass it to sandbox.Sandbox(...), or to sandbox.run(...) for a single run."
)
OUTSIDE_START = {"timeout": _A_LIMIT, "timeout_s": _A_LIMIT, **dict.fromkeys(SANDBOX_DEFAULTS, _OF_ALL_RUNS)}
"""Where options belong that one run in a sandbox does not have."""
OUTSIDE_SANDBOX = {
    "timeout": _A_LIMIT,
    "timeout_s": _A_LIMIT,
    "user": _OF_A_RUN,
    **dict.fromkeys(START_DEFAULTS, _OF_A_RUN),
}
"""The same for a sandbox."""
_OUTSIDE_RUN = {"timeout": _A_LIMIT, "timeout_s": _A_LIMIT}


def split(options: RunOptions, own: Iterable[str] = ("user",)) -> tuple[StartOptions, SandboxOptions]:
    """Return the options of one run, and those of its sandbox, all with their defaults; raise `TypeError` for an unknown one."""
    given: Mapping[str, object] = settle(options, _RUN_DEFAULTS, own, _OUTSIDE_RUN)
    of_start = {name: given[name] for name in START_DEFAULTS}
    of_sandbox = {name: given[name] for name in SANDBOX_DEFAULTS}
    return cast(StartOptions, of_start), cast(SandboxOptions, of_sandbox)
