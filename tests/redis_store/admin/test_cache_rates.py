"""Hit rates of namespaces: what the processes report, and what operators see."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable

import redis

from redis_store import AsyncClient, Client
from redis_store.admin import Admin, AsyncAdmin, CacheRate
from redis_store.clients.sync import core_of
from redis_store.stats import MOST_COUNTED, REPORTED_HITS, HitCounts
from tests.redis_store.admin.conftest import HARD_NAMES, Ended

OTHER_PROCESS = """
import sys
from redis_store import connect
with connect(sys.argv[1], user="alice", namespace="c") as store:
    for _ in range(3):
        store.get_or_set("k", lambda: 1 / 0)
    store.get_or_set("other", lambda: 2)
"""


def test_processes_report_hits_with_their_next_computation(
    url: str, client: Client, admin: Admin, run: Callable[..., Ended], raw: redis.Redis
) -> None:
    for _ in range(6):
        assert client.store(user="alice", namespace="c").get_or_set("k", lambda: 1) == 1
    assert admin.list_cache_rates() == [CacheRate("alice", "c", 0, 1)]
    subprocess.run([sys.executable, "-c", OTHER_PROCESS, url], check=True, timeout=30)
    client.store(user="bob", namespace="c").get_or_set("k", lambda: 1)
    client.store(user="alice", namespace="c").get_or_set("k2", lambda: 1, ttl=100, stale=100)
    client.store(user="alice", namespace="c").get_or_set("k2", lambda: 1, ttl=100, stale=100)
    client.store(user="alice", namespace="c").get_or_set("k3", lambda: 1)
    alice, bob = CacheRate("alice", "c", 9, 4), CacheRate("bob", "c", 0, 1)
    assert admin.list_cache_rates() == [alice, bob]
    assert admin.list_cache_rates("alice") == [alice]
    assert (alice.rate, bob.rate) == (9 / 13, 0.0)
    shown = run("cache", "-u", "alice")
    assert shown.out.split() == ["USER", "NAMESPACE", "HITS", "COMPUTATIONS", "RATE", "alice", "c", "9", "4", "69.2%"]
    (record,) = run("cache", "-u", "alice", "--json").records
    assert record == {"user": "alice", "namespace": "c", "hits": 9, "computations": 4, "rate": 9 / 13}
    day_ms = 86_400_000
    (counts,) = raw.keys("user:alice:computed:*")
    assert day_ms < raw.pttl(counts) <= 2 * day_ms


def test_a_process_that_only_hits_reports_too(url: str, client: Client, admin: Admin) -> None:
    client.store(user="alice", namespace="c").set("k", 1)
    with Client(url, near_cache=True) as near:
        for _ in range(REPORTED_HITS):
            assert near.store(user="alice", namespace="c").get_or_set("k", lambda: 2) == 1
    assert admin.list_cache_rates() == [CacheRate("alice", "c", REPORTED_HITS, 0)]

    async def hit() -> list[CacheRate]:
        async with AsyncClient(url, near_cache=True) as other, AsyncAdmin(other, operator="x") as same:

            @other.store(user="alice", namespace="c").cached(key="k")
            async def two() -> int:
                return 2

            for _ in range(REPORTED_HITS):
                assert await two() == 1
            return await same.list_cache_rates()

    assert asyncio.run(hit()) == [CacheRate("alice", "c", 2 * REPORTED_HITS, 0)]


def test_stale_hits_are_reported_too(client: Client, admin: Admin) -> None:
    store = client.store(user="alice", namespace="c")
    store.get_or_set("k", lambda: 1, ttl=100, stale=50)
    core_of(client).hits[b"user:alice:ns:c"] = REPORTED_HITS - 1
    store.get_or_set("k", lambda: 1, ttl=100, stale=50)  # asks with a claim, not with a look
    assert admin.list_cache_rates() == [CacheRate("alice", "c", REPORTED_HITS, 1)]
    assert core_of(client).hits == {}


def test_names_of_namespaces_are_data(client: Client, admin: Admin, run: Callable[..., Ended]) -> None:
    for name in HARD_NAMES:
        client.store(user="a\nb", namespace=name).get_or_set("k", lambda: 1)
    assert admin.list_cache_rates() == [CacheRate("a\nb", name, 0, 1) for name in sorted(HARD_NAMES)]
    told = run("cache", "--json").records
    assert [one["namespace"] for one in told] == sorted(HARD_NAMES)


def test_a_count_that_fails_is_no_error_of_the_caller(client: Client, admin: Admin, raw: redis.Redis) -> None:
    for day in (0, 1):
        raw.set(f"user:alice:computed:{day}", "no hash")
    store = client.store(user="alice", namespace="c")
    assert store.get_or_set("k", lambda: 1) == 1
    hits = core_of(client).hits
    hits[b"user:alice:ns:c"] = REPORTED_HITS - 1
    assert store.get_or_set("k", lambda: 2) == 1
    assert hits == {}
    assert admin.list_cache_rates() == []


def test_the_counts_of_a_user_are_bounded(client: Client, admin: Admin, raw: redis.Redis) -> None:
    store = client.store(user="alice", namespace="c")
    store.get_or_set("k", lambda: 1)
    (counts,) = raw.keys("user:alice:computed:*")
    raw.hset(counts, mapping={f"{kind}n{number}": 1 for number in range(1999) for kind in "hc"})
    store.use_namespace("beyond").get_or_set("k", lambda: 1)
    store.get_or_set("k2", lambda: 1)
    assert raw.hlen(counts) == 4000
    assert admin.list_cache_rates()[0] == CacheRate("alice", "c", 0, 2)
    many = HitCounts()
    for number in range(MOST_COUNTED + 5):
        many[b"%d" % number] += 1
    assert len(many) == 5
