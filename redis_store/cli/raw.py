"""``redis-store redis``: runs any server command and shows its reply as `redis-cli` does."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from redis_store.cli import reply_format
from redis_store.cli.reply_format import ErrorReply, Reply, goes_on
from redis_store.cli.session import DataDirOption, UrlOption, stopped
from redis_store.cli.streams import stdout_failed
from redis_store.errors import InvalidInput
from redis_store.settings import Settings, resolve_url

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
    url: UrlOption = None,
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
    from redis_store.cli.replies import replies_to  # imports redis-py, which takes longer than all that --help needs

    command = [os.fsencode(word) for word in words]
    _refuse_what_cannot_work(command)
    bare = not sys.stdout.isatty() if raw is None else raw
    settings = Settings(url=None if data_dir is not None and url is None else resolve_url(url), data_dir=data_dir)
    failed = False
    try:
        with contextlib.closing(replies_to(command, settings)) as replies:
            for reply in replies:
                _show(command, reply, bare=bare)
                failed = isinstance(reply, ErrorReply)
                if stdout_failed():  # nobody reads further messages
                    break
    except KeyboardInterrupt:
        if not goes_on(command):
            stopped("The server may have carried out the command, or may do so still.")
    if failed:
        raise typer.Exit(1)


def _refuse_what_cannot_work(command: Sequence[bytes]) -> None:
    name = command[0].upper()
    reason = _NOT_HERE.get(name) or _NOT_HERE.get(b" ".join(word.upper() for word in command[:2]))
    if reason is not None:
        raise InvalidInput(f"{name.decode(errors='replace')} {reason}; use redis-cli.")


def _show(command: Sequence[bytes], reply: Reply, *, bare: bool) -> None:
    if reply_format.is_text_command(command):
        shown = reply_format.for_programs(reply)
    elif bare:
        shown = reply_format.for_programs(reply) + b"\n"
    else:
        shown = reply_format.for_people(reply)
    sys.stdout.buffer.write(shown)
    sys.stdout.buffer.flush()
