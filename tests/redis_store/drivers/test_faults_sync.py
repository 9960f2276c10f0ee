"""Failing networks and servers under the sync store: which calls are retried, and what the errors say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redis_store import ConnectionLost, DataStore, StoreClosed, StoreTimeout, StoreUnavailable, connect
from tests.support.proxy import Fault, Proxy, proxied
from tests.support.retries import in_time
from tests.support.servers import Server, wait_until
from tests.support.threads import in_thread

READS: dict[str, Callable[[DataStore], Any]] = {
    "get": lambda store: store.get("the-key"),
    "get_many": lambda store: store.get_many(["the-key"])["the-key"],
    "info": lambda store: store.info("the-key").size,
    "len": lambda store: len(store),
    "list_keys": lambda store: store.list_keys(),
    "get_all": lambda store: store.get_all(),
    "iter_items": lambda store: list(store.iter_items()),
    "list_namespaces": lambda store: store.list_namespaces(),
}
WRITES: dict[str, Callable[[DataStore], Any]] = {
    "set": lambda store: store.set("the-key", "new"),
    "set with metadata": lambda store: store.set("the-key", "new", metadata={"m": 1}),
    "set_many": lambda store: store.set_many({"the-key": "new", "other": 1}),
    "set_many with metadata": lambda store: store.set_many({"the-key": "new"}, metadata={"m": 1}),
    "delete": lambda store: store.delete("the-key"),
    "delete_many": lambda store: store.delete_many(["the-key", "other"]),
    "clear": lambda store: store.clear(),
}


@pytest.fixture
def proxy(one_server: Server) -> Iterator[Proxy]:
    with proxied(one_server) as made:
        yield made


@pytest.fixture
def store(proxy: Proxy, open_store: Callable[..., DataStore], user: str) -> DataStore:
    """A store behind the proxy, with one key, one connection, and its scripts loaded."""
    store = open_store(proxy.url, user, namespace="the-ns", timeout=20)
    store.set("the-key", "old")
    store.use_namespace("warm-up").set_many({"a": 1}, metadata={"b": 2})
    store.use_namespace("warm-up").clear()
    for read in READS.values():
        read(store)
    assert proxy.connections == 1
    return store


@pytest.fixture
def direct(one_server: Server, open_store: Callable[..., DataStore], user: str) -> DataStore:
    """The same user's store, past the proxy."""
    return open_store(one_server.url, user, namespace="the-ns")


def test_a_dead_server(start: Callable[..., Server], open_store: Any) -> None:
    server = start("valkey9")
    server.kill()
    store = open_store(server.url)
    for call in (lambda: store.get("a"), lambda: store.set("a", 1), store.list_keys, store.clear):
        with pytest.raises(ConnectionLost, match="check that it is running") as caught:
            call()
        assert isinstance(caught.value, (StoreUnavailable, ConnectionError))
        assert caught.value.outcome_unknown is False
    server.restart()
    store.set("a", 1)
    assert store.get("a") == 1


@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_AFTER, Fault.CUT_IN_REPLY])
@pytest.mark.parametrize("read", READS)
def test_a_read_is_retried_once(store: DataStore, proxy: Proxy, read: str, fault: Fault) -> None:
    expected = READS[read](store)
    proxy.strike("SSCAN" if read == "list_namespaces" else "the-", fault)
    assert READS[read](store) == expected
    assert proxy.connections == 2


@pytest.mark.parametrize("read", READS)
def test_a_read_is_not_retried_for_ever(store: DataStore, proxy: Proxy, read: str) -> None:
    rule = proxy.strike("SSCAN" if read == "list_namespaces" else "the-", Fault.CUT_AFTER, times=100)
    with pytest.raises(ConnectionLost) as caught:
        READS[read](store)
    assert caught.value.outcome_unknown is False
    assert 100 - rule.left == 2


@pytest.mark.parametrize("call", [*READS, *WRITES])
def test_a_connection_closed_while_idle_is_not_noticed(store: DataStore, proxy: Proxy, call: str) -> None:
    proxy.drop_all()
    {**READS, **WRITES}[call](store)
    assert proxy.connections == 2


@pytest.mark.parametrize("write", WRITES)
def test_a_write_on_a_connection_that_died_idle_has_not_happened(
    start: Callable[..., Server], open_store: Any, write: str
) -> None:
    server = start("valkey9")
    store = open_store(server.url)
    store.set("the-key", "old")
    server.kill()
    with pytest.raises(ConnectionLost) as caught:
        WRITES[write](store)
    assert caught.value.outcome_unknown is False


@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_AFTER, Fault.CUT_IN_REPLY])
@pytest.mark.parametrize("write", WRITES)
def test_a_write_that_went_out_is_not_sent_again(store: DataStore, proxy: Proxy, write: str, fault: Fault) -> None:
    rule = proxy.strike("log:the-ns", fault, times=100)
    with pytest.raises(ConnectionLost, match="may or may not have happened") as caught:
        WRITES[write](store)
    assert caught.value.outcome_unknown is True
    assert rule.left == 99, "it went out once"


def test_lost_reply_outcomes(store: DataStore, proxy: Proxy, direct: DataStore) -> None:
    proxy.strike("log:the-ns", Fault.CUT_BEFORE)
    with pytest.raises(ConnectionLost):
        store.set("the-key", "lost on its way")
    assert direct.get("the-key") == "old"
    proxy.strike("log:the-ns", Fault.CUT_AFTER)
    with pytest.raises(ConnectionLost):
        store.set("the-key", "done, but not heard of")
    assert direct.get("the-key") == "done, but not heard of"


