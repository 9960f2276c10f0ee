"""Attacks that fill the server beyond the limits: with names that nobody counts, with reads, and beside a quota."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

import sandbox
from redis_store import DataStore
from redis_store.brokers.usage import stored_bytes
from sandbox import Limits, Permissions, Sandbox

from .corpus import NO_CONTROL_NEEDED, Attack

QUOTA = 100_000
LIMIT = 50_000

NAMES = Attack(
    "long names of namespaces, with next to no data",
    """
    for n in range(1000):
        data_store.use_namespace(f"q{n}" + "n" * 1000).set("k", 1)
    """,
    NO_CONTROL_NEEDED,
)

READS = Attack(
    "watches of names that never existed, with consumers and without",
    """
    import hashlib
    def since(name):
        tag = hashlib.blake2b(f"user:{world['user']}:ns:{name}".encode(), digest_size=6).hexdigest()
        return f"1.{tag}.reset"
    for turn in range(20):
        for n in range(5):
            data_store.use_namespace(f"n{turn}-{n}").watch(consumer=f"c{turn}-{n}" if n % 2 else None).close()
        try:
            data_store.watch_all(f"n{turn}-", since={f"n{turn}-{n}": since(f"n{turn}-{n}") for n in range(1000)})
        except ValueError:
            pass  # a cursor is more than that
    """,
    NO_CONTROL_NEEDED,
)

CURSORS = Attack(
    "consumers that each keep a cursor in every namespace of the host",
    """
    for n in range(1000):
        data_store.watch_all(consumer=f"c{n}").close()
    """,
    NO_CONTROL_NEEDED,
)

LONGER_THAN_SENT = Attack(
    "metadata and tags that are stored longer than they are sent, and claims that copy them",
    """
    token, send = "token-of-a-claim", data_store.use_namespace("q")._operations.send
    metadata = b'{"a":[' + b",".join([b"1e15"] * 3000) + b"]}"
    for n in range(1000):
        send("set", f"m{n}", b"1", metadata, None)
        send("claim_value", f"t{n}", token, None, None, 30, 0)
        send("commit_value", f"t{n}", token, b"1", None, None, *(f"{n}-{m}" + "\\x01" * 1000 for m in range(30)))
    """,
    NO_CONTROL_NEEDED,
)

TURNS = Attack(
    "a quota passed by overwriting, deleting and beginning again, and by tiny values",
    """
    from redis_store.errors import LimitExceeded
    for turn in range(3):
        for n in range(60):
            try:
                with data_store.transaction() as t:
                    for m in range(20):
                        t.use_namespace(f"q{turn}-{n}-{m}").set("k", 1)
                data_store.use_namespace("q").set_many({f"{turn}-{n}-{m}": 1 for m in range(50)})
                data_store.use_namespace("q").set(f"{turn}", "x" * 1000 * n)
            except LimitExceeded:
                data_store.use_namespace("q").delete(f"{turn}")
    """,
    NO_CONTROL_NEEDED,
)

BESIDE = Attack(
    "a quota passed by what is stored beside the data: tags, failures, locks, limits, logs, consumers, and long names of all",
    """
    from redis_store.errors import DataStoreError, LimitExceeded
    q, long, held = data_store.use_namespace("q"), "n" * 900, []

    def fails():
        raise ValueError("\\x01" * 1000)

    def tag(n):
        q.get_or_set(f"{n}{long}", lambda: 1, tags=[f"{n}-{m}" for m in range(50)])
        q.delete(f"{n}{long}")

    def fail(n):
        try:
            data_store.use_namespace(f"q{n}{long}").get_or_set("k", fails)
        except ValueError:
            pass

    def lock(n):
        held.append(data_store.lock(f"{n}{long}", ttl=3600).__enter__())

    def limit(n):
        data_store.semaphore(f"{n}{long}", 1).__enter__()
        data_store.rate_limit(f"{n}{long}", 1, per=80_000).__enter__()

    def log(n):
        cleared = data_store.use_namespace(f"q{n}")
        with cleared.watch():
            cleared.set("k" * 20_000, 1)
            cleared.clear()

    def watch(n):
        data_store.use_namespace(f"none{n}").watch(consumer=f"c{n}").close()

    refused = dict.fromkeys((tag, fail, lock, limit, log, watch), 0)
    for n in range(100):
        for call in refused:
            try:
                if refused[call] < 2:
                    call(n)
            except LimitExceeded:
                refused[call] += 1
            except DataStoreError:
                pass
    """,
    NO_CONTROL_NEEDED,
)


AT_ONCE = 6

TOGETHER = """
import time
from redis_store.errors import LimitExceeded

