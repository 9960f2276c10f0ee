"""Clients: many users' stores on a few connections, each of them closed by itself."""

from __future__ import annotations

import asyncio
import gc
import inspect
import operator
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from redis_store import (
    AsyncClient,
    AuthenticationFailed,
    Client,
    DataStore,
    InvalidInput,
    InvalidSettings,
    InvalidType,
    StoreClosed,
    StoreUnavailable,
    connect,
    connect_async,
)
from redis_store.locks import Lock
from tests.support.servers import Server, wait_until
from tests.support.threads import all_at_once, in_thread

MANY = 300


@pytest.fixture
def client(one_server: Server) -> Iterator[Client]:
    with Client(one_server.url) as made:
        yield made


@pytest.fixture
def raw(one_server: Server, raw_of: Callable[..., redis.Redis]) -> redis.Redis:
    return raw_of(one_server)


def test_many_users_share_a_connection(client: Client, raw: redis.Redis, user: str) -> None:
    before = len(raw.client_list())
    for number in range(MANY):
        client.store(user=f"{user}-{number}").set("k", number)
    assert [client.store(user=f"{user}-{number}").get("k") for number in range(MANY)] == list(range(MANY))
    assert len(raw.client_list()) == before + 1


def test_many_users_share_the_connection_of_an_event_loop(one_server: Server, raw: redis.Redis, user: str) -> None:
    async def main() -> None:
        async with AsyncClient(one_server.url) as client:
            before = len(raw.client_list())
            await asyncio.gather(*(client.store(user=f"{user}-{n}").set("k", n) for n in range(MANY)))
            found = await asyncio.gather(*(client.store(user=f"{user}-{n}").get("k") for n in range(MANY)))
            assert found == list(range(MANY))
            assert len(raw.client_list()) == before + 1

    asyncio.run(main())


def test_a_store_of_a_client_is_what_connect_returns(client: Client, one_server: Server, user: str) -> None:
    store = client.store(user=user, namespace="n", agent="a", run="r")
    assert (store.user, store.namespace, store.url) == (user, "n", one_server.url)
    store.set("k", 1)
    info = store.info("k")
    assert info is not None
    assert info.created_by == "a"
    with connect(one_server.url, user=user, namespace="n") as same:
        assert same.get("k") == 1


def test_stores_are_small(client: Client, user: str) -> None:
    kept: list[DataStore] = []

    def make(times: int) -> None:
        kept.extend(client.store(user=f"{user}-{number}", agent="a") for number in range(times))
        assert kept[-1].get("k") is None

    make(10)
    gc.collect()
    tracemalloc.start()
    try:
        make(1000)
        assert tracemalloc.get_traced_memory()[0] < 1000 * 3 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_names_are_checked_by_the_store(kind: Any, one_server: Server) -> None:
    client = kind(one_server.url)
    with pytest.raises(InvalidInput):
        client.store(user="")
    with pytest.raises(InvalidInput):
        client.store(user="u", namespace="n" * 2000)
    with pytest.raises(InvalidType):
        client.store(user="u", agent=["a"])
    with pytest.raises(TypeError, match="positional"):
        client.store("u")


def test_options_of_others_are_refused_with_their_place(one_server: Server, user: str) -> None:
    options: Any = {"user": user}
    with pytest.raises(TypeError, match="pass it to the client's method store"):
        Client(one_server.url, **options)
    most: Any = {"max_connections": 3}
    with pytest.raises(TypeError, match="an asyncio client has one connection in each event loop"):
        AsyncClient(one_server.url, **most)
    with pytest.raises(TypeError, match=r"redis_store\.Client"):
        connect(one_server.url, user=user, **most)
    for wrong in (0, -1, True, 2.5, "3"):
        most["max_connections"] = wrong
        with pytest.raises(InvalidSettings, match="max_connections must be a whole number"):
            Client(one_server.url, **most)
    with pytest.raises(InvalidSettings):
        Client("redis://host/0?max_connections=3")


