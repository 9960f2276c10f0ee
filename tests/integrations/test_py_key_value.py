"""py-key-value: what its suite for stores asks, in our words, and what it does not ask; FastMCP and pydocket on top."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from docket import Docket, Worker
from fastmcp import Client, Context, FastMCP
from fastmcp.server.middleware.caching import ResponseCachingMiddleware
from key_value.aio.adapters.pydantic import PydanticAdapter
from key_value.aio.errors import DeserializationError, InvalidTTLError, SerializationError, ValueTooLargeError
from key_value.aio.protocols.key_value import (
    AsyncDestroyCollectionProtocol,
    AsyncEnumerateCollectionsProtocol,
    AsyncEnumerateKeysProtocol,
    AsyncKeyValueProtocol,
)
from key_value.aio.wrappers.prefix_collections import PrefixCollectionsWrapper
from key_value.aio.wrappers.retry import RetryWrapper
from pydantic import AnyHttpUrl, BaseModel

from redis_store import DataStore, InvalidType, StoreClosed, StoreUnavailable, connect_async
from redis_store.integrations.py_key_value import KeyValueStore
from tests.integrations.loops import in_loop
from tests.integrations.pages import read_page
from tests.integrations.requests import counted_requests

HOSTILE = [
    "*",
    "a*[b]?",
    "line\nbreak",
    "nul\0",
    "a/../b",
    "a::b",
    "S_x",
    "{tag}",
    "user:bob",
    "x" * 2048,
    "~" + "a" * 64,
    "",
    "\ud800",
]


@asynccontextmanager
async def opened(url: str, user: str, **options: Any) -> AsyncIterator[KeyValueStore]:
    async with connect_async(url, user=user, **options) as store:
        yield KeyValueStore(store)


@in_loop
async def test_is_what_the_protocols_of_the_framework_describe(server_url: str, user: str) -> None:
    async with KeyValueStore(server_url, user=user) as store:
        assert isinstance(store, AsyncKeyValueProtocol)
        assert isinstance(store, AsyncEnumerateKeysProtocol)
        assert isinstance(store, AsyncEnumerateCollectionsProtocol)
        assert isinstance(store, AsyncDestroyCollectionProtocol)


@in_loop
async def test_nothing_is_found_before_the_first_put(server_url: str, user: str) -> None:
    async with opened(server_url, user) as kv:
        assert await kv.get("a", collection="c") is None
        assert await kv.get_many(["a", "b"], collection="c") == [None, None]
        assert await kv.ttl("a", collection="c") == (None, None)
        assert await kv.ttl_many(["a", "b"], collection="c") == [(None, None)] * 2
        assert await kv.delete("a", collection="c") is False
        assert await kv.delete_many(["a", "b"], collection="c") == 0
        assert await kv.keys("c") == []
        assert await kv.collections() == []
        assert await kv.destroy_collection("c") is False


@in_loop
async def test_put_get_put_delete(server_url: str, user: str) -> None:
    async with opened(server_url, user) as kv:
        await kv.put("a", {"n": 1}, collection="c")
        assert await kv.get("a", collection="c") == {"n": 1}
        assert await kv.get("a", collection="d") is None
        assert await kv.get("a") is None
        await kv.put("a", {"n": 2}, collection="c")
        assert await kv.get("a", collection="c") == {"n": 2}
        assert await kv.delete("a", collection="c") is True
        assert await kv.get("a", collection="c") is None
        assert await kv.delete("a", collection="c") is False


@in_loop
async def test_many_at_once(server_url: str, user: str) -> None:
    keys, values = [f"k{n}" for n in range(10)], [{"n": n} for n in range(10)]
    async with opened(server_url, user) as kv:
        await kv.put_many([], [], collection="c")
        await kv.put_many(keys, tuple(values), collection="c")
        assert await kv.get("k3", collection="c") == {"n": 3}
        assert await kv.get_many(keys, collection="c") == values
        assert await kv.get_many(["k2", "no", "k1", "k2"], collection="c") == [{"n": 2}, None, {"n": 1}, {"n": 2}]
        assert await kv.get_many([], collection="c") == []
        assert await kv.delete_many(["k0", "k1", "no", "k1"], collection="c") == 2
        assert await kv.delete_many(["k0", "k1"], collection="c") == 0
        assert await kv.get_many(keys[:3], collection="c") == [None, None, {"n": 2}]
        assert await kv.delete("k2", collection="c")
        assert await kv.delete_many(keys, collection="c") == 7
        with pytest.raises(ValueError, match="different number"):
            await kv.put_many(["a"], [], collection="c")


@pytest.mark.parametrize(
    "value",
    [
        {"null": None, "true": True, "false": False, "1": "1", "1.0": "1.0", "null_text": "null"},
        {"nulls": [None, None], "bools": [True, False], "nested": {"a": {"b": {"c": {"d": [{"e": None}]}}}}},
        {"int": 1, "negative": -42, "large": 10**18, "float": 1.0, "long float": 12345678901.2345},
        {"text": "", "long": "a" * 10_000, "words": "Hello 世界 🌍 émojis", "controls": "a\nb\tc\0d"},
        {"12345678-1234-5678-1234-567812345678": "12345678-1234-5678-1234-567812345678", "aGVsbG8=": "aGVsbG8="},
        {"list": list(range(1000)), "rows": [{"id": 1, "name": "x"}] * 1000},
        {},
    ],
    ids=["constants", "nested", "numbers", "texts", "texts like other types", "long", "empty"],
)
@in_loop
async def test_values_come_back_as_they_were(server_url: str, user: str, value: dict[str, Any]) -> None:
    async with opened(server_url, user) as kv:
        await kv.put("a", value, collection="c")
        assert await kv.get("a", collection="c") == value
        assert json.dumps(await kv.get("a", collection="c")) == json.dumps(value)


@pytest.mark.parametrize(
    "unfit",
    [
        datetime(2025, 1, 1, tzinfo=UTC),
        date(2025, 1, 1),
        time(1),
        uuid.UUID(int=1),
        b"x",
        {1},
        AnyHttpUrl("https://x.test"),
    ],
    ids=lambda value: type(value).__name__,
)
@in_loop
async def test_values_that_json_cannot_represent_are_refused(server_url: str, user: str, unfit: object) -> None:
    async with opened(server_url, user) as kv:
        with pytest.raises(SerializationError, match="value"):
            await kv.put("a", {"x": unfit}, collection="c")
        with pytest.raises(SerializationError):
            await kv.put_many(["b", "a"], [{"fine": 1}, {"x": unfit}], collection="c")
        assert await kv.keys("c") == []


@in_loop
async def test_a_ttl_is_kept_by_the_server(server_url: str, user: str, store: DataStore) -> None:
    async with opened(server_url, user) as kv:
        await kv.put("a", {"n": 1}, collection="c", ttl=100)
        await kv.put_many(["b", "gone"], [{"n": 2}, {"n": 3}], collection="c", ttl=50.5)
        await kv.put("c", {"n": 3}, collection="c")
        value, ttl = await kv.ttl("a", collection="c")
        assert value == {"n": 1}
        assert ttl is not None
        assert 90 < ttl <= 100.1
        (_, second), (_, none) = await kv.ttl_many(["b", "c"], collection="c")
        assert second is not None
        assert 40 < second <= 50.6
        assert none is None
        store.use_namespace("c").expire("gone", 0.001)
        while "gone" in await kv.keys("c"):
            await asyncio.sleep(0.001)
        assert await kv.get("gone", collection="c") is None
        await kv.put("a", {"n": 4}, collection="c")
        assert await kv.ttl("a", collection="c") == ({"n": 4}, None)


@in_loop
async def test_the_clock_here_does_not_decide_what_has_expired(
    server_url: str, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(server_url, user) as kv:
        await kv.put("a", {"n": 1}, collection="c", ttl=100)
        ahead = datetime.now(UTC) + timedelta(hours=1)
        monkeypatch.setattr("key_value.aio._utils.managed_entry.now", lambda: ahead)
        monkeypatch.setattr("key_value.aio._utils.time_to_live.now", lambda: ahead)
        assert await kv.get("a", collection="c") == {"n": 1}
        assert await kv.ttl("a", collection="c") == ({"n": 1}, 0.0)


@pytest.mark.parametrize("ttl", [0, -100, True])
@in_loop
async def test_a_ttl_that_is_no_time_is_refused(server_url: str, user: str, ttl: Any) -> None:
    async with opened(server_url, user) as kv:
        with pytest.raises(InvalidTTLError):
            await kv.put("a", {"n": 1}, collection="c", ttl=ttl)
        with pytest.raises(InvalidTTLError):
            await kv.put_many(["a"], [{"n": 1}], collection="c", ttl=ttl)
        assert await kv.collections() == []


@pytest.mark.parametrize(
    "name", ["test_collection" * 100, "name!@#$%^&*()", *HOSTILE], ids=lambda name: ascii(name)[:20]
)
@in_loop
async def test_any_name_is_a_key_and_a_collection(server_url: str, user: str, name: str) -> None:
    async with opened(server_url, user) as kv, opened(server_url, f"{user}-2") as other:
        collection = name or "default_collection"  # no name is the default one, as everywhere in py-key-value
        await kv.put(name, {"its": "value"}, collection=name)
        await kv.put("plain", {"n": 1}, collection="other")
        assert await kv.get(name, collection=name) == {"its": "value"}
        assert await kv.get_many(["plain", name], collection=name) == [None, {"its": "value"}]
        assert await other.get(name, collection=name) is None
        assert await other.collections() == []
        if name != "\ud800":
            assert await kv.keys(name) == [name]
            assert sorted(await kv.collections()) == sorted([collection, "other"])
        assert await other.destroy_collection(collection) is False
        assert await kv.delete(name, collection=name)
        assert await kv.keys("other") == ["plain"]


@in_loop
async def test_hostile_names_do_not_collide(server_url: str, user: str) -> None:
    names = [*HOSTILE, "y" * 70_000, "y" * 70_001]
    async with opened(server_url, user) as kv:
        await kv.put_many(names, [{"n": number} for number in range(len(names))], collection="z" * 3000)
        assert await kv.get_many(names, collection="z" * 3000) == [{"n": number} for number in range(len(names))]
        assert set(HOSTILE) - {"\ud800"} <= set(await kv.keys("z" * 3000))
        assert await kv.collections() == ["z" * 3000]
        for number, name in enumerate(names):
            await kv.put("k", {"n": number}, collection=name or None)
        assert len(await kv.collections()) == len(names) + 1
        assert await kv.destroy_collection("z" * 3000)
        assert [await kv.get("k", collection=name or None) for name in names] == [
            {"n": number} for number in range(len(names))
        ]


@in_loop
async def test_keys_and_collections_up_to_a_limit(server_url: str, user: str) -> None:
    async with opened(server_url, user) as kv:
        for collection in ("c", "d", "e"):
            await kv.put_many(["x", "y", "z"], [{}] * 3, collection=collection)
        assert await kv.keys("c") == ["x", "y", "z"]
        assert await kv.keys("c", limit=2) == ["x", "y"]
        assert await kv.collections(limit=2) == ["c", "d"]
        assert await kv.keys("c", limit=0) == await kv.collections(limit=-1) == []
        assert await kv.destroy_collection("c") is True
        assert await kv.collections() == ["d", "e"]


@in_loop
async def test_concurrent_workers(server_url: str, user: str) -> None:
    async with opened(server_url, user) as kv:

        async def work(worker: int) -> None:
            for turn in range(5):
                key = f"{worker}-{turn}"
                for value in ({"n": turn}, {"n": -turn}):
                    await kv.put(key, value, collection="c")
                    assert await kv.get(key, collection="c") == value
                assert await kv.delete(key, collection="c")
                assert await kv.get(key, collection="c") is None

        await asyncio.gather(*(work(worker) for worker in range(3)))
        assert await kv.keys("c") == []


@in_loop
async def test_values_are_those_of_the_data_store(server_url: str, user: str, store: DataStore) -> None:
    async with opened(server_url, user, agent="server") as kv:
        await kv.put("a", {"n": 1}, collection="c")
        assert store.use_namespace("c").get("a") == {"n": 1}
        assert store.use_namespace("c").info("a").updated_by == "server"
        store.use_namespace("c").set("list", [1])
        with pytest.raises(DeserializationError, match="no object: delete it"):
            await kv.get("list", collection="c")
        with pytest.raises(DeserializationError, match="no object"):
            await kv.ttl_many(["a", "list"], collection="c")


@in_loop
async def test_a_value_over_the_limit_is_too_large_and_an_outage_is_retried(server_url: str, user: str) -> None:
    async with opened(server_url, user, max_value_bytes=1000) as kv:
        with pytest.raises(ValueTooLargeError, match="max_size: 1000"):
            await kv.put("a", {"text": "x" * 2000}, collection="c")
    async with opened("redis://127.0.0.1:1", user) as kv:
        tries = 0
        get = kv.get

        async def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal tries
            tries += 1
            return await get(*arguments, **named)

        kv.get = counted  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            await RetryWrapper(kv, max_retries=1, initial_delay=0.001).get("a")
        assert tries == 2


@in_loop
async def test_closes_what_it_has_opened_and_nothing_else(server_url: str, user: str) -> None:
    own = KeyValueStore(server_url, user=user, default_collection="mine", seed={"mine": {"a": {"n": 1}}})
    async with own:
        assert await own.get("a") == {"n": 1}
    with pytest.raises(StoreClosed):
        await own.get("a")
    async with connect_async(server_url, user=user) as store:
        async with KeyValueStore(store) as kv:
            assert await kv.get("a", collection="mine") == {"n": 1}
        assert await store.use_namespace("mine").get("a") == {"n": 1}


@pytest.mark.parametrize("wrong", [{}, {"store": 1, "user": "alice"}, {"store": "redis://x"}])
def test_says_what_it_needs(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidType, match="DataStore"):
        KeyValueStore(**wrong)


@in_loop
async def test_a_batch_is_one_command_and_so_cannot_be_half_written(server_url: str, user: str) -> None:
    keys, values = [f"k{n}" for n in range(10)], [{"n": n} for n in range(10)]
    async with opened(server_url, user) as kv:

        async def use_each() -> None:
            await kv.put_many(keys, values, collection="c", ttl=60)
            await kv.get_many(keys, collection="c")
            await kv.ttl_many(keys, collection="c")
            await kv.delete_many(keys, collection="c")

        await use_each()  # the server gets to know the scripts
        with counted_requests(server_url) as requests:
            await use_each()
            assert requests() == 4


@in_loop
async def test_wrappers_and_adapters_of_the_framework(server_url: str, user: str) -> None:
    class Point(BaseModel):
        x: int
        at: datetime

    async with opened(server_url, user) as kv:
        points = PydanticAdapter[Point](
            key_value=PrefixCollectionsWrapper(kv, prefix="app"), pydantic_model=Point, default_collection="points"
        )
        point = Point(x=1, at=datetime(2025, 1, 1, tzinfo=UTC))
        await points.put("a", point)
        assert await points.get("a") == point
        assert await kv.keys("app__points") == ["a"]


@in_loop
async def test_a_fastmcp_server_keeps_its_sessions_and_its_cache_in_it(server_url: str, user: str) -> None:
    calls = 0
    async with opened(server_url, user) as kv:
        server: FastMCP = FastMCP("test", session_state_store=kv)
        server.add_middleware(ResponseCachingMiddleware(cache_storage=kv))

        @server.tool
        async def slow(n: int, context: Context) -> int:
            nonlocal calls
            calls += 1
            await context.set_state("last", n)
            return n * 2

        async with Client(server) as client:
            assert (await client.call_tool("slow", {"n": 4})).data == 8
            assert (await client.call_tool("slow", {"n": 4})).data == 8
        assert calls == 1
        states = [name for name in await kv.collections() if "state" in name]
        assert states
        assert [await kv.get(key, collection=states[0]) for key in await kv.keys(states[0])] == [{"value": 4}]


@in_loop
async def test_pydocket_keeps_results_in_it(server_url: str, user: str) -> None:
    async def double(n: int) -> int:
        return n * 2

    async with opened(server_url, user) as kv, Docket(name=user, url=server_url, result_storage=kv) as docket:
        execution = await docket.add(double)(21)
        async with Worker(docket) as worker:
            await worker.run_until_finished()
        assert await execution.get_result() == 42
        assert len(await kv.collections()) == 1


def test_the_page(server_url: str) -> None:
    read_page("py-key-value.md", server_url)
