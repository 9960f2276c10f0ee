"""Commands that show what is there and change nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from redis_store.cli.session import NamespaceOption, Session, UserOption, operator_command, since
from redis_store.cli.tables import Column, size

app = typer.Typer()

_BY = Annotated[str, typer.Option(metavar="name|memory|keys|last-write", help="The order.")]
_OLDER_THAN = Annotated[
    str | None, typer.Option(metavar="AGE", help="Only those not written for so long, such as 30d.", show_default=False)
]


@operator_command(app, "users")
def users(session: Session, by: _BY = "name", older_than: _OLDER_THAN = None) -> None:
    """List the users: namespaces, keys, memory and last write of each."""
    found = session.admin.list_users(by, since(older_than, "--older-than"))  # type: ignore[arg-type] # it checks the order
    session.show(
        found,
        (
            Column("USER"),
            Column("NAMESPACES", True),
            Column("KEYS", True),
            Column("MEMORY", True),
            Column("LAST WRITE"),
        ),
        lambda one: (one.user, one.namespaces, one.keys, size(one.bytes), one.last_write),
    )
    session.say(f"{len(found):,} user{'' if len(found) == 1 else 's'}.")


@operator_command(app, "namespaces")
def namespaces(
    session: Session,
    user: UserOption = None,
    prefix: Annotated[
        str | None, typer.Option(help="Only names that begin with this text.", show_default=False)
    ] = None,
    by: _BY = "name",
    older_than: _OLDER_THAN = None,
) -> None:
    """List the namespaces that hold data, of one user or of all."""
    found = session.admin.list_namespaces(user, prefix, by, since(older_than, "--older-than"))  # type: ignore[arg-type]
    session.show(
        found,
        (Column("USER"), Column("NAMESPACE"), Column("KEYS", True), Column("MEMORY", True), Column("LAST WRITE")),
        lambda one: (one.user, one.namespace, one.keys, size(one.bytes), one.last_write),
    )
    session.say(f"{len(found):,} namespace{'' if len(found) == 1 else 's'}.")


@operator_command(app, "audit")
def audit(
    session: Session,
    since_: Annotated[
        str | None,
        typer.Option("--since", metavar="AGE", help="Only those of the last time, such as 7d.", show_default=False),
    ] = None,
    user: UserOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Show the changes that operators made: when, who, what, how many."""
    found = (
        entry
        for entry in session.admin.iter_audit(since(since_, "--since"))
        if user in (None, entry.user) and namespace in (None, entry.namespace)
    )
    session.show(
        found,
        (Column("TIME"), *map(Column, ("BY", "WHAT", "OUTCOME", "USER", "NAMESPACE", "KEY")), Column("COUNT", True)),
        lambda one: (
            one.at.strftime("%Y-%m-%d %H:%M:%SZ"), one.by, one.what, one.outcome, one.user, one.namespace, one.key, one.count
        ),
    )  # fmt: skip
