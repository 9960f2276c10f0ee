"""Functions whose results are kept in a store: ``@data_store.cached(ttl=60)``, for threads and for asyncio."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, cast, overload

from redis_store.errors import InvalidInput, InvalidType, InvalidValue
from redis_store.types import Json, Ttl
from redis_store.values import rules

__all__ = ["AsyncCachedFunction", "CachedFunction"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")

MAX_ARGUMENT_CHARS = 1000
"""Arguments that take more stand in the key as a digest."""

KeyMaker = str | Callable[..., str] | None
TagMaker = Iterable[str] | Callable[..., Iterable[str]] | None


class Cache(Protocol):
    """Keeps the results of cached functions."""

    def get_or_set(
        self,
        key: str,
        make: Callable[[], Any],
        ttl: Ttl = None,
        stale: Ttl = None,
        lock_timeout: float | timedelta = ...,
        tags: Iterable[str] | None = None,
    ) -> Json: ...
    def delete(self, key: str) -> bool: ...
    def delete_many(self, keys: Iterable[str]) -> int: ...
    def list_keys(self, prefix: str | None = None) -> list[str]: ...


class AsyncCache(Protocol):
    """Keeps the results of cached functions, for asyncio."""

    async def get_or_set(
        self,
        key: str,
        make: Callable[[], Any],
        ttl: Ttl = None,
        stale: Ttl = None,
        lock_timeout: float | timedelta = ...,
        tags: Iterable[str] | None = None,
    ) -> Json: ...
    async def delete(self, key: str) -> bool: ...
    async def delete_many(self, keys: Iterable[str]) -> int: ...
    async def list_keys(self, prefix: str | None = None) -> list[str]: ...


class CachedFunction(Protocol[P, R_co]):
    """A function of `DataStore.cached`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    # In a class it is a method.
    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> Self: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[Any, Q], R_co], instance: object, owner: type[Any] | None = None, /
    ) -> Callable[Q, R_co]: ...

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key under which the result for these arguments is kept."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Delete the result for these arguments and return whether there was one."""

    def invalidate_all(self) -> int:
        """Delete the results for all arguments and versions and return how many there were; not with a `key` of one's own."""


class AsyncCachedFunction(Protocol[P, R_co]):
    """A function of `AsyncDataStore.cached`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R_co]: ...

    # In a class it is a method.
    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> Self: ...
    @overload
    def __get__(
        self: AsyncCachedFunction[Concatenate[Any, Q], R_co], instance: object, owner: type[Any] | None = None, /
    ) -> Callable[Q, Awaitable[R_co]]: ...

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key under which the result for these arguments is kept."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[bool]:
        """Delete the result for these arguments and return whether there was one."""

    def invalidate_all(self) -> Awaitable[int]:
        """Delete the results for all arguments and versions and return how many there were; not with a `key` of one's own."""


