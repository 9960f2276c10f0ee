"""`python -m benchmarks.langgraph`: LangGraph's node cache beside its own one for Redis, and the search by meaning.

Round trips are counted by the server, which reads a small request at once. Needs the packages of the extra `integrations`.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import redis
from langgraph.cache.redis import RedisCache
from langgraph.store.base import PutOp

from benchmarks.server import programs, running_server
from redis_store import connect
from redis_store.integrations.langgraph import LangGraphCache, LangGraphStore

ROUNDS, NODES, DIMS = 300, 10, 1536
RESULT = {"messages": [{"role": "user", "content": "What is the weather in Oslo? " * 10}]}


def cache(url: str) -> None:
    """Print the table of the node cache."""
    keys = [(("__pregel_cache", f"node {number}"), "k") for number in range(NODES)]
    with connect(url, user="bench") as store, redis.Redis.from_url(url) as client:
        client.mset({f"other:{number}": "x" for number in range(10_000)})
        sides: dict[str, Any] = {"RedisCache": RedisCache(client), "LangGraphCache": LangGraphCache(store)}
        print(f"| call | {': round trips, µs | '.join(sides)}: round trips, µs |\n|---|---|---|")
        for what, call in {
            "set": lambda side: side.set({keys[0]: (RESULT, 60)}),
            "get": lambda side: side.get(keys[:1]),
            f"set, {NODES} nodes": lambda side: side.set(dict.fromkeys(keys, (RESULT, 60))),
            f"get, {NODES} nodes": lambda side: side.get(keys),
            "clear of one node, 10,000 other keys": lambda side: side.clear([keys[0][0]]),
        }.items():
            cells = [f"{trips}, {median_us:.0f}" for trips, median_us in _figures(client, sides, call)]
            print(f"| {what} | {' | '.join(cells)} |")


def _figures(client: Any, sides: dict[str, Any], call: Callable[[Any], object]) -> list[tuple[int, float]]:
    def reads() -> int:
        return int(client.info("stats")["total_reads_processed"])

    trips, times = {}, {}
    for name, side in sides.items():
        call(side)
        before = reads()
        call(side)
        trips[name], times[name] = reads() - before - 1, []
    for _ in range(ROUNDS):
        for name, side in sides.items():
            begin = perf_counter()
            call(side)
            times[name].append((perf_counter() - begin) * 1e6)
    return [(trips[name], statistics.median(times[name])) for name in sides]


def search(url: str) -> None:
    """Print the table of the search by meaning."""
    rand = random.Random(1)

    def embed(texts: list[str]) -> list[list[float]]:
        return [[rand.gauss(0, 1) for _ in range(DIMS)] for _ in texts]

    print(f"| items of {DIMS:,} dimensions | read from the server | with the near cache |\n|---|---|---|")
    for count in (100, 1000):
        cells = []
        for near in (False, True):
            with connect(url, user=f"bench {count}", near_cache=near) as data_store, redis.Redis.from_url(url) as raw:
                store = LangGraphStore(data_store, embed=embed)
                if not near:
                    items = range(count)
                    store.batch([PutOp(("memories",), str(number), {"text": f"memory {number}"}) for number in items])
                for _ in range(3):
                    store.search(("memories",), query="x")
                times = []
                before = int(raw.info("stats")["total_net_output_bytes"])
                for _ in range(10):
                    begin = perf_counter()
                    store.search(("memories",), query="x")
                    times.append((perf_counter() - begin) * 1e3)
                sent = int(raw.info("stats")["total_net_output_bytes"]) - before
                cells.append(f"{statistics.median(times):.1f} ms, {sent / 10e3:,.0f} KB")
        print(f"| {count:,} | {' | '.join(cells)} |")


def main() -> int:
    """Print both tables. Return 0."""
    with running_server(list(programs().values())[-1]) as server:
        cache(server.url)
        print()
        search(server.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
