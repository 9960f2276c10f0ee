"""`make plots`: the plots of docs/benchmarks.md, as small SVG files, drawn from the tables of the page itself.

So a plot and its table never disagree: a test draws them again. Nothing else is needed, and the same tables give the same bytes.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from html import escape
from pathlib import Path

from benchmarks.tables import part_of

Row = list[str]

PAGE = Path(__file__).parents[1] / "docs/benchmarks.md"
_BLUE, _ORANGE, _GREY, _DARK = "#2f6fb7", "#e08214", "#8a8f98", "#22262c"
_LINES = (_BLUE, _ORANGE, "#2a9d5c", "#b5379b", "#7a5c32")
_LONGEST = 2.5
"""Ratio at which a bar is cut; its figure is written beside it."""


def drawn(page: str) -> dict[str, str]:
    """Return the plots of a page's tables, by the names of their files."""
    makers: dict[str, Callable[[Row, list[Row]], Drawing]] = {"rows": _rows, "peers": _peers, "growth": _growth}
    plots = {}
    for part, make in makers.items():
        heading, *rows = _table(part_of(page, part))
        plots[f"benchmarks-{part}.svg"] = make(heading, rows).svg()
    return plots


def _table(text: str) -> list[Row]:
    """Return the first table of a part of the page."""
    lines = text.strip().split("\n\n")[0].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [table[0], *table[2:]]


class Drawing:
    """An SVG picture on white."""

    def __init__(self, width: float, height: float) -> None:
        self._size = (width, height)
        self._parts: list[str] = []

    def bar(self, x: float, y: float, width: float, height: float, color: str) -> None:
        """Draw a filled rectangle."""
        self._parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}"/>')

    def line(self, points: list[tuple[float, float]], color: str, width: float = 1) -> None:
        """Draw a line through points."""
        shown = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<polyline points="{shown}" fill="none" stroke="{color}" stroke-width="{width:g}"/>')

    def dot(self, x: float, y: float, color: str) -> None:
        """Draw a point of a line."""
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{color}"/>')

    def text(self, x: float, y: float, text: str, *, anchor: str = "start", color: str = _DARK, size: int = 12) -> None:
        """Write a line of text."""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}" font-size="{size}">{escape(text)}</text>'
        )

    def svg(self) -> str:
        """Return the picture."""
        width, height = self._size
        body = "\n".join(self._parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
            f' font-family="system-ui, sans-serif">\n<rect width="{width:g}" height="{height:g}" fill="#fff"/>\n{body}\n</svg>\n'
        )


def _rows(heading: Row, rows: list[Row]) -> Drawing:
    """Draw the ratios of the last server: a bar on one core and one spread, with the aims."""
    rows = [row for row in rows if "ms" not in row[-1]]
    left, top, scale, step = 260, 64, 190, 28
    bottom = top + step * len(rows)
    drawing = Drawing(left + scale * _LONGEST + 60, bottom + 44)
    drawing.text(
        12, 24, f"Our time / that of what it is compared with, on {heading[-1]}. Left of 1 is faster.", size=14
    )
    for x, color, label in ((12, _BLUE, "one core"), (110, _ORANGE, "spread over the cores")):
        drawing.bar(x, 38, 14, 10, color)
        drawing.text(x + 20, 47, label)
    drawing.line([(292, 36), (292, 50)], _DARK, 2.5)
    drawing.text(300, 47, "aim")
    for number in range(int(_LONGEST * 2) + 1):
        x = left + scale * number / 2
        drawing.line([(x, top - 6), (x, bottom)], _GREY if number == 2 else "#e3e5e8")
        drawing.text(x, bottom + 18, f"{number / 2:g}", anchor="middle", color=_GREY)
    for number, row in enumerate(rows):
        y = top + step * number
        drawing.text(left - 8, y + 15, _short(row[0]), anchor="end")
        aims = _ratios(row[1])
        for offset, color, ratio in zip((2, 12), (_BLUE, _ORANGE), _ratios(row[-1]), strict=False):
            length = scale * min(ratio, _LONGEST)
            drawing.bar(left, y + offset, length, 9, color)
            if ratio > _LONGEST:
                drawing.text(left + length + 4, y + offset + 8, f"{ratio:.2f}", size=10)
        for offset, aim in zip((1, 11), aims * 2 if len(aims) == 1 else aims, strict=False):
            if aim <= _LONGEST:
                x = left + scale * aim
                drawing.line([(x, y + offset), (x, y + offset + 11)], _DARK, 2.5)
    return drawing