def test_signatures_show_the_options() -> None:
    for client, function in ((Client, connect), (AsyncClient, connect_async)):
        options = set(inspect.signature(client).parameters) - {"max_connections"}
        assert options < set(inspect.signature(function).parameters)
    assert set(inspect.signature(connect).parameters) - options == {"user", "namespace", "agent", "run"}


def test_closing_a_store_leaves_the_others(client: Client, user: str) -> None:
    store, other = client.store(user=user), client.store(user=user)
    handle = store.use_namespace("n")
    store.set("k", 1)
    store.close()
    store.close()
    for call in (lambda: store.get("k"), lambda: handle.set("k", 1), store.list_keys, lambda: "k" in handle):
        with pytest.raises(StoreClosed):
            call()
    assert other.get("k") == 1
    with client.store(user=user) as third:
        assert third.get("k") == 1
    with pytest.raises(StoreClosed):
        third.get("k")
    assert client.ping()


def test_closing_an_asyncio_store_leaves_the_others(one_server: Server, user: str) -> None:
    async def main() -> None:
        async with AsyncClient(one_server.url) as client:
            store, other = client.store(user=user), client.store(user=user)
            await store.set("k", 1)
            under_way = asyncio.gather(*(store.get("k") for _ in range(20)))
            await asyncio.sleep(0)
            await store.close()
            await store.close()
            assert await under_way == [1] * 20, "calls in progress end as they would have"
            for call in (store.get("k"), store.set("k", 1), store.list_keys(), store.get_all()):
                with pytest.raises(StoreClosed):
                    await call
            assert await other.get("k") == 1
        with pytest.raises(StoreClosed):
            await other.get("k")
        with pytest.raises(StoreClosed):
            await client.ping()
        await client.close()

    asyncio.run(main())


def test_a_closed_store_wakes_its_own_waiters(client: Client, user: str) -> None:
    store, other = client.store(user=user), client.store(user=user)
    with in_thread(lambda: store.wait_for("k")) as closed, in_thread(lambda: other.wait_for("k", timeout=20)) as waits:
        wait_until(lambda: _waiters(store) and _waiters(other), "both wait")
        store.close()
        wait_until(lambda: not closed.alive, "the waiter of the closed store has ended")
        assert isinstance(closed.error, StoreClosed)
        client.store(user=user).set("k", 1)
    assert waits.result == 1


def _waiters(store: DataStore) -> int:
    return len(store._operations.driver.watches)  # type: ignore[attr-defined]


def test_closing_the_client_ends_everything(client: Client, user: str) -> None:
    stores = [client.store(user=f"{user}-{number}") for number in range(3)]
    stores[0].set("k", 1)
    changes = stores[1].watch()
    with in_thread(lambda: stores[2].wait_for("k")) as waiting, in_thread(lambda: list(changes)) as watching:
        wait_until(lambda: _waiters(stores[2]), "it waits")
        client.close()
    assert isinstance(waiting.error, StoreClosed)
    assert watching.result == []
    for call in (lambda: stores[0].get("k"), lambda: client.store(user=user).get("k"), client.ping, client.server_info):
        with pytest.raises(StoreClosed):
            call()
    client.close()


def test_a_watch_that_begins_while_the_client_closes_ends(client: Client, user: str) -> None:
    """The consumer is closed first; meanwhile another store begins to watch."""
    consumer, other = client.store(user=user).watch(consumer="c"), client.store(user=user)
    close_really = consumer.close
    begun = []

    def close() -> None:
        if not begun:
            begun.append(other.watch())
        close_really()

    consumer.close = close  # type: ignore[method-assign]
    client.close()
    with in_thread(lambda: list(begun[0])) as changes:
        pass
    assert changes.result == []


def test_a_closed_client_returns_nothing_from_the_near_cache(one_server: Server, user: str) -> None:
    with Client(one_server.url, near_cache=True) as other:
        client = Client(one_server.url, near_cache=True)
        store, same = client.store(user=user), other.store(user=user)
        same.set("k", 1)
        for each in (store, same):
            each.get("k")
            hits = each.stats().near_hits
            assert each.get("k") == 1
            assert each.stats().near_hits == hits + 1
        client.close()
        with pytest.raises(StoreClosed):
            store.get("k")
        assert same.get("k") == 1


