"""Options that several functions share: declared once, as a `TypedDict`, and taken as ``**options: Unpack[...]`` (PEP 692).

A module that declares options, or whose signatures a program reads, does not postpone the evaluation of annotations: the
defaults are part of them.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])
Options = TypeVar("Options", bound=Mapping[str, object])


@dataclass(frozen=True, slots=True)
class Default:
    """The default of an option, as in ``Annotated[int, Default(5)]``; that of an option without one is None."""

    value: object


def defaults_of(kind: type[Options]) -> Options:
    """Return the defaults of all options of a `TypedDict`."""
    return cast(Options, {one.name: one.default for one in _parameters(kind)})


def settle(options: Options, defaults: Options) -> Options:
    """Return the options, and the defaults of those not given. Raise `TypeError` for an unknown option."""
    if not options.keys() <= defaults.keys():
        unknown = next(name for name in options if name not in defaults)
        near = difflib.get_close_matches(unknown, defaults, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(map(repr, defaults))}."
        raise TypeError(f"There is no option {unknown!r}: {hint}")
    return cast(Options, {**defaults, **options})


def shows(kind: type[Mapping[str, object]]) -> Callable[[F], F]:
    """Let `help` and `inspect.signature` show the options of a function one by one, with their defaults."""

    def show(function: F) -> F:
        own = inspect.signature(function)
        *parameters, _ = own.parameters.values()
        function.__signature__ = own.replace(parameters=parameters + _parameters(kind))  # type: ignore[attr-defined]
        return function

    return show


def _parameters(kind: type[Mapping[str, object]]) -> list[inspect.Parameter]:
    parameters = []
    for name, hint in kind.__annotations__.items():
        marks = getattr(hint, "__metadata__", ())
        default = next((mark.value for mark in marks if isinstance(mark, Default)), None)
        if marks and all(isinstance(mark, Default) for mark in marks):
            hint = hint.__origin__
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint))
    return parameters