@pytest.mark.parametrize("call", ["get", "set", "set_many with metadata", "get_all"])
def test_a_server_that_dies_in_mid_call(start: Callable[..., Server], open_store: Any, call: str) -> None:
    server = start("valkey9")
    with proxied(server) as proxy, connect(proxy.url, user="alice", namespace="the-ns") as store:
        store.set("the-key", "old")
        sent = proxy.count("the-")
        server.pause()
        with in_thread(lambda: {**READS, **WRITES}[call](store)) as outcome:
            wait_until(lambda: proxy.count("the-") > sent, "the request is on its way")
            server.kill()
        assert isinstance(outcome.error, ConnectionLost)
        # set_many reads the existing metadata before it writes
        assert outcome.error.outcome_unknown is (call == "set")
        server.restart()
        assert store.get("the-key") is None


@pytest.mark.parametrize("call", ["get", "set", "get_all", "set with metadata"])
@pytest.mark.parametrize("fault", [Fault.HOLD_REPLY, Fault.HOLD_REQUEST])
def test_a_reply_that_comes_too_late(proxy: Proxy, user: str, call: str, fault: Fault) -> None:
    with connect(proxy.url, user=user, namespace="the-ns", timeout=0.4) as store:
        store.set_many({"the-key": "old", "another-1": 1, "another-2": 2})
        store.list_keys()
        before = proxy.connections
        rule = proxy.strike("ns:the-ns", fault, times=1)
        begun = time.monotonic()
        with pytest.raises(StoreTimeout) as caught:
            {**READS, **WRITES}[call](store)
        assert time.monotonic() - begun < 10, "it gives up long before a hang would be noticed"
        assert rule.left == 0
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.outcome_unknown is (call in WRITES)
        rule.release()
        for number in range(20):
            assert store.get("another-1") == 1, number
            assert store.get_many(["another-2"]) == {"another-2": 2}
            assert store.get("absent", "default") == "default"
        assert proxy.connections == before + 1, "the connection with the late reply is gone, another took its place"


def test_a_slow_first_copy_is_not_followed_by_a_second(proxy: Proxy, direct: DataStore, user: str) -> None:
    with connect(proxy.url, user=user, namespace="the-ns", timeout=0.15) as store:
        in_time(lambda: store.set("the-key", "old"))
        rule = proxy.strike("slow value", Fault.HOLD_REQUEST)
        with pytest.raises(StoreTimeout) as caught:
            store.set("the-key", "slow value")
        assert caught.value.outcome_unknown is True
        rule.release()
        wait_until(lambda: direct.get("the-key") == "slow value", "the slow copy has arrived")
        direct.set("the-key", "newer")
        in_time(lambda: store.set("another", 1))
        in_time(lambda: store.get("another"))
        assert proxy.count("slow value") == 1
        assert direct.get("the-key") == "newer"


def test_server_that_accepts_no_more_data(start: Callable[..., Server], open_store: Any) -> None:
    server = start("valkey9")
    store = open_store(server.url, timeout=0.15)
    in_time(lambda: store.set("key", "x" * 200_000))  # a store's first big value asks for its rights before
    server.pause()
    with pytest.raises(StoreTimeout, match="did not accept the whole request") as caught:
        store.set("key", "x" * 20_000_000)
    assert caught.value.outcome_unknown is True
    server.resume()
    assert in_time(lambda: store.get("key")) in ("x" * 200_000, "x" * 20_000_000)


def test_silent_server_at_connect(start: Callable[..., Server], open_store: Any) -> None:
    server = start("valkey9")
    server.pause()
    store = open_store(server.url, timeout=0.15)
    with pytest.raises(StoreTimeout) as caught:
        store.set("key", 1)
    assert caught.value.outcome_unknown is False
    server.resume()
    in_time(lambda: store.set("key", 2))
    assert in_time(lambda: store.get("key")) == 2


def test_the_timeout_in_the_url(proxy: Proxy, user: str) -> None:
    with connect(f"{proxy.url}?socket_timeout=0.15", user=user, namespace="the-ns") as store:
        in_time(lambda: store.set("key", 1))
        proxy.strike("ns:the-ns", Fault.SWALLOW)
        with pytest.raises(StoreTimeout, match=r"within 0\.15 s\b"):
            store.get("key")


@pytest.mark.parametrize("call", ["get", "set", "get_all", "set_many with metadata"])
def test_closing_ends_calls_under_way(store: DataStore, proxy: Proxy, call: str) -> None:
    before = proxy.connections
    rule = proxy.strike("the-", Fault.HOLD_REPLY)
    with in_thread(lambda: {**READS, **WRITES}[call](store)) as outcome:
        assert rule.struck.wait(20)
        store.close()
    assert isinstance(outcome.error, (StoreClosed, ConnectionLost))
    assert proxy.connections == before, "a closed store opens no connection"
    if call == "set":
        assert outcome.error.outcome_unknown is True
    with pytest.raises(StoreClosed):
        store.get("the-key")


def test_in_a_running_event_loop(store: DataStore) -> None:
    async def main() -> None:
        store.set("key", 1)
        assert store.get("key") == 1
        assert store.list_keys() == ["key", "the-key"]

    asyncio.run(main())