def test_each_store_counts_for_itself(client: Client, user: str) -> None:
    store, other = client.store(user=user), client.store(user=user)
    store.get("k")
    assert (store.stats().misses, other.stats().misses) == (1, 0)


def test_locks_of_all_stores_are_renewed_by_one_thread(client: Client, user: str) -> None:
    locks: list[Lock] = [client.store(user=f"{user}-{number}").lock("l", ttl=0.5) for number in range(20)]
    for lock in locks:
        lock.acquire()
    assert len({lock._driver.keeper for lock in locks}) == 1
    held = [holding.keeping for lock in locks for holding in lock._holdings]
    first = [keeping._until for keeping in held]
    wait_until(lambda: all(map(operator.lt, first, [keeping._until for keeping in held])), "each was renewed")
    for lock in locks:
        lock.release()


def test_a_closed_store_lets_its_locks_expire(client: Client, user: str) -> None:
    store = client.store(user=user)
    store.lock("l", ttl=0.4).acquire()
    store.close()
    with client.store(user=user).lock("l", timeout=20):
        pass


def test_threads_and_event_loops_share_a_client(client: Client, one_server: Server, user: str) -> None:
    on_loops = AsyncClient(one_server.url)

    async def use(name: str) -> None:
        store = on_loops.store(user=name)
        for number in range(50):
            await store.set("k", [name, number])
            assert await store.get("k") == [name, number]

    def work(name: str) -> None:
        store = client.store(user=name)
        for number in range(50):
            store.set("k", [name, number])
            assert store.get("k") == [name, number]
        asyncio.run(use(f"{name}-async"))

    all_at_once([lambda name=name: work(f"{user}-{name}") for name in range(8)])  # type: ignore[misc]
    asyncio.run(on_loops.close())


def test_ping_and_server_info_of_a_server_that_is_gone(start: Callable[..., Server]) -> None:
    server = start("valkey9")
    with Client(server.url) as client:
        assert client.ping() is True
        server.kill()
        with pytest.raises(StoreUnavailable):
            client.ping()
        with pytest.raises(StoreUnavailable):
            client.server_info()


def test_server_info_says_what_is_done_without(start: Callable[..., Server]) -> None:
    server = start("valkey9", "--notify-keyspace-events", "Khgxe")
    with Client(server.url) as client:
        whole = client.server_info()
        assert (whole.engine, whole.mode, whole.lacks) == ("valkey", "standalone", {})
        assert whole.version.startswith("9.")
    with server.client() as raw:
        few = "+@all -info -memory -config -client|tracking -publish -@stream"
        raw.execute_command("ACL", "SETUSER", "few", "on", ">secret", "~user:*", "&*", *few.split())
    url = server.url.replace("unix://", "unix://few:secret@")
    with Client(url) as client:
        found = client.server_info()
        assert (found.engine, found.version, found.mode) == ("valkey", whole.version, "standalone")
        assert set(found.lacks) == {"streams", "PUBLISH", "CLIENT TRACKING", "MEMORY USAGE", "CONFIG"}
        assert "near cache is off" in found.lacks["CLIENT TRACKING"]
    with Client(url.replace("secret", "wrong")) as client, pytest.raises(AuthenticationFailed):
        client.ping()


def test_server_info_of_each_server(real_server: Server) -> None:
    with Client(real_server.url) as client:
        found = client.server_info()
        assert found.engine == real_server.kind.rstrip("0123456789")
        assert found.version.startswith(real_server.kind[-1])
        assert ("HPEXPIRE" in found.lacks) != real_server.has_ttl


def test_repr_hides_the_password(one_server: Server) -> None:
    assert repr(Client("redis://user:secret@localhost:7/0")) == "<Client at redis://localhost:7/0>"
    assert repr(AsyncClient("redis://user:secret@localhost:7/0")) == "<AsyncClient at redis://localhost:7/0>"
