"""LangGraph's checkpointer: its own conformance suite, and what that leaves open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

from redis_store import DataStore, InvalidInput, connect, connect_async
from redis_store.integrations.langgraph import LangGraphSaver, pruning
from redis_store.integrations.langgraph.threads import VALUES_PER_TRANSACTION
from tests.integrations.killed import SteppedWriter, run_and_kill, stepped_writer
from tests.integrations.requests import counted_requests

ALL = {"put", "put_writes", "get_tuple", "list", "delete_thread", "delete_for_runs", "copy_thread", "prune"}


@pytest.fixture
def saver(store: DataStore) -> LangGraphSaver:
    return LangGraphSaver(store)


def config_of(thread: str, checkpoint: str | None = None, ns: str = "") -> Any:
    configurable = {"thread_id": thread, "checkpoint_ns": ns}
    return {"configurable": configurable if checkpoint is None else {**configurable, "checkpoint_id": checkpoint}}


def checkpoint_of(id_: str | None = None, **values: Any) -> Checkpoint:
    checkpoint = empty_checkpoint()
    checkpoint["id"] = id_ or str(uuid6())
    checkpoint["channel_values"] = values
    checkpoint["channel_versions"] = dict.fromkeys(values, checkpoint["id"])
    return checkpoint


def put(saver: LangGraphSaver, config: Any, run: str = "run", id_: str | None = None, **values: Any) -> Any:
    checkpoint = checkpoint_of(id_, **values)
    return saver.put(config, checkpoint, {"run_id": run}, checkpoint["channel_versions"])


@pytest.mark.parametrize("kind", ["url", "store", "async"])
def test_conformance(kind: str, server_url: str, user: str) -> None:
    opened: list[Any] = []

    @checkpointer_test(name=kind)
    async def checkpointer() -> AsyncIterator[LangGraphSaver]:
        if kind == "url":
            saver = LangGraphSaver(server_url, user=user)
        elif kind == "store":
            opened.append(connect(server_url, user=user))
            saver = LangGraphSaver(opened[-1])
        else:
            opened.append(connect_async(server_url, user=user))
            saver = LangGraphSaver(opened[-1])
        yield saver
        await saver.aclose()
        if kind == "async":
            await opened[-1].close()

    report = asyncio.run(validate(checkpointer))
    failures = [failure for result in report.results.values() for failure in result.failures]
    assert failures == []
    assert {name for name, result in report.results.items() if result.passed} == ALL
    for each in opened:
        if isinstance(each, DataStore):
            each.close()


def test_latest_is_the_latest_id_whatever_the_order_of_writing(saver: LangGraphSaver) -> None:
    ids = sorted(str(uuid6()) for _ in range(3))
    for id_ in reversed(ids):
        put(saver, config_of("t"), id_=id_, n=id_)
    found = saver.get_tuple(config_of("t"))
    assert found is not None
    assert found.checkpoint["channel_values"] == {"n": ids[-1]}
    assert [each.checkpoint["id"] for each in saver.list(config_of("t"), limit=2)] == [ids[2], ids[1]]
    assert list(saver.list(config_of("t"), limit=0)) == []


def test_a_fork_overwrites_no_value_of_the_other_branch(saver: LangGraphSaver) -> None:
    graph = _counting(saver)
    graph.invoke({"log": ["a"]}, config_of("t"))
    first = graph.get_state(config_of("t"))
    graph.invoke({"log": ["b"]}, config_of("t"))
    second = graph.get_state(config_of("t"))
    graph.invoke({"log": ["c"]}, first.config)
    assert graph.get_state(second.config).values == {"log": ["a", "b"]}
    assert graph.get_state(config_of("t")).values == {"log": ["a", "c"]}


def test_repeated_writes_of_a_task(saver: LangGraphSaver) -> None:
    config = put(saver, config_of("t"))
    for text in ("first", "again"):
        saver.put_writes(config, [("x", text), ("__error__", text)], "task", "path")
    found = saver.get_tuple(config)
    assert found is not None
    assert found.pending_writes == [("task", "__error__", "again"), ("task", "x", "first")]


NAMES = ["*", "a\nb", "../x", "", "x" * 2048, "x" * 2047 + "y", "a~" + "0" * 64, "\ud800", "langgraph/threads/*"]


def test_names_are_data(saver: LangGraphSaver, server_url: str) -> None:
    for number, name in enumerate(NAMES):
        config = put(saver, config_of(name, ns=name), n=number)
        saver.put_writes(config, [("x", number)], "task")
    for number, name in enumerate(NAMES):
        found = saver.get_tuple(config_of(name, ns=name))
        assert found is not None
        assert found.checkpoint["channel_values"] == {"n": number}
        assert found.pending_writes == [("task", "x", number)]
    assert sorted(each.config["configurable"]["thread_id"] for each in saver.list(None)) == sorted(NAMES)
    with connect(server_url, user="other") as other:
        LangGraphSaver(other).delete_thread("*")
    saver.delete_thread("*")
    left = [each.config["configurable"]["thread_id"] for each in saver.list(None)]
    assert sorted(left) == sorted(set(NAMES) - {"*"})


def test_round_trips(saver: LangGraphSaver, server_url: str) -> None:
    config = put(saver, config_of("t"), a=1, b=2)
    calls: dict[Callable[[], Any], int] = {
        lambda: saver.put_writes(config, [("a", 2), ("b", 3)], "task"): 1,
        lambda: put(saver, config, a=2, b=2): 2,
        lambda: saver.get_tuple(config): 2,
        lambda: saver.get_tuple(config_of("t")): 3,
    }
    for call, most in calls.items():
        with counted_requests(server_url) as count:
            call()
            assert count() == most


def test_more_values_than_a_transaction_takes(saver: LangGraphSaver) -> None:
    values = {f"channel {number}": number for number in range(VALUES_PER_TRANSACTION + 200)}
    put(saver, config_of("t"), **values)
    found = saver.get_tuple(config_of("t"))
    assert found is not None
    assert found.checkpoint["channel_values"] == values


def test_deleting_a_run_keeps_what_other_checkpoints_share(saver: LangGraphSaver, store: DataStore) -> None:
    first = checkpoint_of(shared="kept", own="gone")
    config = saver.put(config_of("t"), first, {"run_id": "one"}, first["channel_versions"])
    second = checkpoint_of()
    second["channel_versions"] = {"shared": first["channel_versions"]["shared"]}
    saver.put(config, second, {"run_id": "two"}, {})
    third = put(saver, config_of("t"), run="three", last=1)
    saver.delete_for_runs(["one", "three"])
    assert saver.get_tuple(third) is None
    found = saver.get_tuple(config_of("t"))
    assert found is not None
    assert found.checkpoint["channel_values"] == {"shared": "kept"}
    assert len([key for key in store.use_namespace("langgraph/threads/t") if key.startswith('["value",')]) == 1
    saver.delete_for_runs(["two"])
    assert saver.get_tuple(config_of("t")) is None
    assert store.list_namespaces() == []


def test_pruning_more_than_a_transaction_deletes(saver: LangGraphSaver, store: DataStore) -> None:
    config = config_of("t")
    for number in range(230):
        config = put(saver, config, n=number)
        saver.put_writes(config, [("n", number)], "task")
    saver.prune(["t"])
    (left,) = saver.list(config_of("t"))
    assert left.checkpoint["channel_values"] == {"n": 229}
    assert len(store.use_namespace("langgraph/threads/t")) == 4


def test_a_checkpoint_written_while_its_thread_is_pruned_keeps_its_values(
    saver: LangGraphSaver, store: DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = checkpoint_of(shared="kept")
    config = saver.put(config_of("t"), first, {}, first["channel_versions"])
    config = put(saver, config, other=1)
    choose = pruning.superseded
    second = checkpoint_of()
    second["channel_versions"] = dict(first["channel_versions"])
    written = []

    async def choose_and_write(threads: Any, thread: Any, rows: Any) -> Any:
        chosen = await choose(threads, thread, rows)
        if not written:  # after it was decided that nobody needs the value
            written.append(saver.put(config, second, {}, {}))
        return chosen

    monkeypatch.setattr(pruning, "superseded", choose_and_write)
    saver.prune(["t"])
    found = saver.get_tuple(config_of("t"))
    assert found is not None
    assert found.checkpoint["id"] == second["id"]
    assert found.checkpoint["channel_values"] == {"shared": "kept"}


def test_copying_into_a_thread_that_has_later_checkpoints(saver: LangGraphSaver) -> None:
    put(saver, config_of("a"), n=1)
    later = put(saver, config_of("y" * 2000), n=2)
    saver.copy_thread("a", "y" * 2000)
    found = saver.get_tuple(config_of("y" * 2000))
    assert found is not None
    assert found.config == later
    assert len(list(saver.list(config_of("y" * 2000)))) == 2
    saver.copy_thread("y" * 2000, "b")
    assert {each.config["configurable"]["thread_id"] for each in saver.list(None)} == {"a", "b", "y" * 2000}


def test_pruning_keeps_what_a_delta_channel_is_rebuilt_from(saver: LangGraphSaver) -> None:
    app = _delta_graph(saver, Delta)
    for _ in range(5):
        app.invoke({"log": ["in"]}, config_of("t"))
    before = app.get_state(config_of("t")).values
    all_before = len(list(saver.list(config_of("t"))))
    saver.prune(["t"])
    assert app.get_state(config_of("t")).values == before
    assert len(before["log"]) == 10
    assert 1 < len(list(saver.list(config_of("t")))) < all_before


def test_the_history_of_delta_channels_is_read_in_pages(saver: LangGraphSaver, server_url: str) -> None:
    app = _delta_graph(saver, LongDelta)
    for _ in range(30):
        app.invoke({"log": ["in"]}, config_of("t"))
    for config in [config_of("t"), app.get_state(config_of("t")).config, config_of("none")]:
        channels = ["log", "other", "absent"]
        expected = BaseCheckpointSaver.get_delta_channel_history(saver, config=config, channels=channels)
        with counted_requests(server_url) as count:
            assert saver.get_delta_channel_history(config=config, channels=channels) == expected
            assert count() < 20  # a reply of some ancestors is more than one read, and walking takes 180
        assert asyncio.run(saver.aget_delta_channel_history(config=config, channels=channels)) == expected
    assert saver.get_delta_channel_history(config=config_of("t"), channels=[]) == {}


WRITER = """
import sys
from redis_store.integrations.langgraph import LangGraphSaver
from tests.integrations.test_langgraph_checkpoints import config_of, put

