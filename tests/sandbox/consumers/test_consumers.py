"""Agents that run on changes: order, tries, dead letters and every kind of end."""

from __future__ import annotations

import asyncio
import random
import textwrap
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import redis_store
import sandbox
from redis_store import AsyncDataStore, DataStore, LimitExceeded
from sandbox.consumers.batches import Reactor
from tests.sandbox.conftest import wait_until
from tests.sandbox.consumers.conftest import OnChange, kinds
from tests.support.servers import REAL_KINDS, Server

COLLECT = """
    def run(input_dict):
        seen = data_store.use_namespace("seen")
        for change in input_dict["changes"]:
            key = str(change["key"])
            seen.set(key, seen.get(key, []) + [change["value"] if change["op"] == "set" else change["op"]])
        return {"changes": len(input_dict["changes"])}
"""
FAIL_ON_BAD = """
    def run(input_dict):
        for change in input_dict["changes"]:
            if change["value"] == "bad":
                raise ValueError("bad value")
            data_store.use_namespace("seen").set(change["key"], change["value"])
        return {}
"""


@pytest.mark.usefixtures("nothing_left")
def test_changes_arrive_and_the_cursor_is_kept(on_change: OnChange, store: DataStore, seen: DataStore) -> None:
    with on_change(COLLECT):
        store.set("a", {"n": 1}, metadata={"m": 1})
        store.delete("a")
        wait_until(lambda: seen.get("a") == [{"n": 1}, "delete"], "both changes were seen")
    store.set("a", 3)  # while no consumer runs
    with on_change(COLLECT):
        wait_until(lambda: len(seen.get("a")) == 3, "the third was seen")
    assert seen.get("a") == [{"n": 1}, "delete", 3]


def test_a_consumer_uses_the_server_of_a_client(
    on_change: OnChange, store: DataStore, seen: DataStore, server_url: str
) -> None:
    with redis_store.Client(server_url) as client:
        with on_change(COLLECT, url=None, client=client):
            store.set("a", 1)
            wait_until(lambda: seen.get("a") == [1], "the change was seen")
        assert client.ping()


def test_input_of_the_agent(on_change: OnChange, store: DataStore, user: str) -> None:
    source = """
        def run(input_dict):
            data_store.use_namespace("seen").set("input", input_dict)
            return {}
    """
    with on_change(source, prefix="job:", namespace="jobs"):
        store.use_namespace("jobs").set("other", 1)
        store.use_namespace("jobs").set("job:1", [1, None])
        given = store.use_namespace("seen").wait_for("input", 20)
    cursor = given["changes"][0].pop("cursor")
    assert given == {
        "changes": [{"namespace": "jobs", "key": "job:1", "op": "set", "value": [1, None], "agent": None, "run": None}]
    }
    store.use_namespace("jobs").watch(since=cursor).close()


def test_changes_of_one_key_stay_in_order(
    on_change: OnChange, store: DataStore, seen: DataStore, events: list[sandbox.ConsumerEvent]
) -> None:
    with on_change(COLLECT, batch=4, concurrency=4):
        for number in range(12):
            for key in ("a", "b", "c", "d", "e"):
                store.set(key, number)
        wait_until(lambda: sum(map(len, seen.get_all().values())) == 60, "all were seen")
    assert seen.get_all() == {key: list(range(12)) for key in ("a", "b", "c", "d", "e")}
    assert all(len(event.keys) <= 4 for event in events)


def test_clear_is_not_overtaken(on_change: OnChange, store: DataStore, seen: DataStore) -> None:
    source = """
        def run(input_dict):
            mirror = data_store.use_namespace("mirror")
            for change in input_dict["changes"]:
                if change["op"] == "set":
                    mirror.set(change["key"], change["value"])
                else:
                    mirror.clear()
            return {}
    """
    with on_change(source, batch=3):
        for turn in range(3):
            store.set_many({f"{turn}-{number}": number for number in range(10)})
            store.clear()
        store.set("last", 1)
        wait_until(lambda: store.use_namespace("mirror").get_all() == {"last": 1}, "the mirror is as the namespace")


