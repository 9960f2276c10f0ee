"""Watching and waiting in an agent: as on the host, concurrently with store calls, and ended with the run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import redis

import redis_store
import sandbox
from redis_store import DataStore, LimitExceeded
from redis_store.brokers.watches import NamespaceBudget
from redis_store.changelog.entry import CursorFormat
from redis_store.namespace.keys import UserKeys
from sandbox import Permissions
from sandbox.host import watches
from sandbox.host.outbox import Outbox
from sandbox.host.watches import MOST_WAITS, MOST_WATCHES, WatchHost
from sandbox.protocol.frames import FrameError
from sandbox.record.timeline import Who
from sandbox.running.watched import MOST_OF_A_RUN, MOST_OF_A_USER, budget_of_run
from tests.sandbox.conftest import wait_until
from tests.support.brokered_side import FakeTree

Run = Callable[..., sandbox.RunResult]
Evaluate = Callable[..., Any]


@pytest.fixture
def store(server_url: str, user: str) -> Any:
    with redis_store.connect(server_url, user=user, configure_server=True) as data_store:
        yield data_store


def test_one_big_reply_at_a_time_is_in_memory(store: DataStore) -> None:
    store.set("big", "x" * 2_000_000)
    unsent: list[threading.Event] = []
    most: list[int] = []
    heard: list[Any] = []

    def post(message: list[Any], awaited: bool = False) -> threading.Event:
        assert awaited, message[:2]
        unsent.append(sent := threading.Event())
        most.append(len(unsent))
        heard.append(message[1])
        return sent

    tree: Any = FakeTree()
    outbox: Any = SimpleNamespace(post=post, wake=lambda: None)
    host = WatchHost(tree, Who("agent", "run"), store.as_json_text(), outbox)
    for number in range(6):
        host.heard("wait", [number, "default", "big", None])
    for _ in range(5):
        wait_until(lambda: unsent, "an answer has been sent")
        unsent.pop().set()
    wait_until(lambda: len(heard) == 6, "the last one is under way")
    unsent.pop().set()  # as the outbox does when the run is over, although the last answer was never sent
    host.close()
    host.join(20)
    assert host.under_way == 0
    assert sorted(heard) == list(range(6))
    assert max(most) == 1


def test_watches_closed_before_they_open(run: Run, store: DataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    start = WatchHost.start

    def noted(host: WatchHost, work: Callable[[], None], number: int) -> None:
        start(host, work, number)
        threads.append(len(host._threads))

    monkeypatch.setattr(WatchHost, "start", noted)
    result = run(
        """
        import os, socket
        from sandbox.protocol.frames import pack

        def run():
            control = socket.socket(fileno=os.dup(4))
            for number in range(1000):
                opening = pack(["watch", number, f"space-{number}", False, None, None, None, False], 2**20)
                control.sendall(opening + pack(["unwatch", number], 2**20))
            return {"watched": True}
        """,
        limits=sandbox.Limits(timeout_s=25),
    )
    assert result.check() == {"watched": True}
    assert max(threads) <= MOST_WATCHES + MOST_WAITS + 1


def in_background(work: Callable[[], Any]) -> Callable[[], Any]:
    """Start a function in a thread, and return a function that waits for its result."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()

    def result() -> Any:
        thread.join(30)
        return found[0]

    return result


@pytest.mark.parametrize("loop", ["for", "async for"])
def test_agent_gets_the_same_changes_as_a_watcher_outside(store: DataStore, evaluate: Evaluate, loop: str) -> None:
    result = in_background(
        lambda: evaluate(
            f"""
            from dataclasses import asdict
            value = []
            with data_store.watch(prefix="k") as changes:
                data_store.set("ready", 1)
                {loop} change in changes:
                    value.append(asdict(change))
                    data_store.get("a call beside it")
                    if change.key == "k-last":
                        break
            """
        )
    )
    with store.watch(prefix="k") as watch:
        store.wait_for("ready", 20)
        store.set("k1", {"ä": [1, None]})
        store.set_many({"k2": 2, "other": 3})
        store.delete("k1")
        store.clear()
        store.set("k-last", "last")
        expected = []
        while not expected or expected[-1]["key"] != "k-last":
            expected.append(asdict(watch.next_change(20)))  # type: ignore[arg-type]
    assert result() == expected


