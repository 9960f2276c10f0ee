"""Host functions called by an agent."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import Any

import pytest

import sandbox
from redis_store import DataStore

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_sync_tools_return_and_async_tools_are_awaited(run: Any) -> None:
    async def fetch(url: str, *, retries: int = 0) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"url": url, "retries": retries}

    class Adder:
        def __init__(self, base: int) -> None:
            self.base = base

        def __call__(self, n: int) -> int:
            return self.base + n

        async def later(self, n: int) -> int:
            return self.base - n

    result = run(
        """
        import inspect
        async def run(input_dict, tools):
            return {
                "plain": tools["add"](2),
                "fetch": await tools["fetch"]("x", retries=3),
                "partial": await tools["partial"](),
                "method": await tools["later"](1),
                "lambda": tools["coro"](),
                "kinds": [inspect.iscoroutinefunction(t) for t in tools.values()],
                "names": [t.__name__ for t in tools.values()],
                "thread": await asyncio.to_thread(tools["add"], 5),
            }
        """,
        tools={
            "add": Adder(10),
            "fetch": fetch,
            "partial": functools.partial(fetch, "p"),
            "later": Adder(10).later,
            "coro": lambda: fetch("l"),
        },
    )
    assert result.check() == {
        "plain": 12,
        "fetch": {"url": "x", "retries": 3},
        "partial": {"url": "p", "retries": 0},
        "method": 9,
        "lambda": {"url": "l", "retries": 0},
        "kinds": [False, True, True, True, False],
        "names": ["add", "fetch", "partial", "later", "coro"],
        "thread": 15,
    }


def test_sync_run_calls_tools(run: Any) -> None:
    async def double(n: int) -> int:
        return 2 * n

    result = run(
        "def run(input_dict, tools):\n    return {'a': tools['len']('abc'), 'b': asyncio.run(tools['double'](4))}\n",
        tools={"len": len, "double": double},
    )
    assert result.check() == {"a": 3, "b": 8}


CONCURRENT = """
async def run(input_dict, tools):
    return {"met": await asyncio.gather(%s)}
"""


def test_concurrent_async_calls_overlap(run: Any) -> None:
    waiting = 0

    async def meet() -> int:
        nonlocal waiting
        waiting += 1
        while waiting < 3:
            await asyncio.sleep(0.001)
        return waiting

    assert run(CONCURRENT % "*(tools['meet']() for _ in range(3))", tools={"meet": meet}).check() == {"met": [3, 3, 3]}


def test_concurrent_sync_calls_overlap(run: Any) -> None:
    barrier = threading.Barrier(3, timeout=20)
    source = CONCURRENT % "*(asyncio.to_thread(tools['meet']) for _ in range(3))"
    result = run(source, tools={"meet": lambda: barrier.wait() >= 0})
    assert result.check() == {"met": [True, True, True]}


def test_thousand_concurrent_calls(run: Any) -> None:
    async def echo(n: int) -> int:
        await asyncio.sleep(0)
        return n

    result = run(CONCURRENT % "*(tools['echo'](n) for n in range(1000))", tools={"echo": echo})
    assert result.check() == {"met": list(range(1000))}


def test_tools_run_on_the_loop_of_arun(server_url: str, user: str) -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()

        async def same_loop() -> bool:
            return asyncio.get_running_loop() is loop

        source = "async def run(i, tools): return {'same': await tools['same']()}"
        return await sandbox.arun(source, {}, user=user, url=server_url, tools={"same": same_loop})

    assert asyncio.run(main()).check() == {"same": True}


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_exception_arrives_as_name_and_message(run: Any, kind: str) -> None:
    def plain() -> None:
        raise FileNotFoundError("no such page")

    async def later() -> None:
        plain()

    call = "tools['t']()" if kind == "plain" else "await tools['t']()"
    source = f"""
async def run(input_dict, tools):
    try:
        {call}
    except Exception as error:
        print(type(error).__name__, "/", error, "/", error.__cause__, "/", error.__context__)
    {call}
"""
    result = run(source, tools={"t": plain if kind == "plain" else later})
    assert result.stdout == "ToolError / FileNotFoundError: no such page / None / None\n"
    assert isinstance(result.error, sandbox.AgentRaised)
    assert str(result.error) == "Agent 'agent' raised ToolError: FileNotFoundError: no such page"
    assert "test_tools.py" not in result.error.traceback
    assert "sandbox/child" not in result.error.traceback


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), StopIteration(1)])
def test_odd_exceptions_of_tools_are_harmless(run: Any, error: BaseException) -> None:
    def plain() -> None:
        raise error

    async def later() -> None:
        raise error

    source = """
async def run(input_dict, tools):
    said = []
    for call in (lambda: asyncio.to_thread(tools["plain"]), lambda: tools["later"]()):
        try:
            await call()
        except Exception as error:
            said.append(str(error))
    return {"said": said, "fine": await tools["fine"]()}
