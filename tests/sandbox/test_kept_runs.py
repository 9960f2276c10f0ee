"""Runs that are kept: what a record holds, that agents reach none, and that keeping one fails no run."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

import sandbox
from redis_store import DataStore
from redis_store.brokers import kept_runs
from redis_store.brokers.kept_runs import KeptRun
from sandbox import KeptRuns, RunResult, Sandbox
from sandbox.errors import InvalidInput, InvalidType
from sandbox.record.kept_run import MOST_CALLS, STDOUT_CHARACTERS, record_of, result_of
from sandbox.result import Hint, Operation
from sandbox.trace import trace_events
from tests.sandbox.conftest import Server, wait_until

SECRET = "sk-abcdefghijklmnopqrstuvwx"

TREE = """
    async def run(input_dict, tools):
        data_store.set("config", {"password": "hunter2"})
        data_store.get("config")
        tools["ask"]("why")
        await agents.call("reader", {})
        print("done", "SECRET")
        return {"token": "t" * 8, "n": 1}
"""
READER = "def run(input_dict):\n    data_store.get('missing')\n    return {}"


@pytest.fixture
def last(store: DataStore) -> Callable[[], KeptRun]:
    def last() -> KeptRun:
        found = kept_runs.get_run(store, kept_runs.list_runs(store)[0].run)
        assert found is not None
        return found

    return last


@pytest.mark.parametrize("broker", ["thread", "process"])
def test_the_record_of_a_run_has_its_nested_runs(
    broker: str, server_url: str, user: str, last: Callable[[], KeptRun]
) -> None:
    given: Any = {"agents": {"reader": READER}, "tools": {"ask": lambda what: "because"}}
    with Sandbox(url=server_url, keep=True, broker=broker, **given) as box:
        result = box.run(
            textwrap.dedent(TREE).replace("SECRET", SECRET), {"api_key": "k" * 10, "q": 1}, user=user, agent="main"
        )
    kept = last()
    assert result.is_kept
    assert (kept.run, kept.agent, kept.started, kept.duration) == (result.run, "main", result.started, result.duration)
    assert (kept.input, kept.output) == ('{"api_key":"***","q":1}', '{"token":"***","n":1}')
    assert kept.stdout == "done ***\n"
    assert [(one.agent, one.operation, one.key, one.hit, one.preview) for one in kept.operations] == [
        ("main", "set", "config", None, '{"password":"***"}'),
        ("main", "get", "config", True, '{"password":"***"}'),
        ("reader", "get", "missing", False, None),
    ]
    assert [(one.kind, one.name, one.nested_run) for one in kept.calls] == [
        ("tool", "ask", None),
        ("agent", "reader", kept.nested[0]),
    ]
    again = result_of(kept)
    assert trace_events(again)["traceEvents"][1:4] == trace_events(result)["traceEvents"][1:4]
    assert [one.preview for one in again.operations] == [one.preview for one in result.operations]


def test_the_record_of_a_failure(run: Callable[..., RunResult], last: Callable[[], KeptRun]) -> None:
    result = run(f"def run(input_dict):\n    raise KeyError('{SECRET}')", keep=KeptRuns())
    kept = last()
    assert kept.output is None
    assert kept.error is not None
    assert kept.error.type == "AgentRaised"
    assert (kept.error.message, SECRET in str(result.error)) == ("Agent 'agent' raised KeyError: '***'", True)
    assert "line 2, in run" in kept.error.traceback
    assert SECRET not in kept.error.traceback
    assert type(result_of(kept).error) is sandbox.AgentRaised


def test_nothing_is_kept_unless_asked(run: Callable[..., RunResult], store: DataStore) -> None:
    results = [run("def run(input_dict): return {}", keep=keep) for keep in (None, False)]
    results.append(run("def run(input_dict): return {}"))
    assert not any(result.is_kept for result in results)
    assert kept_runs.list_runs(store) == []


def test_a_cancelled_run_is_kept(server_url: str, user: str, store: DataStore) -> None:
    with Sandbox(url=server_url, keep=KeptRuns()) as box:
        handle = box.start("def run(input_dict):\n    data_store.set('k', 1)\n    while True: pass", {}, user=user)
        wait_until(lambda: store.get("k") == 1, "the agent has begun")
        handle.cancel()
        handle.result()
    assert [one.error for one in kept_runs.list_runs(store)] == ["RunCancelled"]


def test_agents_reach_no_record(run: Callable[..., RunResult], store: DataStore, server_url: str, user: str) -> None:
    kept = run("def run(input_dict): return {'first': 1}", keep=KeptRuns())
    hostile = """
        def run(input_dict):
            names = ["runs", "run", "run:" + input_dict["run"], "x\\nuser:%s:runs" % input_dict["user"]]
            found = [name for name in data_store.list_namespaces() if "run" in name]
            for name in names:
                place = data_store.use_namespace(name)
                found += place.list_keys()
                place.set("record", {"forged": 1})
                place.clear()
                with data_store.lock(name), data_store.semaphore(name, 1):
                    data_store.rate_limit(name, 1, 60)
                data_store.get_or_set(name, lambda: 1, tags=[name])
                data_store.invalidate_tag(name)
                with place.watch(consumer=name):
                    place.set("seen", 1)
            return {"found": found}
    """
    with redis.Redis.from_url(server_url) as raw:
        keys = (f"user:{user}:runs", f"user:{user}:run:{kept.run}")
        before = [raw.hgetall(key) for key in keys]
        result = run(hostile, {"run": kept.run, "user": user})
        assert result.check() == {"found": []}
        assert [raw.hgetall(key) for key in keys] == before
        assert len(before[1]) == 2
    assert len(kept_runs.list_runs(store)) == 1


def test_agents_called_often_keep_within_the_bounds(run: Callable[..., RunResult], store: DataStore) -> None:
    source = """
        async def run(input_dict, tools):
            for number in range(3000):
                data_store.get("x" * 300 + str(number))
            print("y" * 100_000)
            return {"z": "z" * 100_000}
    """
    result = run(source, keep=KeptRuns(bytes=256 * 1024))
    summary = kept_runs.list_runs(store)[0]
    assert summary.bytes <= 128 * 1024 + 1024
    assert summary.operations == len(result.operations) == 3000


def test_a_failing_store_fails_no_run(
    run: Callable[..., RunResult], server_url: str, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(server_url) as raw:
        raw.set(f"user:{user}:runs", "in the way")
        with caplog.at_level(logging.WARNING, "sandbox"):
            result = run("def run(input_dict): return {'n': 1}", keep=KeptRuns())
        raw.delete(f"user:{user}:runs")
    assert (result.check(), result.is_kept) == ({"n": 1}, False)
    assert f"the run {result.run} has ended, but its record could not be kept" in caplog.text
    assert [one.exc_info for one in caplog.records] == [None]


def test_a_server_that_is_gone_fails_no_run(own_server: Server, user: str, caplog: pytest.LogCaptureFixture) -> None:
    def stop() -> int:
        own_server.process.kill()
        own_server.process.wait()
        return 1

    source = "def run(input_dict, tools): return {'n': tools['stop']()}"
    with Sandbox(url=own_server.url, tools={"stop": stop}, keep=KeptRuns()) as box:
        result = box.run(source, {}, user=user)
    assert (result.check(), result.is_kept) == ({"n": 1}, False)
    assert "could not be kept" in caplog.text


def test_consumers_keep_their_runs(server_url: str, user: str, store: DataStore) -> None:
    source = "def run(input_dict): return {'n': len(input_dict['changes'])}"
    consumer = sandbox.on_change(source, user=user, url=server_url, consumer="c", keep=KeptRuns(runs=2))
    with consumer:
        for number in range(4):
            store.set(f"k{number}", number)
            wait_until(lambda: any(f"k{number}" in text for text in inputs(store)), "the change was processed")  # noqa: B023
    kept = kept_runs.list_runs(store)
    assert [one.agent for one in kept] == ["c", "c"]


def inputs(store: DataStore) -> list[str]:
    found = (kept_runs.get_run(store, one.run) for one in kept_runs.list_runs(store))
    return [one.input for one in found if one is not None]


@pytest.mark.parametrize(
    ("facts", "error"),
    [
        ({"runs": 0}, InvalidInput),
        ({"runs": 1001}, InvalidInput),
        ({"runs": True}, InvalidType),
        ({"bytes": 1}, InvalidInput),
        ({"days": 0}, InvalidInput),
        ({"days": float("nan")}, InvalidInput),
        ({"days": "1"}, InvalidType),
    ],
)
def test_bounds_are_checked(facts: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(facts))):
        KeptRuns(**facts)
    with pytest.raises(InvalidType, match="keep must be"):
        Sandbox(keep=3)


def a_result(**facts: Any) -> RunResult:
    plain: dict[str, Any] = {"output": {}, "error": None, "stdout": "", "operations": [], "duration": 0.1}
    return RunResult(**{**plain, "isolation": "full", "run": "r", "started": datetime.now(UTC), **facts})


def test_what_was_printed_keeps_both_ends_and_no_secret_across_a_cut() -> None:
    half = STDOUT_CHARACTERS // 2
    text = "y" * (half - 10) + f" {SECRET} " + "-" * 50_000 + f" {SECRET} " + "z" * (half - 10)
    shown = record_of(a_result(stdout=text), "default", b"{}", b"{}").stdout
    assert shown.startswith("yyy")
    assert shown.endswith("zzz")
    assert "sk-" not in shown
    assert "characters are left out" in shown
    assert len(shown) < STDOUT_CHARACTERS + 100


def test_many_calls_and_texts_that_cannot_be_sent() -> None:
    one = Operation(datetime.now(UTC), "a\ud800", "get", "n", "k\udfff", 1, True, 1, 0.1, run="nested")
    hints = [Hint("useless_cache", "\ud800" * 5000, "a")]
    kept = record_of(a_result(operations=[one] * 5000, hints=hints, agent="\ud800"), "default", b"\xff", None, 7)
    assert (len(kept.operations), kept.operations_left_out) == (MOST_CALLS, 5000 - MOST_CALLS)
    assert (kept.calls_left_out, kept.nested) == (7, ("nested",))
    assert (kept.operations[0].key, kept.agent) == ("k\\udfff", "\\ud800")
    assert kept.hints[0].message.isascii() is False
