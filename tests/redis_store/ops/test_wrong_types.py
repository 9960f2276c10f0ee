"""A Redis key of the wrong type: every write to it is refused completely, before its first command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from redis_store import DataStore, WrongKeyType, connect_async
from tests.support.redis_view import NamespaceView
from tests.support.servers import Server

MANY = {f"key-{number}": number for number in range(2500)}
BIG = {f"key-{number}": "x" * 2000 for number in range(1200)}

WRITES: dict[str, Callable[[DataStore], Any]] = {
    "set": lambda store: store.set("key-0", "new"),
    "set of a big value": lambda store: store.set("key-0", "x" * 200_000),
    "set of a new key": lambda store: store.set("new", "new"),
    "set with metadata": lambda store: store.set("key-0", "new", metadata={"new": 1}),
    "set_many": lambda store: store.set_many({"key-0": "new", "new": 1}),
    "set_many of 2500": lambda store: store.set_many(MANY),
    "set_many of big values": lambda store: store.set_many(BIG),
    "set_many with metadata": lambda store: store.set_many({"key-0": "new", "new": 1}, metadata={"new": 1}),
    "set_many of 2500 with metadata": lambda store: store.set_many(MANY, metadata={"new": 1}),
    "delete": lambda store: store.delete("key-0"),
    "delete_many": lambda store: store.delete_many(["key-0", "key-1"]),
    "delete_many of 2500": lambda store: store.delete_many(list(MANY)),
    "clear": lambda store: store.clear(),
}


@pytest.fixture
def view(real_server: Server, raw_of: Callable[..., redis.Redis], user: str) -> NamespaceView:
    """The keys of the store's namespace."""
    return NamespaceView(raw_of(real_server), user)


@pytest.fixture
def filled(real_server: Server, open_store: Callable[..., DataStore], view: NamespaceView, user: str) -> DataStore:
    """A store with a watched namespace of some keys."""
    store = open_store(real_server.url, user, agent="tester")
    store.set_many({"key-0": 0, "key-1": 1, "key-2400": 2}, metadata={"old": 1})
    view.watch()
    return store


@pytest.mark.parametrize("part", NamespaceView.PARTS)
@pytest.mark.parametrize("write", WRITES)
def test_a_write_is_refused_whole(filled: DataStore, view: NamespaceView, write: str, part: str) -> None:
    key = view.spoil(part)
    before = view.snapshot()
    with pytest.raises(WrongKeyType, match="Nothing was written") as caught:
        WRITES[write](filled)
    assert view.snapshot() == before
    assert caught.value.redis_key == key.decode()
    assert key.decode() in str(caught.value)


@pytest.mark.parametrize("part", NamespaceView.PARTS)
def test_an_async_batch_is_refused_whole(
    real_server: Server, filled: DataStore, view: NamespaceView, user: str, part: str
) -> None:
    key = view.spoil(part)
    before = view.snapshot()

    async def main() -> None:
        async with connect_async(real_server.url, user=user) as store:
            for items, metadata in ((MANY, None), (BIG, None), (MANY, {"new": 1})):
                with pytest.raises(WrongKeyType) as caught:
                    await store.set_many(items, metadata=metadata)
                assert caught.value.redis_key == key.decode()
            with pytest.raises(WrongKeyType):
                await store.delete_many(list(MANY))

    asyncio.run(main())
    assert view.snapshot() == before


def test_reads_work_beside_corrupt_registry_or_log(filled: DataStore, view: NamespaceView) -> None:
    for part in ("registry", "log"):
        view.spoil(part)
    assert filled.get_all() == {"key-0": 0, "key-1": 1, "key-2400": 2}
    assert filled.info("key-0").metadata == {"old": 1}
