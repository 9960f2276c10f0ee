"""Everything that an agent is given beside its input: tools with their signatures, globals, modules, environment, packages."""

from __future__ import annotations

import asyncio
import functools
import inspect
import subprocess
import sys
import threading
from typing import Any, Literal

import pytest

import sandbox
from redis_store import DataStore

pytestmark = pytest.mark.usefixtures("nothing_left")


async def fetch(
    url: str, *, retries: int = 3, mode: Literal["a", "b"] = "a", headers: dict[str, str] | None = None
) -> dict[str, Any]:
    """Fetch a page.

    Retries as often as it is told to.
    """
    return {"url": url}


class Client:
    """A client."""

    def __init__(self) -> None:
        self.key = "x"

    def __call__(self, question: str, api_key: str = "sk-abcdefghijklmnopqrstuvwx", limit: Any = object()) -> str:  # noqa: B008
        """Ask."""
        return question


def test_tools_keep_their_signatures_and_docstrings(run: Any) -> None:
    tools = {"fetch": fetch, "ask": Client(), "part": functools.partial(fetch, "u"), "max": max, "upper": str.upper}
    result = run(
        """
        import inspect
        async def run(input_dict, tools):
            return {
                "signatures": {name: str(inspect.signature(tool)) for name, tool in tools.items()},
                "docs": {name: inspect.getdoc(tool) for name, tool in tools.items()},
                "async": [name for name, tool in tools.items() if inspect.iscoroutinefunction(tool)],
                "names": [tool.__name__ for tool in tools.values()],
                "default": inspect.signature(tools["fetch"]).parameters["retries"].default,
                "annotation": inspect.signature(tools["fetch"]).parameters["url"].annotation is str,
            }
        """,
        tools=tools,
    )
    output = result.check()
    assert output["signatures"]["fetch"] == (
        "(url: str, *, retries: int = 3, mode: Literal['a', 'b'] = 'a', headers: dict[str, str] | None = None)"
        " -> dict[str, Any]"
    )
    assert output["signatures"]["ask"] == "(question: str, api_key: str = ..., limit: Any = ...) -> str"
    assert output["signatures"]["upper"] == "(self, /)"
    assert output["docs"]["fetch"] == inspect.getdoc(fetch)
    assert output["docs"]["part"] == inspect.getdoc(fetch)
    assert output["docs"]["ask"] == "A client."
    assert output["async"] == ["fetch", "part"]
    assert output["names"] == list(tools)
    assert (output["default"], output["annotation"]) == (3, True)


def test_help_shows_a_tool(run: Any) -> None:
    result = run("def run(i, tools): help(tools['fetch']); return {}", tools={"fetch": fetch})
    assert "async fetch(url: str, *, retries: int = 3" in result.stdout
    assert "    Fetch a page." in result.stdout


def test_docstring_that_cannot_be_sent_is_escaped(run: Any) -> None:
    def odd() -> None: ...

    odd.__doc__ = "lone \ud800 surrogate"
    assert run("def run(i, tools): return {'doc': tools['odd'].__doc__}", tools={"odd": odd}).check() == {
        "doc": "lone \\ud800 surrogate"
    }


def test_three_calls_run_concurrently(run: Any) -> None:
    barrier = threading.Barrier(3, timeout=30)
    meeting = 0

    async def meet() -> int:
        nonlocal meeting
        meeting += 1
        while meeting < 3:
            await asyncio.sleep(0.001)
        return meeting

    result = run(
        """
        async def run(i, tools):
            plain = await asyncio.gather(*(asyncio.to_thread(tools["plain"]) for _ in range(3)))
            return {"plain": plain, "async": await asyncio.gather(*(tools["meet"]() for _ in range(3)))}
        """,
        tools={"plain": lambda: barrier.wait() >= 0, "meet": meet},
    )
    assert result.check() == {"plain": [True] * 3, "async": [3] * 3}


def test_tools_see_context_variables_of_the_caller(run: Any) -> None:
    import contextvars

    request = contextvars.ContextVar("request", default="none")

    async def later() -> str:
        return request.get()

    def call() -> Any:
        request.set("42")
        source = "async def run(i, tools): return {'seen': [tools['now'](), await tools['later']()]}"
        return run(source, tools={"now": request.get, "later": later})

    assert contextvars.copy_context().run(call).check() == {"seen": ["42", "42"]}


