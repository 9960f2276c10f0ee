"""``redis-store redis``: runs any server command and shows its reply as `redis-cli` does."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator, Iterator, Sequence
from typing import Annotated, BinaryIO

import hiredis
import typer
from redis import exceptions as redis_errors

from redis_store.cli import reply_format
from redis_store.cli.reply_format import ErrorReply, Reply, read_reply
from redis_store.cli.server import DataDirOption
from redis_store.cli.streams import stdout_failed
from redis_store.connections.address import Address
from redis_store.connections.resolver import make_resolver
from redis_store.connections.sync import connecting_failed
from redis_store.errors import ConnectionLost, InvalidInput
from redis_store.settings import Settings, resolve_url

_STREAMS = {b"MONITOR", b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE"}
_NOT_HERE = {
    b"SYNC": "makes the connection a replica's",
    b"PSYNC": "makes the connection a replica's",
    b"HELLO": "changes the protocol of a connection that ends with it",
    b"CLIENT REPLY": "can leave the command without a reply",
}


def register(app: typer.Typer) -> None:
    """Add the command ``redis`` to the application."""
    app.command("redis", context_settings={"allow_interspersed_args": False})(redis)


def redis(
    words: Annotated[list[str], typer.Argument(metavar="COMMAND", show_default=False)],
    url: Annotated[
        str | None,
        typer.Option(help="The server; else REDIS_URL, else the embedded server.", show_default=False),
    ] = None,
    data_dir: DataDirOption = None,
    raw: Annotated[
        bool | None,
        typer.Option(
            "--raw/--no-raw", help="Plain or formatted replies. Default: formatted at a terminal, else plain."
        ),
    ] = None,
) -> None:
    """Run any command of the server and show its reply as redis-cli does.

    Options go before the command; everything after it is passed to the server:

    redis-store redis --no-raw HGETALL user:alice:ns:default

    SUBSCRIBE and MONITOR run until Ctrl-C. The exit code is 1 if the reply is an error, as with `redis-cli -e`.
    """
    command = [os.fsencode(word) for word in words]
    _refuse_what_cannot_work(command)
    bare = not sys.stdout.isatty() if raw is None else raw
    settings = Settings(url=None if data_dir is not None and url is None else resolve_url(url), data_dir=data_dir)
    failed = False
    with (
        contextlib.closing(make_resolver(settings)) as resolver,
        contextlib.closing(_replies(command, resolver.address())) as replies,
        contextlib.suppress(KeyboardInterrupt) if _goes_on(command) else contextlib.nullcontext(),
    ):
        for reply in replies:
            _show(command, reply, bare=bare)
            failed = isinstance(reply, ErrorReply)
            if stdout_failed():  # nobody reads further messages
                break
    if failed:
        raise typer.Exit(1)


def _refuse_what_cannot_work(command: Sequence[bytes]) -> None:
    name = command[0].upper()
    reason = _NOT_HERE.get(name) or _NOT_HERE.get(b" ".join(word.upper() for word in command[:2]))
    if reason is not None:
        raise InvalidInput(f"{name.decode(errors='replace')} {reason}; use redis-cli.")


def _goes_on(command: Sequence[bytes]) -> bool:
    return command[0].upper() in _STREAMS


def _replies(command: Sequence[bytes], address: Address) -> Generator[Reply, None, None]:
    connection = address.new_connection()
    try:
        connection.connect()
    except (redis_errors.RedisError, OSError, ValueError) as error:
        raise connecting_failed(error, address) from error
    try:
        sock = connection._get_socket()
        assert sock is not None, "redis-py has connected"
        sock.settimeout(None)  # a command may block for any time; Ctrl-C ends it
        sock.sendall(hiredis.pack_command(tuple(command)))  # type: ignore[arg-type] # its stub says a tuple of one
        with sock.makefile("rb") as stream:
            yield from _read_replies(command, stream)
    except (EOFError, OSError, ValueError) as error:
        reason = str(error) or "it closed the connection"
        raise ConnectionLost(f"The server at {address.shown} did not reply: {reason}.") from error
    finally:
        connection.disconnect()


def _read_replies(command: Sequence[bytes], stream: BinaryIO) -> Iterator[Reply]:
    try:
        reply = read_reply(stream)
    except EOFError:
        if command[0].upper() == b"SHUTDOWN":
            return
        raise
    yield reply
    if _goes_on(command):
        print("Reading messages... (press Ctrl-C to quit)", file=sys.stderr)
        while not isinstance(reply, ErrorReply):
            yield (reply := read_reply(stream))


def _show(command: Sequence[bytes], reply: Reply, *, bare: bool) -> None:
    if reply_format.is_text_command(command):
        shown = reply_format.for_programs(reply)
    elif bare:
        shown = reply_format.for_programs(reply) + b"\n"
    else:
        shown = reply_format.for_people(reply)
    sys.stdout.buffer.write(shown)
    sys.stdout.buffer.flush()
