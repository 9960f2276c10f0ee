"""The command ``redis-store``, with one module for each group of subcommands.

Data goes to stdout, and messages go to stderr. Exit codes are those of `session`. To add a command for operators, decorate a
function in the module of its group with `operator_command`. To add a group, write a module with a ``typer.Typer`` and name it
here.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from redis_store.cli import change, check, guard, mcp, move, raw, see, server, ui
from redis_store.cli.session import CONFLICT, FOUND, NOT_REACHED, WRONG_USAGE
from redis_store.cli.streams import safe_streams
from redis_store.errors import Conflict, DataStoreError, InvalidInput, PermissionDenied, StoreUnavailable
from redis_store.values.printable import message

__all__ = ["app", "main"]

app = typer.Typer(
    name="redis-store",
    help="Inspect and operate a store that agents share.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (see, change, move, check, guard, ui):
    app.add_typer(group.app)
app.add_typer(server.app, name="server")
raw.register(app)
mcp.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        from redis_store import __version__

        typer.echo(f"redis-store {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Inspect and operate a store that agents share."""


def main() -> None:
    """Run the command with this process's arguments and exit with its code. A `DataStoreError` is printed as one line."""
    with safe_streams("redis-store"):
        try:
            app(prog_name="redis-store")
        except DataStoreError as error:
            print(message(f"redis-store: {error}"), file=sys.stderr)
            sys.exit(_exit_code_of(error))


def _exit_code_of(error: DataStoreError) -> int:
    if isinstance(error, InvalidInput):
        return WRONG_USAGE
    if isinstance(error, Conflict):
        return CONFLICT
    return NOT_REACHED if isinstance(error, StoreUnavailable) and not isinstance(error, PermissionDenied) else FOUND