saver = LangGraphSaver(sys.argv[1], user=sys.argv[2])
config = config_of("t")
number = 0
while True:
    config = put(saver, config, **{f"channel {n}": [number] * 200 for n in range(20)})
    saver.put_writes(config, [("a", number), ("b", number)], "task")
    number += 1
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_only_whole_checkpoints(saver: LangGraphSaver, server_url: str, user: str) -> None:
    run_and_kill(WRITER, server_url, user, lines=20)
    found = list(saver.list(config_of("t"), limit=20))
    assert len(found) == 20
    for each in found:
        values = each.checkpoint["channel_values"]
        assert len(values) == 20
        assert len({tuple(value) for value in values.values()}) == 1
        assert len(each.pending_writes or ()) in (0, 2)
    latest = saver.get_tuple(config_of("t"))
    assert latest is not None
    assert latest.config == found[0].config


WRITES = """
from redis_store.integrations.langgraph import LangGraphSaver
from tests.integrations.test_langgraph_checkpoints import checkpoint_of, config_of

async def write(store, what):
    saver = LangGraphSaver(store)
    if what == "put":
        checkpoint = checkpoint_of("3", **{f"channel {n}": 3 for n in range(901)})
        await saver.aput(config_of("t", "2"), checkpoint, {}, checkpoint["channel_versions"])
    elif what == "copy":
        await saver.acopy_thread("t", "new")
    elif what == "prune":
        await saver.aprune(["t"])
    else:
        await saver.adelete_thread("t")
"""