"""

    async def fine() -> bool:
        return True

    output = run(source, tools={"plain": plain, "later": later, "fine": fine}).check()
    assert output["fine"] is True
    assert type(error).__name__ in output["said"][0]
    assert len(output["said"]) == 2


def test_unknown_tool_error_lists_the_tools(run: Any) -> None:
    result = run("def run(i, tools): return {'x': tools['fetch']()}", tools={"a": print, "b": print})
    assert isinstance(result.error, sandbox.AgentRaised)
    assert result.error.type_name == "KeyError"
    assert "there is no tool 'fetch'; there are: 'a', 'b'" in result.error.message
    assert "none were given" in str(run("def run(i, tools): return tools['x']").error)
    assert run("def run(i, tools): return {'x': 'a' in tools, 'y': tools.get('x')}").check() == {"x": False, "y": None}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("tools['echo']({1})", "args[0] is a set"),
        ("tools['echo'](1, {'a': [b'']})", 'args[1]["a"][0] is a bytes'),
        ("tools['echo'](x=float('nan'))", 'kwargs["x"] is nan'),
        ("tools['bad']()", "the tool's result[1] is a set"),
        ("tools['echo'](1, 2, 3)", "TypeError"),
        ("tools['echo']('x' * 2000)", "2,006 bytes as JSON, and at most 1,500 are allowed"),
        ("tools['big']()", "the tool's result takes 2,002 bytes as JSON, over the limit"),
    ],
)
def test_values_that_are_not_json_are_refused(run: Any, call: str, message: str) -> None:
    result = run(
        f"async def run(input_dict, tools): return {{'x': {call}}}",
        tools={"echo": lambda a=0, b=0: a, "bad": lambda: [1, {2}], "big": lambda: "x" * 2000},
        limits=sandbox.Limits(result_bytes=1500),
    )
    assert isinstance(result.error, sandbox.AgentRaised)
    assert message in str(result.error)


@pytest.mark.parametrize("tool", ["plain", "later"])
def test_unreadable_result_fails_the_call(run: Any, tool: str) -> None:
    """For example a dict that another host thread changes at that moment: the agent must not wait forever."""

    class Changed(dict[str, int]):
        def items(self) -> Any:
            raise RuntimeError("dictionary changed size during iteration")

    async def later() -> Any:
        return {"nested": Changed(a=1)}

    result = run(
        """
        from sandbox.errors import ToolError
        async def run(input_dict, tools):
            try:
                value = tools[input_dict["tool"]]()
                return {"value": await value if asyncio.iscoroutine(value) else value}
            except ToolError as error:
                return {"refused": str(error)}
        """,
        {"tool": tool},
        tools={"plain": lambda: Changed(a=1), "later": later},
        limits=sandbox.Limits(timeout_s=10),
    )
    refused = "the tool's result cannot be read (RuntimeError: dictionary changed size during iteration)"
    assert result.check() == {"refused": refused}
    assert [(call.name, call.error) for call in result.calls] == [(tool, "RuntimeError")]


def test_values_arrive_unchanged(run: Any) -> None:
    value = {"a": [1, 2.5, None, True, "é\u2028", 10**30, {"b": {}}], "": []}
    assert run("def run(i, tools): return {'back': tools['echo'](i)}", value, tools={"echo": lambda v: v}).check() == {
        "back": value
    }


def test_hanging_tool_does_not_delay_the_run(run: Any) -> None:
    release = threading.Event()
    cancelled = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    result = run(
        """
        async def run(input_dict, tools):
            asyncio.create_task(tools["forever"]())
            asyncio.get_running_loop().run_in_executor(None, tools["hang"])
            await asyncio.sleep(0)
            tools["ready"]()
            return {"done": True}
        """,
        tools={"hang": release.wait, "forever": forever, "ready": lambda: None},
    )
    release.set()
    assert result.check() == {"done": True}
    assert cancelled.wait(20)


def test_hanging_tool_at_the_time_limit(run: Any) -> None:
    release = threading.Event()
    result = run(
        "def run(i, tools): tools['hang']()", tools={"hang": release.wait}, limits=sandbox.Limits(timeout_s=0.3)
    )
    release.set()
    assert isinstance(result.error, sandbox.TimeLimitExceeded)


def test_cancelled_call_does_not_affect_the_next(run: Any) -> None:
    async def wait(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    result = run(
        """
        async def run(input_dict, tools):
            try:
                await asyncio.wait_for(tools["wait"](0.05), 0.001)
            except TimeoutError:
                print("gave up")
            return {"next": [await tools["wait"](0.1), await tools["wait"](0)]}
        """,
        tools={"wait": wait},
    )
    assert result.check() == {"next": [0.1, 0]}
    assert result.stdout == "gave up\n"


def test_tool_may_use_the_store_and_run_agents(run: Any, store: DataStore) -> None:
    def inner(n: int) -> Any:
        store.set("from-tool", n)
        return run("def run(i): return {'n': data_store.get('from-tool') + 1}").check()

    assert run("def run(i, tools): return tools['inner'](4)", tools={"inner": inner}).check() == {"n": 5}


class Forever:
    """An async tool that ends only when it is cancelled; `left` waits until no call of it is under way."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended: list[Any] = []

    async def __call__(self, name: Any = None) -> None:
        self.begun.append(name)
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append(name)

    async def begins(self, count: int) -> None:
        while len(self.begun) < count:
            await asyncio.sleep(0.001)

    async def ends(self, count: int) -> list[Any]:
        while len(self.ended) < count:
            await asyncio.sleep(0.001)
        return sorted(self.ended)

    @property
    def tools(self) -> dict[str, Any]:
        return {"forever": self, "plainly": lambda name: self(name), "begins": self.begins, "ends": self.ends}


