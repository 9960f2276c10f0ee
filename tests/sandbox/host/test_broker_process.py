"""The broker in a separate process behaves like the broker in a thread."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.credentials import UsernamePasswordCredentialProvider

import redis_store
import sandbox
from redis_store import DataStore
from sandbox import Limits, Permissions, Sandbox
from sandbox.host.broker_main import Trees
from sandbox.host.remote_broker import Request
from sandbox.isolation import plain_process
from sandbox.permissions import Granted
from sandbox.record.timeline import Who
from tests.sandbox.conftest import wait_until

PARENT = """
async def run(input_dict, tools):
    data_store.set("k", {"password": "hunter2", "n": 1}, metadata={"m": 1})
    data_store.get("k")
    data_store.get("none")
    data_store.set_many({"a": 1, "b": 2})
    child = await agents.call("child", {"n": 1})
    try:
        data_store.increment("k")
    except Exception as error:
        refused = str(error)
    return {"host": tools["host"](), "keys": data_store.list_keys(), "child": child, "refused": refused}
"""
CHILD = """
def run(input_dict):
    data_store.use_namespace("of-child").set("n", input_dict["n"])
    return {"agent": data_store.info("k") is None, "seen": data_store.get("k")["n"]}
"""


@pytest.fixture(scope="module")
def shared(server_url: str) -> Iterator[Sandbox]:
    """One sandbox for all tests that do not disturb its broker, because it is slow to start."""
    with Sandbox(
        url=server_url, broker="process", agents={"child": CHILD}, tools={"host": os.getpid, "add": lambda a, b: a + b}
    ) as box:
        yield box


@pytest.fixture
def make(server_url: str) -> Iterator[Callable[..., Sandbox]]:
    """Return a factory of sandboxes, which are closed at the end of the test."""
    made: list[Sandbox] = []

    def call(**options: Any) -> Sandbox:
        made.append(Sandbox(**{"url": server_url, "broker": "process", **options}))
        return made[-1]

    yield call
    for box in made:
        box.close()


def _said(result: sandbox.RunResult) -> list[tuple[Any, ...]]:
    return [
        (one.agent, one.operation, one.namespace, one.key, one.count, one.hit, one.bytes, one.error, one.preview)
        for one in result.operations
    ]


def test_result_and_record_match_the_thread_broker(shared: Sandbox, server_url: str, user: str) -> None:
    theirs = shared.run(PARENT, {}, user=user, agent="parent")
    with Sandbox(url=server_url, agents={"child": CHILD}, tools={"host": os.getpid}) as box:
        ours = box.run(PARENT, {}, user=f"{user}-2", agent="parent")
    assert theirs.check() == ours.check()
    assert theirs.check()["host"] == os.getpid()
    assert _said(theirs) == _said(ours)
    assert [one.run for one in theirs.operations if one.agent == "parent"] == [theirs.run] * 6
    assert theirs.operations == sorted(theirs.operations, key=lambda one: one.time)
    assert "hunter2" not in repr(_said(theirs))
    assert theirs.hints == ours.hints


def test_writer_is_recorded(shared: Sandbox, user: str, store: DataStore) -> None:
    shared.run(PARENT, {}, user=user, agent="parent").check()
    info = store.info("k")
    assert info is not None
    assert (info.created_by, info.metadata) == ("parent", {"m": 1})


LIMITS = {
    "operations": ({"operations": 5}, sandbox.OperationLimitExceeded, "for n in range(9): data_store.get('k')"),
    "bytes_written": ({"bytes_written": 50}, sandbox.WriteLimitExceeded, "data_store.set('k', 'x' * 60)"),
    "operations of all": (
        {"operations": 2},
        sandbox.OperationLimitExceeded,
        "await agents.call('child', {'n': 1})",
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_end_the_tree_and_cannot_be_caught(
    name: str, make: Callable[..., Sandbox], user: str, store: DataStore
) -> None:
    limits, kind, body = LIMITS[name]
    source = (
        "async def run(i, tools):\n    while True:\n        try:\n"
        f"            {body}\n        except BaseException as error:\n            print(repr(error))"
    )
    store.set("k", {"n": 1})
    box = make(limits=Limits(**limits, timeout_s=20), agents={"child": CHILD})  # type: ignore[arg-type]  # one of several
    result = box.run(source, {}, user=user)
    assert type(result.error) is kind
    assert isinstance(result.error, sandbox.LimitExceeded)
    assert (result.error.limit, result.error.value) == next(iter(limits.items()))
    assert str(result.error).startswith("The agent ")
    assert result.stdout == ""


def test_permissions_and_quota(make: Callable[..., Sandbox], user: str, store: DataStore) -> None:
    store.use_namespace("private").set("k", 1)
    allowed = Permissions(read=["default"], write=["mine"], quota_bytes=1000, operations=["get", "set"])
    body = """
    def run():
        mine, said = data_store.use_namespace("mine"), []
        for call in (lambda: data_store.use_namespace("private").get("k"), lambda: data_store.set("k", 1),
                     lambda: data_store.clear(), lambda: mine.set("big", "x" * 2000)):
            try:
                call()
            except Exception as error:
                said.append([type(error).__name__, str(error).split(":")[0]])
        mine.set("small", 1)
        return {"said": said}
    """
    result = make(permissions=allowed).run(body.replace("\n    ", "\n"), {}, user=user)
    said = result.check()["said"]
    assert [name for name, _ in said] == ["AccessDenied"] * 3 + ["LimitExceeded"]  # type: ignore[union-attr]
    assert store.use_namespace("mine").list_keys() == ["small"]


def test_quota_is_charged_before_the_process_knows_its_server(make: Callable[..., Sandbox], user: str) -> None:
    box = make(permissions=Permissions(write=["mine"], quota_bytes=10_000))
    box.run("def run():\n    data_store.use_namespace('mine').set('k', 1)\n    return {}", {}, user=user).check()


def test_protocol_violation_ends_the_run_at_once(shared: Sandbox, user: str) -> None:
    source = """
