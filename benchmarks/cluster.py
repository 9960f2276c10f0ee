"""The rows on keys, on three primaries beside a single server; and what others notice of a slot that moves, and of a failover.

All nodes, the single server and the client share this machine, so the figures of the cluster are too high rather than too low.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from benchmarks.clients import connected
from benchmarks.race import race
from benchmarks.rows import all_rows
from benchmarks.server import running_server
from redis_store import Client, DataStore, DataStoreError, StoreUnavailable, connect_async
from tests.support.clusters import QUICK_MS, Cluster, slot_of, users_by_node
from tests.support.servers import wait_until

AT_MOST = 1.1
"""Aim of each row: times the single server."""

_KIND = "valkey9"
_ROUNDS, _BUDGET_S = 15, 1.0
_MOVED_USER = "moved"
_NAMESPACES = 5_000
"""Namespaces of one key in the slot that moves: two Redis keys each."""

_BEFORE_S = 2.0
_WATCHERS = 10


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """A row: one call on the cluster, and the same on a single server."""

    name: str
    ratio: float
    low: float
    high: float
    cluster_us: float
    single_us: float


@dataclass(frozen=True, slots=True)
class Observation:
    """A figure that is no ratio of two calls."""

    name: str
    at_most: str
    said: str


def cluster_rows(loop: asyncio.AbstractEventLoop, matching: str = "") -> Iterator[ClusterRow]:
    """Yield the rows on keys, each with its first shape of document. No side has replicas, which would share the cores."""
    with (
        Cluster(_KIND, replicas=0) as cluster,
        running_server() as single,
        connected(single.port, loop) as one,
        connected(single.port, loop, cluster.url) as several,
    ):
        known = set()
        # Right before each row both store its data, so the two go in step. What is written by hand is on the single server only.
        for row, other in zip(_on_keys(several), _on_keys(one), strict=True):
            if row.name in known or matching not in row.name:
                continue
            known.add(row.name)
            ours, theirs = race([row.ours, other.ours], loop, min(_ROUNDS, row.rounds), row.calls, _BUDGET_S)
            yield ClusterRow(row.name, ours.ratio, *ours.quartiles, ours.us, theirs.us)


def _on_keys(clients: Any) -> Iterator[Any]:
    return all_rows(clients, by_hand=False)


def observations() -> Iterator[Observation]:
    """Yield what others notice while a slot of 10,000 Redis keys moves, and how long a failover takes."""
    with Cluster(_KIND, node_timeout_ms=QUICK_MS) as cluster:
        yield _move(cluster)
        yield _failover(cluster)


def _move(cluster: Cluster) -> Observation:
    asyncio.run(_fill(cluster.url))
    slot = slot_of(_MOVED_USER)
    with Client(cluster.url) as client:
        stores = [client.store(user=user) for users in users_by_node(cluster).values() for user in users]
        before, errors_before = _latencies(stores, lambda started: perf_counter() - started < _BEFORE_S)
        moving = threading.Thread(target=cluster.move, args=(slot,))
        moving.start()
        began = perf_counter()
        during, errors = _latencies(stores, lambda _: moving.is_alive())
        took_s = perf_counter() - began
        moving.join()
    return Observation(
        "other users while a slot of 10,000 Redis keys moves: p99",
        "twice as before, no call fails",
        f"{_p99_ms(during) / _p99_ms(before):.2f} times: {_p99_ms(during):.2f} ms instead of {_p99_ms(before):.2f} ms;"
        f" {errors + errors_before} of {len(during) + len(before):,} calls failed; the move took {took_s:.1f} s",
    )


async def _fill(url: str) -> None:
    async with connect_async(url, user=_MOVED_USER) as store:
        for start in range(0, _NAMESPACES, 500):
            await asyncio.gather(*(store.use_namespace(f"n{n}").set("key", n) for n in range(start, start + 500)))


def _latencies(stores: list[DataStore], goes_on: Any) -> tuple[list[float], int]:
    started, times, errors = perf_counter(), [], 0
    while not times or goes_on(started):
        for store in stores:
            for call in (lambda store=store: store.set("key", 1), lambda store=store: store.get("key")):
                before = perf_counter()
                try:
                    call()
                except DataStoreError:
                    errors += 1
                times.append(perf_counter() - before)
    return times, errors


def _p99_ms(times: list[float]) -> float:
    return (statistics.quantiles(times, n=100)[98] if len(times) > 1 else times[0]) * 1000


def _failover(cluster: Cluster) -> Observation:
    (user, *_) = next(iter(users_by_node(cluster).values()))
    primary = cluster.owner_of(user)
    with Client(cluster.url) as client, ExitStack() as stack:
        store = client.store(user=user)
        watches = [stack.enter_context(store.watch(f"key-{number}")) for number in range(_WATCHERS)]
        store.set_many({f"key-{number}": 0 for number in range(_WATCHERS)})
        for watch in watches:
            watch.next_change(5)
        replica = cluster.replica_of(primary)
        killed = perf_counter()
        primary.kill()
        written: list[float] = []
        writing = threading.Thread(target=_write, args=(store, written))
        writing.start()
        wait_until(lambda: replica.info("replication")["role"] == "master", "the replica is promoted")
        promoted = perf_counter()
        writing.join()
        store.set_many({f"key-{number}": 1 for number in range(_WATCHERS)})
        heard = sum(watch.next_change(10) is not None for watch in watches)
    return Observation(
        "first write after a primary is killed",
        "1 s after the promotion",
        f"{max(0.0, written[0] - promoted):.2f} s after the promotion, which came {promoted - killed:.1f} s after the kill"
        f" (time-out of nodes: {QUICK_MS} ms); {heard} of {_WATCHERS} watchers go on or are reset",
    )


def _write(store: DataStore, written: list[float]) -> None:
    while not written:
        try:
            store.set("written", 1)
            written.append(perf_counter())
        except StoreUnavailable:
            continue
