"""What the host passes wrongly is refused at once, before any process is started."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path
from typing import Any

import pytest

import redis_store
import sandbox

AGENT = "def run(input_dict, tools):\n    return {}\n"


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)


def circular() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["self"] = found
    return found


@pytest.mark.parametrize(
    ("input_dict", "expected"),
    [
        (None, "input_dict must be a dict, not NoneType"),
        ([], "input_dict must be a dict, not list"),
        ("{}", "input_dict must be a dict, not str"),
        ({"a": [1, {2}]}, 'input_dict["a"][1] is a set'),
        ({"a": b""}, 'input_dict["a"] is a bytes'),
        ({"a": math.nan}, 'input_dict["a"] is nan'),
        ({(1, 2): 1}, "input_dict has a tuple as a key"),
        ({"\ud800": 1}, "a key of input_dict has a lone surrogate"),
        (circular(), "nested deeper than 128 levels"),
    ],
)
def test_input_that_is_not_a_json_object(input_dict: Any, expected: str, user: str) -> None:
    with pytest.raises(sandbox.InvalidInput) as caught:
        sandbox.run(AGENT, input_dict, user=user)
    assert expected in str(caught.value)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tools": ["x"]}, "tools must be a dict of callables, not list"),
        ({"tools": {"x": 1}}, "The tool 'x' is a int, which cannot be called"),
        ({"tools": {1: print}}, "The name of a tool must be a str, not int: 1"),
        ({"limits": 5}, "limits must be a sandbox.Limits, not int"),
        ({"on_output": "x"}, "on_output must be a plain function"),
        ({"agent": 7}, "agent must be a str, not int"),
    ],
)
def test_options_that_cannot_be_used(options: Any, expected: str, user: str) -> None:
    with pytest.raises(sandbox.InvalidType) as caught:
        sandbox.run(AGENT, {}, user=user, **options)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"timeout_s": 0},
        {"timeout_s": -1},
        {"timeout_s": math.nan},
        {"timeout_s": math.inf},
        {"timeout_s": "5"},
        {"timeout_s": True},
        {"output_bytes": 0},
        {"output_bytes": 1.5},
        {"result_bytes": -1},
        {"operations": None},
        {"frame_bytes": 10},
        {"frame_bytes": 2**40},
    ],
)
def test_nonsense_limits(values: Any) -> None:
    with pytest.raises(sandbox.InvalidInput, match=f"Limits.{next(iter(values))}"):
        sandbox.Limits(**values)


def test_a_file_that_is_missing(tmp_path: Path, user: str) -> None:
    missing = tmp_path / "missing.py"
    for way in (missing, str(missing)):
        with pytest.raises(FileNotFoundError, match=r"missing\.py") as caught:
            sandbox.run(way, {}, user=user)
        assert isinstance(caught.value, sandbox.InvalidInput)
    with pytest.raises(sandbox.InvalidInput, match="is a folder"):
        sandbox.run(tmp_path, {}, user=user)
    with pytest.raises(sandbox.InvalidInput):
        sandbox.run("a\0b", {}, user=user)


@pytest.mark.parametrize("source", ["", "   ", 5, None, b"def run(): pass"])
def test_what_is_neither_source_nor_path(source: Any, user: str) -> None:
    with pytest.raises(sandbox.InvalidInput):
        sandbox.run(source, {}, user=user)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"user": ""}, redis_store.InvalidName),
        ({"user": 5}, redis_store.InvalidType),
        ({"user": "a", "namespace": ""}, redis_store.InvalidName),
        ({"user": "a", "url": "http://x"}, redis_store.InvalidSettings),
        ({"user": "a", "agent": "x" * 300}, redis_store.LimitExceeded),
    ],
)
def test_names_that_the_store_refuses(options: Any, kind: Any, server_url: str) -> None:
    with pytest.raises(kind):
        sandbox.run(AGENT, {}, **{"url": server_url, **options})


def test_input_and_source_over_the_frame_limit(user: str) -> None:
    with pytest.raises(sandbox.InvalidInput, match="frame_bytes"):
        sandbox.run(AGENT, {"a": "x" * 100_000}, user=user, limits=sandbox.Limits(frame_bytes=65536))