import os, socket, time
def run():
    socket.socket(fileno=os.dup(3)).sendall(b"\\x02\\0\\0\\0\\x91\\x90")
    time.sleep(1000)
"""
    result = shared.run(source, {}, user=user)
    assert isinstance(result.error, sandbox.ProtocolViolation)
    assert shared.run("def run(): return {}", {}, user=user).check() == {}


def test_record_is_bounded(make: Callable[..., Sandbox], user: str) -> None:
    source = "def run():\n    for n in range(40): data_store.get(str(n))\n    return {}"
    result = make(limits=Limits(timeline=10)).run(source, {}, user=user)
    assert [one.key for one in result.operations] == [str(n) for n in (*range(5), *range(35, 40))]
    assert result.operations_left_out == 30


def test_long_record_is_complete(shared: Sandbox, user: str) -> None:
    source = "def run():\n    for n in range(2500): data_store.get(str(n))\n    return {}"
    result = shared.run(source, {}, user=user)
    assert [one.key for one in result.operations] == [str(n) for n in range(2500)]


def test_concurrent_users_are_isolated(shared: Sandbox, user: str) -> None:
    source = """
def run():
    data_store.set("k", data_store.user)
    return {"k": data_store.get("k"), "all": data_store.list_namespaces()}
"""
    handles = [shared.start(source, {}, user=f"{user}-{n}") for n in range(6)]
    assert [handle.result(30).check() for handle in handles] == [
        {"k": f"{user}-{n}", "all": ["default"]} for n in range(6)
    ]


def test_store_error_does_not_reveal_the_server(own_server: Any, make: Callable[..., Sandbox], user: str) -> None:
    def die() -> None:
        own_server.process.kill()
        own_server.process.wait()

    source = """
