"""Jobs and tasks: the runs that the host asks for, checked before anything is started."""

from __future__ import annotations

import inspect
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis_store.errors import InvalidValue
from redis_store.options import settle
from redis_store.values import rules
from sandbox.errors import InvalidInput, InvalidType
from sandbox.given.given import Given
from sandbox.given.options import OUTSIDE_START, START_DEFAULTS, StartOptions
from sandbox.given.sources import Source, read_source
from sandbox.permissions import Granted
from sandbox.record.timeline import Who

logger = logging.getLogger("sandbox")


@dataclass(frozen=True, slots=True)
class Job:
    """One agent process to start: an agent with its input."""

    who: Who
    source: Source
    input_text: bytes
    callers: tuple[str, ...] = ()
    """Names of the agents that wait for this one, outermost first."""

    @property
    def depth(self) -> int:
        """Number of agents that wait for this one."""
        return len(self.callers)

    @property
    def root(self) -> str | None:
        """Name of the outermost agent that waits for this one; None for a run that no agent called."""
        return self.callers[0] if self.callers else None


@dataclass(frozen=True, slots=True)
class Task:
    """One run to start: its first job, its user, its namespace and its permissions."""

    job: Job
    user: str
    namespace: str
    granted: Granted
    on_output: Callable[[str], None] | None


def make_task(given: Given, source_or_path: object, input_dict: object, user: str, options: StartOptions) -> Task:
    """Check the caller's arguments; raise `InvalidInput` for an invalid one."""
    options = settle(options, START_DEFAULTS, ("user",), OUTSIDE_START)
    agent, on_output = options["agent"], options["on_output"]
    if agent is not None and not isinstance(agent, str):
        raise InvalidType(f"agent must be a str, not {type(agent).__name__}.")
    source = read_source(source_or_path)
    if not isinstance(input_dict, dict):
        raise InvalidType(f"input_dict must be a dict, not {type(input_dict).__name__}.")
    input_text = _input_text(input_dict)
    size, most = len(input_text) + len(source.text) + len(given.described), given.limits.frame_bytes
    if size > most:
        raise InvalidInput(
            f"The source, the input and the given arguments take {size:,} bytes together, over Limits.frame_bytes"
            f" ({most:,}): pass less, or put data into the store."
        )
    if on_output is not None and (not callable(on_output) or inspect.iscoroutinefunction(on_output)):
        raise InvalidType("on_output must be a plain function (not async) that takes the printed text.")
    name = agent or source.name
    granted = Granted() if given.permissions is None else given.permissions.granted(input_dict, name)
    job = Job(Who(name, new_run_id()), source, input_text)
    return Task(job, user, options["namespace"], granted, None if on_output is None else guarded(on_output))


def new_run_id() -> str:
    """Return a random run id."""
    return secrets.token_hex(8)


def _input_text(input_dict: dict[Any, Any]) -> bytes:
    try:
        return rules.dump(input_dict)
    except InvalidValue as error:
        message, path = (text.replace("value", "input_dict", 1) for text in (str(error), error.path))
        raise InvalidType(message, path=path) from None


def guarded(on_output: Callable[[str], object]) -> Callable[[str], None]:
    """Wrap `on_output` so that it cannot harm a run: if it raises, the exception is logged and it is not called again."""
    wanted: Callable[[str], object] | None = on_output

    def guard(text: str) -> None:
        nonlocal wanted
        if wanted is None:
            return
        try:
            wanted(text)
        except Exception:
            wanted = None
            logger.exception("on_output raised; it is not called again in this run")

    return guard
