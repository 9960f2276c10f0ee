"""The peers: libraries that store values for Python programs, each used as its own documentation shows.

All take and return Python values, as JSON if the library offers a choice: by ``orjson`` if it accepts any function, else by
its own JSON. Asyncio libraries are compared with redis.asyncio, the others with redis-py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import orjson

from benchmarks.clients import Clients
from benchmarks.documents import DOCUMENTS, SOURCE
from benchmarks.race import Entrant, Finish, race, same

BATCH = 100


@dataclass(frozen=True, slots=True)
class Peer:
    """A library, and how it reads and writes."""

    name: str
    get: Callable[[str], Any]
    set: Callable[[str, Any], Any]
    get_many: Callable[[list[str]], Any] | None = None
    """Returns the values in the order of the keys; None if the library has no such call."""
    awaited: bool = False
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """The results of one peer in each discipline, as ratios to redis-py or redis.asyncio."""

    peer: Peer
    finishes: dict[str, Finish]


def disciplines() -> list[str]:
    """Return the columns of the table."""
    return [*(f"{what} {size}" for what in ("get", "set") for size in DOCUMENTS), f"get_many {BATCH} x 2 KB"]


def compare_peers(clients: Clients, folder: str, loop: asyncio.AbstractEventLoop) -> list[Line]:
    """Check that every peer returns what it stored, then race the asyncio peers and the blocking ones."""
    lines: list[Line] = []
    with ExitStack() as stack:
        for awaited in (False, True):
            peers = [*_awaited(clients, stack)] if awaited else [*_blocking(clients, folder, stack)]
            for peer in peers:
                _check(peer, loop)
            found: dict[str, dict[str, Finish]] = {peer.name: {} for peer in peers}
            for discipline in disciplines():
                entrants = [entrant for peer in peers if (entrant := _entrant(peer, discipline)) is not None]
                for finish in race(entrants, loop, rounds=11, budget_s=5):
                    found[finish.name][discipline] = finish
            lines += [Line(peer, found[peer.name]) for peer in peers]
    return lines


def _entrant(peer: Peer, discipline: str) -> Entrant | None:
    what, _, size = discipline.partition(" ")
    if what == "get_many":
        if peer.get_many is None:
            return None
        keys, get_many = _batch_keys(), peer.get_many
        return Entrant(peer.name, lambda: get_many(keys), peer.awaited, calls_at_once=BATCH)
    value = DOCUMENTS[size]
    work = (lambda: peer.get(size)) if what == "get" else (lambda: peer.set(f"set {size}", value))
    return Entrant(peer.name, work, peer.awaited)


def _batch_keys() -> list[str]:
    return [f"key-{number}" for number in range(BATCH)]


def _check(peer: Peer, loop: asyncio.AbstractEventLoop) -> None:
    def done(answer: Any) -> Any:
        return loop.run_until_complete(answer) if peer.awaited else answer

    for size, value in DOCUMENTS.items():
        done(peer.set(size, value))
        same(f"{peer.name}: get {size}", done(peer.get(size)), value)
    for key in _batch_keys():
        done(peer.set(key, SOURCE))
    if peer.get_many is not None:
        same(f"{peer.name}: get_many", list(done(peer.get_many(_batch_keys()))), [SOURCE] * BATCH)


def _blocking(clients: Clients, folder: str, stack: ExitStack) -> Iterator[Peer]:
    import diskcache
    from dogpile.cache import make_region

    store, bare, port = clients.store.use_namespace("peers"), clients.bare, _port(clients)
    yield Peer("ours", store.get, store.set, lambda keys: store.get_many(keys).values())
    region = make_region(serializer=orjson.dumps, deserializer=orjson.loads).configure(
        "dogpile.cache.redis", arguments={"host": "127.0.0.1", "port": port}
    )
    yield Peer(
        f"dogpile.cache {version('dogpile.cache')}",
        lambda key: region.get("dogpile:" + key),
        lambda key, value: region.set("dogpile:" + key, value),
        lambda keys: region.get_multi(["dogpile:" + key for key in keys]),
        remark="in Redis, serializer=orjson.dumps",
    )
    disk = stack.enter_context(diskcache.Cache(folder))
    yield Peer(
        f"diskcache {version('diskcache')}",
        lambda key: orjson.loads(disk.get(key)),
        lambda key, value: disk.set(key, orjson.dumps(value)),
        remark="SQLite on this machine's disk, no server; no call for many",
    )
    yield Peer(
        f"redis-py {version('redis')}",
        lambda key: orjson.loads(bare.hget("peers", key)),
        lambda key, value: bare.hset("peers", key, orjson.dumps(value)),
        lambda keys: list(map(orjson.loads, bare.hmget("peers", keys))),
        remark="a bare hash with orjson, the reference for the others",
    )


def _awaited(clients: Clients, stack: ExitStack) -> Iterator[Peer]:
    import redis.asyncio
    from aiocache import RedisCache
    from aiocache.serializers import JsonSerializer
    from cashews import Cache
    from key_value.aio.stores.redis import RedisStore
    from langgraph.store.memory import InMemoryStore

    port, bare = _port(clients), clients.abare
    store = clients.astore.use_namespace("peers")

    async def get_many(keys: list[str]) -> Any:
        return (await store.get_many(keys)).values()

    yield Peer("ours, asyncio", store.get, store.set, get_many, True)

    client = redis.asyncio.Redis(port=port, decode_responses=True)
    stack.callback(lambda: clients.run(client.aclose()))
    key_value = RedisStore(client=client)
    yield Peer(
        f"py-key-value-aio {version('py-key-value-aio')}",
        lambda key: key_value.get(key, collection="peers"),
        lambda key, value: key_value.put(key, value, collection="peers"),
        lambda keys: key_value.get_many(keys, collection="peers"),
        True,
        "RedisStore",
    )

    cashews = Cache()
    cashews.setup(f"redis://127.0.0.1:{port}", pickle_type="json")
    stack.callback(lambda: clients.run(cashews.close()))
    yield Peer(
        f"cashews {version('cashews')}",
        lambda key: cashews.get("cashews:" + key),
        lambda key, value: cashews.set("cashews:" + key, value),
        lambda keys: cashews.get_many(*("cashews:" + key for key in keys)),
        True,
        'pickle_type="json"',
    )

    aiocache = RedisCache(endpoint="127.0.0.1", port=port, namespace="aiocache", serializer=JsonSerializer())
    stack.callback(lambda: clients.run(aiocache.close()))
    yield Peer(
        f"aiocache {version('aiocache')}", aiocache.get, aiocache.set, aiocache.multi_get, True, "JsonSerializer"
    )

    yield _langgraph(InMemoryStore())

    async def bare_get(key: str) -> Any:
        return orjson.loads(await bare.hget("peers", key))

    async def bare_set(key: str, value: Any) -> Any:
        return await bare.hset("peers", key, orjson.dumps(value))

    async def bare_many(keys: list[str]) -> Any:
        return list(map(orjson.loads, await bare.hmget("peers", keys)))

    yield Peer(f"redis.asyncio {version('redis')}", bare_get, bare_set, bare_many, True, "a bare hash with orjson")


def _langgraph(store: Any) -> Peer:
    async def get(key: str) -> Any:
        return (await store.aget(("peers",), key)).value

    async def put(key: str, value: Any) -> None:
        await store.aput(("peers",), key, value)

    return Peer(
        f"langgraph-checkpoint {version('langgraph-checkpoint')}",
        get,
        put,
        None,
        True,
        "its InMemoryStore, in this process: its store for Redis needs the modules RediSearch and RedisJSON",
    )


def _port(clients: Clients) -> int:
    return int(clients.bare.get_connection_kwargs()["port"])
