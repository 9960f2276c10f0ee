"""Calls: a call is one request to the server with the decoder of its reply.

Operations are ``async def`` functions that do no I/O. They await only `Call`s. A driver (`drivers.sync`, `drivers.aio`) steps
them with ``send`` and ``throw`` and carries the calls out. So each operation is written once.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar, cast

from redis_store.protocol.command import Argument, Command, ReplyError
from redis_store.protocol.error_replies import raise_error_reply

T = TypeVar("T")


class Call(NamedTuple, Generic[T]):
    """One request: commands that are sent together, and the decoder of their reply.

    The decoder gets the reply, or the list of replies if there are several commands.
    """

    commands: tuple[Command, ...]
    decode: Callable[[Any], T]
    repeatable: bool = False
    """Whether the request only reads, so that it can safely be sent twice."""
    bulk: bool = False
    """Whether the reply may be big, so that small calls should not wait behind it."""

    def __await__(self) -> Generator[Call[T], Any, T]:
        reply = yield self
        if type(reply) is ReplyError or len(self.commands) > 1:
            raise_error_reply(reply, self.commands)
        return self.decode(reply)


Op: TypeAlias = Coroutine[Call[Any], Any, T]
"""A started operation, to be run once by a driver."""


@dataclass(frozen=True, slots=True)
class Alone(Generic[T]):
    """An operation that needs a connection of its own from its first call to its last (``WATCH``, paging).

    If the connection breaks before any byte of a write was sent, the driver makes and runs the operation again, once.
    """

    make: Callable[[], Op[T]]


def not_a_call(awaited: object) -> TypeError:
    """Return the error for an operation that awaits something else. Drivers raise it."""
    return TypeError(f"An operation may await only calls, not a {type(awaited).__name__}: it does no I/O of its own.")


def as_is(reply: Any) -> Any:
    """Return the reply unchanged: the decoder of replies that need none."""
    return reply


def read(*command: Argument, bulk: bool = False) -> Call[Any]:
    """Return the call for one command that only reads."""
    return Call((command,), as_is, True, bulk)


@types.coroutine
def all_replies(
    *commands: Command, repeatable: bool = True, bulk: bool = False
) -> Generator[Call[Any], Any, list[Any]]:
    """Send commands together and return each reply, also if it is a `ReplyError`."""
    reply = yield Call(commands, as_is, repeatable, bulk)
    return list(reply) if len(commands) > 1 else [reply]


def watch(*keys: bytes) -> Call[Any]:
    """Return the call that makes the connection's next transaction fail if one of these keys changes before it."""
    return Call((("WATCH", *keys),), as_is, True)


def transaction(commands: list[Command]) -> Call[list[Any] | None]:
    """Return the call for a ``MULTI``. Its result is the list of replies, or None if a watched key had changed."""
    return Call((("MULTI",), *commands, ("EXEC",)), _exec_reply)


def checked_transaction(watching: Command, check: Command, commands: list[Command]) -> Call[list[Any] | None]:
    """Return the call for a ``MULTI`` that is sent together with a ``WATCH`` of its keys and a check before it.

    Its result is the list of replies, or None if one of the keys had changed. A failing check must change one of the keys,
    because the ``MULTI`` is sent without waiting for the check's reply.
    """
    return Call((watching, check, ("MULTI",), *commands, ("EXEC",)), _exec_reply)


def last_reply(replies: list[Any]) -> Any:
    """Return the last of several replies: the decoder of a transaction that watches nothing."""
    return replies[-1]


def _exec_reply(replies: list[Any]) -> list[Any] | None:
    result: list[Any] | None = replies[-1]
    return result


Sees = Callable[[Call[Any]], object]


def observed(op: Op[T], before: Sees, after: Sees, replied: Sees | None = None) -> Op[T]:
    """Return the operation with hooks: `before` gets each call before it is sent, `after` gets it once it has ended.

    A call ends with its reply, with an error, or when the operation is closed. `replied` gets it only after a reply.
    """
    return cast("Op[T]", _observed(op, before, after, replied))


@types.coroutine
def _observed(op: Op[T], before: Sees, after: Sees, replied: Sees | None) -> Generator[Call[Any], Any, T]:
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
                if replied is not None:
                    replied(call)
                call = op.send(reply)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        op.close()
