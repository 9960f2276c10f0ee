"""Whatever an agent does, its run ends soon, with a named error and without traces of the sandbox's own code."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import sandbox

pytestmark = pytest.mark.usefixtures("nothing_left")

ROOT = str(Path(sandbox.__file__).parent.parent)


def failure(result: sandbox.RunResult) -> Any:
    """Return the error of a run, after checking that it shows none of the sandbox's own code."""
    assert result.output is None
    assert result.error is not None
    shown = f"{result.error} {getattr(result.error, 'traceback', '')} {getattr(result.error, 'details', '')} {result.stdout}"
    for ours in (ROOT + "/sandbox", ROOT + "/redis_store", "boot.py", "runpy"):
        assert ours not in shown
    return result.error


def test_traceback_shows_only_agent_code(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "failing.py"
    path.write_text(
        textwrap.dedent(
            """\
            import json

            def parse(text):
                return json.loads(text)

            async def step(text):
                try:
                    return parse(text)
                except ValueError as error:
                    raise RuntimeError(f"cannot read {text!r}") from error

            async def run(input_dict, tools):
                return await step("{")
            """
        )
    )
    error = failure(run(path))
    assert isinstance(error, sandbox.AgentRaised)
    assert (error.type_name, error.message) == ("RuntimeError", "cannot read '{'")
    lines = error.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == f'  File "{path}", line 8, in step'
    assert lines[2] == "    return parse(text)"
    assert "The above exception was the direct cause of the following exception:" in lines
    assert f'  File "{path}", line 13, in run' in lines
    assert '    return await step("{")' in lines
    assert lines[-1] == "RuntimeError: cannot read '{'"


def test_traceback_leaves_out_the_standard_library(run: Any) -> None:
    error = failure(run("def run():\n    return json.loads('{')"))
    assert isinstance(error, sandbox.AgentRaised)
    assert [line for line in error.traceback.splitlines() if line.startswith("  File")] == [
        '  File "<agent>", line 2, in run'
    ]


def test_refused_coroutine_is_told_once(run: Any) -> None:
    for returned in ("f()", "[f()]", "{'a': f()}"):
        result = run(f"async def f(): return 1\nasync def run(): return {returned}")
        assert "a coroutine: write await" in str(result.error) or "is a list" in str(result.error)
        assert (result.stdout, result.hints) == ("", [])


def test_traceback_of_a_store_error(run: Any) -> None:
    error = failure(run("def run():\n    data_store.set('k', {'a': [1, {2}]})\n"))
    assert error.type_name == "InvalidValue"
    assert error.message.startswith('value["a"][1] is a set')
    assert error.traceback.splitlines()[:3] == [
        "Traceback (most recent call last):",
        '  File "<agent>", line 2, in run',
        "    data_store.set('k', {'a': [1, {2}]})",
    ]
    assert len(error.traceback.splitlines()) <= 5


def test_traceback_of_a_module_level_error(run: Any) -> None:
    error = failure(run("import json\njson.loads('[')\ndef run(): pass\n"))
    assert error.traceback.splitlines()[1] == '  File "<agent>", line 2, in <module>'
    assert "decoder.py" not in error.traceback


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("raise KeyError('x')", "KeyError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise asyncio.CancelledError", "CancelledError"),
        ("raise StopIteration", "RuntimeError"),
        ("raise BaseException('x')", "BaseException"),
        ("raise ExceptionGroup('many', [ValueError(1), TypeError(2)])", "ExceptionGroup"),
        ("f = lambda: f(); f()", "RecursionError"),
        ("raise type('Odd', (Exception,), {'__str__': lambda s: 1/0})", "Odd"),
        ("raise ValueError('\\ud800')", "ValueError"),
        ("raise ValueError('x' * 10_000_000)", "ValueError"),
        ("assert False", "AssertionError"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("input()", "EOFError"),
        ("await data_store.get('x')", "InvalidType"),
    ],
)
def test_exceptions_of_every_kind(run: Any, body: str, name: str) -> None:
    error = failure(run(f"async def run(input_dict, tools):\n    {body}\n"))
    assert isinstance(error, sandbox.AgentRaised)
    assert error.type_name == name
    assert 'File "<agent>", line 2' in error.traceback


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("class Kind(type): __name__ = property(lambda c: 1 / 0)\n    raise Kind('Odd', (Exception,), {})", "Odd"),
        (
            "class Text(str): __len__ = lambda s: 1 / 0\n    class Odd(Exception): __str__ = lambda e: Text('x')\n    raise Odd",
            "Odd",
        ),
        ("class Exit(SystemExit): code = property(lambda e: 1 / 0)\n    raise Exit", "ZeroDivisionError"),
    ],
)
def test_exceptions_that_cannot_be_described(run: Any, body: str, name: str) -> None:
    error = failure(run(f"def run(input_dict, tools):\n    {body}\n"))
    assert isinstance(error, sandbox.AgentRaised)
    assert error.type_name == name


