"""Run agents, each in its own isolated process, with a user's `data_store` as a global."""

import logging

from sandbox.consumers.consumer import Consumer, ConsumerEvent, on_change
from sandbox.errors import (
    AgentCrashed,
    AgentError,
    AgentExited,
    AgentNotFound,
    AgentRaised,
    BrokerLost,
    CpuLimitExceeded,
    InvalidAgent,
    InvalidInput,
    InvalidResult,
    InvalidType,
    IsolationUnavailable,
    LimitExceeded,
    MemoryLimitExceeded,
    NestingLimitExceeded,
    OperationLimitExceeded,
    OutputLimitExceeded,
    ProtocolViolation,
    ResultLimitExceeded,
    RunCancelled,
    SandboxError,
    ScratchLimitExceeded,
    StartFailed,
    ThreadLimitExceeded,
    TimeLimitExceeded,
    ToolCallLimitExceeded,
    ToolError,
    UnknownAgent,
    WriteLimitExceeded,
)
from sandbox.given.options import RunOptions, SandboxOptions, StartOptions
from sandbox.handle import RunHandle
from sandbox.limits import Limits
from sandbox.permissions import Permissions
from sandbox.pool import Sandbox
from sandbox.result import Call, Hint, Operation, RunResult
from sandbox.runner import arun, run

__all__ = [
    "AgentCrashed",
    "AgentError",
    "AgentExited",
    "AgentNotFound",
    "AgentRaised",
    "BrokerLost",
    "Call",
    "Consumer",
    "ConsumerEvent",
    "CpuLimitExceeded",
    "Hint",
    "InvalidAgent",
    "InvalidInput",
    "InvalidResult",
    "InvalidType",
    "IsolationUnavailable",
    "LimitExceeded",
    "Limits",
    "MemoryLimitExceeded",
    "NestingLimitExceeded",
    "Operation",
    "OperationLimitExceeded",
    "OutputLimitExceeded",
    "Permissions",
    "ProtocolViolation",
    "ResultLimitExceeded",
    "RunCancelled",
    "RunHandle",
    "RunOptions",
    "RunResult",
    "Sandbox",
    "SandboxError",
    "SandboxOptions",
    "ScratchLimitExceeded",
    "StartFailed",
    "StartOptions",
    "ThreadLimitExceeded",
    "TimeLimitExceeded",
    "ToolCallLimitExceeded",
    "ToolError",
    "UnknownAgent",
    "WriteLimitExceeded",
    "arun",
    "on_change",
    "run",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())
