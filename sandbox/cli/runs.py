"""The commands `sandbox runs` and `sandbox show`, for runs that are kept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import redis_store
from redis_store.brokers import kept_runs
from redis_store.brokers.kept_runs import KeptRun, RunSummary
from redis_store.cli.session import plain
from redis_store.cli.streams import write_to
from redis_store.cli.tables import Column, cell, table
from redis_store.values.printable import json_text, one_line, quoted
from redis_store.values.quantities import ago, counted, size
from sandbox.cli.output import FAILED, explained, leave, leaving_on_errors, library_warnings, say, write_trace_file
from sandbox.record.kept_run import result_of
from sandbox.trace import trace_tree

_User = Annotated[str, typer.Option(metavar="NAME", help="The user whose runs they are.")]
_Url = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="The server. Defaults to REDIS_URL, or else to the embedded server.", show_default=False
    ),
]


def runs(
    user: _User,
    url: _Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List the runs that are kept, the newest first.

    A run is kept with `sandbox run --keep`, `sandbox watch --keep`, or Sandbox(keep=...) in Python.

    \b
    Exit codes:
      0  done
      1  the store cannot be used
      2  invalid usage
    """
    with library_warnings(), leaving_on_errors():
        with redis_store.connect(url, user=user) as store:
            found = kept_runs.list_runs(store)
        if as_json:
            lines = [json_text(plain(one)) for one in found]
        else:
            names = ("RUN", "AGENT", "STARTED", "TOOK")
            columns = (*map(Column, names), Column("CALLS", True), Column("NESTED", True), Column("OUTCOME"))
            rows = [(*_identity(one), one.operations + one.calls, one.nested, one.error or "done") for one in found]
            lines = list(table(columns, rows)) if rows else []
            say(f"{counted(len(found), 'run')} kept, {size(sum(one.bytes for one in found))}.")
        _write(lines)


def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The id of the run, or of a run nested in it.")],
    user: _User,
    url: _Url = None,
    trace_file: Annotated[
        Path | None, typer.Option(metavar="OUT.JSON", help="Write a trace of the run for Perfetto or Chrome's tracing.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The record as one JSON object.")] = False,
) -> None:
    """Show a run that is kept: its timeline as a tree, its output or error, what it printed, and hints.

    Secrets are masked and long texts are cut, as in previews of values.

    \b
    Exit codes:
      0  done
      1  there is no such run, or the store cannot be used
      2  invalid usage
    """
    with library_warnings(), leaving_on_errors():
        with redis_store.connect(url, user=user) as store:
            kept = kept_runs.get_run(store, run)
        if kept is None:
            leave(f"No run {run!r} of user {user!r} is kept: see `sandbox runs --user ...`.", FAILED)
        if as_json:
            _write([json_text(plain(kept))])
        else:
            _show(kept)
        if trace_file is not None:
            write_trace_file(result_of(kept), trace_file)
        if kept.run != run:
            say(f"The run {run} is nested in this one.")


def _show(kept: KeptRun) -> None:
    result = result_of(kept)
    facts = {
        "run": kept.run,
        "agent": kept.agent,
        "started": f"{kept.started:%Y-%m-%d %H:%M:%SZ}, {ago(kept.started)}",
        "took": took(kept.duration),
        "isolation": kept.isolation,
        "namespace": kept.namespace,
        "input": kept.input,
        "output": kept.output,
    }
    _write([f"{name:<10} {cell(fact)}" for name, fact in facts.items() if fact is not None])
    console = Console(file=sys.stdout, highlight=False)
    console.print()
    console.print(trace_tree(result))
    sys.stdout.flush()
    if kept.calls_left_out:
        _write([f"{kept.calls_left_out:,} calls of tools and agents are left out."])
    if kept.stdout:
        _write(["", "It printed:", quoted(kept.stdout)])
    if result.error is not None:
        _write(["", explained(result.error)])
    _write([f"hint: {one_line(hint.message)}" for hint in kept.hints])


def _identity(one: RunSummary) -> tuple[object, ...]:
    return one.run, one.agent, one.started, took(one.duration)


def took(seconds: float) -> str:
    """Return a duration, in the unit that suits it."""
    return f"{seconds * 1000:,.1f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def _write(lines: list[str]) -> None:
    if lines:
        write_to(sys.stdout.buffer, "".join(f"{line}\n" for line in lines))
