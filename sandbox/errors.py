"""What can go wrong around an agent, in one tree.

    SandboxError
    ├── InvalidInput (ValueError)              raised at once: fix what you passed
    │   ├── InvalidType (TypeError)            an argument of the wrong type
    │   └── AgentNotFound (FileNotFoundError)  there is no file to run
    ├── StartFailed (RuntimeError)             raised: no process for the agent could be started
    ├── IsolationUnavailable (RuntimeError)    raised: this system cannot keep agents in, or not as was asked
    ├── AgentError                             in `RunResult.error`: the agent's own doing
    │   ├── InvalidAgent (ValueError)          no Python, no `run`, or one that nobody can call
    │   ├── AgentRaised                        an exception left the agent's `run`
    │   ├── InvalidResult (TypeError)          what `run` returned is not a JSON object
    │   ├── AgentExited                        it ended its process by `sys.exit` or `os._exit`
    │   └── AgentCrashed                       a signal ended its process
    ├── LimitExceeded                          in `RunResult.error`: the host ended the run
    │   ├── TimeLimitExceeded (TimeoutError)
    │   ├── OutputLimitExceeded
    │   ├── ResultLimitExceeded
    │   ├── OperationLimitExceeded
    │   ├── CpuLimitExceeded
    │   ├── MemoryLimitExceeded (MemoryError)
    │   ├── ThreadLimitExceeded
    │   ├── ScratchLimitExceeded
    │   ├── WriteLimitExceeded
    │   ├── ToolCallLimitExceeded
    │   └── NestingLimitExceeded               agents called each other too deep, or too often
    ├── RunCancelled                           in `RunResult.error`: the host ended the run because it was told to
    ├── BrokerLost (RuntimeError)              in `RunResult.error`: the broker's process ended before the run
    ├── ProtocolViolation                      in `RunResult.error`: its process sent what it may not send
    ├── UnknownAgent (LookupError)             inside the agent: there is no agent of that name
    └── ToolError                              inside the agent: a tool of the host failed

Errors of the store (`redis_store.errors`) reach the agent as the classes that they are. What ends a nested agent reaches the
agent that called it as the class that it is; an exception that left its code is an `AgentRaised` that is also of the builtin
class it was.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AgentCrashed",
    "AgentError",
    "AgentExited",
    "AgentNotFound",
    "AgentRaised",
    "BrokerLost",
    "CpuLimitExceeded",
    "InvalidAgent",
    "InvalidInput",
    "InvalidResult",
    "InvalidType",
    "IsolationUnavailable",
    "LimitExceeded",
    "MemoryLimitExceeded",
    "NestingLimitExceeded",
    "OperationLimitExceeded",
    "OutputLimitExceeded",
    "ProtocolViolation",
    "ResultLimitExceeded",
    "RunCancelled",
    "SandboxError",
    "ScratchLimitExceeded",
    "StartFailed",
    "ThreadLimitExceeded",
    "TimeLimitExceeded",
    "ToolCallLimitExceeded",
    "ToolError",
    "UnknownAgent",
    "WriteLimitExceeded",
]


class SandboxError(Exception):
    """Root of every error that this package raises or returns. Facts are attributes and survive pickling.

    `loading_failed`: whether the agent could not be loaded, so that its `run` was never called: its file cannot be read, it does
    not compile, has no `run` to call, or its module raised.
    """

    loading_failed: bool = False

    def __init__(self, message: str = "", /, **facts: Any) -> None:
        super().__init__(message)
        self.__dict__.update(facts)


class InvalidInput(SandboxError, ValueError):
    """An argument of the host cannot be used; nothing was started."""


class InvalidType(InvalidInput, TypeError):
    """An argument of the host has the wrong type, or cannot be said in JSON. Attributes: `path` in the latter case."""

    path: str | None = None


class AgentNotFound(InvalidInput, FileNotFoundError):
    """There is no agent's file at the path given. Attributes: `path`."""

    path: str
    loading_failed = True

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class StartFailed(SandboxError, RuntimeError):
    """The agent's process ended before any of the agent's code ran. Attributes: `output`, what it printed."""

    output: str


