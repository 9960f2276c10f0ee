"""``redis-store server``: commands for the embedded server of a folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from redis_store import server
from redis_store.cli.session import DataDirOption, agrees, stopped
from redis_store.errors import EmbeddedServerError
from redis_store.server import ServerStatus
from redis_store.server_config import Durability
from redis_store.values.printable import message, one_line

NOT_RUNNING = 3

ForceOption = Annotated[bool, typer.Option("--force", help="Even while processes use it.")]


class _Stoppable(TyperGroup):
    """The commands of the embedded server, which say what Ctrl-C may have left."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            stopped("To see whether the server runs, use `redis-store server status`. To go on, run the command again.")


app = typer.Typer(
    cls=_Stoppable,
    help="Start, inspect, stop or remove the embedded server.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def start(
    data_dir: DataDirOption = None,
    durability: Annotated[Durability, typer.Option(help="When writes reach the disk.")] = "everysec",
) -> None:
    """Start the server, keep it running without users until `stop`, and print its url."""
    status = server.start(data_dir, durability)
    _say(f"{_engine(status)} runs as process {status.pid} until `redis-store server stop`.")
    typer.echo(status.url)


@app.command()
def stop(data_dir: DataDirOption = None, force: ForceOption = False) -> None:
    """Shut the server down, or have its last user do so.

    Exit code 1 if it is still running. With --force it is shut down at once; remaining users start it again when they next
    connect.
    """
    status = server.stop(data_dir, force=force)
    if not status.running:
        _say(f"No server is running in {status.data_dir}.")
        return
    users = "some processes" if not status.users else f"{status.users} process{'es' if status.users > 1 else ''}"
    _say(f"The server is still in use by {users}; the last of them shuts it down. To shut it down now, use --force.")
    raise typer.Exit(1)


@app.command()
def status(
    data_dir: DataDirOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show the state of the server without starting it. Exit code 0 if it is running, 3 if not."""
    known = server.status(data_dir)
    facts = {name: str(fact) if isinstance(fact, Path) else fact for name, fact in dataclasses.asdict(known).items()}
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        for name, fact in facts.items():
            typer.echo(f"{name.replace('_', ' '):<12} {one_line(_shown(fact))}")
    if not known.running:
        raise typer.Exit(NOT_RUNNING)


@app.command()
def path(
    data_dir: DataDirOption = None,
    socket: Annotated[bool, typer.Option("--socket", help="Print the socket instead, as for `redis-cli -s`.")] = False,
) -> None:
    """Print the folder with the data."""
    typer.echo(server.status(data_dir).socket_path if socket else _chosen(data_dir))


@app.command()
def destroy(
    data_dir: DataDirOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: ForceOption = False,
) -> None:
    """Stop the server and remove its data permanently."""
    folder = _chosen(data_dir)
    if not folder.is_dir():
        _say(f"There is nothing at {folder}.")
        return
    if not yes and not agrees(f"Remove all data in {folder}?"):
        _say("Nothing was removed.")
        raise typer.Exit(1)
    try:
        server.destroy(folder, force=force)
    except EmbeddedServerError as error:  # in use, and reached
        _say(f"redis-store: {error}")
        raise typer.Exit(1) from None
    _say(f"Removed the data in {folder}.")


def _chosen(data_dir: Path | None) -> Path:
    return server.status(data_dir).data_dir


def _engine(status: ServerStatus) -> str:
    return f"{(status.engine or 'the server').capitalize()} {status.version or ''}".rstrip()


def _shown(fact: object) -> str:
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    return "-" if fact is None else str(fact)


def _say(text: str) -> None:
    typer.echo(message(text), err=True)
