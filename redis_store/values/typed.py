"""Values as objects of a type that the caller names: validated by msgspec, and by pydantic where the type is one of its own.

Both are imported when a type is first asked for. msgspec is missing in agents, unless they are given the package.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol, TypeVar, get_args

from redis_store.errors import InvalidInput, InvalidType, StoredDataError
from redis_store.types import Json
from redis_store.values import rules

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_MISFIT_TEXT = re.compile(r"^(?P<reason>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
"""msgspec's message: ``Expected `int`, got `str` - at `$.lines[0].price```."""
_MISFIT_FIELD = re.compile(r"\.([^.\[\]]+)")
_MISFIT_LITERAL = re.compile(r"^(Invalid (?:enum )?value) .*", re.DOTALL)
"""The one message of msgspec's own that repeats the value, which no error may."""


class Converter(Protocol[T_co]):
    """A function that converts the value of a key, and raises `StoredDataError` if it does not fit."""

    def __call__(self, value: Json, namespace: str, key: str) -> T_co: ...


class _Misfit(ValueError):
    """A value that does not fit, with the reason and the path of the element."""

    def __init__(self, reason: str, path: str) -> None:
        super().__init__(reason)
        self.path = path


def converter(as_type: type[T]) -> Converter[T]:
    """Return the converter to a type. Raises `InvalidType` if values cannot be converted to it."""
    try:
        convert = _kept_conversion(as_type)  # type: ignore[arg-type]  # a class can be hashed, its generic form not always
    except TypeError as error:
        if isinstance(error, InvalidType):
            raise
        convert = _conversion(as_type)  # it cannot be hashed

    def checked(value: Json, namespace: str, key: str) -> T:
        try:
            return convert(rules.load(value) if isinstance(value, bytes) else value)  # type: ignore[no-any-return]
        except _Misfit as misfit:
            raise StoredDataError(
                f"The value of {key!r} in namespace {namespace!r} does not fit {_shown(as_type)}: {misfit.path}: {misfit}. Write"
                " one that fits, or read it without as_type.",
                namespace=namespace,
                key=key,
                path=misfit.path,
            ) from misfit.__cause__

    return checked


def _conversion(as_type: Any) -> Callable[[Json], Any]:
    return _by_pydantic(as_type) if _is_of_pydantic(as_type) else _by_msgspec(as_type)


_kept_conversion = lru_cache(maxsize=256)(_conversion)
"""Preparing a type takes longer than converting a small value."""


def _is_of_pydantic(as_type: Any) -> bool:
    """Whether a type is a model or dataclass of pydantic, or a container of such."""
    return hasattr(as_type, "__pydantic_validator__") or any(map(_is_of_pydantic, get_args(as_type)))


def _by_pydantic(as_type: Any) -> Callable[[Json], Any]:
    from pydantic import TypeAdapter, ValidationError  # imported already, by the module of the type

    adapter = TypeAdapter(as_type)

    def convert(value: Json) -> Any:
        try:
            return adapter.validate_json(rules.dump(value))  # as JSON, so that a strict model takes a date's text
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise _Misfit(first["msg"], "value" + "".join(f"[{_quoted(part)}]" for part in first["loc"])) from None

    return convert


def _by_msgspec(as_type: Any) -> Callable[[Json], Any]:
    try:
        import msgspec
        from msgspec.inspect import CustomType, type_info
    except ImportError:
        raise InvalidInput(
            "as_type needs the package msgspec, which is not installed here: an agent gets it with packages=['msgspec']."
        ) from None
    try:
        convertible = not isinstance(type_info(as_type), CustomType)
    except Exception as error:  # whatever the evaluation of annotations may raise
        raise _not_convertible(as_type, f" ({error})") from None
    if not convertible:
        raise _not_convertible(as_type)

    def convert_part(kind: Any, part: Json) -> Any:
        if _is_of_pydantic(kind):
            return _kept_conversion(kind)(part)
        raise _not_convertible(kind)

    def convert(value: Json) -> Any:
        try:
            return msgspec.convert(value, as_type, str_keys=True, dec_hook=convert_part)
        except msgspec.ValidationError as error:
            cause = error.__cause__
            if isinstance(cause, InvalidType):
                raise cause from None
            found = _MISFIT_TEXT.match(str(error))
            assert found is not None
            path = _MISFIT_FIELD.sub(r'["\1"]', (found["path"] or "$").replace("$", "value", 1))
            if isinstance(cause, _Misfit):  # of a model within
                raise _Misfit(str(cause), path + cause.path.removeprefix("value")) from None
            # The exception of a class's own `__post_init__` is shown as it is; msgspec's tells nothing more.
            reason = _MISFIT_LITERAL.sub(r"\1", found["reason"]) if cause is None else found["reason"]
            raise _Misfit(reason, path) from cause

    return convert


def _not_convertible(as_type: Any, why: str = "") -> InvalidType:
    return InvalidType(
        f"as_type must be a type to which JSON can be converted, such as a dataclass, TypedDict, NamedTuple, list[int] or a"
        f" model of pydantic, not {as_type!r}{why}."
    )


def _quoted(part: object) -> str:
    return f'"{part}"' if isinstance(part, str) else str(part)


def _shown(as_type: Any) -> str:
    return as_type.__name__ if isinstance(as_type, type) and not get_args(as_type) else str(as_type)
