"""The command `sandbox run`, as a process."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sandbox
from redis_store import DataStore
from sandbox.cli import app

ROOT = Path(sandbox.__file__).parent.parent
COMMAND = [sys.executable, "-c", "from sandbox.cli import main; main()", "run"]
AGENT = """
import sys
async def run(input_dict, tools):
    print("printed ä")
    print("on stderr", file=sys.stderr)
    data_store.set("seen", input_dict)
    return {"input": input_dict, "agent": data_store.info("seen").created_by, "ä": "€"}
"""


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "my_agent.py"
    path.write_text(AGENT)
    return path


@pytest.fixture
def command(server_url: str, user: str) -> Any:
    def call(*args: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "REDIS_URL": server_url, "COLUMNS": "200", "TERM": "dumb"}
        full = [*COMMAND, *map(str, args), *(() if "--user" in args else ("--user", user))]
        return subprocess.run(full, env=environ, capture_output=True, timeout=50, check=False, **options)

    return call


def test_output_on_stdout_and_prints_on_stderr(command: Any, agent: Path, store: DataStore) -> None:
    done = command(agent, "--input", '{"repo": "x"}', "--agent", "named", "--namespace", "ns")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"input": {"repo": "x"}, "agent": "named", "ä": "€"}
    assert done.stdout.count(b"\n") == 1
    assert done.stderr.decode() == "printed ä\non stderr\n"
    assert store.use_namespace("ns").get("seen") == {"repo": "x"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_full_disk_under_stdout_prints_one_line(agent: Path, user: str, server_url: str) -> None:
    full = [*COMMAND, str(agent), "--user", user, "--url", server_url]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with Path("/dev/full").open("wb") as stdout:
        done = subprocess.run(full, env=environ, stdout=stdout, stderr=subprocess.PIPE, timeout=50, check=False)
    assert done.returncode == 1
    said = done.stderr.decode().splitlines()
    assert said[-1] == "The result cannot be written: No space left on device. What the agent had stored stays."
    assert "Traceback" not in done.stderr.decode()


NOISY_TOOLS = """
import subprocess, sys, threading

print("imported")

def plain():
    print("plain")
    sys.__stdout__.write("kept stdout\\n")
    sys.__stdout__.flush()
    subprocess.run(["echo", "another program"])

async def later():
    print("async")

def left_over():
    threading.Thread(target=lambda: (threading.main_thread().join(), print("left over"))).start()

TOOLS = {"plain": plain, "later": later, "left_over": left_over}
"""
PRINTING_TOOL = """
import logging

def plain():
    print("plain")
    logging.getLogger("redis_store").warning("%d keys are left", 3)
"""
CALLS_TOOLS = """
async def run(input_dict, tools):
    for name, tool in tools.items():
        await tool() if name == "later" else tool()
    data_store.set("called", list(tools))
    return {"called": list(tools)}
