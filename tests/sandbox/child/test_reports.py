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
from sandbox.cli.output import explained
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
    kind, name, message, advice, bases, text = Reports("agent", []).raised(deep(20_000))
    assert 100 <= len(made) <= 200
    assert (kind, name, message) == ("raised", "ZeroDivisionError", "division by zero")
    assert advice == ""
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


def test_a_wide_group_is_cut_before_it_becomes_text() -> None:
    """Also one that is a cause, and one in a group; what comes first is kept."""
    wide = ExceptionGroup("wide", [ValueError(number) for number in range(100_000)])
    for error in (wide, ExceptionGroup("around", [KeyError("k"), wide])):
        _, name, message, *_, text = Reports("agent", []).raised(error)
        assert (name, message) == ("ExceptionGroup", str(error))
        assert "ValueError: 0\n" in str(text)
        assert "more exceptions are left out" in str(text)
        assert len(str(text)) < 20_000
    after = RuntimeError("after")
    after.__cause__ = wide
    *_, text = Reports("agent", []).raised(after)
    assert "ValueError: 0\n" in str(text)
    assert "RuntimeError: after" in str(text)
    assert len(str(text)) < 20_000


SLIPS = {
    "def run(): data_store.get_mny(['a'])": "'DataStore' object has no attribute 'get_mny'. Did you mean 'get_many'?",
    "def run():\n    result = 1\n    return reslt": "name 'reslt' is not defined. Did you mean 'result'?",
    "def run(input_dict, tools): tools['fetchh']('x')": "there are: 'fetch'. Did you mean 'fetch'?\"",
    "def run(input_dict, tools): tools.fetch('x')": "tools is a dict: call tools['fetch'](...)",
    "async def run(): await agents.call('serch')": "there are: 'search'. Did you mean 'search'?",
    "from redis_store import connect\ndef run(): pass": "(unknown location). An agent opens no store: it has data_store,"
    " which is open already, without an import.",
    "from redis_store import InvalidNme\ndef run(): pass": "(unknown location). Did you mean 'InvalidName'?",
    "import redis_store\ndef run(): redis_store.connect()": "in an agent: an agent opens no store: it has data_store, which is"
    " open already, without an import",
    "import sandbox\ndef run(): sandbox.run('x')": "in an agent: an agent starts no runs: await agents.call(name, input_dict)"
    " runs another agent",
    "import msgpack\ndef run(): pass": "No module named 'msgpack'. An agent can import the standard library and what the host"
    " gives it: installed packages with packages=[...] (--package NAME), modules of the host with modules={...} (--modules"
    " MODULE:ATTRIBUTE).",
    "def run(): open('data.csv')": "'data.csv'. An agent sees no files beside its own empty folder: pass the content in the"
    " input, give a tool that reads the file, or put the data into data_store.",
    "async def f(): return {}\nasync def run():\n    x = f()\n    x['a']": "object is not subscriptable. Write await before the"
    " call that returned the coroutine.",
    **{
        f"async def f(): return 1\nasync def run():\n    x = f()\n    {slip}": "Write await before the call that returned the"
        " coroutine."
        for slip in (
            "len(x)",
            "'page: ' + x",
            "json.dumps(x)",
            "1 + x",
            "x < 2",
            "'a' in x",
            "''.join([x])",
            "int(x)",
            "x.upper()",
        )
    },
    "async def f(): return 1\nasync def run(): data_store.get_or_set('k', f())": "get_or_set takes a function that computes the"
    " value, not a coroutine: write `lambda: ...` around it.",
    "def page(): return tools['fetch']('x')\ndef run(): page()": "name 'tools' is not defined. tools is an argument of run: pass"
    " it on to this function, or define the function inside run, which sees it.",
    "def run(): data_store.exists('x')": "object has no attribute 'exists'. Write `key in data_store`.",
    "def run(): input()": "reading a line. An agent has no terminal: pass what it asks for in the input.",
    "def run(): return 1 / 0": "ZeroDivisionError: division by zero",
}


@pytest.mark.parametrize("source", SLIPS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_slip_gets_one_sentence_that_helps(run: Any, source: str) -> None:
    result = run(source, tools={"fetch": print}, agents={"search": "def run(): return {}"})
    assert isinstance(result.error, sandbox.AgentRaised)
    assert str(result.error).endswith(SLIPS[source])
    advice = SLIPS[source].rpartition(". ")[2]
    assert (explained(result.error) + "\n").count(advice) == 1


NETWORK = "agents have no network: give the agent a tool"
PROCESSES = "agents start no programs and no processes: use concurrent.futures.ThreadPoolExecutor"
REFUSED = {
    "import urllib.request\ndef run(): urllib.request.urlopen('http://example.com')": ("URLError", NETWORK),
    "import urllib.request\ndef run(): urllib.request.urlopen('http://127.0.0.1')": ("URLError", NETWORK),
    "import socket\ndef run(): socket.socket()": ("PermissionError", NETWORK),
    "import socket\ndef run(): socket.gethostbyname('example.com')": ("gaierror", NETWORK),
    "async def run(): await asyncio.open_connection('127.0.0.1', 80)": ("PermissionError", NETWORK),
    "async def run(): await asyncio.create_subprocess_exec('ls')": ("PermissionError", PROCESSES),
    "import subprocess\ndef run(): subprocess.run('ls', shell=True)": ("PermissionError", PROCESSES),
    "import os\ndef run(): os.system('ls')": ("PermissionError", PROCESSES),
    "import os\ndef run(): os.popen('ls')": ("PermissionError", PROCESSES),
    "import os\ndef run(): os.fork()": ("PermissionError", PROCESSES),
    "import os\ndef run(): os.execvp('ls', ['ls'])": ("PermissionError", PROCESSES),
    "import multiprocessing\ndef run(): multiprocessing.Process(target=print).start()": ("PermissionError", PROCESSES),
    "import multiprocessing\ndef run(): multiprocessing.get_context('spawn').Process(target=print).start()": (
        "PermissionError",
        PROCESSES,
    ),
    "from multiprocessing.pool import ThreadPool\ndef run(): ThreadPool(2)": ("FileNotFoundError", PROCESSES),
}


@pytest.mark.parametrize("source", REFUSED)
def test_a_refusal_says_what_to_do_instead(run: Any, source: str) -> None:
    """Also where the agent catches it; the traceback ends with the agent's own line."""
    name, said = REFUSED[source]
    error = run(source).error
    assert isinstance(error, sandbox.AgentRaised)
    assert error.type_name == name
    assert said in error.message
    assert error.traceback.count("File ") == 1
    assert explained(error).count(said) == 1


@pytest.mark.parametrize("tier", ["restricted", "unsafe-process"])
def test_refusals_of_other_tiers(run: Any, tier: str) -> None:
    source = "import os\ndef run(): return {'code': os.system('exit 3') >> 8}"
    if tier == "unsafe-process":
        assert run(source, isolation=tier).check() == {"code": 3}
    else:
        assert PROCESSES in str(run(source, isolation=tier).error)


def test_msgpack_is_whole_if_it_is_given(run: Any) -> None:
    source = "import msgpack\ndef run(): return msgpack.unpackb(msgpack.packb({'a': [1, 'x', data_store.get('k')]}))"
    assert run(source, packages=["msgpack"]).check() == {"a": [1, "x", None]}
