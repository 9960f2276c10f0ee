"""The result of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime

from redis_store.types import Json, brief
from redis_store.values.printable import one_line, quoted
from sandbox.errors import SandboxError
from sandbox.masking import Hidden


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of the store made by an agent, as carried out by the host."""

    time: datetime
    """Time at which the host received the call, in UTC."""
    agent: str
    operation: str
    namespace: str
    key: str | None
    """Key of the operation, if it has one. A key of more than 256 characters is shortened and ends with an ellipsis."""
    count: int
    """Number of keys read, written, found or deleted."""
    hit: bool | None
    """Whether the key existed; None for operations that do not ask."""
    bytes: int
    """Size of the JSON text written or read, in bytes."""
    duration_ms: float
    """Time taken in the host, in milliseconds."""
    error: str | None = None
    """Name of the error raised in the agent, if any."""
    run: str = ""
    """Id of the run that made the call: that of the result, or of a nested run."""
    value: Hidden | None = field(default=None, repr=False, compare=False)
    kept: int = 0
    """Number of values that `invalidate_tag` did not delete, because the agent may not write in their namespaces.

    It can include values that have expired or were deleted lately.
    """

    @property
    def preview(self) -> str | None:
        """The first 200 characters of the value (of the first value, if several), with likely secrets masked."""
        return None if self.value is None else self.value.preview()


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool or of another agent."""

    time: datetime
    agent: str
    """Name of the calling agent."""
    kind: str
    """``tool`` or ``agent``."""
    name: str
    """Name of the called tool or agent."""
    duration_ms: float
    error: str | None = None
    """Name of the error that the call raised, if any."""
    run: str = ""
    """Id of the caller's run."""
    nested_run: str | None = None
    """Id of the run that the call started; None for a tool."""


_MESSAGE_LINES = 200
"""Lines at the end of a traceback among which the exception is looked for."""
_MODULES = re.compile(r"\A(?:[\w<>]+\.)+(?=\w+(?::|\Z))")
"""What stands before the name of an exception's class: that of its module, or of the function that defines it."""


@dataclass(frozen=True, slots=True)
class Hint:
    """A suggestion for the author of an agent, derived from its calls of the store."""

    kind: str
    """``single_gets``, ``empty_namespace``, ``near_limit``, ``useless_cache``, ``refused_writes``, ``kept_values``,
    ``changed_copy`` or ``forgotten_await``."""
    message: str
    agent: str
    namespace: str | None = None

    def __str__(self) -> str:
        return one_line(self.message)


def lines_above(message: str, traceback: str) -> str:
    """Return the lines of a traceback without the exception at its end, if the message that follows says it too."""
    lines = traceback.rstrip().split("\n") if traceback else []
    for start in range(max(0, len(lines) - _MESSAGE_LINES), len(lines)):
        said = _MODULES.sub("", "\n".join(lines[start:]))
        if f" raised {one_line(said)}" in message:
            del lines[start:]
            break
    return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class RunResult:
    """The outcome of a run: its output or its error, and a record of its calls."""

    output: dict[str, Json] | None
    """The dict that the agent's `run` returned; None if the run failed."""
    error: SandboxError | None
    """The error that ended the run; None if it succeeded."""
    stdout: str
    """Text printed by the agent and by nested agents, stdout and stderr together, in order of arrival."""
    operations: list[Operation]
    """Calls of the store in order of time, including those of nested runs. Above `Limits.timeline`, the first and the last."""
    duration: float
    """Time from the start to the result, in seconds."""
    isolation: str
    """Tier of isolation: "full", "namespaces", "restricted" or "unsafe-process"; see `sandbox.isolation`."""
    run: str
    """Id of this run, which is also recorded in the change log entries of its writes."""
    agent: str = ""
    """Name of the agent."""
    started: datetime | None = None
    """Start of the run, in UTC."""
    calls: list[Call] = field(default_factory=list)
    """Calls of tools and of other agents in order of time, bounded like `operations`."""
    hints: list[Hint] = field(default_factory=list)
    """Suggestions for the author of the agent."""
    operations_left_out: int = 0
    """Number of calls of the store that `operations` omits."""
    is_kept: bool = False
    """Whether a record of the run was kept; see `KeptRuns`."""

    def check(self) -> dict[str, Json]:
        """Return the output, or raise the error with the agent's own traceback as a note."""
        error = self.error
        if error is None:
            return self.output or {}
        lines = getattr(error, "traceback", "") or getattr(error, "details", "")
        if lines and not getattr(error, "__notes__", ()):
            error.add_note(f"In the agent:\n{quoted(lines_above(str(error), lines))}")
        raise error

    def __repr__(self) -> str:
        outcome = brief(self.output) if self.error is None else f"{type(self.error).__name__}: {brief(str(self.error))}"
        counts = f"{len(self.operations) + self.operations_left_out:,} store calls, {len(self.calls):,} other calls"
        printed = f"{len(self.stdout):,} characters printed"
        return f"<RunResult of {self.agent!r}, {self.isolation}, {self.duration:.3g} s: {outcome}; {counts}, {printed}>"
