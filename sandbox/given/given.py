"""The arguments that agents are given besides their input, checked before anything is started and shared by runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from redis_store.errors import InvalidValue
from redis_store.options import settle
from redis_store.values import rules
from sandbox.errors import InvalidInput, InvalidType
from sandbox.given.functions import Function, check_name_is_str, check_tools, checked_dict, describe_function
from sandbox.given.options import OUTSIDE_SANDBOX, SANDBOX_DEFAULTS, SandboxOptions
from sandbox.given.packages import Packages, find_packages
from sandbox.given.sources import Source, read_agents
from sandbox.isolation import tiers
from sandbox.kept_runs import KeptRuns, check_keep
from sandbox.limits import Limits
from sandbox.permissions import Permissions

RESERVED_GLOBALS = frozenset({"data_store", "agents", "gofannon_client", "run"})
_OUR_MODULES = frozenset({"redis_store", "sandbox", "msgpack"})


@dataclass(frozen=True, slots=True)
class Given:
    """Checked arguments that runs may share."""

    functions: dict[str, Function] = field(default_factory=dict)
    """Host functions by address: the name of a tool, ``global:name`` or ``module:a.b:name``."""
    agents: dict[str, Source] = field(default_factory=dict)
    packages: Packages = field(default_factory=Packages)
    permissions: Permissions | None = None
    limits: Limits = field(default_factory=Limits)
    isolation: str | None = None
    """The requested tier of `sandbox.isolation`; None for the best available."""
    keep: KeptRuns | None = None
    """Bounds of the records of runs; None if none are kept."""
    described: bytes = b"{}"
    """Description of the arguments for the agent process, as JSON."""


def make_given(options: SandboxOptions) -> Given:
    """Check the caller's options; raise `InvalidInput` for an invalid one."""
    options = settle(options, SANDBOX_DEFAULTS, ("concurrency", "broker"), OUTSIDE_SANDBOX)
    functions: dict[str, Function] = {}
    tools = check_tools(options["tools"])
    sources = read_agents(options["agents"])
    packages = find_packages(options["packages"])
    described = {
        "tools": [_describe(name, name, tool, functions) for name, tool in tools.items()],
        "globals": _globals(options["globals"], functions),
        "modules": _modules(options["modules"], functions),
        "env": _env(options["env"]),
        "agents": list(sources),
    }
    return Given(
        functions,
        sources,
        packages,
        _permissions(options["permissions"]),
        _limits(options["limits"]),
        tiers.checked(options["isolation"]),
        check_keep(options["keep"]),
        described=json.dumps(described).encode(),
    )


def _describe(name: str, address: str, function: Function, functions: dict[str, Function]) -> dict[str, Any]:
    if address in functions:
        raise InvalidInput(f"{address!r} is the name of both a tool and another given function: rename the tool.")
    functions[address] = function
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"The name {name!r} has a lone surrogate, which cannot be sent: rename it.") from None
    return describe_function(name, address, function)


def _globals(given: object, functions: dict[str, Function]) -> dict[str, Any]:
    described = {}
    for name, value in checked_dict("globals", given, "names and values").items():
        _check_identifier(name, "global")
        if name in RESERVED_GLOBALS:
            raise InvalidInput(f"The global {name!r} cannot be given: the sandbox reserves this name.")
        described[name] = _thing(f"globals[{name!r}]", name, f"global:{name}", value, functions)
    return described


def _modules(given: object, functions: dict[str, Function]) -> dict[str, Any]:
    described: dict[str, Any] = {}
    for module, content in checked_dict("modules", given, "names and their contents").items():
        _check_module(module)
        if not isinstance(content, Mapping):
            raise InvalidType(
                f"The module {module!r} must be a dict of names and values, not {type(content).__name__}."
            )
        described[module] = {}
        for name, value in content.items():
            _check_identifier(name, f"name in the module {module!r}")
            where = f"modules[{module!r}][{name!r}]"
            described[module][name] = _thing(where, name, f"module:{module}:{name}", value, functions)
    return described


def _thing(where: str, name: str, address: str, value: Any, functions: dict[str, Function]) -> dict[str, Any]:
    """Return the description of a value or a function."""
    if callable(value):
        return {"function": _describe(name, address, value, functions)}
    try:
        return {"value": rules.to_plain(value)}
    except InvalidValue as error:
        raise InvalidType(f"{str(error).replace('value', where, 1)} Or give a function.") from None


def _check_identifier(name: str, what: str) -> None:
    check_name_is_str(what, name)
    if not name.isidentifier() or (name.startswith("__") and name.endswith("__")):
        raise InvalidInput(f"{name!r} cannot be the name of a {what}: give an identifier, not like '__name__'.")


def _check_module(name: str) -> None:
    check_name_is_str("module", name)
    top, *_ = parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        raise InvalidInput(f"{name!r} cannot be the name of a module: write it as in 'services.llm_service'.")
    if top in sys.stdlib_module_names or top in _OUR_MODULES:
        raise InvalidInput(f"The module {name!r} cannot be given because {top!r} already exists: choose another name.")


def _env(given: object) -> dict[str, str]:
    env = checked_dict("env", given, "str to str")
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidType(
                f"env must map str to str: change the entry {name!r}, whose value is of type {type(value).__name__}."
            )
        if not name or "=" in name or "\0" in name + value or _has_surrogate(name + value):
            raise InvalidInput(f"The variable {name!r} cannot be put into an environment.")
    return env


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _permissions(given: object) -> Permissions | None:
    if given is not None and not isinstance(given, Permissions):
        raise InvalidType(f"permissions must be a sandbox.Permissions, not {type(given).__name__}.")
    return given


def _limits(given: object) -> Limits:
    if given is None:
        return Limits()
    if not isinstance(given, Limits):
        raise InvalidType(f"limits must be a sandbox.Limits, not {type(given).__name__}.")
    return given
