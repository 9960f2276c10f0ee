"""The command that checks a server and its data, and mends what can be mended."""

from __future__ import annotations

from typing import Annotated

import typer

from redis_store.cli.session import FOUND, Session, operator_command
from redis_store.cli.tables import Column

app = typer.Typer()


@operator_command(app, "doctor", changes=True)
def doctor(
    session: Session,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended without loss.")] = False,
) -> None:
    """Check the server's settings and all users' data. Exit code 1 if something is wrong and was not mended.

    Each finding says what it means and what mends it. A note is no error: it may be so on purpose.
    """
    found = session.admin.doctor(repair=repair)
    session.show(
        found,
        (*map(Column, ("LEVEL", "CHECK", "USER", "NAMESPACE", "KEY", "FOUND", "MEANS", "MEND")),),
        lambda one: (
            "mended" if one.mended else one.level, one.check, one.user, one.namespace, one.key, one.what, one.means, one.mend
        ),
    )  # fmt: skip
    wrong = sum(one.level == "wrong" and not one.mended for one in found)
    mended = sum(one.mended for one in found)
    session.say(f"{wrong:,} wrong, {mended:,} mended, {len(found) - wrong - mended:,} to note.")
    if wrong:
        raise typer.Exit(FOUND)