def test_failed_run_is_retried(on_change: OnChange, store: DataStore, events: list[sandbox.ConsumerEvent]) -> None:
    source = """
        def run(input_dict):
            tries = data_store.use_namespace("tries")
            tries["n"] = tries.get("n", 0) + 1
            if tries["n"] < 3:
                raise OSError("not yet")
            return {"tries": tries["n"]}
    """
    with on_change(source) as consumer:
        store.set("a", 1)
        wait_until(lambda: "ran" in kinds(events), "it has succeeded")
    assert kinds(events) == ["watching", "failed", "failed", "ran", "stopped"]
    assert [event.attempt for event in events[1:4]] == [1, 2, 3]
    assert events[1].error == "Agent 'c' raised OSError: not yet"
    assert events[3].output == {"tries": 3}
    assert len(store.use_namespace(consumer.dead_letters)) == 0


def test_wait_doubles_with_each_retry(on_change: OnChange, store: DataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def note(self: Reactor, seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(Reactor, "_pause", note)
    with on_change(FAIL_ON_BAD, retries=4, first_wait=1, longest_wait=4) as consumer:
        store.set("a", "bad")
        wait_until(lambda: len(store.use_namespace(consumer.dead_letters)), "it is put aside")
    assert len(waits) == 4
    for wait, least in zip(waits, (1, 2, 4, 4), strict=True):
        assert least <= wait <= least + 0.5


def test_oversized_dead_letter_omits_the_value(
    on_change: OnChange, store: DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = AsyncDataStore.set

    async def put_small(self: AsyncDataStore, key: str, value: Any, *rest: Any, **options: Any) -> None:
        if len(str(value)) > 2000:
            raise LimitExceeded("too big", limit="max_value_bytes")
        await put(self, key, value, *rest, **options)

    monkeypatch.setattr(AsyncDataStore, "set", put_small)
    source = "def run(input_dict):\n    raise ValueError('bad')\n"
    with on_change(source, retries=0) as consumer:
        store.set("a", "x" * 3000)
        letters = store.use_namespace(consumer.dead_letters)
        wait_until(lambda: len(letters), "it is put aside")
    (record,) = letters.get_all().values()
    assert record["change"]["key"] == "a"
    assert "value" not in record["change"]
    assert record["error"]["message"] == "Agent 'c' raised ValueError: bad"


def test_change_that_always_fails_becomes_a_dead_letter(
    on_change: OnChange, store: DataStore, seen: DataStore, caplog: pytest.LogCaptureFixture
) -> None:
    with on_change(FAIL_ON_BAD, retries=1) as consumer:
        store.set_many({"a": 1, "b": "bad", "c": 3})
        store.set("d", 4)
        wait_until(lambda: len(seen) == 3 and len(store.use_namespace(consumer.dead_letters)), "the rest went on")
    assert seen.get_all() == {"a": 1, "c": 3, "d": 4}
    ((key, record),) = store.use_namespace("dead-letter:c").get_all().items()
    assert key == f"b@{record['change']['cursor']}"
    assert record["change"]["value"] == "bad"
    assert record["error"]["type"] == "AgentRaised"
    assert record["error"]["message"] == "Agent 'c' raised ValueError: bad value"
    assert "line 5" in record["error"]["traceback"]
    assert record["agent"] == "c"
    (logged,) = caplog.records
    assert (logged.name, logged.levelname) == ("sandbox", "WARNING")
    assert logged.message == (
        "the consumer 'c' could not process 'b', and stored a dead letter in 'dead-letter:c': 'ValueError'"
    )
    with on_change(FAIL_ON_BAD):
        store.set("e", 5)
        wait_until(lambda: seen.get("e") == 5, "it goes on behind the dead letter")
    assert len(store.use_namespace("dead-letter:c")) == 1


def test_value_that_is_not_json_becomes_a_dead_letter(
    on_change: OnChange, store: DataStore, seen: DataStore, server_url: str, user: str
) -> None:
    import redis

    with on_change(FAIL_ON_BAD), redis.Redis.from_url(server_url) as raw:
        raw.hset(f"user:{user}:ns:default", "broken", "{")
        store.set("a", 1)
        letters = store.use_namespace("dead-letter:c")
        wait_until(lambda: len(letters) and seen.get("a") == 1, "one is put aside, the other seen")
    (record,) = letters.get_all().values()
    assert record["error"]["type"] == "CorruptValue"
    assert record["change"]["key"] == "broken"


def test_agent_does_not_trigger_itself(
    on_change: OnChange, store: DataStore, events: list[sandbox.ConsumerEvent]
) -> None:
    source = """
        def run(input_dict):
            for change in input_dict["changes"]:
                if change["op"] == "set" and change["value"] < 5:
                    data_store.set("n", change["value"] + 1)
            return {}
    """
    with on_change(source):
        store.set("n", 1)
        wait_until(lambda: store.get("n") == 2, "the agent has written")
        store.set("m", 5)
        wait_until(lambda: ("m",) in [event.keys for event in events], "what came after has been seen")
    assert store.get("n") == 2
    with on_change(source, own_writes=True):
        store.set("n", 1)
        wait_until(lambda: store.get("n") == 5, "the agent has triggered itself")


@pytest.mark.parametrize("broker", ["thread", "process"])
def test_writes_of_the_agents_that_it_calls_are_its_own(
    on_change: OnChange, store: DataStore, events: list[sandbox.ConsumerEvent], broker: str, server_url: str, user: str
) -> None:
    agents = {
        "middle": "async def run():\n    return await agents.call('inner', {})\n",
        "inner": """
def run():
    data_store.set_many({'a': 1, 'b': 2})
    with data_store.transaction() as together:
        together.set('c', 3)
    data_store.delete('a')
    return {'n': data_store.increment('n')}
""",
    }
    source = "async def run(input_dict):\n    return await agents.call('middle', {})\n"

    def write(key: str) -> None:
        store.set(key, 1)
        wait_until(lambda: any(key in event.keys for event in events), "it was delivered, and all before it")

    with on_change(source, agents=agents), sandbox.Sandbox(agents=agents, url=server_url, broker=broker) as box:
        write("first")
        wait_until(lambda: "n" in store, "the agents have written")
        box.run(source, {}, user=user, agent="c").check()  # for a tool or another process that runs this agent
        write("second")
        assert [event.keys for event in events if event.keys] == [("first",), ("second",)]
        box.run(source, {}, user=user, agent="other").check()
        write("third")
    changes = [key for event in events if event.kind == "ran" for key in event.keys]
    assert sorted(map(str, changes)) == ["a", "a", "b", "c", "first", "n", "second", "third"]


def test_lost_history_gives_a_reset_and_every_key(
    on_change: OnChange, store: DataStore, seen: DataStore, server_url: str, user: str
) -> None:
    import redis

    with on_change(COLLECT):
        store.set("a", 1)
        seen.wait_for("a", 20)
    with redis.Redis.from_url(server_url) as raw:
        raw.delete(f"user:{user}:log:default")
    store.set("b", 2)
    with on_change(COLLECT):
        wait_until(lambda: "b" in seen and len(seen.get("a")) == 2, "every key was given again")
    assert seen.get_all() == {"None": ["reset"], "a": [1, 1], "b": [2]}


def test_initial_begins_with_existing_keys(on_change: OnChange, store: DataStore, seen: DataStore) -> None:
    store.set_many({"a": 1, "b": 2})
    with on_change(COLLECT, initial=True):
        store.set("c", 3)
        wait_until(lambda: len(seen) == 3, "all were seen")
    assert seen.get_all() == {"a": [1], "b": [2], "c": [3]}


def test_second_consumer_of_a_name_stands_by(
    on_change: OnChange, store: DataStore, seen: DataStore, events: list[sandbox.ConsumerEvent]
) -> None:
    others: list[sandbox.ConsumerEvent] = []
    with on_change(COLLECT, on_event=others.append) as first, on_change(COLLECT):
        assert kinds(events) == ["standing by"]
        store.set("a", 1)
        seen.wait_for("a", 20)
        first.stop()
        wait_until(lambda: "watching" in kinds(events), "the second has taken over")
        store.set("a", 2)
        wait_until(lambda: len(seen.get("a")) == 2, "the second works")
    assert seen.get("a") == [1, 2]
    assert kinds(others) == ["watching", "ran", "stopped"]


@pytest.mark.usefixtures("nothing_left")
def test_only_stop_finishes_current_runs(on_change: OnChange, store: DataStore) -> None:
    source = """
        import time
        def run(input_dict):
            notes = data_store.use_namespace("notes")
            notes["begun"] = notes.get("begun", 0) + 1
            while "go" not in notes:
                time.sleep(0.01)
            notes["ended"] = notes.get("ended", 0) + 1
            return {}
    """
    notes = store.use_namespace("notes")
    with on_change(source) as consumer:
        store.set("a", 1)
        notes.wait_for("begun", 20)
        consumer.stop(now=True)
    assert "ended" not in notes
    with on_change(source) as consumer:  # it is processed again
        wait_until(lambda: notes["begun"] == 2, "the change has come again")
        consumer.stop()
        store.set("b", 1)
        notes["go"] = 1
    assert notes.get_all() == {"begun": 2, "ended": 1, "go": 1}
    with on_change(source):
        wait_until(lambda: notes["ended"] == 2, "what came after the stop is done by the next")
    assert notes["begun"] == 3


def test_stop_does_not_wait_for_retries(
    on_change: OnChange, store: DataStore, events: list[sandbox.ConsumerEvent]
) -> None:
    with on_change("def run(): raise OSError\n", first_wait=1000, longest_wait=2000):
        store.set("a", 1)
        wait_until(lambda: "failed" in kinds(events), "it has failed once")
    with on_change(COLLECT):
        store.use_namespace("seen").wait_for("a", 20)
    assert len(store.use_namespace("dead-letter:c")) == 0


def test_waits_for_a_missing_file_and_for_the_server(
    on_change: OnChange,
    store: DataStore,
    seen: DataStore,
    tmp_path: Path,
    server_url: str,
    user: str,
    events: list[sandbox.ConsumerEvent],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "agent.py"
    path.write_text(textwrap.dedent(COLLECT))
    consumer = sandbox.on_change(
        path, user=user, url=server_url, first_wait=0.01, longest_wait=0.05, on_event=events.append
    )
    assert consumer.name == "agent"
    with consumer:
        path.rename(tmp_path / "away.py")
        store.set("a", 1)
        wait_until(lambda: kinds(events).count("waiting") > 8, "it has waited for longer than it tries")
        (tmp_path / "away.py").rename(path)
        assert seen.wait_for("a", 20) == [1]
    assert len(store.use_namespace("dead-letter:agent")) == 0
    assert len(caplog.records) == kinds(events).count("waiting")
    assert "the consumer 'agent' waits, and tries again in 0.0 s: There is no agent file at " in caplog.text


@pytest.mark.parametrize(
    ("source", "kind", "text"),
    [
        ("def run(:\n    pass\n", sandbox.InvalidAgent, "does not compile: invalid syntax (line 1)"),
        ("x = 1\n", sandbox.InvalidAgent, "has no function 'run'"),
        ("def run(a, b, c): pass\n", sandbox.InvalidAgent, "nothing is given for 'c'"),
        ("import no_such\ndef run(): return {}\n", sandbox.AgentRaised, "No module named 'no_such'"),
        ("import sys\nsys.exit('no key')\n", sandbox.AgentExited, "no key"),
        ("raise MemoryError\n", sandbox.MemoryLimitExceeded, "ran out of memory"),
    ],
)
def test_agent_that_cannot_be_loaded_ends_the_consumer(
    on_change: OnChange,
    store: DataStore,
    seen: DataStore,
    events: list[sandbox.ConsumerEvent],
    source: str,
    kind: type[sandbox.SandboxError],
    text: str,
) -> None:
    """The fault is not in a change: every change would become a dead letter."""
    consumer = on_change(source, batch=2, retries=1)
    with pytest.raises(kind) as caught, consumer:  # noqa: PT012  # it is raised where the block ends
        store.set_many({"a": 1, "b": 2, "c": 3})
        wait_until(lambda: "stopped" in kinds(events), "it has ended")
    assert text in str(caught.value)
    assert caught.value.loading_failed
    assert kinds(events)[0] == "watching"
    assert kinds(events)[1:-1] == ["failed"] * len(events[1:-1])
    assert len(events) >= 4, "it was tried again"
    assert text in str(events[-1].error)
    assert len(store.use_namespace(consumer.dead_letters)) == 0
    with on_change(COLLECT):
        wait_until(lambda: len(seen) == 3, "the mended agent is given all of them")
    assert seen.get_all() == {"a": [1], "b": [2], "c": [3]}


def test_file_that_is_briefly_no_agent(
    store: DataStore, seen: DataStore, tmp_path: Path, server_url: str, user: str, events: list[sandbox.ConsumerEvent]
) -> None:
    """Editors empty a file before they write it, and a deployment may be wrong for a moment."""
    path = tmp_path / "agent.py"
    path.write_text(textwrap.dedent(COLLECT))
    options: Any = {"url": server_url, "first_wait": 0.01, "longest_wait": 0.05, "on_event": events.append}
    with sandbox.on_change(path, user=user, retries=100, **options):
        path.write_text("")
        store.set("a", 1)
        wait_until(lambda: "failed" in kinds(events), "it is no agent")
        path.unlink()
        path.mkdir()
        wait_until(lambda: "is a folder" in str(events[-1].error), "nor is a folder")
        path.rmdir()
        path.write_text(textwrap.dedent(COLLECT))
        assert seen.wait_for("a", 20) == [1]
    path.unlink()
    path.write_text("raise OSError\n")
    consumer = sandbox.on_change(path, user=user, retries=0, **options)

    async def work() -> None:
        store.set("b", 1)
        with pytest.raises(sandbox.AgentRaised, match="OSError"):
            await consumer.arun()

    asyncio.run(work())
    assert store.list_namespaces("dead-letter") == []


def test_current_runs_finish_if_the_agent_can_no_longer_be_loaded(
    on_change: OnChange, store: DataStore, seen: DataStore, events: list[sandbox.ConsumerEvent], tmp_path: Path
) -> None:
    path = tmp_path / "agent.py"
    path.write_text(
        "def run(input_dict):\n"
        "    data_store.use_namespace('seen').set('begun', 1)\n"
        "    data_store.use_namespace('seen').wait_for('go')\n"
        "    return {}\n"
    )
    consumer = on_change(path, retries=0)
    with pytest.raises(sandbox.InvalidAgent), consumer:  # noqa: PT012  # it is raised where the block ends
        store.set("a", 1)
        seen.wait_for("begun", 20)
        path.write_text("x = 1\n")
        store.set("b", 1)
        wait_until(lambda: "failed" in kinds(events), "the next run has failed")
        seen.set("go", 1)
        wait_until(lambda: "stopped" in kinds(events), "it has ended")
    assert [(event.kind, event.keys) for event in events[1:]] == [("failed", ("b",)), ("ran", ("a",)), ("stopped", ())]
    seen.clear()
    with on_change(COLLECT):
        wait_until(lambda: len(seen), "the mended agent is given what was not done")
    assert seen.get_all() == {"b": [1]}


def test_import_error_in_run_is_not_a_load_error(on_change: OnChange, store: DataStore) -> None:
    with on_change("def run(): import no_such\n", retries=0) as consumer:
        store.set("a", 1)
        wait_until(lambda: len(store.use_namespace(consumer.dead_letters)), "it is put aside")


def test_missing_isolation_ends_the_consumer(
    on_change: OnChange, store: DataStore, events: list[sandbox.ConsumerEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise sandbox.IsolationUnavailable("no tier", reasons={})

    monkeypatch.setattr("sandbox.pool.Sandbox.arun", refuse)
    consumer = on_change(COLLECT, retries=1)
    with pytest.raises(sandbox.IsolationUnavailable), consumer:  # noqa: PT012  # it is raised where the block ends
        store.set("a", 1)
        wait_until(lambda: "stopped" in kinds(events), "it has ended")
    assert kinds(events) == ["watching", "failed", "failed", "stopped"]
    assert len(store.use_namespace(consumer.dead_letters)) == 0


MIRROR = """
    def run(input_dict):
        mirror = data_store.use_namespace("seen")
        for change in input_dict["changes"]:
            if change["op"] == "set":
                mirror.set(change["key"], change["value"])
            elif change["op"] == "delete":
                mirror.delete(change["key"])
            else:
                mirror.clear()
        return {}
"""


@pytest.mark.parametrize("kind", REAL_KINDS)
def test_killed_server_loses_no_change(
    start: Callable[..., Server], on_change: OnChange, kind: str, events: list[sandbox.ConsumerEvent]
) -> None:
    server = start(kind, "--appendonly", "yes", "--appendfsync", "always")
    chance = random.Random(kind)

    def went_well(write: Callable[[], object]) -> bool:
        try:
            write()
        except redis_store.StoreUnavailable:
            return False
        return True

    with redis_store.connect(server.url, user="alice") as store:
        with on_change(MIRROR, url=server.url, user="alice", longest_wait=0.05):
            for number in range(90):
                key = f"k{chance.randrange(12)}"
                value = None if chance.random() < 0.2 else chance.random()
                write = partial(store.delete, key) if value is None else partial(store.set, key, value)
                wait_until(lambda write=write: went_well(write), "the server takes it")
                if number in (30, 60):
                    server.restart()
                if number in (20, 45, 75):
                    with server.client() as raw:
                        raw.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                        raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            seen = store.use_namespace("seen")
            wait_until(lambda: seen.get_all() == store.get_all(), "what was made of it is what is there")
        assert store.list_namespaces("dead-letter") == []
    assert "ran" in kinds(events)


def test_options_reach_the_runs(on_change: OnChange, store: DataStore, seen: DataStore) -> None:
    source = """
        import os
        async def run(input_dict):
            answer = await agents.call("child", {"n": factor})
            try:
                data_store.use_namespace("secret").set("k", 1)
            except PermissionError as error:
                answer["refused"] = type(error).__name__
            data_store.use_namespace("seen").set("said", {**answer, "env": os.environ["NAME"]})
            return {}
    """
    given = {
        "agents": {"child": "def run(input_dict):\n    return {'n': input_dict['n'] * 2}\n"},
        "globals": {"factor": 21},
        "env": {"NAME": "value"},
        "permissions": sandbox.Permissions(read=["default"], write=["seen"]),
    }
    with on_change(source, **given):
        store.set("k", 1)
        assert seen.wait_for("said", 20) == {"n": 42, "refused": "AccessDenied", "env": "value"}


def test_tools_work_if_on_event_raises(on_change: OnChange, store: DataStore) -> None:
    called = threading.Event()

    async def tool(key: str) -> None:
        called.set()

    def on_event(event: sandbox.ConsumerEvent) -> None:
        raise ValueError("no")

    source = """
        async def run(input_dict, tools):
            await tools["tool"](input_dict["changes"][0]["key"])
            return {}
    """
    with on_change(source, tools={"tool": tool}, on_event=on_event):
        store.set("a", 1)
        assert called.wait(20)


def test_arun_on_the_callers_loop(
    on_change: OnChange, store: DataStore, seen: DataStore, events: list[sandbox.ConsumerEvent]
) -> None:
    async def main() -> None:
        consumer = on_change(COLLECT)
        task = asyncio.create_task(consumer.arun())
        async with redis_store.connect_async(store.url, user=store.user) as other:
            while "watching" not in kinds(events):
                await asyncio.sleep(0.002)
            await other.set("a", 1)
            consumer.stop()
            await task
            again = asyncio.create_task(on_change(COLLECT, initial=True).arun())
            await other.use_namespace("seen").wait_for("a", 20)
            again.cancel()
            with pytest.raises(asyncio.CancelledError):
                await again

    asyncio.run(main())
    assert seen.get("a") == [1]


def test_stop_before_run(on_change: OnChange, events: list[sandbox.ConsumerEvent]) -> None:
    consumer = on_change(COLLECT)
    consumer.stop()
    consumer.run()
    assert kinds(events) == ["watching", "stopped"]


def test_unreachable_server_is_reported_at_once(on_change: OnChange) -> None:
    with pytest.raises(redis_store.ConnectionLost), on_change(COLLECT, url="redis://127.0.0.1:1/0"):
        pass


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"prefix": 1}, redis_store.InvalidType, "prefix"),
        ({"consumer": ""}, redis_store.InvalidName, "consumer name"),
        ({"consumer": 1}, redis_store.InvalidType, "consumer name"),
        ({"consumer": None}, sandbox.InvalidInput, "has no consumer name: pass consumer= or agent="),
        ({"batch": 0}, sandbox.InvalidInput, "batch=0"),
        ({"batch": True}, sandbox.InvalidType, "batch"),
        ({"concurrency": 65}, sandbox.InvalidInput, "concurrency=65"),
        ({"retries": -1}, sandbox.InvalidInput, "retries=-1"),
        ({"first_wait": 0}, sandbox.InvalidInput, "first_wait=0"),
        ({"longest_wait": "1"}, sandbox.InvalidType, "longest_wait"),
        ({"initial": 1}, sandbox.InvalidType, "initial"),
        ({"own_writes": None}, sandbox.InvalidType, "own_writes"),
        ({"on_event": 1}, sandbox.InvalidType, "on_event"),
        ({"tools": 1}, sandbox.InvalidType, "tools"),
        ({"namespace": "dead-letter:c"}, sandbox.InvalidInput, "its own dead letters"),
    ],
)
def test_bad_input_is_refused_at_once(
    on_change: OnChange, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        on_change(COLLECT, **options)


def test_bad_names_are_refused_at_start(on_change: OnChange, user: str) -> None:
    with pytest.raises(redis_store.InvalidName):
        on_change(COLLECT, user="").run()
    with pytest.raises(redis_store.InvalidName), on_change(COLLECT, namespace=""):
        pass
