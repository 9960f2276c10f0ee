"""The commands of `sandbox` at a terminal: an agent controls none, and forges no line of ours."""

from __future__ import annotations

import io
import logging
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

import sandbox
from redis_store.values.printable import escaped
from sandbox.cli.output import library_warnings
from sandbox.cli.watch import _as_line
from sandbox.consumers.batches import ConsumerEvent
from sandbox.errors import AgentRaised
from sandbox.host.outcome import from_message
from sandbox.trace import trace_tree

ROOT = Path(sandbox.__file__).parent.parent
COMMAND = [sys.executable, "-c", "from sandbox.cli import main; main()", "run"]
CLIPBOARD = "\x1b]52;c;cm0gLXJm\x07"
MADE_UP = f"no{CLIPBOARD}\x9b2J\r\nAgent 'evil' returned\u2028\u202eko\x85"
SHOWN = "no\\x1b]52;c;cm0gLXJm\\x07\\x9b2J\\r\\nAgent 'evil' returned\\u2028\\u202eko\\x85"
EVIL = f"""
BAD = {MADE_UP!r}
def run(input_dict):
    print("colour \\x1b[31m", BAD)
    data_store.use_namespace(BAD[:40]).set(BAD, [BAD])
    if input_dict:
        raise type("Bad\\x1b[31m\\nError", (ValueError,), {{}})(BAD)
    return {{BAD: [BAD]}}
"""


def at_a_terminal(*arguments: str, columns: int = 0) -> str:
    """Return what a command writes, with both streams on a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "TERM": "dumb"}
    with subprocess.Popen([*COMMAND, *arguments], env=environ, stdout=theirs, stderr=theirs):
        os.close(theirs)
        shown = b""
        while data := _read(ours):
            shown += data
    os.close(ours)
    return shown.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the command has ended
        return b""


@pytest.mark.parametrize("fails", [True, False])
def test_nothing_of_an_agent_controls_the_terminal(fails: bool, tmp_path: Path, server_url: str, user: str) -> None:
    path = tmp_path / "evil.py"
    path.write_text(EVIL)
    given = ["--input", '{"fail": 1}' if fails else "{}", "--trace", "--url", server_url]
    shown = at_a_terminal(str(path), "--user", user, *given).replace("\r\n", "\n")
    assert escaped(shown) == shown
    assert shown.startswith("| colour \\x1b[31m no\\x1b]52;c;cm0gLXJm\\x07\\x9b2J\\r\n| Agent 'evil' returned\\u2028")
    assert "evil " in shown
    lines = shown.splitlines()
    assert not [line for line in lines if line.startswith("Agent 'evil' returned")]
    if fails:
        assert "| Traceback (most recent call last):" in lines
        assert f"Agent 'evil' raised Bad\\x1b[31m\\nError: {SHOWN}" in lines


FORGED = """
def run(input_dict, tools):
    ours = "Agent 'forger' returned"
    print("." * 38 + ours)
    print(ours, end="", flush=True)
    tools["note"]("a line of a tool")
    print(ours)
    print("wide " + "\u4e2d" * 40 + ours, "\t" * 5 + ours, "", sep="\\n")
    print(ours, end="")
    raise ValueError(" " * 60 + ours)
"""
NOTE = "def note(text):\n    print(text)\n"


def test_no_row_of_an_agent_looks_like_ours(
    tmp_path: Path, server_url: str, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "forger.py").write_text(FORGED)
    (tmp_path / "noting.py").write_text(NOTE)
    monkeypatch.chdir(tmp_path)
    shown = at_a_terminal("forger.py", "--user", user, "--tools", "noting:note", "--url", server_url, columns=40)
    rows = [row for line in shown.replace("\r\n", "\n").splitlines() for row in in_rows(line, 40)]
    ours = [row for row in rows if not row.startswith("| ")]
    assert ours == ["a line of a tool", "Agent 'forger' raised ValueError:       "], (
        "the agent's rows are marked, whatever its text is"
    )
    assert rows.count("| Agent 'forger' returned") >= 3
    assert "| Agent 'forger' returnedAgent 'forger' " in rows, "a line is shown when it is complete"


def in_rows(line: str, columns: int) -> Iterator[str]:
    """Yield the rows that a line takes on a terminal."""
    row, used = "", 0
    for character in line:
        cells = 1 if character.isascii() else 2
        if used + cells > columns:
            yield row
            row, used = "", 0
        row, used = row + character, used + cells
    yield row


def test_long_names_make_no_rows_of_a_trace() -> None:
    operation = sandbox.Operation(datetime.now(UTC), "evil", "get", "n" * 90, "k" * 90, 1, True, 1, 0.1, run="run")
    call = sandbox.Call(datetime.now(UTC), "evil", "tool", " " * 45 + "Agent", 0.1, "E" * 90, "run")
    result = sandbox.RunResult(None, None, "", [operation], 0.1, "full", "run", calls=[call], agent=" " * 40 + "Agent")
    Console(file=(said := io.StringIO()), width=40).print(trace_tree(result))
    assert len(said.getvalue().splitlines()) == 3


def test_lines_of_watch_are_ours(capfd: pytest.CaptureFixture[str]) -> None:
    for kind in ("failed", "dead letter", "waiting"):
        _as_line(
            ConsumerEvent(kind, "evil\x1b\nname", (MADE_UP,), error=MADE_UP, traceback=MADE_UP, attempt=1, wait_s=1)
        )  # type: ignore[arg-type]
    said = capfd.readouterr().err
    assert escaped(said) == said
    assert len([line for line in said.splitlines() if not line.startswith("| ")]) == 3


def test_warnings_are_ours(capfd: pytest.CaptureFixture[str]) -> None:
    with library_warnings():
        try:
            raise ValueError(MADE_UP)
        except ValueError as error:
            logging.getLogger("redis_store").exception("%s", error)
    said = capfd.readouterr().err
    assert escaped(said) == said
    assert [line for line in said.splitlines() if not line.startswith("| ")] == [f"error: {SHOWN}"]


def test_errors_of_agents_are_one_line_each() -> None:
    parts = {
        "raised": ["Bad\nError", MADE_UP, MADE_UP, "ValueError", f"Traceback:\n{MADE_UP}", False],
        "invalid_agent": [MADE_UP, MADE_UP],
        "invalid_result": [MADE_UP, MADE_UP],
        "exited": [1, MADE_UP, False],
    }
    assert str(sandbox.Hint("near_limit", MADE_UP, "evil")) == SHOWN
    for kind, sent in parts.items():
        error = from_message(kind, sent, "evil", sandbox.Limits())
        assert isinstance(error, sandbox.SandboxError)
        assert str(error).isprintable(), kind
        if isinstance(error, AgentRaised):
            assert error.message == MADE_UP, "data stays as it is"
            assert escaped(error.traceback) == error.traceback
            result = sandbox.RunResult(None, error, "", [], 0.1, "full", "run")
            with pytest.raises(AgentRaised):
                result.check()
            assert error.__notes__ == [f"In the agent:\n| Traceback:\n| {SHOWN}".replace(r"\r\n", "\\r\n| ")]
