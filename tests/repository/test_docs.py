"""The documentation is true: its examples run, its lists match the code, and its links have targets.

In README.md and docs/*.md, the ```python blocks of a page are executed in order, in one namespace. A ```text block directly
after one is its output. A block that defines `run` is an agent and runs in the sandbox, with the user "alice". In a ```console
block, the project's commands are run at a terminal and their output is compared. ``...`` stands for anything; times and
process ids may differ. Comments, each in the line before a block, change this:

    <!-- not run: reason -->        the block is not run
    <!-- file: agent.py -->         the block becomes that file in the page's folder, for later commands
    <!-- input: {"name": "Ada"} --> the agent's input

``<!-- server: embedded -->`` anywhere on a page removes REDIS_URL, so that an embedded server in the page's own folder is used.
``<!-- packages: fastapi -->`` names packages of the test extra that the page needs. Without them it is not run, except in CI.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import doctest
import html
import importlib
import inspect
import io
import json
import logging
import math
import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis
import typer.main

import redis_store
import redis_store.cli
import redis_store.limits
import redis_store.server
import sandbox
import sandbox.cli
from redis_store import AsyncDataStore, DataStore
from redis_store.connections.address import parse_address
from tests.repository.limits import PLACES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL_PAGES = [*PAGES, *sorted((ROOT / "docs").glob("*/*.md")), ROOT / "CHANGELOG.md"]
COMMANDS = {"redis-store": ("redis_store.cli", redis_store.cli.app), "sandbox": ("sandbox.cli", sandbox.cli.app)}
DATABASE = 9

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!-- (not run|file|input|server): (.*?) -->")
_VARYING = [
    (re.compile(r"\b\d{13}\b"), "<ms>"),
    (re.compile(r"\b\d{16}\b"), "<us>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+00:00)?"), "<time>"),
    (re.compile(r"\b(process|pid) +\d+"), r"\1 <pid>"),
]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with the comment before it."""

    page: Path
    line: int
    language: str
    text: str
    comment: str
    remark: str
    output: str | None
    """The text block directly after it."""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_agent(self) -> bool:
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        return any(isinstance(part, functions) and part.name == "run" for part in ast.parse(self.text).body)


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = list(_FENCE.finditer(text))
    blocks = []
    for position, match in enumerate(found):
        before = text[: match.start()].rstrip().rpartition("\n")[2]
        said = _COMMENT.fullmatch(before.strip())
        following = found[position + 1] if position + 1 < len(found) else None
        output = None
        if following and following[1] == "text" and not text[match.end() : following.start()].strip():
            output = following[2]
        line = text.count("\n", 0, match.start()) + 1
        comment, remark = said.groups() if said else ("", "")
        blocks.append(Block(page, line, match[1], match[2], comment, remark, output))
    return blocks