def test_watch_all_with_initial(store: DataStore, evaluate: Evaluate) -> None:
    store.use_namespace("files:a").set("x", 1)
    store.use_namespace("other").set("x", 1)
    assert evaluate(
        """
        changes = data_store.watch_all("files:", initial=True)
        value = [next(changes)]
        data_store.use_namespace("files:b").set("y", 2)
        value.append(await anext(changes))
        value = [[change.namespace, change.key, change.value] for change in value]
        """
    ) == [["files:a", "x", 1], ["files:b", "y", 2]]


def test_watched_namespaces_are_limited(store: DataStore, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.host.watches.MOST_NAMESPACES", 5)
    for name in ("files:a", "files:b", "files:c", "other"):
        store.use_namespace(name).set("x", 1)
    assert evaluate(
        """
        from redis_store.errors import LimitExceeded

        def refused(call):
            try:
                return repr(call())
            except LimitExceeded as error:
                return [error.limit, error.limit_count]

        files = data_store.watch_all("files:")
        value = [refused(lambda: data_store.watch_all("files:"))]  # three more
        other = data_store.watch_all("other")
        value.append(refused(lambda: data_store.watch_all("files:")))
        other.close()
        other = data_store.watch_all("other")  # whose place was free again
        data_store.use_namespace("files:d").set("x", 2)
        value.append(next(files).namespace)
        data_store.use_namespace("files:e").set("x", 2)
        value += [refused(lambda: files.next_change(20)) for _ in range(2)]
        data_store.use_namespace("other").set("x", 2)
        value.append(next(other).namespace)
        value.append(data_store.watch_all("files:d", initial=True).next_change(20).value)
        """
    ) == [
        *[["watched_namespaces", 5]] * 2,
        "files:d",
        *[["watched_namespaces", 5]] * 2,
        "other",
        2,
    ]


def test_resuming_and_consumers(store: DataStore, evaluate: Evaluate) -> None:
    assert evaluate(
        """
        data_store.watch(consumer="c").close()
        with data_store.watch() as changes:
            data_store.set_many({"a": 1, "b": 2})
            cursor = next(changes).cursor
        value = [next(data_store.watch(since=cursor)).value]
        with data_store.watch(consumer="c") as changes:
            value.append(next(changes).value)
        with data_store.watch(consumer="c") as changes:  # the first is not done: the second was not asked for
            value += [next(changes).value, next(changes).value]
        with data_store.watch(consumer="c") as changes:  # nor is the second
            value += [next(changes).value, changes.next_change(0.01)]
        with data_store.watch(consumer="c") as changes:
            value.append(changes.next_change(0.01))
        """
    ) == [2, 1, 1, 2, 2, None, None]


def test_waiting_for_a_key(store: DataStore, evaluate: Evaluate) -> None:
    waiting = in_background(
        lambda: evaluate(
            """
            data_store.set("ready", 1)
            value = [data_store.wait_for("k", 20), data_store.wait_until("k", lambda value: value > 2, timeout=20)]
            """
        )
    )
    store.wait_for("ready", 20)
    for number in (1, 2, 3):
        store.set("k", number)
    first, last = waiting()
    assert (first in (1, 2, 3), last) == (True, 3)


def test_waiting_does_not_block_store_calls(store: DataStore, evaluate: Evaluate) -> None:
    assert evaluate(
        """
        waiting = [asyncio.create_task(asyncio.to_thread(data_store.wait_for, f"k{n}", 20)) for n in range(5)]
        await asyncio.sleep(0)
        for n in range(5):
            data_store.set(f"k{n}", n)
        value = await asyncio.gather(*waiting)
        """
    ) == [0, 1, 2, 3, 4]


def test_cancelled_task_loses_no_change(store: DataStore, evaluate: Evaluate) -> None:
    assert (
        evaluate(
            """
        changes = data_store.watch()
        try:
            await asyncio.wait_for(anext(changes), 0.01)
        except TimeoutError:
            data_store.set("k", 1)
        value = (await anext(changes)).key
        """
        )
        == "k"
    )


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("data_store.wait_for('k', 0.01)", "WaitTimeout"),
        ("data_store.wait_until('k', lambda value: True, 0.01)", "WaitTimeout"),
        ("data_store.wait_until('k', 1)", "InvalidType"),
        ("data_store.wait_for('k', '1')", "InvalidType"),
        ("data_store.wait_for('k', -1)", "InvalidInput"),
        ("data_store.wait_for('')", "InvalidName"),
        ("data_store.watch(prefix=1)", "InvalidType"),
        ("data_store.watch(since='nonsense')", "InvalidInput"),
        ("data_store.watch(since=1)", "InvalidType"),
        ("data_store.watch(consumer='')", "InvalidName"),
        ("data_store.watch(initial=1)", "InvalidType"),
        ("data_store.watch_all(since='x')", "InvalidType"),
        ("data_store.watch().next_change('1')", "InvalidType"),
        ("[data_store.watch() for _ in range(40)]", "LimitExceeded"),
        ("data_store.watch_all(since=dict.fromkeys(map(str, range(2001)), 'x'))", "LimitExceeded"),
    ],
)
def test_errors_match_the_host(run: Run, call: str, error: str) -> None:
    ended = run(f"def run():\n    {call}\n    return {{}}\n", limits=sandbox.Limits(timeout_s=20)).error
    assert isinstance(ended, sandbox.AgentRaised), ended
    assert ended.type_name == error


