"""The figures of `benchmarks.full` as text tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.peers import disciplines


def heading(about: dict[str, Any]) -> str:
    """Return the date, versions and machine of the measurement."""
    return (
        f"{about['date']}, {about['server']}, redis-py {about['redis']}, hiredis {about['hiredis']}, orjson"
        f" {about['orjson']}, Python {about['python']}, {about['cores']} cores, load {about['load']:.1f} at the start,"
        " TCP loopback.\nratio = ours / theirs, median of interleaved rounds [quartiles]; below 1 is faster.\n"
    )


def rows(table: list[dict[str, Any]]) -> str:
    """Return the rows beside redis-py, pinned and spread, and the cost model of each."""
    lines = [["", "at most", "one core", "", "µs", "at most", "spread", "", "µs"]]
    costs = [["what a call costs: ours / theirs", "round trips", "bytes out", "bytes in", "JSON µs"]]
    for row in table:
        line = [row["name"]]
        for place in ("pinned", "spread"):
            figures = row[place]
            goal = figures["at_most"]
            line += [
                "" if goal is None else f"{goal:.2f}",
                f"{figures['ratio']:.2f}{' ' if goal is None or figures['ratio'] <= goal else '*'}",
                f"[{figures['low']:.2f} {figures['high']:.2f}]",
                f"{_us(figures['ours_us'])} / {_us(figures['theirs_us'])}",
            ]
        lines.append(line)
        cost = row["cost"]
        pairs = [
            f"{_count(cost['ours'][what])} / {_count(cost['theirs'][what])}"
            for what in ("round_trips", "bytes_out", "bytes_in")
        ]
        costs.append([row["name"], *pairs, _us(cost["json_us"]) if "json_us" in cost else ""])
    return _aligned(lines) + "* over the aim\n\n" + _aligned(costs)


def special(notes: list[dict[str, Any]]) -> str:
    """Return the rows that are not a ratio of two calls."""
    return _aligned([["", "at most", ""], *([note["name"], note["at_most"], note["said"]] for note in notes)])


def peers(table: list[dict[str, Any]]) -> str:
    """Return each peer as ratios to redis-py, or to redis.asyncio for asyncio peers: on one core / spread."""
    lines = [["of redis-py: one core / spread", *disciplines(), ""]]
    for row in table:
        cells = []
        for name in disciplines():
            both = [row[place][name]["ratio"] for place in ("pinned", "spread") if name in row[place]]
            cells.append(" / ".join(f"{ratio:.2f}" for ratio in both) or "-")
        lines.append([row["name"], *cells, row["remark"]])
    return _aligned(lines)


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
    return _aligned(lines)


def _us(us: float) -> str:
    return f"{us:,.0f}" if us >= 100 else f"{us:.1f}"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.2f}"


def _aligned(lines: Iterable[list[str]]) -> str:
    table = list(lines)
    widths = [max(len(line[place]) for line in table) for place in range(len(table[0]))]
    return (
        "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
        )
        + "\n"
    )
