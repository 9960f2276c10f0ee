"""Reads the options of `sandbox run` that say what an agent is given and may do."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from sandbox._functions import check_tools
from sandbox.errors import InvalidInput
from sandbox.limits import Limits
from sandbox.policy import Permissions

_LISTS = ("read", "write", "namespaces", "operations")


def read_tools(places: list[str]) -> dict[str, Callable[..., Any]]:
    """Return the tools that ``module:attribute`` names: a dict of them, or one function by its own name."""
    tools: dict[str, Callable[..., Any]] = {}
    for place in places:
        found = _attribute(place)
        if isinstance(found, Mapping):
            tools |= check_tools(found)
        elif callable(found):
            tools[getattr(found, "__name__", place.rpartition(":")[2])] = found
        else:
            raise InvalidInput(
                f"--tools {place} is a {type(found).__name__}: it must be a function, or a dict of names and functions."
            )
    return tools


def _attribute(place: str) -> Any:
    module, colon, path = place.partition(":")
    if not (module and colon and path):
        raise InvalidInput(f"--tools {place!r} cannot be read: write module:attribute, as in 'my_tools:TOOLS'.")
    if os.getcwd() not in sys.path:  # noqa: PTH109  # what `python -m` does, and an installed command does not
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise InvalidInput(
            f"--tools {place}: {module!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise InvalidInput(f"--tools {place}: {module!r} has no {path!r}.") from None
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
