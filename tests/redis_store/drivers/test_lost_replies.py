"""Replies lost with a broken connection: the change happened once or not at all, never twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from redis_store import AsyncDataStore, DataStore, StoreTimeout, StoreUnavailable, connect_async
from redis_store.namespace.keys import UserKeys
from redis_store.scripts import FLIGHT_FAIL, LOCK_RELEASE
from tests.support.proxy import Fault, Proxy, proxied
from tests.support.servers import Server, wait_until

CHANGES: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "increment": (lambda store: store.increment("key"), 1),
    "increment by a float": (lambda store: store.increment("key", 0.5), 0.5),
    "append": (lambda store: store.append("key", 1), [1]),
    "append some": (lambda store: store.append("key", 1, max_items=5), [1]),
    "update": (lambda store: store.update("key", lambda value: value + 1, 0), 1),
    "set_if_absent": (lambda store: store.set_if_absent("key", 1), 1),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_AFTER, Fault.CUT_IN_REPLY], ids=lambda fault: fault.name)
def test_a_change_is_never_made_twice(
    name: str, fault: Fault, real_server: Server, open_store: Callable[..., DataStore], user: str
) -> None:
    change, once = CHANGES[name]
    direct = open_store(real_server.url, user)
    change(direct)  # the server knows the script now
    direct.clear()
    with proxied(real_server) as proxy:
        store = open_store(proxy.url, user)
        store.get("key")
        proxy.strike(b"EVALSHA", fault)
        with pytest.raises(StoreUnavailable) as caught:
            change(store)
        assert caught.value.outcome_unknown
        assert direct.get("key") == (None if fault is Fault.CUT_BEFORE else once)
        store.close()


def test_counts_stay_exact_over_broken_connections(
    real_server: Server, open_store: Callable[..., DataStore], user: str
) -> None:
    """Each acknowledged increment counts exactly once; each unacknowledged one at most once."""
    direct = open_store(real_server.url, user)
    direct.increment("key", 0)
    with proxied(real_server) as proxy:
        store = open_store(proxy.url, user)
        acknowledged, unknown, executed = _count(proxy, store)
        assert direct.get("key") == acknowledged + executed
        assert unknown == 20
        store.close()


def _count(proxy: Proxy, store: DataStore) -> tuple[int, int, int]:
    acknowledged = unknown = executed = 0
    for number in range(60):
        if number % 3 == 2:
            happened = number % 2 == 0
            proxy.strike(b"EVALSHA", Fault.CUT_AFTER if happened else Fault.CUT_BEFORE)
            executed += happened
        try:
            store.increment("key")
            acknowledged += 1
        except StoreUnavailable as error:
            unknown += error.outcome_unknown
    return acknowledged, unknown, executed


def test_async_counts_stay_exact_over_broken_connections(
    real_server: Server, open_store: Callable[..., DataStore], user: str
) -> None:
    direct = open_store(real_server.url, user)
    direct.increment("key", 0)

    async def main(store: AsyncDataStore, proxy: Proxy) -> None:
        async with store:
            await store.get("key")
            proxy.strike(b"EVALSHA", Fault.CUT_AFTER)
            results = await asyncio.gather(*[store.increment("key") for _ in range(5)], return_exceptions=True)
            assert all(isinstance(result, StoreUnavailable) and result.outcome_unknown for result in results)
            await store.increment("key")

    with proxied(real_server) as proxy:
        asyncio.run(main(connect_async(proxy.url, user=user), proxy))
    assert direct.get("key") == 6


def test_lock_with_lost_reply_is_released(
    real_server: Server, open_store: Callable[..., DataStore], user: str, raw_of: Callable[..., redis.Redis]
) -> None:
    direct = open_store(real_server.url, user)
    with direct.lock("name") as lock:
        first = lock.fence
    with proxied(real_server) as proxy:
        store = open_store(proxy.url, user)
        store.get("key")
        proxy.strike(b"EVALSHA", Fault.CUT_AFTER)
        with pytest.raises(StoreUnavailable):
            store.lock("name").acquire()
        store.close()
    assert int(raw_of(real_server).hget(UserKeys.of(user).fence, "last")) > first, "it was granted"
    with direct.lock("name", timeout=0):
        pass


@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_AFTER, Fault.CUT_IN_REPLY], ids=lambda fault: fault.name)
def test_release_over_broken_connection_frees_lock(
    fault: Fault, one_server: Server, open_store: Callable[..., DataStore], user: str
) -> None:
    direct = open_store(one_server.url, user)
    with direct.lock("name"), direct.semaphore("name", 1):
        pass  # the server knows the scripts now

    async def in_a_loop(proxy: Proxy) -> None:
        async with connect_async(proxy.url, user=user) as store:
            lock = store.lock("name")
            await lock.acquire()
            proxy.strike(b"EVALSHA", fault)
            await lock.release()

    with proxied(one_server) as proxy:
        store = open_store(proxy.url, user)
        for held in (store.lock("name"), store.semaphore("name", 1)):
            held.acquire()
            proxy.strike(b"EVALSHA", fault)
            held.release()
        asyncio.run(in_a_loop(proxy))
        store.close()
    with direct.lock("name", timeout=0), direct.semaphore("name", 1, timeout=0):
        pass


@pytest.mark.parametrize("side", ["sync", "async"])
def test_uncertain_grant_of_silent_server_is_released(
    side: str, one_server: Server, open_store: Callable[..., DataStore], user: str
) -> None:
    direct = open_store(one_server.url, user)
    with direct.lock("name"):
        pass  # the server knows the scripts now

    async def in_a_loop(proxy: Proxy) -> None:
        async with connect_async(proxy.url, user=user, timeout=0.2) as store:
            await store.get("key")
            proxy.strike(b"EVALSHA", Fault.SWALLOW)
            with pytest.raises(StoreTimeout):
                await store.lock("name", ttl=1.5).acquire()
            await asyncio.to_thread(wait_until, given_back_through(proxy), "it is given back")

    def in_a_thread(proxy: Proxy) -> None:
        with open_store(proxy.url, user, timeout=0.2) as store:
            store.get("key")
            proxy.strike(b"EVALSHA", Fault.SWALLOW)
            with pytest.raises(StoreTimeout):
                store.lock("name", ttl=1.5).acquire()
            wait_until(given_back_through(proxy), "it is given back")

    def given_back_through(proxy: Proxy) -> Callable[[], bool]:
        return lambda: proxy.count(LOCK_RELEASE.sha) == 1

    with proxied(one_server) as proxy:
        if side == "sync":
            in_a_thread(proxy)
        else:
            asyncio.run(in_a_loop(proxy))
    with direct.lock("name"):
        pass


def test_release_cancelled_while_it_connects_frees_lock(
    one_server: Server, open_store: Callable[..., DataStore], user: str
) -> None:
    async def main(proxy: Proxy, rounds: int) -> None:
        async with connect_async(proxy.url, user=user) as store:
            lock = store.lock("name", ttl=1000)
            await lock.acquire()
            proxy.drop_all()
            releasing = asyncio.create_task(lock.release())
            for _ in range(rounds):
                await asyncio.sleep(0)
            releasing.cancel()
            await asyncio.wait([releasing])

    direct = open_store(one_server.url, user)
    with proxied(one_server) as proxy:
        for rounds in (1, 2, 3, 5, 8):
            asyncio.run(main(proxy, rounds))
            with direct.lock("name", timeout=0.5):
                pass


def test_uncertain_claim_of_silent_server_is_released(
    one_server: Server, open_store: Callable[..., DataStore], user: str
) -> None:
    direct = open_store(one_server.url, user)
    direct.get_or_set("other", lambda: 1)  # the server knows the scripts now
    with proxied(one_server) as proxy, open_store(proxy.url, user, timeout=0.2) as store:
        store.get("key")
        proxy.strike(b"EVALSHA", Fault.SWALLOW)
        with pytest.raises(StoreTimeout):
            store.get_or_set("key", lambda: 1, lock_timeout=1.5)
        wait_until(lambda: proxy.count(FLIGHT_FAIL.sha) == 1, "it is given up")
