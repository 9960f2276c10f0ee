"""An agent's file is one module, and its `run` is called according to its parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import redis_store
import sandbox
from sandbox.child.agent import NotAnAgent, arguments_for

INPUT, TOOLS = {"i": 1}, {"t": print}


@pytest.mark.parametrize(
    ("signature", "args", "kwargs"),
    [
        ("input_dict, tools", [INPUT, TOOLS], {}),
        ("tools, input_dict", [TOOLS, INPUT], {}),
        ("inputs, toolbox", [INPUT, TOOLS], {}),
        ("data, tools", [INPUT, TOOLS], {}),
        ("tools, data", [TOOLS, INPUT], {}),
        ("data, tools=None", [INPUT, TOOLS], {}),
        ("input_dict", [INPUT], {}),
        ("x", [INPUT], {}),
        ("tools", [TOOLS], {}),
        ("", [], {}),
        ("input_dict, verbose=False", [INPUT], {}),
        ("input_dict, verbose=False, tools=None", [INPUT], {"tools": TOOLS}),
        ("a, b=None", [INPUT, TOOLS], {}),
        ("a, b, c=3", [INPUT, TOOLS], {}),
        ("*, input_dict, tools", [], {"input_dict": INPUT, "tools": TOOLS}),
        ("a, /, *, tools", [INPUT], {"tools": TOOLS}),
        ("input_dict, /, tools", [INPUT, TOOLS], {}),
        ("*args", [INPUT, TOOLS], {}),
        ("**kwargs", [], {"input_dict": INPUT, "tools": TOOLS}),
        ("*args, **kwargs", [INPUT, TOOLS], {}),
        ("input_dict, **kwargs", [INPUT], {"tools": TOOLS}),
        ("input_dict, *args", [INPUT, TOOLS], {}),
        ("x, *args", [INPUT, TOOLS], {}),
        ("*args, tools", [INPUT], {"tools": TOOLS}),
    ],
)
def test_signatures(signature: str, args: Any, kwargs: Any) -> None:
    names: dict[str, Any] = {}
    exec(f"def run({signature}): return locals()", names)
    assert arguments_for(names["run"], INPUT, TOOLS) == (args, kwargs)
    names["run"](*args, **kwargs)


@pytest.mark.parametrize("signature", ["a, b, c", "*, a", "input_dict, tools, c", "a, /, b, c", "*, x, **kw"])
def test_signatures_that_cannot_be_called(run: Any, signature: str) -> None:
    names: dict[str, Any] = {}
    exec(f"def run({signature}): pass", names)
    with pytest.raises(NotAnAgent, match="nothing is given for"):
        arguments_for(names["run"], INPUT, TOOLS)


def test_wrong_signature_is_invalid_agent(run: Any) -> None:
    error = run("def run(a, b, c): return {}").error
    assert isinstance(error, sandbox.InvalidAgent)
    assert "'run(a, b, c)'" in str(error)
    assert "nothing is given for 'c'" in str(error)


@pytest.mark.parametrize(
    "source",
    [
        "def run(input_dict, tools): return {'ok': input_dict['x']}",
        "async def run(input_dict, tools): return {'ok': input_dict['x']}",
        "import functools\ndef real(y, input_dict, tools): return {'ok': input_dict['x']}\nrun = functools.partial(real, 1)",
        "class Agent:\n    async def __call__(self, input_dict, tools): return {'ok': input_dict['x']}\nrun = Agent()",
        "class Agent:\n    def run(self, data): return {'ok': data['x']}\nrun = Agent().run",
        "run = lambda input_dict, tools: {'ok': input_dict['x']}\n",
        "import asyncio\ndef run(i):\n    async def main():\n        return {'ok': i['x']}\n    return asyncio.run(main())",
        "def run(i):\n    async def later():\n        return {'ok': i['x']}\n    return later()",
    ],
)
def test_kinds_of_run(run: Any, source: str) -> None:
    assert run(source, {"x": 5}).check() == {"ok": 5}


def test_module_is_one_global_namespace(run: Any) -> None:
    result = run(
        """
        from dataclasses import dataclass
        from typing import get_type_hints
        import enum, functools, inspect, logging, pickle, sys

        LIMIT = 3

        @dataclass
        class Page:
            title: "str"
            links: "list[Page]"

        class Colour(enum.Enum):
            RED = 1

        def logged(function):
            @functools.wraps(function)
            async def inner(*args, **kwargs):
                return await function(*args, **kwargs)
            return inner

        def helper(n):
            return n * LIMIT

        @logged
        async def run(input_dict: dict, tools: dict) -> dict:
            page = pickle.loads(pickle.dumps(Page("a", [Page("b", [])])))
            return {
                "helper": helper(2),
                "page": page.links[0].title,
                "hints": str(get_type_hints(Page)["links"]),
                "colour": pickle.loads(pickle.dumps(Colour.RED)).name,
                "source": inspect.getsource(helper),
                "module": sys.modules[__name__].LIMIT,
                "globals": helper.__globals__ is globals(),
            }
        """
    )
    assert result.check() == {
        "helper": 6,
        "page": "b",
        "hints": "list[agent.Page]",
        "colour": "RED",
        "source": "def helper(n):\n    return n * LIMIT\n",
        "module": 3,
        "globals": True,
    }


def test_main_block_does_not_run(run: Any) -> None:
    result = run("def run(): return {'n': __name__}\nif __name__ == '__main__':\n    raise SystemExit('no')\n")
    assert result.check() == {"n": "agent"}


@pytest.mark.parametrize("stem", ["json", "asyncio", "redis_store", "sandbox", "my-agent", "__main__", "sqlite3"])
def test_agent_file_may_share_the_name_of_a_module(run: Any, tmp_path: Path, stem: str) -> None:
    path = tmp_path / f"{stem}.py"
    path.write_text(
        "import asyncio, sqlite3\ndef run(): return {'v': json.loads('[1]'), 'n': __name__, 's': bool(sqlite3.connect)}\n"
    )
    found = run(path).check()
    assert found["v"] == [1]
    assert found["n"] == (stem if stem == "my-agent" else f"agent_{stem}")


def test_modules_available_without_import(evaluate: Any) -> None:
    assert evaluate("[asyncio.sleep.__name__, json.dumps([1]), re.sub('a', 'b', 'a')]") == ["sleep", "[1]", "b"]


def test_dir_includes_data_store(run: Any) -> None:
    result = run(
        """
        async def run(input_dict, tools):
            local = 1
            assert 'data_store' in dir()
            assert 'local' in dir() and 'input_dict' in dir()
            assert dir(local) == sorted(set(int.__dir__(1)))
            assert 'set_many' in dir(data_store)
            print(f"data_store available: {'data_store' in dir()}")
            return {}
        """
    )
    result.check()
    assert result.stdout == "data_store available: True\n"


def test_hasattr_of_data_store(evaluate: Any) -> None:
    assert evaluate("[hasattr(data_store, n) for n in ('get', 'set_many', 'scan', 'execute', 'url', 'hset')]") == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]


def test_unknown_name_is_a_name_error(run: Any) -> None:
    error = run("async def run(input_dict, tools): return {'x': unknown_name}").error
    assert isinstance(error, sandbox.AgentRaised)
    assert error.type_name == "NameError"
    assert str(error) == "Agent 'agent' raised NameError: name 'unknown_name' is not defined"


def test_only_the_standard_library_is_importable(evaluate: Any) -> None:
    found = evaluate(
        """
        import importlib, sys
        value = {}
        for name in ("redis", "orjson", "hiredis", "typer", "redis_store.ops",
                     "sandbox.runner", "sandbox.pool", "sqlite3"):
            try:
                importlib.import_module(name)
                value[name] = True
            except ModuleNotFoundError as error:
                value[name] = str(error)
        value["path"] = [p for p in sys.path if "site-packages" in p or not p.startswith(sys.base_prefix)]
        """
    )
    assert found.pop("sqlite3") is True
    assert found.pop("path") == []
    assert found == {name: f"No module named {name!r}" for name in found}


def test_process_holds_no_data_of_the_host(run: Any, monkeypatch: pytest.MonkeyPatch, server_url: str) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "do-not-tell")
    result = run(
        """
        import os, sys
        def run():
            print(dict(os.environ), sys.argv, sys.orig_argv, os.getcwd(), os.listdir())
            return {"environ": sorted(os.environ), "files": os.listdir(), "stdin": sys.stdin.read()}
        """
    )
    assert "do-not-tell" not in result.stdout
    assert server_url.removeprefix("unix://") not in result.stdout
    assert result.check() == {"environ": ["HOME", "LANG", "TMPDIR"], "files": [], "stdin": ""}


def test_common_async_code(run: Any) -> None:
    result = run(
        """
        async def work(n):
            await asyncio.sleep(0)
            data_store.set(f"k{n}", n)
            return await asyncio.to_thread(data_store.get, f"k{n}")

        async def run(input_dict, tools):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(work(n)) for n in range(5)]
            done = [task.result() for task in tasks]
            done += await asyncio.gather(*(work(n) for n in range(5)))
            try:
                await asyncio.wait_for(asyncio.sleep(60), 0.01)
            except TimeoutError:
                done.append("timeout")
            return {"done": done}
        """
    )
    assert result.check() == {"done": [*range(5), *range(5), "timeout"]}


def test_agents_import_from_redis_store(evaluate: Any) -> None:
    given = sorted({*redis_store.errors.__all__, *redis_store.types.__all__} & set(redis_store.__all__))
    assert {"MISSING", "NEVER", "Change", "DataStoreError", "LockTimeout"} <= set(given)
    assert evaluate(
        f"""
        import redis_store
        from redis_store import {", ".join(given)}
        cache = data_store.use_namespace("cache", ttl=NEVER)
        cache.set("for ever", 1, ttl=NEVER)
        value = [
            cache.compare_and_set("leader", MISSING, "a"),
            cache.compare_and_set("leader", MISSING, "b"),
            cache.info("for ever").expires_at,
            redis_store.InvalidName is InvalidName,
            hasattr(redis_store, "connect"),
        ]
        star = {{}}
        exec("from redis_store import *", star)
        value.append([name for name in {given} if name not in star])
        """
    ) == [True, False, None, True, False, []]