def run(i, tools):
    tools["die"]()
    try:
        data_store.get("k")
    except ConnectionError as error:
        return {"name": type(error).__name__, "said": str(error)}
"""
    result = make(url=own_server.url, tools={"die": die}).run(source, {}, user=user).check()
    assert result["name"] in ("StoreUnavailable", "ConnectionLost")
    assert own_server.url.removeprefix("unix://") not in str(result["said"])


@pytest.mark.parametrize("broker", ["thread", "process"])
def test_cancel_while_the_server_does_not_reply(
    broker: str, own_server: Any, make: Callable[..., Sandbox], user: str
) -> None:
    silent = threading.Event()

    def stop() -> None:
        own_server.process.send_signal(signal.SIGSTOP)
        silent.set()

    box = make(url=own_server.url, broker=broker, tools={"stop": stop})
    source = "def run(i, tools):\n    data_store.get('k')\n    tools['stop']()\n    data_store.get('k')"
    handle = box.start(source, {}, user=user)
    assert silent.wait(30)
    handle.cancel()
    assert isinstance(handle.result(4).error, sandbox.RunCancelled)  # the store's own timeout is 5 s


def test_close_leaves_nothing(server_url: str, user: str, nothing_left: None) -> None:
    with Sandbox(url=server_url, broker="process") as box:
        assert box._broker is not None
        assert box._broker.process_id is None  # only when it is needed
        for n in range(3):
            assert box.run("def run(i): data_store.set('k', i); return {}", {"n": n}, user=user).check() == {}
        pid = box._broker.process_id
        assert pid is not None
        assert server_url not in Path(f"/proc/{pid}/cmdline").read_text()  # a password may be in it
    assert not Path(f"/proc/{pid}").exists()


def test_dead_broker_ends_its_runs_and_is_replaced(make: Callable[..., Sandbox], user: str, nothing_left: None) -> None:
    began = threading.Event()
    box = make(tools={"began": began.set})
    source = "import time\ndef run(i, tools):\n    data_store.set('k', 1)\n    tools['began']()\n    time.sleep(1000)"
    handle = box.start(source, {}, user=user)
    assert began.wait(30)
    assert box._broker is not None
    first = box._broker.process_id
    assert first is not None
    os.kill(first, signal.SIGKILL)
    error = handle.result(30).error
    assert isinstance(error, sandbox.BrokerLost)
    assert "what the agent had written stays" in str(error)
    assert box.run("def run(): return {'k': data_store.get('k')}", {}, user=user).check() == {"k": 1}
    assert box._broker.process_id != first
    box.close()


HOST = """
import os, sys, time, sandbox
box = sandbox.Sandbox(url=sys.argv[1], broker="process")
box.run("def run(): return {}", {}, user=sys.argv[2]).check()
if os.fork() == 0:  # a worker that lives on must not keep the broker
    time.sleep(1000)
box.run("import time\\ndef run():\\n    data_store.set('k', 1)\\n    print('ready', flush=True)\\n    time.sleep(1000)", {},
        user=sys.argv[2], on_output=lambda text: print(text, end="", flush=True))
