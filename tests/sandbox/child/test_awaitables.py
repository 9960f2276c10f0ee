"""What an agent may await, and what it may give to a call that blocks."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import sandbox
from redis_store import DataStore
from sandbox.protocol.operations import REFUSABLE

pytestmark = pytest.mark.usefixtures("nothing_left")


async def fetch(url: str) -> str:
    await asyncio.sleep(0)
    return f"page {url}"


TOOLS = {"fetch": fetch, "plain": lambda value=None: value}


def test_plain_tool_may_be_awaited(run: Any) -> None:
    result = run(
        """
        import functools
        from modules.of_the_host import plain

        async def produce(tools):
            yield await tools["plain"](5)

        async def run(input_dict, tools):
            plainly, name = functools.partial(tools["plain"], 1), "plain"
            return {
                "called": tools["plain"]("x") + tools["plain"](value="y"),
                "awaited": [
                    await tools["plain"]({"a": [1]}),
                    await tools[name](value=None),
                    await plain(*["z"]),
                    await plainly(),
                    await tools["plain"](tools["plain"](await tools["fetch"](await tools["plain"]("u")))),
                    [await tools["plain"](n) for n in range(2)],
                    [one async for one in produce(tools)],
                ],
                "value": (await tools["plain"]("a")).upper() + tools["plain"]("b").upper(),
                "thread": await asyncio.to_thread(tools["plain"], 5),
            }
        """,
        tools=TOOLS,
        modules={"modules.of_the_host": {"plain": TOOLS["plain"]}},
    )
    assert result.check() == {
        "called": "xy",
        "awaited": [{"a": [1]}, None, "z", 1, "page u", [0, 1], [5]],
        "value": "AB",
        "thread": 5,
    }


def test_awaited_plain_tools_overlap_and_can_be_given_up(run: Any) -> None:
    barrier, release = threading.Barrier(3, timeout=20), threading.Event()
    result = run(
        """
        async def one(tool):
            return await tool()

        async def run(input_dict, tools):
            met = await asyncio.gather(*(one(tools["meet"]) for _ in range(3)))
            try:
                await asyncio.wait_for(one(tools["hang"]), 0.05)
            except TimeoutError:
                return {"met": met}
        """,
        tools={"meet": lambda: barrier.wait() >= 0, "hang": lambda: release.wait(20)},
    )
    release.set()
    assert result.check() == {"met": [True, True, True]}


def test_functions_of_asyncio_take_the_results_of_plain_tools(run: Any) -> None:
    result = run(
        """
        async def run(input_dict, tools):
            plain, fetch = tools["plain"], tools["fetch"]
            async with asyncio.TaskGroup() as group:
                in_group = group.create_task(plain({"n": 1})), group.create_task(fetch("g"), name="named")
            return {
                "gather": await asyncio.gather(plain([1]), fetch("u"), plain(None), plain({}), return_exceptions=True),
                "wait_for": await asyncio.wait_for(plain("w"), timeout=5),
                "shield": await asyncio.shield(plain(1.5)),
                "task": await asyncio.create_task(plain(True)),
                "future": await asyncio.ensure_future(plain("f")),
                "completed": [await one for one in asyncio.as_completed([plain({"n": 2})])],
                "group": [task.result() for task in in_group],
            }
        """,
        tools=TOOLS,
    )
    assert result.check() == {
        "gather": [[1], "page u", None, {}],
        "wait_for": "w",
        "shield": 1.5,
        "task": True,
        "future": "f",
        "completed": [{"n": 2}],
        "group": [{"n": 1}, "page g"],
    }


def test_computations_await_what_their_function_returns(run: Any) -> None:
    result = run(
        """
        async def make(*_):
            await asyncio.sleep(0)
            pages = await asyncio.gather(agents.call("other", {"n": 1}), tools["fetch"]("m"))
            return [*pages, data_store.get_or_set("inner", lambda: tools["fetch"]("inner"))]

        async def run(input_dict, given):
            global tools
            tools = given
            cached = data_store.cached()(lambda url: tools["fetch"](url))
            return {
                "tool": data_store.get_or_set("url", lambda: tools["fetch"]("u")),
                "again": data_store.get_or_set("url", lambda: tools["fetch"]("other")),
                "function": data_store.get_or_set("function", make),
                "update": data_store.update("n", lambda value: tools["fetch"](value), default=5),
                "transact": data_store.transact(make)[2],
                "cached": [cached("c"), cached("c")],
            }
        """,
        tools=TOOLS,
        agents={"other": "def run(i): return i"},
    )
    assert result.check() == {
        "tool": "page u",
        "again": "page u",
        "function": [{"n": 1}, "page m", "page inner"],
        "update": "page 5",
        "transact": "page inner",
        "cached": ["page c", "page c"],
    }
    assert [call.name for call in result.calls].count("fetch") == 6


def test_computation_without_an_event_loop_awaits_and_passes_errors_on(run: Any, store: DataStore) -> None:
    result = run(
        """
        async def fail():
            raise LookupError("no such page")

        def run(input_dict, tools):
            try:
                data_store.get_or_set("bad", fail)
            except LookupError as error:
                return {"error": str(error), "good": data_store.get_or_set("good", lambda: tools["fetch"]("u"))}
        """,
        tools=TOOLS,
    )
    assert result.check() == {"error": "no such page", "good": "page u"}
    assert store.list_keys() == ["good"]


def test_computation_that_could_never_end_is_refused(run: Any) -> None:
    """What belongs to the event loop that the call blocks."""
    result = run(
        """
        async def run(input_dict, tools):
            said = []
            for make in (lambda: asyncio.gather(tools["fetch"]("u")), lambda: asyncio.create_task(tools["fetch"]("u"))):
                try:
                    data_store.get_or_set("key", make)
                except TypeError as error:
                    said.append(str(error))
            return {"said": said, "keys": data_store.list_keys()}
        """,
        tools=TOOLS,
    )
    said = "<lambda> returned a {} of the event loop that waits for it: return a coroutine, as an `async def` does."
    assert result.check() == {"said": [said.format(kind) for kind in ("_GatheringFuture", "Task")], "keys": []}
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("call", "operation"),
    [
        ("data_store.set('k', 1)", "set"),
        ("data_store.get('k')", "get"),
        ("data_store.use_namespace('other').set_many({'k': 1})", "set_many"),
        ("data_store.get_or_set('k', lambda: 1)", "get_or_set"),
        ("data_store.list_keys()", "list_keys"),
    ],
)
def test_awaited_call_of_the_store_is_refused_before_it_is_sent(
    run: Any, store: DataStore, call: str, operation: str
) -> None:
    result = run(f"async def run(input_dict):\n    return {{'value': await {call}}}\n")
    assert isinstance(result.error, sandbox.AgentRaised)
    assert result.error.message == f"data_store is not awaited: remove `await` from the call of {operation}."
    assert [one.error for one in result.operations] == ["InvalidType"] * (operation in REFUSABLE)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("await data_store['k']", "object dict can't be used in 'await' expression. A value is not awaited, and all"),
        ("await data_store.use_namespace('x')", "object DataStore can't be used in 'await' expression. A value"),
        ("async for key in data_store: pass", "got DataStore. data_store is not asynchronous: remove `async`."),
        ("async for key in data_store.iter_keys(): pass", "got generator. data_store is not asynchronous: remove"),
        ("async with data_store.transaction(): pass", "protocol. data_store and its transactions are not asynchronous"),
    ],
)
def test_other_slips_are_explained(run: Any, body: str, message: str) -> None:
    result = run(f"async def run(input_dict):\n    data_store['k'] = {{}}\n    {body}\n")
    assert isinstance(result.error, sandbox.AgentRaised)
    assert message in str(result.error)
    assert str(result.error).endswith("remove `await`." if "await " in body else "remove `async`.")


def test_calls_of_the_store_in_other_places_are_not_taken_for_awaited_ones(run: Any) -> None:
    result = run(
        """
        import _thread

        async def same(value):
            return value

        async def run(input_dict):
            data_store.set("k", 1)
            _thread.start_new_thread(data_store.set, ("thread", 2))
            value = [await same(data_store.get("k")), await asyncio.to_thread(data_store.get, "k")]
            while "thread" not in data_store:
                await asyncio.sleep(0.001)
            return {"value": value, "cached": await data_store.cached()(same)(5)}
        """
    )
    assert result.check() == {"value": [1, 1], "cached": 5}
