"""`make recordings`: terminal recordings as SVG, of commands on pages of docs/ that are really run.

A reader does what a page says, from its beginning, on an embedded server of their own: stores what the Python blocks store,
saves the files, and types the commands into a terminal. What some of the commands print is drawn. The reader is that of
tests/repository/test_docs.py, which compares each output with the page. A test compares the recordings with the pages, so one
that has become old is noticed.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from html import escape
from pathlib import Path
from xml.etree import ElementTree

import redis_store.server
from docs.site.build import DOCS
from tests.repository.test_docs import Reader, blocks_of

COLUMNS = 100
RECORDINGS = {
    "recording-agents.svg": (
        "quickstart.md",
        ["sandbox run producer.py", "sandbox run consumer.py", "sandbox run broken.py", "redis-store redis HGETALL"],
    ),
    "recording-operating.svg": (
        "operating.md",
        [
            "redis-store users",
            "redis-store keys",
            "redis-store get",
            "redis-store tail",
            "redis-store dead-letters show",
        ],
    ),
}
"""For each picture the page, and how the commands begin that are shown. Of several, the first is."""

_ERASED = re.compile(r"[^\n]*\r\x1b\[K")
_CONTROL = re.compile(r"\x1b\[([\d;]*)m")
_SVG = "{http://www.w3.org/2000/svg}"
_LINE, _GAP, _LEFT, _TOP = 19, 8, 18, 50
_FRAME = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>{title}</title>
<style>
text {{ font: 14px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #d8dce3; white-space: pre; }}
.command, .bold {{ font-weight: bold; fill: #fff; }}
</style>
<rect width="{width}" height="{height}" rx="8" fill="#1b1f26"/>
<g fill="#4a515c"><circle cx="20" cy="18" r="6"/><circle cx="40" cy="18" r="6"/><circle cx="60" cy="18" r="6"/></g>
{lines}
</svg>
"""


class Recorder(Reader):
    """A reader whose terminal has colors, and who remembers what some commands printed."""

    def __init__(self, folder: Path, environment: dict[str, str], wanted: list[str]) -> None:
        super().__init__(folder, environment)
        self.missing = list(wanted)
        self.session: list[tuple[str, str]] = []

    def _at_terminal(self, command: str) -> str:
        shown = _ERASED.sub("", super()._at_terminal(command))  # a progress line
        begun = next((wanted for wanted in self.missing if command.startswith(wanted)), None)
        if begun:
            self.missing.remove(begun)
            self.session.append((command, shown.replace(str(self.folder), "~")))
        return _CONTROL.sub("", shown)


def record(page: Path, wanted: list[str]) -> list[tuple[str, str]]:
    """Do what a page says until the wanted commands have been run. Return them with their outputs, escape sequences included."""
    with tempfile.TemporaryDirectory(prefix="recording-") as name:
        folder = Path(name)
        os.environ.pop("REDIS_URL", None)
        os.environ.pop("NO_COLOR", None)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        os.environ.update(REDIS_STORE_DATA_DIR=f"{name}/data", COLUMNS=str(COLUMNS), TERM="xterm-256color", PATH=path)
        os.chdir(folder)
        recorder = Recorder(folder, dict(os.environ), wanted)
        try:
            for block in blocks_of(page):
                if recorder.missing:
                    recorder.read(block)
        finally:
            redis_store.server.destroy(folder / "data", force=True)
            os.chdir(DOCS)
    if recorder.missing:
        raise LookupError(f"{page.name} has no command that begins with {recorder.missing[0]!r}")
    return recorder.session


def drawn(title: str, session: list[tuple[str, str]]) -> str:
    """Return a terminal with commands and their outputs as an SVG."""
    lines: list[str] = []
    y = _TOP - _LINE - _GAP
    for command, output in session:
        y += _GAP
        for kind, text in [("command", f"$ {command}"), *(("output", text) for text in output.splitlines())]:
            for part, piece in enumerate(_wrapped(text)):
                names = f"{kind} wrapped" if part else kind
                y += _LINE
                lines.append(f'<text class="{names}" x="{_LEFT}" y="{y}" xml:space="preserve">{_styled(piece)}</text>')
    width, height = round(2 * _LEFT + COLUMNS * 8.43), y + _LEFT
    return _FRAME.format(width=width, height=height, title=escape(title), lines="\n".join(lines))


def _wrapped(line: str) -> list[str]:
    """Return the parts of a line that fit the terminal. A line with escape sequences, a heading, is not that long."""
    return [line] if "\x1b" in line else re.findall(f".{{1,{COLUMNS}}}", line) or [""]


def _styled(text: str) -> str:
    """Return a line as SVG. Of the styles of a terminal, our commands use bold."""
    parts, is_bold = [], False
    for number, part in enumerate(_CONTROL.split(text)):
        if number % 2:
            is_bold = "1" in part.split(";")
        elif part:
            parts.append(f'<tspan class="bold">{escape(part)}</tspan>' if is_bold else escape(part))
    return "".join(parts)


def session_in(svg: str) -> list[tuple[str, str]]:
    """Return the commands of a recording, with their outputs."""
    session: list[tuple[str, str]] = []
    for line in ElementTree.fromstring(svg).iter(f"{_SVG}text"):
        names, text = line.get("class", "").split(), "".join(line.itertext())
        if names == ["command"]:
            session.append((text.removeprefix("$ "), ""))
            continue
        command, output = session.pop()
        if "command" in names:
            command += text
        else:
            output = output.removesuffix("\n") + text + "\n" if "wrapped" in names else f"{output}{text}\n"
        session.append((command, output))
    return session


def main() -> None:
    """Record all of them."""
    for name, (page, wanted) in RECORDINGS.items():
        title = f"A terminal: {', '.join(wanted)}"
        (DOCS / "images" / name).write_text(drawn(title, record(DOCS / page, wanted)), encoding="utf-8")
        print(f"docs/images/{name}")


if __name__ == "__main__":
    main()
