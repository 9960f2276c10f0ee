"""Concurrent runs: shared resources, order and end."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import redis_store
import sandbox
from redis_store import DataStore, connect
from redis_store.drivers.loans import OwnConnections
from sandbox import Sandbox
from sandbox.running.slots import Slots
from tests.sandbox.conftest import wait_until
from tests.support.servers import Server

pytestmark = pytest.mark.usefixtures("nothing_left")

SLOW = "import time\ndef run(i):\n    data_store.set('written', 1)\n    print('ready')\n    time.sleep(1000)\n"
WAITS = "def run(input_dict, tools): return {'order': tools['turn'](input_dict['name'])}"


def test_runs_share_options_of_the_sandbox(server_url: str, user: str) -> None:
    with Sandbox(
        url=server_url,
        tools={"double": lambda n: 2 * n},
        agents={"child": "def run(i): return {'g': g}"},
        globals={"g": 7},
        permissions=sandbox.Permissions(namespaces=["{room}"]),
    ) as box:
        source = "async def run(i, tools):\n    data_store.use_namespace(i['room']).set('k', tools['double'](i['n']))\n"
        source += "    return await agents.call('child')\n"
        for n, room in enumerate(("a", "b")):
            assert box.run(source, {"room": room, "n": n}, user=user).check() == {"g": 7}
        with pytest.raises(sandbox.InvalidInput, match="needs 'room'"):
            box.run(source, {}, user=user)
    with connect(server_url, user=user) as store:
        assert [store.use_namespace(room).get("k") for room in "ab"] == [0, 2]


def test_runs_share_connections(server_url: str, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    connect_really = OwnConnections._connect

    def counted(self: Any, *until: Any) -> Any:
        made.append(1)
        return connect_really(self, *until)

    monkeypatch.setattr(OwnConnections, "_connect", counted)
    with Sandbox(url=server_url) as box:
        for _ in range(5):
            box.run("def run(): data_store.set('k', 1); return {}", {}, user=user).check()
    assert len(made) == 1


def test_runs_use_the_connections_of_a_client(one_server: Server, raw_of: Any, user: str) -> None:
    raw = raw_of(one_server)
    url = one_server.url + "?db=7"  # whose near cache nobody else in this process has
    source = "def run(i): data_store.set('k', i['n']); return {'k': data_store.get('k'), 'again': data_store.get('k')}"
    with redis_store.Client(url, max_connections=2, max_value_bytes=100) as client:
        before = len(raw.client_list())
        for box in (Sandbox(client=client), Sandbox(client=client)):
            with box:
                for n in range(3):
                    assert box.run(source, {"n": n}, user=f"{user}-{n}").check() == {"k": n, "again": n}
        assert sandbox.run(source, {"n": 7}, user=user, client=client).check()["k"] == 7
        too_big = sandbox.run("def run(): data_store.set('k', 'x' * 200); return {}", {}, user=user, client=client)
        assert "max_value_bytes" in str(too_big.error)
        wait_until(lambda: len(raw.client_list()) <= before + 1, "the near cache's connection is gone")
        assert client.store(user=user).get("k") == 7, "the client is still open"


def test_a_client_is_checked(server_url: str, user: str) -> None:
    with redis_store.Client(server_url) as client:
        with pytest.raises(sandbox.InvalidInput, match="Both url and client"):
            Sandbox(url=server_url, client=client)
        with pytest.raises(sandbox.InvalidType, match=r"must be a redis_store\.Client, not AsyncClient"):
            Sandbox(client=redis_store.AsyncClient(server_url))  # type: ignore[arg-type]
        with Sandbox(client=client, broker="process") as box:
            assert box.run("def run(): data_store.set('k', 1); return {}", {}, user=user).check() == {}
        assert client.store(user=user).get("k") == 1
    with Sandbox(client=client) as box, pytest.raises(redis_store.StoreClosed):
        box.run("def run(): return {'k': data_store.get('k')}", {}, user=user).check()


def test_users_of_one_sandbox_are_isolated(server_url: str, user: str) -> None:
    with Sandbox(url=server_url) as box:
        box.run("def run(): data_store.set('k', 1); return {}", {}, user=f"{user}-a").check()
        result = box.run("def run(): return {'k': data_store.get('k'), 'user': data_store.user}", {}, user=f"{user}-b")
        assert result.check() == {"k": None, "user": f"{user}-b"}


def test_concurrency_is_limited(server_url: str, user: str) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def enter(step: int) -> None:
        nonlocal now, most
        with lock:
            now += step
            most = max(most, now)

    source = "def run(i, tools): tools['enter'](1); tools['enter'](-1); return {}"
    with Sandbox(url=server_url, concurrency=2, tools={"enter": enter}) as box:
        handles = [box.start(source, {}, user=user) for _ in range(6)]
        assert [handle.result().check() for handle in handles] == [{}] * 6
    assert 1 <= most <= 2


def test_users_take_turns(server_url: str, user: str) -> None:
    order: list[str] = []
    gate = threading.Event()

    def turn(name: str) -> int:
        gate.wait(30)
        order.append(name)
        return len(order)

    with Sandbox(url=server_url, concurrency=1, tools={"turn": turn}) as box:
        first = box.start(WAITS, {"name": "first"}, user=f"{user}-a")
        greedy = [box.start(WAITS, {"name": f"greedy-{n}"}, user=f"{user}-a") for n in range(4)]
        modest = [box.start(WAITS, {"name": "modest"}, user=f"{user}-b")]
        gate.set()
        for handle in [first, *greedy, *modest]:
            handle.result().check()
    assert order == ["first", "greedy-0", "modest", "greedy-1", "greedy-2", "greedy-3"]


def test_runs_from_threads_and_asyncio(server_url: str, user: str) -> None:
    source = "async def run(i, tools): return {'n': await tools['loop'](), 'm': i['n']}"

    async def loop() -> str:
        return "main" if asyncio.get_running_loop() is main_loop else "other"

    main_loop: Any = None

    async def main() -> Any:
        nonlocal main_loop
        main_loop = asyncio.get_running_loop()
        async with Sandbox(url=server_url, concurrency=3, tools={"loop": loop}) as box:
            return await asyncio.gather(
                *(box.arun(source, {"n": n}, user=user) for n in range(3)),
                *(asyncio.to_thread(box.run, source, {"n": n}, user=user) for n in range(3, 6)),
            )

    results = [result.check() for result in asyncio.run(main())]
    assert results == [{"n": "main" if n < 3 else "other", "m": n} for n in range(6)]


def test_handle(server_url: str, user: str) -> None:
    gate = threading.Event()
    with Sandbox(url=server_url, tools={"wait": lambda: gate.wait(30)}) as box:
        source = "def run(i, tools):\n    print('began')\n    tools['wait']()\n    return {'ok': 1}"
        handle = box.start(source, {}, user=user, agent="a")
        wait_until(lambda: handle.stdout == "began\n", "what it printed, which may come in pieces, is there")
        assert not handle.done()
        assert repr(handle) == f"<RunHandle 'a' {handle.run} under way>"
        with pytest.raises(TimeoutError, match=r"not over after 0\.01 s"):
            handle.result(0.01)
        assert not handle.wait(0.01)
        gate.set()
        result = handle.result(30)
        assert result.check() == {"ok": 1}
        assert result.run == handle.run
        assert handle.done()
        assert repr(handle).endswith("done>")
        handle.cancel()
        assert handle.result() is result


def test_cancelling_a_handle_ends_the_run_at_once(server_url: str, user: str, store: DataStore) -> None:
    ready = threading.Event()
    with Sandbox(url=server_url) as box:
        handle = box.start(SLOW, {}, user=user, on_output=lambda text: ready.set())
        assert ready.wait(30)
        handle.cancel()
        result = handle.result(30)
    assert isinstance(result.error, sandbox.RunCancelled)
    assert str(result.error) == "The run was cancelled; what the agent had written stays."
    assert result.stdout.strip() == "ready"
    assert [one.operation for one in result.operations] == ["set"]
    assert store.get("written") == 1


def test_cancelling_a_handle_that_waits_for_a_slot(server_url: str, user: str) -> None:
    with Sandbox(url=server_url, concurrency=1) as box:
        ready = threading.Event()
        first = box.start(SLOW, {}, user=user, on_output=lambda text: ready.set())
        assert ready.wait(30)
        second = box.start("def run(): return {}", {}, user=user)
        third = box.start("def run(): return {}", {}, user=user)
        second.cancel()
        assert isinstance(second.result(30).error, sandbox.RunCancelled)
        first.cancel()
        assert third.result(30).check() == {}


def test_awaiting_a_handle(server_url: str, user: str) -> None:
    async def main() -> None:
        async with Sandbox(url=server_url) as box:
            handle = box.start("def run(): return {'n': 1}", {}, user=user)
            assert (await handle).check() == {"n": 1}
            slow = box.start(SLOW, {}, user=user)
            waiter = asyncio.ensure_future(_awaited(slow))
            await asyncio.sleep(0)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            assert not slow.done()  # giving up waiting does not cancel the run
            slow.cancel()
            assert isinstance((await slow).error, sandbox.RunCancelled)

    asyncio.run(main())


async def _awaited(handle: sandbox.RunHandle) -> sandbox.RunResult:
    return await handle


def test_cancelling_arun_that_waits_for_a_slot(server_url: str, user: str) -> None:
    async def main() -> None:
        async with Sandbox(url=server_url, concurrency=1) as box:
            ready = asyncio.Event()
            slow = box.start(SLOW, {}, user=user, on_output=lambda text: ready.set())
            await ready.wait()
            waiting = asyncio.create_task(box.arun("def run(): return {}", {}, user=user))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            slow.cancel()
            await slow
            assert (await box.arun("def run(): return {'fine': 1}", {}, user=user)).check() == {"fine": 1}

    asyncio.run(main())


def test_close_ends_current_runs(server_url: str, user: str) -> None:
    ready = threading.Event()
    box = Sandbox(url=server_url, concurrency=1)
    slow = box.start(SLOW, {}, user=user, on_output=lambda text: ready.set())
    assert ready.wait(30)
    blocked: list[Any] = []
    thread = threading.Thread(target=lambda: blocked.append(box.run("def run(): return {}", {}, user=user)))
    thread.start()
    wait_until(lambda: len(box._handles) == 2, "the second run waits for its place")
    box.close()
    box.close()
    thread.join(30)
    assert isinstance(slow.result(30).error, sandbox.RunCancelled)
    assert isinstance(blocked[0].error, sandbox.RunCancelled)
    with pytest.raises(sandbox.RunCancelled, match="closed"):
        box.run("def run(): return {}", {}, user=user)


def test_unreachable_store_frees_the_slot(user: str) -> None:
    with Sandbox(url="redis://127.0.0.1:1", concurrency=1) as box:
        for _ in range(2):
            with pytest.raises(redis_store.StoreUnavailable):
                box.run("def run(): return {}", {}, user=user)
        with pytest.raises(redis_store.StoreUnavailable):
            box.start("def run(): return {}", {}, user=user).result(30)


def test_restarted_server_is_used_again(own_server: Any, user: str) -> None:
    with Sandbox(url=own_server.url) as box:
        assert box.run("def run(): data_store.set('k', 1); return {}", {}, user=user).check() == {}
        with redis_store.connect(own_server.url, user=user) as store:
            import redis

            with redis.Redis.from_url(store.url) as client:
                client.client_kill_filter(skipme=True)
        assert box.run("def run(): data_store.set('k', 1); return {}", {}, user=user).check() == {}


def test_tools_that_outlive_the_run_are_harmless(server_url: str, user: str) -> None:
    release, entered, left = threading.Event(), threading.Event(), threading.Event()

    def hang() -> str:
        entered.set()
        release.wait(30)
        left.set()
        return "late"

    source = """
