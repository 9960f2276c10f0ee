"""Limits on the resources of one run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from redis_store.limits import shown
from redis_store.options import names_its_fields
from sandbox import errors
from sandbox.errors import InvalidInput, InvalidType, LimitExceeded

_MIB = 1024 * 1024


@names_its_fields
@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one run, shared with all runs nested in it. The host enforces them by ending the run, which no agent can catch.

    A call of the store over `frame_bytes` is an exception: it raises `LimitExceeded` in the agent and nothing is sent.
    """

    timeout_s: float = 300.0
    """Time from the start to the result, in seconds."""
    output_bytes: int = 10 * _MIB
    """Size of the text that the agents print, stdout and stderr together, in bytes."""
    result_bytes: int = 16 * _MIB
    """Size of one result, and of the arguments of one call of a tool or an agent, in bytes of JSON text."""
    operations: int = 250_000
    """Number of calls of the store."""
    bytes_written: int = 1024 * _MIB
    """Size of what the agents store, in bytes: keys, values as JSON text, metadata, and charges for what the server adds.

    The charge for a key is 240 bytes and its name; docs/limits.md has the others, for namespaces, tags, locks and watches.
    Together this is about the memory that the server takes.
    """
    tool_calls: int = 100_000
    """Number of calls of tools and of the other host functions given to agents."""
    nested_depth: int = 8
    """Depth of nested calls. An agent called by the first agent runs at depth 1."""
    nested_runs: int = 1_000
    """Number of runs that agents start by calling other agents."""
    nested_at_once: int = 16
    """Number of concurrent runs at each depth. Further runs wait their turn; exceeding it does not end the run."""
    timeline: int = 10_000
    """Number of entries kept in each of `RunResult.operations` and `RunResult.calls`. Exceeding it does not end the run."""
    frame_bytes: int = 65 * _MIB
    """Size of one call of the store, or of its reply, in bytes. The default has room for a value of 64 MiB."""
    cpu_s: int = 120
    """Processor time of all threads of one agent process, in seconds."""
    memory_bytes: int = 1024 * _MIB
    """Address space beyond that of the interpreter, in bytes; above it, allocating raises `MemoryError` in the agent."""
    threads: int = 64
    """Number of threads that the agent may start; above it, starting one raises `RuntimeError` in the agent or ends the run."""
    descriptors: int = 256
    """Number of open files and sockets; above it, opening one raises `OSError` in the agent."""
    scratch_bytes: int = 128 * _MIB
    """Size of the files in the agent's folder, in bytes; above it, writing raises `OSError` in the agent or ends the run."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name))
        object.__setattr__(self, "timeout_s", float(self.timeout_s))

    def for_the_kernel(self) -> dict[str, int]:
        """Return the limits that the agent process sets for itself before the agent starts."""
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


def check_whole(name: str, value: object, least: int, most: int) -> int:
    """Return the whole number that was given for an option, or raise if it is not between two bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidType(f"{name} must be an int, not {type(value).__name__}.")
    if not least <= value <= most:
        raise InvalidInput(f"{name}={shown(value)} cannot be used: give at least {least:,} and at most {most:,}.")
    return value


def _check(name: str, value: object) -> None:
    whole = name != "timeout_s"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise InvalidType(f"Limits.{name} must be {'an int' if whole else 'a number'}, not {type(value).__name__}.")
    smallest, largest = _SMALLEST.get(name, 0), _LARGEST.get(name, 2**40)
    if not smallest <= value <= largest or value == 0:  # so for nan too
        at_least = f"at least {smallest:,}" if smallest else "more than 0"
        raise InvalidInput(f"Limits.{name}={shown(value)} cannot be used: give {at_least} and at most {largest:,}.")


_EXCEEDED: dict[str, tuple[type[LimitExceeded], str]] = {
    "timeout_s": (
        errors.TimeLimitExceeded,
        "The run took longer than {value:g} s and was ended: raise Limits.timeout_s (--timeout).",
    ),
    "output_bytes": (
        errors.OutputLimitExceeded,
        "The agent printed more than {value:,} bytes: print less, or raise Limits.output_bytes.",
    ),
    "result_bytes": (
        errors.ResultLimitExceeded,
        (
            "The result takes {size:,} bytes as JSON, and at most {value:,} are allowed: put it into the store and return"
            " its key, or raise Limits.result_bytes."
        ),
    ),
    "operations": (
        errors.OperationLimitExceeded,
        "The agent called the store more than {value:,} {times}: raise Limits.operations, or use get_many and set_many.",
    ),
    "bytes_written": (
        errors.WriteLimitExceeded,
        "The agent wrote more than {value:,} bytes, charges included: raise Limits.bytes_written, or write less.",
    ),
    "tool_calls": (
        errors.ToolCallLimitExceeded,
        "The agent called tools more than {value:,} {times}: call them less often, or raise Limits.tool_calls.",
    ),
    "nested_depth": (
        errors.NestingLimitExceeded,
        "Agents called each other more than {value} levels deep ({path}): end the recursion, or raise Limits.nested_depth.",
    ),
    "nested_runs": (
        errors.NestingLimitExceeded,
        "Agents called agents more than {value:,} {times}: call them less often, or raise Limits.nested_runs.",
    ),
    "cpu_s": (
        errors.CpuLimitExceeded,
        "The agent used its {value:,} seconds of processor time and was ended: raise Limits.cpu_s.",
    ),
    "memory_bytes": (
        errors.MemoryLimitExceeded,
        "The agent ran out of memory: its limit is {value:,} bytes; raise Limits.memory_bytes.",
    ),
    "threads": (
        errors.ThreadLimitExceeded,
        "The agent had more than {value:,} threads: start fewer, or raise Limits.threads.",
    ),
    "scratch_bytes": (
        errors.ScratchLimitExceeded,
        "The agent stored more than {value:,} bytes in its folder: delete files earlier, or raise Limits.scratch_bytes.",
    ),
}


def exceeded(limits: Limits, name: str, facts: dict[str, Any] | None = None, /, **texts: object) -> LimitExceeded:
    """Return the error for a run that was ended at a limit; `texts` fill its message."""
    kind, message = _EXCEEDED[name]
    value = getattr(limits, name)
    said = message.format(value=value, times="time" if value == 1 else "times", **texts)
    return kind(said, limit=name, value=value, **(facts or {}))
