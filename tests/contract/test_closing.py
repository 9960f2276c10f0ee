"""Opening and closing: context managers, shared connections, and the errors of a closed store."""

from __future__ import annotations

import asyncio
import gc

import pytest
import redis

from redis_store import InvalidSettings, StoreClosed, connect, connect_async
from tests.conftest import params_of
from tests.support.servers import REAL_KINDS, Server, wait_until
from tests.support.sides import SIDES_OF_THE_HOST, OpenSide, Side


@pytest.fixture(params=params_of(SIDES_OF_THE_HOST))
def side(request: pytest.FixtureRequest) -> str:
    """The sides that have a `close`: an agent's store is closed by its host."""
    return str(request.param)


CALLS = {
    "get": lambda store: store.get("a"),
    "set": lambda store: store.set("a", 1),
    "set_many": lambda store: store.set_many({"a": 1}),
    "list_keys": lambda store: store.list_keys(),
    "iter_keys": lambda store: store.iter_keys(),
    "get_all": lambda store: store.get_all(),
    "clear": lambda store: store.clear(),
    "watch": lambda store: store.watch(),
    "watch_all": lambda store: store.watch_all(),
    "wait_for": lambda store: store.wait_for("absent", timeout=0.1),
}


@pytest.mark.parametrize("call", CALLS)
def test_closed_store_raises_store_closed(store: Side, call: str) -> None:
    store.set("a", 1)
    namespace = store.use_namespace("other")
    store.close()
    store.close()
    for closed in (store, namespace):
        with pytest.raises(StoreClosed, match="closed"):
            CALLS[call](closed)


def test_a_store_that_was_never_used_closes(open_side: OpenSide, user: str) -> None:
    open_side(user).close()


def test_context_managers_close(server: Server, user: str, side: str) -> None:
    if side == "sync":
        with connect(server.url, user=user) as store:
            store.set("a", 1)
            assert store.get("a") == 1
        with pytest.raises(StoreClosed):
            store.get("a")
        return

    async def main() -> None:
        async with connect_async(server.url, user=user) as store:
            await store.set("a", 1)
            assert [key async for key in store] == ["a"]
        with pytest.raises(StoreClosed):
            await store.get("a")

    asyncio.run(main())


def test_a_block_that_raises_closes_and_raises_on(server: Server, user: str, side: str) -> None:
    if side == "sync":
        with pytest.raises(ZeroDivisionError), connect(server.url, user=user) as store:
            1 / 0  # noqa: B018
        with pytest.raises(StoreClosed):
            store.get("a")
        return

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with connect_async(server.url, user=user) as store:
                1 / 0  # noqa: B018
        with pytest.raises(StoreClosed):
            await store.get("a")

    asyncio.run(main())


@pytest.mark.parametrize("server", REAL_KINDS, indirect=True)
def test_namespaces_share_one_connection(store: Side, raw: redis.Redis) -> None:
    store.get("a")
    names = [row["id"] for row in raw.client_list()]
    for number in range(10):
        store.use_namespace(f"ns-{number}").get("a")
    assert [row["id"] for row in raw.client_list()] == names


@pytest.mark.parametrize("server", ["redis7", "valkey9"], indirect=True)
def test_closing_leaves_no_connection_behind(store: Side, raw: redis.Redis) -> None:
    before = {row["id"] for row in raw.client_list()}
    store.get_all()
    store.get("key")
    ours = {row["id"] for row in raw.client_list()} - before
    assert ours
    store.close()
    wait_until(lambda: not ours & {row["id"] for row in raw.client_list()}, "they are gone")


@pytest.mark.parametrize(("server", "side"), [("valkey9", "sync")], indirect=True)
def test_dropped_sync_store_leaks_nothing(server: Server, user: str) -> None:
    store = connect(server.url, user=user)
    store.get("a")
    del store
    gc.collect()  # a ResourceWarning would be an error


def test_url_user_and_repr_of_a_store(store: Side, server: Server, user: str) -> None:
    scheme, _, place = server.url.partition("://")
    assert store.url.startswith(f"{scheme}://")
    assert store.url.endswith(place)
    assert "secret" not in repr(store.store)
    assert store.user == user
    assert user in repr(store.store)
    assert "'default'" in repr(store.store)


def test_bad_settings_are_refused(server: Server, side: str) -> None:
    make = connect if side == "sync" else connect_async
    for options in (
        {"url": "http://localhost"},
        {"url": ""},
        {"url": 7},
        {"url": "redis://localhost:port"},
        {"url": "redis://localhost/0?nonsense=1"},
        {"url": "redis+sentinel://localhost"},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": "5"},
        {"timeout": True},
        {"timeout": float("nan")},
        {"max_value_bytes": 0},
        {"max_value_bytes": 1.5},
        {"max_batch_bytes": -1},
        {"durability": "sometimes"},
    ):
        with pytest.raises(InvalidSettings):
            make(**{"url": server.url, "user": "a", **options})
