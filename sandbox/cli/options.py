"""The options of `sandbox run` and `sandbox watch` that say what an agent is given and may do, and how they are read."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from sandbox.errors import InvalidInput
from sandbox.given.functions import check_tools
from sandbox.limits import Limits
from sandbox.permissions import Permissions

_LISTS = ("read", "write", "namespaces", "operations")

ToolsOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="MODULE:ATTRIBUTE", help="Functions the agent may call: a dict of them, or one. Repeatable."),
]
ModulesOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODULE:ATTRIBUTE", help="Modules it may import: a dict of their names and contents. Repeatable."
    ),
]
AgentsOption: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Agents it may call, by the names of their files.")
]
EnvOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="A variable for the agent; NAME alone takes it from here. Repeatable."),
]
PackagesOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--package", metavar="NAME", help="An installed package the agent may import. Repeatable."),
]
PermissionsOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--permission",
        metavar="KIND=VALUE",
        help="What it may do, as in read=shared or write='files:*'. Repeatable.",
    ),
]
LimitsOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="NAME=VALUE", help="How much it may use, as in operations=1000. Repeatable."),
]


def read_given(
    *,
    tools: list[str] | None,
    modules: list[str] | None,
    agents: Path | None,
    env: list[str] | None,
    packages: list[str] | None,
    permissions: list[str] | None,
    limits: list[str] | None,
    timeout_s: float,
) -> dict[str, Any]:
    """Return what these options say, by the names that `Sandbox` and `on_change` have for it."""
    return {
        "tools": read_tools(tools or []),
        "modules": read_modules(modules or []),
        "agents": agents,
        "env": read_env(env or []),
        "packages": packages,
        "permissions": read_permissions(permissions or []),
        "limits": read_limits(limits or [], timeout_s),
    }


def read_tools(places: list[str]) -> dict[str, Callable[..., Any]]:
    """Return the tools that ``module:attribute`` names: a dict of them, or one function by its own name."""
    tools: dict[str, Callable[..., Any]] = {}
    for place in places:
        found = _attribute("--tools", place)
        if isinstance(found, Mapping):
            tools |= check_tools(found)
        elif callable(found):
            tools[getattr(found, "__name__", place.rpartition(":")[2])] = found
        else:
            raise InvalidInput(
                f"--tools {place} is a {type(found).__name__}: it must be a function, or a dict of names and functions."
            )
    return tools


def read_modules(places: list[str]) -> dict[str, Any]:
    """Return the modules that ``module:attribute`` names: dicts of their names, and what is in each."""
    modules: dict[str, Any] = {}
    for place in places:
        found = _attribute("--modules", place)
        if not isinstance(found, Mapping):
            raise InvalidInput(
                f"--modules {place} is a {type(found).__name__}: it must be a dict of names and contents, as in"
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
    if os.getcwd() not in sys.path:  # noqa: PTH109  # what `python -m` does, and an installed command does not
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
    """Return the variables of ``NAME=VALUE``; a ``NAME`` alone is taken from this command's own environment."""
    env = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            if name not in os.environ:
                raise InvalidInput(f"--env {name}: there is no such variable here; write {name}=VALUE to set one.")
            value = os.environ[name]
        env[name] = value
    return env


def read_limits(settings: list[str], timeout_s: float) -> Limits:
    """Return the limits of ``name=value``."""
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
    """Return the permissions of ``read=NAMESPACE`` and the like, each of which may come more than once."""
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
            raise InvalidInput(f"--permission {setting!r} cannot be read; there are: {known}.")
    return Permissions(**values)


def _number(setting: str, text: str) -> int | float:
    digits = text.replace("_", "")
    try:
        return int(digits)
    except ValueError:
        try:
            return float(digits)
        except ValueError:
            raise InvalidInput(f"{setting!r} needs a number, as in {setting.partition('=')[0]}=1000.") from None