class IsolationUnavailable(SandboxError, RuntimeError):
    """No tier of isolation, or not the one asked for, can be had; the message says what to do.

    Attributes: `reasons`, what the system refused, by the way that was tried.
    """

    reasons: dict[str, str]


class AgentError(SandboxError):
    """The agent failed by its own doing. Attributes: `agent`, its name."""

    agent: str


class InvalidAgent(AgentError, ValueError):
    """The source is not an agent. Attributes: `details`, the lines concerned where there are any."""

    details: str
    loading_failed = True


class AgentRaised(AgentError):
    """An exception left the agent's code.

    Attributes: `type_name` and `message` of the exception; `traceback`, the text that Python would print, with the agent's
    frames alone and the exceptions that caused it.
    """

    type_name: str
    message: str
    traceback: str


class InvalidResult(AgentError, TypeError):
    """`run` returned something that is not a JSON object. Attributes: `path`, the place of the offending element."""

    path: str


class AgentExited(AgentError):
    """The agent ended its process instead of returning. Attributes: `code`."""

    code: int


class AgentCrashed(AgentError):
    """A signal ended the agent's process. Attributes: `signal`, its name."""

    signal: str


class LimitExceeded(SandboxError):
    """The run was ended at a limit; what it had written stays. Attributes: `limit` (a name of `Limits`), `value`."""

    limit: str
    value: float


class TimeLimitExceeded(LimitExceeded, TimeoutError):
    """The run took longer than `Limits.timeout_s`."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class OutputLimitExceeded(LimitExceeded):
    """The agent printed more than `Limits.output_bytes`; `RunResult.stdout` holds the beginning."""


class ResultLimitExceeded(LimitExceeded):
    """The result takes more than `Limits.result_bytes` as JSON, or it or the arguments of a call hold over a million values."""


class OperationLimitExceeded(LimitExceeded):
    """The agent called the store more often than `Limits.operations`."""


class CpuLimitExceeded(LimitExceeded):
    """The agent used more than `Limits.cpu_s` of processor time."""


class MemoryLimitExceeded(LimitExceeded, MemoryError):
    """A `MemoryError` left the agent's code, under `Limits.memory_bytes`. Attributes: `traceback`, as of `AgentRaised`."""

    traceback: str


class ThreadLimitExceeded(LimitExceeded):
    """The agent had more than `Limits.threads`, where the kernel does not refuse them one by one."""


class ScratchLimitExceeded(LimitExceeded):
    """The agent's folder took more than `Limits.scratch_bytes`, where the kernel does not refuse that."""


class WriteLimitExceeded(LimitExceeded):
    """The agents wrote more than `Limits.bytes_written`; what would have gone over it was not written."""


class ToolCallLimitExceeded(LimitExceeded):
    """The agents called tools more often than `Limits.tool_calls`."""


class NestingLimitExceeded(LimitExceeded):
    """Agents called agents deeper than `Limits.nested_depth`, or more often than `Limits.nested_runs`."""


class RunCancelled(SandboxError):
    """The host ended the run because it was told to; what the agent had written stays."""


class BrokerLost(SandboxError, RuntimeError):
    """The process that answered the agent's calls of the store (``Sandbox(broker="process")``) ended before the run.

    What the agent had written stays, also a call of which it had no answer yet; what the result says of its calls is gone.
    """


class ProtocolViolation(SandboxError):
    """The agent's process broke the rules of its channels to the host, which ended the run."""


class UnknownAgent(InvalidInput, LookupError):
    """Inside the agent: no agent of this name was given to the run. Attributes: `name`, `known`."""

    name: str
    known: list[str]

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ToolError(SandboxError):
    """Inside the agent: a tool raised. The text is the name of its exception and its message."""
