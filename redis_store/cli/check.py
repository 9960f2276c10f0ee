"""The command that checks a server and its data, and mends what can be mended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from redis_store.cli.session import FOUND, NOTHING_CHANGED, Session, operator_command
from redis_store.cli.tables import cell

if TYPE_CHECKING:
    from redis_store.admin.doctor import Finding

app = typer.Typer()


@operator_command(app, "doctor", changes=True)
def doctor(
    session: Session,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended without loss.")] = False,
) -> None:
    """Check the server's settings and all users' data. Exit code 1 if something is wrong and was not mended.

    Each finding says what it means and what mends it. A note is no error: it may be so on purpose.
    """
    session.go_on = "What was mended stays so. To go on, run the command again." if repair else NOTHING_CHANGED
    found = session.admin.doctor(repair=repair)
    for one in session.while_read(found):
        if session.as_json:
            session.json_line(one)
        else:
            _show(session, one)
    wrong = sum(one.level == "wrong" and not one.mended for one in found)
    mended = sum(one.mended for one in found)
    session.say(f"{wrong:,} wrong, {mended:,} mended, {len(found) - wrong - mended:,} to note.")
    if wrong:
        raise typer.Exit(FOUND)


def _show(session: Session, one: Finding) -> None:
    """Print a finding as a block of lines: a table of sentences would be wider than any terminal."""
    session.text(f"{'mended' if one.mended else one.level}: {one.check}: {cell(one.what)}")
    where = (("user", one.user), ("namespace", one.namespace), ("key", one.key))
    for name, value in (*where, ("means", one.means), ("mend", one.mend)):
        if value is not None:
            session.text(f"    {name:<9}  {cell(value)}")
