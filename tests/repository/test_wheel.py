"""The wheel contains everything that the packages need at run time, and it works from there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

USE = """
import sys
from pathlib import Path
import redis_store, sandbox
from redis_store import scripts
assert Path(redis_store.__file__).is_relative_to({folder!r}), redis_store.__file__
import redis
with redis.Redis.from_url({url!r}) as raw:
    found = {{name: value for name, value in vars(scripts).items() if isinstance(value, scripts.Script)}}
    for script in found.values():
        assert raw.script_load(script.text).encode() == script.sha
with redis_store.connect({url!r}, user="wheel") as store:
    store.set("key", [1], metadata={{"m": 1}})
    store.set_many({{"a": 1}})
    assert store.get_all() == {{"key": [1], "a": 1}} and store.info("key").metadata == {{"m": 1}}
    assert list(store.iter_keys()) and store.list_namespaces() == ["default"]
    assert store.clear() == 2
print(len(found))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    if importlib.util.find_spec("hatchling"):
        command.insert(-1, "--no-build-isolation")
    subprocess.run(command, check=True, capture_output=True, timeout=55)
    [built] = folder.glob("agent_data_store-*.whl")
    return built


def test_wheel_is_complete(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    wanted = {
        str(path.relative_to(ROOT))
        for package in ("redis_store", "sandbox")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix in (".py", ".lua", ".typed")
    }
    assert len([name for name in wanted if name.endswith(".lua")]) >= 9
    assert {"redis_store/py.typed", "sandbox/py.typed"} <= wanted
    assert wanted - inside == set()
    assert not [name for name in inside if name.startswith(("tests", "benchmarks", "examples"))]


def test_wheel_works(wheel: Path, tmp_path: Path, server_url: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    lua = {path.stem for path in (tmp_path / "redis_store/scripts").glob("*.lua")}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{USE.format(folder=str(tmp_path), url=server_url)}",
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 9
    assert len(lua) >= int(done.stdout)
