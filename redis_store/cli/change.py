"""Commands that change data: each leaves a line in the log that `redis-store audit` shows."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redis_store.cli.move import ReplaceOption, number_of_keys, report
from redis_store.cli.session import NamespaceOption, Session, StdinOption, UserOption, operator_command
from redis_store.errors import InvalidInput
from redis_store.values.quantities import counted, parse_age, size

if TYPE_CHECKING:
    from redis_store.admin import NamespaceUsage

app = typer.Typer()
user_app = typer.Typer(help="Delete everything of a user.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(user_app, name="user")

_LISTED_FIRST = 10
_KEYS_AT_ONCE = 1000

_RequiredUser = Annotated[str, typer.Option("--user", "-u", help="The user.", show_default=False)]


@operator_command(app, "set", changes=True)
def set_(
    session: Session,
    key: Annotated[str, typer.Argument(show_default=False)],
    value: Annotated[str, typer.Argument(help="JSON, or - to read it from stdin.", show_default=False)],
    user: _RequiredUser,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="The namespace.")] = "default",
    ttl: Annotated[
        str | None, typer.Option(metavar="AGE", help="Expire after so long, such as 12h.", show_default=False)
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(help="A JSON object, merged into the key's.", show_default=False)
    ] = None,
) -> None:
    """Store a value under a key, as an agent does."""
    text = sys.stdin.read() if value == "-" else value
    about = None if metadata is None else _json("--metadata", metadata)
    if about is not None and not isinstance(about, dict):
        raise InvalidInput("--metadata must be a JSON object.")
    try:
        life = None if ttl is None else parse_age(ttl)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"--ttl: {error}") from None
    session.admin.set_value(user, namespace, key, _json("The value", text), about, life)


def _json(what: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInput(
            f"{what} is not JSON: {text[:80]!r}. A text needs quotes of its own, as in '\"text\"'."
        ) from None


@operator_command(app, "delete", changes=True)
def delete(
    session: Session,
    keys: Annotated[list[str] | None, typer.Argument(metavar="KEY", show_default=False)] = None,
    user: UserOption = None,
    namespace: NamespaceOption = None,
    stdin: StdinOption = False,
) -> None:
    """Delete keys of a namespace. Exit code 3 if none of them is there."""
    if stdin:
        session.needs_yes("--stdin")
    total = 0
    for (owner, place), some in _named_keys(session, keys, user, namespace, stdin):
        if not stdin:
            names = list(some)
            session.confirm(
                f"Delete {number_of_keys(len(names))} of user {owner!r} in namespace {place!r}?",
                islice(names, _LISTED_FIRST),
            )
            some = names
        left = iter(some)
        while part := list(islice(left, _KEYS_AT_ONCE)):
            total += session.admin.delete_keys(owner, place, part)
            session.go_on = (
                f"{number_of_keys(total)} or a few more deleted. To delete the others, run the command again."
            )
    if not total:
        session.missing("Nothing was deleted: there is no such key.")
    session.say(f"{number_of_keys(total)} deleted.")


def _named_keys(
    session: Session, keys: list[str] | None, user: str | None, namespace: str | None, stdin: bool
) -> Iterable[tuple[tuple[str, str], Iterable[str]]]:
    if not stdin:
        (named,) = session.names({"user": user, "namespace": namespace}, ("user", "namespace"), False)
        if not keys:
            raise InvalidInput("The key is missing: pass KEY, or --stdin with the output of a listing with --json.")
        yield (named["user"], named["namespace"]), keys
        return
    found = session.names({"user": user, "namespace": namespace}, ("user", "namespace", "key"), True)
    for place, some in groupby(found, lambda each: (each["user"], each["namespace"])):
        yield place, (each["key"] for each in some)


@operator_command(app, "clear", changes=True)
def clear(
    session: Session,
    user: UserOption = None,
    namespace: NamespaceOption = None,
    prefix: Annotated[
        str | None, typer.Option(help="All namespaces that begin with this text.", show_default=False)
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo/--no-undo", help="Keep the data for a day, for `redis-store undo`.")
    ] = True,
    stdin: StdinOption = False,
) -> None:
    """Delete all keys of a namespace, or of all with a prefix. Values in change logs go at once, and the data after a day."""
    if prefix is not None:
        if user is None or namespace is not None or stdin:
            session.wrong_usage("--prefix needs --user, and neither --namespace nor --stdin: pass these two.")
        found = session.admin.list_namespaces(user, prefix)
        if not found:
            # Their change logs may hold values, so they are cleared all the same.
            session.say(f"No namespace of user {user!r} that begins with {prefix!r} holds data.")
        else:
            session.confirm(
                f"Clear {counted(len(found), 'namespace')} of user {user!r} with {_keys_of(found)}?", _listed(found)
            )
        session.go_on = "Some namespaces may be cleared, and the others are as before. To go on, run the command again."
        total = session.admin.clear_namespaces(user, prefix, undoable=undo)
    else:
        total = _clear_named(session, user, namespace, undo, stdin)
    if not total:
        session.missing("Nothing was deleted: no key was there. What change logs had of earlier keys is gone too.")
    back = " To undo that within a day, use redis-store undo." if undo else ""
    session.say(f"{number_of_keys(total)} deleted.{back}")


def _clear_named(session: Session, user: str | None, namespace: str | None, undo: bool, stdin: bool) -> int:
    if stdin:
        session.needs_yes("--stdin")
    total = 0
    for named in session.names({"user": user, "namespace": namespace}, ("user", "namespace"), stdin):
        owner, place = named["user"], named["namespace"]
        if not stdin:
            count = len(session.admin.store(owner, place))
            session.confirm(f"Clear namespace {place!r} of user {owner!r} with {number_of_keys(count)}?")
        total += session.admin.clear(owner, place, undoable=undo)
        session.go_on = (
            f"{number_of_keys(total)} or more deleted. To clear the other namespaces, run the command again."
        )
    return total


@operator_command(app, "undo", changes=True)
def undo(
    session: Session,
    user: _RequiredUser,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="The namespace.", show_default=False)],
) -> None:
    """Bring back what `clear` has deleted from a namespace within the last day. Keys that were written since stay."""
    session.go_on = "Some keys may be back. To bring back the others, run the command again."
    done = session.admin.undo_clear(user, namespace)
    if not done.keys:
        session.missing(
            "There is nothing to bring back: nothing was cleared within a day, or it was cleared with --no-undo."
        )
    if session.as_json:
        session.json_line(done)
    session.say(f"{number_of_keys(done.written)} brought back.")
    if done.kept:
        session.say(f"{number_of_keys(done.kept)} stayed, because they were written since.")


@operator_command(app, "copy", changes=True)
def copy(
    session: Session,
    namespace: Annotated[str, typer.Argument(show_default=False)],
    new: Annotated[str, typer.Argument(show_default=False)],
    user: _RequiredUser,
    to_user: Annotated[
        str | None, typer.Option(help="The owner of the copy, if it is another.", show_default=False)
    ] = None,
    replace: ReplaceOption = False,
) -> None:
    """Copy a namespace with times, metadata and expiry, as it is at one moment. Exit code 4 if other keys are in the way."""
    if replace:
        session.confirm(f"Overwrite keys of namespace {new!r} that hold something else?")
    session.go_on = "Some keys may be copied. To copy the others, run the command again."
    done = session.admin.copy_namespace(user, namespace, new, to_user, replace=replace)
    if not done.keys:
        session.missing(f"There is nothing to copy: namespace {namespace!r} of user {user!r} holds no data.")
    report(session, done, "copied")


@operator_command(app, "rename", changes=True)
def rename(
    session: Session,
    namespace: Annotated[str, typer.Argument(show_default=False)],
    new: Annotated[str, typer.Argument(show_default=False)],
    user: _RequiredUser,
) -> None:
    """Give a namespace another name, in one step, with all that belongs to its keys. Exit code 4 if the name is taken."""
    session.go_on = "It may be done. To make sure, run the command again."
    count = session.admin.rename_namespace(user, namespace, new)
    if not count:
        session.missing(f"There is nothing to rename: namespace {namespace!r} of user {user!r} holds no data.")
    session.say(f"{number_of_keys(count)} moved: see namespace {new!r}.")


@operator_command(user_app, "delete", changes=True)
def delete_user(session: Session, user: Annotated[str, typer.Argument(show_default=False)]) -> None:
    """Delete everything of a user, and make sure that nothing is left. It cannot be undone."""
    found = session.admin.list_namespaces(user)
    has = f"{counted(len(found), 'namespace')} with {_keys_of(found)}"
    session.confirm(f"Delete user {user!r} for ever, with {has}?", _listed(found))
    session.go_on = "Some data may be deleted. To delete the rest, run the command again."
    done = session.admin.delete_user(user)
    if not done.keys and not done.redis_keys:
        session.missing(f"There is no user {user!r}.")
    if session.as_json:
        session.json_line(done)
    session.say(
        f"User {user!r} is deleted, and nothing is left. There were {number_of_keys(done.keys)}, and {done.redis_keys:,}"
        " Redis keys of other things, such as change logs and locks."
    )


def _keys_of(found: Sequence[NamespaceUsage]) -> str:
    return number_of_keys(sum(each.keys for each in found))


def _listed(found: Sequence[NamespaceUsage]) -> list[str]:
    lines = [f"{each.namespace}  {number_of_keys(each.keys)}  {size(each.bytes)}" for each in found[:_LISTED_FIRST]]
    left = len(found) - len(lines)
    return [*lines, f"... and {left:,} more"] if left else lines
