"""Errors of the sandbox, in one tree.

    SandboxError
    ├── InvalidInput (ValueError)              raised before anything starts: fix the argument
    │   ├── InvalidType (TypeError)            an argument has the wrong type
    │   └── AgentNotFound (FileNotFoundError)  the agent's file does not exist
    ├── StartFailed (RuntimeError)             raised: the host could not start the agent process; the run can be repeated
    ├── IsolationUnavailable (RuntimeError)    raised: the system offers no tier of isolation, or not the requested one
    ├── AgentError                             in `RunResult.error`: the agent failed
    │   ├── InvalidAgent (ValueError)          not valid Python, or without a `run` that can be called
    │   ├── AgentRaised                        the agent's `run` raised an exception
    │   ├── InvalidResult (TypeError)          `run` returned something other than a JSON object
    │   ├── AgentExited                        the agent ended its process with `sys.exit` or `os._exit`
    │   └── AgentCrashed                       a signal ended the agent process
    ├── LimitExceeded                          in `RunResult.error`: the host ended the run at a limit
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
    │   └── NestingLimitExceeded               agents called each other too deeply or too often
    ├── RunCancelled                           in `RunResult.error`: the run was cancelled
    ├── BrokerLost (RuntimeError)              in `RunResult.error`: the broker process ended before the run did
    ├── ProtocolViolation                      in `RunResult.error`: the agent process sent an invalid message
    ├── UnknownAgent (LookupError)             raised inside the agent: no agent has this name
    └── ToolError                              raised inside the agent: a tool failed

Errors of the store (`redis_store.errors`) keep their class inside the agent. The error of a nested agent also keeps its class
in the agent that called it. An exception that the nested agent raised arrives as an `AgentRaised`, and one of a tool as a
`ToolError`, that is also an instance of its nearest builtin class: ``except ValueError`` catches a `json.JSONDecodeError`.
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
    """Base class of every error that this package raises or returns. Facts are attributes and survive pickling.

    `loading_failed` is True if the agent could not be loaded, so that its `run` was never called: its file cannot be read or
    compiled, has no callable `run`, or raised on import.

    `host_failed` is True if the host lacked something that the run needs, for example memory, and the agent is not at fault: the
    run can be repeated.
    """

    loading_failed: bool = False
    host_failed: bool = False

    def __init__(self, message: str = "", /, **facts: Any) -> None:
        super().__init__(message)
        self.__dict__.update(facts)

    def __str__(self) -> str:  # an `OSError`, which some are too, would show more
        return str(self.args[0]) if self.args else ""


class InvalidInput(SandboxError, ValueError):
    """An argument passed by the host is invalid; nothing was started."""


class InvalidType(InvalidInput, TypeError):
    """An argument passed by the host has the wrong type, or JSON cannot represent it. Attributes: `path` in the latter case."""

    path: str | None = None


class AgentNotFound(InvalidInput, FileNotFoundError):
    """No agent exists at the given path. Attributes: `path`."""

    path: str
    loading_failed = True


class StartFailed(SandboxError, RuntimeError):
    """The agent process could not be started, for example because the host had no memory or descriptor left.

    None of the agent's code ran, unless the process that failed is of an agent that it called. Attributes: `output`, the text
    that the process printed.
    """

    output: str = ""
    host_failed = True


class IsolationUnavailable(SandboxError, RuntimeError):
    """No tier of isolation is available, or not the requested one; the message says what to do.

    Attributes: `reasons`, the failure of each attempt, by the tier and the way in which it was tried.
    """

    reasons: dict[str, str]


class AgentError(SandboxError):
    """The agent itself failed. Attributes: `agent`, its name."""

    agent: str


class InvalidAgent(AgentError, ValueError):
    """The source is not an agent. Attributes: `details`, the offending lines, if any."""

    details: str
    loading_failed = True


class AgentRaised(AgentError):
    """The agent's code raised an exception. The text is one line, with control characters as escapes.

    Attributes: `type_name` and `message` of the exception, unchanged; `bases`, the names of its builtin classes, nearest
    first; `traceback`, the text that Python would print, reduced to the agent's own frames and with the exceptions that
    caused it. Its control characters are escapes, but its lines may be made up by the exceptions' texts.
    """

    type_name: str
    message: str
    bases: list[str]
    traceback: str


class InvalidResult(AgentError, TypeError):
    """`run` returned something that is not a JSON object. Attributes: `path`, the location of the offending element."""

    path: str


class AgentExited(AgentError):
    """The agent ended its process instead of returning. Attributes: `code`, the exit code."""

    code: int


class AgentCrashed(AgentError):
    """A signal ended the agent process. Attributes: `signal`, its name.

    `host_failed` is True if the process that starts agents was killed, and the agent process with it.
    """

    signal: str


class LimitExceeded(SandboxError):
    """The host ended the run at a limit; completed writes stay. Attributes: `limit` (a field of `Limits`), `value`."""

    limit: str
    value: float


class TimeLimitExceeded(LimitExceeded, TimeoutError):
    """The run took longer than `Limits.timeout_s`."""


class OutputLimitExceeded(LimitExceeded):
    """The agents printed more than `Limits.output_bytes`; `RunResult.stdout` holds the beginning."""


class ResultLimitExceeded(LimitExceeded):
    """The result is larger than `Limits.result_bytes` as JSON, or it or the arguments of a call hold over a million values."""


class OperationLimitExceeded(LimitExceeded):
    """The agents called the store more often than `Limits.operations`."""


class CpuLimitExceeded(LimitExceeded):
    """The agent used more than `Limits.cpu_s` of processor time."""


class MemoryLimitExceeded(LimitExceeded, MemoryError):
    """The agent's code raised `MemoryError` under `Limits.memory_bytes`. Attributes: `traceback`, as in `AgentRaised`."""

    traceback: str


class ThreadLimitExceeded(LimitExceeded):
    """The agent had more threads than `Limits.threads`, on a system where the kernel does not refuse the extra ones."""


class ScratchLimitExceeded(LimitExceeded):
    """The agent's folder grew beyond `Limits.scratch_bytes`, on a system where the kernel does not refuse the writes."""


class WriteLimitExceeded(LimitExceeded):
    """The agents wrote more than `Limits.bytes_written`; the write that exceeded it was not carried out."""


class ToolCallLimitExceeded(LimitExceeded):
    """The agents called tools more often than `Limits.tool_calls`."""


class NestingLimitExceeded(LimitExceeded):
    """Agents called other agents deeper than `Limits.nested_depth`, or more often than `Limits.nested_runs`."""


class RunCancelled(SandboxError):
    """The run was cancelled, or its `Sandbox` is closed; completed writes stay."""


class BrokerLost(SandboxError, RuntimeError):
    """The broker process (``Sandbox(broker="process")``) ended before the run did.

    Completed writes stay, possibly including one whose reply had not arrived. The result does not list the calls of the store.
    """

    host_failed = True


class ProtocolViolation(SandboxError):
    """The agent process violated the protocol between agent and host; the host ended the run."""


class UnknownAgent(InvalidInput, LookupError):
    """Raised inside the agent: the run was given no agent of this name. Attributes: `name`; `known`, the valid names."""

    name: str
    known: list[str]


class ToolError(SandboxError):
    """Raised inside the agent: a tool raised an exception. The text is the name of that exception and its message.

    It is also an instance of the nearest builtin class of that exception.
    """


def builtin_bases(kind: type[BaseException]) -> list[str]:
    """Return the names of the builtin classes that a class of exceptions is or inherits from, nearest first."""
    return [base.__name__ for base in kind.__mro__ if base.__module__ == "builtins" and issubclass(base, Exception)]
