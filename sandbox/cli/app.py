"""The command `sandbox`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from redis_store.errors import DataStoreError, InvalidInput
from redis_store.values import rules
from sandbox import errors
from sandbox.cli import options as cli_options
from sandbox.cli.output import CALLED_WRONGLY, FAILED, INTERRUPTED, kept, leave, say, show, to_stderr, write
from sandbox.cli.reload import Files, run_on_every_save
from sandbox.cli.watch import watch
from sandbox.isolation import doctor as isolation_doctor
from sandbox.limits import Limits
from sandbox.pool import Sandbox
from sandbox.result import RunResult

_RELOAD_POLL_S = 0.1

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run agents in isolated processes. Each agent gets the data_store of one user.",
)


class _RunCommand(TyperCommand):
    """Accepts `--trace` with and without a file, which click's options cannot do."""

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
def run(
    agent_file: Annotated[
        Path, typer.Argument(metavar="AGENT.PY", help="The agent: a Python file with a run function.")
    ],
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
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The server. Defaults to REDIS_URL, or else to the embedded server.",
            show_default=False,
        ),
    ] = None,
    tools: cli_options.ToolsOption = None,
    modules: cli_options.ModulesOption = None,
    agents: cli_options.AgentsOption = None,
    env: cli_options.EnvOption = None,
    packages: cli_options.PackagesOption = None,
    permissions: cli_options.PermissionsOption = None,
    limits: cli_options.LimitsOption = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="End the run after this many seconds.")
    ] = Limits().timeout_s,
    trace: Annotated[
        bool,
        typer.Option(
            "--trace", help="Draw the run as a tree on stderr. --trace OUT.JSON is short for --trace-file OUT.JSON."
        ),
    ] = False,
    trace_file: Annotated[
        Path | None, typer.Option(metavar="OUT.JSON", help="Write a trace of the run for Perfetto or Chrome's tracing.")
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Run the agent again whenever its file or one in --agents is saved.")
    ] = False,
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

    def run_once(should_stop: Callable[[], bool] | None) -> RunResult | None:
        with Sandbox(
            url=url,
            **cli_options.read_given(
                tools=tools,
                modules=modules,
                agents=agents,
                env=env,
                packages=packages,
                permissions=permissions,
                limits=limits,
                timeout_s=timeout,
            ),
        ) as box:
            return _attended(
                partial(
                    box.start,
                    agent_file,
                    input_dict,
                    user=user,
                    namespace=namespace,
                    agent=agent,
                    on_output=to_stderr,
                ),
                should_stop,
            )

    def shown(result: RunResult) -> int:
        return show(result, trace, trace_file)

    if reload:
        _keep_running(Files(agent_file, agents), run_once, shown)
    result = _or_leave(lambda: run_once(None))
    raise typer.Exit(0 if result is None else shown(result))


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
    report = isolation_doctor.examine()
    write(sys.stdout, isolation_doctor.as_json(report) if json_output else isolation_doctor.text(report))
    if report.tier == "none":
        raise typer.Exit(FAILED)


app.command("watch")(watch)


def main() -> None:
    """Entry point of the command."""
    app(prog_name="sandbox")


def _attended(start: Callable[[], Any], should_stop: Callable[[], bool] | None) -> RunResult | None:
    """Start a run and wait for it. An interrupt ends the run, and so does `should_stop`, if given."""
    handle = start()
    try:
        while should_stop is not None and not handle.wait(_RELOAD_POLL_S):
            if should_stop():
                handle.cancel()
                handle.wait()
                return None
        return handle.result()  # type: ignore[no-any-return]
    except KeyboardInterrupt:
        handle.cancel()
        handle.wait()
        leave(f"Interrupted: the agent was ended; {kept(handle.result())}.", INTERRUPTED)


def _or_leave(call: Callable[[], RunResult | None]) -> RunResult | None:
    try:
        return call()
    except KeyboardInterrupt:
        leave("Interrupted: nothing was started.", INTERRUPTED)
    except (errors.InvalidInput, InvalidInput) as error:
        leave(str(error), CALLED_WRONGLY)
    except (errors.SandboxError, DataStoreError) as error:
        leave(str(error), FAILED)


def _keep_running(
    files: Files, run_once: Callable[[Callable[[], bool]], RunResult | None], shown: Callable[[RunResult], int]
) -> NoReturn:
    def run_and_show(should_stop: Callable[[], bool]) -> None:
        try:
            result = run_once(should_stop)
        except (errors.SandboxError, DataStoreError) as error:
            say(str(error))  # the next save may fix it
        else:
            if result is not None:
                shown(result)

    try:
        run_on_every_save(files, run_and_show, say)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    raise AssertionError("unreachable")


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
        value = rules.load(raw)
    except json.JSONDecodeError as error:
        leave(f"{where} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.", CALLED_WRONGLY)
    except (ValueError, RecursionError) as error:
        leave(f"{where} is not JSON: {error}.", CALLED_WRONGLY)
    if not isinstance(value, dict):
        leave(f'{where} must be a JSON object such as {{"repo": "..."}}, not a {type(value).__name__}.', CALLED_WRONGLY)
    return value