@pytest.mark.parametrize("what", ["del sys.stdout, sys.stderr", "sys.stdout.close(); sys.stderr = None"])
def test_result_of_an_agent_without_streams(run: Any, what: str) -> None:
    assert run(f"import sys\ndef run():\n    {what}\n    return {{'n': 1}}\n").check() == {"n": 1}


def test_exit_with_an_object_without_a_text(run: Any) -> None:
    error = failure(run("def run():\n    raise SystemExit(type('Odd', (), {'__str__': lambda s: 1 / 0})())\n"))
    assert isinstance(error, sandbox.AgentExited)
    assert error.code == 1


def test_long_chain_of_causes(run: Any) -> None:
    error = failure(
        run(
            """
            def run():
                error = None
                for n in range(5000):
                    try:
                        raise ValueError(n) from error
                    except ValueError as caught:
                        error = caught
                raise error
            """
        )
    )
    assert error.type_name == "ValueError"


@pytest.mark.parametrize(
    ("source", "message", "details"),
    [
        ("def run(:\n    pass\n", "does not compile: invalid syntax (line 1)", "def run(:\n            ^"),
        ("def run():\n    return {\n", "does not compile: '{' was never closed (line 2)", "return {"),
        ("def run():\n  x = 1\n    y = 2\n", "unexpected indent (line 3)", "y = 2"),
        ("return {}\ndef run(): pass\n", "'return' outside function (line 1)", "return {}"),
        ("x = 1\n", "has no function 'run'", ""),
        ("run = 5\n", "has a 'run' that is an int", ""),
        ("run = None\n", "has no function 'run'", ""),
        ("def run(): pass\n\0", "does not compile", "null bytes"),
        ("def run(): " + "(" * 10_000 + "\n", "does not compile", ""),
        ("def run(): return {'\ud800': 1}\n", "does not compile", "utf-8"),
    ],
)
def test_invalid_agent_source(run: Any, source: str, message: str, details: str) -> None:
    error = failure(run(source))
    assert isinstance(error, sandbox.InvalidAgent)
    assert message in str(error)
    assert details in error.details