def run(given):
    q = data_store.use_namespace("q")
    q.increment("ready")
    while q.get("ready") < given["of"]:
        time.sleep(0.001)
    try:
        for n in range(1000):
            q.set(f"{given['turn']}-{n}", "x" * 2000)
    except LimitExceeded as error:
        return {"refused": error.limit}
"""
"""An agent that passes its quota together with other runs of it, which all have an estimate before any of them writes."""


def memory(url: str) -> int:
    with redis.Redis.from_url(url) as raw:
        return int(raw.info("memory")["used_memory"])


@pytest.mark.parametrize("attack", [NAMES, READS], ids=["names", "reads"])
def test_names_and_reads_fill_no_more_than_the_limit(strike: Any, server_url: str, attack: Attack) -> None:
    before = memory(server_url)
    permissions = Permissions(read=["*"], write=["q*"] if attack is NAMES else [])
    result = strike(attack, permissions, limits=Limits(bytes_written=LIMIT))
    assert isinstance(result.error, sandbox.WriteLimitExceeded)
    assert memory(server_url) - before < 1_000_000, "the server, its connections and scripts"


def test_cursors_of_consumers_are_counted(strike: Any, store: DataStore, user: str, server_url: str) -> None:
    for n in range(4):
        store.use_namespace(f"h{n}" + "n" * 1000).set("k", 1)
    result = strike(CURSORS, Permissions(read=["*"], write=[]), limits=Limits(bytes_written=LIMIT + 4 * 12_000))
    assert isinstance(result.error, sandbox.WriteLimitExceeded)
    with redis.Redis.from_url(server_url) as raw:
        kept = list(raw.scan_iter(match=f"user:{user}:own:*consumer:*", count=1000))
        assert kept
        assert sum(raw.memory_usage(key, samples=0) or 0 for key in kept) < 2 * LIMIT


def test_what_is_stored_longer_than_it_is_sent_is_counted(
    strike: Any, store: DataStore, user: str, server_url: str
) -> None:
    result = strike(LONGER_THAN_SENT, Permissions(namespaces=["q"]), limits=Limits(bytes_written=10 * LIMIT))
    assert isinstance(result.error, sandbox.WriteLimitExceeded)
    with redis.Redis.from_url(server_url) as raw:
        keys = raw.scan_iter(match=f"user:{user}:*", count=1000)
        assert sum(raw.memory_usage(key, samples=0) or 0 for key in keys) < 15 * LIMIT


def test_quota_is_not_passed(strike: Any, store: DataStore) -> None:
    assert strike(TURNS, Permissions(namespaces=["q*"], quota_bytes=QUOTA)).check() == {"won": False}
    assert stored_bytes(store, lambda _: True, 10 * QUOTA) < 1.2 * QUOTA


@pytest.mark.parametrize("broker", ["thread", "process"])
def test_quota_holds_for_runs_at_once(store: DataStore, user: str, server_url: str, broker: Any) -> None:
    permissions = Permissions(namespaces=["q"], quota_bytes=QUOTA)
    with Sandbox(url=server_url, permissions=permissions, broker=broker) as box, ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(
            pool.map(lambda turn: box.run(TOGETHER, {"turn": turn, "of": AT_ONCE}, user=user), range(AT_ONCE))
        )
    assert all(result.check() == {"refused": "quota_bytes"} for result in results)
    assert stored_bytes(store, lambda _: True, 10 * QUOTA) < 1.5 * QUOTA


def test_quota_holds_for_what_is_beside_the_data(strike: Any, store: DataStore, user: str, server_url: str) -> None:
    for _ in range(2):
        assert strike(BESIDE, Permissions(read=["*"], write=["q*"], quota_bytes=QUOTA)).check() == {"won": False}
    with redis.Redis.from_url(server_url) as raw:
        keys = raw.scan_iter(match=f"user:{user}:*", count=1000)
        taken = sum(raw.memory_usage(key, samples=0) or 0 for key in keys)
    assert taken < 2 * QUOTA
