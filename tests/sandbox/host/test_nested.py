"""Agents that call agents: one user, one budget and one end, each agent in its own process."""

from __future__ import annotations

import asyncio
import functools
import os
import queue
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sandbox
from redis_store import DataStore
from sandbox import Limits
from sandbox.given.given import make_given
from sandbox.given.job import Job
from sandbox.host.agents import NestedHost
from sandbox.host.outbox import OpenCalls, Outbox
from sandbox.host.outcome import Returned
from sandbox.record.timeline import Timeline, Who
from sandbox.running.slots import Slots
from tests.sandbox.conftest import wait_until

pytestmark = pytest.mark.usefixtures("nothing_left")

CALL = "async def run(input_dict): return await agents.call(input_dict['name'], input_dict)"


def test_child_runs_for_the_same_user_under_its_own_name(run: Any, store: DataStore) -> None:
    result = run(
        """
        async def run(input_dict):
            data_store.set("from-parent", 1)
            globals()["seen"] = True
            output = await agents.call("child", {"n": 20})
            return {"output": output, "wrote": data_store.info("from-child").created_by}
        """,
        agent="parent",
        namespace="ns",
        agents={
            "child": """
def run(input_dict):
    print("in the child")
    data_store.set("from-child", data_store.get("from-parent") + input_dict["n"])
    return {"user": data_store.user, "namespace": data_store.namespace, "seen": "seen" in globals()}
"""
        },
    )
    output = result.check()
    assert output["output"]["user"] == store.user
    assert output["output"]["namespace"] == "ns"
    assert output["output"]["seen"] is False
    assert output["wrote"] == "child"
    assert store.use_namespace("ns").get("from-child") == 21
    assert result.stdout == "in the child\n"
    assert [(one.agent, one.operation) for one in result.operations] == [
        ("parent", "set"),
        ("child", "get"),
        ("child", "set"),
        ("parent", "info"),
    ]
    (call,) = result.calls
    assert (call.agent, call.kind, call.name, call.run, call.error) == ("parent", "agent", "child", result.run, None)
    assert {one.run for one in result.operations} == {result.run, call.nested_run}


def test_ways_to_call(run: Any) -> None:
    result = run(
        """
        import gofannon_client as module
        from gofannon_client import call
        async def run(input_dict):
            return {"n": [
                (await agents.call("echo", {"n": 1}))["n"],
                (await gofannon_client.call(agent_name="echo", input_dict={"n": 2}))["n"],
                (await module.call("echo", {"n": 3}))["n"],
                (await call("echo"))["n"],
            ], "names": [*agents], "there": "echo" in agents, "count": len(agents), "shown": repr(agents),
               "dir": [name for name in dir() if name in ("agents", "gofannon_client")]}
        """,
        agents={"echo": "def run(input_dict): return {'n': input_dict.get('n')}"},
    )
    assert result.check() == {
        "n": [1, 2, 3, None],
        "names": ["echo"],
        "there": True,
        "count": 1,
        "shown": "<agents: echo>",
        "dir": ["agents", "gofannon_client"],
    }


def test_children_run_concurrently(run: Any) -> None:
    barrier = threading.Barrier(4, timeout=30)
    result = run(
        "async def run(i): return {'n': await asyncio.gather(*(agents.call('meet', {'n': n}) for n in range(4)))}",
        agents={"meet": "def run(i, tools): tools['meet'](); return i"},
        tools={"meet": lambda: barrier.wait() >= 0},
    )
    assert result.check() == {"n": [{"n": n} for n in range(4)]}


def test_calls_over_the_concurrency_limit_wait(run: Any) -> None:
    under_way, most = 0, 0
    lock = threading.Lock()

    def enter(step: int) -> None:
        nonlocal under_way, most
        with lock:
            under_way += step
            most = max(most, under_way)

    result = run(
        "async def run(i): return {'n': len(await asyncio.gather(*(agents.call('w') for _ in range(6))))}",
        agents={"w": "def run(i, tools): tools['enter'](1); tools['enter'](-1); return {}"},
        tools={"enter": enter},
        limits=Limits(nested_at_once=2),
    )
    assert result.check() == {"n": 6}
    assert most <= 2


