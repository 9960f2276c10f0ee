"""The outcome of a run: exit status and last message of its process become a result or an error."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import Any, NamedTuple

from redis_store.types import Json
from redis_store.values.printable import escaped, one_line
from sandbox.errors import (
    AgentCrashed,
    AgentExited,
    AgentRaised,
    InvalidAgent,
    InvalidResult,
    ProtocolViolation,
    SandboxError,
)
from sandbox.host.tools import load_json
from sandbox.limits import Limits, exceeded
from sandbox.protocol.frames import FrameError
from sandbox.protocol.messages import LOST_CHANNEL_EXIT_CODE

_CPU_SHARE = 0.5
"""Share of `Limits.cpu_s` from which a SIGKILL counts as the processor-time limit.

The kernel counts the limit in ticks and reports usage in nanoseconds; on a busy machine the two differ considerably.
"""


_MOST_BASES = 16
"""Builtin classes of an exception that are kept: hostile agents send any text."""


class Returned(NamedTuple):
    """An agent's output, and its JSON text."""

    output: dict[str, Json]
    text: bytes


def from_message(kind: str, parts: list[Any], agent: str, limits: Limits) -> Returned | SandboxError:
    """Return the output or the error that the agent process reported."""
    who = f"Agent {agent!r}"
    if kind == "result":
        return _output(parts[0], limits)
    if kind == "result_too_big":
        return exceeded(limits, "result_bytes", size=parts[0])
    if kind == "raised":
        name, message, advice, bases, trace, loading = parts
        trace = escaped(trace)
        if name == "MemoryError":
            return exceeded(limits, "memory_bytes", {"traceback": trace, "loading_failed": loading})
        raised = f"{name}: {message}" if message else name
        told = {"type_name": name, "message": message, "traceback": trace, "loading_failed": loading}
        told["bases"] = bases.split()[:_MOST_BASES]
        return AgentRaised(f"{who} raised {one_line(_advised(raised, advice))}", agent=agent, **told)
    if kind == "invalid_agent":
        return InvalidAgent(f"{who} {one_line(parts[0])}", agent=agent, details=escaped(parts[1]))
    if kind == "invalid_result":
        said = one_line(parts[0])
        return InvalidResult(f"{who} did not return a JSON object: {said}", agent=agent, path=parts[1])
    if kind == "exited":
        said = f" and the message {parts[1]!r}" if parts[1] else ""
        message = f"{who} called sys.exit with code {parts[0]}{said}."
        return AgentExited(message, agent=agent, code=parts[0], loading_failed=parts[2])
    return ProtocolViolation(f"The agent's process sent the message {kind!r} out of turn.")


def _advised(raised: str, advice: str) -> str:
    if not advice:
        return raised
    return f"{raised}{'' if raised.endswith(('.', '?', '!')) else '.'} {advice}"


def from_exit_code(code: int, cpu_s: float, agent: str, limits: Limits, was_lost: bool = False) -> SandboxError:
    """Return the error for an agent process that ended without a last message, on its own or with its zygote."""
    who = f"Agent {agent!r}"
    if was_lost:
        message = (
            f"{who} was ended by the end of its zygote, the process that starts agents; what it had written stays."
        )
        return AgentCrashed(message, agent=agent, signal=signal.SIGKILL.name, host_failed=True)
    if code == -signal.SIGKILL and cpu_s > limits.cpu_s * _CPU_SHARE:
        return exceeded(limits, "cpu_s")
    if code == LOST_CHANNEL_EXIT_CODE:
        return closed_channel()
    if code >= 0:
        return AgentExited(f"{who} ended its process with exit code {code} before it returned.", agent=agent, code=code)
    name = str(-code)
    with suppress(ValueError):
        name = signal.Signals(-code).name
    return AgentCrashed(f"{who} crashed: its process was ended by {name}.", agent=agent, signal=name)


def closed_channel() -> ProtocolViolation:
    return ProtocolViolation("The agent's process closed its control channel.")


def violation(what: object) -> ProtocolViolation:
    return ProtocolViolation(f"The agent's process sent {what} on its control channel.")


def _output(text: bytes, limits: Limits) -> Returned | SandboxError:
    if len(text) > limits.result_bytes:
        return exceeded(limits, "result_bytes", size=len(text))
    try:
        output: dict[str, Json] = load_json(text, dict)
    except FrameError as error:
        return violation(error)
    return Returned(output, text)