def test_call_that_is_given_up_is_cancelled_in_the_host(run: Any) -> None:
    result = run(
        """
        import signal, threading

        async def in_a_group(tools):
            async with asyncio.TaskGroup() as group:
                group.create_task(tools["forever"]("group"))
                await tools["begins"](4)
                raise LookupError

        waiting = False

        def ring(*_):
            global waiting
            if waiting:
                waiting = False
                raise KeyError

        def ring_when_begun(tools, count):
            asyncio.run(tools["begins"](count))
            signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)  # again and again: one could come just before the call blocks

        async def run(input_dict, tools):
            global waiting
            task = asyncio.create_task(tools["forever"]("task"))
            await tools["begins"](1)
            task.cancel()
            try:
                await asyncio.wait_for(tools["forever"]("wait_for"), 0.05)
            except TimeoutError:
                pass
            try:
                async with asyncio.timeout(0.05):
                    await tools["forever"]("timeout")
            except TimeoutError:
                pass
            try:
                await in_a_group(tools)
            except* LookupError:
                pass
            signal.signal(signal.SIGALRM, ring)
            for begun, call in (
                (5, lambda: tools["plainly"]("signal")),
                (6, lambda: data_store.get_or_set("key", lambda: tools["forever"]("computation"))),
            ):
                waiting = True
                threading.Thread(target=ring_when_begun, args=(tools, begun)).start()
                try:
                    call()
                except KeyError:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            return {"ended": await tools["ends"](6), "next": await tools["ends"](0)}
        """,
        tools=Forever().tools,
        limits=sandbox.Limits(timeout_s=20),
    )
    ended = ["computation", "group", "signal", "task", "timeout", "wait_for"]
    assert result.check() == {"ended": ended, "next": ended}
    given_up = [call for call in result.calls if call.name in ("forever", "plainly")]
    assert {call.error for call in given_up} == {"CancelledError"}


def test_calls_that_are_given_up_take_no_places(run: Any) -> None:
    """More at once than may be under way, so that some are given up before they were sent."""
    result = run(
        """
        async def run(input_dict, tools):
            for n in range(3):
                tasks = [asyncio.create_task(tools["forever"](n)) for _ in range(300)]
                await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            return {"ended": len(await tools["ends"](256))}
        """,
        tools=Forever().tools,
        limits=sandbox.Limits(timeout_s=20),
    )
    assert result.check()["ended"] >= 256


class OddText(str):
    __slots__ = ()

    def __bool__(self) -> bool:
        raise KeyboardInterrupt

    def __format__(self, _: str) -> str:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("text_of", "said"),
    [
        (lambda error: 1 / 0, "Odd"),
        (lambda error: exit(1), "Odd"),
        (lambda error: 5, "Odd"),
        (lambda error: OddText("text"), "Odd: text"),
        (lambda error: "x" * 10_000_000, "Odd: " + "x" * (64 * 1024 - 5)),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_error_of_a_tool_that_cannot_be_said(run: Any, text_of: Any, said: str, is_async: bool) -> None:
    """The agent waits for an answer, whatever the exception does."""

    def fail() -> None:
        raise type("Odd", (Exception,), {"__str__": text_of, "__repr__": text_of})

    async def fail_later() -> None:
        fail()

    source = """
        async def run(input_dict, tools):
            try:
                answer = tools["tool"]()
                await answer
            except Exception as error:
                return {"said": str(error)}
    """
    limits = sandbox.Limits(timeout_s=10)
    assert run(source, tools={"tool": fail_later if is_async else fail}, limits=limits).check() == {"said": said}


def test_result_of_a_tool_that_raises_while_it_is_read(run: Any) -> None:
    class Odd(dict[str, int]):
        def items(self) -> Any:
            raise SystemExit("no")

    source = """
        def run(input_dict, tools):
            try:
                tools["tool"]()
            except Exception as error:
                return {"said": str(error)}
    """
    result = run(source, tools={"tool": lambda: Odd(a=1)}, limits=sandbox.Limits(timeout_s=10))
    assert result.check() == {"said": "the tool's result cannot be read (SystemExit: no)"}


def test_async_tool_when_its_loop_is_closed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tool() -> None: ...

    def no_loop() -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("sandbox.pool.background_loop", no_loop)
    source = """
        async def run(input_dict, tools):
            try:
                await tools["tool"]()
            except Exception as error:
                return {"said": str(error)}
    """
    assert run(source, tools={"tool": tool}).check() == {"said": "OSError: [Errno 24] Too many open files"}