def test_agents_waiting_for_agents_do_not_deadlock(run: Any) -> None:
    source = """
async def run(input_dict):
    depth = input_dict["depth"]
    if depth:
        await asyncio.gather(*(agents.call("me", {"depth": depth - 1}) for _ in range(2)))
    return {}
"""
    result = run(source, {"depth": 3}, agents={"me": source}, limits=Limits(nested_at_once=1))
    assert result.check() == {}
    assert len(result.calls) == 2 + 4 + 8


def test_run_keeps_its_slot_until_its_big_result_is_read() -> None:
    """Otherwise an agent that reads no replies could make the host hold one for each call."""
    given = make_given({"agents": {"child": "def run(): pass\n"}})
    outbox = Outbox(lambda: None)
    posted: list[threading.Event | None] = []
    answers = [b"{}"] * 3 + [b'"' + b"x" * 100_000 + b'"'] * 3

    def carry_out(job: Job, tree: Any, stop: Any) -> Returned:
        return Returned({}, answers.pop())

    def post(message: list[Any], awaited: bool = False) -> threading.Event | None:
        posted.append(Outbox.post(outbox, message, awaited))
        return posted[-1]

    slots = Slots(2)
    tree: Any = SimpleNamespace(
        given=given,
        level=lambda depth: slots,
        spend_nested_run=lambda callers: None,
        stopping=lambda stop: nullcontext(),
        timeline=Timeline(100),
    )
    job = Job(Who("parent", "run"), given.agents["child"], b"{}")
    outbox.post = post  # type: ignore[method-assign]
    host = NestedHost(tree, job, OpenCalls(outbox), carry_out)
    for number in range(6):
        host.call(number, "child", b"{}")
    wait_until(lambda: len(posted) == 2, "two big answers are on their way")
    assert len(answers) == 4
    for taken in (0, 1):
        event = posted[taken]
        assert event is not None
        event.set()
    wait_until(lambda: len(posted) == 6, "the others have begun")
    assert [sent is None for sent in posted].count(True) == 3, "small ones do not wait"
    outbox.close()
    host.close()  # although one big reply was never read
    entered: list[int] = []
    for place in (1, 2):
        slots.enter("another", functools.partial(entered.append, place))
    wait_until(lambda: entered == [1, 2], "all have left")


@pytest.mark.parametrize(
    ("raised", "caught"),
    [
        ("ValueError('no good')", "ValueError"),
        ("KeyError('missing')", "KeyError"),
        ("FileNotFoundError('gone')", "OSError"),
        ("TimeoutError('late')", "TimeoutError"),
        ("json.JSONDecodeError('bad', '{', 0)", "ValueError"),
        ("Missing('x')", "LookupError"),
        ("UnicodeDecodeError('utf-8', b'x', 0, 1, 'bad')", "UnicodeError"),
        ("StopIteration('over')", "sandbox.errors.AgentRaised"),
        ("Own('own')", "sandbox.errors.AgentError"),
    ],
)
def test_exception_of_a_child_is_raised_in_the_parent(run: Any, raised: str, caught: str) -> None:
    result = run(
        f"""
        import sandbox.errors
        async def run(input_dict):
            try:
                await agents.call("child")
            except {caught} as error:
                assert isinstance(error, sandbox.errors.AgentRaised)
                return {{"text": str(error), "name": error.type_name, "message": error.message, "agent": error.agent}}
        """,
        agents={
            "child": f"class Own(Exception): pass\nclass Missing(KeyError): pass\ndef run(input_dict): raise {raised}"
        },
    )
    output = result.check()
    assert output["agent"] == "child"
    assert output["name"] == raised.partition("(")[0].removeprefix("json.")
    assert output["text"] == f"Agent 'child' raised {output['name']}: {output['message']}"


