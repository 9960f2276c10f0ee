"""The pytest plugin as documented, in a separate pytest process."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox import pytest_plugin

ROOT = Path(sandbox.__file__).parent.parent

TESTS = '''
import asyncio
import pytest

SEEN = []

def test_a_run_and_the_store(data_store, run_agent):
    SEEN.append(data_store.user)
    data_store.set("visits", 1)
    result = run_agent("""
        async def run(input_dict, tools):
            data_store.set("visits", data_store.get("visits") + input_dict["by"] + tools["one"]())
            return {"user": data_store.user}
    """, {"by": 2}, tools={"one": lambda: 1})
    assert result.check() == {"user": data_store.user}
    assert data_store.get("visits") == 4

def test_every_test_has_a_user_of_its_own(data_store, run_agent):
    assert data_store.user not in SEEN
    assert data_store.list_namespaces() == []
    assert run_agent("def run(): return {'names': data_store.list_namespaces()}").check() == {"names": []}

def test_async(async_data_store, arun_agent, data_store):
    async def main():
        await async_data_store.set("k", 1)
        result = await arun_agent("def run(): return {'k': data_store.get('k')}")
        return result.check()
    assert asyncio.run(main()) == {"k": 1}
    assert data_store.get("k") == 1

def test_a_file(run_agent, tmp_path):
    (tmp_path / "agent.py").write_text("def run(): return {'n': 1}")
    assert run_agent(tmp_path / "agent.py").check() == {"n": 1}

def test_it_shows_the_agents_line(run_agent):
    run_agent("""
        def run():
            return {}["missing"]
    """).check()
'''


@pytest.fixture
def pytest_run(tmp_path: Path) -> Any:
    def run(tests: str, *args: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_agents.py").write_text(tests)
        environ = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "PYTEST_ADDOPTS")}
        environ |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        full = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "sandbox.pytest_plugin",
            "-W",
            "error",
            "-q",
            "--basetemp",
            "base",
            *args,
        ]
        return subprocess.run(full, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=55, check=False)

    return run


def test_fixtures(pytest_run: Any) -> None:
    done = pytest_run(TESTS)
    assert "1 failed, 4 passed" in done.stdout, done.stdout + done.stderr
    assert "Agent 'agent' raised KeyError: 'missing'" in done.stdout


def test_failure_shows_the_agent_line(pytest_run: Any) -> None:
    done = pytest_run(TESTS, "-k", "shows")
    assert 'return {}["missing"]' in done.stdout
    assert 'File "<agent>", line 3, in run' in done.stdout


def test_server_can_be_overridden(pytest_run: Any, server_url: str) -> None:
    override = f"import pytest\n@pytest.fixture(scope='session')\ndef data_store_url(): return {server_url!r}\n"
    done = pytest_run(f"{override}\ndef test_it(data_store): assert data_store.url == {server_url!r}\n")
    assert "1 passed" in done.stdout, done.stdout


def test_plugin_is_an_entry_point_with_documented_fixtures() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"agent_data_store": "sandbox.pytest_plugin"}
    for name in pytest_plugin.__all__:
        assert getattr(pytest_plugin, name).__doc__
        assert name in (pytest_plugin.__doc__ or "") or name == "data_store_user"
