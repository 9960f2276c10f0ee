"""Locks, semaphores and rate limits: exclusive, in FIFO order, and released when their holder dies."""
# ruff: noqa: PT012 (the end of a lock's block raises)

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from redis_store import (
    DataStore,
    InvalidInput,
    InvalidName,
    InvalidType,
    LockLost,
    LockTimeout,
    WrongKeyType,
    connect,
    connect_async,
)
from redis_store.namespace.keys import UserKeys
from redis_store.operations import operations_of
from redis_store.ops.locks import RateLimitOps
from tests.support.servers import REAL_KINDS, Server, wait_until
from tests.support.threads import all_at_once, in_thread


@pytest.fixture
def store(server: Server, open_store: Callable[..., DataStore], user: str) -> DataStore:
    return open_store(server.url, user, agent="tester")


@pytest.fixture
def raw(server: Server, raw_of: Callable[..., redis.Redis]) -> redis.Redis:
    return raw_of(server)


@pytest.fixture
def keys(user: str) -> UserKeys:
    return UserKeys.of(user)


def waiting(raw: redis.Redis, keys: UserKeys, name: bytes = b"name") -> int:
    """Return the number of waiters in a lock's queue."""
    return raw.llen(keys.queue(b"lock", name))


@pytest.mark.parametrize("server", REAL_KINDS, indirect=True)  # fakeredis is slow with many waiters
def test_lock_has_one_holder(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    with store.lock("name") as lock:
        assert lock.held
        assert not lock.lost
        lock.check()
        first = lock.fence
        assert raw.get(keys.lock(b"name")).startswith(b'{"fence":%d,"owner":"' % first)
        assert raw.get(keys.lock(b"name")).endswith(b'","agent":"tester"}')
        assert 0 < raw.pttl(keys.lock(b"name")) <= 30_000
        with pytest.raises(LockTimeout, match="not be acquired within 0 seconds") as caught:
            store.use_namespace("other").lock("name", timeout=0).acquire()
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.name == "name"
        assert 0 < caught.value.retry_after_ms <= 30_000
        with pytest.raises(LockTimeout):
            store.lock("name", timeout=0.02).acquire()
        assert waiting(raw, keys) == 0
        with store.lock("another", timeout=0):
            pass
    assert not lock.held
    assert not raw.exists(keys.lock(b"name"))
    with store.lock("name", timeout=0) as again:
        assert again.fence > first


def test_lock_object_is_one_holder(store: DataStore) -> None:
    lock = store.lock("name")
    with pytest.raises(LockLost):
        lock.release()
    with pytest.raises(LockLost):
        _ = lock.fence
    with pytest.raises(LockLost):
        lock.check()
    first = lock.acquire()
    with pytest.raises(InvalidInput, match="make one object"):
        lock.acquire()
    lock.release()
    assert lock.acquire() > first
    lock.release()


@pytest.mark.parametrize("what", ["lock", "semaphore"])
def test_shared_object_is_refused_at_once(store: DataStore, what: str) -> None:
    """Also while it waits: a second token for one object would take the place of the first."""

    def make() -> Any:
        return store.lock("name") if what == "lock" else store.semaphore("name", 1)

    first, shared = make(), make()
    first.acquire()
    with in_thread(shared.acquire):
        wait_until(lambda: shared._token, "it waits")
        with pytest.raises(InvalidInput, match="make one object"):
            shared.acquire()
        with pytest.raises(LockLost):
            shared.release()
        first.release()
    shared.check()
    shared.release()
    with shared:
        pass


def test_failed_acquisition_leaves_object_free(store: DataStore) -> None:
    lock = store.lock("name", timeout=0)
    with store.lock("name"), pytest.raises(LockTimeout):
        lock.acquire()
    with lock:
        pass


def test_lock_of_discarded_object_expires(store: DataStore) -> None:
    store.lock("name", ttl=0.3).acquire()
    store.semaphore("name", 1, ttl=0.3).acquire()
    with store.lock("name"), store.semaphore("name", 1):
        pass


def test_tasks_share_no_object_and_discarded_one_expires(server: Server, user: str) -> None:
    async def main() -> list[str]:
        async with connect_async(server.url, user=user) as store:
            ends = []
            for shared in (store.lock("name"), store.semaphore("name", 2)):

                async def work(shared: Any = shared) -> None:
                    try:
                        async with shared:
                            await asyncio.sleep(0.01)
                        ends.append("worked")
                    except InvalidInput:
                        ends.append("refused")

                await asyncio.gather(*[work() for _ in range(3)])
            await store.lock("name", ttl=0.3).acquire()
            async with store.lock("name"):
                return ends

    assert asyncio.run(main()) == ["refused", "refused", "worked"] * 2


def test_fence_grows_over_all_locks_in_one_field(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    fences = [store.lock(f"lock-{number}").acquire() for number in range(5)]
    assert fences == sorted(set(fences))
    assert raw.hgetall(keys.fence) == {b"last": b"%d" % fences[-1]}


def test_fence_grows_after_server_lost_it(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    fences = []
    for _ in range(3):
        fences.append(store.lock("name").acquire())
        raw.delete(keys.fence, keys.lock(b"name"))
    assert fences == sorted(set(fences))


def test_fence_grows_while_server_clock_is_behind(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    ahead = 2_500_000_000_000_000
    raw.hset(keys.fence, "last", ahead)
    for number in (1, 2):
        with store.lock("name") as lock:
            assert lock.fence == ahead + number


def test_fence_grows_beyond_counts_of_an_earlier_version(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    raw.hset(keys.fence, mapping={"name": 2_500_000_000_000_000, "other": 7})
    with store.lock("name") as lock:
        assert lock.fence == 2_500_000_000_000_001
    with store.lock("other") as lock:
        assert lock.fence > 7
    assert raw.hkeys(keys.fence) == [b"last"]


def test_users_do_not_share_locks(store: DataStore, server: Server, open_store: Callable[..., DataStore]) -> None:
    with store.lock("name"), open_store(server.url, "somebody else").lock("name", timeout=0):
        pass


def test_a_block_that_raises_releases(store: DataStore) -> None:
    with pytest.raises(ZeroDivisionError), store.lock("name"):
        raise ZeroDivisionError
    with store.lock("name", timeout=0):
        pass


def test_a_removed_lock_is_reported(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    lock = store.lock("name")
    with pytest.raises(LockLost, match="'name'"), lock:
        raw.delete(keys.lock(b"name"))
    with pytest.raises(ZeroDivisionError), lock:  # the first error is raised
        raw.delete(keys.lock(b"name"))
        raise ZeroDivisionError
    with store.lock("name", ttl=0.6) as lock:
        raw.delete(keys.lock(b"name"))
        wait_until(lambda: lock.lost, "the next renewal finds it gone")
        with pytest.raises(LockLost):
            lock.check()
        with pytest.raises(LockLost):
            lock.release()
        lock.acquire()


def test_only_holder_releases(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    old = store.lock("name")
    first = old.acquire()
    raw.delete(keys.lock(b"name"))
    with store.lock("name") as new:
        with pytest.raises(LockLost):
            old.release()
        assert raw.exists(keys.lock(b"name"))
        assert new.fence > first


def test_a_held_lock_is_renewed(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    with store.lock("name", ttl=0.6) as lock:
        renewals = []

        def renewed() -> bool:
            left_ms = raw.pttl(keys.lock(b"name"))
            renewals.append(left_ms)
            return len(renewals) > 1 and renewals[-1] > renewals[-2]

        for _ in range(3):
            wait_until(renewed, "the time to live has grown")
        assert not lock.lost


def test_lock_expires_with_its_thread(store: DataStore) -> None:
    held: list[Any] = []

    def hold() -> None:
        lock = store.lock("name", ttl=0.2)
        lock.__enter__()
        held.append(lock)

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    with store.lock("name") as lock:
        assert lock.fence > held[0].fence


def test_an_acquired_lock_outlives_its_thread(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    lock = store.lock("name", ttl=0.6)
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    seen = [raw.pttl(keys.lock(b"name"))]
    wait_until(lambda: seen.append(raw.pttl(keys.lock(b"name"))) or seen[-1] > seen[-2], "it is renewed")
    lock.release()


@pytest.mark.parametrize("server", REAL_KINDS, indirect=True)  # fakeredis is slow with many waiters
def test_threads_take_turns(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    inside, fences = [], []

    def work() -> None:
        for _ in range(5):
            with store.lock("name") as lock:
                inside.append(1)
                assert len(inside) == 1
                fences.append(lock.fence)
                inside.pop()

    all_at_once([work] * 8)
    assert len(fences) == 40
    assert fences == sorted(set(fences))
    assert not raw.exists(keys.lock(b"name"), keys.queue(b"lock", b"name"))


def test_waiters_are_served_in_order(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    order: list[int] = []

    def wait(number: int) -> None:
        with store.lock("name"):
            order.append(number)

    with store.lock("name"):
        threads = []
        for number in range(5):
            threads.append(threading.Thread(target=wait, args=(number,)))
            threads[-1].start()
            wait_until(lambda count=number + 1: waiting(raw, keys) == count, "it stands in the queue")
    for thread in threads:
        thread.join()
    assert order == list(range(5))


def test_waiter_does_not_starve_beside_reacquirer(store: DataStore) -> None:
    stop = threading.Event()
    rounds = []

    def greedy() -> None:
        while not stop.is_set():
            with store.lock("name"):
                rounds.append(1)

    with in_thread(greedy):
        wait_until(lambda: rounds, "the greedy one is at work")
        for _ in range(5):
            with store.lock("name"):
                pass
        stop.set()


@pytest.mark.parametrize("what", ["lock", "limit"])
def test_dead_waiters_are_skipped(store: DataStore, raw: redis.Redis, keys: UserKeys, what: str) -> None:
    def make(timeout: float | None = None) -> Any:
        return store.lock("name", timeout=timeout) if what == "lock" else store.semaphore("name", 1, timeout=timeout)

    dead = [f"dead-{number}" for number in range(30)]
    queue, tries = keys.queue(what.encode(), b"name"), keys.tries(what.encode(), b"name")
    held = make()
    held.acquire()
    raw.rpush(queue, *dead)
    raw.hset(tries, mapping=dict.fromkeys(dead, 1))
    with in_thread(lambda: make(timeout=5).acquire()) as waiter:
        wait_until(lambda: raw.llen(queue) == len(dead) + 1, "it stands in the queue")
        held.release()
        wait_until(lambda: not waiter.alive, "it has it")
    assert waiter.error is None
    assert not raw.exists(queue, tries)


def test_dead_waiters_are_skipped_if_nobody_released(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    for what in (b"lock", b"limit"):
        raw.rpush(keys.queue(what, b"name"), "dead", "dead too")
        raw.hset(keys.tries(what, b"name"), mapping={"dead": 1, "dead too": 1})
    with store.lock("name", timeout=0), store.semaphore("name", 2, timeout=0):
        assert not raw.exists(*(keys.queue(what, b"name") for what in (b"lock", b"limit")))
        assert not raw.exists(*(keys.tries(what, b"name") for what in (b"lock", b"limit")))


def test_waiters_of_a_killed_process_delay_only_briefly(
    real_server: Server, open_store: Callable[..., DataStore], user: str, raw_of: Callable[..., redis.Redis]
) -> None:
    store, queue = open_store(real_server.url, user), UserKeys.of(user).queue(b"lock", b"name")
    held = store.lock("name")
    held.acquire()
    with subprocess.Popen([sys.executable, "-c", WAITERS, real_server.url, user]) as process:
        try:
            wait_until(lambda: raw_of(real_server).llen(queue) == 20, "they stand in the queue")
        finally:
            process.kill()
    held.release()
    with store.lock("name", timeout=8):
        assert not raw_of(real_server).exists(queue)


WAITERS = """
import sys, threading
from redis_store import connect
store = connect(sys.argv[1], user=sys.argv[2])
for _ in range(20):
    threading.Thread(target=store.lock("name").acquire).start()
"""


def test_waiter_of_an_earlier_version_is_served(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    """It does not note its tries."""
    held = store.lock("name")
    held.acquire()
    raw.rpush(keys.queue(b"lock", b"name"), "old")
    held.release()
    assert raw.get(keys.lock(b"name")) == b'{"kept_for":"old"}'


def test_waiter_that_times_out_leaves_queue(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    with store.lock("name"):
        with pytest.raises(LockTimeout):
            store.lock("name", timeout=0.03).acquire()
        assert waiting(raw, keys) == 0
    with store.lock("name", timeout=0):
        pass


@pytest.mark.parametrize(
    "name", ["", "\ud800", "n" * 2000, 1, None, b"name"], ids=["empty", "surrogate", "long", "int", "None", "bytes"]
)
def test_bad_names(store: DataStore, name: Any) -> None:
    for make in (
        lambda: store.lock(name),
        lambda: store.semaphore(name, 1),
        lambda: store.rate_limit(name, 1, per=1),
    ):
        with pytest.raises(InvalidInput):
            make()


@pytest.mark.parametrize("timeout", [-1, float("inf"), float("nan"), "1", True, [1]], ids=repr)
def test_bad_timeouts(store: DataStore, timeout: Any) -> None:
    for make in (
        lambda: store.lock("name", timeout=timeout),
        lambda: store.semaphore("name", 1, timeout=timeout),
        lambda: store.rate_limit("name", 1, per=1, timeout=timeout),
    ):
        with pytest.raises(InvalidInput):
            make()


@pytest.mark.parametrize(
    ("n", "error"),
    [
        (0, InvalidInput),
        (-1, InvalidInput),
        (10**7, InvalidInput),
        (1.5, InvalidType),
        ("1", InvalidType),
        (True, InvalidType),
    ],
)
def test_bad_counts(store: DataStore, n: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        store.semaphore("name", n)
    with pytest.raises(error):
        store.rate_limit("name", n, per=1)


def test_empty_name_is_named_in_error(store: DataStore) -> None:
    with pytest.raises(InvalidName, match="lock name"):
        store.lock("")


def test_lock_cannot_pose_as_consumer_lock(store: DataStore, keys: UserKeys) -> None:
    assert keys.consumer_lock("c", b"default") == keys.lock(b"consumer:c:default")
    with pytest.raises(InvalidName, match="reserved for consumers"):
        store.lock("consumer:c:default")
    with store.lock("consumers"):
        pass


def test_semaphore_has_count_slots(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(4):
            with store.semaphore("name", 3) as place:
                inside.append(1)
                most.append(len(inside))
                assert not place.lost
                inside.pop()

    all_at_once([work] * 8)
    assert max(most) <= 3
    assert not raw.exists(keys.limit(b"name"), keys.queue(b"limit", b"name"))
    with store.semaphore("name", 2), store.semaphore("name", 2):
        with pytest.raises(LockTimeout):
            store.semaphore("name", 2, timeout=0).acquire()
        with pytest.raises(LockTimeout):
            store.semaphore("name", 2, timeout=0.02).acquire()
    with store.semaphore("name", 2, timeout=0):
        pass


def test_slot_is_renewed_and_expires(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    place = store.semaphore("name", 1, ttl=0.2)
    place.acquire()
    [terms, (token, until)] = raw.zrange(keys.limit(b"name"), 0, -1, withscores=True)
    assert terms == (b"n", 1)
    wait_until(lambda: raw.zscore(keys.limit(b"name"), token) > until, "it is renewed")
    raw.zrem(keys.limit(b"name"), token)
    wait_until(lambda: place.lost, "it is lost")
    with pytest.raises(LockLost, match="semaphore"):
        place.release()
    raw.zadd(keys.limit(b"name"), {"dead": until})
    with store.semaphore("name", 1):
        pass


def test_rate_limit_grants_turns(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    limit = store.rate_limit("name", 3, per=1000)
    with limit:
        assert limit.try_acquire()
        assert limit.try_acquire()
    assert not limit.try_acquire()
    with pytest.raises(LockTimeout) as caught:
        store.rate_limit("name", 3, per=1000, timeout=5).acquire()
    assert 900_000 < caught.value.retry_after_ms <= 1_000_000
    assert raw.llen(keys.rate(b"name")) == 1 + 3
    assert raw.lindex(keys.rate(b"name"), 0) == b"n=3 per=1000000"
    assert 900_000 < raw.pttl(keys.rate(b"name")) <= 1_000_000


def test_rate_limit_never_exceeds_count_per_period(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    """Checked by the moments that were granted, not by when the callers ran."""
    n, per_ms, given = 4, 60, []
    lock = threading.Lock()

    def work() -> None:
        for _ in range(4):
            store.rate_limit("name", n, per=per_ms / 1000).acquire()
            with lock:
                given.extend(int(moment.split()[0]) for moment in raw.lrange(keys.rate(b"name"), 1, -1))

    all_at_once([work] * 4)
    moments = sorted(set(given))
    assert all(later - earlier >= per_ms for earlier, later in zip(moments, moments[n:], strict=False))


def test_rate_limit_goes_on_after_clock_was_set_back(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    """The moments were noted while the server's clock was an hour ahead, by a version that did not note the terms."""
    limit = store.rate_limit("name", 3, per=2000)
    for _ in range(2):
        assert limit.try_acquire()
    first, (newest, reserved, back) = (moment.split() for moment in raw.lrange(keys.rate(b"name"), 1, -1))
    raw.delete(keys.rate(b"name"))
    hour_ms = 3_600_000
    ahead = [b"%d" % (int(moment) + hour_ms) for moment in (*first, newest, reserved)]
    raw.rpush(keys.rate(b"name"), ahead[0], b" ".join((*ahead[1:], back)))
    assert limit.try_acquire(), "one more is free"
    assert not limit.try_acquire()
    with pytest.raises(LockTimeout) as caught:
        store.rate_limit("name", 3, per=2000, timeout=1).acquire()
    assert 1_900_000 < caught.value.retry_after_ms <= 2_000_000
    assert raw.pttl(keys.rate(b"name")) <= 2_000_000


def test_rate_limit_takes_the_terms_of_its_last_caller(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    for n, free in ((1, 1), (4, 3), (2, 0), (5, 1)):
        limit = store.rate_limit("name", n, per=1000)
        assert [limit.try_acquire() for _ in range(free + 1)] == [True] * free + [False]
        assert raw.lindex(keys.rate(b"name"), 0) == (b"n=%d per=1000000" % (4 if n == 2 else n))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_rate_limit_begins_anew_where_others_reserved_further_than_its_period(
    store: DataStore, raw: redis.Redis, keys: UserKeys, n: int
) -> None:
    for _ in range(2):
        operations_of(store).run(RateLimitOps.of(operations_of(store).scope, "name", 1, 3e9).take(None))
    limit = store.rate_limit("name", n, per=1000)
    assert [limit.try_acquire() for _ in range(n + 1)] == [True] * n + [False]
    assert raw.pttl(keys.rate(b"name")) <= 1_000_000


def test_semaphore_and_rate_limit_of_one_name(store: DataStore) -> None:
    with store.rate_limit("name", 1, per=100), store.semaphore("name", 1), store.lock("name"):
        assert not store.rate_limit("name", 1, per=100).try_acquire()
        with pytest.raises(LockTimeout):
            store.semaphore("name", 1, timeout=0).acquire()


def test_limit_of_wrong_type_is_named(store: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    raw.rpush(keys.limit(b"name"), "a list")
    with pytest.raises(WrongKeyType) as caught:
        store.semaphore("name", 1).acquire()
    assert caught.value.redis_key == keys.limit(b"name").decode()


@pytest.mark.parametrize("server", REAL_KINDS, indirect=True)  # fakeredis is slow with many waiters
def test_tasks_take_turns_and_cancelled_waiters_leave(
    server: Server, user: str, raw: redis.Redis, keys: UserKeys
) -> None:
    async def main() -> None:
        async with connect_async(server.url, user=user) as store:
            inside: list[int] = []

            async def work() -> None:
                for _ in range(3):
                    async with store.lock("name", ttl=5) as lock:
                        inside.append(lock.fence)
                        assert len(inside) == 1
                        await asyncio.sleep(0)
                        inside.pop()

            await asyncio.gather(*[work() for _ in range(8)])
            lock = store.lock("name", ttl=0.6)
            assert await asyncio.wait_for(lock.acquire(), 10)
            waiter = asyncio.create_task(store.lock("name").acquire())
            while not waiting(raw, keys):
                await asyncio.sleep(0.002)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            assert waiting(raw, keys) == 0
            seen = [raw.pttl(keys.lock(b"name"))]
            while len(seen) < 2 or seen[-1] <= seen[-2]:  # renewed, whichever task acquired it
                seen.append(raw.pttl(keys.lock(b"name")))
                await asyncio.sleep(0.002)
            raw.delete(keys.lock(b"name"))
            while not lock.lost:
                await asyncio.sleep(0.002)
            with pytest.raises(LockLost):
                await lock.release()
            async with store.semaphore("places", 1), store.rate_limit("rate", 1, per=100):
                with pytest.raises(LockTimeout):
                    await store.semaphore("places", 1, timeout=0).acquire()
                with pytest.raises(LockTimeout):
                    await store.rate_limit("rate", 1, per=100, timeout=0.1).acquire()
                assert not await store.rate_limit("rate", 1, per=100).try_acquire()
            with pytest.raises(LockLost):
                _ = store.lock("name").fence
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    asyncio.run(main())


def test_blocked_event_loop_loses_lock(server: Server, user: str) -> None:
    async def main() -> None:
        async with connect_async(server.url, user=user) as store:
            lock = store.lock("name", ttl=0.05)
            with pytest.raises(LockLost):
                async with lock:
                    with connect(server.url, user=user) as other, other.lock("name"):  # blocks the loop
                        assert lock.lost

    asyncio.run(main())


CHILD = """
import sys, time
time.monotonic = lambda: 0.0  # as while a machine sleeps
from redis_store import connect, LockLost
store = connect(sys.argv[1], user=sys.argv[2])
lock = store.lock("name", ttl=float(sys.argv[3]))
print(lock.acquire(), flush=True)
sys.stdin.readline()
print(lock.lost, flush=True)
# As a store does that checks fences: it refuses an earlier holder.
with store.transaction() as transaction:
    accepted = transaction.get("highest", 0) < lock.fence
    if accepted:
        transaction.set("highest", lock.fence)
print(accepted, flush=True)
try:
    lock.release()
except LockLost:
    print("lost", flush=True)
"""


@pytest.fixture(params=[pytest.param(0.5, id="short")])
def holder(request: pytest.FixtureRequest, one_server: Server, user: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a lock, with the given ttl, until it is told to continue."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, one_server.url, user, str(request.param)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def test_fence_rejects_stopped_holder(
    holder: subprocess.Popen[str], one_server: Server, open_store: Callable[..., DataStore], user: str
) -> None:
    store = open_store(one_server.url, user)
    assert holder.stdin is not None
    assert holder.stdout is not None
    first = int(holder.stdout.readline())
    os.kill(holder.pid, signal.SIGSTOP)
    with store.lock("name") as lock:
        assert lock.fence > first
        store.set("highest", lock.fence)
        os.kill(holder.pid, signal.SIGCONT)
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline().strip() == "True", "it knows that it has lost the lock"
        assert holder.stdout.readline().strip() == "False", "its writes are refused"
        assert holder.stdout.readline().strip() == "lost"
        assert not lock.lost
        assert store.get("highest") == lock.fence


@pytest.mark.parametrize("holder", [1000], indirect=True)
def test_lock_expires_with_its_process(
    holder: subprocess.Popen[str],
    one_server: Server,
    open_store: Callable[..., DataStore],
    user: str,
    keys: UserKeys,
    raw_of: Callable[..., redis.Redis],
) -> None:
    store = open_store(one_server.url, user)
    assert holder.stdout is not None
    first = int(holder.stdout.readline())
    holder.kill()
    holder.wait()
    with pytest.raises(LockTimeout):
        store.lock("name", timeout=0).acquire()
    raw = raw_of(one_server)
    assert 0 < raw.pttl(keys.lock(b"name")) <= 1_000_000
    raw.pexpire(keys.lock(b"name"), 1)  # as when its time has passed
    with store.lock("name") as lock:
        assert lock.fence > first


def test_a_forked_child_does_not_release_its_parents_lock(
    real_server: Server, open_store: Callable[..., DataStore], user: str, raw_of: Callable[..., redis.Redis]
) -> None:
    store = open_store(real_server.url, user)
    raw, key = raw_of(real_server), UserKeys.of(user).lock(b"name")
    lock = store.lock("name", ttl=0.6)
    lock.acquire()
    pid = os.fork()
    if pid == 0:
        try:
            lock.release()
            os._exit(0 if store.get("anything") is None else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    seen = [raw.pttl(key)]
    wait_until(lambda: seen.append(raw.pttl(key)) or seen[-1] > seen[-2], "the parent goes on renewing")
    lock.release()