"""


def test_broker_ends_with_a_killed_host(server_url: str, user: str, tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parent.parent), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", HOST, server_url, user], stdout=subprocess.PIPE, env=environ
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        started = plain_process._descendants(process.pid)
        brokers = [pid for pid in started if b"broker_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        workers = [pid for pid in started if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:2] == [b"-c"]]
        process.kill()
        process.wait()
        assert len(brokers) == 1
        try:
            wait_until(lambda: not Path(f"/proc/{brokers[0]}").exists(), "the broker has ended")
            assert all(Path(f"/proc/{pid}").exists() for pid in workers)
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
    assert len(workers) == 1


@pytest.mark.parametrize("broker", ["", "threads", None, 1, True])
def test_rejects_invalid_broker_option(broker: Any) -> None:
    with pytest.raises(sandbox.InvalidInput, match="broker"):
        Sandbox(broker=broker)


def test_request_round_trip() -> None:
    granted: Granted = Permissions(
        read=["a*", "*"], write=["{n}*"], quota_bytes=7, operations=["get", "iter_keys"]
    ).granted({"n": "ü*"})
    request = Request("unix:///x", "t", Who("ä", "r"), "u", "n", granted, Limits(timeout_s=1.5, operations=3))
    assert pickle.loads(pickle.dumps(request)) == request


@pytest.mark.parametrize(
    "error",
    [
        sandbox.OperationLimitExceeded("too often", limit="operations", value=5),
        sandbox.WriteLimitExceeded("too much", limit="bytes_written", value=6),
        sandbox.ProtocolViolation("it sent nonsense"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_end_error_round_trip(error: sandbox.SandboxError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


def test_first_error_of_a_tree_counts(server_url: str) -> None:
    """A run that a limit ends often fails in other ways too before it is gone."""
    trees = Trees()
    tree = trees.enter(Request(server_url, "t", Who("a", "t"), "u", "n", Granted(), Limits()))
    first = sandbox.OperationLimitExceeded("too often", limit="operations", value=5)
    tree.end(first)
    tree.end(sandbox.ProtocolViolation("it sent nonsense"))
    assert tree.error is first
    trees.close()


def test_broker_imports_modules_as_the_host_does(server_url: str, user: str, tmp_path: Path) -> None:
    """Also if the host's folder has modules named like those of the standard library."""
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    host = (
        "import sys; sys.path.remove(''); import sandbox\n"
        "with sandbox.Sandbox(url=sys.argv[1], broker='process') as box:\n"
        "    print(box.run('def run(): return {\"n\": len(data_store)}', {}, user=sys.argv[2]).check())"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(redis_store.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", host, server_url, user], cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("{'n': 0}\n", "")


def test_locks_of_a_run_are_released(shared: Sandbox, store: DataStore, user: str) -> None:
    shared.run("def run():\n    data_store.lock('l', ttl=600).acquire()\n    return {}\n", {}, user=user).check()
    with store.lock("l", timeout=20):
        pass


def test_bounds_on_calls_hold_in_it(make: Callable[..., Sandbox], user: str) -> None:
    source = """
from redis_store.errors import LimitExceeded

def run():
    data_store.set("big", "x" * 9_000_000)
    found = []
    send, call = data_store._operations.send, data_store._operations.channel.call
    for work in (lambda: send("set", "k", b"[" + b"[]," * 1_000_000 + b"1]", None, None), lambda: send("rename", "big", "k"),
                 lambda: call("invalidate_tag", "default", "tag", *[1, "p*"] * 101),
                 lambda: send("claim_value", "k" * 60_000, "token-of-mine", None, None, 30, 0, *[f"t{n}" for n in range(200)])):
        try:
            found.append(repr(work()))
        except LimitExceeded as error:
            found.append(error.limit)
    return {"found": found}
"""
    assert make().run(source, {}, user=user).check() == {
        "found": ["max_values", "max_script_bytes", "patterns", "max_info_bytes"]
    }


def test_a_credential_provider_is_refused() -> None:
    provider = UsernamePasswordCredentialProvider("bob", "pw")
    with redis_store.Client("redis://localhost", credential_provider=provider) as client:
        with pytest.raises(sandbox.InvalidInput, match="cannot be passed to another process: use broker='thread'"):
            Sandbox(client=client, broker="process")
        Sandbox(client=client).close()


def test_the_options_of_a_client_hold_in_it(server_url: str, user: str) -> None:
    source = """
def run():
    try:
        data_store.set("key", "x" * 2000)
    except Exception as error:
        return {"error": str(error)}
"""
    with (
        redis_store.Client(server_url, max_value_bytes=1000) as client,
        Sandbox(client=client, broker="process") as box,
    ):
        assert "raise max_value_bytes" in box.run(source, {}, user=user).check()["error"]
