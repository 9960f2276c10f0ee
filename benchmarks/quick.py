"""`make bench-quick`: measure the most frequent calls beside redis-py, with the documents that agents store, in a minute.

Both sides do the same for the caller: JSON in, JSON out. redis-py sends a bare ``HSET``; ours also writes the registry, the
info and the change log in the same call. The results of both sides are compared before anything is timed. The figure of a row
is that of its slowest shape of document; the others stand beside it.

Pass paths of server programs to measure on these, instead of on the embedded Valkey.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import orjson
import redis
import redis.asyncio

from benchmarks.documents import SHAPES
from benchmarks.rounds import Figure, compare, compare_async
from benchmarks.server import BenchServer, placed, running_server
from redis_store import DataStore, connect, connect_async

BATCH = 1000
HASH = "bare"


ROUNDS = 11
CALLS = {"100 B": 200, "2 KB": 100, "100 KB": 5}
"""Calls of a round, by the size of the value."""


def main(servers: list[str]) -> int:
    """Print a table for each server. Return 0."""
    for program in servers or [None]:
        with running_server(program) as server:
            print(f"{server.version}, redis-py {redis.__version__}, Python {sys.version.split()[0]}, TCP loopback")
            print("ratio = ours / redis-py, median of interleaved rounds, of the slowest shape; below 1 is faster\n")
            for pinned in (True, False):
                with placed(server, pinned=pinned):
                    print("client and server on one core:" if pinned else "spread over the cores:")
                    for row in (*_sync(server), *_near(server), *asyncio.run(_async(server))):
                        _show(row)
                    print()
    return 0


def _show(row: list[tuple[str, Figure]]) -> None:
    shape, worst = max(row, key=lambda one: one[1].ratio)
    others = "  ".join(f"{name} {figure.ratio:.2f}" for name, figure in row if name != shape)
    print(
        f"  {worst.name:27} {worst.ratio:5.2f}  ours {worst.ours_us:9.1f} µs  redis-py {worst.theirs_us:9.1f} µs"
        f"  ({shape}{';  ' + others if others else ''})"
    )


def _sync(server: BenchServer) -> Iterator[list[tuple[str, Figure]]]:
    with connect(server.url, user="bench", agent="bench") as store, redis.Redis(port=server.port) as bare:
        for size, shapes in SHAPES.items():
            gets, sets = [], []
            for shape, document in shapes.items():

                def get_bare() -> object:
                    return orjson.loads(bare.hget(HASH, "key"))

                def set_bare(value: object = document) -> object:
                    return bare.hset(HASH, "key", orjson.dumps(value))

                set_bare(), store.set("key", document)
                _same(get_bare(), store.get("key"), document)
                calls = CALLS[size]
                gets.append((shape, compare(f"get {size}", lambda: store.get("key"), get_bare, calls, ROUNDS)))
                sets.append(
                    (
                        shape,
                        compare(f"set {size}", lambda value=document: store.set("key", value), set_bare, calls, ROUNDS),
                    )
                )
            yield gets
            yield sets
        _same(store.get("absent"), bare.hget(HASH, "absent"))
        miss = compare("get, miss", lambda: store.get("absent"), lambda: bare.hget(HASH, "absent"), 200, ROUNDS)
        yield [("none", miss)]
        yield from _batches(store, bare)


def _batches(store: DataStore, bare: redis.Redis) -> Iterator[list[tuple[str, Figure]]]:
    many = store.use_namespace("many")
    sets, gets = [], []
    for shape, document in SHAPES["2 KB"].items():
        items = {f"key-{i:04}": document for i in range(BATCH)}
        keys = list(items)

        def set_bare(items: dict[str, object] = items) -> object:
            return bare.hset("many", mapping={key: orjson.dumps(value) for key, value in items.items()})

        def get_bare(keys: list[str] = keys) -> object:
            return {key: orjson.loads(text) for key, text in zip(keys, bare.hmget("many", keys), strict=True)}

        set_bare(), many.set_many(items)
        _same(get_bare(), many.get_many(keys), items)
        set_ours, get_ours = (lambda items=items: many.set_many(items)), (lambda keys=keys: many.get_many(keys))
        sets.append((shape, compare(f"set_many {BATCH} x 2 KB", set_ours, set_bare, 1, ROUNDS)))
        gets.append((shape, compare(f"get_many {BATCH} x 2 KB", get_ours, get_bare, 1, ROUNDS)))
    yield sets
    yield gets


def _near(server: BenchServer) -> Iterator[list[tuple[str, Figure]]]:
    with connect(server.url, user="bench", near_cache=True) as near, redis.Redis(port=server.port) as bare:
        for size, shapes in SHAPES.items():
            row = []
            for shape, document in shapes.items():

                def get_bare() -> object:
                    return orjson.loads(bare.hget(HASH, "key"))

                bare.hset(HASH, "key", orjson.dumps(document)), near.set("key", document)
                _same(get_bare(), near.get("key"), near.get("key"), document)
                figure = compare(f"near hit {size}", lambda: near.get("key"), get_bare, CALLS[size], ROUNDS)
                row.append((shape, figure))
            yield row


async def _async(server: BenchServer) -> list[list[tuple[str, Figure]]]:
    rows = []
    async with (
        connect_async(server.url, user="bench", agent="bench") as store,
        redis.asyncio.Redis(port=server.port, max_connections=100) as bare,
    ):
        for size in ("100 B", "2 KB"):
            gets, sets, crowds = [], [], []
            for shape, document in SHAPES[size].items():

                async def get_bare() -> object:
                    return orjson.loads(await bare.hget(HASH, "key"))

                async def set_bare(value: object = document) -> object:
                    return await bare.hset(HASH, "key", orjson.dumps(value))

                async def get_ours() -> object:
                    return await store.get("key")

                async def set_ours(value: object = document) -> object:
                    return await store.set("key", value)

                async def fifty(work: Callable[[], Awaitable[object]]) -> object:
                    return await asyncio.gather(*(work() for _ in range(50)))

                await set_bare()
                await set_ours()
                _same(await get_bare(), await get_ours(), document)
                calls = CALLS[size]
                gets.append((shape, await compare_async(f"async get {size}", get_ours, get_bare, calls, ROUNDS)))
                sets.append((shape, await compare_async(f"async set {size}", set_ours, set_bare, calls, ROUNDS)))
                ours, theirs = partial(fifty, get_ours), partial(fifty, get_bare)
                crowd = await compare_async(f"async get {size}, 50 at once", ours, theirs, 3, ROUNDS)
                crowds.append((shape, crowd))
            rows += [gets, sets, crowds]
    return rows


def _same(*answers: object) -> None:
    first, *others = answers
    if any(answer != first for answer in others):
        raise SystemExit("the two sides gave different answers; nothing was timed")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
