"""Calling other agents from an agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sandbox import errors
from sandbox.child import json_text
from sandbox.child.functions import Calls, dump, of_both_kinds
from sandbox.errors import AgentRaised, InvalidType, SandboxError


class Agents:
    """The other agents that the host lets this agent call: ``await agents.call(name, input_dict)``.

    Each call runs in its own process, for the same user, and counts towards this run's limits. Iterating yields the names.
    """

    def __init__(self, calls: Calls, names: list[str]) -> None:
        self._calls = calls
        self._names = names

    async def call(self, agent_name: str, input_dict: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run an agent and return its result.

        An exception that the agent raises is raised here as `AgentRaised`, and also has its original builtin class.
        """
        if not isinstance(agent_name, str):
            raise InvalidType(f"The name of an agent must be a str, not {type(agent_name).__name__}.")
        given = {} if input_dict is None else input_dict
        if not isinstance(given, dict):
            raise InvalidType(f"input_dict must be a dict, not {type(given).__name__}.")
        name = agent_name.encode(errors="backslashreplace").decode()
        text = await self._calls.reply_async("agent", name, dump(given, "input_dict"))
        return json_text.load(text)  # type: ignore[no-any-return]  # the host has checked that it is an object

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __repr__(self) -> str:
        return f"<agents: {', '.join(self._names) or 'none were given'}>"


def failure(kind: str, message: str, facts: bytes) -> Exception:
    """Return the exception for an agent that failed, from the host's message."""
    known = json.loads(facts)
    if kind == AgentRaised.__name__:
        return _raised(message, known)
    found = getattr(errors, kind, SandboxError) if kind in errors.__all__ else SandboxError
    error: Exception = found(message, **known)
    return error


def _raised(message: str, facts: dict[str, Any]) -> Exception:
    """Return an `AgentRaised` that is also an instance of the nearest builtin class, so that ``except ValueError`` catches it."""
    error = of_both_kinds(AgentRaised, facts["type_name"], facts["bases"], message, **facts)
    error.add_note(f"Traceback of the agent {facts['agent']!r}:\n{facts['traceback'].rstrip()}")
    return error
