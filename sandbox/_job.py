"""What the host asks for, checked before anything is started."""

from __future__ import annotations

import inspect
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis_store import _plain
from redis_store.errors import InvalidValue
from sandbox import isolation as isolation_module
from sandbox._output import guarded
from sandbox.errors import AgentNotFound, InvalidInput, InvalidType
from sandbox.limits import Limits

DEFAULT_AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Job:
    """One run to be made."""

    agent: str
    module: str
    filename: str
    source: bytes
    input_text: bytes
    user: str
    namespace: str
    url: str | None
    tools: dict[str, Callable[..., Any]]
    limits: Limits
    on_output: Callable[[str], None]
    isolation: str | None
    run: str


def make_job(
    source_or_path: str | os.PathLike[str],
    input_dict: dict[str, Any],
    user: str,
    namespace: str,
    agent: str | None,
    tools: Mapping[str, Callable[..., Any]] | None,
    url: str | None,
    limits: Limits | None,
    on_output: Callable[[str], object] | None,
    isolation: str | None,
) -> Job:
    """Check what a caller passed; every error here is the caller's."""
    source, path = _read(source_or_path)
    input_text = _input_text(input_dict)
    checked = _limits(limits)
    if len(input_text) + len(source) > checked.frame_bytes:
        raise InvalidInput(
            f"The source and the input take {len(input_text) + len(source):,} bytes, over Limits.frame_bytes"
            f" ({checked.frame_bytes:,}): pass less, or put it into the store."
        )
    if on_output is not None and (not callable(on_output) or inspect.iscoroutinefunction(on_output)):
        raise InvalidType("on_output must be a plain function that takes the text printed.")
    if agent is not None and not isinstance(agent, str):
        raise InvalidType(f"agent must be a str, not {type(agent).__name__}.")
    name = _clean(path.stem) if path else DEFAULT_AGENT
    return Job(
        agent=agent or name,
        module=name,
        filename=_clean(str(path.absolute())) if path else f"<{DEFAULT_AGENT}>",
        source=source,
        input_text=input_text,
        user=user,
        namespace=namespace,
        url=url,
        tools=_tools(tools),
        limits=checked,
        on_output=guarded(on_output),
        isolation=isolation_module.checked(isolation),
        run=secrets.token_hex(8),
    )


def _clean(name: str) -> str:
    """Return a file's name as text that can be sent, also where it is not UTF-8."""
    return name.encode(errors="backslashreplace").decode()


def _read(source_or_path: str | os.PathLike[str]) -> tuple[bytes, Path | None]:
    """Return an agent's source and, where it came from a file, the path."""
    if isinstance(source_or_path, str):
        has_def = "def " in source_or_path and not os.path.isfile(source_or_path)  # noqa: PTH113  # never raises
        if "\n" in source_or_path or has_def:
            return source_or_path.encode(errors="surrogatepass"), None
        if not source_or_path.strip():
            raise InvalidInput("The agent is an empty text: pass its source, or the path of its file.")
    elif not isinstance(source_or_path, os.PathLike):
        raise InvalidType(f"An agent must be its source or the path of its file, not {type(source_or_path).__name__}.")
    path = Path(source_or_path)
    try:
        return path.read_bytes(), path
    except (FileNotFoundError, NotADirectoryError):
        raise AgentNotFound(
            f"There is no agent's file at {str(path)!r} (a source would have a line break).", path=str(path)
        ) from None
    except IsADirectoryError:
        raise InvalidInput(f"{str(path)!r} is a folder: pass the path of the agent's file.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InvalidInput(f"The agent's file {str(path)!r} cannot be read: {reason}.") from None


def _input_text(input_dict: object) -> bytes:
    if not isinstance(input_dict, dict):
        raise InvalidType(f"input_dict must be a dict, not {type(input_dict).__name__}.")
    try:
        return _plain.dump(input_dict)
    except InvalidValue as error:
        message, path = (text.replace("value", "input_dict", 1) for text in (str(error), error.path))
        raise InvalidType(message, path=path) from None


def _limits(limits: object) -> Limits:
    if limits is None:
        return Limits()
    if not isinstance(limits, Limits):
        raise InvalidType(f"limits must be a sandbox.Limits, not {type(limits).__name__}.")
    return limits


def _tools(tools: object) -> dict[str, Callable[..., Any]]:
    if tools is None:
        return {}
    if not isinstance(tools, Mapping):
        raise InvalidType(f"tools must be a dict of callables, not {type(tools).__name__}.")
    for name, tool in tools.items():
        if not isinstance(name, str):
            raise InvalidType(f"The name of a tool must be a str, not {type(name).__name__}: {name!r}.")
        if not callable(tool):
            raise InvalidType(f"The tool {name!r} is a {type(tool).__name__}, which cannot be called.")
    return dict(tools)
