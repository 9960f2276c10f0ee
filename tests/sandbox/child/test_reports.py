"""Errors on their way out of an agent's process and into it: their classes, and the size of their tracebacks."""

from __future__ import annotations

import json
import sys
from traceback import FrameSummary
from typing import Any

import pytest

import sandbox
from sandbox.child.functions import of_both_kinds
from sandbox.child.reports import Reports
from sandbox.errors import ToolError, builtin_bases


class Missing(KeyError):
    pass


def fail_with(kind: str) -> None:
    if kind == "json":
        json.loads("{")
    if kind == "unicode":
        b"\xff".decode()
    raise {"missing": Missing("x"), "own": sandbox.SandboxError("y"), "over": StopIteration()}[kind]


@pytest.mark.parametrize(
    ("kind", "caught", "is_async"),
    [
        ("json", "ValueError", False),
        ("unicode", "UnicodeError", False),
        ("missing", "LookupError", False),
        ("missing", "LookupError", True),
        ("own", "Exception", False),
        ("over", "Exception", False),
    ],
)
def test_the_error_of_a_tool_has_its_nearest_builtin_class(run: Any, kind: str, caught: str, is_async: bool) -> None:
    async def awaited(kind: str) -> None:
        fail_with(kind)

    source = f"""
        import inspect
        from sandbox.errors import ToolError
        async def run(input_dict, tools):
            try:
                answer = tools["fail"]({kind!r})
                if inspect.isawaitable(answer):
                    await answer
            except {caught} as error:
                return {{"tool": isinstance(error, ToolError), "stop": isinstance(error, StopIteration), "text": str(error)}}
    """
    output = run(source, tools={"fail": awaited if is_async else fail_with}).check()
    assert output["tool"]
    assert not output["stop"]
    assert output["text"].startswith({"missing": "Missing: 'x'", "over": "StopIteration"}.get(kind, ""))


def test_classes_that_cannot_be_made_are_passed_over() -> None:
    error = of_both_kinds(ToolError, "ToolError", builtin_bases(UnicodeDecodeError), "text")
    assert isinstance(error, UnicodeError)
    assert not isinstance(error, UnicodeDecodeError)
    assert (
        type(of_both_kinds(ToolError, "ToolError", ["print", "nothing", "SystemExit", "StopIteration"], "text"))
        is ToolError
    )


def deep(levels: int) -> Exception:
    def down(left: int) -> float:
        return down(left - 1) if left else 1 / 0

    before = sys.getrecursionlimit()
    sys.setrecursionlimit(levels + 1000)
    try:
        down(levels)
    except ZeroDivisionError as error:
        return error
    finally:
        sys.setrecursionlimit(before)
    raise AssertionError


def test_a_deep_traceback_is_cut_before_it_becomes_text(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    add_frame = FrameSummary.__init__

    def note(self: FrameSummary, *args: Any, **named: Any) -> None:
        made.append(self)
        add_frame(self, *args, **named)

    monkeypatch.setattr(FrameSummary, "__init__", note)
    kind, name, message, bases, text = Reports("agent", []).raised(deep(20_000))
    assert 100 <= len(made) <= 200
    assert (kind, name, message) == ("raised", "ZeroDivisionError", "division by zero")
    assert bases == "ZeroDivisionError ArithmeticError Exception"
    assert "in deep" in str(text)
    assert "1 / 0" in str(text)


def test_a_long_chain_and_a_group_in_a_circle_are_cut() -> None:
    error: BaseException = ValueError(0)
    for number in range(1, 5000):
        after = ValueError(number)
        after.__cause__ = error
        error = after
    *_, text = Reports("agent", []).raised(error)
    assert "ValueError: 4999" in str(text)
    assert str(text).count("direct cause") <= 101
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__context__ = second, first
    *_, text = Reports("agent", []).raised(first)
    assert "ValueError: first" in str(text)