class Reader:
    """A reader who tries everything on a page, in their own folder."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        sys.modules["page"] = ModuleType("page")  # a dataclass looks for its module
        self.names = vars(sys.modules["page"])

    def read(self, block: Block) -> None:
        """Run a block."""
        if block.comment == "not run":
            return
        if block.comment == "file":
            (self.folder / block.remark).write_text(block.text, encoding="utf-8")
        elif block.language == "python" and block.is_agent:
            self._run_agent(block)
        elif block.language == "python":
            self._execute(block)
        elif block.language == "console":
            for command, output in commands_in(block.text):
                if command.split()[0] in COMMANDS or any(f"$({name} " in command for name in COMMANDS):
                    check_output(block.place, command, output, self._at_terminal(command))

    def _execute(self, block: Block) -> None:
        source = "\n" * block.line + block.text  # so that a traceback names the page's line
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, str(block.page), "exec"), self.names)
        if block.output is not None:
            check_output(block.place, "the block", block.output, printed.getvalue())

    def _run_agent(self, block: Block) -> None:
        given = json.loads(block.remark) if block.comment == "input" else {}
        result = sandbox.run(block.text, given, user="alice")
        assert result.error is None, f"{block.place}: {getattr(result.error, 'traceback', result.error)}"
        if block.output is not None:
            shown = result.stdout + json.dumps(result.output, ensure_ascii=False) + "\n"
            check_output(block.place, "the agent", block.output, shown)

    def _at_terminal(self, command: str) -> str:
        main, terminal = pty.openpty()
        with contextlib.closing(os.fdopen(main, "rb", buffering=0)) as screen:
            process = subprocess.Popen(
                ["sh", "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=terminal,
                stderr=terminal,
                cwd=self.folder,
                env=self.environment,
                start_new_session=True,
            )
            os.close(terminal)
            shown = b""
            with contextlib.suppress(OSError):  # Linux says EIO at the end
                while piece := screen.read(65536):
                    shown += piece
            process.wait()
        return shown.decode().replace("\r\n", "\n")


def commands_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield the commands of a console block, each with its documented output."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines(keepends=True)
        size = 1
        while size < len(lines) and (lines[size].startswith("> ") or lines[size - 1].endswith("\\\n")):
            size += 1
        command = "".join([lines[0], *(line.removeprefix("> ") for line in lines[1:size])])
        yield command.strip(), "".join(lines[size:])


def check_output(place: str, what: str, wanted: str, got: str) -> None:
    """Compare output with the documented output."""
    wanted, got = (_steady(textwrap.dedent(text)) for text in (wanted, got))
    if not doctest.OutputChecker().check_output(wanted, got, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE):
        shown = "\n".join(difflib.unified_diff(wanted.splitlines(), got.splitlines(), "page", "really", lineterm=""))
        pytest.fail(f"{place}: {what} gives something else:\n{shown}", pytrace=False)


def _steady(text: str) -> str:
    for pattern, stand_in in _VARYING:
        text = pattern.sub(stand_in, text)
    return text.strip() + "\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="docs-") as folder:
        yield Path(folder)


@pytest.fixture
def environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a page's reader: the project's commands on the PATH, and a data folder of its own."""
    programs = folder / "bin"
    programs.mkdir()
    for name, (module, _) in COMMANDS.items():
        _write_program(programs / name, f"-c 'from {module} import main; main()'")
    _write_program(programs / "python3", "")
    changes = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "REDIS_STORE_DATA_DIR": str(folder / "data"),
        "COLUMNS": "100",
        "TERM": "dumb",
        "NO_COLOR": "1",
    }
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    return {**os.environ}


