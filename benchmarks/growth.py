"""Growth of calls with the size of the value and of the namespace, and with the number of namespaces, users and clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import orjson
import redis

from benchmarks.clients import USER, Clients
from benchmarks.documents import SMALL, of_size
from benchmarks.race import Entrant, race, same
from benchmarks.special import fill
from redis_store import connect

ROUNDS = 7
BUDGET_S = 0.5
GET_MANY = 100
PIPELINE = 5000


@dataclass(frozen=True, slots=True)
class Cell:
    """One call at one step: our time, and its ratio to redis-py's if redis-py has such a call."""

    dimension: str
    step: int
    call: str
    us: float
    ratio: float | None
    bytes_a_key: float | None = None


Sides = dict[str, tuple[Callable[[], Any], Callable[[], Any] | None]]


def measure_growth(clients: Clients, port: int, loop: asyncio.AbstractEventLoop) -> Iterator[Cell]:
    """Yield the cells one by one; each step stores its own data."""
    for size in (10, 100, 1000, 10_000, 100_000, 1_000_000):
        yield from _cells("value's bytes", size, _of_values(clients, size), loop)
    with ExitStack() as stack:
        for namespaces in (1, 10, 100, 1000, 10_000, 100_000):
            yield from _cells("namespaces of the user", namespaces, _of_namespaces(clients, namespaces, stack), loop)
        for users in (1, 10, 100, 1000, 10_000, 100_000):
            yield from _cells("users", users, _of_users(clients, users, stack), loop)
    for number in (1, 10, 100, 1000):
        yield from _of_clients(clients, number, loop)
    # Last, because the server spends a while freeing a million keys.
    for keys in (1, 10, 100, 1000, 10_000, 100_000, 1_000_000):
        yield from _cells("keys of the namespace", keys, _of_keys(clients, port, keys), loop)
        yield _memory(clients, keys)
        clients.store.use_namespace(f"keys-{keys}").clear()
        clients.bare.delete(f"keys-{keys}")


def _cells(dimension: str, step: int, sides: Sides, loop: asyncio.AbstractEventLoop) -> Iterator[Cell]:
    for call, (ours, theirs) in sides.items():
        entrants = [Entrant("ours", ours)]
        if theirs is not None:
            entrants.append(Entrant("redis-py", theirs))
        first, *_ = race(entrants, loop, ROUNDS, budget_s=BUDGET_S)
        yield Cell(dimension, step, call, first.us, None if theirs is None else first.ratio)


def _of_values(clients: Clients, size: int) -> Sides:
    store, bare = clients.store.use_namespace("values"), clients.bare
    value = of_size(size)
    return _get_and_set(store, bare, "values", f"of {size}", value)


def _get_and_set(store: Any, bare: Any, name: str, key: str, value: Any) -> Sides:
    store.set(key, value)
    bare.hset(name, key, orjson.dumps(value))
    same(name, store.get(key), orjson.loads(bare.hget(name, key)), value)
    return {
        "get": (lambda: store.get(key), lambda: orjson.loads(bare.hget(name, key))),
        "set": (lambda: store.set(key, value), lambda: bare.hset(name, key, orjson.dumps(value))),
    }


