"""The result of a run, and the environment of its agent."""

from __future__ import annotations

import asyncio
import dataclasses
import pickle
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import sandbox
from redis_store import DataStore

QUICK_START = """
async def run(input_dict, tools):
    data_store.set("greeting", {"text": input_dict["text"]})
    return {"keys": data_store.list_keys(), "back": data_store.get("greeting")}
"""


def test_agent_returns_its_output(run: Any, store: DataStore) -> None:
    result = run(QUICK_START, {"text": "héllo"})
    assert result.error is None
    assert result.output == {"keys": ["greeting"], "back": {"text": "héllo"}}
    assert result.check() is result.output
    assert store.get("greeting") == {"text": "héllo"}
    assert 0 < result.duration < 20


def test_checked_error_is_shown_once(run: Any) -> None:
    result = run(
        """
        def run():
            class Odd(ValueError): pass
            raise Odd("one\\ntwo")
        """
    )
    for _ in range(2):
        with pytest.raises(sandbox.AgentRaised) as caught:
            result.check()
        assert str(caught.value) == "Agent 'agent' raised Odd: one\\ntwo"
        (note,) = caught.value.__notes__
        assert note.startswith("In the agent:\n| Traceback (most recent call last):\n")
        assert note.endswith('line 4, in run\n|     raise Odd("one\\ntwo")')


def test_store_records_run_and_agent(run: Any, store: DataStore) -> None:
    run(QUICK_START, {"text": ""}, agent="greeter").check()
    info = store.info("greeting")
    assert info is not None
    assert info.created_by == "greeter"


def test_operations_are_recorded(run: Any) -> None:
    result = run(
        """
        async def run(input_dict, tools):
            data_store.set("a", 12)
            data_store.get("a"), data_store.get("b")
            data_store.use_namespace("other").set_many({"x": 1, "y": 2})
            data_store.use_namespace("other").get_many(["x", "y", "z"])
            "a" in data_store
            try:
                data_store.use_namespace("other").set("x", 1, metadata={"m": "x" * 70_000})
            except ValueError:
                pass
            return {}
        """,
        agent="recorder",
    )
    result.check()
    rows = [(o.operation, o.namespace, o.key, o.count, o.hit, o.bytes, o.error) for o in result.operations]
    assert rows == [
        ("set", "default", "a", 1, None, 2, None),
        ("get", "default", "a", 1, True, 2, None),
        ("get", "default", "b", 0, False, 0, None),
        ("set_many", "other", None, 2, None, 2, None),
        ("get_many", "other", None, 2, None, 2, None),
        ("contains", "default", "a", 1, True, 0, None),
        ("set", "other", "x", 0, None, 0, "LimitExceeded"),
    ]
    first = result.operations[0]
    assert first.agent == "recorder"
    assert first.time.tzinfo is UTC
    assert abs((datetime.now(UTC) - first.time).total_seconds()) < 60
    assert first.duration_ms > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.key = "other"


def test_host_binds_namespace_and_user(run: Any, store: DataStore, user: str) -> None:
    result = run(
        "def run(): data_store['k'] = 1; return {'u': data_store.user, 'n': data_store.namespace}", namespace="here"
    )
    assert result.check() == {"u": user, "n": "here"}
    assert store.use_namespace("here").get("k") == 1


def test_agent_is_named_after_its_file(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "indexer.py"
    path.write_text(
        "async def run(input_dict, tools):\n    data_store.set('k', 1)\n    return {'name': __name__, 'file': __file__}\n"
    )
    result = run(path)
    assert result.check() == {"name": "indexer", "file": str(path)}
    assert result.operations[0].agent == "indexer"


def test_aruns_run_concurrently(server_url: str, user: str) -> None:
    async def main() -> list[dict[str, Any]]:
        async def agent(number: int) -> dict[str, Any]:
            source = f"def run(): data_store.set('k{number}', 1); return {{'n': {number}}}"
            return (await sandbox.arun(source, {}, user=user, url=server_url)).check()

        return await asyncio.gather(*map(agent, range(4)))

    assert asyncio.run(main()) == [{"n": number} for number in range(4)]


def test_run_works_inside_a_running_loop(run: Any) -> None:
    async def twice(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    async def main() -> Any:
        return run("async def run(i, tools): return {'x': await tools['twice'](21)}", tools={"twice": twice})

    assert asyncio.run(main()).check() == {"x": 42}


def test_runs_from_many_threads(run: Any) -> None:
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(run(f"def run(): return {{'n': {n}}}").check()["n"]))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 1, 2, 3]


def test_check_raises_the_error(run: Any) -> None:
    result = run("def run(): raise LookupError('gone')")
    assert result.output is None
    with pytest.raises(sandbox.AgentRaised, match="LookupError: gone") as caught:
        result.check()
    assert caught.value is result.error


def test_errors_survive_pickling(run: Any) -> None:
    errors = [
        run("def run(): raise LookupError('gone')").error,
        run("def run(): return 1").error,
        sandbox.AgentNotFound("There is no agent's file.", path="x"),
        sandbox.TimeLimitExceeded("Too long.", limit="timeout_s", value=1.0),
    ]
    for error in errors:
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert vars(copy) == vars(error)


def test_reprs_fit_a_notebook(run: Any, server_url: str, user: str) -> None:
    source = """
    def run(output):
        output = output["output"]
        data_store.set("k", output)
        with data_store.watch() as watch, data_store.watch_all() as all_of_them:
            print(watch, all_of_them, data_store.lock("l"), data_store.rate_limit("r", 1, 1), data_store.transaction())
        return output
    """
    result = run(source, {"output": {"lines": 3}}, agent="writer")
    shown = repr(result)
    assert shown.startswith("<RunResult of 'writer', ")
    assert ": {'lines': 3}; 3 store calls, 0 other calls, " in shown
    assert result.stdout.startswith(
        "<Watch of 'default'> <Watch of all namespaces> <Lock 'l', not held> <RateLimit 'r'>"
    )
    assert result.stdout.endswith(f"<Transaction user={user!r} namespace='default'>\n")
    assert len(repr(run(source, {"output": {str(n): "x" * 5000 for n in range(500)}}))) < 300
    failed = repr(run("def run():\n    raise ValueError('x' * 5000)"))
    assert ": AgentRaised: " in failed
    assert len(failed) < 400
    with sandbox.Sandbox(url=server_url) as box:
        assert repr(box) == "<Sandbox broker='thread', 0 runs under way>"