class CacheDecorator(Protocol):
    """What `DataStore.cached` returns."""

    def __call__(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...


class AsyncCacheDecorator(Protocol):
    """What `AsyncDataStore.cached` returns. (A union instead of the overloads is more than type checkers can solve.)"""

    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> AsyncCachedFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> AsyncCachedFunction[P, R]: ...


@dataclass(frozen=True, slots=True)
class Options:
    """What `cached` was told."""

    ttl: Ttl
    key: KeyMaker
    version: str | int | None
    tags: TagMaker
    stale: Ttl
    lock_timeout: float | timedelta

    def __post_init__(self) -> None:
        if self.key is not None and not isinstance(self.key, str) and not callable(self.key):
            raise InvalidType(f"key must be a str, a function or None, not {type(self.key).__name__}.")
        if isinstance(self.version, bool) or not isinstance(self.version, (str, int, type(None))):
            raise InvalidType(f"version must be a str, an int or None, not {type(self.version).__name__}.")
        if isinstance(self.tags, (str, bytes)) or not (
            self.tags is None or callable(self.tags) or isinstance(self.tags, Iterable)
        ):
            raise InvalidType(
                f"Tags must be a list of str, not {type(self.tags).__name__}: put a single tag in a list."
            )


class _Naming:
    """Makes keys and tags from a function's arguments."""

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
        if isinstance(function, functools.partial):  # what it is filled with makes its results as arguments do
            self._given_args, self._given_kwargs, function = function.args, function.keywords, function.func
            kind = ".partial"  # so that a partial of a cached function does not wait for itself
        self.name = _name_of(function) + kind
        try:
            self._signature = inspect.signature(function)
        except ValueError:
            raise InvalidType(f"{self.name} does not tell its parameters: decorate a function that calls it.") from None
        self._options = options
        # What can be iterated once only, as a generator, must serve each call.
        self._tags = options.tags if options.tags is None or callable(options.tags) else tuple(options.tags)
        if options.key is None and _has_an_object(function):
            raise InvalidInput(
                f"{self.name} belongs to an object, which would be missing in the key, so that objects would share results:"
                " give key= a text like 'item:{name}', or a function."
            )

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the key of the result for these arguments."""
        version = "" if self._options.version is None else f"@{self._options.version}"
        given = self._options.key
        if given is None:
            return f"{self.name}{version}({self._arguments_text(args, kwargs)})"
        made = self._filled(given, self._bound(args, kwargs)) if isinstance(given, str) else given(*args, **kwargs)
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
        """Return what the keys of all arguments and versions begin with."""
        if self._options.key is not None:
            raise InvalidInput(f"{self.name} has a key of its own: give it a tag, and invalidate that.")
        return f"{self.name}(", f"{self.name}@"

    def _filled(self, template: str, bound: dict[str, Any]) -> str:
        try:
            return template.format_map(bound)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"{template!r} cannot be filled with the arguments of {self.name} ({type(error).__name__}: {error}):"
                f" there are {', '.join(bound) or 'none'}; {{{{ and }}}} are braces."
            ) from error

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
                f"The arguments of {self.name} make no key ({error}): give key= a text like 'item:{{name}}', or a function.",
                path=error.path,
            ) from None
        if len(text) <= MAX_ARGUMENT_CHARS:
            return text
        import hashlib  # an agent's process starts faster without it

        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def decorator(store: Cache, options: Options) -> CacheDecorator:
    """Return what `DataStore.cached` does."""

    def decorate(function: Callable[P, R], /) -> CachedFunction[P, R]:
        return cached(store, function, options)

    return decorate


def async_decorator(store: AsyncCache, options: Options) -> AsyncCacheDecorator:
    """Return what `AsyncDataStore.cached` does."""

    def decorate(function: Callable[P, Any], /) -> AsyncCachedFunction[P, Any]:
        return cached_async(store, function, options)

    return decorate


def cached(store: Cache, function: Callable[P, R], options: Options) -> CachedFunction[P, R]:
    """Return a function that asks the store first."""
    naming = _Naming(function, options)
    if inspect.iscoroutinefunction(function):
        raise InvalidType(f"{naming.name} is asynchronous, and this store is not: use the one of connect_async.")

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return cast(
            R,
            store.get_or_set(
                naming.key(args, kwargs),
                functools.partial(function, *args, **kwargs),
                ttl=options.ttl,
                stale=options.stale,
                lock_timeout=options.lock_timeout,
                tags=naming.tags(args, kwargs),
            ),
        )

    def invalidate_all() -> int:
        return sum(store.delete_many(page) for prefix in naming.prefixes() for page in _pages(store.list_keys(prefix)))

    made = cast(Any, call)
    made.cache_key = lambda *args, **kwargs: naming.key(args, kwargs)
    made.invalidate = lambda *args, **kwargs: store.delete(naming.key(args, kwargs))
    made.invalidate_all = invalidate_all
    return cast("CachedFunction[P, R]", made)


def cached_async(
    store: AsyncCache, function: Callable[P, Awaitable[R]] | Callable[P, R], options: Options
) -> AsyncCachedFunction[P, R]:
    """Return an asynchronous function that asks the store first."""
    naming = _Naming(function, options)

    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return cast(
            R,
            await store.get_or_set(
                naming.key(args, kwargs),
                functools.partial(function, *args, **kwargs),
                ttl=options.ttl,
                stale=options.stale,
                lock_timeout=options.lock_timeout,
                tags=naming.tags(args, kwargs),
            ),
        )

    async def invalidate_all() -> int:
        count = 0
        for prefix in naming.prefixes():
            for page in _pages(await store.list_keys(prefix)):
                count += await store.delete_many(page)
        return count

    made = cast(Any, call)
    made.cache_key = lambda *args, **kwargs: naming.key(args, kwargs)
    made.invalidate = lambda *args, **kwargs: store.delete(naming.key(args, kwargs))
    made.invalidate_all = invalidate_all
    return cast("AsyncCachedFunction[P, R]", made)


def _name_of(function: Callable[..., Any]) -> str:
    """Return what tells a function from the others: its module and name, with the class that a class method was asked of."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    owner = getattr(function, "__self__", None)
    if inspect.isclass(owner):
        return f"{owner.__module__}.{owner.__qualname__}.{name.rpartition('.')[2]}"
    return f"{getattr(function, '__module__', '')}.{name}"


def _has_an_object(function: Callable[..., Any]) -> bool:
    """Whether results depend on an object that is neither an argument nor told by the name."""
    owner = getattr(function, "__self__", None)
    if owner is None:
        return not hasattr(function, "__qualname__")  # an object that can be called
    return not inspect.isclass(owner) and not inspect.ismodule(owner)


def _distinct(value: Any) -> Any:
    """Return a value of which two that differ also differ as JSON: there, keys that are no texts become texts."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise InvalidValue("a dict has a key that is no str", path="value")
        return {key: _distinct(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_distinct(item) for item in value]
    return value


def _pages(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), 1000):
        yield keys[start : start + 1000]
