"""Importing installed packages of the host's environment in an agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sandbox.given.packages import find_packages

pytestmark = pytest.mark.usefixtures("alone")
"""Each set of packages has its own zygote, which would otherwise stay alive for more runs."""

IMPORTS = """
def run(input_dict):
    import importlib, importlib.metadata
    said = {}
    for name in input_dict["names"]:
        try:
            said[name] = importlib.import_module(name).__name__
        except ImportError as error:
            said[name] = type(error).__name__
    try:
        said["version"] = importlib.metadata.version("orjson")
    except importlib.metadata.PackageNotFoundError:
        said["version"] = None
    return said
"""


def test_no_package_by_default(run: Any) -> None:
    output = run(IMPORTS, {"names": ["orjson", "redis", "yaml", "pytest"]}).check()
    assert output == dict.fromkeys(["orjson", "redis", "yaml", "pytest"], "ModuleNotFoundError") | {"version": None}


def test_packages_come_with_only_their_dependencies(run: Any) -> None:
    import orjson

    output = run(
        IMPORTS,
        {"names": ["orjson", "rich.text", "markdown_it", "pygments", "redis", "pytest"]},
        packages=["rich", "OrJSON"],
    ).check()
    assert output == {
        "orjson": "orjson",
        "rich.text": "rich.text",
        "markdown_it": "markdown_it",
        "pygments": "pygments",
        "redis": "ModuleNotFoundError",
        "pytest": "ModuleNotFoundError",
        "version": orjson.__version__,
    }


def test_extras_of_packages(run: Any) -> None:
    names = {"names": ["redis", "hiredis"]}
    assert run(IMPORTS, names, packages=["redis"]).check()["hiredis"] == "ModuleNotFoundError"
    assert run(IMPORTS, names, packages=["redis[hiredis]"]).check()["hiredis"] == "hiredis"


def test_editable_package(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package installed as a link to a folder, as by `pip install --editable`."""
    (tmp_path / "code" / "linked_one").mkdir(parents=True)
    (tmp_path / "code" / "linked_one" / "__init__.py").write_text("VALUE = 5\n")
    info = tmp_path / "site" / "linked_one-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: linked-one\nVersion: 1.0\n")
    (info / "RECORD").write_text("__editable__.linked_one-1.0.pth,,\nlinked_one-1.0.dist-info/METADATA,,\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    result = run("import linked_one\ndef run(): return {'v': linked_one.VALUE}", packages=["linked-one"])
    assert result.check() == {"v": 5}


def test_a_requirement_for_another_system_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = {
        "asking": ["here; python_version>'3'", "there; python_version<'3'", "more; extra == 'big'", "no such name!"],
        **dict.fromkeys(("here", "there", "more"), ()),
    }
    for name, requires in requirements.items():
        (tmp_path / f"{name}-1.dist-info").mkdir()
        lines = [f"Name: {name}", "Version: 1", *(f"Requires-Dist: {one}" for one in requires)]
        (tmp_path / f"{name}-1.dist-info" / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))
        (tmp_path / f"{name}-1.dist-info" / "RECORD").write_text(f"{name}.py,,\n{name}-1.dist-info/METADATA,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_packages(["asking"]).modules.keys() == {"asking", "here"}
    assert find_packages(["Asking[BIG]"]).modules.keys() == {"asking", "here", "more"}
