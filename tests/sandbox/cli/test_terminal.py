"""The commands of `sandbox` at a terminal: an agent controls none, and forges no line of ours."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import sandbox
from redis_store.values.printable import escaped
from sandbox.cli.output import library_warnings
from sandbox.cli.watch import _as_line
from sandbox.consumers.batches import ConsumerEvent
from sandbox.errors import AgentRaised
from sandbox.host.outcome import from_message

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


def at_a_terminal(*arguments: str) -> str:
    """Return what a command writes, with both streams on a terminal."""
    ours, theirs = pty.openpty()
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
    assert shown.startswith("colour \\x1b[31m no\\x1b]52;c;cm0gLXJm\\x07\\x9b2J\\r\nAgent 'evil' returned\\u2028")
    assert "evil " in shown
    lines = shown.splitlines()[2:]
    assert not [line for line in lines if line.startswith("Agent 'evil' returned")]
    if fails:
        assert "| Traceback (most recent call last):" in lines
        assert f"Agent 'evil' raised Bad\\x1b[31m\\nError: {SHOWN}" in lines


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