import threading
def run(i, tools):
    threading.Thread(target=tools["hang"], daemon=True).start()
    tools["entered"]()
    return {}
"""
    with Sandbox(url=server_url, tools={"hang": hang, "entered": lambda: entered.wait(30)}) as box:
        result = box.run(source, {}, user=user)
        assert result.check() == {}
        release.set()
        assert left.wait(30)
        assert box.run("def run(): return {'fine': 1}", {}, user=user).check() == {"fine": 1}


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, "2", True])
def test_rejects_invalid_concurrency(concurrency: Any) -> None:
    with pytest.raises(sandbox.InvalidInput, match="concurrency"):
        Sandbox(concurrency=concurrency)


def test_folder_of_agents_is_read_once(server_url: str, user: str, tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text("def run(): return {'version': 1}")
    with Sandbox(url=server_url, agents=tmp_path) as box:
        (tmp_path / "child.py").write_text("def run(): return {'version': 2}")
        assert box.run("async def run(i): return await agents.call('child')", {}, user=user).check() == {"version": 1}


def test_unclosed_sandbox_leaves_nothing(server_url: str, user: str) -> None:
    box = Sandbox(url=server_url)
    box.run("def run(): return {}", {}, user=user).check()
    box.close()
    del box
    gc.collect()


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 4))
def test_slots_are_given_fairly(owners: list[str], count: int) -> None:
    slots, order = Slots(count), []
    for place, owner in enumerate(owners):
        slots.enter(owner, lambda place=place: order.append(place))  # type: ignore[misc]
    assert order == list(range(min(count, len(owners))))
    for _ in range(len(owners)):
        slots.leave()
    assert sorted(order) == list(range(len(owners)))
    waited = [owners[place] for place in order[count:]]
    for owner in set(waited):
        others = [0, *(n for n, one in enumerate(waited) if one == owner)]
        for before, after in itertools.pairwise(others):
            between = waited[before + 1 : after]
            assert all(between.count(other) <= 1 + (before == 0) for other in set(between))


def test_withdrawn_tickets_free_their_slots() -> None:
    slots, begun = Slots(2), []
    tickets = [slots.enter(n % 2, lambda n=n: begun.append(n)) for n in range(6)]  # type: ignore[misc]
    assert [ticket.withdraw() for ticket in tickets] == [False, False, True, True, True, True]
    slots.leave()
    slots.leave()
    for n in range(2):
        slots.enter("x", lambda n=n: begun.append(10 + n))  # type: ignore[misc]
    assert begun == [0, 1, 10, 11]
