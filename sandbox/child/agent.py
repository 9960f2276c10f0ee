"""Loading an agent's source as a module, and calling its `run`."""

from __future__ import annotations

import asyncio
import builtins
import inspect
import json
import linecache
import re
import site
import sys
import tokenize
from collections.abc import Callable
from io import BytesIO
from types import ModuleType
from typing import Any

from redis_store.values.rules import one
from sandbox.child.awaitables import cancel_rest

_GIVEN = ("agents", "asyncio", "data_store", "gofannon_client", "json", "re")
_ANNOUNCED = ("input_dict", "tools")

# `site` does this, unless Python starts without it (-S).
site.setquit()
site.setcopyright()
site.sethelper()


class NotAnAgent(Exception):
    """The source has no callable `run`; the message says why."""


def make_module(name: str, filename: str, source: bytes, given: dict[str, Any]) -> ModuleType:
    """Return a module that holds the agent's given globals; its source is not executed yet.

    Registers the module in `sys.modules`, also as `__main__`, and its source in `linecache` for tracebacks and `inspect`.
    """
    while name in sys.modules or name in sys.stdlib_module_names:
        name = f"agent_{name}"
    module = ModuleType(name)
    module.__file__ = filename
    module.__dict__.update(asyncio=asyncio, json=json, re=re, dir=agents_dir)
    module.__dict__.update(given)
    sys.modules[name] = sys.modules["__main__"] = module
    text = source_text(source)
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    return module


def source_text(source: bytes) -> str:
    """Return source code as text; bytes that cannot be decoded are replaced."""
    try:
        encoding, _ = tokenize.detect_encoding(BytesIO(source).readline)
        return source.decode(encoding)
    except (SyntaxError, UnicodeError, LookupError):
        return source.decode(errors="replace")


def agents_dir(*args: Any) -> list[str]:
    """Return what the builtin `dir` does; without an argument, also the names that the sandbox gives to every agent."""
    if args:
        return builtins.dir(*args)
    names = sys._getframe(1).f_locals
    return sorted({*names, *_GIVEN})


def find_run(module: ModuleType) -> Callable[..., Any]:
    """Return the module's `run`; raise `NotAnAgent` if it has none."""
    run = module.__dict__.get("run")
    if run is None:
        raise NotAnAgent(
            "has no function 'run': define `async def run(input_dict, tools)` at the top level of its source"
        )
    if not callable(run):
        raise NotAnAgent(f"has a 'run' that is {one(type(run))}: it must be a function of input_dict and tools")
    return run  # type: ignore[no-any-return]


def arguments_for(
    run: Callable[..., Any], input_dict: dict[str, Any], tools: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments for `run`: by keyword for parameters called `input_dict` and `tools`, else by position."""
    try:
        signature = inspect.signature(run)
    except (TypeError, ValueError):
        return [input_dict, tools], {}
    parameters = list(signature.parameters.values())
    waiting = dict(zip(_ANNOUNCED, (input_dict, tools), strict=True))
    given = {p.name: waiting.pop(p.name) for p in parameters if p.name in waiting and p.kind in _NAMED}
    for parameter in parameters:
        wanted = parameter.kind in _POSITIONAL and parameter.name not in given
        # An agent that names one of the two names both: other parameters with a default are its own options.
        if wanted and waiting and (parameter.default is parameter.empty or not given.keys() & set(_ANNOUNCED)):
            given[parameter.name] = waiting.pop(next(iter(waiting)))
    missing = [p.name for p in parameters if p.kind in _NAMED and p.default is p.empty and p.name not in given]
    if missing:
        raise NotAnAgent(
            f"has a 'run{signature}' that cannot be called: nothing is given for {', '.join(map(repr, missing))};"
            " write `async def run(input_dict, tools)`"
        )
    return _spread(parameters, given, waiting)


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (*_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)


def _spread(
    parameters: list[inspect.Parameter], given: dict[str, Any], waiting: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Divide the arguments into positional and keyword ones; `*args` and `**kwargs` take the rest."""
    positional: list[Any] = []
    in_order = True
    for parameter in parameters:
        if parameter.kind in _POSITIONAL:
            in_order = in_order and parameter.name in given
            if in_order:
                positional.append(given.pop(parameter.name))
        elif parameter.kind is parameter.VAR_POSITIONAL and in_order:
            positional += waiting.values()
            waiting = {}
        elif parameter.kind is parameter.VAR_KEYWORD:
            given.update(waiting)
    return positional, given


def call_run(run: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Call `run` and return its result, awaited if it is awaitable."""
    value = run(*args, **kwargs)
    if not inspect.isawaitable(value):
        return value

    async def awaited() -> tuple[Any, BaseException | None]:
        try:
            return await value, None
        except BaseException as error:  # returned, so that no frame of the loop gets into its traceback
            return None, error

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        result, error = loop.run_until_complete(awaited())
    finally:
        cancel_rest(loop)
    if error is not None:
        raise error
    return result
