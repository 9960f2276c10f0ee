"""Locks, semaphores, rate limits and single flight in the sandbox: shared with all callers, and released with the run."""
# ruff: noqa: PT012 (the end of a lock's block raises)

from __future__ import annotations

import asyncio
import re
import textwrap
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sandbox
from redis_store import (
    AccessDenied,
    ComputeFailed,
    DataStore,
    InvalidInput,
    LimitExceeded,
    LockLost,
    LockTimeout,
    connect,
)
from redis_store.flows.hold import pass_limit
from redis_store.namespace.access import Access
from redis_store.namespace.keys import UserKeys
from redis_store.operations import operations_of
from redis_store.ops.locks import RateLimitOps
from sandbox.child.store.run_flows import run_flow
from sandbox.host.held import MAX_HELD
from sandbox.permissions import Granted, Permissions
from sandbox.protocol.answers import CLAIMED
from sandbox.protocol.arguments import MAX_TAGS
from sandbox.protocol.charges import HELD_BYTES, KEY_BYTES, LOGGED_BYTES, NAMESPACE_BYTES
from tests.sandbox.conftest import wait_until
from tests.support.brokered_side import Brokered, FakeTree, brokered
from tests.support.steps import Steps
from tests.support.threads import in_thread

HOLDING = """
import os

def run(input_dict):
    data_store.lock("lock", ttl=1000).acquire()
    data_store.semaphore("places", 1, ttl=1000).acquire()
    return data_store.use_namespace("cache").get_or_set("value", lambda: end(input_dict["how"]), lock_timeout=1000)

def end(how):
    print("held", flush=True)
    if how == "exit":
        os._exit(3)
    while how == "wait":
        pass
    raise SystemExit(0) if how == "leave" else ValueError(how)
"""


@pytest.fixture
def inside(store: DataStore) -> Iterator[Brokered]:
    """An agent's store, in the test's own process."""
    with brokered(store) as made:
        yield made


def _is_free(server_url: str, user: str) -> bool:
    """Whether everything that `HOLDING` acquires can be acquired at once."""
    with connect(server_url, user=user) as store:  # closed again: its connections would count as left behind
        steps = Steps(store)
        return (
            steps.acquire_lock("lock", "token-of-mine", wait=False).acquired
            and steps.acquire_place("places", "token-of-mine", 1, wait=False).acquired
            and Steps(store.use_namespace("cache")).claim_value("value", "token-of-mine").state == "claimed"
        )


@pytest.mark.parametrize("how", ["exit", "leave", "raise"])
def test_ended_run_releases_what_it_held(run: Any, server_url: str, user: str, how: str, nothing_left: None) -> None:
    result = run(HOLDING, {"how": how})
    assert result.error is not None
    assert [one.operation for one in result.operations if one.error] == []
    assert _is_free(server_url, user)


def test_cancelled_run_releases_what_it_held(server_url: str, user: str, nothing_left: None) -> None:
    with sandbox.Sandbox(url=server_url) as pool:
        handle = pool.start(HOLDING, {"how": "wait"}, user=user)
        wait_until(lambda: "held" in handle.stdout, "the agent holds everything")
        assert not _is_free(server_url, user)
        handle.cancel()
        assert isinstance(handle.result().error, sandbox.RunCancelled)
    assert _is_free(server_url, user)


def test_waiter_of_an_ended_run_leaves_the_queue(server_url: str, user: str, store: DataStore) -> None:
    import redis

    queue = UserKeys.of(user).queue(b"lock", b"lock")
    source = "def run():\n    data_store.lock('lock').acquire()\n"
    with (
        redis.Redis.from_url(server_url) as raw,
        sandbox.Sandbox(url=server_url) as pool,
        store.lock("lock"),
    ):
        handle = pool.start(source, {}, user=user)
        wait_until(lambda: raw.llen(queue), "the agent stands in the queue")
        handle.cancel()
        handle.result()
        wait_until(lambda: not raw.llen(queue), "it stands there no longer")