@pytest.fixture(scope="module")
def writer(server_url: str) -> Iterator[SteppedWriter]:
    with stepped_writer(server_url, WRITES) as process:
        yield process


@pytest.mark.parametrize(
    ("what", "after"),
    [
        ("put", {"t": ["3", "2", "1"]}),
        ("copy", {"t": ["2", "1"], "new": ["2", "1"]}),
        ("prune", {"t": ["2"]}),
        ("delete", {}),
    ],
    ids=lambda value: str(value)[:6],
)
def test_a_killed_process_leaves_no_half_thread(
    saver: LangGraphSaver, server_url: str, user: str, writer: SteppedWriter, what: str, after: dict[str, list[str]]
) -> None:
    before = {"t": ["2", "1"]}
    seen = []
    killed = True
    while killed:
        for thread in ("t", "new"):
            saver.delete_thread(thread)
        put(saver, put(saver, config_of("t"), id_="1", a=1, b=1), id_="2", a=2, b=2)
        killed = writer.is_killed(user, what, len(seen) + 1)
        threads: dict[str, list[str]] = {}
        for each in saver.list(None):
            values = each.checkpoint["channel_values"]
            assert set(values.values()) == {int(each.checkpoint["id"])}
            assert len(values) == (901 if each.checkpoint["id"] == "3" else 2)
            threads.setdefault(each.config["configurable"]["thread_id"], []).append(each.checkpoint["id"])
        seen.append(threads)
        for thread, ids in threads.items():
            latest = saver.get_tuple(config_of(thread))
            assert latest is not None
            assert latest.checkpoint["id"] == ids[0]
    assert len(seen) > 1
    assert all(each in (before, after) for each in seen)
    assert (seen[0], seen[-1]) == (before, after)


