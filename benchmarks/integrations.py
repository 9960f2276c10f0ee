"""`python -m benchmarks.integrations`: the adapters beside their frameworks' own ones for Redis, on one server.

Round trips are counted by the server, which reads a small request at once. Needs the packages of the extra `integrations`.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import redis
import redis.asyncio

from benchmarks.server import programs, running_server
from redis_store import connect_async

Call = Callable[[], Awaitable[object]]
ROUNDS, BATCH = 300, 10
MESSAGE = {"role": "user", "content": "What is the weather in Oslo? " * 10}


async def key_value(url: str) -> None:
    """Print the table of py-key-value."""
    from key_value.aio.stores.redis import RedisStore

    from redis_store.integrations.py_key_value import KeyValueStore

    keys = [f"k{number}" for number in range(BATCH)]
    async with (
        connect_async(url, user="bench") as store,
        redis.asyncio.Redis.from_url(url, decode_responses=True) as client,
    ):
        both = {"RedisStore": RedisStore(client=client), "KeyValueStore": KeyValueStore(store)}
        calls: dict[str, dict[str, Call]] = {}
        for name, kv in both.items():
            calls[name] = {
                "put": lambda kv=kv: kv.put("a", MESSAGE, collection="c"),
                "put, ttl": lambda kv=kv: kv.put("a", MESSAGE, collection="c", ttl=60),
                "get": lambda kv=kv: kv.get("a", collection="c"),
                "ttl": lambda kv=kv: kv.ttl("a", collection="c"),
                f"put_many of {BATCH}, ttl": lambda kv=kv: kv.put_many(keys, [MESSAGE] * BATCH, collection="c", ttl=60),
                f"get_many of {BATCH}": lambda kv=kv: kv.get_many(keys, collection="c"),
                f"ttl_many of {BATCH}": lambda kv=kv: kv.ttl_many(keys, collection="c"),
                f"keys, {BATCH + 1} of 10,000 on the server": lambda kv=kv: kv.keys("c"),
                f"delete_many of {BATCH}": lambda kv=kv: kv.delete_many(keys, collection="c"),
            }
        fill(url)
        await print_table(url, calls)


async def openai_agents(url: str) -> None:
    """Print the table of the OpenAI Agents SDK."""
    from agents.extensions.memory import RedisSession

    from redis_store.integrations.openai_agents import ConversationSession

    fill(url)
    async with connect_async(url, user="bench") as store, redis.asyncio.Redis.from_url(url) as client:
        both = {
            "RedisSession": lambda name, ttl: RedisSession(name, redis_client=client, ttl=ttl),
            "ConversationSession": lambda name, ttl: ConversationSession(name, store, ttl=ttl),
        }
        calls: dict[str, dict[str, Call]] = {}
        for side, open_session in both.items():
            long, short, new, popped = (open_session(name, None) for name in ("long", "short", "new", "popped"))
            living = open_session("living", 60)
            await long.add_items([MESSAGE] * 1000)
            await short.add_items([MESSAGE] * 20)
            await living.add_items([MESSAGE] * 20)
            await popped.add_items([MESSAGE] * 1000)

            async def turn(session: Any = living) -> None:
                await session.add_items([MESSAGE])
                await session.pop_item()

            async def begin(session: Any = new) -> None:
                await session.add_items([MESSAGE] * 5)
                await session.clear_session()

            calls[side] = {
                "add_items, 5, and clear_session": begin,
                "get_items, of 20": lambda session=short: session.get_items(),
                "get_items, the last 50 of 1,000": lambda session=long: session.get_items(50),
                "get_items, of 1,000": lambda session=long: session.get_items(),
                "pop_item": lambda session=popped: session.pop_item(),
                "add_items, 1, and pop_item, with a ttl, of 20": turn,
            }
        await print_table(url, calls)


def fill(url: str) -> None:
    """Store 10,000 keys of others."""
    with redis.Redis.from_url(url) as raw:
        raw.mset({f"other:{number}": "x" for number in range(10_000)})


async def print_table(url: str, calls: dict[str, dict[str, Call]]) -> None:
    """Print the calls of two sides, each as round trips and the median of µs."""
    theirs, ours = calls
    print(f"| call | {theirs}: round trips, µs | {ours}: round trips, µs |\n|---|---|---|")
    with redis.Redis.from_url(url) as raw:
        for name in calls[ours]:
            figures = {}
            for side in (theirs, ours):
                await calls[side][name]()
                before = int(raw.info("stats")["total_reads_processed"])
                await calls[side][name]()
                figures[side] = (int(raw.info("stats")["total_reads_processed"]) - before - 1, [])
            for _ in range(ROUNDS):
                for side in (theirs, ours):
                    begin = perf_counter()
                    await calls[side][name]()
                    figures[side][1].append((perf_counter() - begin) * 1e6)
            cells = (f"{trips}, {statistics.median(times):.0f}" for trips, times in figures.values())
            print(f"| {name} | {' | '.join(cells)} |")


TABLES = {"py-key-value": key_value, "openai-agents": openai_agents}


def main(names: list[str]) -> int:
    """Print the tables with these names, or all. Return 0."""
    for name in names or TABLES:
        with running_server(list(programs().values())[-1]) as server:
            print(f"\n{name}\n")
            asyncio.run(TABLES[name](server.url))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
