"""The command ``redis-store``: one module of this package for each group of subcommands.

Data goes to stdout and talk to stderr. Exit codes: 0 done, 1 it failed, 2 wrong usage; what a command adds to that is in its
help. To add a group, write a module with a ``typer.Typer`` (or a function that takes ours, for a bare command) and name it here.
"""

from __future__ import annotations

import sys

import typer

from redis_store.cli import raw, server
from redis_store.errors import DataStoreError, InvalidInput

__all__ = ["app", "main"]

app = typer.Typer(
    name="redis-store",
    help="Look at and operate a store that agents share.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(server.app, name="server")
raw.register(app)


def main() -> None:
    """Run the command with the arguments of this process, and exit with its code. An error of ours is one line, no traceback."""
    try:
        app(prog_name="redis-store")
    except DataStoreError as error:
        print(f"redis-store: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InvalidInput) else 1)