def test_one_watch_too_many_names_the_watch_of_many_namespaces(run: Run) -> None:
    source = "def run():\n    held = [data_store.use_namespace(str(n)).watch() for n in range(33)]\n    return {}\n"
    ended = run(source).error
    assert isinstance(ended, sandbox.AgentRaised)
    assert ended.message == (
        "This agent has 32 open watches, and at most 32 are allowed at once: close some, or follow many namespaces with one"
        " watch_all(prefix=)."
    )


def test_concurrent_waits_are_limited(store: DataStore) -> None:
    told: list[list[Any]] = []
    tree: Any = FakeTree()
    outbox: Any = SimpleNamespace(post=told.append, wake=lambda: None)
    host = WatchHost(tree, Who("tester", "run"), store.as_json_text(), outbox)
    for number in range(MOST_WAITS + 1):
        host.heard("wait", [number, "default", "never", None])
    assert [answer[:3] for answer in told] == [["refused", MOST_WAITS, "LimitExceeded"]]
    assert told[0][3].startswith("This agent has 64 open waits, and at most 64 are allowed at once: ")
    assert told[0][3].endswith("or follow many keys with one watch(prefix=).")
    host.close()
    store.close()
    host.join(20)
    assert host.under_way == 0


def test_wait_that_is_given_up_frees_its_place(store: DataStore, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "MOST_WAITS", 1)
    store.set("there", 1)
    result = run(
        """
        import signal, time
        from redis_store import LimitExceeded

        waiting = True

        def ring(*_):
            global waiting
            if waiting:
                waiting = False
                raise KeyError

        def run(input_dict):
            signal.signal(signal.SIGALRM, ring)
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)  # again: one could come just before the call blocks
            try:
                data_store.wait_for("never")
            except KeyError:
                pass
            while True:
                try:
                    return {"there": data_store.wait_for("there")}
                except LimitExceeded:
                    time.sleep(0.01)  # the host has not yet ended the other
        """,
        limits=sandbox.Limits(timeout_s=10),
    )
    assert result.check() == {"there": 1}