def test_tool_is_not_called_after_the_process_ends(run: Any) -> None:
    called = 0

    async def tool() -> None:
        nonlocal called
        called += 1

    result = run(
        """
        import os
        async def run(i, tools):
            calls = [asyncio.ensure_future(tools["tool"]()) for _ in range(3)]
            await asyncio.sleep(0)
            os._exit(7)
        """,
        tools={"tool": tool},
    )
    assert isinstance(result.error, sandbox.AgentExited)
    before = called
    assert run("async def run(i, tools): return {'x': await tools['tool']()}", tools={"tool": tool}).check() == {
        "x": None
    }
    assert called == before + 1


def test_globals(run: Any) -> None:
    async def ask(question: str) -> str:
        """Ask."""
        return question + "!"

    result = run(
        """
        import inspect
        def run():
            return {"config": config, "n": n, "asked": asyncio.run(ask("a")), "shout": shout("b"), "none": nothing,
                    "doc": ask.__doc__, "signature": str(inspect.signature(ask)), "in_dir": "config" in dir()}
        """,
        globals={"config": {"a": [1, (2,)]}, "n": 10**30, "ask": ask, "shout": str.upper, "nothing": None},
    )
    assert result.check() == {
        "config": {"a": [1, [2]]},
        "n": 10**30,
        "asked": "a!",
        "shout": "B",
        "none": None,
        "doc": "Ask.",
        "signature": "(question: str) -> str",
        "in_dir": False,
    }


def test_agent_overrides_a_given_global(run: Any) -> None:
    assert run("n = 2\ndef run(): return {'n': n}", globals={"n": 1}).check() == {"n": 2}


def test_modules(run: Any) -> None:
    async def ask(question: str) -> str:
        return question + "?"

    result = run(
        """
        import services
        import services.llm_service as llm
        from services.llm_service import ask, MODEL
        from services.deep.er import value
        async def run(input_dict):
            try:
                from services import other
            except ImportError as error:
                missing = str(error)
            return {"a": await ask("a"), "b": await llm.ask("b"), "c": await services.llm_service.ask("c"),
                    "model": MODEL, "value": value, "of": ask.__module__, "missing": missing}
        """,
        modules={"services.llm_service": {"ask": ask, "MODEL": "m"}, "services.deep.er": {"value": [1]}},
    )
    assert result.check() == {
        "a": "a?",
        "b": "b?",
        "c": "c?",
        "model": "m",
        "value": [1],
        "of": "services.llm_service",
        "missing": "cannot import name 'other' from 'services' (unknown location)",
    }


