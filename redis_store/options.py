"""Options that several functions share: declared once, as a `TypedDict`, and taken as ``**options: Unpack[...]`` (PEP 692).

A module that declares options, or whose signatures a program reads, does not postpone the evaluation of annotations: the
defaults are part of them.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
Options = TypeVar("Options", bound=Mapping[str, object])
NOWHERE: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Default:
    """The default of an option, as in ``Annotated[int, Default(5)]``; that of an option without one is None."""

    value: object


def defaults_of(kind: type[Options]) -> Options:
    """Return the defaults of all options of a `TypedDict`."""
    return cast(Options, {one.name: one.default for one in _parameters(kind)})


def settle(
    options: Options, defaults: Options, own: Iterable[str] = (), elsewhere: Mapping[str, str] = NOWHERE
) -> Options:
    """Return the options, and the defaults of those not given. Raise `TypeError` for an unknown option.

    `own` are the function's parameters besides these options, and `elsewhere` says where other options belong.
    """
    check_names(options, tuple(dict.fromkeys((*own, *defaults))), elsewhere)
    return cast(Options, {**defaults, **options})


def check_names(given: Iterable[str], known: Collection[str], elsewhere: Mapping[str, str] = NOWHERE) -> None:
    """Raise `TypeError` for an option that is not known, with all that are."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            advice = elsewhere.get(name) or (f"did you mean {near[0]!r}?" if near else "")
            there_are = f"here are {', '.join(map(repr, known))}."
            raise TypeError(f"There is no option {name!r}: {f'{advice} T' if advice else 't'}{there_are}")


def names_its_fields(kind: type[T]) -> type[T]:
    """Let a dataclass refuse an unknown field with the names of all of them."""
    made: Any = kind
    make = made.__init__
    known = tuple(inspect.signature(kind).parameters)

    @functools.wraps(make)
    def init(self: T, *args: Any, **given: Any) -> None:
        check_names(given, known)
        make(self, *args, **given)

    made.__init__ = init
    return kind


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


def opted_into_gen_ai() -> bool:
    """Whether the environment asks for the attributes of OpenTelemetry's conventions for generative AI, which may yet change."""
    return "gen_ai_latest_experimental" in os.environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").split(",")


def gen_ai_attributes(agent: str | None, run: str | None) -> dict[str, str]:
    """Return these attributes for a span: the agent, and the conversation, which is the one of the baggage, else the run."""
    baggage = sys.modules.get("opentelemetry.baggage")
    conversation = (None if baggage is None else baggage.get_baggage("gen_ai.conversation.id")) or run
    attributes = {"gen_ai.agent.name": agent, "gen_ai.conversation.id": conversation and str(conversation)}
    return {name: value for name, value in attributes.items() if value}
