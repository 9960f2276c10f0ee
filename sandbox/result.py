"""What a run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from redis_store.types import Json
from sandbox.errors import SandboxError
from sandbox.masking import Hidden

__all__ = ["Call", "Hint", "Operation", "RunResult"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of the store that an agent made, as the host carried it out."""

    time: datetime
    """When the host received it, in UTC."""
    agent: str
    operation: str
    namespace: str
    key: str | None
    """The key, where the operation has one; of more than 256 characters the beginning, with an ellipsis."""
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
    run: str = ""
    """The id of the run that made it: that of the result, or of a nested agent's run."""
    value: Hidden | None = field(default=None, repr=False, compare=False)

    @property
    def preview(self) -> str | None:
        """The first 200 characters of the value, the first of several, with what looks like a secret masked."""
        return None if self.value is None else self.value.preview()


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool or of another agent."""

    time: datetime
    agent: str
    """Who called."""
    kind: str
    """``tool``, or ``agent``."""
    name: str
    """What was called."""
    duration_ms: float
    error: str | None = None
    """The name of the error that came of it."""
    run: str = ""
    """The id of the caller's run."""
    nested_run: str | None = None
    """The id of the run that the call of an agent started."""


@dataclass(frozen=True, slots=True)
class Hint:
    """Something that the author of an agent might do better."""

    kind: str
    """``single_gets``, ``empty_namespace``, ``near_limit`` or ``useless_cache``."""
    message: str
    agent: str
    namespace: str | None = None

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class RunResult:
    """The outcome of a run: what it returned, or why it did not, and what it did on the way."""

    output: dict[str, Json] | None
    """What `run` returned; None where there is an error."""
    error: SandboxError | None
    stdout: str
    """What the agent printed, stdout and stderr together, in the order in which it came; nested agents' too."""
    operations: list[Operation]
    """The calls of the store in order of time, nested agents' too; of more than `Limits.timeline` the first and the last."""
    duration: float
    """Seconds from the start to the result."""
    isolation: str
    """How the agent was kept in: "full", "namespaces", "restricted" or "unsafe-process"; `sandbox.isolation` explains."""
    run: str
    """The id of this run, which also stands in the log entries of what it wrote."""
    agent: str = ""
    started: datetime | None = None
    calls: list[Call] = field(default_factory=list)
    """The calls of tools and of other agents, in order of time; bounded as `operations` are."""
    hints: list[Hint] = field(default_factory=list)
    operations_left_out: int = 0
    """How many calls of the store `operations` does not show."""

    def check(self) -> dict[str, Json]:
        """Return the output, or raise the error, with the agent's own lines as a note."""
        error = self.error
        if error is None:
            return self.output or {}
        lines = getattr(error, "traceback", "") or getattr(error, "details", "")
        if lines and not getattr(error, "__notes__", ()):
            error.add_note(f"In the agent:\n{lines.rstrip()}")
        raise error
