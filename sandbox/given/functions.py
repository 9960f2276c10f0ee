"""Host functions that agents may call, and their descriptions for agents."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from redis_store.errors import InvalidValue
from redis_store.values import rules
from sandbox.errors import InvalidType
from sandbox.masking import is_secret_name, without_secrets

_MOST_TEXT = 16 * 1024
_MOST_DEFAULT_BYTES = 1024

Function = Callable[..., Any]


def is_async(function: Function) -> bool:
    """Whether calling the function returns an awaitable."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def check_tools(tools: object) -> dict[str, Function]:
    """Return the tools that the caller passed, or raise `InvalidType`."""
    checked = checked_dict("tools", tools, "callables")
    for name, tool in checked.items():
        check_name_is_str("tool", name)
        if not callable(tool):
            raise InvalidType(f"The tool {name!r} is {rules.one(type(tool))}, which cannot be called.")
    return checked


def checked_dict(option: str, given: object, of: str) -> dict[Any, Any]:
    """Return the dict that the caller passed for an option, empty for None, or raise `InvalidType`."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidType(f"{option} must be a dict of {of}, not {type(given).__name__}.")
    return dict(given)


def check_name_is_str(of: str, name: object) -> None:
    """Raise `InvalidType` unless the name of something that the caller passed is a str."""
    if not isinstance(name, str):
        raise InvalidType(f"The name of a {of} must be a str, not {type(name).__name__}: {name!r}.")


def describe_function(name: str, address: str, function: Function) -> dict[str, Any]:
    """Return the name, address, kind, signature and docstring of a function as a JSON object."""
    doc = inspect.getdoc(function) if not isinstance(function, functools.partial) else inspect.getdoc(function.func)
    return {
        "name": name,
        "address": address,
        "async": is_async(function),
        "doc": _text(doc or ""),
        **_signature(function),
    }


def _signature(function: Function) -> dict[str, Any]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return {"parameters": None, "returns": None}
    return {
        "parameters": [_parameter(parameter) for parameter in signature.parameters.values()],
        "returns": _annotation(signature.return_annotation),
    }


def _parameter(parameter: inspect.Parameter) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": parameter.name,
        "kind": int(parameter.kind),
        "annotation": _annotation(parameter.annotation),
    }
    if parameter.default is not inspect.Parameter.empty:
        described["default"] = _default(parameter)
    return described


def _default(parameter: inspect.Parameter) -> dict[str, Any]:
    """Return a default value that JSON can represent. Others, long ones and likely secrets are not sent to the agent."""
    value = parameter.default
    hidden = is_secret_name(parameter.name) and isinstance(value, str)
    try:
        text = rules.dump(value).decode()
    except InvalidValue:
        return {}
    if hidden or len(text) > _MOST_DEFAULT_BYTES or without_secrets(text) != text:
        return {}
    return {"value": value}


def _annotation(annotation: Any) -> str | None:
    if annotation is inspect.Parameter.empty:
        return None
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return _text(text.replace("typing.", ""))


def _text(text: str) -> str:
    return text[:_MOST_TEXT].encode(errors="backslashreplace").decode()