def test_env(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_SECRET", "x")
    result = run(
        "import os\ndef run(): return {'env': dict(os.environ), 'get': os.getenv('TOKEN')}",
        env={"TOKEN": "t ä=1", "EMPTY": ""},
    )
    output = result.check()
    assert output["get"] == "t ä=1"
    assert output["env"]["EMPTY"] == ""
    assert "HOST_SECRET" not in output["env"]


def test_nested_agents_get_the_same_options(run: Any) -> None:
    result = run(
        "async def run(i): return await agents.call('child')",
        agents={
            "child": "import os\nfrom m import f\n"
            "def run(i, tools): return {'v': [tools['t'](), f(), g, os.environ['E']]}"
        },
        tools={"t": lambda: 1},
        modules={"m": {"f": lambda: 2}},
        globals={"g": 3},
        env={"E": "4"},
    )
    assert result.check() == {"v": [1, 2, 3, "4"]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"globals": [1]}, "globals must be a dict of names and values, not list"),
        ({"globals": {"a b": 1}}, "'a b' cannot be the name of a global"),
        ({"globals": {5: 1}}, "The name of a global must be a str, not int"),
        ({"globals": {"data_store": 1}}, "The global 'data_store' cannot be given"),
        ({"globals": {"__name__": 1}}, "'__name__' cannot be the name of a global"),
        ({"globals": {"g": {1, 2}}}, "globals['g'] is a set"),
        ({"globals": {"g": [float("nan")]}}, "globals['g'][0] is nan"),
        ({"modules": [1]}, "modules must be a dict of names and their contents, not list"),
        ({"modules": {"a.b c": {}}}, "'a.b c' cannot be the name of a module"),
        ({"modules": {"": {}}}, "'' cannot be the name of a module"),
        ({"modules": {"json": {}}}, "The module 'json' cannot be given because 'json' already exists"),
        ({"modules": {"redis_store.x": {}}}, "'redis_store' already exists"),
        ({"modules": {"m": 5}}, "The module 'm' must be a dict of names and values, not int"),
        ({"modules": {"m": {"x": b""}}}, "modules['m']['x'] is a bytes"),
        ({"modules": {"m": {"x-y": 1}}}, "'x-y' cannot be the name of a name in the module 'm'"),
        ({"env": ["A=1"]}, "env must be a dict of str to str, not list"),
        ({"env": {"A": 1}}, "env must map str to str: change the entry 'A', whose value is of type int"),
        ({"env": {"A=B": "1"}}, "The variable 'A=B' cannot be put into an environment"),
        ({"env": {"A": "\0"}}, "The variable 'A' cannot be put into an environment"),
        ({"env": {"A": "\ud800"}}, "The variable 'A' cannot be put into an environment"),
        ({"packages": "rich"}, "packages must be a list of names, not str"),
        ({"packages": [5]}, "The name of a package must be a str, not int"),
        ({"packages": ["no-such-package-here"]}, "'no-such-package-here' is not installed in the host's environment"),
        ({"packages": ["json"]}, "'json' is a module of the standard library, which agents have"),
        ({"packages": ["redis_store"]}, "'redis_store' is there in every agent"),
        ({"packages": ["rich>=13"]}, "'rich>=13' is not a package name"),
        ({"packages": ["../etc"]}, "'../etc' is not a package name"),
        ({"tools": {"\ud800": print}}, "has a lone surrogate"),
        ({"tools": {"global:f": print}, "globals": {"f": print}}, "rename the tool"),
        ({"limits": sandbox.Limits(frame_bytes=65536), "globals": {"g": "x" * 70_000}}, "over Limits.frame_bytes"),
    ],
)
def test_invalid_options_are_refused(run: Any, options: Any, expected: str) -> None:
    with pytest.raises(sandbox.InvalidInput) as caught:
        run("def run(): return {}", **options)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        (lambda: {1}, "the tool's result is a set"),
        (lambda: object(), "the tool's result is an object"),
        (lambda: float("inf"), "the tool's result is inf"),
        (lambda: "x" * 3000, "the tool's result takes 3,002 bytes"),
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: sys.exit(1), "SystemExit: 1"),
    ],
)
def test_failing_tools_raise_tool_error(run: Any, store: DataStore, tool: Any, message: str) -> None:
    result = run(
        """
        from sandbox.errors import ToolError
        def run(input_dict, tools):
            try:
                tools["tool"]()
            except ToolError as error:
                return {"said": str(error), "fine": tools["fine"]()}
        """,
        tools={"tool": tool, "fine": lambda: 1},
        limits=sandbox.Limits(result_bytes=2000),
    )
    output = result.check()
    assert message in output["said"]
    assert output["fine"] == 1
    assert [call.error is None for call in result.calls] == [False, True]


def test_tool_whose_signature_raises_works(run: Any) -> None:
    class Odd:
        @property
        def __signature__(self) -> Any:
            raise ValueError("no signature")

        def __call__(self, *args: Any) -> int:
            return len(args)

    assert run("def run(i, tools): return {'n': tools['odd'](1, 2)}", tools={"odd": Odd()}).check() == {"n": 2}


def test_given_module_exists_only_in_the_run(run: Any) -> None:
    """A subprocess of the host's own interpreter cannot import it: given modules exist only in the run."""
    run("import m\ndef run(): return {}", modules={"m": {"x": 1}}).check()
    done = subprocess.run([sys.executable, "-c", "import m"], capture_output=True, check=False)
    assert b"ModuleNotFoundError" in done.stderr
