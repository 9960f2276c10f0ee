"""Commands for logins that reach one user's data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from redis_store.cli.session import Session, operator_command
from redis_store.cli.tables import Column
from redis_store.values.quantities import counted

if TYPE_CHECKING:
    from redis_store.admin import NewLogin

app = typer.Typer()
login = typer.Typer(help="Logins of the server that reach one user's data and nothing else.", no_args_is_help=True)
app.add_typer(login, name="login")

_USER = Annotated[str, typer.Argument(metavar="USER", show_default=False)]
_LOGIN = Annotated[
    str | None,
    typer.Option("--login", metavar="NAME", help="The login's name; else the user's id, encoded.", show_default=False),
]


@operator_command(login, "create", changes=True)
def create(
    session: Session,
    user: _USER,
    login: _LOGIN = None,
    near_cache: Annotated[
        bool, typer.Option("--near-cache", help="Let it use the near cache, which shows it the names of others' keys.")
    ] = False,
) -> None:
    """Make a login that reaches the data of USER and nothing else, and print its url.

    Where the server refuses ACL SETUSER, print the line for its access list, and the url.
    """
    session.go_on = (
        "The login may be there, with a password that nobody knows: see `redis-store login list`. If it is, use"
        " `redis-store login rotate`; else run the command again."
    )
    _show(session, session.admin.create_login(user, login=login, near_cache=near_cache), "reaches")


@operator_command(login, "rotate", changes=True)
def rotate(
    session: Session,
    user: _USER,
    login: _LOGIN = None,
    keep_old: Annotated[
        bool, typer.Option("--keep-old", help="Let the old password work until the next rotation.")
    ] = False,
    near_cache: Annotated[
        bool | None, typer.Option("--near-cache/--no-near-cache", help="Else as before.", show_default=False)
    ] = None,
) -> None:
    """Give the login of USER a new password, and print its url.

    The old password and the login's connections end at once. To exchange it in running processes, use --keep-old, and rotate once
    more when they have the new one. Exit code 3 if there is no such login.
    """
    session.go_on = (
        "The password may be a new one, which nobody knows. To have one that you know, run the command again."
    )
    new = session.admin.rotate_login(user, login=login, keep_old=keep_old, near_cache=near_cache)
    if new is None:
        session.missing(f"{user!r} has no login {login or ''}".rstrip() + ": make one with `redis-store login create`.")
    _show(session, new, "has a new password, and reaches")


@operator_command(login, "remove", changes=True)
def remove(session: Session, user: _USER, login: _LOGIN = None) -> None:
    """Remove the login of USER and end its connections. The data stays. Exit code 3 if there is no such login."""
    session.confirm(f"Remove the login {login or user!r}? The data of {user!r} stays.")
    if not session.admin.remove_login(user, login=login):
        session.missing(f"{user!r} has no login {login or ''}".rstrip() + ": nothing was changed.")
    session.say(f"The login is removed. The data of {user!r} is still there.")


@operator_command(login, "list")
def list_(session: Session) -> None:
    """List the logins that reach one user's data and nothing else."""
    found = session.admin.list_logins()
    session.show(
        found,
        (Column("LOGIN"), Column("USER"), Column("ENABLED"), Column("PASSWORDS", True), Column("NEAR CACHE")),
        lambda one: (one.login, one.user, one.enabled, one.passwords, one.near_cache),
    )
    session.say(f"{counted(len(found), 'login')}.")


def _show(session: Session, new: NewLogin, verb: str) -> None:
    if session.as_json:
        session.json_line(new)
    else:
        if not new.made:
            session.text(new.rule)
        session.text(new.url)
    if new.made:
        session.say(f"The login {new.login!r} {verb} the data of {new.user!r} and nothing else.")
    else:
        session.say(
            "The server does not let you change its access list, so nothing was made. Add the line above in its console. It has"
            " the digest of the password; the url has the password."
        )
    if new.made and not new.kept:
        session.say(
            "The server did not save its access list, so the login ends when the server restarts. Start the server with"
            f" --aclfile, or add this line to its configuration: {new.rule}"
        )
    if new.made and new.has_replicas:
        session.say(
            "The server's replicas do not have the login, and would refuse it after a failover. Run this on each of them:"
            f" ACL SETUSER {new.rule.removeprefix('user ')}"
        )
    if new.open_to_all:
        session.say(
            "The server lets everyone in without a password, as the login 'default', so the new login keeps nobody away from"
            " other data. Give 'default' a password, see docs/security.md."
        )
