"""What one run may use before the host ends it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from sandbox.errors import InvalidInput, InvalidType

__all__ = ["Limits"]

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one run and of all runs nested in it together; the host enforces them, and nothing in an agent can catch that.

    A call of the store over `frame_bytes` is the exception: it raises `LimitExceeded` in the agent and nothing is sent.
    """

    timeout_s: float = 300.0
    """Seconds from the start to the result."""
    output_bytes: int = 10 * _MIB
    """What the agents may print, stdout and stderr together."""
    result_bytes: int = 16 * _MIB
    """The JSON text of one result, and of the arguments of one call of a tool or an agent."""
    operations: int = 250_000
    """Calls of the store."""
    bytes_written: int = 1024 * _MIB
    """What the agents send to be stored: keys, values as JSON text, metadata, and names of locks, limits and tags."""
    tool_calls: int = 100_000
    """Calls of tools, and of other functions that the host gives."""
    nested_depth: int = 8
    """Agents that wait for each other: the first one's call of another makes one."""
    nested_runs: int = 1_000
    """Runs that agents start by calling agents."""
    nested_at_once: int = 16
    """Runs at the same time at each depth; more wait their turn, which ends nothing."""
    timeline: int = 10_000
    """What the result's `operations` and `calls` keep of each; what is over is left out, which ends nothing."""
    frame_bytes: int = 65 * _MIB
    """One call of the store or its answer: room for a value of 64 MiB."""
    cpu_s: int = 120
    """Seconds of processor time, of all the agent's threads together."""
    memory_bytes: int = 1024 * _MIB
    """Address space beside what the interpreter takes; over it, allocating raises `MemoryError` in the agent."""
    threads: int = 64
    """Threads that the agent may start; over it, starting one raises `RuntimeError` in the agent, or ends the run."""
    descriptors: int = 256
    """Open files and sockets; over it, opening one raises `OSError` in the agent."""
    scratch_bytes: int = 128 * _MIB
    """Files in the agent's folder; over it, writing raises `OSError` in the agent, or the run ends."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name))
        object.__setattr__(self, "timeout_s", float(self.timeout_s))

    def for_the_kernel(self) -> dict[str, int]:
        """Return what the agent's process sets for itself before the agent begins."""
        return {name: getattr(self, name) for name in _KERNEL}


_KERNEL = ("cpu_s", "memory_bytes", "threads", "descriptors", "scratch_bytes")
_LARGEST = {
    "timeout_s": 10 * 365 * 86400,
    "frame_bytes": 2**32 - 1,
    "result_bytes": 2**31,
    "operations": 2**31,
    "cpu_s": 10 * 365 * 86400,
    "threads": 100_000,
    "descriptors": 100_000,
    "timeline": 2**20,
    "nested_depth": 64,
    "nested_at_once": 256,
}
_SMALLEST = {"frame_bytes": 64 * 1024, "memory_bytes": _MIB, "descriptors": 16, "scratch_bytes": 64 * 1024}


def _check(name: str, value: object) -> None:
    whole = name != "timeout_s"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise InvalidType(f"Limits.{name} must be {'an int' if whole else 'a number'}, not {type(value).__name__}.")
    smallest, largest = _SMALLEST.get(name, 0), _LARGEST.get(name, 2**40)
    if not math.isfinite(value) or not smallest <= value <= largest or value == 0:
        at_least = f"at least {smallest:,}" if smallest else "more than 0"
        raise InvalidInput(f"Limits.{name}={value!r} cannot be used: give {at_least} and at most {largest:,}.")
