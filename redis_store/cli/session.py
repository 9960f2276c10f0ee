"""What the operators' commands have in common: the server, the output, questions, exit codes, and the options for these.

A command is a function whose first parameter is a `Session`; `operator_command` adds the common options to its own. It gets data
from `Session.admin`, prints records with `Session.show`, and everything else with `Session.say`. So it works for people and,
with ``--json``, for machines.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from redis_store.cli.streams import stdout_failed
from redis_store.cli.tables import Column, table, takes_colors, takes_escapes
from redis_store.errors import InvalidInput
from redis_store.values.printable import json_text, message, one_line
from redis_store.values.quantities import parse_age

if TYPE_CHECKING:  # they import redis-py, which takes longer than all that --help needs
    from redis_store.admin import Admin
    from redis_store.server import EmbeddedServer

FINE, FOUND, WRONG_USAGE, NOT_THERE, CONFLICT, NOT_REACHED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
"""Exit codes: done; done, and something wrong was found, or a failure; called wrongly; not there; changed by others meanwhile;
the server was not reached; stopped by Ctrl-C."""

NOTHING_CHANGED = "Nothing was changed. To start over, run the command again."

_ARGUMENTS = ("key", "id", "name")
"""The names that commands take as arguments, not as options."""

_SILENT_S = 1.0
"""Time before the first line of progress, in seconds."""

_PROGRESS_S = 0.2
"""Time between two lines of progress, in seconds."""

DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="FOLDER",
        help="Folder of the embedded server; else REDIS_STORE_DATA_DIR, else this user's data folder.",
        show_default=False,
    ),
]
UrlOption = Annotated[
    str | None, typer.Option(help="The server; else REDIS_URL, else the embedded server.", show_default=False)
]
UserOption = Annotated[str | None, typer.Option("--user", "-u", help="The user.", show_default=False)]
NamespaceOption = Annotated[str | None, typer.Option("--namespace", "-n", help="The namespace.", show_default=False)]
StdinOption = Annotated[
    bool, typer.Option("--stdin", help="Take users, namespaces and keys from the JSON lines on stdin.")
]

_EVERYWHERE: dict[str, Any] = {
    "url": UrlOption,
    "data_dir": DataDirOption,
    "as_json": Annotated[bool, typer.Option("--json", help="One JSON object a line, names exactly as they are.")],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="No messages but errors.")],
}
_OF_CHANGES: dict[str, Any] = {
    "yes": Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")],
    "operator": Annotated[
        str | None,
        typer.Option(
            "--as", metavar="NAME", help="Your name in the log of changes; else user@host.", show_default=False
        ),
    ],
}
COMMON_OPTIONS = frozenset({*_EVERYWHERE, *_OF_CHANGES})
"""The parameters of the common options, which docs/cli.md explains once."""

_DEFAULTS: dict[str, Any] = {
    name: None if name in ("url", "data_dir", "operator") else False for name in COMMON_OPTIONS
}


class Session:
    """One call of an operators' command."""

    def __init__(
        self,
        url: str | None = None,
        data_dir: Path | None = None,
        as_json: bool = False,
        quiet: bool = False,
        yes: bool = False,
        operator: str | None = None,
        *,
        changes: bool = False,
    ) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.go_on = NOTHING_CHANGED
        if changes:
            self.go_on = "If something was changed, `redis-store audit` shows it. To go on, run the command again."
        """What is said after Ctrl-C: what was done, and how to go on. A command that changes something keeps it true."""
        self.follows = False
        """Whether Ctrl-C is the normal end of the command."""
        self._yes = yes
        self._operator = operator
        self._url, self._data_dir = url, data_dir
        self._admin: Admin | None = None
        self._server: EmbeddedServer | None = None
        self._progress_at = time.monotonic() + _SILENT_S
        self._progress_shown = False
        self._steps = 0

    @property
    def admin(self) -> Admin:
        """The operations, on the server that the options name; opened when first needed."""
        if self._admin is None:
            from redis_store.admin import Admin

            self._admin = Admin(self.url, operator=self._operator)
            self._admin.on_step = self._count_step
        return self._admin

    @property
    def url(self) -> str | None:
        """The url of the server that the options name; None for that of the environment."""
        if self._url is None and self._data_dir is not None:  # also if REDIS_URL names another server
            if self._server is None:
                from redis_store.server import join

                self._server = join(self._data_dir)
            return self._server.url
        return self._url

    def close(self) -> None:
        """Close the connections."""
        self._end_progress()
        if self._admin is not None:
            self._admin.close()
        if self._server is not None:
            self._server.close()

    # Output

    def say(self, text: str) -> None:
        """Print a message on stderr, unless `--quiet`."""
        if not self.quiet:
            self.complain(text)

    def complain(self, text: str) -> None:
        """Print a message on stderr, also with `--quiet`."""
        self._end_progress()
        typer.echo(message(text), err=True)

    def line(self, text: str) -> None:
        """Print a line of data on stdout. The text is escaped."""
        self._end_progress()
        typer.echo(one_line(text))

    def text(self, text: str) -> None:
        """Print data on stdout as it is: lines that are escaped already, or a format of its own."""
        self._end_progress()
        typer.echo(text)

    def json_line(self, record: object) -> int:
        """Print a record, a dataclass or a mapping, as a line of JSON. Return 1, the number of lines."""
        self._end_progress()
        typer.echo(json_text(plain(record)))
        return 1

    def show(self, records: Iterable[Any], columns: Sequence[Column], cells: Callable[[Any], Sequence[object]]) -> int:
        """Print records as a table, or as JSON lines as they come. Return their number."""
        if self.as_json:
            return sum(map(self.json_line, self.while_read(records)))
        rows = [cells(record) for record in records]
        if rows:
            self._end_progress()
            for line in table(columns, rows, bold=takes_colors(sys.stdout)):
                typer.echo(line)
                if stdout_failed():
                    break
        return len(rows)

    def while_read(self, records: Iterable[Any]) -> Iterator[Any]:
        """Yield records until nobody reads the output any more."""
        for record in records:
            yield record
            if stdout_failed():
                return

    def progress(self, text: str) -> None:
        """Show how far a long command is, on a terminal's last line; a few times a second at most."""
        now = time.monotonic()
        if self.quiet or now < self._progress_at or not takes_escapes(sys.stderr):
            return
        self._progress_at, self._progress_shown = now + _PROGRESS_S, True
        typer.echo(f"\r\x1b[K{one_line(text)}", err=True, nl=False)

    def _count_step(self, found: int) -> None:
        self._steps += found
        self.progress(f"{self._steps:,} found ...")

    def _end_progress(self) -> None:
        if self._progress_shown:
            self._progress_shown = False
            typer.echo("\r\x1b[K", err=True, nl=False)

    # Ends

    def missing(self, text: str) -> NoReturn:
        """End the command because what it names is not there."""
        self.complain(text)
        raise typer.Exit(NOT_THERE)

    def wrong_usage(self, text: str) -> NoReturn:
        """End the command because it was called wrongly."""
        self.complain(text)
        raise typer.Exit(WRONG_USAGE)

    def conflict(self, text: str) -> NoReturn:
        """End the command because of what is there already, or what others changed meanwhile."""
        self.complain(text)
        raise typer.Exit(CONFLICT)

    def confirm(self, question: str, what: Iterable[str] = ()) -> None:
        """Show what a change concerns and ask, unless `--yes`. Ends the command if the answer is not yes."""
        if self._yes:
            return
        for line in what:
            self.complain(f"  {one_line(line)}")
        self._end_progress()
        if not agrees(question):
            self.complain("Nothing was changed. To go on without a question, use --yes.")
            raise typer.Exit(FOUND)

    def needs_yes(self, what: str) -> None:
        """End the command unless it was called with `--yes`, as it cannot ask: stdin has something else."""
        if not self._yes:
            self.wrong_usage(f"Nothing was changed: with {what}, the command cannot ask. To go on, use --yes.")

    # Input

    def names(self, given: Mapping[str, str | None], needed: Sequence[str], stdin: bool) -> Iterator[dict[str, str]]:
        """Yield what a command is to work on: the given names, or with ``--stdin`` those of each JSON line.

        A line is an object such as a listing prints. Given names replace those of the line.
        """
        known = {name: text for name, text in given.items() if text is not None}
        if not stdin:
            self._check_names(known, needed, "")
            yield known
            return
        for number, line in enumerate(sys.stdin.buffer, start=1):
            if line.strip():
                told = self._names_in(line, number)
                both = {**{name: told[name] for name in (*given, *needed) if name in told}, **known}
                self._check_names(both, needed, f" in line {number} of stdin")
                yield both

    def _names_in(self, line: bytes, number: int) -> dict[str, str]:
        with suppress(ValueError, RecursionError):
            told = json.loads(line)
            if isinstance(told, dict):
                return {name: text for name, text in told.items() if isinstance(text, str)}
        raise InvalidInput(f"Line {number} of stdin is no JSON object: pass the output of a listing with --json.")

    def _check_names(self, known: Mapping[str, str], needed: Sequence[str], where: str) -> None:
        for name in needed:
            if name not in known:
                passed = name.upper() if name in _ARGUMENTS else f"--{name}"
                advice = f"pass {passed}, or --stdin with the output of a listing with --json"
                raise InvalidInput(f"The {name} is missing{where}: {advice}.")


