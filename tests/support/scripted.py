"""A driver without a server: it steps an operation and passes it the replies that a test defines."""

from __future__ import annotations

from typing import Any

from redis_store.limits import Limits, LogBounds
from redis_store.namespace.keys import UserKeys
from redis_store.namespace.scope import Scope, Writer
from redis_store.protocol.call import Alone, Call
from redis_store.protocol.command import ReplyError
from redis_store.values.codec import VALUES


def scope_of(user: str = "alice", namespace: str = "default", agent: str | None = None) -> Scope:
    """Return the scope of a store of this user."""
    return Scope(UserKeys.of(user), namespace, Writer.of(agent, None), VALUES, Limits(), LogBounds())


class Play:
    """The outcome of an operation: its result, and the calls that it made."""

    def __init__(self, op: Any, replies: list[Any]) -> None:
        self.calls: list[Call[Any]] = []
        self.result: Any = None
        op = op.make() if isinstance(op, Alone) else op
        rest = list(replies)
        try:
            call = op.send(None)
            while True:
                self.calls.append(call)
                assert rest, f"no reply is written down for {call.commands}"
                reply = rest.pop(0)
                try:
                    if isinstance(reply, Exception) and not isinstance(reply, ReplyError):
                        raise reply
                except Exception as error:
                    call = op.throw(error)
                else:
                    call = op.send(reply)
        except StopIteration as stop:
            self.result = stop.value
            assert not rest, f"it did not ask for {rest}"
        finally:
            op.close()

    @property
    def names(self) -> list[list[str]]:
        """Return the names of the commands of each call."""
        return [[name_of(command) for command in call.commands] for call in self.calls]


def name_of(command: Any) -> str:
    """Return the name of a command, however it is packed."""
    first = command[0]
    first = getattr(first, "name", first)
    return first.decode() if isinstance(first, bytes) else str(first)


def play(op: Any, *replies: Any) -> Play:
    """Carry out an operation with these replies, in this order."""
    return Play(op, list(replies))