def _write_program(path: Path, arguments: str) -> None:
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
    path.chmod(0o755)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_page_run(
    page: Path,
    folder: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if "CI" not in os.environ:
        for package in packages_of(page):
            pytest.importorskip(package, reason=f"{page.name} needs {package}, of the test extra")
    monkeypatch.delenv("REDIS_URL", raising=False)
    environment.pop("REDIS_URL", None)
    with contextlib.ExitStack() as cleaning:
        if "<!-- server: embedded -->" in page.read_text(encoding="utf-8"):
            cleaning.callback(redis_store.server.destroy, folder / "data", force=True)
        else:
            url = cleaning.enter_context(empty_database(request.getfixturevalue("server_url")))
            monkeypatch.setenv("REDIS_URL", url)
            environment["REDIS_URL"] = url
        for name in ("redis_store", "sandbox"):
            logger = logging.getLogger(name)
            cleaning.callback(logger.setLevel, logger.level)
            cleaning.callback(setattr, logger, "handlers", list(logger.handlers))
        reader = Reader(folder, environment)
        for block in blocks_of(page):
            reader.read(block)
        for store in reader.names.values():
            if isinstance(store, DataStore):
                store.close()
            assert not isinstance(store, AsyncDataStore), f"{page.name} leaves an AsyncDataStore open"


def packages_of(page: Path) -> list[str]:
    """Return the packages that a page's examples import, besides ours."""
    return " ".join(re.findall(r"<!-- packages: (.*?) -->", page.read_text(encoding="utf-8"))).split()


@contextlib.contextmanager
def empty_database(url: str) -> Iterator[str]:
    """Yield the url of a database that is empty; it is emptied again afterwards."""
    plain = re.sub(r"(redis://[^/?]*)(/\d*)?", r"\1", url).split("?")[0]
    url = f"{plain}?db={DATABASE}"
    parse_address(url, None)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


def commands_of(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield a command and all its subcommands, with the words that call them."""
    yield words, command
    for name in getattr(command, "commands", {}):
        yield from commands_of(command.commands[name], (*words, name))


ALL_COMMANDS = [
    found for name, (_, app) in COMMANDS.items() for found in commands_of(typer.main.get_command(app), (name,))
]


@pytest.mark.parametrize(
    ("words", "command"), ALL_COMMANDS, ids=lambda part: "-".join(part) if type(part) is tuple else ""
)
def test_cli_page_has_every_command_and_option(words: tuple[str, ...], command: Any) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    title = " ".join(words)
    match = re.search(rf"^#+ `{re.escape(title)}`\n(.*?)(?=^#|\Z)", page, re.DOTALL | re.MULTILINE)
    assert match, f"docs/cli.md has no section `{title}`"
    text = match[1]
    if {"as_json", "quiet"} <= {parameter.name for parameter in command.params}:
        text += page.partition("\n## Options of operators' commands\n")[2].partition("\n## ")[0]
    for parameter in command.params:
        for option in (*parameter.opts, *parameter.secondary_opts):
            if option.startswith("-"):
                assert f"`{option}" in text, f"docs/cli.md does not say what {option} does in `{title}`"
    assert inspect.cleandoc(command.help or ""), f"{title} has no help"


def test_every_attacker_is_shown_by_tests() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    table = page.partition("## Who attacks")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 8
    for attacker, _, tests, _ in rows:
        shown = re.findall(r"`([^`]+)`", tests)
        assert shown, attacker
        for name in shown:
            path, _, function = name.partition("::")
            text = (ROOT / "tests" / path).read_text(encoding="utf-8")
            assert not function or f"def {function}(" in text, f"{name} is not there"


STEPS = ["What happened.", "What was done.", "Look at", "What to do."]


@pytest.mark.parametrize("errors", [redis_store.errors, sandbox.errors], ids=lambda errors: errors.__name__)
def test_runbook_has_every_error(errors: ModuleType) -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## Errors of the {errors.__name__.removeprefix('redis_').split('.')[0]}\n")[
        2
    ].partition("\n## ")[0]
    entries = dict(re.findall(r"^### `(?:sandbox\.)?(\w+)`\n(.*?)(?=^###|\Z)", section, re.DOTALL | re.MULTILINE))
    rows = dict(re.findall(r"^\| `(?:sandbox\.)?(\w+)` \|(.*)\|$", section, re.MULTILINE))
    for name in errors.__all__:
        is_group = any(getattr(errors, name) in getattr(errors, other).__bases__ for other in errors.__all__)
        if name in entries:
            assert re.findall(r"^- \*\*(.+?)\*\*", entries[name], re.MULTILINE) == STEPS, name
        else:  # a row of the groups, or of the limits
            assert rows[name].count("|") == (0 if is_group else 2), name
            assert all(cell.strip() for cell in rows[name].split("|")), name
    assert not entries.keys() - set(errors.__all__)


def rows_of_limits() -> list[tuple[str, str]]:
    page = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    return [(row[0], row[1]) for row in rows if row[0] in PLACES]


def test_index_links_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    folders = {f"{page.parent.name}/index.md" for page in (ROOT / "docs").glob("*/*.md")}
    assert not {name for name in pages | folders if f"({name})" not in index}


@pytest.mark.parametrize("folder", ["decisions", "integrations"])
def test_index_of_folder_links_every_page(folder: str) -> None:
    index = (ROOT / "docs" / folder / "index.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs" / folder).glob("*.md")} - {"index.md"}
    assert not {name for name in pages if not re.search(rf"^\| \[.*\]\({re.escape(name)}\)", index, re.MULTILINE)}


def test_readme_and_index_link_every_integration() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs" / "integrations").glob("*.md"):
        assert f"(integrations/{page.name})" in index
        assert page.name == "index.md" or f"(docs/integrations/{page.name})" in readme


def test_picture_has_every_label_of_its_source() -> None:
    source, picture = ((ROOT / "docs" / "images" / f"architecture.{kind}").read_text() for kind in ("dot", "svg"))
    for label in re.findall(r'label="([^"]+)"', source):
        for line in label.split("\\n"):
            assert line in html.unescape(picture), f"{line!r} is not in the picture: run `make picture`"


def test_limits_page_has_every_row() -> None:
    assert [what for what, _ in rows_of_limits()] == list(PLACES)


@pytest.mark.parametrize(("what", "shown"), rows_of_limits(), ids=lambda text: text[:40])
def test_limits_page_matches_the_code(what: str, shown: str) -> None:
    place = PLACES[what]
    number = re.match(r"[\d,]+(\.\d+)?", shown)
    assert number, f"{what!r}: the column Default must begin with a number"
    value = float(number[0].replace(",", ""))
    if place.endswith(".lua"):
        text = (ROOT / place).read_text(encoding="utf-8")
        assert re.search(rf"\b{value:.0f}\b", text), f"{value:.0f} is not in {place}"
    else:
        assert value == look_up(place)


def look_up(place: str) -> Any:
    """Return the value of a dotted name: a constant of a module, or the default of a dataclass field.

    The constants of integrations are read from their text, because the frameworks are not there.
    """
    module, _, rest = place.partition(":")
    if module.startswith("redis_store.integrations."):
        text = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        (number,) = re.findall(rf"^{rest}(?:: \w+)? = ([\d_.* ]+)$", text, re.MULTILINE)
        return math.prod(float(factor) for factor in number.split("*"))
    found: Any = importlib.import_module(module)
    for name in rest.split("."):
        is_record = isinstance(found, type) and dataclasses.is_dataclass(found)
        found = getattr(found() if is_record else found, name)
    return found


def test_limits_page_has_every_field_of_limits() -> None:
    places = set(PLACES.values())
    for record in (redis_store.limits.Limits, redis_store.limits.LogBounds, sandbox.Limits):
        for field in dataclasses.fields(record):
            if isinstance(field.default, bool):
                continue  # a switch
            assert f"{record.__module__}:{record.__name__}.{field.name}" in places


@pytest.mark.parametrize("package", [redis_store, sandbox], ids=lambda package: package.__name__)
def test_api_page_has_every_public_name(package: Any) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    missing = [name for name in package.__all__ if not re.search(rf"`{name}\b|\b{name}\(|[├└─ ]{name}\b", page)]
    assert not missing, f"docs/api.md does not name {missing} of {package.__name__}"


@pytest.mark.parametrize("kind", [DataStore, AsyncDataStore], ids=lambda kind: kind.__name__)
def test_api_page_has_every_method(kind: type) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    methods = [name for name in vars(kind) if not name.startswith("_")]
    missing = [name for name in methods if not re.search(rf"`\.?{name}\b", page)]
    assert not missing, f"docs/api.md does not name {missing} of {kind.__name__}"


@pytest.mark.parametrize("function", [redis_store.connect, sandbox.run], ids=lambda function: function.__qualname__)
def test_api_page_has_every_option(function: Any) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    missing = [name for name in inspect.signature(function).parameters if f"`{name}" not in page]
    assert not missing, f"docs/api.md does not explain {missing} of {function.__qualname__}"


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.relative_to(ROOT)}: {target} leads nowhere"
        if anchor:
            assert anchor in anchors_of(linked), f"{page.relative_to(ROOT)}: {target} names no heading there"


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as they are rendered."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return set(re.findall(r'<a id="([^"]+)">', text)) | {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