def test_agent_and_host_share_a_lock(server_url: str, user: str, store: DataStore) -> None:
    source = textwrap.dedent(
        """
        import asyncio

        async def run(input_dict, tools):
            ticks = 0
            waiting = asyncio.create_task(wait())
            while not waiting.done():
                ticks += 1
                data_store.set("ticks", ticks)
                await asyncio.sleep(0.001)
            return {"fence": await waiting, "ticks": ticks}

        async def wait():
            async with data_store.lock("lock") as lock:
                return lock.fence
        """
    )
    with sandbox.Sandbox(url=server_url) as pool:
        with store.lock("lock") as lock:
            first = lock.fence
            handle = pool.start(source, {}, user=user)
            wait_until(
                lambda: store.get("ticks", 0) > 5, "the agent's other task goes on, and its calls of the store too"
            )
        assert handle.result().check()["fence"] > first


def test_waiting_thread_does_not_block_the_channel(inside: Brokered, store: DataStore) -> None:
    held = store.lock("lock")
    first = held.acquire()
    with in_thread(lambda: inside.store.lock("lock").acquire()) as waiting:
        wait_until(lambda: "acquire_lock" in inside.operations(), "the thread waits")
        assert inside.store.set_if_absent("key", 1) is True
        assert inside.store.get("key") == 1
        held.release()
    assert waiting.result > first


def test_lock_is_renewed_and_reports_its_loss(inside: Brokered, store: DataStore, server_url: str, user: str) -> None:
    import redis

    lock = inside.store.lock("lock", ttl=0.3)
    with pytest.raises(LockLost), lock:
        wait_until(lambda: inside.operations().count("renew_lock") >= 2, "the lock was renewed")
        assert lock.held
        assert not lock.lost
        with redis.Redis.from_url(server_url) as raw:
            raw.delete(UserKeys.of(user).lock(b"lock"))
        wait_until(lambda: lock.lost, "the loss shows")
        with pytest.raises(LockLost):
            lock.check()
    assert len(inside.held) == 0


def test_shared_object_is_refused_and_discarded_one_expires(inside: Brokered, store: DataStore) -> None:
    shared = inside.store.lock("lock", ttl=0.3)
    with shared, pytest.raises(InvalidInput, match="make one object"):
        shared.acquire()

    async def tasks() -> list[Any]:
        async def work() -> None:
            async with shared:
                await asyncio.sleep(0.01)

        return await asyncio.gather(work(), work(), return_exceptions=True)

    ends = asyncio.run(tasks())
    assert [type(end) for end in ends if end is not None] == [InvalidInput]
    inside.store.lock("lock", ttl=0.3).acquire()
    with store.lock("lock"):
        pass


def test_released_entries_are_not_released_again(inside: Brokered) -> None:
    with inside.store.lock("lock"), inside.store.semaphore("places", 2):
        assert len(inside.held) == 2
        assert inside.store.get_or_set("key", lambda: len(inside.held)) == 3
        with pytest.raises(LockTimeout):
            inside.store.lock("lock", timeout=0).acquire()
        assert len(inside.held) == 2
    assert len(inside.held) == 0
    with pytest.raises(ZeroDivisionError):
        inside.store.get_or_set("other", lambda: 1 / 0)
    assert inside.store.get_or_set("key", lambda: "unused") == 3
    assert len(inside.held) == 0


def test_held_entries_of_a_process_are_limited(inside: Brokered) -> None:
    call = inside.channel.call
    for number in range(MAX_HELD):
        call("acquire_lock", "default", f"lock-{number}", "token-of-mine", 60, 1)
    with pytest.raises(LimitExceeded) as caught:
        call("acquire_lock", "default", "one more", "token-of-mine", 60, 1)
    assert (caught.value.limit, caught.value.limit_count) == ("held", MAX_HELD)  # type: ignore[attr-defined]
    with pytest.raises(LimitExceeded):
        call("claim_value", "default", "key", "token-of-mine", None, None, 30, 0)
    assert call("release_lock", "default", "lock-7", "token-of-mine") == [True]
    assert call("acquire_lock", "default", "one more", "token-of-mine", 60, 1)[0] is True
    inside.held.release(_outside(inside))
    assert len(inside.held) == 0
    assert call("acquire_lock", "default", "lock-8", "another-token", 60, 0)[0] is True


