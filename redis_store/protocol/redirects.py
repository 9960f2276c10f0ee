"""What a cluster's node replies if it does not carry out a command, and where and when the command is to be sent again. No I/O.

Such a node has not executed the command. In a ``MULTI`` it refuses the ``EXEC`` too, so that nothing was executed and all is sent
again. Of other commands that were sent together, those that were carried out are not sent again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis_store.protocol.command import Command, ReplyError

TURNED_AWAY = ("MOVED ", "ASK ", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "READONLY", "MASTERDOWN")
"""Beginnings of the replies of a node that has not executed a command, and of which another one, or a later moment, may."""

ASKING: Command = ("ASKING",)


class Node(NamedTuple):
    """The place of a node of a cluster. Without a host, it is that of the node which says so."""

    host: str
    port: int


class Redirection(NamedTuple):
    """One reply of a node that has not executed a command."""

    slot: int | None = None
    """The hash slot that is at another node, for good."""
    node: Node | None = None
    """Where to send the command, if the node says so."""
    asking: bool = False
    """Whether that node has the key, and not yet the slot."""
    elsewhere: bool = False
    """Whether another node may carry it out, which the cluster is to be asked for."""


def redirection_of(reply: object) -> Redirection | None:
    """Return what a reply says, or None for any other reply."""
    if type(reply) is not ReplyError:
        return None
    code, _, detail = str(reply).partition(" ")
    if code in ("MOVED", "ASK"):
        slot, _, place = detail.partition(" ")
        host, _, port = place.split(",")[0].rpartition(":")
        if not slot.isdecimal() or not port.isdecimal():
            return Redirection(elsewhere=True)
        return Redirection(int(slot) if code == "MOVED" else None, Node(host, int(port)), code == "ASK")
    if code == "TRYAGAIN":
        return Redirection()
    return Redirection(elsewhere=True) if str(reply).startswith(TURNED_AWAY) else None


def first_redirection(reply: object, commands: Sequence[Command]) -> Redirection | None:
    """Return the first redirection in the reply to commands that were sent together; None if none is to be sent again."""
    if len(commands) == 1:
        return redirection_of(reply)
    if not isinstance(reply, list) or (isinstance(reply[-1], list) and is_transaction(commands)):
        return None
    return next((found for part in reply if (found := redirection_of(part)) is not None), None)


def is_transaction(commands: Sequence[Command]) -> bool:
    """Whether commands end with a transaction, so that they are sent again all together or not at all."""
    return commands[-1] == ("EXEC",)


def is_left_open(replies: Sequence[Any]) -> bool:
    """Whether commands sent together have left their connection in a transaction, because the server refuses ``EXEC`` itself.

    All that such a connection is sent later is only queued. Refusals for other reasons end the transaction.
    """
    last = next((reply for reply in reversed(replies) if reply != b"QUEUED"), None)
    return type(last) is ReplyError and b"QUEUED" in replies and not str(last).startswith(("EXECABORT", *TURNED_AWAY))


def marked(commands: Sequence[Command]) -> tuple[Command, ...]:
    """Return commands for a node that has the keys, and not yet the slot. The server keeps the mark to the end of a ``MULTI``."""
    if not is_transaction(commands):
        return tuple(part for each in commands for part in (ASKING, each))
    before = commands.index(("MULTI",))
    return (*(part for each in commands[:before] for part in (ASKING, each)), ASKING, *commands[before:])


def unmarked(replies: Sequence[Any], commands: Sequence[Command]) -> Any:
    """Return the reply to commands from the replies to `marked`."""
    if not is_transaction(commands):
        return replies[1] if len(commands) == 1 else replies[1::2]
    before = commands.index(("MULTI",))
    return [*replies[1 : 2 * before : 2], *replies[2 * before + 1 :]]


class Journey:
    """Commands on their way through a cluster, until some node has carried out each of them."""

    def __init__(self, commands: Sequence[Command]) -> None:
        self._commands = commands
        self._whole = is_transaction(commands)
        self._replies: list[Any] = [None] * len(commands)
        self._left = list(range(len(commands)))
        """The positions of those that are to be sent next."""
        self._later: list[int] = []
        """The positions of those that were sent elsewhere."""
        self.redirection = Redirection()
        """Where the next ones are to be sent."""
        self.refused: tuple[Any, tuple[Command, ...]] = None, ()
        """The last reply that refused some of the commands, and those that it was the reply to."""

    @property
    def reply(self) -> Any:
        """The reply to all commands, as one node would have given it."""
        return self._replies[0] if len(self._commands) == 1 else self._replies

    def next(self) -> tuple[Command, ...]:
        """Return the commands to send next."""
        commands = tuple(self._commands[at] for at in self._left)
        return marked(commands) if self.redirection.asking else commands

    def replied(self, reply: Any) -> bool:
        """Take the reply to the commands of `next`. Return whether all were carried out, or refused for good."""
        commands = tuple(self._commands[at] for at in self._left)
        if self.redirection.asking:
            reply = unmarked(reply, commands)
        replies = [reply] if len(commands) == 1 else list(reply)
        for at, each in zip(self._left, replies, strict=True):
            self._replies[at] = each
        first = first_redirection(reply, commands)
        if first is not None and not self._whole:
            refused = [at for at, each in zip(self._left, replies, strict=True) if redirection_of(each) is not None]
            self._left = [at for at in refused if redirection_of(self._replies[at]) == first]
            self._later += [at for at in refused if at not in self._left]
        elif first is None and self._later:
            first = redirection_of(self._replies[self._later[0]])
            self._left, self._later = self._later, []
        if first is None:
            return True
        self.redirection = first
        self.refused = reply, commands
        return False