def _short(name: str) -> str:
    """Return the name of a row without what it is compared with."""
    return name.rpartition(", of ")[0].replace(": value, registry, info, log", "") or name


def _ratios(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"[\d.]+", cell)]


def _peers(heading: Row, rows: list[Row]) -> Drawing:
    """Draw the ratio of each library on one core, a column for each call."""
    columns = heading[1:]
    left, top, width, step = 190, 70, 132, 22
    longest = max(ratio for row in rows for cell in row[1:] for ratio in _ratios(cell)[:1])
    drawing = Drawing(left + width * len(columns) + 12, top + step * len(rows) + 12)
    drawing.text(12, 24, "Time / time of redis-py, or of redis.asyncio for those behind asyncio, on one core", size=14)
    for number, row in enumerate(rows):
        drawing.text(left - 8, top + step * number + 14, row[0], anchor="end")
    for column, name in enumerate(columns):
        x = left + width * column
        scale = (width - 44) / longest
        drawing.text(x, 52, name)
        drawing.line([(x + scale, 60), (x + scale, top + step * len(rows))], _GREY)
        for number, row in enumerate(rows):
            y = top + step * number
            for ratio in _ratios(row[column + 1])[:1]:
                drawing.bar(x, y + 3, max(1, scale * ratio), 14, _BLUE if row[0].startswith("ours") else "#c3c7cd")
                drawing.text(x + scale * max(1, ratio) + 4, y + 14, f"{ratio:.2f}", size=10)
    return drawing


def _growth(heading: Row, rows: list[Row]) -> Drawing:
    """Draw the µs of a call by size, both as powers of ten: a panel for what grows."""
    sizes = [float(size.replace(",", "")) for size in heading[2:]]
    timed = [row for row in rows if "B" not in "".join(row[2:])]
    panels = list(dict.fromkeys(row[0] for row in timed))
    width, height, tall = 264, 216, 7
    drawing = Drawing(24 + width * 3, 44 + (height + 60) * math.ceil(len(panels) / 3))
    drawing.text(12, 24, "µs a call, on one core", size=14)
    for number, panel in enumerate(panels):
        left, top = 52 + width * (number % 3), 64 + (height + 60) * (number // 3)
        for power in range(tall + 1):
            y = top + height - height * power / tall
            drawing.line([(left, y), (left + width - 60, y)], "#e3e5e8")
            if power % 2 == 0:
                drawing.text(left - 6, y + 4, _power(power), anchor="end", color=_GREY, size=10)
        drawing.text(left, top - 8, f"by {panel}")
        for size in sizes:
            x = left + (width - 60) * math.log10(size) / math.log10(sizes[-1])
            drawing.text(x, top + height + 14, _power(round(math.log10(size))), anchor="middle", color=_GREY, size=10)
        for line, row in enumerate(row for row in timed if row[0] == panel):
            points = [
                (
                    left + (width - 60) * math.log10(size) / math.log10(sizes[-1]),
                    top + height - height * math.log10(float(cell.split()[0].replace(",", ""))) / tall,
                )
                for size, cell in zip(sizes, row[2:], strict=True)
                if cell
            ]
            drawing.line(points, _LINES[line], 1.6)
            for x, y in points:
                drawing.dot(x, y, _LINES[line])
            drawing.text(left + 6, top + 12 + 14 * line, row[1], color=_LINES[line], size=11)
    return drawing


def _power(power: int) -> str:
    return f"{10**power:,}" if power < 4 else f"{10 ** (power % 3)}{'' if power < 3 else ' k' if power < 6 else ' M'}"


def write(page: Path) -> list[Path]:
    """Draw the plots of a page into the folder `images` beside it, and return the files."""
    files = []
    for name, text in drawn(page.read_text(encoding="utf-8")).items():
        files.append(page.parent / "images" / name)
        files[-1].write_text(text, encoding="utf-8")
    return files


if __name__ == "__main__":
    print(*write(Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE), sep="\n")
