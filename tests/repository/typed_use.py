"""Uses of the public API for a type checker. This module is never run; `test_typing` checks it with mypy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict, assert_type

import pydantic

import redis_store
import sandbox
from redis_store import MISSING, NEVER, AsyncDataStore, Change, DataStore, Json, KeyInfo, LockTimeout, StoreStats
from redis_store.admin import Admin, AsyncAdmin, RetryOutcome, SearchHit, UserUsage

if TYPE_CHECKING:
    from sandbox.agent import agents, data_store


@dataclass
class Point:
    x: int


class Row(TypedDict):
    name: str


class Model(pydantic.BaseModel):
    count: int


def blocking(store: DataStore) -> None:
    lines: dict[str, int] = {"a": 1}
    rows: list[dict[str, str]] = [{"a": "b"}]
    store.set("key", rows, metadata=lines, ttl=timedelta(minutes=1))
    store.set_many(lines, ttl=NEVER)
    store.update({"a": 1}, b=2)
    assert_type(store.info("key"), KeyInfo | None)
    assert_type(store.compare_and_set("key", MISSING, 1), bool)
    assert_type(store.transact(lambda transaction: len(transaction.get("key"))), int)
    assert_type(store.stats(), StoreStats)
    for change in store.watch():
        assert_type(change, Change)
    with store.lock("name", ttl=timedelta(seconds=3)) as lock:
        assert_type(lock.fence, int)

    @store.cached(ttl=60, tags=["repo:{repo}"])
    def count(repo: str, path: str = "README.md") -> dict[str, int]:
        return {}

    assert_type(count("x", path="y"), dict[str, int])
    assert_type(count.cache_key("x"), str)
    assert_type(count.invalidate(repo="x"), bool)
    assert_type(count.invalidate_all(), int)
    count(5)  # type: ignore[arg-type]
    store.set("key", {1, 2})  # type: ignore[arg-type]

    class Repository:
        @store.cached(key="{path}")
        def read(self, path: str) -> bytes:
            return b""

    assert_type(Repository().read("x"), bytes)
    assert_type(Repository.read.invalidate(Repository(), "x"), bool)
    Repository().read(5)  # type: ignore[arg-type]


async def awaited(store: AsyncDataStore) -> None:
    @store.cached()
    async def waits(number: int) -> str:
        return ""

    @store.cached()
    def plain(number: int) -> str:
        return ""

    @store.cached
    async def bare(a: int) -> str:
        return str(a)

    assert_type(await bare(1), str)
    assert_type(await waits(1), str)
    assert_type(await plain(1), str)
    assert_type(await waits.invalidate(1), bool)
    await waits("x")  # type: ignore[arg-type]

    class Repository:
        @store.cached(key="{path}")
        async def read(self, path: str) -> bytes:
            return b""

    assert_type(await Repository().read("x"), bytes)

    async def grow(value: Json) -> list[Any]:
        return [value]

    await store.update("key", grow)
    store.set("key", 1)  # type: ignore[unused-coroutine]


def returned(store: DataStore, async_store: AsyncDataStore) -> None:
    assert_type(store.increment("n"), int | float)
    assert_type(store.lock("l"), redis_store.Lock)
    assert_type(store.semaphore("s", 2), redis_store.Semaphore)
    assert_type(store.rate_limit("r", 2, 1), redis_store.RateLimit)
    assert_type(store.transaction(), redis_store.Transaction)
    assert_type(store.watch(), redis_store.Watch)
    assert_type(async_store.lock("l"), redis_store.AsyncLock)
    assert_type(async_store.semaphore("s", 2), redis_store.AsyncSemaphore)
    assert_type(async_store.rate_limit("r", 2, 1), redis_store.AsyncRateLimit)
    assert_type(async_store.transaction(), redis_store.AsyncTransaction)
    assert_type(async_store.watch(), redis_store.AsyncWatch)
    assert_type(store.cached(str_of)(1), str)
    store.no_such_method()  # type: ignore[attr-defined]
    decorate: redis_store.CacheDecorator = store.cached()
    count: redis_store.CachedFunction[[int], str] = decorate(str_of)
    assert_type(count(1), str)
    missing: redis_store.Missing = MISSING
    assert_type((redis_store.__version__, sandbox.__version__), tuple[str, str])
    store.compare_and_set("key", missing, 1)


def operators(admin: Admin) -> None:
    assert_type(admin.list_users(), list[UserUsage])
    assert_type(next(admin.search("text")), SearchHit)
    assert_type(admin.retry_dead_letter("u", "c", "l"), RetryOutcome)


async def operators_awaited(admin: AsyncAdmin) -> None:
    assert_type(await admin.list_users(by="memory"), list[UserUsage])
    async for hit in admin.search("text"):
        assert_type(hit, SearchHit)
    assert_type(admin.store("u"), AsyncDataStore)


def str_of(number: int) -> str:
    return str(number)


def as_types(store: DataStore) -> None:
    assert_type(store.get("key", as_type=Point), Point | None)
    assert_type(store.get("key", None, as_type=Row), Row | None)
    assert_type(store.get("key", Model(count=0), as_type=Model), Model)
    assert_type(store.get("key", "absent", as_type=list[Point]), list[Point] | str)
    assert_type(store.get_many(["key"], as_type=Point), dict[str, Point])
    assert_type(store.get("key", 7), Json)
    store.get("key", as_type=Point(1))  # type: ignore[call-overload]


async def as_types_awaited(store: AsyncDataStore) -> None:
    assert_type(await store.increment("n", 0.5), int | float)
    assert_type(await store.get("key", as_type=Point), Point | None)
    assert_type(await store.get("key", [], as_type=list[Model]), list[Model])
    assert_type(await store.get_many(["key"], as_type=Row), dict[str, Row])


async def agent(tools: dict[str, Any]) -> dict[str, Any]:
    assert_type(data_store.list_keys(), list[str])
    assert_type(data_store.get("key", as_type=Point), Point | None)
    data_store.gett("key")  # type: ignore[attr-defined]
    return await agents.call("other", {"tools": list(tools)})


def caught(error: Exception) -> None:
    if isinstance(error, LockTimeout):
        assert_type(error.retry_after_ms, int | None)
    if isinstance(error, redis_store.WrongValueType):
        assert_type(error.key, str)
    if isinstance(error, sandbox.AgentRaised):
        assert_type(error, sandbox.AgentRaised)
