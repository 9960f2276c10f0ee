"""Wrong arguments from the host are refused at once, before any process is started."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import redis_store
import sandbox
from sandbox.given.sources import read_source

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
        (circular(), "nested deeper than 254 levels"),
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
        ({"tools": {"x": 1}}, "The tool 'x' is an int, which cannot be called"),
        ({"tools": {1: print}}, "The name of a tool must be a str, not int: 1"),
        ({"limits": 5}, "limits must be a sandbox.Limits, not int"),
        ({"on_output": "x"}, "on_output must be a plain function"),
        ({"agent": 7}, "agent must be a str, not int"),
        ({"agents": 5}, "agents must be a dict of names and sources or paths, or the Path of a folder, not int"),
        ({"permissions": ["read"]}, "permissions must be a sandbox.Permissions, not list"),
    ],
)
def test_invalid_options(options: Any, expected: str, user: str) -> None:
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
        {"bytes_written": 0},
        {"tool_calls": -5},
        {"nested_depth": 0},
        {"nested_depth": 1000},
        {"nested_runs": 1.5},
        {"nested_at_once": 0},
        {"nested_at_once": 10_000},
        {"timeline": 0},
        {"timeline": "many"},
    ],
)
def test_invalid_limits(values: Any) -> None:
    with pytest.raises(sandbox.InvalidInput, match=f"Limits.{next(iter(values))}"):
        sandbox.Limits(**values)


def test_missing_file(tmp_path: Path, user: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.py") as caught:
        sandbox.run(tmp_path / "missing.py", {}, user=user)
    assert isinstance(caught.value, sandbox.InvalidInput)
    with pytest.raises(sandbox.InvalidInput, match="is a folder"):
        sandbox.run(tmp_path, {}, user=user)


@contextmanager
def no_file_is_looked_at() -> Iterator[None]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a file was looked at")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("open", "stat", "lstat", "scandir", "listdir", "access"):
            patch.setattr(os, name, refuse)
        for name in ("open", "read_bytes", "stat", "is_file", "exists", "iterdir"):
            patch.setattr(Path, name, refuse)
        yield


PATHS_AS_TEXT = [
    "agents/search.py",
    "agent.PY",
    "def run.py",
    "my agents/(old) search=1.py",
    "~/agents/search",
    "~",
    "/etc/shadow",
    "./x (1)",
    "../secrets.env\n",
    " secrets.env ",
    "agents/search engine",
    "C:\\agents\\search",
    "search",
    "a\0b",
]


@pytest.mark.parametrize("text", PATHS_AS_TEXT)
def test_text_that_looks_like_a_path_is_refused_unread(text: str, user: str) -> None:
    for start in (
        lambda: sandbox.run(text, {}, user=user),
        lambda: asyncio.run(sandbox.Sandbox().arun(text, {}, user=user)),
        lambda: sandbox.Sandbox().start(text, {}, user=user),
        lambda: sandbox.Sandbox(agents={"child": text}),
        lambda: sandbox.Sandbox(agents=text),  # type: ignore[arg-type]
        lambda: sandbox.on_change(text, user=user),
    ):
        with (
            pytest.raises(sandbox.InvalidInput, match=r"pass a (file|folder) as Path\("),
            no_file_is_looked_at(),
        ):
            start()


@pytest.mark.parametrize(
    "text",
    [
        "def run(): return {}",
        "run = lambda: {}",
        "run=dict",
        "from helpers import run",
        "import helpers as run",
        "x = 1; exec('def run(): return {}')",
        "# agents/search.py\n/etc/shadow",
    ],
)
def test_other_text_is_source(text: str) -> None:
    source = read_source(text)
    assert (source.text, source.filename, source.is_file) == (text.encode(), "<agent>", False)


def test_source_is_named_like_a_file_and_is_not_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "def run(): return {}"
    (tmp_path / text).write_text("secret")
    assert read_source(text).text == text.encode()
    assert read_source(Path(text)).text == b"secret"


def test_path_of_bytes_is_refused(user: str) -> None:
    class Odd:
        def __fspath__(self) -> bytes:
            return b"agent.py"

    odd: Any = Odd()
    for start in (lambda: sandbox.run(odd, {}, user=user), lambda: sandbox.Sandbox(agents=odd)):
        with pytest.raises(sandbox.InvalidType, match=r"pass a pathlib\.Path"):
            start()


@pytest.mark.parametrize("source", ["", "   ", 5, None, b"def run(): pass"])
def test_rejects_source_that_is_neither_text_nor_path(source: Any, user: str) -> None:
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
def test_names_refused_by_the_store(options: Any, kind: Any, server_url: str) -> None:
    with pytest.raises(kind):
        sandbox.run(AGENT, {}, **{"url": server_url, **options})


def test_input_and_source_over_the_frame_limit(user: str) -> None:
    with pytest.raises(sandbox.InvalidInput, match="frame_bytes"):
        sandbox.run(AGENT, {"a": "x" * 100_000}, user=user, limits=sandbox.Limits(frame_bytes=65536))


def test_unknown_options_and_limits(user: str) -> None:
    unknown: Any = {"permission": None}
    with sandbox.Sandbox() as box:
        for blocking in (sandbox.run, box.run, box.start):
            with pytest.raises(TypeError, match="permission"):
                blocking(AGENT, {}, user=user, **unknown)
        for asynchronous in (sandbox.arun, box.arun):
            with pytest.raises(TypeError, match="permission"):
                asyncio.run(asynchronous(AGENT, {}, user=user, **unknown))
    with pytest.raises(TypeError, match="permission"):
        sandbox.Sandbox(**unknown)
    with pytest.raises(TypeError, match="permission"):
        sandbox.on_change(AGENT, user=user, **unknown)
    with pytest.raises(TypeError, match="There is no option 'permission': did you mean 'permissions'"):
        sandbox.run(AGENT, {}, user=user, permission=None)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="There is no option 'concurrency'"):
        sandbox.run(AGENT, {}, user=user, concurrency=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="user"):
        sandbox.run(AGENT, {})  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="There is no option 'operation': did you mean 'operations'"):
        sandbox.Limits(operation=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="There is no option 'reads': did you mean 'read'"):
        sandbox.Permissions(reads=["a"])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="There is no option 'prefx': did you mean 'prefix'"):
        sandbox.on_change(AGENT, user=user, prefx="a")  # type: ignore[call-arg]


def test_options_of_another_function_are_explained() -> None:
    with pytest.raises(TypeError, match=r"'timeout': pass limits=sandbox\.Limits\(timeout_s=\.\.\.\)"):
        sandbox.run(AGENT, {}, user="alice", timeout=5)  # type: ignore[call-arg]
    with pytest.raises(
        TypeError, match=r"'user': it belongs to one run: .* There are 'concurrency', 'broker', 'url', "
    ):
        sandbox.Sandbox(user="alice")  # type: ignore[call-arg]
    with (
        sandbox.Sandbox() as box,
        pytest.raises(TypeError, match=r"'tools': all runs .* pass it to sandbox\.Sandbox\("),
    ):
        box.run(AGENT, {}, user="alice", tools={})  # type: ignore[call-arg]


def test_logger_is_silent_until_configured() -> None:
    handlers = logging.getLogger("sandbox").handlers
    assert [type(handler) for handler in handlers] == [logging.NullHandler]


def test_run_arun_and_a_sandbox_take_the_same_options() -> None:
    def options(function: Any) -> dict[str, Any]:
        return {name: (one.kind, one.default) for name, one in inspect.signature(function).parameters.items()}

    of_run = options(sandbox.run)
    assert options(sandbox.arun) == of_run
    for name in ("run", "arun", "start"):
        of_method = options(getattr(sandbox.Sandbox, name))
        del of_method["self"]
        assert of_method.items() <= of_run.items()
        shared = options(sandbox.Sandbox)
        del shared["concurrency"], shared["broker"]
        assert of_run == {**of_method, **shared}
