"""Cached functions, ``@data_store.cached(ttl=60)``, for threads and for asyncio."""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import linecache
import re
import string
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from types import CodeType
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, cast, overload

from redis_store.errors import DeletedSoFar, InvalidInput, InvalidType, InvalidValue
from redis_store.limits import MAX_BOUND, shown
from redis_store.types import Json, OnError, Ttl
from redis_store.values import rules

P = ParamSpec("P")
Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")

MAX_ARGUMENT_CHARS = 1000
"""Bound on the text of the arguments in a key, in characters; a longer text is replaced by its SHA-256 digest."""

KeyMaker = str | Callable[..., str] | None
TagMaker = Iterable[str] | Callable[..., Iterable[str]] | None


class Cache(Protocol):
    """The methods of a store that cached functions use. An asynchronous store has the same, as coroutine functions."""

    def get_or_set(
        self,
        key: str,
        make: Callable[[], Any],
        ttl: Ttl = None,
        stale: Ttl = None,
        lock_timeout: float | timedelta = ...,
        tags: Iterable[str] | None = None,
        timeout: float | None = None,
        on_error: OnError = "raise",
    ) -> Json: ...
    def delete(self, key: str) -> bool: ...
    def delete_many(self, keys: Iterable[str]) -> int: ...
    def list_keys(self, prefix: str | None = None) -> list[str]: ...


class CachedFunction(Protocol[P, R_co]):
    """A function decorated with `DataStore.cached`: a call returns the stored result, or computes and stores it."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    # Binds as a method when it is defined in a class.
    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> Self: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[Any, Q], R_co], instance: object, owner: type[Any] | None = None, /
    ) -> Callable[Q, R_co]: ...

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key under which the result for these arguments is stored."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Delete the result for these arguments and return whether it existed."""

    def invalidate_all(self) -> int:
        """Delete the results for all arguments and versions, and return how many were deleted, in steps of 1,000 keys.

        An error after the first step has `outcome_unknown=True`. Calling it again deletes the rest.
        Raises `InvalidInput` if `cached` was given a `key`: use a tag and `invalidate_tag` instead.
        """


class AsyncCachedFunction(Protocol[P, R_co]):
    """A function decorated with `AsyncDataStore.cached`: a call returns the stored result, or computes and stores it."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R_co]: ...

    # Binds as a method when it is defined in a class.
    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> Self: ...
    @overload
    def __get__(
        self: AsyncCachedFunction[Concatenate[Any, Q], R_co], instance: object, owner: type[Any] | None = None, /
    ) -> Callable[Q, Awaitable[R_co]]: ...

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key under which the result for these arguments is stored."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[bool]:
        """Delete the result for these arguments and return whether it existed."""

    def invalidate_all(self) -> Awaitable[int]:
        """Delete the results for all arguments and versions, and return how many were deleted, in steps of 1,000 keys.

        An error after the first step has `outcome_unknown=True`. Calling it again deletes the rest.
        Raises `InvalidInput` if `cached` was given a `key`: use a tag and `invalidate_tag` instead.
        """


class CacheDecorator(Protocol):
    """The decorator that `DataStore.cached` returns."""

    def __call__(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...


class AsyncCacheDecorator(Protocol):
    """The decorator that `AsyncDataStore.cached` returns; it takes functions of both kinds.

    It has overloads because type checkers cannot solve a union here.
    """

    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> AsyncCachedFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> AsyncCachedFunction[P, R]: ...


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of `cached`, checked."""

    ttl: Ttl
    key: KeyMaker
    version: str | int | None
    tags: TagMaker
    stale: Ttl
    lock_timeout: float | timedelta
    timeout: float | None = None
    on_error: OnError = "raise"

    def __post_init__(self) -> None:
        if self.key is not None and not isinstance(self.key, str) and not callable(self.key):
            raise InvalidType(f"key must be a str, a function or None, not {type(self.key).__name__}.")
        if isinstance(self.version, bool) or not isinstance(self.version, (str, int, type(None))):
            raise InvalidType(f"version must be a str, an int or None, not {type(self.version).__name__}.")
        if isinstance(self.version, int) and abs(self.version) > MAX_BOUND:
            raise InvalidInput(f"version must be from -2**53 to 2**53, not {shown(self.version)}: give a str.")
        if isinstance(self.tags, (str, bytes)) or not (
            self.tags is None or callable(self.tags) or isinstance(self.tags, Iterable)
        ):
            raise InvalidType(
                f"Tags must be a list of str, not {type(self.tags).__name__}: put a single tag in a list."
            )


