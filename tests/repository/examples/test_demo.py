"""`examples/demo.py`, as `make demo` calls it, with fewer files and a folder of its own."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from redis_store import connect
from redis_store.server import destroy, status
from tests.repository.examples.conftest import EXAMPLES, ROOT

FILES = 40


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder whose name has to be quoted, and from which the server is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="demo of today's-") as folder:
        yield Path(folder) / ".demo"
        destroy(Path(folder) / ".demo", force=True)


def command_of(data_dir: Path) -> list[str]:
    """The demo's command line."""
    return [
        sys.executable,
        str(EXAMPLES / "demo.py"),
        "--files",
        str(FILES),
        "--data-dir",
        str(data_dir),
    ]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with nothing in it that tells rich or the store something else."""
    unwanted = {"FORCE_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE", "REDIS_URL", "REDIS_STORE_DATA_DIR"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def demo(data_dir: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the demo with its output in pipes, as a build machine does."""
    return subprocess.run(
        command_of(data_dir), env=environment(**more), capture_output=True, text=True, encoding="utf-8"
    )


@pytest.fixture(scope="module")
def first_run() -> Iterator[tuple[Path, subprocess.CompletedProcess[str]]]:
    """A run that several tests look at, and its folder: with a terminal's name, and a REDIS_URL that leads nowhere."""
    with tempfile.TemporaryDirectory(prefix="demo of today's-") as folder:
        data_dir = Path(folder) / ".demo"
        yield data_dir, demo(data_dir, TERM="xterm-256color", REDIS_URL="redis://127.0.0.1:1/0")
        destroy(data_dir, force=True)


def test_second_run_uses_the_cache(first_run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    data_dir, first = first_run
    assert (first.returncode, first.stderr) == (0, "")
    assert f"{FILES} files, all stored with their summaries" in first.stdout
    assert "source: fetched" in first.stdout
    assert "source: cache" in first.stdout
    assert "cache hits: 1 of 2 fetches" in first.stdout
    assert "from producer: " in first.stdout
    assert "Visits: 1" in first.stdout
    live = (
        r"greeting.py edited on disk: stored after [\d.]+ s, summarised after [\d.]+ s, indexed after [\d.]+ s: 'Say "
    )
    assert len(re.findall(live, first.stdout)) == 2
    assert re.search(rf"\n{FILES} files of [\d.]+ [kM]B; [\d,]+ operations", first.stdout)

    with connect(user="demo", data_dir=data_dir) as store:
        assert len(store.use_namespace("files:stdlib")) == FILES
        assert store.use_namespace("summary:stdlib").get("__future__.py")["classes"] == ["_Feature"]

    second = demo(data_dir)
    assert (second.returncode, second.stderr) == (0, "")
    assert f"{FILES} files, all unchanged since the last run" in second.stdout
    assert "cache hits: 2 of 2 fetches" in second.stdout
    assert "Visits: 2" in second.stdout


WITHOUT_ISOLATION = """
import runpy, sys
import sandbox
from sandbox.isolation import tiers

def none(tiers):
    raise sandbox.IsolationUnavailable("There is none here.", reasons={})

tiers._choose = none
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_warns_and_continues_without_isolation(data_dir: Path) -> None:
    python, *arguments = command_of(data_dir)
    done = subprocess.run(
        [python, "-c", WITHOUT_ISOLATION, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "isolation='unsafe-process'" in done.stdout
    assert len(re.findall(r"indexed after", done.stdout)) == 2
    assert re.search(r"SANDBOX_ISOLATION=unsafe-process \S+/sandbox run", done.stdout)


def test_stops_its_server_and_prints_no_control_characters(
    first_run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    data_dir, done = first_run
    assert not status(data_dir).running
    assert re.findall(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout) == []


def test_ignores_redis_url_of_the_environment(first_run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, done = first_run
    assert (done.returncode, done.stderr) == (0, "")
    assert "    REDIS_URL= REDIS_STORE_DATA_DIR=" in done.stdout


def test_progress_bar_on_a_terminal(data_dir: Path) -> None:
    controller, terminal = pty.openpty()
    process = subprocess.Popen(command_of(data_dir), stdout=terminal, stderr=terminal, env=environment(TERM="xterm"))
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(controller, 65536):
            shown += chunk
    except OSError:  # Linux says so where the other side has closed
        pass
    finally:
        os.close(controller)
    assert process.wait() == 0
    assert b"Ingesting the standard library" in shown
    assert f"{FILES}/{FILES}".encode() in shown


def test_printed_commands_work(first_run: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    data_dir, output = first_run[0], first_run[1].stdout
    shown = output[output.index("Look at the demo's data") :]
    commands = re.findall(r"^    (.+)$", shown, re.MULTILINE)
    assert len(commands) == 7
    assert not re.search(r"\b(export|unset)\b", shown)  # the reader's own data would go where `make clean` removes it
    if shutil.which("redis-cli") is None and not os.environ.get("CI"):
        commands = [command for command in commands if not command.startswith("redis-cli")]
    script = "\n".join(["set -e", *commands]).replace(
        f"{Path(sys.executable).parent}/", f"{stand_ins(tmp_path / 'bin')}/"
    )
    done = subprocess.run(["sh", "-c", script], cwd="/", env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "summary:stdlib" in done.stdout
    assert '"about": "' in done.stdout
    assert re.search(r"^created by +producer$", done.stdout, re.MULTILINE)
    assert '"query": "regular expression"' in done.stdout
    assert "unix://" in done.stdout
    assert not status(data_dir).running


def stand_ins(folder: Path) -> Path:
    """Make the two commands, which are not installed where the package is only on the path."""
    folder.mkdir()
    for name, module in (("redis-store", "redis_store.cli"), ("sandbox", "sandbox.cli")):
        script = folder / name
        script.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c 'from {module} import main; main()' \"$@\"\n")
        script.chmod(0o755)
    return folder


def test_failure_prints_a_message_and_sets_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = demo(tmp_path / "file")
    assert done.returncode == 1
    assert done.stderr.startswith("The demo failed: ")
    assert done.stderr.count("\n") == 1


def test_zero_files_is_a_usage_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py"), "--files", "0", "--data-dir", str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "'0' is not a whole number above 0" in done.stderr


def test_failing_agent_fails_the_demo(data_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "examples"
    shutil.copytree(EXAMPLES, copy)
    (copy / "producer.py").write_text("async def run(input_dict, tools):\n    return {'error': 'No luck today.'}\n")
    (copy / "consumer.py").unlink()
    command = [word.replace(str(EXAMPLES), str(copy)) for word in command_of(data_dir)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "The demo failed: producer says: No luck today.\n")

    (copy / "producer.py").write_text("async def run(input_dict, tools):\n    raise ValueError('bad luck')\n")
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1
    assert "bad luck" in done.stderr.splitlines()[-1]
    assert str(copy / "producer.py") in done.stderr
    assert "demo.py" not in done.stderr