def test_number_in_use_or_second_request_is_a_frame_error(store: DataStore) -> None:
    tree: Any = FakeTree()
    host = WatchHost(tree, Who("tester", "run"), store.as_json_text(), Outbox(lambda: None))
    watch = ["default", False, None, None, None, False]
    for kind, parts in ("wait", ["default", "never", None]), ("watch", watch):
        host.heard(kind, [1, *parts])
        with pytest.raises(FrameError):
            host.heard(kind, [1, *parts])
    for _ in range(2):
        host.heard("next", [1, 1, None])  # the second one repeats the first, of which an interrupted agent is not sure
    with pytest.raises(FrameError):
        host.heard("next", [2, 1, None])
    host.close()
    store.close()
    host.join(20)


@pytest.mark.usefixtures("nothing_left")
def test_watches_and_waits_end_with_the_run(run: Run, user: str) -> None:
    source = """
        import threading
        def run(input_dict):
            for n in range(3):
                threading.Thread(target=data_store.wait_for, args=(f"never {n}",), daemon=True).start()
            changes = data_store.watch()
            threading.Thread(target=next, args=(changes,), daemon=True).start()
            data_store.set("k", 1)
            return {"user": data_store.user}
    """
    assert run(source).check() == {"user": user}


def test_watching_a_value_that_is_not_json(store: DataStore, evaluate: Evaluate, server_url: str, user: str) -> None:
    import redis

    waiting = in_background(
        lambda: evaluate(
            """
            with data_store.watch(prefix="k") as changes:
                data_store.set("ready", 1)
                value = []
                for _ in range(2):  # a write by hand is noticed at its own time
                    try:
                        value.append(next(changes).value)
                    except ValueError as error:
                        value.append(type(error).__name__)
            """
        )
    )
    store.wait_for("ready", 20)
    with redis.Redis.from_url(server_url) as raw:
        raw.hset(f"user:{user}:ns:default", "k1", "{")
    wait_until(lambda: store.list_keys("k1"), "it is written")
    store.set("k2", 2)
    assert sorted(map(str, waiting())) == ["2", "CorruptValue"]


@pytest.mark.parametrize(
    ("permissions", "call"),
    [
        (sandbox.Permissions(operations=["get", "set"]), "data_store.watch()"),
        (sandbox.Permissions(operations=["get", "set", "watch"]), "data_store.watch_all()"),
        (sandbox.Permissions(operations=["get", "set", "watch"]), "data_store.wait_for('k', 0.01)"),
        (sandbox.Permissions(read=["files:*"]), "data_store.watch()"),
        (sandbox.Permissions(read=["files:*"]), "data_store.watch_all()"),
        (sandbox.Permissions(read=["files:*"]), "data_store.wait_for('k', 0.01)"),
        (None, "data_store.restricted(read=['files:*']).watch()"),
        (None, "data_store.restricted(read=['files:*']).watch_all('file')"),
        (None, "data_store.restricted(read=['files:*']).wait_for('k', 0.01)"),
    ],
)
def test_watching_without_permission_is_refused(run: Run, permissions: sandbox.Permissions | None, call: str) -> None:
    ended = run(f"def run():\n    {call}\n    return {{}}\n", permissions=permissions).error
    assert isinstance(ended, sandbox.AgentRaised), ended
    assert ended.type_name == "AccessDenied"


def test_watching_with_permission(run: Run) -> None:
    source = """
        def run(input_dict):
            files = data_store.use_namespace("files:a")
            with data_store.watch_all("files:") as changes:
                files.set("k", 1)
                return {"key": next(changes).key, "value": files.wait_for("k", 20)}
    """
    permissions = sandbox.Permissions(namespaces=["files:*"], operations=["set", "watch_all", "wait_for"])
    assert run(source, permissions=permissions).check() == {"key": "k", "value": 1}


def test_watching_is_in_the_timeline(run: Run) -> None:
    source = """
        def run(input_dict):
            with data_store.watch("k") as changes:
                data_store.set("k", {"n": 1})
                next(changes)
            data_store.wait_for("k", 20)
            return {}
    """
    result = run(source)
    assert result.check() == {}
    lines = [(line.operation, line.key, line.count, line.hit) for line in result.operations if line.operation != "set"]
    assert lines == [("watch", "k", 0, None), ("watch", "k", 1, True), ("wait_for", "k", 1, True)]


