"""The rows of the table: one piece of work each, done by our store and by redis-py with orjson.

Both sides take and return Python values. On a write redis-py stores only the value; ours also writes the registry, the info
and the change log in the same call.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import orjson

from benchmarks.clients import USER, Clients
from benchmarks.documents import BIG, DOCUMENTS, SMALL, SOURCE
from benchmarks.race import Entrant, same
from redis_store import connect

BATCH = 1000
MANY = 10_000
PAGED = 100_000
AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Row:
    """A piece of work that both sides do."""

    name: str
    ours: Entrant
    theirs: Entrant
    pinned_at_most: float | None = None
    """The ratio to reach with client and server on one core."""
    spread_at_most: float | None = None
    """The ratio to reach spread over the cores; None if `pinned_at_most` holds for both."""
    json_work: Callable[[], object] | None = None
    """The part of the work that converts values to JSON text or back."""
    calls: int | None = None
    """Number of calls in a round; None for as many as take a few ms."""
    rounds: int = 21


def all_rows(clients: Clients) -> Iterator[Row]:
    """Yield the rows. Right before each, its data is stored and the results of both sides are compared.

    Rows of small calls come first, because the server spends a while freeing memory after big batches.
    """
    for rows in (_one_key, _near_cache, _awaited, _deletes, _batches, _listings, _clears):
        yield from rows(clients)


def _one_key(clients: Clients) -> Iterator[Row]:
    store, bare = clients.store, clients.bare
    goals = {"100 B": (0.48, 0.35), "2 KB": (0.52, 0.45), "100 KB": (0.85, None)}
    for size, value in {**DOCUMENTS, "100 KB": BIG}.items():
        text = orjson.dumps(value)
        store.set(size, value)
        bare.hset("bare", size, text)
        get = _sides(lambda size=size: store.get(size), lambda size=size: orjson.loads(bare.hget("bare", size)))
        same(f"get {size}", get[0].work(), get[1].work(), value)
        yield Row(f"get {size}", *get, *goals[size], lambda text=text: orjson.loads(text))
    miss = _sides(lambda: store.get("absent"), lambda: bare.hget("bare", "absent"))
    same("get, miss", miss[0].work(), miss[1].work(), None)
    yield Row("get, miss", *miss, 0.48, 0.35)
    for (size, value), goal in zip(DOCUMENTS.items(), ((0.80, 0.50), (0.85, 0.60)), strict=True):
        ours, theirs = _sides(
            lambda size=size, value=value: store.set(f"set {size}", value),
            lambda size=size, value=value: bare.hset("bare", f"set {size}", orjson.dumps(value)),
        )
        ours.work(), theirs.work()
        same(f"set {size}", store.get(f"set {size}"), orjson.loads(bare.hget("bare", f"set {size}")), value)
        yield Row(f"set {size}", ours, theirs, *goal, lambda value=value: orjson.dumps(value))


def _deletes(clients: Clients) -> Iterator[Row]:
    store, bare = clients.store.use_namespace("doomed"), clients.bare
    kept: Any = SMALL
    ours_next, theirs_next = count(), count()

    def fill_ours(calls: int) -> None:
        nonlocal ours_next
        store.set_many({f"key-{i}": kept for i in range(-1, calls)})
        ours_next = count()

    def fill_theirs(calls: int) -> None:
        nonlocal theirs_next
        bare.hset("doomed", mapping={f"key-{i}": orjson.dumps(kept) for i in range(-1, calls)})
        theirs_next = count()

    ours = Entrant("ours", lambda: store.delete(f"key-{next(ours_next)}"), prepare=fill_ours)
    theirs = Entrant("redis-py", lambda: bare.hdel("doomed", f"key-{next(theirs_next)}"), prepare=fill_theirs)
    fill_ours(1), fill_theirs(1)
    same("delete", ours.work(), bool(theirs.work()), True)
    same("delete again", store.delete("key-0"), bool(bare.hdel("doomed", "key-0")), False)
    fill_ours(1), fill_theirs(1)
    yield Row("delete", ours, theirs, 0.85)


def _batches(clients: Clients) -> Iterator[Row]:
    store, bare = clients.store.use_namespace("batch"), clients.bare
    items = {f"key-{i:04}": SOURCE for i in range(BATCH)}
    keys = list(items)
    texts = [orjson.dumps(value) for value in items.values()]
    set_many = _sides(
        lambda: store.set_many(items),
        lambda: bare.hset("batch", mapping={key: orjson.dumps(value) for key, value in items.items()}),
    )
    get_many = _sides(
        lambda: store.get_many(keys),
        lambda: {key: orjson.loads(text) for key, text in zip(keys, bare.hmget("batch", keys), strict=True)},
    )
    set_many[0].work(), set_many[1].work()
    same("set_many, get_many", get_many[0].work(), get_many[1].work(), items)
    yield Row("set_many 1,000 x 2 KB", *set_many, 0.80, None, lambda: [orjson.dumps(v) for v in items.values()])
    yield Row("get_many 1,000 x 2 KB", *get_many, 0.95, None, lambda: list(map(orjson.loads, texts)))


def _listings(clients: Clients) -> Iterator[Row]:
    store, bare = clients.store, clients.bare
    for keys in (MANY, PAGED):
        # One key in a hundred begins with "src-00".
        items = {f"src-{i % 100:02}/file-{i:06}": SMALL for i in range(keys)}
        namespace = store.use_namespace(f"list-{keys}")
        namespace.set_many(items)
        _fill_bare(clients, f"list-{keys}", items)
        listing = _sides(namespace.list_keys, lambda keys=keys: sorted(k.decode() for k in bare.hkeys(f"list-{keys}")))
        same(f"list_keys of {keys:,}", listing[0].work(), listing[1].work(), sorted(items))
        paged = keys > MANY
        yield Row(f"list_keys {keys:,}{', in pages' if paged else ''}", *listing, 1.5 if paged else 1.1)
        few = _sides(
            lambda namespace=namespace: namespace.list_keys("src-00"),
            lambda keys=keys: sorted(
                key for key in (raw.decode() for raw in bare.hkeys(f"list-{keys}")) if key.startswith("src-00")
            ),
        )
        same(f"list_keys of {keys:,} with a prefix", few[0].work(), few[1].work())
        yield Row(f"list_keys {keys:,}, prefix of 1 %", *few, 0.6)
        if not paged:
            text = orjson.dumps(SMALL)
            everything = _sides(
                namespace.get_all,
                lambda keys=keys: {k.decode(): orjson.loads(t) for k, t in bare.hgetall(f"list-{keys}").items()},
            )
            same("get_all", everything[0].work(), everything[1].work(), items)
            yield Row(
                f"get_all {keys:,} x 100 B",
                *everything,
                0.80,
                None,
                lambda text=text: [orjson.loads(text) for _ in range(MANY)],
            )


def _clears(clients: Clients) -> Iterator[Row]:
    store, bare = clients.store.use_namespace("cleared"), clients.bare
    items = {f"key-{i:06}": i for i in range(PAGED)}
    fields = list(items)

    def delete() -> int:
        return sum(bare.hdel("cleared", *fields[start : start + BATCH]) for start in range(0, PAGED, BATCH))

    ours = Entrant("ours", store.clear, prepare=lambda calls: store.set_many(items))
    theirs = Entrant("redis-py", delete, prepare=lambda calls: _fill_bare(clients, "cleared", items))
    ours.prepare(1), theirs.prepare(1)
    same("clear", ours.work(), theirs.work(), PAGED)
    yield Row("clear 100,000, of deleting them", ours, theirs, 0.10, calls=1, rounds=3)


def _awaited(clients: Clients) -> Iterator[Row]:
    store, bare = clients.astore, clients.abare
    for size, value in DOCUMENTS.items():
        text = orjson.dumps(value)

        async def get(size: str = size) -> object:
            return orjson.loads(await bare.hget("bare", size))

        async def set_(size: str = size, value: object = value) -> object:
            return await bare.hset("bare", f"set {size}", orjson.dumps(value))

        ours_get, ours_set = _method(store.get, size), _method(store.set, f"set {size}", value)
        same(f"async get {size}", clients.run(ours_get()), clients.run(get()), value)
        alone, spread = (0.40, 0.55)
        yield Row(
            f"async get {size}", *_sides(ours_get, get, awaited=True), alone, spread, lambda t=text: orjson.loads(t)
        )
        yield Row(
            f"async set {size}", *_sides(ours_set, set_, awaited=True), None, None, lambda v=value: orjson.dumps(v)
        )
        goal = 0.20 if size == "100 B" else 0.30
        at_once = _sides(_gathered(ours_get), _gathered(get), awaited=True)
        yield Row(
            f"async get {size}, {AT_ONCE} at once",
            *(replace(side, calls_at_once=AT_ONCE) for side in at_once),
            goal,
            None,
            lambda t=text: orjson.loads(t),
        )


def _near_cache(clients: Clients) -> Iterator[Row]:
    """Yield the rows of a store with a near cache, if this version has one."""
    if "near_cache" not in inspect.signature(connect).parameters:
        return
    with connect(clients.store.url, user=USER, agent="bench", near_cache=True) as near:
        for (size, value), goal in zip({**DOCUMENTS, "100 KB": BIG}.items(), (0.10, 0.25, 0.7), strict=True):
            same(f"near-cache hit {size}", near.get(size), near.get(size), clients.store.get(size), value)
            hit, get = _sides(lambda size=size: near.get(size), lambda size=size: clients.store.get(size))
            yield Row(f"near-cache hit {size}, of our get", hit, replace(get, name="our get"), goal)


def _sides(ours: Callable[[], Any], theirs: Callable[[], Any], awaited: bool = False) -> tuple[Entrant, Entrant]:
    return Entrant("ours", ours, awaited), Entrant("redis.asyncio" if awaited else "redis-py", theirs, awaited)


def _method(method: Callable[..., Any], *arguments: object) -> Callable[[], Any]:
    return lambda: method(*arguments)


def _gathered(work: Callable[[], Any]) -> Callable[[], Any]:
    async def gathered() -> object:
        return await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    return gathered


def _fill_bare(clients: Clients, name: str, items: dict[str, Any]) -> None:
    pairs = list(items.items())
    for start in range(0, len(pairs), BATCH):
        part = pairs[start : start + BATCH]
        clients.bare.hset(name, mapping={key: orjson.dumps(value) for key, value in part})
