"""The command `sandbox watch`, as a process: ending it, by Ctrl-C or a kill, loses no change."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

import sandbox
from redis_store import DataStore, connect
from redis_store.server_config import WISHED_FLAGS
from sandbox.cli import app
from tests.sandbox.conftest import Server, wait_until

ROOT = Path(sandbox.__file__).parent.parent
COMMAND = [sys.executable, "-c", "from sandbox.cli import main; main()", "watch"]
AGENT = """
    import time
    def run(input_dict):
        notes = data_store.use_namespace("notes")
        keys = [change["key"] for change in input_dict["changes"]]
        notes.set("begun", notes.get("begun", []) + keys)
        while "hold" in notes:
            time.sleep(0.01)
        notes.set("done", notes.get("done", []) + keys)
        return {"keys": keys}
"""


class Watcher:
    """A process of the command, and its output."""

    stdout: int | None = None

    def __init__(self, arguments: list[str], folder: Path, number: int) -> None:
        self.err, self.out = folder / f"err{number}", folder / f"out{number}"
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "TERM": "dumb"}
        with self.err.open("wb") as err, self.out.open("wb") as out:
            self.process = subprocess.Popen([*COMMAND, *arguments], env=environ, stdout=self.stdout or out, stderr=err)

    def says(self, text: str) -> None:
        wait_until(lambda: text in self.err.read_text(), f"it says {text!r}")


@pytest.fixture
def watch(tmp_path: Path, server_url: str, user: str) -> Iterator[Callable[..., Watcher]]:
    """Start the command with an agent that records its input; return once it is working or standing by."""
    path = tmp_path / "noter.py"
    path.write_text(textwrap.dedent(AGENT))
    started: list[Watcher] = []

    def start(*arguments: str) -> Watcher:
        full = [str(path), "--user", user, "--url", server_url, "--configure-server", "--concurrency", "1", *arguments]
        started.append(Watcher(full, tmp_path, len(started)))
        if "--json" not in arguments:
            wait_until(lambda: " noter: " in started[-1].err.read_text(), "it has begun")
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


@pytest.fixture
def notes(store: DataStore) -> DataStore:
    return store.use_namespace("notes")


def test_prints_a_line_for_each_run(watch: Callable[..., Watcher], store: DataStore, notes: DataStore) -> None:
    watcher = watch("--prefix", "k")
    store.set_many({"k1": 1, "other": 2})
    watcher.says("1 change ('k1'): done in ")
    watcher.process.send_signal(signal.SIGTERM)
    assert watcher.process.wait(20) == 0
    assert watcher.err.read_text().endswith(" noter: stopped\n")
    assert watcher.out.read_text() == ""


def test_json_lines(
    watch: Callable[..., Watcher], store: DataStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loud.py").write_text(
        "import subprocess\nprint('loud')\nsubprocess.run(['echo', 'loud'])\nTOOLS = {}\n"
    )
    monkeypatch.chdir(tmp_path)
    watcher = watch("--json", "--consumer", "other name", "--tools", "loud:TOOLS")
    wait_until(lambda: "watching" in watcher.out.read_text(), "it has begun")
    store.set("ä", 1)
    wait_until(lambda: "ran" in watcher.out.read_text(), "it has run")
    watcher.process.send_signal(signal.SIGINT)
    assert watcher.process.wait(20) == 0
    lines = [json.loads(line) for line in watcher.out.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["watching", "ran", "stopped"]
    assert {line["consumer"] for line in lines} == {"other name"}
    assert watcher.err.read_text().startswith("loud\nloud\n")
    assert (lines[1]["keys"], lines[1]["output"], lines[1]["error"]) == (["ä"], {"keys": ["ä"]}, None)


def test_closed_stdout_does_not_stop_it(
    watch: Callable[..., Watcher], store: DataStore, notes: DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, gone = os.pipe()
    os.close(reader)
    monkeypatch.setattr(Watcher, "stdout", gone)
    watcher = watch("--json")
    os.close(gone)
    watcher.says("Stdout takes no more")
    store.set("a", 1)
    wait_until(lambda: notes.get("done") == ["a"], "the agent runs on")
    watcher.process.send_signal(signal.SIGTERM)
    assert watcher.process.wait(20) == 0
    assert watcher.err.read_text().splitlines() == [
        "Stdout takes no more, so further events are not written. The consumer continues.",
        "Finishing the runs under way; press Ctrl-C again to end them at once.",
    ]


def test_tools_and_permissions(
    watch: Callable[..., Watcher], tmp_path: Path, store: DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "given_here.py").write_text("TOOLS = {'double': lambda n: 2 * n}\n")
    monkeypatch.chdir(tmp_path)
    source = """
        import os
        async def run(input_dict, tools):
            value = tools["double"](input_dict["changes"][0]["value"])
            data_store.use_namespace("out").set(os.environ["NAME"], value)
            data_store.set("not allowed", 1)
    """
    given = ("--tools", "given_here:TOOLS", "--env", "NAME=doubled", "--retries", "0", "--limit", "operations=50")
    (tmp_path / "noter.py").write_text(textwrap.dedent(source))
    watcher = watch(*given, "--permission", "read=default", "--permission", "write=out")
    store.set("k", 21)
    watcher.says("AccessDenied")
    assert store.use_namespace("out").get("doubled") == 42
    assert "not allowed" not in store


def test_ctrl_c_finishes_current_runs_and_keeps_the_cursor(
    watch: Callable[..., Watcher], store: DataStore, notes: DataStore
) -> None:
    notes["hold"] = True
    watcher = watch()
    store.set("a", 1)
    wait_until(lambda: notes.get("begun") == ["a"], "the agent has begun")
    watcher.process.send_signal(signal.SIGINT)
    watcher.says("Finishing the runs under way; press Ctrl-C again to end them at once.")
    store.set("b", 1)
    del notes["hold"]
    assert watcher.process.wait(20) == 0
    assert notes["done"] == ["a"]
    watch()
    wait_until(lambda: notes["done"] == ["a", "b"], "the next goes on behind it")
    assert notes["begun"] == ["a", "b"]


def test_second_ctrl_c_ends_it_at_once(watch: Callable[..., Watcher], store: DataStore, notes: DataStore) -> None:
    notes["hold"] = True
    watcher = watch()
    store.set("a", 1)
    wait_until(lambda: notes.get("begun") == ["a"], "the agent has begun")
    watcher.process.send_signal(signal.SIGINT)
    watcher.says("Finishing the runs")
    watcher.process.send_signal(signal.SIGINT)
    assert watcher.process.wait(20) == 130
    assert watcher.err.read_text().splitlines()[-1].startswith("Ended at once: ")
    del notes["hold"]
    watch()
    wait_until(lambda: notes.get("done") == ["a"], "the next does it again")


def test_kill_during_a_run_loses_no_change(watch: Callable[..., Watcher], store: DataStore, notes: DataStore) -> None:
    first = watch("--batch", "2")
    store.set("k0", 0)
    wait_until(lambda: notes.get("done") == ["k0"], "the first change is done")
    second = watch("--batch", "2")
    second.says("standing by")
    notes["hold"] = True
    store.set_many({f"k{number}": number for number in range(1, 5)})
    wait_until(lambda: len(notes["begun"]) > 1, "a run is under way")
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    store.set("k5", 5)
    del notes["hold"]
    wait_until(lambda: "k5" in notes["done"], "the second has taken over")
    second.says("watching")
    done = notes["done"]
    assert set(done) == {f"k{number}" for number in range(6)}
    assert done.count("k0") == 1


def test_shows_tracebacks_and_what_the_library_warns_of(own_server: Server, tmp_path: Path, user: str) -> None:
    path = tmp_path / "failing.py"
    path.write_text("def run(input_dict):\n    return {}[input_dict['changes'][0]['key']]\n")
    with redis.Redis.from_url(own_server.url) as raw, connect(own_server.url, user=user) as store:
        raw.config_set("maxmemory", "1gb")
        raw.config_set("maxmemory-policy", "allkeys-lru")
        watcher = Watcher([str(path), "--user", user, "--url", own_server.url, "--retries", "0"], tmp_path, 0)
        watcher.says(" failing: watching")
        store.set("k", 1)
        watcher.says("stored as a dead letter")
        watcher.process.send_signal(signal.SIGTERM)
        assert watcher.process.wait(20) == 0
    lines = watcher.err.read_text().splitlines()
    warnings = "\n".join(line for line in lines if line.startswith("warning: "))
    assert "warning: The server sends no keyspace events: " in warnings
    assert (
        f"set the server's notify-keyspace-events to {WISHED_FLAGS}, or connect with configure_server=True" in warnings
    )
    assert f"warning: the server at {own_server.url} evicts whole namespaces" in warnings
    failed = [number for number, line in enumerate(lines) if " failed: " in line]
    assert len(failed) == 1
    assert lines[failed[0]].endswith("1 change ('k'): try 1 failed: Agent 'failing' raised KeyError: 'k'")
    assert lines[failed[0] - 4 : failed[0] - 1] == [
        "| Traceback (most recent call last):",
        f'|   File "{path}", line 2, in run',
        "|     return {}[input_dict['changes'][0]['key']]",
    ]
    assert "| KeyError: 'k'" not in lines  # the line of the failure says it
    assert not [line for line in lines if line.startswith("warning: the consumer")]  # it has a line of its own


def test_agent_that_cannot_be_loaded_exits_1(
    watch: Callable[..., Watcher], store: DataStore, notes: DataStore, tmp_path: Path
) -> None:
    path = tmp_path / "noter.py"
    good = path.read_text()
    path.write_text("import time\nimport no_such\n")
    watcher = watch("--retries", "1", "--first-wait", "0.01")
    store.set("a", 1)
    assert watcher.process.wait(20) == 1
    said = watcher.err.read_text()
    assert said.count("failed: Agent 'noter' raised ModuleNotFoundError: No module named 'no_such'") == 2
    assert f'File "{path}", line 2, in <module>\n' in said
    last = said.splitlines()[-1]
    assert last.startswith("Agent 'noter' raised ModuleNotFoundError: No module named 'no_such'. An agent can import")
    assert store.list_namespaces("dead-letter") == []
    path.write_text(good)
    watch()
    wait_until(lambda: notes.get("done") == ["a"], "the mended agent is given it")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batch", "0"], "batch=0 cannot be used"),
        (["--concurrency", "x"], "valid integer"),
        (["--consumer", ""], "consumer name must not be empty"),
        (["--timeout", "0"], "Limits.timeout_s=0.0 cannot be used"),
        (["--namespace", ""], "namespace must not be empty"),
        (["--url", "http://x"], "url"),
        (["--tools", "nothing"], "--tools 'nothing' cannot be read"),
        (["--permission", "reed=x"], "--permission 'reed=x' is not a permission"),
        (["--limit", "operations=0"], "Limits.operations=0 cannot be used"),
        (["--unknown"], "No such option"),
    ],
)
def test_usage_error_exits_2(tmp_path: Path, server_url: str, arguments: list[str], said: str) -> None:
    path = tmp_path / "agent.py"
    path.write_text("def run(): return {}\n")
    full = ["watch", str(path), "--user", "u", "--url", server_url, *arguments]
    done = CliRunner().invoke(app, full, env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert done.stdout == ""


def test_missing_file_or_server(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["watch", str(tmp_path / "none.py"), "--user", "u"])
    assert (done.exit_code, "none.py" in done.stderr) == (2, True)
    for folder in (".", "/", str(tmp_path)):
        done = CliRunner().invoke(app, ["watch", folder, "--user", "u"])
        assert (done.exit_code, f"'{folder}' is a folder: pass the path" in done.stderr) == (2, True)
    (tmp_path / "agent.py").write_text("def run(): return {}\n")
    arguments: list[Any] = ["watch", str(tmp_path / "agent.py"), "--user", "u", "--url", "redis://127.0.0.1:1/0"]
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, "Cannot connect" in done.stderr) == (1, True)
