"""Sources of agents: a text, a file, a dict of either, or a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from redis_store.errors import DataStoreError
from redis_store.namespace.keys import MAX_AGENT_BYTES, encode_name
from sandbox.errors import AgentNotFound, InvalidInput, InvalidType
from sandbox.isolation.lacks import is_lack, start_failure
from sandbox.permissions import DEFAULT_AGENT

SourceOrPath: TypeAlias = str | os.PathLike[str]
Agents: TypeAlias = Mapping[str, SourceOrPath] | os.PathLike[str]

_PATH = re.compile(
    r"""
      .*\.py                                         # agents/search.py, ~/my agents/search.py
    | (?: [~/\\.] | [a-z]:[/\\] ) .*               # /etc/passwd, ~, ./search, C:\agents
    | [^=(:;\s]+ | [^=(:;]* [/\\] [^=(:;]*          # secrets.env, agents/search engine: defines no function
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Texts of one line that look like a path."""

_LONGEST_PATH = 4096
"""Bound on the texts that may be paths, in characters; no system opens a longer one."""

_MOST_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Source:
    """The source of an agent, with its name, the name of its module and a filename for tracebacks."""

    name: str
    module: str
    filename: str
    text: bytes

    @property
    def is_file(self) -> bool:
        """Whether the agent was passed as the path of a file."""
        return not self.filename.startswith("<")


def read_source(source_or_path: object, name: str | None = None) -> Source:
    """Return an agent. A str is its source, and never names a file; an `os.PathLike` is the path of its file."""
    text, path = _read(source_or_path)
    if path is None:
        called = name or DEFAULT_AGENT
        return Source(called, DEFAULT_AGENT if name is None else _identifier(called), f"<{called}>", text)
    stem = _clean(path.stem)
    return Source(name or stem, stem, _clean(str(path.absolute())), text)


def read_agents(agents: object) -> dict[str, Source]:
    """Read the agents that a run may call: from a dict by name, or from a folder by file name."""
    if agents is None:
        return {}
    if isinstance(agents, os.PathLike):
        return _read_folder(_path(agents))
    if isinstance(agents, str):
        raise InvalidType(f"agents is the str {_shown(agents)}: pass a folder as Path({_shown(agents)}).")
    if not isinstance(agents, Mapping):
        raise InvalidType(
            "agents must be a dict of names and sources or paths, or the Path of a folder,"
            f" not {type(agents).__name__}."
        )
    return {_checked_name(name): _named_source(name, source) for name, source in agents.items()}


def _named_source(name: str, source: object) -> Source:
    try:
        return read_source(source, name)
    except InvalidInput as error:
        raise type(error)(f"The agent {name!r}: {error}", **error.__dict__) from None


def _read_folder(folder: Path) -> dict[str, Source]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".py" and path.is_file())
    except FileNotFoundError:
        raise AgentNotFound(f"There is no folder of agents at {str(folder)!r}.", path=str(folder)) from None
    except NotADirectoryError:
        raise InvalidInput(
            f"{str(folder)!r} is not a folder: pass the Path of a folder of agents, or a dict of names and paths."
        ) from None
    except (OSError, ValueError) as error:
        _pass_on_lack(error)
        raise InvalidInput(f"The folder of agents {str(folder)!r} cannot be read: {_reason(error)}.") from None
    found = [read_source(path) for path in paths if not path.name.startswith(("_", "."))]
    if not found:
        raise InvalidInput(f"The folder {str(folder)!r} contains no agents: an agent is a file such as search.py.")
    return {source.name: source for source in found}


def _checked_name(name: object) -> str:
    try:
        encode_name(name, "name of an agent", MAX_AGENT_BYTES)
    except DataStoreError as error:
        kind = InvalidType if isinstance(error, TypeError) else InvalidInput
        raise kind(str(error)) from None
    return str(name)


def _read(source_or_path: object) -> tuple[bytes, Path | None]:
    """Return the source of an agent and the path of its file, or None for a text."""
    if isinstance(source_or_path, str):
        return _checked_text(source_or_path).encode(errors="surrogatepass"), None
    if not isinstance(source_or_path, os.PathLike):
        raise InvalidType(
            f"An agent must be its source (a str) or the Path of its file, not {type(source_or_path).__name__}."
        )
    path = _path(source_or_path)
    try:
        return path.read_bytes(), path
    except (FileNotFoundError, NotADirectoryError):
        raise AgentNotFound(f"There is no agent file at {str(path)!r}.", path=str(path)) from None
    except IsADirectoryError:
        raise InvalidInput(
            f"{str(path)!r} is a folder: pass the path of the agent's file.", loading_failed=True
        ) from None
    except (OSError, ValueError) as error:
        _pass_on_lack(error)
        raise InvalidInput(
            f"The agent's file {str(path)!r} cannot be read: {_reason(error)}.", loading_failed=True
        ) from None


def _checked_text(text: str) -> str:
    """Return a source, unless it is empty or most likely a path. Whether there is such a file makes no difference."""
    code = text.strip()
    if not code:
        raise InvalidInput("The agent is an empty str: pass its source, or the Path of its file.")
    if len(code) <= _LONGEST_PATH and not re.search(r"[\r\n]", code) and _PATH.fullmatch(code):
        raise InvalidInput(
            f"The agent {_shown(code)} looks like a path, but a str is source code: pass a file as Path({_shown(code)})."
        )
    return text


def _path(given: os.PathLike[str]) -> Path:
    try:
        return Path(given)
    except TypeError:  # a path of bytes
        raise InvalidType(f"The path {given!r} is not one of text: pass a pathlib.Path.") from None


def _shown(text: str) -> str:
    return repr(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}...")


def _pass_on_lack(error: OSError | ValueError) -> None:
    """Raise `StartFailed` if the file may be readable a moment later."""
    if isinstance(error, OSError) and is_lack(error):
        raise start_failure(error) from error


def _reason(error: OSError | ValueError) -> object:
    return error.strerror if isinstance(error, OSError) and error.strerror else error


def _clean(name: str) -> str:
    """Return a file name as text that can be sent, even if it is not UTF-8."""
    return name.encode(errors="backslashreplace").decode()


def _identifier(name: str) -> str:
    """Return a module name for an agent whose source is not a file."""
    return "".join(letter if letter.isalnum() else "_" for letter in name) or DEFAULT_AGENT