def test_file_that_is_not_utf8(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "latin.py"
    path.write_bytes(b"x = '\xe9'\ndef run(): return {'x': x}\n")
    error = failure(run(path))
    assert isinstance(error, sandbox.InvalidAgent)
    assert "utf-8" in error.details
    path.write_bytes(b"# -*- coding: latin-1 -*-\nx = '\xe9'\ndef run(): return {'x': x}\n")
    assert run(path).check() == {"x": "é"}


@pytest.mark.parametrize(
    ("value", "message", "path"),
    [
        ("None", "run returned nothing: return a dict", "result"),
        ("[1]", "result is a list: return a dict", "result"),
        ("(x for x in [])", "result is a generator", "result"),
        ("{'a': [1, {'b': {2}}]}", 'result["a"][1]["b"] is a set', 'result["a"][1]["b"]'),
        ("{'a': float('nan')}", 'result["a"] is nan', 'result["a"]'),
        ("{'a': data_store}", 'result["a"] is a DataStore', 'result["a"]'),
        ("{'a': '\\ud800'}", 'result["a"] has a lone surrogate', 'result["a"]'),
        ("{'a': json}", 'result["a"] is a module', 'result["a"]'),
    ],
)
def test_results_that_are_not_json_objects(run: Any, value: str, message: str, path: str) -> None:
    error = failure(run(f"async def run(input_dict, tools): return {value}"))
    assert isinstance(error, sandbox.InvalidResult)
    assert isinstance(error, TypeError)
    assert message in str(error)
    assert error.path == path


def test_circular_result(run: Any) -> None:
    error = failure(run("def run():\n    d = {}\n    d['d'] = d\n    return d\n"))
    assert isinstance(error, sandbox.InvalidResult)
    assert "deeper than 254 levels" in str(error)


def test_result_over_the_limit(run: Any) -> None:
    limits = sandbox.Limits(result_bytes=1000)
    error = failure(run("def run(): return {'x': 'y' * 2000}", limits=limits))
    assert isinstance(error, sandbox.ResultLimitExceeded)
    assert (error.limit, error.value) == ("result_bytes", 1000)
    assert run("def run(): return {'x': 'y' * 990}", limits=limits).check()


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("sys.exit()", 0, "sys.exit with code 0"),
        ("sys.exit(3)", 3, "sys.exit with code 3"),
        ("sys.exit('bye')", 1, "'bye'"),
        ("raise SystemExit(4)", 4, "sys.exit with code 4"),
        ("os._exit(5)", 5, "ended its process with exit code 5"),
        ("os._exit(0)", 0, "ended its process with exit code 0"),
        ("asyncio.create_task(leave()); await asyncio.sleep(60)", 6, "sys.exit with code 6"),
    ],
)
def test_agent_that_exits(run: Any, body: str, code: int, said: str) -> None:
    source = f"import os, sys\nasync def leave(): sys.exit(6)\nasync def run(input_dict, tools):\n    {body}\n"
    result = run(source)
    error = failure(result)
    assert isinstance(error, sandbox.AgentExited)
    assert error.code == code
    assert said in str(error)
    assert result.stdout == ""


def test_module_level_exit(run: Any) -> None:
    error = failure(run("import sys\nsys.exit(2)\ndef run(): pass\n"))
    assert isinstance(error, sandbox.AgentExited)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("os.abort()", "SIGABRT"),
        ("signal.setitimer(signal.ITIMER_REAL, 0.01); signal.pause()", "SIGALRM"),
    ],
)
def test_agent_that_crashes(run: Any, body: str, name: str) -> None:
    source = f"import os, signal\ndef run():\n    print('before')\n    {body}\n"
    error = failure(run(source, isolation=sandbox.isolation.UNSAFE))
    assert isinstance(error, sandbox.AgentCrashed)
    assert error.signal == name
    assert name in str(error)


def test_agent_that_crashes_in_isolation(run: Any) -> None:
    """As process 1 of its namespace, the agent gets only signals that it handles; `os.abort` then ends it by a fault."""
    error = failure(run("import ctypes\ndef run(): ctypes.string_at(0)\n"))
    assert isinstance(error, sandbox.AgentCrashed)
    assert error.signal == "SIGSEGV"
    assert isinstance(failure(run("import os\ndef run(): os.abort()\n")), sandbox.AgentCrashed)


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "await asyncio.sleep(1000)",
        "time.sleep(1000)",
        "sum(range(10**15))",
        "'a' * 30 + 'b'; re.match('(a+)+$', 'a' * 40 + 'b')",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()",
        "threading.Lock().acquire() and threading.Event().wait()",
        "\n    while True:\n        try:\n            await asyncio.sleep(1000)\n        except BaseException: pass",
    ],
)
def test_agent_that_does_not_end(run: Any, body: str) -> None:
    start = time.monotonic()
    result = run(
        f"import signal, threading, time\nasync def run(input_dict, tools):\n    print('began', flush=True)\n    {body}\n",
        limits=sandbox.Limits(timeout_s=0.3),
    )
    error = failure(result)
    assert isinstance(error, sandbox.TimeLimitExceeded)
    assert isinstance(error, TimeoutError)
    assert "0.3 s" in str(error)
    assert result.stdout in ("began\n", "")
    assert time.monotonic() - start < 5


