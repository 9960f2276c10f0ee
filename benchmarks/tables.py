"""The figures of the benchmarks as tables of Markdown, as in docs/benchmarks.md."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from benchmarks.measure import Cell
from benchmarks.peers import disciplines
from benchmarks.targets import TIMES_MS, target

Server = dict[str, Any]
"""The figures of a server: ``name``, and ``rows`` by name and place."""

PLACES = ("pinned", "spread")


def heading(about: dict[str, Any]) -> str:
    """Return the date, versions and machine of the measurement."""
    return (
        f"{about['date']}, redis-py {about['redis']}, hiredis {about['hiredis']}, orjson"
        f" {about['orjson']}, Python {about['python']}, {about['cores']} cores, load {about['load']:.1f} at the start,"
        " TCP loopback.\n"
    )


_PLACE_IN_PAGE = re.compile(r"(<!-- (?P<part>\w+): .*? -->\n).*?(<!-- end -->\n)", re.DOTALL)


def filled(page: str, texts: dict[str, str]) -> str:
    """Return a page of Markdown with each part that is here put between the comments that are there for it."""
    return _PLACE_IN_PAGE.sub(
        lambda found: (
            found[0] if found["part"] not in texts else f"{found[1]}\n{texts[found['part']].strip()}\n\n{found[3]}"
        ),
        page,
    )


def part_of(page: str, part: str) -> str:
    """Return what a page has between the comments for a part."""
    found = next(found for found in _PLACE_IN_PAGE.finditer(page) if found["part"] == part)
    return found[0].removeprefix(found[1]).removesuffix(found[3])


def server_of(one_core: tuple[str, list[Cell]], spread: tuple[str, list[Cell]]) -> Server:
    """Return the figures of a server, by the names of the rows, in both placements of client and server."""
    rows: dict[str, dict[str, Cell]] = {}
    for place, (_, cells) in (("pinned", one_core), ("spread", spread)):
        for cell in cells:
            rows.setdefault(cell["name"], {})[place] = cell
    return {"name": one_core[0], "rows": rows}


def targets(servers: list[Server]) -> str:
    """Return the figures beside their aims, with a column for each server; and the times of the last server by shape."""
    names = list(dict.fromkeys(name for server in servers for name in server["rows"]))
    lines = [["one core; spread", "at most", *(server["name"] for server in servers)]]
    parts = [[f"{servers[-1]['name']}", "ours, theirs: µs", "floor: µs", "shapes of document, slowest first"]]
    for name in names:
        places = [server["rows"].get(name, {}) for server in servers]
        some = next(cell for by_place in places for cell in by_place.values())
        shown_name = f"{name}, of {some['of']}" if some["of"] else name
        aims = [_aim(name, pinned=pinned) for pinned in (True, False)]
        aim = aims[0].strip("-") if aims[0] == aims[1] else "; ".join(aims)
        lines.append(
            [shown_name, aim, *("; ".join(_cell(by_place.get(place)) for place in PLACES) for by_place in places)]
        )
        measured = places[-1].get("pinned")
        if measured is not None and measured["unit"] == "ratio":
            floor = "" if measured["floor_us"] is None else _us(measured["floor_us"])
            shapes = ", ".join(f"{shape} {ratio:.2f}" for shape, ratio in measured["shapes"].items())
            parts.append([name, f"{_us(measured['ours_us'])}, {_us(measured['theirs_us'])}", floor, shapes])
    return f"{markdown(lines)}\n{markdown(parts)}"


def _aim(name: str, *, pinned: bool) -> str:
    aim = target(name, pinned=pinned)
    return "-" if aim is None else f"{aim:g} ms" if name in TIMES_MS else f"{aim:.2f}"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    over = "" if cell["at_most"] is None or cell["figure"] <= cell["at_most"] else " ✗"
    return (f"{cell['figure']:.3g} ms" if cell["unit"] == "ms" else f"{cell['figure']:.2f}") + over


def costs(found: dict[str, Any]) -> str:
    """Return the cost model of each row: round trips, bytes and the time of the JSON work."""
    lines = [["what a call costs: ours, theirs", "round trips", "bytes out", "bytes in", "JSON, µs"]]
    for name, cost in found.items():
        pairs = [
            f"{_count(cost['ours'][what])}, {_count(cost['theirs'][what])}"
            for what in ("round_trips", "bytes_out", "bytes_in")
        ]
        lines.append([name, *pairs, _us(cost["json_us"]) if "json_us" in cost else ""])
    return markdown(lines)


def memory(measurements: list[dict[str, Any]]) -> str:
    """Return the peaks of memory, as multiples of the text."""
    lines = [["peak of the process, less the value itself", "at most", "text: MiB", "value: MiB", "measured"]]
    lines += [
        [
            one["name"],
            f"{one['at_most']:g}",
            f"{one['text_mib']:.0f}",
            f"{one['value_mib']:.0f}",
            f"{one['times']:.2f}{' ✗' if one['times'] > one['at_most'] else ''}",
        ]
        for one in measurements
    ]
    return markdown(lines)


def special(notes: list[dict[str, Any]]) -> str:
    """Return the rows that are not a ratio of two calls."""
    return markdown([["", "at most", ""], *([note["name"], note["at_most"], note["said"]] for note in notes)])


def cluster(found: dict[str, Any]) -> str:
    """Return the rows on a cluster as ratios to the single server, and what others notice of a move and a failover."""
    lines = [["three primaries, of a single server", "at most", "cluster", "quartiles", "cluster, single: µs"]]
    for row in found["rows"]:
        over = " ✗" if row["ratio"] > found["at_most"] else ""
        times = f"{_us(row['cluster_us'])}, {_us(row['single_us'])}"
        quartiles = f"{row['low']:.2f} {row['high']:.2f}"
        lines.append([row["name"], f"{found['at_most']:g}", f"{row['ratio']:.2f}{over}", quartiles, times])
    return f"{markdown(lines)}\n{special(found['notes'])}"


def peers(table: list[dict[str, Any]]) -> str:
    """Return each peer as ratios to redis-py, or to redis.asyncio for asyncio peers: on one core / spread."""
    lines = [["of redis-py: one core / spread", *disciplines(), ""]]
    for row in table:
        cells = []
        for name in disciplines():
            both = [row[place][name]["ratio"] for place in ("pinned", "spread") if name in row[place]]
            cells.append(" / ".join(f"{ratio:.2f}" for ratio in both) or "-")
        lines.append([row["name"], *cells, row["remark"]])
    return markdown(lines)


def growth(cells: list[dict[str, Any]]) -> str:
    """Return a line for each call and dimension, with a column for each step: our microseconds, and the ratio to redis-py's."""
    steps = sorted({cell["step"] for cell in cells})
    found: dict[tuple[str, str], dict[int, str]] = {}
    for cell in cells:
        if cell["bytes_a_key"] is not None:
            said = f"{cell['bytes_a_key']:.0f} B ({cell['ratio']:.2f})"
        else:
            said = _us(cell["us"]) + ("" if cell["ratio"] is None else f" ({cell['ratio']:.2f})")
        found.setdefault((cell["dimension"], cell["call"]), {})[cell["step"]] = said
    lines = [["µs a call (ratio to redis-py)", "", *(f"{step:,}" for step in steps)]]
    lines += [[*names, *(by_step.get(step, "") for step in steps)] for names, by_step in found.items()]
    return markdown(lines)


def _us(us: float) -> str:
    return f"{us:,.0f}" if us >= 100 else f"{us:.1f}"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.2f}"


def markdown(lines: Iterable[list[str]]) -> str:
    """Return lines of cells as a table of Markdown with aligned columns; the first line is its head."""
    head, *table = lines
    widths = [max(3, *(len(line[place]) for line in [head, *table])) for place in range(len(head))]
    ruled = [head, ["-" * width for width in widths], *table]
    return "".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |\n"
        for line in ruled
    )