def _of_keys(clients: Clients, port: int, keys: int) -> Sides:
    name = f"keys-{keys}"
    store, bare = clients.store.use_namespace(name), clients.bare
    fill(port, name, keys)
    text = orjson.dumps(SMALL)
    for start in range(0, keys, PIPELINE):
        bare.hset(name, mapping={f"key-{i:07}": text for i in range(start, min(keys, start + PIPELINE))})
    some = [f"key-{i:07}" for i in range(0, keys, max(1, keys // GET_MANY))][:GET_MANY]
    sides = _get_and_set(store, bare, name, some[-1], SMALL)
    sides["get_many 100"] = (
        lambda: store.get_many(some),
        lambda: dict(zip(some, map(orjson.loads, bare.hmget(name, some)), strict=True)),
    )
    sides["list_keys"] = (store.list_keys, lambda: sorted(raw.decode() for raw in bare.hkeys(name)))
    sides["get_all"] = (
        store.get_all,
        lambda: {raw.decode(): orjson.loads(text) for raw, text in bare.hgetall(name).items()},
    )
    return sides


def _memory(clients: Clients, keys: int) -> Cell:
    def used(key: str) -> int:
        return clients.bare.memory_usage(key, samples=0) or 0

    ours = used(f"user:{USER}:ns:keys-{keys}") + used(f"user:{USER}:info:keys-{keys}")
    return Cell(
        "keys of the namespace", keys, "memory a key", 0.0, ours / used(f"keys-{keys}"), bytes_a_key=ours / keys
    )


def _of_namespaces(clients: Clients, namespaces: int, stack: ExitStack) -> Sides:
    user = f"with-{namespaces}"
    _store_raw(clients, [(user, f"ns-{number:06}") for number in range(namespaces)])
    store = stack.enter_context(connect(clients.store.url, user=user, namespace="ns-000000"))
    sides = _get_and_set(store, clients.bare, "bare-one", "key", SMALL)
    registry = f"user:{user}:namespaces"
    sides["list_namespaces"] = (
        store.list_namespaces,
        lambda: sorted(raw.decode() for raw in clients.bare.smembers(registry)),
    )
    return sides


def _of_users(clients: Clients, users: int, stack: ExitStack) -> Sides:
    _store_raw(clients, [(f"user-{users}-{number}", "default") for number in range(users)])
    store = stack.enter_context(connect(clients.store.url, user=f"user-{users}-0"))
    return {
        **_get_and_set(store, clients.bare, "bare-one", "key", SMALL),
        "list_namespaces": (store.list_namespaces, None),
    }


def _store_raw(clients: Clients, places: list[tuple[str, str]]) -> None:
    """Store one key in each of many namespaces, by plain commands as any client may send."""
    for start in range(0, len(places), PIPELINE):
        pipe = clients.bare.pipeline(transaction=False)
        for user, namespace in places[start : start + PIPELINE]:
            pipe.sadd(f"user:{user}:namespaces", namespace).hset(f"user:{user}:ns:{namespace}", "key", '{"lines":1}')
        pipe.execute()


def _of_clients(clients: Clients, number: int, loop: asyncio.AbstractEventLoop) -> Iterator[Cell]:
    """Measure `number` clients with one connection each that call in turn, and `number` concurrent tasks of one client."""
    with ExitStack() as stack:
        ours = [stack.enter_context(connect(clients.store.url, user=USER)) for _ in range(number)]
        port = clients.bare.get_connection_kwargs()["port"]
        theirs = [stack.enter_context(redis.Redis(port=port)) for _ in range(number)]
        ours[0].set("shared", SMALL)
        clients.bare.hset("bare-one", "shared", orjson.dumps(SMALL))

        def all_ours() -> None:
            for store in ours:
                store.get("shared")

        def all_theirs() -> None:
            for bare in theirs:
                orjson.loads(bare.hget("bare-one", "shared"))

        first, *_ = race(
            [Entrant("ours", all_ours, calls_at_once=number), Entrant("redis-py", all_theirs, calls_at_once=number)],
            loop,
            ROUNDS,
            budget_s=BUDGET_S,
        )
        yield Cell("clients", number, "get, in turn", first.us, first.ratio)

    async def gathered_ours() -> None:
        await asyncio.gather(*(clients.astore.get("shared") for _ in range(number)))

    async def one() -> object:
        return orjson.loads(await clients.abare.hget("bare-one", "shared"))

    async def gathered_theirs() -> None:
        await asyncio.gather(*(one() for _ in range(number)))

    first, *_ = race(
        [
            Entrant("ours", gathered_ours, True, calls_at_once=number),
            Entrant("redis.asyncio", gathered_theirs, True, calls_at_once=number),
        ],
        loop,
        ROUNDS,
        budget_s=BUDGET_S,
    )
    yield Cell("clients", number, "async get, at once", first.us, first.ratio)
