"""The options of `sandbox run` for what an agent is given, its rights, and the display of its run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sandbox
from redis_store import DataStore
from sandbox.cli import app

ROOT = Path(sandbox.__file__).parent.parent
COMMAND = [sys.executable, "-c", "from sandbox.cli import main; main()", "run"]

TOOLS = '''
def double(n: int) -> int:
    """Double."""
    return 2 * n

TOOLS = {"double": double, "triple": lambda n: 3 * n}
NUMBER = 5
MODULES = {"services.llm_service": {"ask": lambda prompt: prompt.upper(), "MODEL": "small"}}
class Space:
    inner = {"four": lambda: 4}
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_tools.py").write_text(TOOLS)
    (tmp_path / "broken_tools.py").write_text("raise RuntimeError('no luck')\n")
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "child.py").write_text("def run(i): return {'child': i}\n")
    return tmp_path


@pytest.fixture
def command(server_url: str, user: str, folder: Path) -> Any:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "REDIS_URL": server_url, "COLUMNS": "200", "TERM": "dumb"}

    def call(source: str, *args: Any, **more: str) -> subprocess.CompletedProcess[str]:
        (folder / "agent.py").write_text(source)
        full = [*COMMAND, "agent.py", "--user", user, *map(str, args)]
        return subprocess.run(
            full, env={**environ, **more}, cwd=folder, capture_output=True, text=True, timeout=50, check=False
        )

    return call


def test_tools_agents_env_and_packages(command: Any) -> None:
    source = (
        "import os, rich\n"
        "async def run(i, tools):\n"
        "    return {'tools': [tools['double'](1), tools['triple'](1), tools['four']()], 'doc': tools['double'].__doc__,\n"
        "            'env': [os.environ['A'], os.environ['B']], 'child': await agents.call('child', {'n': 1})}\n"
    )
    done = command(
        source,
        *("--tools", "my_tools:TOOLS", "--tools", "my_tools:Space.inner", "--tools", "my_tools:double"),
        *("--agents", "agents", "--env", "A=x=y", "--env", "B", "--package", "rich"),
        B="from here",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "tools": [2, 3, 4],
        "doc": "Double.",
        "env": ["x=y", "from here"],
        "child": {"child": {"n": 1}},
    }


def test_modules(command: Any) -> None:
    source = (
        "from services.llm_service import MODEL, ask\n"
        "def run(i): return {'model': MODEL, 'answer': ask(prompt='hello')}\n"
    )
    done = command(source, "--modules", "my_tools:MODULES")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"model": "small", "answer": "HELLO"}
    done = command(source)
    assert done.returncode == 1
    assert "No module named 'services'" in done.stderr
    assert "(--package NAME), modules of the host with modules={...} (--modules MODULE:ATTRIBUTE).\n" in done.stderr


def test_limits_and_permissions(command: Any, store: DataStore) -> None:
    source = "def run():\n    while True: data_store.use_namespace('shared').get('k')\n"
    done = command(source, "--limit", "operations=1_000", "--permission", "read=shared")
    assert done.returncode == 1
    assert done.stderr == (
        "The agent called the store more than 1,000 times: raise Limits.operations, or use get_many and set_many.\n"
    )
    done = command(
        "def run(i):\n    data_store.use_namespace('files:a').set('k', 1)\n    data_store.set('k', 1)\n",
        *("--permission", "read=shared", "--permission", "write=files:{repo}", "--permission", "write=logs"),
        *("--permission", "operations=set", "--permission", "quota_bytes=100000", "--input", '{"repo": "a"}'),
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("allowed are reading 'shared', writing 'files:a', 'logs'.")
    assert store.use_namespace("files:a").get("k") == 1


def test_trace_as_tree_and_file(command: Any, folder: Path) -> None:
    source = "def run():\n    data_store.set('k', {'token': 'x'})\n    data_store.use_namespace('zzz').get('k')\n    return {}\n"
    for args in (["--trace"], ["--trace", "--timeout", "9"]):
        done = command(source, *args)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "{}\n"
        lines = done.stderr.splitlines()
        assert lines[0].startswith("agent ")
        assert "set 'default' 'k'" in lines[1]
        assert '{"token":"***"}' in lines[1]
        assert lines[-1].startswith("hint: agent read from namespace 'zzz'")
    for args in (["--trace", "out.json"], ["--trace=out.json"], ["--trace", "out.json", "--trace"]):
        (folder / "out.json").unlink(missing_ok=True)
        assert command(source, *args).stdout == "{}\n"
        names = {event["name"] for event in json.loads((folder / "out.json").read_text())["traceEvents"]}
        assert {"agent", "data_store.set", "data_store.get"} <= names
    done = command(source, "--trace", "nowhere/out.json")
    assert done.stdout == "{}\n"
    assert "The trace cannot be written to nowhere/out.json: No such file or directory." in done.stderr


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--tools", "nothing"], "--tools 'nothing' cannot be read: write module:attribute"),
        (["--tools", "no_such_module:x"], "'no_such_module' cannot be imported: ModuleNotFoundError"),
        (["--tools", "my_tools:none"], "'my_tools' has no 'none'"),
        (["--tools", "my_tools:NUMBER"], "--tools my_tools:NUMBER is an int"),
        (["--tools", "broken_tools:x"], "'broken_tools' cannot be imported: RuntimeError: no luck"),
        (
            ["--modules", "MODULES"],
            "--modules 'MODULES' cannot be read: write module:attribute, as in 'my_tools:MODULES'",
        ),
        (["--modules", "my_tools:none"], "--modules my_tools:none: 'my_tools' has no 'none'"),
        (["--modules", "my_tools:NUMBER"], "--modules my_tools:NUMBER is an int: it must be a dict"),
        (["--modules", "my_tools:TOOLS"], "The module 'double' must be a dict of names and values, not function"),
        (["--agents", "none"], "There is no folder of agents at 'none'"),
        (["--agents", "agent.py"], "'agent.py' is not a folder"),
        (["--env", "NO_SUCH_VARIABLE"], "--env NO_SUCH_VARIABLE: this environment has no such variable"),
        (["--env", "=x"], "The variable '' cannot be put into an environment"),
        (["--package", "no-such-package-here"], "is not installed"),
        (["--limit", "operation=5"], "there is no limit 'operation'; there are: bytes_written"),
        (["--limit", "operations"], "'operations' needs a number, as in operations=1000"),
        (["--limit", "operations=many"], "needs a number"),
        (["--limit", "operations=0"], "Limits.operations=0 cannot be used"),
        (["--limit", "operations=1.5"], "Limits.operations must be an int"),
        (["--permission", "reed=x"], "--permission 'reed=x' is not a permission: use one of read=..."),
        (["--permission", "read"], "--permission 'read' is not a permission"),
        (["--permission", "quota_bytes=x"], "needs a number"),
        (["--permission", "operations=execute"], "'execute', which is not an operation"),
        (["--permission", "write=files:{repo}"], "needs 'repo' in input_dict"),
    ],
)
def test_invalid_options_exit_2(
    folder: Path, server_url: str, args: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "agent.py").write_text("def run(): return {}\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    done = CliRunner().invoke(app, ["run", "agent.py", "--user", "u", "--url", server_url, *args])
    assert done.exit_code == 2, done.output
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_help(folder: Path) -> None:
    for args in (["-h"], ["--help"], ["run", "-h"]):
        done = CliRunner().invoke(app, args)
        assert done.exit_code == 0
        assert "Usage" in done.stdout
    shown = CliRunner().invoke(app, ["run", "-h"], env={"COLUMNS": "200", "TERM": "dumb"}).stdout
    for option in (
        "--tools",
        "--modules",
        "--agents",
        "--env",
        "--package",
        "--permission",
        "--limit",
        "--trace",
        "--trace-file",
        "--reload",
    ):
        assert option in shown


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ("pass", "it had written nothing"),
        ("data_store.set('a', 1)", "it had written 1 time to namespace 'default', which stays"),
        (
            "data_store.set('a', 1); data_store.set_many({'b': 1}); data_store.use_namespace('x').set('a', 1)",
            "it had written 3 times to namespaces 'default', 'x', which stays",
        ),
    ],
)
def test_interrupt_reports_kept_writes(server_url: str, user: str, tmp_path: Path, body: str, kept: str) -> None:
    with started(
        tmp_path, f"import time\ndef run():\n    {body}\n    print('ready')\n    time.sleep(1000)\n", server_url, user
    ) as go:
        assert go.stderr.readline() == "ready\n"
        go.send_signal(signal.SIGINT)
        assert go.wait(20) == 130
        assert go.stderr.read() == f"Interrupted: the agent was ended; {kept}.\n"


def test_reload_runs_again_on_every_save(server_url: str, user: str, tmp_path: Path) -> None:
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "child.py").write_text("def run(i): return {'child': 1}\n")
    source = "async def run(i): return {'v': %d, **await agents.call('child')}\n"
    with started(tmp_path, source % 1, server_url, user, "--reload", "--agents", str(folder)) as go:
        output = lines_of(go.stdout)
        said = lines_of(go.stderr)
        assert json.loads(next(output)) == {"v": 1, "child": 1}
        assert next(said) == "[waiting for the next save; Ctrl-C ends]\n"
        save(tmp_path / "agent.py", source % 2)
        assert json.loads(next(output)) == {"v": 2, "child": 1}
        assert next(said) == "[agent.py changed: running again]\n"
        assert next(said) == "[waiting for the next save; Ctrl-C ends]\n"
        save(folder / "child.py", "def run(i): return {'child': 2}\n")
        assert json.loads(next(output)) == {"v": 2, "child": 2}
        assert next(said) == "[child.py changed: running again]\n"
        assert next(said) == "[waiting for the next save; Ctrl-C ends]\n"
        save(tmp_path / "agent.py", "def run(:\n")
        assert next(said) == "[agent.py changed: running again]\n"
        assert "does not compile" in "".join(next(said) for _ in range(5))
        assert next(said) == "[waiting for the next save; Ctrl-C ends]\n"
        save(tmp_path / "agent.py", "import time\ndef run():\n    print('slow', flush=True)\n    time.sleep(1000)\n")
        assert next(said) == "[agent.py changed: running again]\n"
        assert next(said) == "slow\n"
        save(tmp_path / "agent.py", source % 3)
        assert json.loads(next(output)) == {"v": 3, "child": 2}
        go.send_signal(signal.SIGINT)
        assert go.wait(20) == 130


def test_reload_waits_for_a_missing_file(server_url: str, user: str, tmp_path: Path) -> None:
    with started(tmp_path, None, server_url, user, "--reload") as go:
        assert next(lines_of(go.stderr)).startswith("There is no agent file at")
        save(tmp_path / "agent.py", "def run(): return {'n': 1}\n")
        assert json.loads(next(lines_of(go.stdout))) == {"n": 1}
        go.send_signal(signal.SIGINT)
        assert go.wait(20) == 130


def started(folder: Path, source: str | None, url: str, user: str, *args: str) -> Any:
    if source is not None:
        (folder / "agent.py").write_text(source)
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    full = [*COMMAND, str(folder / "agent.py"), "--user", user, "--url", url, *args]
    return _Process(subprocess.Popen(full, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))


class _Process:
    """A process that is killed if the test fails."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def __enter__(self) -> Any:
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def lines_of(stream: Any) -> Iterator[str]:
    while line := stream.readline():
        yield line


def save(path: Path, text: str) -> None:
    """Write a file as editors do: write a new file and rename it over the old one."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