def test_watching_counts_as_operations(run: Run) -> None:
    source = """
        def run(input_dict):
            changes = data_store.watch()
            while True:
                try:
                    changes.next_change(0)
                except BaseException:
                    pass
    """
    assert isinstance(run(source, limits=sandbox.Limits(operations=50)).error, sandbox.OperationLimitExceeded)


def test_dropped_watches_are_let_go(run: Run) -> None:
    result = run(
        """
        def run():
            for number in range(100):
                watch = data_store.watch()
            data_store.set("k", 1)
            return {"value": watch.next_change(timeout=20).value}
        """
    )
    assert result.check() == {"value": 1}


def test_a_second_taker_is_refused(run: Run) -> None:
    result = run(
        """
        import asyncio, threading, time
        from redis_store import InvalidInput

        async def run():
            watch, got, refused = data_store.watch(), [], []
            def take():
                got.append(watch.next_change(timeout=20).value)
            thread = threading.Thread(target=take)
            thread.start()
            while not watch._busy:
                time.sleep(0.001)
            for take_too in (lambda: watch.next_change(timeout=0), lambda: next(watch)):
                try:
                    take_too()
                except InvalidInput:
                    refused.append("thread")
            try:
                await anext(watch)
            except InvalidInput:
                refused.append("task")
            data_store.set("k", 1)
            thread.join()
            tasks = [asyncio.create_task(anext(watch)) for _ in range(2)]
            await asyncio.sleep(0)
            data_store.set("k", 2)
            first, second = await asyncio.gather(*tasks, return_exceptions=True)
            return {"got": [*got, first.value], "refused": [*refused, type(second).__name__]}
        """
    )
    assert result.check() == {"got": [1, 2], "refused": ["thread", "thread", "task", "InvalidInput"]}


@pytest.mark.parametrize("kind", ["Exception", "TimeoutError"])
@pytest.mark.parametrize("consumer", [None, "c"])
def test_alarms_cost_no_change(run: Run, kind: str, consumer: str | None) -> None:
    result = run(
        """
        import random, signal
        class Alarm(KIND): pass
        def ring(*_):
            if armed:
                raise Alarm
        def run(input_dict):
            global armed
            consumer = input_dict["consumer"]
            armed, alarms, got = False, 0, []
            signal.signal(signal.SIGALRM, ring)
            with data_store.watch(consumer=consumer) as watch:
                for number in range(200):
                    data_store.set("k", number)
                while got[-1:] != [199]:
                    change = None
                    try:
                        armed = True
                        signal.setitimer(signal.ITIMER_REAL, 0.00005 + random.random() * 0.0005)
                        change = watch.next_change(timeout=2)
                        armed = False
                        if change is None:
                            break
                    except Alarm:
                        armed = False
                        alarms += 1
                    if change is not None:
                        got.append(change.value)
            signal.setitimer(signal.ITIMER_REAL, 0)
            return {"alarms": alarms > 0, "missing": sorted(set(range(200)) - set(got)), "got": len(got)}
        """.replace("KIND", kind),
        {"consumer": consumer},
        limits=sandbox.Limits(operations=100_000, timeout_s=30),
    )
    said = result.check()
    assert said["alarms"]
    # An alarm may ring in the agent's own line, right after a change was returned.
    assert len(said["missing"]) <= 2


