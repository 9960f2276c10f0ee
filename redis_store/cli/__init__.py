"""The command ``redis-store``, with one module for each group of subcommands.

Data goes to stdout, and messages go to stderr. Exit codes: 0 success, 1 failure, 2 wrong usage; a command's help lists further
ones. To add a group, write a module with a ``typer.Typer`` (or, for a bare command, a function that takes ours) and add it here.
"""

from __future__ import annotations

import sys

import typer

from redis_store.cli import raw, server
from redis_store.cli.streams import safe_streams
from redis_store.errors import DataStoreError, InvalidInput
from redis_store.values.printable import message

__all__ = ["app", "main"]

app = typer.Typer(
    name="redis-store",
    help="Inspect and operate a store that agents share.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(server.app, name="server")
raw.register(app)


def main() -> None:
    """Run the command with this process's arguments and exit with its code. A `DataStoreError` is printed as one line."""
    with safe_streams("redis-store"):
        try:
            app(prog_name="redis-store")
        except DataStoreError as error:
            print(message(f"redis-store: {error}"), file=sys.stderr)
            sys.exit(2 if isinstance(error, InvalidInput) else 1)
