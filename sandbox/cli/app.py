"""The command `sandbox`."""

import codecs
import json
import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Unpack

import typer
from typer.core import TyperCommand

from redis_store.cli.streams import Output, safe_streams, stdout_for_results, write_to
from redis_store.options import shows
from redis_store.values import rules
from redis_store.values.printable import escaped
from sandbox.cli import runs as kept_runs
from sandbox.cli.options import AgentFile, GivenOptions, read_given
from sandbox.cli.output import (
    CALLED_WRONGLY,
    FAILED,
    INTERRUPTED,
    kept,
    leave,
    leaving_on_errors,
    library_warnings,
    pass_on,
    say,
    show,
)
from sandbox.cli.reload import POLL_S, Saves, run_on_every_save
from sandbox.cli.watch import watch
from sandbox.handle import RunHandle
from sandbox.isolation import doctor as isolation_doctor
from sandbox.isolation.lacks import start_failures
from sandbox.pool import Sandbox
from sandbox.result import RunResult

_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""Some editors and shells begin a file with one."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run agents in isolated processes. Each agent gets the data_store of one user.",
)


class _RunCommand(TyperCommand):
    """Accepts `--trace OUT.JSON`, an older spelling of `--trace-file OUT.JSON`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        read: list[str] = []
        for arg in args:
            if arg.startswith("--trace="):
                read += ["--trace-file", arg.partition("=")[2]]
            elif arg.endswith(".json") and read and read[-1] == "--trace":
                read[-1:] = ["--trace-file", arg]
            else:
                read.append(arg)
        return super().parse_args(ctx, read)


@app.command(cls=_RunCommand)
@shows(GivenOptions)
def run(
    agent_file: AgentFile,
    user: Annotated[str, typer.Option(metavar="NAME", help="The user whose data the agent works on.")],
    input_json: Annotated[
        str,
        typer.Option(
            "--input",
            metavar="JSON",
            help="The agent's input_dict: a JSON object, @FILE to read a file, or - for stdin.",
        ),
    ] = "{}",
    namespace: Annotated[
        str, typer.Option(metavar="NAME", help="The namespace that the agent's data_store starts in.")
    ] = "default",
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="The agent's name. Defaults to its file name without .py.")
    ] = None,
    trace: Annotated[
        bool,
        typer.Option("--trace", help="Draw the run as a tree on stderr."),
    ] = False,
    trace_file: Annotated[
        Path | None, typer.Option(metavar="OUT.JSON", help="Write a trace of the run for Perfetto or Chrome's tracing.")
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Run the agent again whenever its file or one in --agents is saved.")
    ] = False,
    **given: Unpack[GivenOptions],
) -> None:
    """Run an agent.

    The agent's output is written to stdout as JSON. Its prints and errors go to stderr.

    \b
    Exit codes:
      0    the agent returned
      1    the agent failed, or the store cannot be used
      2    invalid usage: an option, the input or the agent's path
      130  interrupted
    """
    input_dict = _read_input(input_json)

    def run_once(out: Output, saves: Saves | None = None) -> int:
        with Sandbox(**read_given(given)) as box:
            result = _attended(
                box.start(agent_file, input_dict, user=user, namespace=namespace, agent=agent, on_output=pass_on),
                saves,
            )
        if result is None:
            return 0
        code = show(result, out, trace, trace_file)
        if result.is_kept:
            say(f"The run is kept: see it with `sandbox show {result.run} --user {shlex.quote(user)}`.")
        return code

    try:
        with stdout_for_results() as out, library_warnings(), leaving_on_errors():
            if reload:
                run_on_every_save(Saves(agent_file, given["agents"]), partial(run_once, out))
            code = run_once(out)
    except KeyboardInterrupt:
        leave("Interrupted: nothing was started.", INTERRUPTED)
    raise typer.Exit(code)


@app.command()
def doctor(
    json_output: Annotated[bool, typer.Option("--json", help="Write the report as one JSON object.")] = False,
) -> None:
    """Report how well this system isolates agents.

    The report names each layer of isolation, how it was tested, and what would improve it.

    \b
    Exit codes:
      0  isolation is available
      1  isolation is not available, and agents are refused
    """
    with leaving_on_errors(), start_failures():
        report = isolation_doctor.examine()
    write_to(
        sys.stdout.buffer, isolation_doctor.as_json(report) if json_output else escaped(isolation_doctor.text(report))
    )
    if report.tier == "none":
        raise typer.Exit(FAILED)


app.command("watch")(watch)
app.command("runs")(kept_runs.runs)
app.command("show")(kept_runs.show)


def main() -> None:
    """Entry point of the command."""
    with safe_streams("sandbox"):
        app(prog_name="sandbox")


def _attended(handle: RunHandle, saves: Saves | None) -> RunResult | None:
    """Wait for a run. An interrupt ends it, and so does a change of its files."""
    try:
        while saves is not None and not handle.wait(POLL_S):
            if saves.names():
                handle.cancel()
                handle.wait()
                return None
        return handle.result()
    except KeyboardInterrupt:
        handle.cancel()
        handle.wait()
        leave(f"Interrupted: the agent was ended; {kept(handle.result())}.", INTERRUPTED)


def _read_input(text: str) -> dict[str, Any]:
    """Return the input that `--input` names, or exit with a message that locates the error."""
    where = "--input"
    if text == "-":
        where, raw = "The input on stdin", sys.stdin.buffer.read()
    elif text.startswith("@"):
        where = f"The input in {text[1:]}"
        try:
            raw = Path(text[1:]).read_bytes()
        except OSError as error:
            leave(f"{where} cannot be read: {error.strerror}.", CALLED_WRONGLY)
    else:
        raw = os.fsencode(text)
    try:
        if raw.startswith(_BYTE_ORDER_MARKS):
            raw = raw.decode(json.detect_encoding(raw)).encode()
        value = rules.load(raw)
    except json.JSONDecodeError as error:
        leave(f"{where} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.", CALLED_WRONGLY)
    except (ValueError, RecursionError) as error:
        leave(f"{where} is not JSON: {error}.", CALLED_WRONGLY)
    if not isinstance(value, dict):
        leave(f'{where} must be a JSON object such as {{"repo": "..."}}, not {rules.one(type(value))}.', CALLED_WRONGLY)
    return value
