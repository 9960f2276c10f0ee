"""Plots of the figures of `benchmarks.full`, as small SVG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

from benchmarks.peers import disciplines

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_OURS, _THEIRS = "#1f77b4", "#888888"


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Draw the parts that the results contain, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with pyplot.rc_context(_STYLE):
        for part, draw_one in (("rows", _rows), ("peers", _peers), ("growth", _growth)):
            if part in results:
                figure = draw_one(results[part])
                path = folder / f"benchmarks-{part}.svg"
                figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
                pyplot.close(figure)
                drawn.append(path)
    return drawn


def _rows(servers: list[dict[str, Any]]) -> Any:
    """Draw the ratios of the last server."""
    table = [
        {"name": name, **places}
        for name, places in servers[-1]["rows"].items()
        if len(places) == 2 and places["pinned"]["unit"] == "ratio"
    ]
    figure, axes = pyplot.subplots(figsize=(7.5, 0.32 * len(table) + 1))
    for offset, place, color in ((-0.18, "pinned", _OURS), (0.18, "spread", "#ff7f0e")):
        places = [number + offset for number in range(len(table))]
        ratios = [row[place]["figure"] for row in table]
        reach = [
            [max(0.0, row[place]["figure"] - row[place]["low"]) for row in table],
            [max(0.0, row[place]["high"] - row[place]["figure"]) for row in table],
        ]
        label = "one core" if place == "pinned" else "spread over the cores"
        axes.barh(places, ratios, 0.34, xerr=reach, color=color, label=label, error_kw={"lw": 0.8})
    goals = [(number, row["pinned"]["at_most"]) for number, row in enumerate(table) if row["pinned"]["at_most"]]
    axes.scatter(
        [goal for _, goal in goals], [number for number, _ in goals], marker="|", s=120, color="black", label="aim"
    )
    axes.axvline(1, color=_THEIRS, lw=0.8)
    axes.set_yticks(range(len(table)), [row["name"] for row in table])
    axes.invert_yaxis()
    axes.set_xlim(0, 2)
    axes.set_xlabel("time of ours / time of redis-py, median and quartiles (left is faster)")
    axes.legend(frameon=False, loc="lower right")
    return figure


def _peers(table: list[dict[str, Any]]) -> Any:
    columns = disciplines()
    figure, all_axes = pyplot.subplots(1, len(columns), figsize=(10, 0.3 * len(table) + 1), sharey=True)
    names = [row["name"] for row in table]
    for axes, column in zip(all_axes, columns, strict=True):
        ratios = [row["pinned"][column]["ratio"] if column in row["pinned"] else 0 for row in table]
        axes.barh(range(len(table)), ratios, color=[_OURS if name.startswith("ours") else _THEIRS for name in names])
        axes.axvline(1, color="black", lw=0.6)
        axes.set_title(column, fontsize=9)
        axes.set_yticks(range(len(table)), names)
    all_axes[0].invert_yaxis()
    figure.supxlabel("time / time of redis-py, or of redis.asyncio for those behind asyncio; one core", fontsize=9)
    figure.tight_layout()
    return figure


def _growth(cells: list[dict[str, Any]]) -> Any:
    timed = [cell for cell in cells if cell["bytes_a_key"] is None]
    dimensions = list(dict.fromkeys(cell["dimension"] for cell in timed))
    figure, all_axes = pyplot.subplots(1, len(dimensions), figsize=(13, 3), sharey=True)
    colors = {call: f"C{number}" for number, call in enumerate(dict.fromkeys(cell["call"] for cell in timed))}
    for axes, dimension in zip(all_axes, dimensions, strict=True):
        for call, color in colors.items():
            points = [
                (cell["step"], cell["us"]) for cell in timed if (cell["dimension"], cell["call"]) == (dimension, call)
            ]
            if points:
                axes.loglog(*zip(*points, strict=True), marker="o", ms=3, lw=1, color=color, label=call)
        axes.minorticks_off()
        axes.set_xlabel(dimension)
        axes.legend(frameon=False, fontsize=7)
    all_axes[0].set_ylabel("µs a call")
    figure.tight_layout()
    return figure