def test_failed_acquisitions_do_not_count(inside: Brokered, store: DataStore) -> None:
    """Otherwise an agent could acquire nothing more after a thousand values that already existed."""
    call = inside.channel.call
    store.set("there", 1)
    with store.lock("lock"), store.semaphore("places", 1):
        assert call("acquire_lock", "default", "lock", "token-of-mine", 60, 0)[0] is False
        assert call("acquire_place", "default", "places", "token-of-mine", 1, 60, 0)[0] is False
    assert call("claim_value", "default", "there", "token-of-mine", None, None, 30, 0)[0] != CLAIMED
    for refused in (
        ("acquire_lock", "default", "lock", "token-of-mine", -1, 1),
        ("claim_value", "", "", "t", 1, 1, 1, 0),
    ):
        with pytest.raises(ValueError, match=r"ttl|empty"):
            call(*refused)
    assert len(inside.held) == 0


def test_tags_of_a_value_are_limited(inside: Brokered) -> None:
    tags = [f"tag-{number}" for number in range(MAX_TAGS + 1)]
    with pytest.raises(LimitExceeded) as caught:
        inside.store.get_or_set("key", lambda: 1, tags=tags)
    assert (caught.value.limit, caught.value.limit_count) == ("tags", MAX_TAGS)
    assert len(inside.held) == 0
    assert inside.store.get_or_set("key", lambda: 1, tags=tags[1:]) == 1


def _outside(inside: Brokered) -> DataStore:
    return inside.broker._store  # type: ignore[return-value]


@pytest.mark.parametrize("wait", [0, 1])
def test_forged_second_try_keeps_the_held_entry(inside: Brokered, store: DataStore, wait: int) -> None:
    """Otherwise a lock with a ttl of a day would outlive the run that acquired it."""
    call = inside.channel.call
    assert call("acquire_lock", "default", "lock", "token-of-mine", 80_000, 0)[0] is True
    call("acquire_lock", "default", "lock", "token-of-mine", 80_000, wait)
    with pytest.raises(ValueError, match="ttl"):
        call("acquire_lock", "default", "lock", "token-of-mine", -1, wait)
    assert call("claim_value", "default", "key", "token-of-mine", None, None, 80_000, 0) == [0]
    call("claim_value", "default", "key", "token-of-mine", None, None, 80_000, 0)
    assert len(inside.held) == 2
    inside.held.release(store)
    with store.lock("lock", timeout=0):
        assert store.get_or_set("key", lambda: "mine") == "mine"


def test_turn_further_ahead_than_a_period_is_requested_again(inside: Brokered, store: DataStore) -> None:
    of_host = operations_of(store)
    for _ in range(3):
        of_host.run(RateLimitOps.of(of_host.scope, "api", 1, 1000).take(None))
    for timeout in (None, 1e6):
        taken, wait_ms = inside.channel.call("take_moment", "default", "api", 1, 1000, timeout)
        assert taken is False
        assert 2_900_000 < wait_ms <= 3_000_000

    class Scripted:
        name, per_ms, answers = "api", 5, [(False, 20), (False, 9), (True, 3)]

        async def take(self, most_ms: int | None) -> tuple[bool, int]:
            return self.answers.pop(0)

    run_flow(pass_limit(Scripted(), None))
    assert Scripted.answers == []
    Scripted.answers = [(False, 2000)]
    with pytest.raises(LockTimeout):
        run_flow(pass_limit(Scripted(), 1.9))


def test_terms_of_a_limit_are_those_of_its_first_agent_or_the_host(inside: Brokered, store: DataStore) -> None:
    for both in (inside.store, store):
        assert both.rate_limit("api", 9, per=1000).try_acquire()
    for n, per in ((9, 1), (8, 1000), (10, 1000)):
        with pytest.raises(
            InvalidInput, match=rf"'api' is in use with n=9 and per=1000, not with n={n} and per={per}: nothing"
        ):
            inside.store.rate_limit("api", n, per=per).try_acquire()
    assert store.rate_limit("api", 3, per=2000).try_acquire()
    assert not inside.store.rate_limit("api", 3, per=2000).try_acquire()
    with pytest.raises(InvalidInput, match="per=86401 is out of range for an agent: give at most 86,400 seconds"):
        inside.store.rate_limit("api", 3, per=86_401).try_acquire()
    with inside.store.semaphore("gpu", 3), store.semaphore("gpu", 3):
        with pytest.raises(
            InvalidInput, match="The semaphore 'gpu' is in use with n=3, not with n=4: nothing was taken"
        ):
            inside.store.semaphore("gpu", 4).acquire()
        with store.semaphore("gpu", 4), inside.store.semaphore("gpu", 4):
            pass
    with inside.store.semaphore("gpu", 1):
        pass


