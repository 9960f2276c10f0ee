"""Forks: a child never reads its parent's replies, nor the parent a child's, whatever calls were under way."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from redis_store import DataStore, connect_async
from redis_store.operations import operations_of
from tests.support.proxy import Fault, proxied
from tests.support.servers import DEADLINE_S, Server, wait_until
from tests.support.threads import in_thread

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def forked(work: Callable[[], Any]) -> Callable[[], None]:
    """Run some work in a forked child, and return a function that waits for it and fails if the work failed."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read_end)
            work()
            status = 0
        except BaseException:
            os.write(write_end, traceback.format_exc()[-4000:].encode())
        finally:
            os._exit(status)
    os.close(write_end)

    def wait() -> None:
        try:
            ended = wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid or None, "the child has ended", DEADLINE_S)
        except AssertionError:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            os.close(read_end)
            raise
        assert ended
        with os.fdopen(read_end, "rb") as pipe:
            failure = pipe.read().decode()
        assert not failure, failure

    return wait


def check_own(store: DataStore, name: str) -> None:
    """Write and read keys that no other process uses, and check every answer."""
    namespace = store.use_namespace(name)
    for number in range(150):
        namespace.set(f"key-{number}", [name, number])
        assert namespace.get(f"key-{number}") == [name, number]
    assert namespace.get_all() == {f"key-{number}": [name, number] for number in range(150)}
    assert len(namespace.list_keys()) == 150


def test_parent_and_child_go_on_at_once(one_server: Server, open_store: Any, user: str) -> None:
    store = open_store(one_server.url, user)
    store.set("key", 1)
    wait = forked(lambda: check_own(store, "child"))
    check_own(store, "parent")
    wait()
    assert store.list_namespaces() == ["child", "default", "parent"]


def test_preloaded_and_forked_four_times(one_server: Server, open_store: Any, user: str) -> None:
    """As with gunicorn's preload: connected in the parent, used in all children at once."""
    store = open_store(one_server.url, user)
    store.set("key", 1)
    store.list_keys()
    waits = [forked(lambda number=number: check_own(store, f"child-{number}")) for number in range(4)]
    check_own(store, "parent")
    for wait in waits:
        wait()


def test_a_childs_end_leaves_the_parent_its_connection(
    one_server: Server, open_store: Any, raw_of: Any, user: str
) -> None:
    store, raw = open_store(one_server.url, user), raw_of(one_server)
    store.set("key", 1)
    before = sorted(row["id"] for row in raw.client_list())

    def work() -> None:
        assert store.get("key") == 1
        store.close()

    forked(work)()
    assert store.get("key") == 1
    wait_until(lambda: sorted(row["id"] for row in raw.client_list()) == before, "the child's connections are gone")


def sockets() -> set[str]:
    """The sockets that this process holds."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the descriptor that listed them is closed already
            found.add(os.readlink(descriptor))  # noqa: PTH115
    return {name for name in found if name.startswith("socket:")}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc tells what a process holds, and is not there")
def test_a_child_holds_none_of_its_parents_connections(one_server: Server, open_store: Any, user: str) -> None:
    store = open_store(one_server.url, user)
    before = sockets()
    store.get("key")
    ours = sockets() - before
    assert len(ours) == 1

    def work() -> None:
        assert not sockets() & ours

    forked(work)()
    assert sockets() - before == ours


def test_a_lock_held_at_the_fork_does_not_hang_the_child(one_server: Server, open_store: Any, user: str) -> None:
    store = open_store(one_server.url, user)
    store.set("key", 1)

    def work() -> None:
        assert store.get("key") == 1
        store.close()

    with operations_of(store).driver.loans._lock:  # as a thread does that is connecting
        forked(work)()
    assert store.get("key") == 1


def test_a_fork_while_another_thread_is_in_mid_call(one_server: Server, open_store: Any, user: str) -> None:
    with proxied(one_server) as proxy:
        store = open_store(proxy.url, user, namespace="the-ns")
        store.set_many({"key-1": 1, "key-2": 2})
        rule = proxy.strike("ns:the-ns", Fault.HOLD_REPLY)
        with in_thread(lambda: store.get("key-1")) as under_way:
            assert rule.struck.wait(20)

            def work() -> None:
                for _ in range(50):
                    assert store.get("key-2") == 2
                    assert store.get("absent", "default") == "default"

            forked(work)()
            rule.release()
        assert under_way.result == 1
        assert store.get("key-2") == 2


def test_forks_under_load(one_server: Server, open_store: Any, user: str) -> None:
    """Threads keep working while the process forks repeatedly; locks held at that moment must not hang the child."""
    store = open_store(one_server.url, user)
    store.set_many({f"key-{number}": number for number in range(20)})
    stop = threading.Event()
    wrong: list[Any] = []

    def load(number: int) -> None:
        while not stop.is_set():
            found = store.get(f"key-{number}")
            if found != number:
                wrong.append((number, found))
            store.set(f"key-{number}", number)

    def work() -> None:
        for number in range(20):
            assert store.get(f"key-{number}") == number

    threads = [in_thread(lambda number=number: load(number)) for number in range(4)]
    for thread in threads:
        thread.__enter__()
    try:
        for _ in range(15):
            forked(work)()
    finally:
        stop.set()
        for thread in threads:
            thread.__exit__()
    assert [thread.error for thread in threads] == [None] * 4
    assert not wrong


def use_in_process(store: DataStore, name: str, results: Any) -> None:
    check_own(store, name)
    results.put(name)


def test_multiprocessing(one_server: Server, open_store: Any, user: str) -> None:
    store = open_store(one_server.url, user)
    store.set("key", 1)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    processes = [context.Process(target=use_in_process, args=(store, f"p-{number}", results)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(DEADLINE_S)
        assert process.exitcode == 0
        process.close()
    assert sorted(results.get() for _ in processes) == ["p-0", "p-1", "p-2"]
    results.close()
    assert store.get("key") == 1


def test_a_fork_of_an_async_store(one_server: Server, user: str) -> None:
    """The child may use the store in its own loop; the parent's loop and connection continue."""

    async def main() -> None:
        async with connect_async(one_server.url, user=user) as store:
            await store.set_many({f"key-{number}": number for number in range(20)})
            await store.get_all()
            under_way = [asyncio.ensure_future(store.get(f"key-{number}")) for number in range(20)]
            await asyncio.sleep(0)

            def work() -> None:
                async def in_child() -> None:
                    for number in range(20):
                        assert await store.get(f"key-{number}") == number
                    assert len(await store.get_all()) == 20

                asyncio._set_running_loop(None)  # the parent's, which does not run here
                asyncio.new_event_loop().run_until_complete(in_child())

            wait = forked(work)
            assert await asyncio.gather(*under_way) == list(range(20))
            await asyncio.to_thread(wait)
            assert await store.get("key-7") == 7

    asyncio.run(main())