def test_what_cannot_be_used_is_refused(store: DataStore, server_url: str) -> None:
    with pytest.raises(InvalidInput, match="pass a store, or user="):
        LangGraphSaver(server_url)
    with pytest.raises(InvalidInput, match="pass one of them"):
        LangGraphSaver(store, user="ada")
    with pytest.raises(InvalidInput, match="not a dict"):
        LangGraphSaver({})  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="DataStore or a url"):
        LangGraphSaver(connect_async(server_url, user="ada")).get_tuple(config_of("t"))
    with pytest.raises(InvalidInput, match="keep_latest"):
        LangGraphSaver(store).prune(["t"], strategy="keep_some")


class Log(TypedDict):
    log: Annotated[list[str], lambda old, new: old + new]


def _extended(state: list[str], writes: Any) -> list[str]:
    return [*state, *(text for write in writes for text in write)]


class Delta(TypedDict):
    log: Annotated[list[str], DeltaChannel(_extended, snapshot_frequency=4)]
    other: Annotated[list[str], DeltaChannel(_extended, snapshot_frequency=3)]


class LongDelta(TypedDict):
    log: Annotated[list[str], DeltaChannel(_extended, snapshot_frequency=1000)]
    other: Annotated[list[str], DeltaChannel(_extended, snapshot_frequency=20)]


def _delta_graph(saver: LangGraphSaver, state: Any) -> Any:
    graph = StateGraph(state)
    graph.add_node("work", lambda state: {"log": [str(len(state["log"]))], "other": ["x"]})
    graph.add_edge(START, "work")
    graph.add_edge("work", END)
    return graph.compile(checkpointer=saver)


def _counting(saver: LangGraphSaver) -> Any:
    graph = StateGraph(Log)
    graph.add_node("work", lambda state: {})
    graph.add_edge(START, "work")
    graph.add_edge("work", END)
    return graph.compile(checkpointer=saver)


def test_a_graph_pauses_and_goes_on_in_another_process(server_url: str, user: str, store: DataStore) -> None:
    inner = StateGraph(Log)
    inner.add_node("ask", lambda state: {"log": [interrupt("which?")]})
    inner.add_edge(START, "ask")
    outer = StateGraph(Log)
    outer.add_node("fan", lambda state: {"log": ["fan"]})
    outer.add_node("inner", inner.compile())
    outer.add_node("each", lambda state: {"log": [state["part"]]})
    outer.add_edge(START, "fan")
    outer.add_conditional_edges("fan", lambda state: ["inner", *(Send("each", {"part": part}) for part in "abc")])

    async def begin() -> Any:
        async with LangGraphSaver(server_url, user=user) as saver:
            return await outer.compile(checkpointer=saver).ainvoke({"log": ["in"]}, config_of("t"))

    paused = asyncio.run(begin())
    assert [each.value for each in paused["__interrupt__"]] == ["which?"]
    app: Any = outer.compile(checkpointer=LangGraphSaver(store))
    waiting = app.get_state(config_of("t"), subgraphs=True)
    assert [task.name for task in waiting.tasks if task.interrupts] == ["inner"]
    done = app.invoke(Command(resume="this"), config_of("t"))
    assert sorted(done["log"]) == sorted(["in", "fan", "in", "fan", "this", "a", "b", "c"])
    assert [state.next for state in app.get_state_history(config_of("t"))][-1] == ("__start__",)


def test_an_asyncio_store_runs_a_graph(server_url: str, user: str) -> None:
    async def run() -> Any:
        async with connect_async(server_url, user=user) as store:
            app = _counting(LangGraphSaver(store))
            await app.ainvoke({"log": ["a"]}, config_of("t"))
            await asyncio.gather(*(app.ainvoke({"log": [name]}, config_of(name)) for name in "abcdefgh"))
            await app.aupdate_state(config_of("t"), {"log": ["b"]})
            return (await app.aget_state(config_of("t"))).values

    assert asyncio.run(run()) == {"log": ["a", "b"]}
