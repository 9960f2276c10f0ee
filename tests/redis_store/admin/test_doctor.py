"""What the doctor finds, and what it mends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import redis

from redis_store import Client
from redis_store.admin import Admin, AsyncAdmin
from tests.redis_store.admin.conftest import HARD_NAMES, Ended

DATA_CHECKS = {"registry", "info", "values", "forms", "locks", "format", "type"}


def test_sound_data_is_not_complained_of(admin: Admin, client: Client) -> None:
    for name in HARD_NAMES:
        client.store(user="alice", namespace=name).set_many({"a": 1, "b": "x" * 1000})
    with client.store(user="alice").lock("l"):
        assert {one.check for one in admin.doctor()} & DATA_CHECKS == set()


def test_what_is_inconsistent_is_found_and_mended(raw: redis.Redis, client: Client, run: Callable[..., Ended]) -> None:
    hard = HARD_NAMES[0]
    store = client.store(user="alice", namespace=hard)
    store.set("ok", 1)
    raw.srem("user:alice:namespaces", hard)
    raw.hset("user:alice:info:gone", "k", '{"created":1}')
    raw.hset(f"user:alice:ns:{hard}", "bad", "20 apples")
    raw.set("user:alice:lock:stuck", "{}")
    raw.set("user:bob:format", '{"format":7,"read_since":"3.2.1"}')
    raw.set("user:bob:ns:default", "text")
    raw.sadd("user:carol:namespaces", "a")
    raw.sadd("user:{carol}:namespaces", "a")
    found = run("doctor", "--json", code=1).records
    by_check = {one["check"]: one for one in found}
    assert set(by_check) >= DATA_CHECKS
    assert (by_check["registry"]["namespace"], by_check["values"]["key"]) == (hard, "bad")
    assert all(one["means"] and one["mend"] for one in found)
    mended = [one for one in run("doctor", "--repair", "--json", code=1).records if one["mended"]]
    assert {one["check"] for one in mended} == {"registry", "info"}
    assert client.store(user="alice").list_namespaces() == [hard]
    assert not raw.exists("user:alice:info:gone")
    assert store.get("ok") == 1
    assert raw.hget(f"user:alice:ns:{hard}", "bad") == b"20 apples"
    assert {one["check"] for one in run("doctor", "--json", code=1).records} & {"registry", "info"} == set()


def test_settings_are_checked(url: str) -> None:
    async def main() -> set[str]:
        async with AsyncAdmin(url) as admin:
            return {one.check for one in await admin.doctor()}

    assert "persistence" in asyncio.run(main())  # the server of the tests saves nothing
