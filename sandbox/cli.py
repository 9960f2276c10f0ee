"""The command `sandbox`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from redis_store import _plain
from redis_store.errors import DataStoreError, InvalidInput
from sandbox import _doctor, errors
from sandbox.limits import Limits
from sandbox.result import RunResult
from sandbox.runner import run as run_agent

FAILED = 1
CALLED_WRONGLY = 2
INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run agents, each in a process of its own, with a user's data_store there.",
)


@app.command()
def run(
    agent_file: Annotated[Path, typer.Argument(metavar="AGENT.PY", help="The agent: a file with a run function.")],
    user: Annotated[str, typer.Option(help="Whose data the agent works on.")],
    input_json: Annotated[
        str, typer.Option("--input", help="The input_dict: a JSON object, @FILE to read it from, or - for stdin.")
    ] = "{}",
    namespace: Annotated[str, typer.Option(help="Where data_store begins.")] = "default",
    agent: Annotated[str | None, typer.Option(help="The agent's name; else that of its file.")] = None,
    url: Annotated[
        str | None, typer.Option(help="The server; else REDIS_URL, else the embedded server.", show_default=False)
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="When to end the run.")] = Limits().timeout_s,
) -> None:
    """Run an agent: its output as JSON on stdout, what it prints and its errors on stderr.

    Exit code 0: it returned. 1: it failed. 2: the command cannot be carried out as given. 130: interrupted.
    """
    try:
        result = run_agent(
            agent_file,
            _read_input(input_json),
            user=user,
            namespace=namespace,
            agent=agent,
            url=url,
            limits=Limits(timeout_s=timeout),
            on_output=_to_stderr,
        )
    except KeyboardInterrupt:
        _leave("Interrupted: the agent was ended; what it had written stays.", INTERRUPTED)
    except (errors.InvalidInput, InvalidInput) as error:
        _leave(str(error), CALLED_WRONGLY)
    except (errors.SandboxError, DataStoreError) as error:
        _leave(str(error), FAILED)
    _show(result)


@app.command()
def doctor(
    json_output: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Say how well agents are kept in on this system, how that was tested, and what would help.

    Exit code 0: there is isolation. 1: there is none, and agents are refused.
    """
    report = _doctor.examine()
    _write(sys.stdout, _doctor.as_json(report) if json_output else _doctor.text(report))
    if report.tier == "none":
        raise typer.Exit(FAILED)


def main() -> None:
    """Entry point of the command."""
    app()


def _show(result: RunResult) -> None:
    error = result.error
    if error is None:
        indent = 2 if sys.stdout.isatty() else None
        _write(sys.stdout, json.dumps(result.output, ensure_ascii=False, indent=indent) + "\n")
        return
    details = getattr(error, "traceback", "") or getattr(error, "details", "")
    _leave((details.rstrip() + "\n" if details else "") + str(error), FAILED)


def _read_input(text: str) -> dict[str, Any]:
    """Return the input that an option names, or leave with what is wrong with it and where."""
    where = "--input"
    if text == "-":
        where, raw = "The input on stdin", sys.stdin.buffer.read()
    elif text.startswith("@"):
        where = f"The input in {text[1:]}"
        try:
            raw = Path(text[1:]).read_bytes()
        except OSError as error:
            _leave(f"{where} cannot be read: {error.strerror}.", CALLED_WRONGLY)
    else:
        raw = os.fsencode(text)
    try:
        value = _plain.load(raw)
    except json.JSONDecodeError as error:
        _leave(f"{where} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.", CALLED_WRONGLY)
    except (ValueError, RecursionError) as error:
        _leave(f"{where} is not JSON: {error}.", CALLED_WRONGLY)
    if not isinstance(value, dict):
        _leave(
            f'{where} must be a JSON object such as {{"repo": "..."}}, not a {type(value).__name__}.', CALLED_WRONGLY
        )
    return value


def _to_stderr(text: str) -> None:
    _write(sys.stderr, text)


def _write(stream: Any, text: str) -> None:
    """Write text as UTF-8 whatever the locale, at once."""
    stream.flush()
    stream.buffer.write(text.encode(errors="backslashreplace"))
    stream.buffer.flush()


def _leave(message: str, code: int) -> NoReturn:
    _write(sys.stderr, message + "\n")
    raise typer.Exit(code)
