"""Uses of the public API for a type checker. This module is never run; `test_typing` checks it with mypy."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, assert_type

import redis_store
import sandbox
from redis_store import MISSING, NEVER, AsyncDataStore, Change, DataStore, Json, KeyInfo, LockTimeout, StoreStats


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


def caught(error: Exception) -> None:
    if isinstance(error, LockTimeout):
        assert_type(error.retry_after_ms, int | None)
    if isinstance(error, redis_store.WrongValueType):
        assert_type(error.key, str)
    if isinstance(error, sandbox.AgentRaised):
        assert_type(error, sandbox.AgentRaised)