def plain(record: object) -> dict[str, Any]:
    """Return a record as what JSON has: times become text of ISO 8601."""
    facts = dict(record) if isinstance(record, Mapping) else fields_of(record)
    return {name: _plain_value(fact) for name, fact in facts.items()}


def fields_of(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, by name."""
    return {each.name: getattr(record, each.name) for each in dataclasses.fields(record)}


def _plain_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if dataclasses.is_dataclass(value):
        return plain(value)
    if isinstance(value, (list, tuple)):
        return [_plain_value(each) for each in value]
    return value


def agrees(question: str) -> bool:
    """Ask on stderr, and return whether the answer on stdin is yes."""
    typer.echo(f"{one_line(question)} [y/N] ", err=True, nl=False)  # `typer.confirm` would write to stdout
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        typer.echo("", err=True)
    return answer.strip().lower() in ("y", "yes")


def since(text: str | None, option: str) -> datetime | None:
    """Return the time that lies as long ago as an option says, or None without it."""
    if text is None:
        return None
    try:
        return datetime.now(UTC) - parse_age(text)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{option}: {error}") from None


class OperatorCommand(TyperCommand):
    """A command whose errors of usage say how names are passed: names as they are typed first are often taken for options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if isinstance(text := getattr(error, "message", None), str):  # the class of such errors has no public name
                error.message = text + self._advice(error)  # type: ignore[attr-defined]
            raise

    def _advice(self, error: Exception) -> str:
        options = {each.name for each in self.params if each.param_type_name == "option"}
        wrong = getattr(error, "option_name", None)
        if wrong is not None and not getattr(error, "possibilities", None):
            if any(each.param_type_name == "argument" for each in self.params):
                return f". If that is no option but a name, write it last, after two dashes: ... -- {wrong}"
        elif "unexpected extra argument" in str(error) and "user" in options:
            also = " and --namespace NAME" if "namespace" in options else ""
            return f". Name whose data it is by options: --user NAME{also}"
        return ""


def operator_command(
    app: typer.Typer, name: str | None, *, changes: bool = False, **settings: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command with the common options; `changes` adds those for commands that change something.

    Without a name it is what the application, a group of commands, does by itself.
    """
    common = {**_EVERYWHERE, **(_OF_CHANGES if changes else {})}

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(function, eval_str=True)
        _, *parameters = own.parameters.values()

        @functools.wraps(function)
        def command(**given: Any) -> None:
            if name is None and given.pop("context").invoked_subcommand is not None:
                return
            session = Session(**{option: given.pop(option) for option in common}, changes=changes)
            _run(function, session, given)

        options = [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS[option], annotation=hint)
            for option, hint in common.items()
        ]
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        if name is None:
            options.append(context)
        by_keyword = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
        command.__signature__ = inspect.Signature([*by_keyword, *options])  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in (*by_keyword, *options)}
        del command.__wrapped__  # its signature is not the command's
        if name is None:
            app.callback(invoke_without_command=True, **settings)(command)
        else:
            app.command(name, cls=OperatorCommand, **settings)(command)
        return function

    return register


def _run(function: Callable[..., None], session: Session, given: dict[str, Any]) -> None:
    logger, handler = logging.getLogger("redis_store"), _Warnings(session)
    logger.addHandler(handler)
    try:
        function(session, **given)
    except KeyboardInterrupt:
        if session.follows:
            return
        session.complain(f"Stopped by Ctrl-C. {session.go_on}")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        session.close()
        logger.removeHandler(handler)


def stopped(go_on: str) -> NoReturn:
    """End a command without a session that was stopped by Ctrl-C. Say what was done, and how to go on."""
    typer.echo(message(f"Stopped by Ctrl-C. {go_on}"), err=True)
    raise typer.Exit(INTERRUPTED) from None


class _Warnings(logging.Handler):
    """Shows the library's warnings on stderr."""

    def __init__(self, session: Session) -> None:
        super().__init__(logging.WARNING)
        self._session = session

    def emit(self, record: logging.LogRecord) -> None:
        self._session.complain(f"redis-store: {record.getMessage()}")
