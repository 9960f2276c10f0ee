"""A cluster of several nodes: a user's slot moves, nodes are promoted and killed, and all kinds of callers are at work."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import pytest

import sandbox
from redis_store import AsyncDataStore, DataStore, DataStoreError, StoreUnavailable, connect, connect_async
from tests.support.acknowledged import Acknowledged, check_loss
from tests.support.clusters import Cluster, Node, slot_of
from tests.support.servers import wait_until


class Busy:
    """Callers of one user that go on until the end: a thread, asyncio tasks, a watcher, and a lock holder. A context manager.

    Nothing that happens to the cluster may be seen by them, apart from `allowed` errors. Where a node is killed (`loses`), they
    may find an older value than their last one, because the replica that is promoted may not have that yet.
    """

    def __init__(
        self, url: str, user: str, allowed: tuple[type[DataStoreError], ...] = (), *, loses: bool = False
    ) -> None:
        self._loses = loses
        self._stack = ExitStack()
        self._allowed = allowed
        self._over = threading.Event()
        self.store = self._stack.enter_context(connect(url, user=user))
        self._url, self._user = url, user
        self.errors: list[BaseException] = []
        self.rounds = dict.fromkeys(("thread", "task", "watch"), 0)
        self.told: list[Any] = []
        """The numbers that the watcher was told of, and None for each reset."""
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,)) for work in (self._work, self._loop, self._watch)
        ]
        self.lock = self._stack.enter_context(self.store.lock("held", ttl=60))
        self._watching = self._stack.enter_context(self.store.watch("watched"))

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.errors.append(error)

    def _attempt(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except self._allowed:
            return

    def _work(self) -> None:
        with connect(self._url, user=self._user, near_cache=True) as near:
            for number in itertools.count(1):
                if self._over.is_set():
                    return
                self._attempt(lambda number=number: self._round(near, number))
                self.rounds["thread"] += 1

    def _round(self, near: DataStore, number: int) -> None:
        store = self.store.use_namespace("thread")
        store.set("key", number)
        self._check(near.use_namespace("thread").get("key"), number)
        store.set_many({"a": number, "b": number})
        values = store.get_many(["a", "b"])
        assert values.get("a") == values.get("b"), "half of a batch"
        self._check(values.get("a"), number)
        self.store.set("watched", number)

    def _check(self, found: int | None, number: int) -> None:
        assert found == number or (self._loses and (found is None or found < number)), (
            "an old value, or another caller's"
        )

    def _loop(self) -> None:
        asyncio.run(self._tasks())

    async def _tasks(self) -> None:
        async with connect_async(self._url, user=self._user) as store:
            own = store.use_namespace("tasks")
            await asyncio.gather(*(self._task(own, f"key-{number}") for number in range(5)))

    async def _task(self, store: AsyncDataStore, key: str) -> None:
        for number in itertools.count(1):
            if self._over.is_set():
                return
            try:
                await store.set(key, [key, number])
                whose, found = await store.get(key, [key, None])
                assert whose == key, "the reply is another caller's"
                self._check(found, number)
                self.rounds["task"] += 1
            except self._allowed:
                await asyncio.sleep(0.01)

    def _watch(self) -> None:
        while not self._over.is_set():
            change = self._watching.next_change(0.2)
            if change is not None:
                self.told.append(None if change.op == "reset" else change.value)
                self.rounds["watch"] += 1

    def go_on(self) -> None:
        """Wait until every caller has done something since now."""
        before = dict(self.rounds)
        wait_until(
            lambda: self.errors or all(self.rounds[name] > before[name] + 1 for name in before), "every caller goes on"
        )
        assert not self.errors, self.errors

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._stack.close()


AGENT = """
import itertools

def run(input_dict, tools):
    for number in itertools.count(1):
        data_store.set("n", number)
        if data_store.increment("total") != number:
            return {"lost": number}
        with data_store.lock("l"):
            if data_store.get("n") != number:
                return {"old": number}
        if tools["over"]():
            return {"rounds": number}
"""


def test_a_slot_moves_back_and_forth_under_everybody(cluster: Cluster, user: str) -> None:
    slot = slot_of(user)
    home = cluster.owner(slot)
    over = threading.Event()
    with sandbox.Sandbox(url=cluster.url, tools={"over": over.is_set}) as box, Busy(cluster.url, user) as busy:
        run = box.start(AGENT, {}, user=user, namespace="agent")
        for target in 3 * (cluster.others(slot)[0], home):
            with cluster.moving(slot, target) as move_some:
                while move_some(1):  # scripts whose keys are at both nodes wait until these are at one
                    pass
            busy.go_on()
        if cluster.kind == "valkey9":
            cluster.move_at_once(slot)
            busy.go_on()
        over.set()
        assert run.result().check()["rounds"] > 0
        assert busy.lock.held
        with pytest.raises(DataStoreError), busy.store.lock("held", timeout=0):
            pass
        told = [number for number in busy.told if number is not None]
        assert told == sorted(told), "the watcher was told of an older value after a newer one"


def promoted(cluster: Cluster, primary: Node) -> None:
    cluster.fail_over(primary)


def killed(cluster: Cluster, primary: Node) -> None:
    cluster.kill(primary)


@pytest.mark.parametrize("how", [promoted, killed])
def test_the_node_of_a_user_is_replaced(cluster: Cluster, user: str, how: Callable[[Cluster, Node], None]) -> None:
    replicas_after = 1 if how is promoted else 0
    with Busy(cluster.url, user, allowed=(StoreUnavailable,), loses=how is killed) as busy, ExitStack() as stack:
        writers = {
            count: stack.enter_context(
                Acknowledged(cluster.url, user, namespace=f"by-{count}", min_replicas=count, timeout=2)
            )
            for count in (0, 1)
        }
        check_loss(writers, lambda: how(cluster, cluster.owner_of(user)), replicas_after)
        busy.go_on()
    cluster.wait_until_whole()


def test_a_cancelled_call_shifts_no_reply(cluster: Cluster, user: str) -> None:
    """Ten thousand calls are cancelled at any point of their way, while the slot moves and its node is replaced."""
    slot = slot_of(user)

    async def main() -> None:
        async with connect_async(cluster.url, user=user) as store:
            await store.set_many({f"key-{number}": number for number in range(100)})
            happening = asyncio.ensure_future(asyncio.to_thread(happen))
            cancelled = 0
            while cancelled < 10_000 or not happening.done():
                calls = [asyncio.ensure_future(store.get(f"key-{number}")) for number in range(100)]
                for _ in range(cancelled // 100 % 5):
                    await asyncio.sleep(0)
                for call in calls[::2]:
                    call.cancel()
                    cancelled += 1
                results = await asyncio.gather(*calls, return_exceptions=True)
                for number, result in enumerate(results):
                    assert isinstance(result, (asyncio.CancelledError, StoreUnavailable)) or result == number
            await happening
            assert await store.get("key-7") == 7

    def happen() -> None:
        cluster.move(slot)
        cluster.fail_over(cluster.owner(slot))
        cluster.move(slot)

    asyncio.run(main())
