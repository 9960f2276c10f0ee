"""Installing the environment, packages, modules and globals that the host gives to an agent."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Container, Iterable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from sandbox.child.agents import Agents
from sandbox.child.functions import Calls, Tools

Function = Callable[[dict[str, Any]], Callable[..., Any]]


def tools_of(given: dict[str, Any], calls: Calls) -> Tools:
    """Return the agent's tools."""
    return Tools((one["name"], calls.function(one)) for one in given["tools"])


def hide_packages(names: Container[str], given: Container[str]) -> None:
    """Make packages that our modules use unknown to the agent. One that it is given finds its imported modules again."""
    for name in list(sys.modules):
        top, _, below = name.partition(".")
        if top in names and not (below and top in given):
            del sys.modules[name]


def put_in_place(given: dict[str, Any], packages: dict[str, Any], calls: Calls, agents: Agents) -> dict[str, Any]:
    """Set environment variables, make packages and modules importable, and return the agent's globals."""
    os.environ.update(given["env"])
    time.tzset()  # as Python does at its start; without TZ it is UTC in every tier that hides /etc/localtime
    if packages["modules"]:
        sys.meta_path.append(PackageFinder(packages["modules"], packages["metadata"]))
    for name, content in given["modules"].items():
        _fill(_module(name), content, calls.function)
    client = _module("gofannon_client")
    client.__dict__.setdefault("call", agents.call)
    return {
        "agents": agents,
        "gofannon_client": agents,
        **{name: _thing(one, calls.function) for name, one in given["globals"].items()},
    }


def _module(name: str) -> ModuleType:
    """Return an importable module of this name, created if missing together with its parent packages."""
    known = sys.modules.get(name)
    if known is not None:
        return known
    module = sys.modules[name] = ModuleType(name)
    module.__path__ = []  # marks it as a package; its content is already loaded
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(_module(parent), last, module)
    return module


def _fill(module: ModuleType, content: dict[str, Any], function: Function) -> None:
    for name, one in content.items():
        thing = _thing(one, function)
        if "function" in one:
            thing.__module__ = module.__name__
        setattr(module, name, thing)


def _thing(one: dict[str, Any], function: Function) -> Any:
    return function(one["function"]) if "function" in one else one["value"]


class PackageFinder(MetaPathFinder):
    """Import finder for the packages that the host names, each at its own path; packages installed beside them stay hidden."""

    def __init__(self, modules: dict[str, tuple[str | None, list[str]]], metadata: list[str]) -> None:
        self._modules = modules
        self._metadata = metadata

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in self._modules:
            return None
        file, folders = self._modules[name]
        if file is not None:
            return spec_from_file_location(name, file, submodule_search_locations=folders or None)
        namespace = ModuleSpec(name, None, is_package=True)
        namespace.submodule_search_locations = folders
        return namespace

    def find_distributions(self, context: Any = None) -> Iterable[Any]:
        """Yield distributions for `importlib.metadata`, with which packages look up their own version."""
        from importlib.metadata import PathDistribution, Prepared  # type: ignore[attr-defined]

        wanted = getattr(context, "name", None)
        for folder in map(Path, self._metadata):
            name = folder.name.partition("-")[0]
            if wanted is None or Prepared(wanted).normalized == Prepared(name).normalized:
                yield PathDistribution(folder)
