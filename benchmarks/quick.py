"""`make bench-quick`: measure the most frequent calls beside redis-py, in one minute.

Both sides do the same for the caller: JSON in, JSON out. redis-py sends a bare ``HSET``; ours also writes the registry, the
info and the change log in the same call. The results of both sides are compared before anything is timed.
"""

from __future__ import annotations

import asyncio
import sys

import orjson
import redis
import redis.asyncio

from benchmarks.documents import DOCUMENTS
from benchmarks.rounds import Figure, compare, compare_async
from benchmarks.server import BenchServer, placed, running_server
from redis_store import connect, connect_async

BIG_DOCUMENT = {"modules": [{**DOCUMENTS["2 KB"], "number": number} for number in range(48)]}
BATCH = 1000
HASH = "bare"


def main() -> int:
    """Print the table. Return 0."""
    rounds, calls = 21, 300
    with running_server() as server:
        print(f"Valkey {server.version}, redis-py {redis.__version__}, Python {sys.version.split()[0]}, TCP loopback")
        print("ratio = ours / redis-py, median of interleaved rounds [quartiles]; below 1 is faster\n")
        for pinned in (True, False):
            with placed(server, pinned=pinned):
                print("client and server on one core:" if pinned else "spread over the cores:")
                for figure in [
                    *_sync(server, calls, rounds),
                    *_near(server, calls, rounds),
                    *asyncio.run(_async(server, calls, rounds)),
                ]:
                    _show(figure)
                print()
    return 0


def _show(figure: Figure) -> None:
    low, high = figure.spread
    print(
        f"  {figure.name:34} {figure.ratio:5.2f} [{low:.2f} {high:.2f}]"
        f"   ours {figure.ours_us:9.1f} µs   redis-py {figure.theirs_us:9.1f} µs"
    )


def _sync(server: BenchServer, calls: int, rounds: int) -> list[Figure]:
    figures = []
    with connect(server.url, user="bench", agent="bench") as store, redis.Redis(port=server.port) as bare:
        for size, document in DOCUMENTS.items():

            def get_bare(key: str = size) -> object:
                return orjson.loads(bare.hget(HASH, key))

            def set_bare(key: str = size, value: object = document) -> object:
                return bare.hset(HASH, key, orjson.dumps(value))

            set_bare(), store.set(size, document)
            _same(get_bare(), store.get(size), document)
            figures += [
                compare(f"get {size}", lambda key=size: store.get(key), get_bare, calls, rounds),
                compare(f"set {size}", lambda key=size, value=document: store.set(key, value), set_bare, calls, rounds),
            ]
        _same(store.get("absent"), bare.hget(HASH, "absent"))
        figures.append(
            compare("get, miss", lambda: store.get("absent"), lambda: bare.hget(HASH, "absent"), calls, rounds)
        )
        figures += _batches(store, bare, rounds)
    return figures


def _batches(store: object, bare: redis.Redis, rounds: int) -> list[Figure]:
    items = {f"key-{i:04}": DOCUMENTS["2 KB"] for i in range(BATCH)}
    many = store.use_namespace("many")
    keys = list(items)

    def set_bare() -> object:
        return bare.hset("many", mapping={key: orjson.dumps(value) for key, value in items.items()})

    def get_bare() -> object:
        return {key: orjson.loads(text) for key, text in zip(keys, bare.hmget("many", keys), strict=True)}

    set_bare(), many.set_many(items)
    _same(get_bare(), many.get_many(keys), items)
    return [
        compare(f"set_many {BATCH} x 2 KB", lambda: many.set_many(items), set_bare, 1, rounds),
        compare(f"get_many {BATCH} x 2 KB", lambda: many.get_many(keys), get_bare, 2, rounds),
    ]


def _near(server: BenchServer, calls: int, rounds: int) -> list[Figure]:
    figures = []
    with (
        connect(server.url, user="bench", near_cache=True) as near,
        redis.Redis(port=server.port) as bare,
    ):
        for size, document in {**DOCUMENTS, "100 KB": BIG_DOCUMENT}.items():

            def get_bare(key: str = size) -> object:
                return orjson.loads(bare.hget(HASH, key))

            bare.hset(HASH, size, orjson.dumps(document)), near.set(size, document)
            _same(get_bare(), near.get(size), near.get(size), document)
            times = calls if document is not BIG_DOCUMENT else calls // 10
            figures.append(compare(f"near hit {size}", lambda key=size: near.get(key), get_bare, times, rounds))
    return figures


async def _async(server: BenchServer, calls: int, rounds: int) -> list[Figure]:
    figures = []
    async with (
        connect_async(server.url, user="bench", agent="bench") as store,
        redis.asyncio.Redis(port=server.port, max_connections=100) as bare,
    ):
        for size, document in DOCUMENTS.items():

            async def get_bare(key: str = size) -> object:
                return orjson.loads(await bare.hget(HASH, key))

            async def set_bare(key: str = size, value: object = document) -> object:
                return await bare.hset(HASH, key, orjson.dumps(value))

            async def get_ours(key: str = size) -> object:
                return await store.get(key)

            async def set_ours(key: str = size, value: object = document) -> object:
                return await store.set(key, value)

            async def fifty(work: object) -> object:
                return await asyncio.gather(*(work() for _ in range(50)))

            await set_bare()
            await set_ours()
            _same(await get_bare(), await get_ours(), document)
            figures += [
                await compare_async(f"async get {size}", get_ours, get_bare, calls, rounds),
                await compare_async(f"async set {size}", set_ours, set_bare, calls, rounds),
                await compare_async(
                    f"async get {size}, 50 at once",
                    lambda ours=get_ours: fifty(ours),
                    lambda theirs=get_bare: fifty(theirs),
                    6,
                    rounds,
                ),
            ]
    return figures


def _same(*answers: object) -> None:
    first, *others = answers
    if any(answer != first for answer in others):
        raise SystemExit("the two sides gave different answers; nothing was timed")


if __name__ == "__main__":
    sys.exit(main())
