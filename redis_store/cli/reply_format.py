"""Formatting of replies as `redis-cli` does: one format for people at a terminal, one for programs in a pipe.

It is the same byte for byte, except that control characters of errors and statuses are shown as escapes to people.

Client libraries return a status (``+OK``) and a string (``$2 OK``) alike, but redis-cli shows them differently. So replies are
parsed from the bytes here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO, TypeAlias

from redis_store.values.printable import one_line


class StatusReply(bytes):
    """``+OK``."""


class ErrorReply(bytes):
    """``-ERR ...``, without the dash."""


Reply: TypeAlias = "StatusReply | ErrorReply | bytes | int | list[Reply] | None"

_ESCAPES = {
    ord("\\"): b"\\\\",
    ord('"'): b'\\"',
    ord("\n"): b"\\n",
    ord("\r"): b"\\r",
    ord("\t"): b"\\t",
    ord("\a"): b"\\a",
    ord("\b"): b"\\b",
}
_QUOTED = [_ESCAPES.get(byte) or (bytes([byte]) if 32 <= byte < 127 else b"\\x%02x" % byte) for byte in range(256)]

_STREAMS = {b"MONITOR", b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE"}

#: Commands with a human-readable text as reply, which redis-cli prints unchanged. Name -> subcommands; empty means all.
_TEXTS: dict[bytes, frozenset[bytes]] = {
    b"INFO": frozenset(),
    b"LOLWUT": frozenset(),
    b"DEBUG": frozenset({b"HTSTATS", b"HTSTATS-KEY"}),
    b"MEMORY": frozenset({b"MALLOC-STATS", b"DOCTOR"}),
    b"CLUSTER": frozenset({b"NODES", b"INFO"}),
    b"CLIENT": frozenset({b"LIST", b"INFO"}),
    b"LATENCY": frozenset({b"GRAPH", b"DOCTOR"}),
    b"PROXY": frozenset({b"INFO"}),
}


def read_reply(stream: BinaryIO) -> Reply:
    """Read one RESP2 reply. Raises `EOFError` if the server closes the connection and `ValueError` for data other than RESP2."""
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise EOFError
    kind, rest = line[:1], line[1:-2]
    if kind == b"+":
        return StatusReply(rest)
    if kind == b"-":
        return ErrorReply(rest)
    if kind == b":":
        return int(rest)
    if kind not in (b"$", b"*"):
        raise ValueError(f"a reply begins with {line[:16]!r}")
    size = int(rest)
    if size < 0:
        return None
    if kind == b"*":
        return [read_reply(stream) for _ in range(size)]
    text = stream.read(size + 2)
    if len(text) < size + 2:
        raise EOFError
    return text[:-2]


def goes_on(command: Sequence[bytes]) -> bool:
    """Whether replies to a command come until the connection ends."""
    return command[0].upper() in _STREAMS


def is_text_command(command: Sequence[bytes]) -> bool:
    """Whether redis-cli prints the reply to this command unchanged, even at a terminal."""
    words = [word.upper() for word in command[:2]]
    subcommands = _TEXTS.get(words[0])
    return subcommands is not None and (not subcommands or (len(words) > 1 and words[1] in subcommands))


def for_people(reply: Reply) -> bytes:
    """Return the reply with quotes, types and numbered, indented lists."""
    return b"".join(_lines(reply, b""))


def for_programs(reply: Reply) -> bytes:
    """Return the plain reply, with each element of a list on a line of its own."""
    if isinstance(reply, list):
        return b"\n".join(map(for_programs, reply))
    if reply is None:
        return b""
    if isinstance(reply, int):
        return b"%d" % reply
    # redis-cli prints a newline after an error, and another after the reply.
    return reply + b"\n" if isinstance(reply, ErrorReply) else bytes(reply)


def _lines(reply: Reply, indent: bytes) -> Iterator[bytes]:
    if isinstance(reply, list):
        yield from _list_lines(reply, indent)
    elif reply is None:
        yield b"(nil)\n"
    elif isinstance(reply, int):
        yield b"(integer) %d\n" % reply
    elif isinstance(reply, ErrorReply):
        yield b"(error) " + _printable(reply) + b"\n"
    elif isinstance(reply, StatusReply):
        yield _printable(reply) + b"\n"
    else:
        yield b'"' + b"".join([_QUOTED[byte] for byte in reply]) + b'"\n'


def _printable(reply: bytes) -> bytes:
    """Return the text of a reply without control characters, which redis-cli passes to the terminal."""
    return one_line(reply.decode(errors="backslashreplace")).encode()


def _list_lines(elements: list[Reply], indent: bytes) -> Iterator[bytes]:
    if not elements:
        yield b"(empty array)\n"
    width = len(str(len(elements)))
    deeper = indent + b" " * (width + 2)
    for number, element in enumerate(elements, start=1):
        # The first element is on the same line as the number of its list, so it is not indented.
        yield b"%s%*d) " % (b"" if number == 1 else indent, width, number)
        yield from _lines(element, deeper)
