"""A cache is only a cache: what callers get while the store is away, and while a function hangs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from redis_store import ConnectionLost, InvalidInput, StoreUnavailable, WaitTimeout, connect, connect_async
from tests.support.brokered_side import brokered
from tests.support.proxy import Fault, proxied
from tests.support.servers import Server, wait_until
from tests.support.threads import in_thread

NOWHERE = "redis://127.0.0.1:1/0"


def on_each_side(use: Callable[[Any], Any], url: str, user: str) -> list[Any]:
    """Return what a function of awaitable or plain calls returns with a blocking and an asyncio store."""

    async def with_asyncio() -> Any:
        async with connect_async(url, user=user, timeout=1) as store:
            return await use(store)

    with connect(url, user=user, timeout=1) as store:
        return [use(store), asyncio.run(with_asyncio())]


@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_AFTER, Fault.SWALLOW])
def test_result_that_cannot_be_stored_is_returned(
    server: Server, user: str, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    with proxied(server) as proxy:

        def use(store: Any) -> Any:
            proxy.strike("an answer", fault, times=100)
            return store.get_or_set("question", lambda: "an answer")

        assert on_each_side(use, proxy.url, user) == ["an answer"] * 2
        with connect(server.url, user=user) as direct:
            assert direct.get_or_set("question", lambda: "another") in ("an answer", "another"), (
                "nobody waits for a ttl"
            )
    assert [record.levelno for record in caplog.records if "could not be stored" in record.message][:1] == [
        logging.WARNING
    ]


def test_without_a_store_the_value_is_computed_if_asked_to(user: str, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def make() -> dict[str, list[int]]:
        calls.append(1)
        return {"made": [len(calls)]}

    with pytest.raises(StoreUnavailable):
        on_each_side(lambda store: store.get_or_set("key", make), NOWHERE, user)
    assert calls == []
    made = on_each_side(lambda store: store.get_or_set("key", make, on_error="compute"), NOWHERE, user)
    assert made == [{"made": [1]}, {"made": [2]}]
    made = on_each_side(lambda store: store.cached(on_error="compute")(make)(), NOWHERE, user)
    assert made == [{"made": [3]}, {"made": [4]}]
    assert sum("computed without it" in record.message for record in caplog.records) == 4
    with pytest.raises(InvalidInput, match="on_error must be 'raise' or 'compute', not 'ignore'"):
        on_each_side(lambda store: store.get_or_set("key", make, on_error="ignore"), NOWHERE, user)


def test_function_that_fails_with_a_store_error_is_called_once(server: Server, user: str) -> None:
    """Its error may be of the kind that the store has when it is away."""
    calls: list[int] = []

    def make() -> None:
        calls.append(1)
        raise ConnectionLost("another store's")

    for number in (1, 2):
        with pytest.raises(ConnectionLost, match="another store's"), connect(server.url, user=user) as store:
            store.get_or_set("key", make, on_error="compute")
        assert len(calls) == number


def test_reads_of_a_cache_find_nothing_without_a_store(user: str, caplog: pytest.LogCaptureFixture) -> None:
    def reads(store: Any) -> list[Any]:
        cache = store.use_namespace("cache", on_error="compute")
        return [cache.get("a"), cache.get("a", 5), cache.get_many(["a"]), cache.get_or_set("a", lambda: 1)]

    async def reads_async(store: Any) -> list[Any]:
        return [await read for read in reads(store)]

    with connect(NOWHERE, user=user, timeout=1) as store:
        cache = store.use_namespace("cache", on_error="compute")
        assert reads(store) == [None, 5, {}, 1]
        assert "a" not in cache.restricted(namespaces=["cache"])
        for write in (lambda: cache.set("a", 1), cache.list_keys, lambda: store.use_namespace("cache").get("a")):
            with pytest.raises(StoreUnavailable):
                write()
        with pytest.raises(InvalidInput, match="on_error"):
            store.use_namespace("cache", on_error="miss")  # type: ignore[arg-type]

    async def main() -> list[Any]:
        async with connect_async(NOWHERE, user=user, timeout=1) as store:
            with pytest.raises(StoreUnavailable):
                await store.use_namespace("cache").get_many(["a"])
            return await reads_async(store)

    assert asyncio.run(main()) == [None, 5, {}, 1]
    assert sum("finds nothing in this cache" in record.message for record in caplog.records) == 7


def test_waiters_of_a_function_that_hangs_give_up_in_time(server: Server, user: str) -> None:
    release = threading.Event()
    with connect(server.url, user=user) as store, brokered(store) as inside:
        try:
            with in_thread(lambda: store.get_or_set("key", lambda: release.wait(60) and "late")) as hanging:
                wait_until(lambda: store.stats().computes == 1, "it computes")
                for asked in (store, inside.store):
                    with pytest.raises(WaitTimeout, match=r"has not computed 'key' within 0\.2 seconds") as caught:
                        asked.get_or_set("key", lambda: 1, timeout=0.2)
                    assert (caught.value.namespace, caught.value.key) == ("default", "key")
                with pytest.raises(WaitTimeout):
                    store.cached(key="key", timeout=0)(lambda: 1)()
                with pytest.raises(WaitTimeout):
                    on_each_side(lambda side: side.get_or_set("key", lambda: 1, timeout=0.1), server.url, user)
                release.set()
            assert hanging.result == "late"
        finally:
            release.set()


def test_function_that_hangs_does_not_keep_others_from_computing(server: Server, user: str) -> None:
    release = threading.Event()

    def hang() -> str:
        release.wait(60)
        return "late"

    with connect(server.url, user=user) as store:
        try:
            with in_thread(lambda: store.get_or_set("key", hang, lock_timeout=0.3, timeout=0.5)) as hanging:
                wait_until(lambda: store.stats().computes == 1, "it computes")
                assert store.get_or_set("key", lambda: "in time", lock_timeout=0.3) == "in time"
                release.set()
            assert hanging.result in ("late", "in time")
            assert store.get("key") == "in time"
        finally:
            release.set()


def test_agents_compute_without_a_store(user: str) -> None:
    with connect(NOWHERE, user=user, timeout=1) as store, brokered(store) as inside:
        cache = inside.store.use_namespace("cache", on_error="compute")
        assert [cache.get("a", 5), cache.get_many(["a"]), cache.get_or_set("a", lambda: 1)] == [5, {}, 1]
        assert "a" not in cache
        with pytest.raises(StoreUnavailable):
            inside.store.get("a")