def test_rate_limits_are_shared_with_the_host(inside: Brokered, store: DataStore) -> None:
    assert inside.store.rate_limit("api", 2, per=1000).try_acquire() is True
    assert store.rate_limit("api", 2, per=1000).try_acquire() is True
    limit = inside.store.rate_limit("api", 2, per=1000, timeout=0)
    assert limit.try_acquire() is False
    with pytest.raises(LockTimeout) as caught:
        limit.acquire()
    assert caught.value.retry_after_ms is not None
    assert caught.value.retry_after_ms > 900_000


def test_async_function_of_an_agent_is_cached(run: Any, store: DataStore) -> None:
    result = run(
        """
        import asyncio
        calls = []

        @data_store.cached(ttl=None, tags=["shout"], key="shout:{word}")
        async def shout(word, times=1):
            calls.append(word)
            await asyncio.sleep(0.01)
            return word.upper() * times

        @data_store.cached()
        def plain(word):
            calls.append(word)
            return word * 2

        async def run():
            both = await asyncio.gather(shout("a"), shout("a"), shout("b"))
            again = [await shout("a"), plain("c"), plain("c"), plain.cache_key("c")]
            gone = [await shout.invalidate("a"), data_store.invalidate_tag("shout"), plain.invalidate_all()]
            assert asyncio.iscoroutinefunction(shout) and shout.__name__ == "shout"
            return {"both": both, "again": again, "gone": gone, "calls": calls}
        """
    )
    output = result.check()
    assert output["both"] == ["A", "A", "B"]
    assert output["again"][:3] == ["A", "cc", "cc"]
    assert re.fullmatch(r'agent\.plain#[0-9a-f]{12}\(\{"word":"c"\}\)', output["again"][3])
    assert output["gone"] == [True, 1, 1]
    assert output["calls"] == ["a", "b", "c"]
    assert store.list_namespaces() == []


def test_error_reaches_waiters_inside_and_outside(inside: Brokered, store: DataStore) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def fail() -> None:
        begun.set()
        assert go_on.wait(20)
        raise ValueError("no such thing")

    with in_thread(lambda: inside.store.get_or_set("key", fail)) as first:
        begun.wait(20)
        with brokered(store) as other, in_thread(lambda: other.store.get_or_set("key", lambda: 1)) as second:
            wait_until(lambda: "claim_value" in other.operations(), "the other agent waits")
            go_on.set()
    assert isinstance(first.error, ValueError)
    assert isinstance(second.error, ComputeFailed)
    assert second.error.error_message == "no such thing"


CALLS: dict[str, Callable[[Any], Any]] = {
    "expire": lambda d: d.expire("key", 5),
    "persist": lambda d: d.persist("key"),
    "increment": lambda d: d.increment("key"),
    "append": lambda d: d.append("key", 1),
    "set_if_absent": lambda d: d.set_if_absent("key", 1),
    "compare_and_set": lambda d: d.compare_and_set("key", 1, 2),
    "pop": lambda d: d.pop("key", None),
    "rename": lambda d: d.rename("key", "new"),
    "update": lambda d: d.update("key", lambda _: 1),
    "get_or_set": lambda d: d.get_or_set("key", lambda: 1),
    "invalidate_tag": lambda d: d.invalidate_tag("tag"),
    "transaction": lambda d: d.transact(lambda t: t.set("key", 1)),
    "lock": lambda d: d.lock("lock").acquire(),
    "semaphore": lambda d: d.semaphore("places", 1).acquire(),
    "rate_limit": lambda d: d.rate_limit("limit", 1, 1).acquire(),
}


