"""The pytest plugin as documented, in a separate pytest process."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import redis_store
from redis_store import testing
from redis_store.testing import fixtures

ROOT = Path(redis_store.__file__).parent.parent

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
    def run(tests: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_agents.py").write_text(tests)
        environ = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "PYTEST_ADDOPTS")}
        environ |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment}
        full = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "redis_store.testing",
            "-W",
            "error",
            "-q",
            "--basetemp",
            "base",
            *args,
        ]
        return subprocess.run(full, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=55, check=False)

    return run


def override(url: str) -> str:
    return f"import pytest\n@pytest.fixture(scope='session')\ndef data_store_url(): return {url!r}\n"


def test_fixtures(pytest_run: Any) -> None:
    done = pytest_run(TESTS)
    assert "1 failed, 4 passed" in done.stdout, done.stdout + done.stderr
    assert "Agent 'agent' raised KeyError: 'missing'" in done.stdout
    assert 'return {}["missing"]' in done.stdout
    assert 'File "<agent>", line 3, in run' in done.stdout


def test_server_can_be_overridden_and_bubblewrap_be_missing(pytest_run: Any, server_url: str) -> None:
    tests = f"""
def test_store(data_store): assert data_store.url == {server_url!r}
def test_agent(run_agent): assert run_agent("def run(): return {{'n': 1}}").check() == {{"n": 1}}
"""
    done = pytest_run(f"{override(server_url)}\n{tests}", PATH="/nowhere")
    assert "2 passed" in done.stdout, done.stdout


OWN_FOLDERS = """
import sandbox, tests.helpers

def test_own_folders():
    assert (sandbox.MINE, tests.helpers.MINE) == (1, 2)

def test_data_store(data_store):
    data_store.set("k", 1)

def test_run_agent(run_agent):
    run_agent("def run(): return {}")
"""


def test_project_may_have_folders_of_the_same_names(pytest_run: Any, tmp_path: Path, server_url: str) -> None:
    for name, text in {
        "sandbox/__init__.py": "MINE = 1\n",
        "tests/__init__.py": "",
        "tests/helpers.py": "MINE = 2\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    done = pytest_run(f"{override(server_url)}\n{OWN_FOLDERS}")
    assert "2 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert f"`import sandbox` finds {tmp_path / 'sandbox' / '__init__.py'} instead of" in done.stdout
    assert "Traceback" not in done.stdout


NOTHING_THERE = """
import sys

def test_loads_nothing_for_fixtures_that_are_not_used():
    assert not {"sandbox", "redis_store.server.host", "typer"} & set(sys.modules)

def test_data_store(monkeypatch, request):
    from redis_store.server import binary

    monkeypatch.setattr(binary, "candidate_paths", lambda: iter(()))
    request.getfixturevalue("data_store")
"""


def test_without_a_server_program_only_its_users_fail(pytest_run: Any) -> None:
    done = pytest_run(NOTHING_THERE)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "there is no server program on this machine" in done.stdout
    assert "override the fixture data_store_url" in done.stdout
    assert "fixtures.py" not in done.stdout


def test_older_name_of_the_plugin_has_the_same_fixtures() -> None:
    from sandbox import pytest_plugin

    assert all(getattr(pytest_plugin, name) is getattr(testing, name) for name in testing.__all__)


def test_plugin_is_an_entry_point_with_documented_fixtures() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"agent_data_store": "redis_store.testing"}
    for name in testing.__all__:
        assert getattr(testing, name).__doc__
        assert name in (fixtures.__doc__ or "") or name == "data_store_user"