def bare(ttl: Ttl | Callable[..., Any]) -> tuple[Callable[..., Any] | None, Ttl]:
    """Return the function that ``@data_store.cached`` without brackets was given in the place of a ttl, and the ttl."""
    if callable(ttl) or isinstance(ttl, (classmethod, staticmethod)):
        return ttl, None
    return None, ttl


_FORMATTER = string.Formatter()

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""What an object shows that has no text of its own."""


def _check_template(template: str, what: str) -> None:
    """Raise `InvalidInput` if two fields of a key template touch, so that nothing would tell where the first ends."""
    try:
        parts = list(_FORMATTER.parse(template))
    except ValueError:
        return  # told when it is filled
    for (_, name, _, _), (literal, following, _, _) in itertools.pairwise(parts):
        if name is not None and following is not None and not literal:
            raise InvalidInput(
                f"{{{name}}} and {{{following}}} touch in the key {template!r} of {what}, so that different arguments could give"
                " the same key: put a character such as ':' between them."
            )


def _without(text: str, separator: str) -> str:
    """Return a text with the character that separates it from what follows written as in a url."""
    if separator == "%":
        return text.replace("%", "%25")
    return text.replace("%", "%25").replace(separator, "".join(f"%{byte:02X}" for byte in separator.encode()))


class _Naming:
    """Makes the keys and tags of results from a function's arguments."""

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        if isinstance(function, (classmethod, staticmethod)):
            raise InvalidType(
                f"cached() decorates a function, not {type(function).__name__}: write @store.cached() below"
                f" @{type(function).__name__}."
            )
        if not callable(function):
            raise InvalidType(f"cached() decorates a function, not {type(function).__name__}: write @store.cached().")
        self._given_args: tuple[Any, ...] = ()
        self._given_kwargs: dict[str, Any] = {}
        kind = ""
        if isinstance(function, functools.partial):  # its own arguments affect results like those of a call
            self._given_args, self._given_kwargs, function = function.args, function.keywords, function.func
            kind = ".partial"  # so that a partial of a cached function does not wait for its own result
        self.name = _name_of(function) + kind + _origin_of(function)
        try:
            self._signature = inspect.signature(function)
        except ValueError:
            raise InvalidType(
                f"The parameters of {self.name} cannot be inspected: decorate a function that calls it."
            ) from None
        self._options = options
        if isinstance(options.key, str):
            _check_template(options.key, self.name)
        # An iterable may be a generator, which is exhausted after one call.
        self._tags = options.tags if options.tags is None or callable(options.tags) else tuple(options.tags)
        if options.key is None and _has_an_object(function):
            raise InvalidInput(
                f"{self.name} belongs to an object that is not part of the key, so that objects would share results:"
                " give key= a template like 'item:{name}', or a function."
            )

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the key of the result for these arguments."""
        version = "" if self._options.version is None else f"@{self._options.version}"
        given = self._options.key
        if given is None:
            return f"{self.name}{version}({self._arguments_text(args, kwargs)})"
        if isinstance(given, str):
            return self._filled(given, self._bound(args, kwargs), apart=True) + version
        made = given(*args, **kwargs)
        if not isinstance(made, str):
            raise InvalidType(f"The key function of {self.name} must return a str, not {type(made).__name__}.")
        return made + version

    def tags(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str] | None:
        """Return the tags of the result for these arguments."""
        given = self._tags
        if given is None:
            return None
        if callable(given):
            return list(given(*args, **kwargs))
        bound = self._bound(args, kwargs)
        return [self._filled(tag, bound) if isinstance(tag, str) else tag for tag in given]

    def prefixes(self) -> tuple[str, str]:
        """Return the prefixes of the keys for all arguments and versions."""
        if self._options.key is not None:
            raise InvalidInput(
                f"{self.name} was given key=, so its keys cannot be listed: give it a tag, and invalidate the tag."
            )
        return f"{self.name}(", f"{self.name}@"

    def _filled(self, template: str, bound: dict[str, Any], apart: bool = False) -> str:
        """Fill a template with arguments; with `apart`, so that other arguments never give the same text."""
        try:
            parts = list(_FORMATTER.parse(template))
            texts = []
            for number, (literal, name, spec, conversion) in enumerate(parts):
                texts.append(literal)
                if name is not None:
                    value, _ = _FORMATTER.get_field(name, (), bound)
                    text = format(_FORMATTER.convert_field(value, conversion), (spec or "").format_map(bound))
                    self._check_filled(template, name, value, text)
                    after = parts[number + 1][0] if number + 1 < len(parts) else ""
                    more = any(field is not None for _, field, _, _ in parts[number + 1 :])
                    texts.append(_without(text, after[0]) if apart and more and after else text)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput(
                f"{template!r} cannot be filled with the arguments of {self.name} ({type(error).__name__}: {error}):"
                f" there are {', '.join(bound) or 'none'}; write {{{{ and }}}} for braces."
            ) from None
        return "".join(texts)

    def _check_filled(self, template: str, name: str, value: Any, text: str) -> None:
        if not isinstance(value, str) and _ADDRESS.search(text):
            raise InvalidInput(
                f"{{{name}}} in {template!r} is filled with the address of a {type(value).__name__}, which another object can"
                f" have later: name what tells such objects apart, such as {{{name}.id}}, or give key= a function."
            )

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        bound = self._signature.bind(*self._given_args, *args, **{**self._given_kwargs, **kwargs})
        bound.apply_defaults()
        return bound.arguments

    def _arguments_text(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        bound = self._bound(args, kwargs)
        if not bound:
            return ""
        try:
            text = json.dumps(
                rules.to_plain(_distinct(bound)), ensure_ascii=False, sort_keys=True, separators=(",", ":")
            )
        except InvalidValue as error:
            raise InvalidValue(
                f"The arguments of {self.name} cannot be a key ({error}): give key= a template like 'item:{{name}}', or a"
                " function.",
                path=error.path,
            ) from None
        if len(text) <= MAX_ARGUMENT_CHARS:
            return text
        return f"sha256:{_digest(text)}"


def decorator(store: Cache, options: Options) -> CacheDecorator:
    """Return the decorator of `DataStore.cached`."""
    return cast(CacheDecorator, lambda function: cached(store, function, options))


def async_decorator(store: Any, options: Options) -> AsyncCacheDecorator:
    """Return the decorator of `AsyncDataStore.cached`."""
    return cast(AsyncCacheDecorator, lambda function: cached_async(store, function, options))


def cached(store: Cache, function: Callable[P, R], options: Options) -> CachedFunction[P, R]:
    """Return a function that looks in the store first."""
    naming = _Naming(function, options)
    if inspect.iscoroutinefunction(function):
        raise InvalidType(f"{naming.name} is asynchronous, and this store is not: use a store of connect_async.")

    def invalidate_all() -> int:
        with DeletedSoFar() as deleted:
            for prefix in naming.prefixes():
                for page in _pages(store.list_keys(prefix)):
                    deleted.add(store.delete_many(page))
        return deleted.count

    return cast(
        "CachedFunction[P, R]", _finished(_look(store, function, options, naming), store, naming, invalidate_all)
    )


def cached_async(
    store: Any, function: Callable[P, Awaitable[R]] | Callable[P, R], options: Options
) -> AsyncCachedFunction[P, R]:
    """Return an asynchronous function that looks in the store first."""
    naming = _Naming(function, options)
    look = _look(store, function, options, naming)

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await look(*args, **kwargs)

    async def invalidate_all() -> int:
        with DeletedSoFar() as deleted:
            for prefix in naming.prefixes():
                for page in _pages(await store.list_keys(prefix)):
                    deleted.add(await store.delete_many(page))
        return deleted.count

    return cast("AsyncCachedFunction[P, R]", _finished(call, store, naming, invalidate_all))


def _look(store: Any, function: Callable[..., Any], options: Options, naming: _Naming) -> Callable[..., Any]:
    @functools.wraps(function)
    def look(*args: Any, **kwargs: Any) -> Any:
        return store.get_or_set(
            naming.key(args, kwargs),
            functools.partial(function, *args, **kwargs),
            ttl=options.ttl,
            stale=options.stale,
            lock_timeout=options.lock_timeout,
            timeout=options.timeout,
            on_error=options.on_error,
            tags=naming.tags(args, kwargs),
        )

    return look


def _finished(made: Any, store: Any, naming: _Naming, invalidate_all: Callable[[], Any]) -> Any:
    made.cache_key = lambda *args, **kwargs: naming.key(args, kwargs)
    made.invalidate = lambda *args, **kwargs: store.delete(naming.key(args, kwargs))
    made.invalidate_all = invalidate_all
    return made


def _name_of(function: Callable[..., Any]) -> str:
    """Return a function's unique name: its module and qualified name; of a class method, that of the class it was taken from."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    owner = getattr(function, "__self__", None)
    if inspect.isclass(owner):
        return f"{owner.__module__}.{owner.__qualname__}.{name.rpartition('.')[2]}"
    return f"{getattr(function, '__module__', '')}.{name}"


