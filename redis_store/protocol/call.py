"""What an operation asks for: a request to the server, and how to read its reply.

Operations are ``async def`` functions that do no I/O. They await `Call`s only; a driver (`drivers.sync`, `drivers.aio`)
steps them with ``send`` and ``throw`` and carries the calls out. So each operation is written once.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Opening:
    """The arguments that many commands begin with, packed once (`_pack.opening`); a field and a value follow."""

    name: str
    count: int
    packed: bytes
    keys: tuple[bytes, ...]
    """The Redis keys among them."""


Argument: TypeAlias = bytes | str | int
Command: TypeAlias = tuple[Argument | Opening, ...]


class ReplyError(Exception):
    """An error reply, as the parser hands it over; drivers translate it before an operation sees it."""


class Call(NamedTuple, Generic[T]):
    """One request: commands that go out in one piece, and the decoder of what comes back.

    The decoder gets the reply, or the list of replies where there are several commands.
    """

    commands: tuple[Command, ...]
    decode: Callable[[Any], T]
    repeatable: bool = False
    """Sending it twice does no harm: it only reads."""
    bulk: bool = False
    """The reply may be big, so that small calls should not wait behind it."""

    def __await__(self) -> Generator[Call[T], Any, T]:
        return self.decode((yield self))


Op: TypeAlias = Coroutine[Call[Any], Any, T]
"""An operation under way, to be run once by a driver."""


@dataclass(frozen=True, slots=True)
class Alone(Generic[T]):
    """An operation that needs a connection for itself from its first call to its last (``WATCH``, paging).

    Where the connection breaks before any byte of a write has gone out, a driver makes the operation anew, once.
    """

    make: Callable[[], Op[T]]


def not_a_call(awaited: object) -> TypeError:
    """The error of an operation that awaits something else; drivers raise it outside of the operation."""
    return TypeError(f"An operation may await calls only, not a {type(awaited).__name__}: it does no I/O of its own.")


def as_is(reply: Any) -> Any:
    """The decoder of replies that need none."""
    return reply


def read(*command: Argument, bulk: bool = False) -> Call[Any]:
    """Ask for one command that only reads."""
    return Call((command,), as_is, True, bulk)


def watch(*keys: bytes) -> Call[Any]:
    """Have the next transaction of this connection fail if one of these keys changes before it."""
    return Call((("WATCH", *keys),), as_is, True)


def transaction(commands: list[Command]) -> Call[list[Any] | None]:
    """Ask for a ``MULTI``; the replies, or None where a watched key had changed."""
    return Call((("MULTI",), *commands, ("EXEC",)), _exec_reply)


def checked_transaction(keys: tuple[bytes, ...], check: Command, commands: list[Command]) -> Call[list[Any] | None]:
    """Ask for a ``MULTI`` in one piece with a check before it; the replies, or None where one of the keys had changed.

    A check that fails must change one of the keys, since what stands behind it is under way already.
    """
    return Call((("WATCH", *keys), check, ("MULTI",), *commands, ("EXEC",)), _exec_reply)


def _exec_reply(replies: list[Any]) -> list[Any] | None:
    result: list[Any] | None = replies[-1]
    return result


Sees = Callable[[Call[Any]], object]


def observed(op: Op[T], before: Sees, after: Sees) -> Op[T]:
    """Return the same operation, which shows each of its calls before it goes out, and when it has an answer or never will."""
    return cast("Op[T]", _observed(op, before, after))


@types.coroutine
def _observed(op: Op[T], before: Sees, after: Sees) -> Generator[Call[Any], Any, T]:
    try:
        call = op.send(None)
        while True:
            before(call)
            try:
                try:
                    reply = yield call
                finally:
                    after(call)
            except GeneratorExit:
                raise
            except BaseException as error:
                call = op.throw(error)
            else:
                call = op.send(reply)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        op.close()
