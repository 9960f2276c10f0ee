"""The example that calls three tools at once, and the one that has eight agents at work."""

from __future__ import annotations

import importlib
import threading
from typing import Any

import pytest

import sandbox
from tests.repository.examples.conftest import EXAMPLES, RunExample

LIBRARY = importlib.import_module("examples.tools.library")
TEXT = """import os
import json as j


def f(a, n):
    # TODO: name it
    try:
        return j.dumps(a * n)
    except:
        return None


def _long(): return "%s"
""" % ("x" * 120)


def test_three_tools_run_concurrently(run_example: RunExample) -> None:
    barrier = threading.Barrier(3, timeout=30)

    def meeting(answer: Any) -> Any:
        return lambda module: (barrier.wait(), answer)[1]

    tools = {"describe": meeting("d"), "list_names": meeting(["n"]), "count_lines": meeting(3)}
    result = run_example("module_card", {"module": "m"}, **tools)
    card = {"module": "m", "about": "d", "names": ["n"], "lines": 3, "failed": {}}
    assert result.check() == {**card, "source": "tools"}
    assert run_example("module_card", {"module": "m"}, **tools).check() == {**card, "source": "cache"}
    assert {call.name for call in result.calls} == set(tools)


def test_library_tools(run_example: RunExample) -> None:
    card = run_example("module_card", {"module": "json.decoder"}, **LIBRARY.TOOLS).check()
    assert card["names"] == ["JSONDecodeError", "JSONDecoder"]
    assert card["lines"] > 300
    assert card["failed"] == {}
    again = run_example("module_card", {"module": "json.decoder", "refresh": True}, **LIBRARY.TOOLS).check()
    assert again["source"] == "tools"


def test_failing_tool_loses_only_its_own_result(run_example: RunExample) -> None:
    tools = {**LIBRARY.TOOLS, "describe": lambda module: 1 / 0}
    card = run_example("module_card", {"module": "json"}, **tools).check()
    assert card["failed"] == {"describe": "ZeroDivisionError: division by zero"}
    assert card["about"] is None
    assert "JSONDecoder" in card["names"]
    assert run_example("module_card", {"module": "json"}, **LIBRARY.TOOLS).check()["source"] == "tools"


def test_agent_does_not_choose_host_imports(run_example: RunExample) -> None:
    card = run_example("module_card", {"module": "redis_store"}, **LIBRARY.TOOLS).check()
    assert set(card["failed"].values()) == {"LookupError: 'redis_store' is not a module of the standard library"}


@pytest.fixture
def review(server_url: str, user: str) -> Any:
    def call(input_dict: dict[str, Any], **options: Any) -> sandbox.RunResult:
        given = {"agents": EXAMPLES / "reviewers", **options}
        return sandbox.run(EXAMPLES / "review.py", input_dict, user=user, url=server_url, **given)

    return call


def test_eight_agents_review_a_file(review: Any) -> None:
    result = review({"name": "a.py", "text": TEXT})
    report = result.check()
    assert report["reviewers"] == 8
    assert report["failed"] == {}
    assert [(one["line"], one["reviewer"], one["text"]) for one in report["findings"]] == [
        (1, "imports", "os is not used"),
        (5, "docstrings", "f has no docstring"),
        (5, "names", "the parameter a says little"),
        (6, "todos", "put off: name it"),
        (9, "exceptions", "a bare except catches every exception"),
        (13, "lines", "142 characters in a line"),
    ]
    assert len({call.nested_run for call in result.calls}) == 8
    assert {one.agent for one in result.operations} == {"review", *(call.name for call in result.calls)}


def test_syntax_error_is_found_by_one_reviewer_and_fails_the_others(review: Any) -> None:
    report = review({"name": "b.py", "text": "def (:\n"}).check()
    assert [one["reviewer"] for one in report["findings"]] == ["syntax"]
    assert set(report["failed"]) == {"branches", "docstrings", "exceptions", "imports", "names"}
    assert "raised SyntaxError" in report["failed"]["names"]


def test_reports_many_branches(review: Any) -> None:
    text = "def f(n):\n    'Count.'\n" + "    if n: pass\n" * 11
    assert review({"name": "c.py", "text": text}).check()["findings"] == [
        {"line": 1, "text": "f has 11 branches", "reviewer": "branches"}
    ]


@pytest.mark.parametrize(
    ("input_dict", "options", "words"),
    [
        ({}, {}, "what to review"),
        ({"name": "", "text": ""}, {}, "what to review"),
        ({"name": "a.py", "text": 5}, {}, "what to review"),
        ({"name": "a.py", "text": ""}, {"agents": None}, "--agents"),
    ],
)
def test_review_rejects_bad_input(review: Any, input_dict: Any, options: Any, words: str) -> None:
    assert words in review(input_dict, **options).check()["error"]


@pytest.mark.parametrize(
    ("input_dict", "words"), [({}, "module"), ({"module": 5}, "module"), ({"module": "m"}, "tool")]
)
def test_module_card_rejects_bad_input(run_example: RunExample, input_dict: Any, words: str) -> None:
    assert words in run_example("module_card", input_dict).check()["error"]