def test_uncaught_child_exception_shows_both_tracebacks(run: Any) -> None:
    result = run(
        "async def run(input_dict):\n    await agents.call('child')\n",
        agents={"child": "def run(input_dict):\n    wrong = {}\n    return wrong['x']\n"},
    )
    assert isinstance(result.error, sandbox.AgentRaised)
    assert result.error.type_name == "KeyError"
    assert 'File "<agent>", line 2, in run\n    await agents.call' in result.error.traceback
    assert 'File "<child>", line 3, in run\n    return wrong' in result.error.traceback
    assert "sandbox/child" not in result.error.traceback


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("def run(:", "InvalidAgent"),
        ("x = 1\n", "InvalidAgent"),
        ("def run(i): return 5", "InvalidResult"),
        ("import sys\ndef run(i): sys.exit(3)", "AgentExited"),
        ("import ctypes\ndef run(i): ctypes.string_at(0)", "AgentCrashed"),
        ("def run(i): return {'x': 'x' * 5000}", "ResultLimitExceeded"),
    ],
)
def test_other_failures_of_a_child(run: Any, source: str, kind: str) -> None:
    result = run(
        """
        from sandbox import errors
        async def run(input_dict):
            try:
                await agents.call("child")
            except errors.SandboxError as error:
                return {"kind": type(error).__name__, "text": str(error)}
        """,
        agents={"child": source},
        limits=Limits(result_bytes=2000),
    )
    assert result.check()["kind"] == kind


def test_protocol_violation_ends_only_the_child(run: Any) -> None:
    result = run(
        """
        from sandbox.errors import ProtocolViolation
        async def run(input_dict):
            try:
                await agents.call("child")
            except ProtocolViolation as error:
                return {"text": str(error), "fine": data_store.list_keys()}
        """,
        agents={
            "child": """
def run(input_dict):
    data_store._operations.channel._channel.socket.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
    import time
    time.sleep(1000)
"""
        },
    )
    assert result.check()["text"].startswith("The agent's process sent a frame of")


def test_unknown_agent_error_lists_the_agents(run: Any) -> None:
    result = run(CALL, {"name": "serch"}, agents={"search": "def run(): return {}", "b": "def run(): return {}"})
    assert str(result.error).endswith("There is no agent 'serch'; there are: 'search', 'b'. Did you mean 'search'?")
    result = run(
        "async def run(i):\n    try:\n        await agents.call('x')\n    except LookupError as e: return {'said': str(e)}\n"
    )
    assert result.check() == {"said": "There is no agent 'x'; there are: none were given."}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("agents.call(5)", "The name of an agent must be a str, not int"),
        ("agents.call('child', [1])", "input_dict must be a dict, not list"),
        ("agents.call('child', {'a': {1}})", 'input_dict["a"] is a set'),
        ("agents.call('child', {'a': 'x' * 3000})", "at most 2,000 are allowed"),
        ("agents.call('\\ud800')", "There is no agent '\\\\ud800'"),
    ],
)
def test_invalid_calls(run: Any, call: str, message: str) -> None:
    result = run(
        f"async def run(i): await {call}",
        agents={"child": "def run(i): return {}"},
        limits=Limits(result_bytes=2000),
    )
    assert message in str(result.error)


def test_unbounded_recursion_ends_with_a_named_error(run: Any, store: DataStore) -> None:
    source = """
async def run(input_dict):
    data_store.set(f"depth-{input_dict['depth']}", 1)
    while True:
        try:
            await agents.call("me", {"depth": input_dict["depth"] + 1})
        except BaseException:
            pass
"""
    result = run(source, {"depth": 0}, agent="me", agents={"me": source}, limits=Limits(nested_depth=3))
    assert isinstance(result.error, sandbox.NestingLimitExceeded)
    assert (result.error.limit, result.error.value) == ("nested_depth", 3)
    assert "me → me → me → …" in str(result.error)
    assert store.list_keys() == ["depth-0", "depth-1", "depth-2", "depth-3"]


FLOOD = """
async def run(input_dict):
    for n in range(100):
        try:
            {body}
        except BaseException:
            pass
    return {{}}
"""