def _origin_of(function: Callable[..., Any]) -> str:
    """Return what tells a function from others of its name, as ``#`` and a digest; nothing where its name is unique.

    A module inside a package has a unique name. Scripts, agents and files beside them do not: there the text of the file counts.
    So do the code of a lambda, and the numbers, strings and flags that a function has captured when it is decorated.
    """
    plain = inspect.unwrap(function)
    code = getattr(plain, "__code__", None)
    if code is None:
        return ""
    about: list[str] = []
    module = getattr(plain, "__module__", None) or ""
    if "." not in module and not hasattr(sys.modules.get(module), "__path__"):
        about.append("".join(linecache.getlines(code.co_filename)) or _text_of(code))
    if "<lambda>" in plain.__qualname__:
        about.append(_text_of(code))
    captured = {}
    for name, cell in zip(code.co_freevars, plain.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        if type(value) in _CAPTURED_KINDS:
            captured[name] = repr(value)
    if captured:
        about.append(repr(captured))
    return "#" + _digest("\0".join(about))[:12] if about else ""


_CAPTURED_KINDS = frozenset({str, int, float, bool, type(None)})


def _text_of(code: CodeType) -> str:
    """Return what a function does, as a text that is the same in every process."""
    consts = [
        _text_of(const)
        if isinstance(const, CodeType)
        else repr(sorted(map(repr, const)) if isinstance(const, frozenset) else const)
        for const in code.co_consts
    ]
    return repr((code.co_code.hex(), code.co_names, code.co_varnames, consts))


def _digest(text: str) -> str:
    import hashlib  # imported late, so that an agent's process starts faster

    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _has_an_object(function: Callable[..., Any]) -> bool:
    """Whether results depend on an object that is neither an argument nor part of the name."""
    owner = getattr(function, "__self__", None)
    if owner is None:
        return not hasattr(function, "__qualname__")  # a callable object
    return not inspect.isclass(owner) and not inspect.ismodule(owner)


def _distinct(value: Any) -> Any:
    """Return the value, or raise if a dict has a key that is not a str: as JSON, ``1`` and ``"1"`` would be the same key."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise InvalidValue("a dict has a key that is not a str", path="value")
        return {key: _distinct(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_distinct(item) for item in value]
    return value


def _pages(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), 1000):
        yield keys[start : start + 1000]
