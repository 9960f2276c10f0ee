"""Traces of runs: a tree for the terminal, and events for Perfetto and Chrome's tracing."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.text import Text
from rich.tree import Tree

from redis_store.values.printable import json_text, one_line
from sandbox.result import Call, Operation, RunResult

MOST_LINES = 200
"""Maximum number of lines drawn for one run. Of more, the first and the last are drawn and the others are counted."""


def trace_tree(result: RunResult) -> Tree:
    """Return the calls of a run and of the runs nested in it, in order of time, as a tree for `rich.print`."""
    lines = _by_run(result)
    failed = "" if result.error is None else type(result.error).__name__
    root = Tree(_headline(result.agent or "agent", result.run, result.duration * 1000, failed))
    _grow(root, result.run, lines)
    if result.operations_left_out:
        root.add(Text(f"… {result.operations_left_out:,} operations are left out (Limits.timeline)", "dim"))
    return root


def trace_events(result: RunResult) -> dict[str, Any]:
    """Return the calls of a run in Chrome's trace-event format: one thread for each run, times in microseconds."""
    runs = _threads(result)
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": f"run {result.run}"}}
    ]
    for run, (tid, agent) in runs.items():
        events.append({"ph": "M", "name": "thread_name", "pid": 1, "tid": tid, "args": {"name": f"{agent} {run}"}})
    if result.started is not None:
        events.append(_event(result.agent, "run", result.started, result.duration * 1000, 1, _outcome(result)))
    for operation in result.operations:
        tid = runs[operation.run][0]
        args = {name: fact for name, fact in _facts(operation) if fact is not None}
        name = f"data_store.{operation.operation}"
        events.append(_event(name, "data_store", operation.time, operation.duration_ms, tid, args))
    for call in result.calls:
        tid = runs[call.run][0]
        args = {} if call.error is None else {"error": call.error}
        name = f"{call.kind} {call.name}"
        if call.nested_run is not None:
            nested = runs[call.nested_run][0]
            events.append(_event(call.name, "run", call.time, call.duration_ms, nested, args))
        # Calls of one run can overlap, but complete events of one thread must not: hence asynchronous events.
        at = {"cat": call.kind, "name": name, "pid": 1, "tid": tid, "id": len(events)}
        start = _microseconds(call.time)
        events.append({"ph": "b", "ts": start, "args": args, **at})
        events.append({"ph": "e", "ts": start + call.duration_ms * 1000, **at})
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def write_trace(result: RunResult, path: str | os.PathLike[str]) -> None:
    """Write the events of a run to a file that https://ui.perfetto.dev and chrome://tracing can open."""
    Path(path).write_text(json_text(trace_events(result)), encoding="utf-8")


def _by_run(result: RunResult) -> dict[str, list[Operation | Call]]:
    lines: dict[str, list[Operation | Call]] = defaultdict(list)
    happened: list[Operation | Call] = [*result.operations, *result.calls]
    for one in sorted(happened, key=lambda one: one.time):
        lines[one.run].append(one)
    return lines


def _grow(tree: Tree, run: str, lines: dict[str, list[Operation | Call]]) -> None:
    for one in _shortened(lines.get(run, [])):
        if isinstance(one, int):
            tree.add(Text(f"… {one:,} more", "dim"))
        elif isinstance(one, Operation):
            tree.add(_operation_line(one))
        elif one.nested_run is None:
            tree.add(_headline(one.name, one.kind, one.duration_ms, one.error or ""))
        else:
            branch = tree.add(_headline(one.name, one.nested_run, one.duration_ms, one.error or ""))
            _grow(branch, one.nested_run, lines)


def _shortened(happened: list[Operation | Call]) -> Iterator[Operation | Call | int]:
    if len(happened) <= MOST_LINES:
        yield from happened
        return
    half = MOST_LINES // 2
    yield from happened[:half]
    yield len(happened) - 2 * half
    yield from happened[-half:]


def _headline(name: str, what: str, duration_ms: float, failed: str) -> Text:
    line = Text.assemble((one_line(name), "bold"), " ", (what, "dim"), f"  {duration_ms:,.1f} ms")
    if failed:
        line.append(f"  {one_line(failed)}", "red")
    # What a long name would put into the next row could look like another line.
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _operation_line(one: Operation) -> Text:
    what = _shown(one.key) if one.key is not None else f"{one.count:,} {'key' if one.count == 1 else 'keys'}"
    line = Text.assemble((one_line(one.operation), "cyan"), f" {_shown(one.namespace)} {what}")
    if one.hit is not None:
        line.append(" hit" if one.hit else " miss", "green" if one.hit else "yellow")
    line.append(f"  {one.bytes:,} B  {one.duration_ms:.2f} ms" if one.bytes else f"  {one.duration_ms:.2f} ms", "dim")
    if one.kept:
        line.append(f"  {one.kept:,} kept", "yellow")
    if one.error is not None:
        line.append(f"  {one_line(one.error)}", "red")
    elif one.preview is not None:
        line.append(f"  {one_line(one.preview)}", "dim italic")
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _shown(name: str) -> str:
    text = repr(name)
    return text if len(text) <= 60 else text[:57] + "..."


def _threads(result: RunResult) -> dict[str, tuple[int, str]]:
    """Return a number and the agent's name for each run: 1 for the first, then the nested runs in order of the calls."""
    runs = {result.run: (1, result.agent)}
    for call in result.calls:
        if call.nested_run is not None:
            runs[call.nested_run] = (len(runs) + 1, call.name)
    happened: list[Operation | Call] = [*result.operations, *result.calls]
    for one in happened:  # includes runs whose call the timeline omits
        runs.setdefault(one.run, (len(runs) + 1, one.agent))
    return runs


def _event(name: str, kind: str, time: datetime, duration_ms: float, tid: int, args: dict[str, Any]) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "cat": kind,
        "ts": _microseconds(time),
        "dur": duration_ms * 1000,
        "pid": 1,
        "tid": tid,
        "args": args,
    }


def _facts(one: Operation) -> Iterator[tuple[str, Any]]:
    yield "namespace", one.namespace
    yield "key", one.key
    yield "count", one.count
    yield "hit", one.hit
    yield "bytes", one.bytes
    yield "kept", one.kept or None
    yield "preview", one.preview
    yield "error", one.error


def _outcome(result: RunResult) -> dict[str, Any]:
    return {} if result.error is None else {"error": type(result.error).__name__}


def _microseconds(time: datetime) -> float:
    return time.timestamp() * 1_000_000