@pytest.mark.parametrize("name", CALLS)
def test_read_only_access_is_enforced_by_host_and_handle(inside: Brokered, store: DataStore, name: str) -> None:
    store.restricted(read=["default"])
    granted = Granted(Access.of(read=["default"]))
    with brokered(store.restricted(read=["default"]), FakeTree(store, granted)) as bound, pytest.raises(AccessDenied):
        CALLS[name](bound.store)
    if name == "invalidate_tag":
        inside.store.get_or_set("key", lambda: 1, tags=["tag"])
        narrowed = inside.store.restricted(read=["*"], write=["elsewhere"])
        assert CALLS[name](narrowed) == 0
        assert store.get_all() == {"key": 1}
        return
    narrowed = inside.store.read_only()
    before = store.get_all()
    with pytest.raises(AccessDenied) as caught:
        CALLS[name](narrowed)
    assert caught.value.action == "write"
    assert store.get_all() == before


@pytest.mark.parametrize("name", CALLS)
def test_operations_are_granted_by_method_name(store: DataStore, name: str) -> None:
    reads = {"get"} if name in ("update", "get_or_set", "pop") else set()
    for operations in ({name} | reads, {"set"}):
        granted = Permissions(operations=operations).granted({})
        with brokered(store, FakeTree(store, granted)) as bound:
            if operations == {"set"}:
                with pytest.raises(AccessDenied, match="is not allowed here; allowed operations: 'set'"):
                    CALLS[name](bound.store)
            elif name not in ("expire", "persist"):  # this server has no ttl per key
                CALLS[name](bound.store)


def test_every_write_counts_its_bytes(store: DataStore) -> None:
    granted = Granted(Access.of(write=["other"], read=["other"]))
    tree = FakeTree(store, granted)
    with brokered(store.use_namespace("other").restricted(namespaces=["other"]), tree) as bound:
        step = (1, "other", "key", b"12345", None)
        bound.channel.call("commit_transaction", "no right to this one", *step)
        assert tree.written == KEY_BYTES + 6 + 5 + NAMESPACE_BYTES + 3 * 5
        with pytest.raises(AccessDenied):
            bound.channel.call("commit_transaction", "other", 1, "default", "key", b"12345", None)
        tree.written = 0
        other = bound.store
        other.increment("number", 5)
        other.append("list", "a", "b")
        other.compare_and_set("number", 5, 17)
        other.set_if_absent("new", True)
        assert other.get_or_set("made", lambda: "x") == "x"
        other.update("number", lambda n: n + 1)
        claim = HELD_BYTES + 3 * 4
        token = tree.written - sum(
            (
                *(KEY_BYTES + LOGGED_BYTES + 12 + 1, KEY_BYTES + LOGGED_BYTES + 8 + 6, KEY_BYTES + 12 + 2),
                *(KEY_BYTES + 6 + 4, claim + len("other"), KEY_BYTES + 8 + 3, KEY_BYTES + 12 + 2),
            )
        )
        assert 2 * 8 <= token <= 2 * 64  # of the claim
        tree.written = 0
        with other.lock("lock"):
            pass
        assert tree.written == claim + token  # a lock has a token of the same length
    assert store.use_namespace("other").get("key") == 12345


def test_timeline_has_each_step(run: Any, store: DataStore) -> None:
    result = run(
        """
        def run():
            with data_store.lock("lock"):
                data_store.increment("count")
            data_store.update("count", lambda n: n + 1)
            return {"made": data_store.get_or_set("made", lambda: "x")}
        """
    )
    assert result.check() == {"made": "x"}
    assert [(one.operation, one.key) for one in result.operations] == [
        ("acquire_lock", "lock"),
        ("increment", "count"),
        ("release_lock", "lock"),
        ("get", "count"),
        ("replace", "count"),
        ("get", "made"),
        ("claim_value", "made"),
        ("commit_value", "made"),
    ]
    assert store.get("count") == 2


def test_the_host_counts_what_get_or_set_finds(store: DataStore) -> None:
    with brokered(store) as inside:
        for _ in range(4):
            assert inside.store.get_or_set("key", lambda: 1) == 1
        inside.store.get("key")
    scope = operations_of(store).scope
    assert scope.hits == {scope.keys.data: 3}
