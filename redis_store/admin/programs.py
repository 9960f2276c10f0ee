"""Programs: what takes operations on several users or servers, written once for threads and asyncio.

A program is to operations what an operation is to calls. It awaits only `At`, and `Admin` and `AsyncAdmin` carry that out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from redis_store.admin.walks import Walk, next_page
from redis_store.namespace.scope import Scope
from redis_store.protocol.call import Op

T = TypeVar("T")

Where: TypeAlias = int | str
"""A user, or the number of a server that holds keys."""


class At(NamedTuple, Generic[T]):
    """The step that carries out an operation on the server of a user, or on one of the servers."""

    where: Where
    op: Op[T]

    def __await__(self) -> Generator[At[T], Any, T]:
        result: T = yield self
        return result


Program: TypeAlias = Coroutine[At[Any], Any, T]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a program knows of the `Admin` that runs it."""

    by: str
    """The operator's name."""
    servers: int
    """The number of servers that hold keys."""
    scope_of: Callable[..., Scope]
    """Returns the scope of a namespace of a user, or of the default one. Raises `InvalidInput` for invalid names."""
    on_step: Callable[[int], object]
    """Gets the number of keys, or of what the program counts, of each step."""


async def pages(where: Where, walk: Walk[T]) -> AsyncIterator[list[T]]:
    """Yield the pages of a walk, each of which is an operation of its own."""
    try:
        while (page := await At(where, next_page(walk))) is not None:
            yield page
    finally:
        with suppress(StopIteration):
            walk.aclose().send(None)