def test_agent_with_leftovers_ends_in_time(run: Any) -> None:
    source = """
        import subprocess, sys, threading, time
        async def run(input_dict, tools):
            threading.Thread(target=time.sleep, args=(1000,)).start()
            asyncio.get_running_loop().run_in_executor(None, time.sleep, 1000)
            asyncio.create_task(asyncio.sleep(1000))
            left = [
                subprocess.Popen(["/bin/sleep", "1000"]),
                subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True),
                subprocess.Popen(["/bin/sh", "-c", "sleep 1000 & sleep 1000"]),
            ]
            return {"pids": [process.pid for process in left]}
        """
    start = time.monotonic()
    result = run(source, isolation=sandbox.isolation.UNSAFE)
    assert len(result.check()["pids"]) == 3
    assert time.monotonic() - start < 5
    for pid in result.check()["pids"]:
        assert not Path(f"/proc/{pid}/cmdline").exists() or b"sleep" not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_leftover_tasks_can_clean_up(run: Any, store: Any) -> None:
    run(
        """
        async def worker():
            try:
                await asyncio.sleep(1000)
            finally:
                data_store.set("cleaned", True)

        async def run(input_dict, tools):
            asyncio.create_task(worker())
            await asyncio.sleep(0)
            return {}
        """
    ).check()
    assert store.get("cleaned") is True


def test_fork_that_returns_is_not_the_agent(run: Any) -> None:
    result = run(
        """
        import os
        def run():
            pid = os.fork()
            if pid == 0:
                try:
                    data_store.set("from", "fork")
                except ConnectionError as error:
                    print("refused:", error)
                return {"who": "fork"}
            os.waitpid(pid, 0)
            data_store.set("from", "parent")
            return {"who": "parent", "from": data_store.get("from")}
        """,
        isolation=sandbox.isolation.UNSAFE,
    )
    assert result.check() == {"who": "parent", "from": "parent"}
    assert "refused:" in result.stdout


@pytest.mark.parametrize("what", ["1, 3", "0, 3", "3, 1000", "0, 1000"])
def test_agent_that_closes_descriptors(run: Any, what: str) -> None:
    result = run(
        f"import os\ndef run():\n    os.closerange({what})\n    data_store.set('k', 1)\n    return {{'ok': 1}}\n"
    )
    if what.endswith("1000"):
        assert isinstance(result.error, (sandbox.AgentRaised, sandbox.ProtocolViolation, sandbox.AgentExited))
        failure(result)
    else:
        assert result.check() == {"ok": 1}


def test_output_over_the_limit(run: Any) -> None:
    result = run(
        "def run():\n    while True:\n        print('x' * 10_000)\n", limits=sandbox.Limits(output_bytes=100_000)
    )
    error = failure(result)
    assert isinstance(error, sandbox.OutputLimitExceeded)
    assert (error.limit, error.value) == ("output_bytes", 100_000)
    assert len(result.stdout) == 100_000


def test_output_of_100_megabytes(run: Any) -> None:
    result = run("def run():\n    print('x' * 100_000_000)\n    return {}\n")
    assert isinstance(failure(result), sandbox.OutputLimitExceeded)
    assert len(result.stdout) == 10 * 1024 * 1024


def test_operations_over_the_limit(run: Any) -> None:
    result = run(
        """
        def run():
            while True:
                try:
                    data_store.get("k")
                except BaseException:
                    pass
        """,
        limits=sandbox.Limits(operations=10),
    )
    error = failure(result)
    assert isinstance(error, sandbox.OperationLimitExceeded)
    assert (error.limit, error.value) == ("operations", 10)
    assert len(result.operations) == 10
