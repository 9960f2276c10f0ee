"""Runs agents, each in a process of its own, with a user's `data_store` there."""

import logging

from sandbox.errors import (
    AgentCrashed,
    AgentError,
    AgentExited,
    AgentNotFound,
    AgentRaised,
    CpuLimitExceeded,
    InvalidAgent,
    InvalidInput,
    InvalidResult,
    InvalidType,
    IsolationUnavailable,
    LimitExceeded,
    MemoryLimitExceeded,
    OperationLimitExceeded,
    OutputLimitExceeded,
    ProtocolViolation,
    ResultLimitExceeded,
    SandboxError,
    ScratchLimitExceeded,
    StartFailed,
    ThreadLimitExceeded,
    TimeLimitExceeded,
    ToolError,
)
from sandbox.limits import Limits
from sandbox.result import Operation, RunResult
from sandbox.runner import arun, run

__all__ = [
    "AgentCrashed",
    "AgentError",
    "AgentExited",
    "AgentNotFound",
    "AgentRaised",
    "CpuLimitExceeded",
    "InvalidAgent",
    "InvalidInput",
    "InvalidResult",
    "InvalidType",
    "IsolationUnavailable",
    "LimitExceeded",
    "Limits",
    "MemoryLimitExceeded",
    "Operation",
    "OperationLimitExceeded",
    "OutputLimitExceeded",
    "ProtocolViolation",
    "ResultLimitExceeded",
    "RunResult",
    "SandboxError",
    "ScratchLimitExceeded",
    "StartFailed",
    "ThreadLimitExceeded",
    "TimeLimitExceeded",
    "ToolError",
    "arun",
    "run",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())
