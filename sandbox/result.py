"""What a run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from redis_store.types import Json
from sandbox.errors import SandboxError

__all__ = ["Operation", "RunResult"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of the store that an agent made, as the host carried it out."""

    time: datetime
    """When the host received it, in UTC."""
    agent: str
    operation: str
    namespace: str
    key: str | None
    """The key, where the operation has one."""
    count: int
    """How many keys it read, wrote, found or deleted."""
    hit: bool | None
    """Whether the key was there, for operations that ask."""
    bytes: int
    """Bytes of JSON text that it wrote or read."""
    duration_ms: float
    """The time it took in the host, in milliseconds."""
    error: str | None = None
    """The name of the error that it raised in the agent."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """The outcome of a run: what it returned, or why it did not, and what it did on the way."""

    output: dict[str, Json] | None
    """What `run` returned; None where there is an error."""
    error: SandboxError | None
    stdout: str
    """What the agent printed, stdout and stderr together, in the order in which it came."""
    operations: list[Operation]
    duration: float
    """Seconds from the call to the result."""
    isolation: str
    """How the agent was kept in: "full", "namespaces", "restricted" or "unsafe-process"; `sandbox.isolation` explains."""
    run: str
    """The id of this run, which also stands in the log entries of what it wrote."""

    def check(self) -> dict[str, Json]:
        """Return the output, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.output or {}
