"""`make bench`: measure every row of the table on each server, memory, the peers, and the growth.

Print tables of Markdown; write all figures as JSON (``--json``). With ``--from FILE`` print the tables of an earlier run.
With ``--docs docs/benchmarks.md`` put them in the page, and draw its plots.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import cluster, growth, memory, peers, plots, special, tables
from benchmarks.clients import Clients, connected
from benchmarks.measure import measured
from benchmarks.race import Entrant, race
from benchmarks.rows import Row, all_rows
from benchmarks.server import BenchServer, placed, programs, running_server
from benchmarks.wire import Traffic, counting_relay

PARTS = ("rows", "costs", "memory", "special", "cluster", "peers", "growth")
LIBRARIES = ("redis", "hiredis", "orjson")


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen parts and print them. Return 0."""
    options = _options(arguments)
    if options.from_file is not None:
        _show(json.loads(options.from_file.read_text()), options.docs)
        return 0
    start = perf_counter()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    results: dict[str, Any] = {"about": _about()}
    parts: dict[str, Callable[[], Any]] = {
        "rows": lambda: _rows(options.rows),
        "costs": lambda: _costs(loop),
        "memory": lambda: [memory.as_row(one) for one in memory.measure()],
        "special": lambda: _special(loop),
        "cluster": lambda: _cluster(loop, options.rows),
        "peers": lambda: _peers(loop),
        "growth": lambda: _growth(loop),
    }
    for part in options.only:
        results[part] = parts[part]()
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n")  # after each part, so that an end loses no other
    loop.close()
    _show(results, options.docs)
    print(f"All figures: {options.json}. It took {perf_counter() - start:.0f} s.")
    return 0


def _show(results: dict[str, Any], page: Path | None) -> None:
    shown = {
        "about": tables.heading,
        "rows": tables.targets,
        "costs": tables.costs,
        "memory": tables.memory,
        "special": tables.special,
        "cluster": tables.cluster,
        "peers": tables.peers,
        "growth": tables.growth,
    }
    texts = {part: table(results[part]) for part, table in shown.items() if part in results}
    print(*texts.values(), sep="\n")
    if page is not None:
        page.write_text(tables.filled(page.read_text(), texts))
        plots.write(page)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.full", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run (default: all)")
    parser.add_argument("--rows", default="", help="a part of the names of the rows to measure (default: all)")
    parser.add_argument("--from", dest="from_file", type=Path, help="print the figures of this file, measure nothing")
    parser.add_argument("--json", type=Path, default=Path(".bench/results.json"), help="file for the figures")
    parser.add_argument(
        "--docs", type=Path, help="page whose tables and plots are replaced, such as docs/benchmarks.md"
    )
    return parser.parse_args(arguments)


def _about() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0],
        **{library: version(library) for library in LIBRARIES},
    }


@contextmanager
def _bench(loop: asyncio.AbstractEventLoop, *, pinned: bool) -> Iterator[tuple[BenchServer, Clients]]:
    with (
        running_server() as server,
        placed(server, pinned=pinned),
        connected(server.port, loop) as clients,
    ):
        yield server, clients


def _rows(matching: str) -> list[tables.Server]:
    return [
        tables.server_of(*(measured(program, pinned=pinned, matching=matching) for pinned in (True, False)))
        for program in programs().values()
    ]


def _costs(loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    """Return the cost of one call of each row, with the first shape of document."""
    found: dict[str, Any] = {}
    with running_server() as server, counting_relay(server.port) as (port, traffic), connected(port, loop) as clients:
        for row in all_rows(clients):
            if row.name not in found:
                found[row.name] = _cost(row, traffic, loop)
    return found


def _cost(row: Row, traffic: Traffic, loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    """Count the round trips and bytes of one call of each side, and time its JSON work alone."""
    cost: dict[str, Any] = {}
    for side, entrant in (("ours", row.ours), ("theirs", row.theirs)):
        _once(entrant, loop)  # the first call connects, or loads a script
        if entrant.prepare is not None:
            entrant.prepare(1)
        traffic.reset()
        _once(entrant, loop, prepared=True)
        per = entrant.calls_at_once
        cost[side] = {
            "round_trips": traffic.round_trips / per,
            "bytes_out": traffic.bytes_out / per,
            "bytes_in": traffic.bytes_in / per,
        }
    if row.json_work is not None:
        cost["json_us"] = race([Entrant("json", row.json_work)], loop, rounds=9, budget_s=0.5)[0].us
    return cost


def _once(entrant: Entrant, loop: asyncio.AbstractEventLoop, *, prepared: bool = False) -> None:
    if entrant.prepare is not None and not prepared:
        entrant.prepare(1)
    answer = entrant.work()
    if entrant.awaited:
        loop.run_until_complete(answer)


def _special(loop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    with running_server() as server:
        notes = [special.memory(server.port)]
        with placed(server, pinned=False):
            notes.append(special.longest_wait(server.port))
    return [asdict(note) for note in [special.foreign_keys(loop), *notes]]


def _cluster(loop: asyncio.AbstractEventLoop, matching: str) -> dict[str, Any]:
    rows = [asdict(row) for row in cluster.cluster_rows(loop, matching)]
    return {"at_most": cluster.AT_MOST, "rows": rows, "notes": [asdict(note) for note in cluster.observations()]}


def _peers(loop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    for pinned in (True, False):
        with _bench(loop, pinned=pinned) as (_, clients), tempfile.TemporaryDirectory() as folder:
            for line in peers.compare_peers(clients, folder, loop):
                entry = table.setdefault(line.peer.name, {"name": line.peer.name, "remark": line.peer.remark})
                entry["pinned" if pinned else "spread"] = {
                    name: {
                        "ratio": finish.ratio,
                        "low": finish.quartiles[0],
                        "high": finish.quartiles[1],
                        "us": finish.us,
                    }
                    for name, finish in line.finishes.items()
                }
    return list(table.values())


def _growth(loop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    with _bench(loop, pinned=True) as (server, clients):
        return [asdict(cell) for cell in growth.measure_growth(clients, server.port, loop)]


if __name__ == "__main__":
    sys.exit(main())