"""


@pytest.fixture
def noisy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An agent that calls tools, and tools that print in all ways."""
    (tmp_path / "noisy.py").write_text(NOISY_TOOLS)
    (tmp_path / "printing.py").write_text(PRINTING_TOOL)
    (tmp_path / "agent.py").write_text(CALLS_TOOLS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "agent.py"


def test_stdout_has_the_result_alone(command: Any, noisy: Path) -> None:
    done = command(noisy, "--tools", "noisy:TOOLS")
    assert json.loads(done.stdout) == {"called": ["plain", "later", "left_over"]}, done.stderr
    said = ["imported", "plain", "kept stdout", "another program", "async", "left over"]
    assert done.stderr.decode().splitlines() == said


def test_stdout_of_a_test_runner_has_the_result_alone(noisy: Path, server_url: str, user: str) -> None:
    full = ["run", str(noisy), "--user", user, "--url", server_url, "--tools", "printing:plain"]
    done = CliRunner().invoke(app, full)
    assert (done.stdout, done.stderr) == ('{"called": ["plain"]}\n', "plain\nwarning: 3 keys are left\n")


@pytest.mark.parametrize("closed", ["all", "the pipe behind stderr"])
def test_closed_streams_fail_no_run(closed: str, noisy: Path, server_url: str, user: str, store: DataStore) -> None:
    reader, gone = os.pipe()
    os.close(reader)
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"] if closed == "all" else []
    done = subprocess.run(
        [*shell, *COMMAND, noisy, "--user", user, "--url", server_url, "--tools", "printing:plain", "--trace"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=gone,
        timeout=50,
        check=False,
    )
    os.close(gone)
    assert done.returncode == 0
    assert done.stdout == (b"" if closed == "all" else b'{"called": ["plain"]}\n')
    assert store["called"] == ["plain"]


def test_python_m_sandbox_is_the_command() -> None:
    full = [sys.executable, "-m", "sandbox", "run", "--no-such-option"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(full, env=environ, capture_output=True, timeout=50, check=False)
    assert (done.returncode, b"Usage: sandbox run" in done.stderr) == (2, True)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_input_may_begin_with_a_byte_order_mark(encoding: str, tmp_path: Path, server_url: str, user: str) -> None:
    (tmp_path / "in.json").write_text('{"name": "Zoë"}', encoding=encoding)
    (tmp_path / "agent.py").write_text("def run(input_dict): return input_dict\n")
    full = ["run", str(tmp_path / "agent.py"), "--user", user, "--url", server_url]
    from_file = CliRunner().invoke(app, [*full, "--input", f"@{tmp_path / 'in.json'}"])
    from_stdin = CliRunner().invoke(app, [*full, "--input", "-"], input=(tmp_path / "in.json").read_bytes())
    assert [json.loads(done.stdout) for done in (from_file, from_stdin)] == [{"name": "Zoë"}] * 2


def test_input_from_file_stdin_or_none(command: Any, agent: Path, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text('{"from": "file"}')
    done = command(agent, "--input", f"@{tmp_path}/in.json")
    assert json.loads(done.stdout)["input"] == {"from": "file"}
    done = command(agent, "--input", "-", input='{"from": "stdin ä"}'.encode())
    assert json.loads(done.stdout)["input"] == {"from": "stdin ä"}
    assert json.loads(command(agent).stdout)["input"] == {}


def test_failed_agent_exits_1_with_its_traceback(command: Any, tmp_path: Path) -> None:
    path = tmp_path / "failing.py"
    path.write_text("async def run(input_dict, tools):\n    print('before')\n    raise ValueError('no')\n")
    done = command(path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().splitlines() == [
        "before",
        "| Traceback (most recent call last):",
        f'|   File "{path}", line 3, in run',
        "|     raise ValueError('no')",
        "Agent 'failing' raised ValueError: no",
    ]
    path.write_text("def run(:\n")
    done = command(path)
    assert done.returncode == 1
    assert b"does not compile" in done.stderr
    assert b"^" in done.stderr
    path.write_text("import time\ndef run(): time.sleep(1000)\n")
    done = command(path, "--timeout", "0.3")
    assert done.returncode == 1
    assert b"0.3 s" in done.stderr


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            ["--input", "{"],
            "--input is not JSON: Expecting property name enclosed in double quotes at line 1, column 2",
        ),
        (["--input", '{\n"a": x}'], "--input is not JSON: Expecting value at line 2, column 6"),
        (["--input", "[1]"], "--input must be a JSON object"),
        (["--input", '{"a": NaN}'], "--input is not JSON: NaN is not JSON"),
        (["--input", "@/nowhere/x.json"], "/nowhere/x.json cannot be read: No such file or directory"),
        (["--timeout", "0"], "Limits.timeout_s=0.0 cannot be used"),
        (["--user", ""], "user id must not be empty"),
        (["--namespace", ""], "namespace must not be empty"),
        (["--url", "http://x"], "url"),
        (["--unknown"], "No such option"),
    ],
)
def test_usage_error_exits_2(agent: Path, server_url: str, args: list[str], expected: str) -> None:
    full = ["run", str(agent), "--url", server_url, *(() if "--user" in args else ("--user", "u")), *args]
    done = CliRunner().invoke(app, full, env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 2, done.output
    assert expected in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_missing_file_or_user_exits_2(tmp_path: Path, agent: Path) -> None:
    done = CliRunner().invoke(app, ["run", str(tmp_path / "none.py"), "--user", "u"])
    assert done.exit_code == 2
    assert "none.py" in done.stderr
    assert CliRunner().invoke(app, ["run", str(agent)]).exit_code == 2


def test_unreachable_store_exits_1(agent: Path) -> None:
    done = CliRunner().invoke(app, ["run", str(agent), "--user", "u", "--url", "redis://127.0.0.1:1/0"])
    assert done.exit_code == 1
    assert "Cannot connect" in done.stderr
    assert "Traceback" not in done.stderr


def test_terminal_output_is_indented(agent: Path, server_url: str, user: str) -> None:
    ours, theirs = pty.openpty()
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    full = [*COMMAND, str(agent), "--user", user, "--url", server_url]
    done = subprocess.run(full, env=environ, stdout=theirs, stderr=subprocess.PIPE, timeout=50, check=True)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert shown.startswith('{\r\n  "input": {},\r\n')
    assert done.stderr.decode() == "printed ä\non stderr\n"


@pytest.mark.usefixtures("nothing_left")
def test_interrupt_ends_the_run(server_url: str, user: str, tmp_path: Path) -> None:
    path = tmp_path / "slow.py"
    path.write_text("import time\ndef run():\n    print('ready')\n    time.sleep(1000)\n")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    full = [*COMMAND, str(path), "--user", user, "--url", server_url]
    with subprocess.Popen(full, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert process.stderr.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read().decode() == "Interrupted: the agent was ended; it had written nothing.\n"
        assert process.stdout.read() == b""


def test_help_names_every_option() -> None:
    shown = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).stdout
    for option in ("--user", "--input", "--namespace", "--agent", "--url", "--timeout", "Exit code"):
        assert option in shown


def test_a_kept_run_is_listed_and_shown(command: Any, agent: Path, user: str, server_url: str, tmp_path: Path) -> None:
    done = command(agent, "--input", '{"token": "x1"}', "--keep", "--agent", "\x1b[31mred")
    assert "see it with `sandbox show " in done.stderr.decode()
    environ = {"REDIS_URL": server_url}
    call = partial(CliRunner().invoke, app, env=environ)
    listed = call(["runs", "--user", user, "--json"])
    (record,) = map(json.loads, listed.stdout.splitlines())
    assert (record["agent"], record["operations"], record["error"]) == ("\x1b[31mred", 2, None)
    table = call(["runs", "--user", user])
    assert f"{record['run']}  \\x1b[31mred  " in table.stdout
    trace = tmp_path / "trace.json"
    shown = call(["show", record["run"], "--user", user, "--trace-file", str(trace)])
    assert shown.exit_code == 0
    assert "\x1b" not in shown.stdout
    assert "── set 'default' 'seen'" in shown.stdout
    assert "| printed ä\n" in shown.stdout
    assert '{"token":"***"}' in shown.stdout
    assert json.loads(trace.read_text())["traceEvents"]
    whole = json.loads(call(["show", record["run"], "--user", user, "--json"]).stdout)
    assert [one["operation"] for one in whole["operations"]] == ["set", "info"]
    missing = call(["show", "none", "--user", user])
    assert (missing.exit_code, "No run 'none'" in missing.stderr) == (1, True)
    assert call(["show", "x" * 300, "--user", user]).exit_code == 2
