"""The replies to a command that is sent as it is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Iterator, Sequence
from typing import BinaryIO

import hiredis
from redis import exceptions as redis_errors

from redis_store.cli.reply_format import ErrorReply, Reply, goes_on, read_reply
from redis_store.connections.address import Address, another_node
from redis_store.connections.resolver import make_resolver
from redis_store.connections.sync import connecting_failed
from redis_store.errors import ConnectionLost
from redis_store.protocol.command import ReplyError
from redis_store.protocol.redirects import redirection_of
from redis_store.settings import Settings


def replies_to(command: Sequence[bytes], settings: Settings) -> Generator[Reply, None, None]:
    """Send a command and yield its reply, or its replies until the caller ends. Nodes of a cluster are followed (``-MOVED``)."""
    with contextlib.closing(make_resolver(settings)) as resolver:
        address, asking = resolver.address(), False
        for _ in range(_MOST_NODES):
            with contextlib.closing(_replies(command, address, asking)) as replies:
                first = next(replies, None)
                moved = (
                    redirection_of(ReplyError(first.decode(errors="replace"))) if type(first) is ErrorReply else None
                )
                if moved is None or moved.node is None:
                    if first is not None or not _ends_without(command):
                        yield first
                    yield from replies
                    return
            host = moved.node.host or str(address.options.get("host", "localhost"))
            address, asking = another_node(address, host, moved.node.port), moved.asking
        yield first


_MOST_NODES = 5
"""Nodes that are asked, one after the other, before what the last one says is shown."""


def _replies(command: Sequence[bytes], address: Address, asking: bool) -> Generator[Reply, None, None]:
    connection = address.new_connection()
    try:
        connection.connect()
    except (redis_errors.RedisError, OSError, ValueError) as error:
        raise connecting_failed(error, address) from error
    try:
        sock = connection._get_socket()
        assert sock is not None, "redis-py has connected"
        sock.settimeout(None)  # a command may block for any time; Ctrl-C ends it
        if asking:
            sock.sendall(hiredis.pack_command(("ASKING",)))
        sock.sendall(hiredis.pack_command(tuple(command)))  # type: ignore[arg-type] # its stub says a tuple of one
        with sock.makefile("rb") as stream:
            if asking:
                read_reply(stream)
            yield from _read_replies(command, stream)
    except (EOFError, OSError, ValueError) as error:
        reason = str(error) or "it closed the connection"
        raise ConnectionLost(f"The server at {address.shown} did not reply: {reason}.") from error
    finally:
        connection.disconnect()


def _ends_without(command: Sequence[bytes]) -> bool:
    return command[0].upper() == b"SHUTDOWN"


def _read_replies(command: Sequence[bytes], stream: BinaryIO) -> Iterator[Reply]:
    try:
        reply = read_reply(stream)
    except EOFError:
        if _ends_without(command):
            return
        raise
    yield reply
    if goes_on(command):
        print("Reading messages... (press Ctrl-C to quit)", file=sys.stderr)
        while not isinstance(reply, ErrorReply):
            yield (reply := read_reply(stream))
