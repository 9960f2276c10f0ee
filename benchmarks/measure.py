"""The rows of the table on one server, with client and server placed in one way: each in a process of its own.

A process that starts on one core has all its threads and agents there.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from time import perf_counter
from typing import Any

from benchmarks import sandbox as agents
from benchmarks import watching
from benchmarks.clients import connected
from benchmarks.rounds import Figure
from benchmarks.rows import Timed, all_rows, quick_rows, timed
from benchmarks.server import BenchServer, placed, running_server
from benchmarks.targets import target
from sandbox import IsolationUnavailable

Cell = dict[str, Any]
"""A figure: ``name``, ``of``, ``unit``, ``figure``, ``at_most``; a ratio also its quartiles, times and shapes."""

STARTS = 9
QUICK_ROUNDS = 5


def measured(program: str, *, pinned: bool, quick: bool = False, matching: str = "") -> tuple[str, list[Cell]]:
    """Return the server's name and version, and the figure of each row whose name contains a text."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_measure, program, pinned, quick, matching).result()


def _measure(program: str, pinned: bool, quick: bool, matching: str) -> tuple[str, list[Cell]]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    cells = []
    with running_server(program) as server, placed(server, pinned=pinned):
        for cell in _cells(server, loop, quick, matching):
            cell["at_most"] = target(cell["name"], pinned=pinned)
            print(f"{server.version}, {'one core' if pinned else 'spread'}: {line(cell)}", file=sys.stderr)
            cells.append(cell)
    loop.close()
    return server.version, cells


def line(cell: Cell) -> str:
    """Return a figure as a line of text."""
    aim = "" if cell["at_most"] is None else f" (at most {cell['at_most']:g})"
    if cell["unit"] == "ms":
        return f"{cell['name']}: {cell['figure']:.3g} ms{aim}"
    shapes = "  ".join(f"{shape} {ratio:.2f}" for shape, ratio in cell["shapes"].items())
    floor = "" if cell["floor_us"] is None else f", floor {cell['floor_us']:.1f}"
    return (
        f"{cell['name']}, of {cell['of']}: {cell['figure']:.2f}{aim} [{cell['low']:.2f} {cell['high']:.2f}]"
        f"  {cell['ours_us']:,.1f} / {cell['theirs_us']:,.1f} µs{floor}  {shapes}"
    )


def _cells(server: BenchServer, loop: asyncio.AbstractEventLoop, quick: bool, matching: str) -> Iterator[Cell]:
    with connected(server.port, loop) as clients:
        rows = quick_rows if quick else all_rows
        for shapes in timed(server, clients, rows, QUICK_ROUNDS if quick else None, matching):
            yield _of_row(shapes)
    if not quick:
        yield from (cell for part in PARTS for cell in part(server, matching))


def _of_row(shapes: list[Timed]) -> Cell:
    worst = max(shapes, key=lambda one: one.ours.ratio)
    return {
        "name": worst.row.name,
        "of": worst.theirs.name,
        "unit": "ratio",
        "figure": worst.ours.ratio,
        "low": worst.ours.quartiles[0],
        "high": worst.ours.quartiles[1],
        "ours_us": worst.ours.us,
        "theirs_us": worst.theirs.us,
        "floor_us": None if worst.floor is None else worst.floor.us,
        "shapes": {one.row.shape: one.ours.ratio for one in _worst_first(shapes) if one.row.shape},
    }


def _worst_first(shapes: list[Timed]) -> list[Timed]:
    return sorted(shapes, key=lambda one: one.ours.ratio, reverse=True)


def _of_figures(name: str, of: str, shapes: list[Figure]) -> Cell:
    shapes = sorted(shapes, key=lambda one: one.ratio, reverse=True)
    worst = shapes[0]
    return {
        "name": name,
        "of": of,
        "unit": "ratio",
        "figure": worst.ratio,
        "low": worst.spread[0],
        "high": worst.spread[1],
        "ours_us": worst.ours_us,
        "theirs_us": worst.theirs_us,
        "floor_us": worst.floor_us,
        "shapes": {one.shape: one.ratio for one in shapes if one.shape},
    }


def _of_time(name: str, ms: float) -> Cell:
    return {"name": name, "of": "", "unit": "ms", "figure": ms}


def _watched(server: BenchServer, matching: str) -> Iterator[Cell]:
    for watchers, name in ((1, "a set that one watches"), (50, "a set that fifty watch")):
        if matching in name:
            yield _of_figures(name, "one that nobody watches", [watching.write_cost(server, watchers)[1]])
    if matching in "watch, 50 threads":
        (percentiles,) = watching.latencies(server, "50 watchers, threads").values()
        for what, ms in zip(("p50", "p99"), percentiles, strict=True):
            yield _of_time(f"watch, 50 threads: {what}", ms)


def _in_agents(server: BenchServer, matching: str) -> Iterator[Cell]:
    if matching in "in an agent":
        for shapes in agents.calls(server):
            yield _of_figures(shapes[0].name, "redis-py outside", shapes)


def _runs(server: BenchServer, matching: str) -> Iterator[Cell]:
    name = "a run, full isolation"
    if matching not in name:
        return
    with suppress(IsolationUnavailable):
        yield _of_figures(name, "a bare interpreter", [agents.runs(server, "full")])
        for what, ms in zip(("p50", "p99"), agents.run_times_ms(server), strict=True):
            yield _of_time(f"{name}: {what}", ms)


def _starts(server: BenchServer, matching: str) -> Iterator[Cell]:
    importing = "from time import perf_counter as t; s = t(); import redis_store; print((t() - s) * 1e3)"
    if matching in "import redis_store":
        times = [subprocess.check_output([sys.executable, "-c", importing]) for _ in range(STARTS)]
        yield _of_time("import redis_store", statistics.median(map(float, times)))
    if matching in "redis-store --help":
        yield _of_time("redis-store --help", statistics.median(_help_ms() for _ in range(STARTS)))


def _help_ms() -> float:
    start = perf_counter()
    subprocess.run([sys.executable, "-m", "redis_store", "--help"], check=True, stdout=subprocess.DEVNULL)
    return (perf_counter() - start) * 1e3


PARTS = (_watched, _in_agents, _runs, _starts)
"""The parts of the table that are no row of `benchmarks.rows`."""
