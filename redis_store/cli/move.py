"""Commands that export and import data."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redis_store.cli.session import (
    FINE,
    NamespaceOption,
    Session,
    UserOption,
    operator_command,
)
from redis_store.cli.streams import stdout_failed
from redis_store.errors import DataStoreError, InvalidInput
from redis_store.values.quantities import counted

if TYPE_CHECKING:
    from redis_store.admin import Imported

app = typer.Typer()

ReplaceOption = Annotated[bool, typer.Option("--replace", help="Overwrite keys that hold something else.")]


@operator_command(app, "export")
def export(
    session: Session,
    file: Annotated[
        Path | None, typer.Argument(help="Compressed if it ends with .gz or .zst; else stdout.", show_default=False)
    ] = None,
    user: UserOption = None,
    namespace: NamespaceOption = None,
    prefix: Annotated[
        str | None, typer.Option(help="Only keys that begin with this text, of one namespace.", show_default=False)
    ] = None,
) -> None:
    """Write all data, that of one user, or one namespace, as lines of JSON: each namespace as it was at one moment.

    Records of runs, change logs, locks, limits and cursors of consumers are not part of it.
    """
    session.go_on = "No file was written. To start over, run the command again."
    if file is None:
        session.go_on = "The export has no last line, so it cannot be imported. To start over, run the command again."
    session.admin.on_step = _counter(session, "exported")
    done = session.admin.export(_Stdout() if file is None else file, user, namespace, prefix=prefix)
    if user is not None and not done.keys:
        session.missing("Nothing is there: the export has no keys.")
    session.say(f"{number_of_keys(done.keys)} exported.")


class _Stdout:
    """Stdout as the file of an export."""

    def write(self, text: bytes) -> int:
        """Write, or end the command if nobody reads."""
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
        if stdout_failed():
            raise typer.Exit(FINE)
        return len(text)


@operator_command(app, "import", changes=True)
def import_(
    session: Session,
    file: Annotated[
        Path | None, typer.Argument(help="An export, compressed or not; else stdin.", show_default=False)
    ] = None,
    user: UserOption = None,
    namespace: NamespaceOption = None,
    replace: ReplaceOption = False,
) -> None:
    """Write the keys of an export, or of one user or namespace in it; what is there already stays. Exit code 4 if some differ."""
    from redis_store.admin import Imported

    if replace:
        if file is None:
            session.needs_yes("--replace with an export on stdin")
        session.confirm("Overwrite the keys that hold something else now?")
    done = Imported()
    count = _counter(session, "imported")

    def step(more: int) -> None:
        count(more)
        session.go_on = _go_on(done)

    session.admin.on_step = step
    session.go_on = _go_on(done)
    try:
        session.admin.import_(
            file if file is not None else sys.stdin.buffer, user, namespace, replace=replace, done=done
        )
    except DataStoreError as error:
        if not isinstance(error, InvalidInput):  # which says so itself
            session.complain(_go_on(done))
        raise
    report(session, done, "imported")


def _go_on(done: Imported) -> str:
    return (
        f"{number_of_keys(done.written)} or a few more were written before that. To go on, run the same command again: it leaves"
        " alone what is there already."
    )


def _counter(session: Session, what: str) -> Callable[[int], None]:
    total = 0

    def count(more: int) -> None:
        nonlocal total
        total += more
        session.progress(f"{number_of_keys(total)} {what} ...")

    return count


def number_of_keys(count: int) -> str:
    """Return a number of keys in words."""
    return counted(count, "key")


def report(session: Session, done: Imported, what: str) -> None:
    """Say what an import did, or something that is done like one. Ends the command if keys were kept."""
    if session.as_json:
        session.json_line(done)
    parts = [f"{number_of_keys(done.written)} {what}"]
    if done.already:
        parts.append(f"{done.already:,} were there already")
    if done.expired:
        parts.append(f"{done.expired:,} have expired since")
    session.say(f"{', '.join(parts)}.")
    if done.kept:
        first = ", ".join(f"{each.key!r} of {each.user!r} in {each.namespace!r}" for each in done.first_kept[:3])
        session.conflict(
            f"{number_of_keys(done.kept)} held something else, and stayed so, such as {first}. To overwrite them, use --replace."
        )