@pytest.mark.parametrize(
    ("body", "limits", "kind", "limit"),
    [
        ("await agents.call('child')", {"nested_runs": 2}, sandbox.NestingLimitExceeded, "nested_runs"),
        ("await agents.call('child', {'ops': 4})", {"operations": 10}, sandbox.OperationLimitExceeded, "operations"),
        ("await agents.call('child', {'tools': 4})", {"tool_calls": 10}, sandbox.ToolCallLimitExceeded, "tool_calls"),
        (
            "await agents.call('child', {'write': 4})",
            {"bytes_written": 900},
            sandbox.WriteLimitExceeded,
            "bytes_written",
        ),
        (
            "await agents.call('child', {'print': 4})",
            {"output_bytes": 900},
            sandbox.OutputLimitExceeded,
            "output_bytes",
        ),
        ("await agents.call('child', {'sleep': 9})", {"timeout_s": 0.7}, sandbox.TimeLimitExceeded, "timeout_s"),
    ],
)
def test_tree_shares_the_limits_of_its_root(run: Any, body: str, limits: Any, kind: Any, limit: str) -> None:
    """No child alone comes near the limit (except the time limit), and no agent can catch the error that ends the tree."""
    result = run(
        FLOOD.format(body=body),
        agents={
            "child": """
import time
def run(i, tools):
    for n in range(i.get("ops", 0)): data_store.get("k")
    for n in range(i.get("tools", 0)): tools["tool"]()
    for n in range(i.get("write", 0)): data_store.set("k", "x" * 50)
    for n in range(i.get("print", 0)): print("x" * 50, flush=True)
    time.sleep(i.get("sleep", 0))
    return {}
"""
        },
        tools={"tool": lambda: None},
        limits=Limits(**limits),
    )
    assert isinstance(result.error, kind), result.error
    assert (result.error.limit, result.error.value) == (limit, next(iter(limits.values())))
    if limit != "output_bytes":
        assert len(result.calls) >= 1


def test_returning_parent_ends_its_children(run: Any, store: DataStore) -> None:
    started = threading.Event()
    result = run(
        """
        async def run(input_dict, tools):
            asyncio.create_task(agents.call("slow"))
            await asyncio.to_thread(tools["started"])
            return {"done": True}
        """,
        agents={"slow": "import time\ndef run(i, tools):\n    tools['start']()\n    time.sleep(1000)\n"},
        tools={"start": started.set, "started": lambda: started.wait(30)},
    )
    assert result.check() == {"done": True}
    (call,) = [one for one in result.calls if one.kind == "agent"]
    assert call.error == "RunCancelled"


def test_call_that_is_given_up_ends_its_run_and_frees_its_place(run: Any, store: DataStore) -> None:
    """One has a slot and one waits for it. The run's own calls end with it: its async tool, and the agent that it has called."""
    begun, over, released = queue.SimpleQueue[None](), queue.SimpleQueue[None](), threading.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            over.put(None)

    result = run(
        """
        async def run(input_dict, tools):
            for _ in range(2):
                task = asyncio.gather(*(agents.call("stuck") for _ in range(2)))
                await asyncio.to_thread(tools["begins"])
                task.cancel()
                await asyncio.to_thread(tools["ends"])
            return await agents.call("quick", {"n": 5})
        """,
        agents={
            "stuck": """
async def run(input_dict, tools):
    asyncio.create_task(tools["forever"]())
    await agents.call("late")
""",
            "late": "def run(i, tools):\n    tools['begin']()\n    tools['wait']()\n    data_store.set('late', True)\n",
            "quick": "def run(i): return i",
        },
        tools={
            "begin": lambda: begun.put(None),
            "begins": lambda: begun.get(timeout=20),
            "ends": lambda: over.get(timeout=20),
            "wait": lambda: released.wait(20),
            "forever": forever,
        },
        limits=Limits(nested_at_once=1, timeout_s=20),
    )
    released.set()
    assert result.check() == {"n": 5}
    assert "late" not in store
    assert [call.error for call in result.calls if call.name == "stuck"] == ["RunCancelled"] * 2


def test_cancelling_ends_the_whole_tree(server_url: str, user: str, store: DataStore) -> None:
    async def main() -> None:
        ready = asyncio.Event()
        slow = "import time\ndef run(i):\n    data_store.set('written', 1)\n    print('ready')\n    time.sleep(1000)\n"
        source = "async def run(i):\n    while True:\n        try: await agents.call('slow')\n        except BaseException: pass"
        task = asyncio.create_task(
            sandbox.arun(
                source, {}, user=user, url=server_url, agents={"slow": slow}, on_output=lambda text: ready.set()
            )
        )
        await ready.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert store.get("written") == 1