def test_timeouts_hold_while_the_server_hangs(run: Run, own_server: Any) -> None:
    result = run(
        """
        import time
        from redis_store import WaitTimeout

        def run(input_dict, tools):
            watch = data_store.watch(consumer="c")
            data_store.set("k", 1)
            watch.next_change(timeout=20)
            tools["hang"]()
            began = time.monotonic()
            took = []
            found = watch.next_change(timeout=0.1)
            took.append(time.monotonic() - began)
            try:
                data_store.wait_for("absent", timeout=0.1)
            except WaitTimeout:
                took.append(time.monotonic() - began)
            tools["go_on"]()
            data_store.set("k", 2)
            return {"found": found, "took": took, "next": watch.next_change(timeout=20).value}
        """,
        url=own_server.url,
        tools={
            "hang": lambda: own_server.process.send_signal(signal.SIGSTOP),
            "go_on": lambda: own_server.process.send_signal(signal.SIGCONT),
        },
    )
    said = result.check()
    assert (said["found"], said["next"]) == (None, 2)
    assert said["took"][1] < 4.5  # less than the store's time-out of 5 s


READING = {
    "watches": "for n in range(50): data_store.use_namespace(f'none-{n}').watch().close()",
    "waits": "for n in range(50):\n"
    "        with contextlib.suppress(TimeoutError): data_store.use_namespace(f'none-{n}').wait_for('k', 0.2)",
    "cursors": "data_store.watch_all('none', since=input_dict['since'])",
    "consumers": "for n in range(50): data_store.use_namespace('there').watch(consumer=f'c{n}').close()",
}


@pytest.mark.parametrize(("reading", "broker"), [*((name, "thread") for name in READING), ("watches", "process")])
def test_what_watching_stores_is_counted(
    user: str, store: DataStore, server_url: str, reading: str, broker: Literal["thread", "process"]
) -> None:
    store.use_namespace("there").set("k", 1)
    names = [f"none-{n}" for n in range(50)]
    since = {name: CursorFormat(UserKeys.of(user), name.encode()).reset for name in names}
    source = f"import contextlib\ndef run(input_dict):\n    {READING[reading]}\n    return {{}}\n"
    limits = sandbox.Limits(bytes_written=20_000, timeout_s=20)
    with sandbox.Sandbox(url=server_url, limits=limits, permissions=Permissions(read=["*"]), broker=broker) as box:
        result = box.run(source, {"since": since}, user=user)
    assert isinstance(result.error, sandbox.WriteLimitExceeded), result
    with redis.Redis.from_url(server_url) as raw:
        made = [key for kind in ("log", "own:*:consumer") for key in raw.keys(f"user:{user}:{kind}:*")]
    assert len(made) <= 40_000 // 400


def test_a_watched_namespace_is_counted_once(run: Run, store: DataStore) -> None:
    source = """
        def run():
            there = data_store.use_namespace("there")
            for n in range(20):
                with there.watch():
                    pass
                try:
                    there.wait_for("none", timeout=0.001)
                except TimeoutError:
                    pass
            return {}
    """
    run(source, limits=sandbox.Limits(bytes_written=12_000, timeout_s=20)).check()


def test_namespaces_that_a_user_watches_are_bounded() -> None:
    told: list[bytes] = []
    one = budget_of_run("redis://somewhere", "alice", told.extend)
    two, other = (budget_of_run("redis://somewhere", user, told.extend) for user in ("alice", "bob"))
    mine = NamespaceBudget(MOST_OF_A_RUN, one)
    with pytest.raises(LimitExceeded, match=f"At most {MOST_OF_A_RUN:,} namespaces"):
        one.take([b"n"] * (MOST_OF_A_RUN + 1))
    assert not told
    mine.take([b"n"] * 3)
    assert (mine.taken, one.taken, len(told)) == (3, 3, 3)
    with pytest.raises(LimitExceeded):
        mine.take([b"n"] * (MOST_OF_A_RUN - 2))
    runs = [budget_of_run("redis://somewhere", "alice", told.extend) for _ in range(MOST_OF_A_USER // MOST_OF_A_RUN)]
    for run in runs[1:]:
        run.take([b"n"] * MOST_OF_A_RUN)
    two.take([b"n"] * (MOST_OF_A_RUN - 3))
    with pytest.raises(LimitExceeded, match=f"At most {MOST_OF_A_USER:,} namespaces"):
        runs[0].take([b"n"])
    other.take([b"n"])
    mine.give_back()
    runs[0].take([b"n"])
