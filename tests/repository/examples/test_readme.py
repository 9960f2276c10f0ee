"""What examples/README.md says to type works as it stands, in its order."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.repository.examples.conftest import EXAMPLES, ROOT

README = (EXAMPLES / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def environment(server_url: str) -> dict[str, str]:
    """An environment whose commands are those of this Python, and whose server is the tests'."""
    programs = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": os.pathsep.join([programs, os.environ.get("PATH", "")]),
        "PYTHONPATH": str(ROOT),
        "REDIS_URL": server_url,
    }


def test_table_commands(environment: dict[str, str], user: str) -> None:
    outputs: dict[str, dict[str, Any]] = {}
    for command in re.findall(r"`(sandbox run [^`]+)`", README):
        # The command is installed as a script; a module does the same where the package is only on the path.
        module = command.replace("sandbox run", f"'{sys.executable}' -c 'from sandbox.cli import main; main()' run")
        done = subprocess.run(
            module.replace("--user demo", f"--user {user}"),
            shell=True,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        name = Path(command.split()[2]).stem
        outputs[name] = json.loads(done.stdout)
        assert "error" not in outputs[name]

    assert len(outputs) == 8
    assert outputs["consumer"]["written_by"] == "producer"
    assert [hit["file"] for hit in outputs["search"]["results"]] == ["a.py"]


def test_host_with_tools(environment: dict[str, str], user: str) -> None:
    (code,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    code = code.replace('user="demo"', f"user={user!r}")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'repo': 'redis_store'" in done.stdout
    assert "'unchanged': 0" in done.stdout