def test_children_end_with_the_host(server_url: str, user: str, tmp_path: Path) -> None:
    import subprocess
    import sys

    host = tmp_path / "host.py"
    host.write_text(
        "import sandbox\n"
        "child = 'import os, time\\ndef run(i):\\n    print(os.getpid())\\n    time.sleep(1000)\\n'\n"
        "source = 'async def run(i): await agents.call(\"child\")'\n"
        f"sandbox.run(source, {{}}, user={user!r}, url={server_url!r}, agents={{'child': child}},"
        " on_output=lambda t: print(t, end='', flush=True))\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parent.parent), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, str(host)], stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip().isdigit()
        process.kill()
        process.wait()
        wait_until(lambda: str(tmp_path) not in _environments(), "no process of the run is left")
    for left in tmp_path.glob("sandbox-*"):
        left.rmdir()


def _environments() -> str:
    found = ""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += path.read_bytes().decode(errors="replace") if path.parent.name != str(os.getpid()) else ""
        except OSError:
            continue
    return found


def test_agents_from_a_folder(run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "one.py").write_text("async def run(i): return {'two': await agents.call('two', i)}")
    (folder / "two.py").write_text("def run(i): return {'file': __file__, 'name': __name__, 'i': i}")
    (folder / "_helper.py").write_text("raise RuntimeError")
    (folder / "notes.txt").write_text("no agent")
    result = run("async def run(i): return {'names': [*agents], **await agents.call('one', {'n': 1})}", agents=folder)
    assert result.check() == {
        "names": ["one", "two"],
        "two": {"file": str(folder / "two.py"), "name": "two", "i": {"n": 1}},
    }


def test_invalid_agents(run: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    for given, kind, message in [
        (tmp_path / "none", sandbox.AgentNotFound, "There is no folder of agents at"),
        (tmp_path / "empty", sandbox.InvalidInput, "contains no agents"),
        (tmp_path / "file.txt", sandbox.InvalidInput, "is not a folder"),
        ({"a": tmp_path / "none.py"}, sandbox.AgentNotFound, "The agent 'a': There is no agent file"),
        ({"a": tmp_path}, sandbox.InvalidInput, "The agent 'a': .* is a folder"),
        ({"a": 5}, sandbox.InvalidType, "The agent 'a': An agent must be its source .a str. or the Path"),
        ({"a": ""}, sandbox.InvalidInput, "The agent 'a': The agent is an empty str"),
        ({"": "def run(): pass"}, sandbox.InvalidInput, "must not be empty"),
        ({5: "def run(): pass"}, sandbox.InvalidType, "must be a str, not int"),
        (["x"], sandbox.InvalidType, "agents must be a dict of names and sources"),
    ]:
        with pytest.raises(kind, match=message):
            run("def run(): return {}", agents=given)


def test_file_that_is_not_utf_8_fails_when_called(run: Any, tmp_path: Path) -> None:
    (tmp_path / "latin.py").write_bytes(b"name = 'caf\xe9'\ndef run(i): return {}\n")
    result = run(CALL, {"name": "latin"}, agents=tmp_path)
    assert isinstance(result.error, sandbox.AgentRaised)
    assert result.error.type_name == "InvalidAgent"
    assert "does not compile" in str(result.error)


@pytest.mark.parametrize(
    "body",
    [
        "CONTROL.send(frame(b'\\x94\\xa5agent\\x01\\xa5child\\xc4\\x02[]'))",
        "CONTROL.send(frame(b'\\x94\\xa5agent\\x01\\xa5child\\xc4\\x03NaN'))",
        "CONTROL.send(frame(b'\\x93\\xa5agent\\x01\\xa5child'))",
        "for n in range(2): CONTROL.send(frame(b'\\x94\\xa5agent\\x01\\xa5child\\xc4\\x02{}'))",
    ],
)
def test_forged_agent_calls(run: Any, body: str) -> None:
    from tests.sandbox.test_hostile import attack

    result = attack(run, f"{body}\ntime.sleep(1000)", agents={"child": "import time\ndef run(i): time.sleep(1000)"})
    assert isinstance(result.error, sandbox.ProtocolViolation)
