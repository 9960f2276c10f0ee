"""Packing commands into bytes: hiredis for small ones, our own join where that is faster.

hiredis gets no int: if a signal handler raises while it makes the text of one, it ends the interpreter.
"""

from __future__ import annotations

from collections.abc import Sequence

import hiredis

from redis_store.limits import MOST_ARGUMENTS, too_many_arguments
from redis_store.protocol.command import Argument, Command, Opening

_MANY_ARGUMENTS = 64
"""Number of arguments from which joining beats hiredis, whose buffer grows in steps (1,000 values of 2 KB: 0.3 ms, not 1.6)."""


def pack(commands: Sequence[Command]) -> bytes:
    """Return the commands as bytes of the wire protocol, one after the other.

    Raises `LimitExceeded` for a command of too many arguments. Operations send several commands instead, where they can.
    """
    if len(commands) == 1:
        command = commands[0]
        if type(command[0]) is Opening:
            return _with_opening(*command)  # type: ignore[arg-type]  # a field, and maybe a value, follow an opening
        if len(command) < _MANY_ARGUMENTS:
            if int in map(type, command):
                command = tuple([b"%d" % argument if type(argument) is int else argument for argument in command])
            packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub knows only tuples of one
            return packed
    parts: list[bytes] = []
    for command in commands:
        first = command[0]
        count = first.count + len(command) - 1 if type(first) is Opening else len(command)
        if count > MOST_ARGUMENTS:
            raise too_many_arguments(count)
        parts.append(b"*%d\r\n" % count)
        if type(first) is Opening:
            parts.append(first.packed)
            command = command[1:]
        for argument in command:
            raw = argument if type(argument) is bytes else str(argument).encode()
            parts += (b"$%d\r\n" % len(raw), raw, b"\r\n")
    return b"".join(parts)


def pack_texts(texts: Sequence[bytes]) -> bytes:
    """Return texts as an array in MessagePack, in the forms that scripts can read: of one length of header each."""
    parts: list[bytes] = [b"\xdd", len(texts).to_bytes(4, "big")]
    for text in texts:
        parts += (b"\xdb", len(text).to_bytes(4, "big"), text)
    return b"".join(parts)


def as_bytes(argument: Argument) -> bytes:
    """Return an argument as it is sent."""
    return argument if type(argument) is bytes else str(argument).encode()


class CommandPacker:
    """The packer of commands for redis-py, which connects and logs in with it."""

    def pack(self, *command: Argument) -> list[bytes]:
        """Return a command as bytes. Its name may be of two words."""
        return [pack([(*str(command[0]).split(), *command[1:])])]


def opening(name: str, *arguments: Argument, keys: tuple[bytes, ...] = ()) -> Opening:
    """Pack the name and the first arguments of a command that is sent often."""
    packed = pack([(name, *arguments)])
    return Opening(name, 1 + len(arguments), packed[packed.index(b"\n") + 1 :], keys)


def _with_opening(first: Opening, field: bytes, value: bytes | None = None) -> bytes:
    if value is None:
        return b"*%d\r\n%b$%d\r\n%b\r\n" % (first.count + 1, first.packed, len(field), field)
    count = first.count + 2
    return b"*%d\r\n%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (count, first.packed, len(field), field, len(value), value)
