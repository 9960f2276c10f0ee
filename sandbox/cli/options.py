"""Options that `sandbox run` and `sandbox watch` share: what an agent is given, its permissions and its limits."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypedDict

import typer

from redis_store.options import Default
from redis_store.values import rules
from sandbox.errors import InvalidInput
from sandbox.given.functions import check_tools
from sandbox.given.options import SandboxOptions
from sandbox.limits import Limits
from sandbox.permissions import PATTERNS, Permissions

_LISTS = (*PATTERNS, "operations")
_MOST_DIGITS = 20

AgentFile: TypeAlias = Annotated[
    Path, typer.Argument(metavar="AGENT.PY", help="The agent: a Python file with a run function.")
]


class GivenOptions(TypedDict):
    """Options that both commands have, with their help."""

    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The server. Defaults to REDIS_URL, or else to the embedded server.",
            show_default=False,
        ),
    ]
    tools: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:ATTRIBUTE",
            help="Functions that the agent may call: a dict of names and functions, or one function. Repeatable.",
        ),
    ]
    modules: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:ATTRIBUTE",
            help="Modules that the agent may import: a dict of module names and contents. Repeatable.",
        ),
    ]
    agents: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of agents that the agent may call, by file name.")
    ]
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Environment variable for the agent. NAME alone copies it from this environment. Repeatable.",
        ),
    ]
    packages: Annotated[
        list[str] | None,
        typer.Option("--package", metavar="NAME", help="Installed package that the agent may import. Repeatable."),
    ]
    permissions: Annotated[
        list[str] | None,
        typer.Option(
            "--permission",
            metavar="KIND=VALUE",
            help="Permission of the agent, for example read=shared or write='files:*'. Repeatable.",
        ),
    ]
    limits: Annotated[
        list[str] | None,
        typer.Option(
            "--limit", metavar="NAME=VALUE", help="Resource limit of a run, for example operations=1000. Repeatable."
        ),
    ]
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="End a run after this many seconds."),
        Default(Limits().timeout_s),
    ]
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Keep a record of each run, for `sandbox runs` and the console."),
        Default(False),
    ]


def read_given(given: GivenOptions) -> SandboxOptions:
    """Return these options as those of `Sandbox` and `on_change`."""
    return {
        "url": given["url"],
        "tools": read_tools(given["tools"] or []),
        "modules": read_modules(given["modules"] or []),
        "agents": given["agents"],
        "env": read_env(given["env"] or []),
        "packages": given["packages"],
        "permissions": read_permissions(given["permissions"] or []),
        "limits": read_limits(given["limits"] or [], given["timeout"]),
        "keep": given["keep"],
    }


def read_tools(places: list[str]) -> dict[str, Callable[..., Any]]:
    """Return the tools at each ``module:attribute``: those of a dict, or one function under its own name."""
    tools: dict[str, Callable[..., Any]] = {}
    for place in places:
        found = _attribute("--tools", place)
        if isinstance(found, Mapping):
            tools |= check_tools(found)
        elif callable(found):
            tools[getattr(found, "__name__", place.rpartition(":")[2])] = found
        else:
            raise InvalidInput(
                f"--tools {place} is {rules.one(type(found))}: it must be a function, or a dict of names and functions."
            )
    return tools


def read_modules(places: list[str]) -> dict[str, Any]:
    """Return the modules at each ``module:attribute``: a dict of module names and their contents."""
    modules: dict[str, Any] = {}
    for place in places:
        found = _attribute("--modules", place)
        if not isinstance(found, Mapping):
            raise InvalidInput(
                f"--modules {place} is {rules.one(type(found))}: it must be a dict of names and contents, as in"
                " {'services.llm_service': {'ask': ask}}."
            )
        modules |= found
    return modules


def _attribute(option: str, place: str) -> Any:
    module, colon, path = place.partition(":")
    if not (module and colon and path):
        raise InvalidInput(
            f"{option} {place!r} cannot be read: write module:attribute, as in 'my_tools:{option[2:].upper()}'."
        )
    if os.getcwd() not in sys.path:  # noqa: PTH109  # as `python -m` does, unlike an installed command
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise InvalidInput(
            f"{option} {place}: {module!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise InvalidInput(f"{option} {place}: {module!r} has no {path!r}.") from None
    return found


def read_env(settings: list[str]) -> dict[str, str]:
    """Return the variables of each ``NAME=VALUE``; ``NAME`` alone copies it from this command's environment."""
    env = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            if name not in os.environ:
                raise InvalidInput(
                    f"--env {name}: this environment has no such variable; write {name}=VALUE to set it."
                )
            value = os.environ[name]
        env[name] = value
    return env


def read_limits(settings: list[str], timeout_s: float) -> Limits:
    """Return the limits of each ``name=value``."""
    known = {field.name for field in fields(Limits)}
    values: dict[str, Any] = {"timeout_s": timeout_s}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in known:
            raise InvalidInput(
                f"--limit {setting!r}: there is no limit {name!r}; there are: {', '.join(sorted(known))}."
            )
        values[name] = _number(setting, text)
    return Limits(**values)


def read_permissions(settings: list[str]) -> Permissions | None:
    """Return the permissions of ``read=NAMESPACE`` and the like; each may be given more than once."""
    if not settings:
        return None
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if name in _LISTS and equals:
            values.setdefault(name, []).extend([text] if text else [])
        elif name == "quota_bytes":
            values[name] = _number(setting, text)
        else:
            known = ", ".join(f"{one}=..." for one in (*_LISTS, "quota_bytes"))
            raise InvalidInput(f"--permission {setting!r} is not a permission: use one of {known}.")
    return Permissions(**values)


def _number(setting: str, text: str) -> int | float:
    if len(text) > _MOST_DIGITS and text.removeprefix("-").isdecimal():
        name = setting.partition("=")[0]
        raise InvalidInput(
            f"{name} was given a number of {len(text):,} digits, which is out of range: give one of fewer digits."
        )
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    raise InvalidInput(f"{setting!r} needs a number, as in {setting.partition('=')[0]}=1000.")
