"""The rows of the table: one piece of work each, done by our store and by redis-py with orjson, for each shape of document.

Both sides take and return Python values. On a write redis-py stores only the value; ours also writes the registry, the info
and the change log in the same call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import orjson

from benchmarks.clients import USER, Clients
from benchmarks.documents import SHAPES, SMALL
from benchmarks.race import Entrant, Finish, race, same
from benchmarks.server import BenchServer
from benchmarks.targets import WRITES
from benchmarks.wire import Floors
from redis_store import connect

BATCH = 1000
MANY = 10_000
PAGED = 100_000
AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Row:
    """A piece of work that both sides do, with one shape of document."""

    name: str
    ours: Entrant
    theirs: Entrant
    shape: str = ""
    floor: Callable[[], object] | None = None
    """A raw socket that sends what ours sends, and reads what ours reads."""
    json_work: Callable[[], object] | None = None
    """The part of the work that converts values to JSON text or back."""
    calls: int | None = None
    """Number of calls in a round; None for as many as take a few ms."""
    rounds: int = 21


@dataclass(frozen=True, slots=True)
class Timed:
    """The times of a row with one shape of document."""

    row: Row
    ours: Finish
    theirs: Finish
    floor: Finish | None


def all_rows(clients: Clients, floors: Floors | None = None, *, by_hand: bool = True) -> Iterator[Row]:
    """Yield the rows, those of one name together. Right before each, its data is stored and both sides' results are compared.

    Without `by_hand`, those are left out for which redis-py writes what our store reads.
    Rows of small calls come first, because the server spends a while freeing memory after big batches.
    """
    yield from quick_rows(clients, floors)
    yield from _listings(clients, by_hand)
    yield from _clears(clients)


def quick_rows(clients: Clients, floors: Floors | None = None) -> Iterator[Row]:
    """Yield the rows of the most frequent calls."""
    yield from _one_key(clients, floors)
    yield from _near_cache(clients)
    yield from _awaited(clients)
    yield from _deletes(clients)
    yield from _batches(clients)


def timed(
    server: BenchServer,
    clients: Clients,
    rows: Callable[[Clients, Floors], Iterator[Row]],
    rounds: int | None = None,
    matching: str = "",
) -> Iterator[list[Timed]]:
    """Race each row whose name contains a text, and yield the times of all shapes of a row together."""
    with Floors(server.port, "bench-floor") as floors:
        same_name: list[Timed] = []
        for row in rows(clients, floors):
            if matching not in row.name:
                continue
            if same_name and same_name[0].row.name != row.name:
                yield same_name
                same_name = []
            entrants = [row.ours, row.theirs]
            if row.floor is not None:
                entrants.insert(0, Entrant("floor", row.floor))
            *floor, ours, theirs = race(entrants, clients.loop, rounds or row.rounds, row.calls)
            same_name.append(Timed(row, ours, theirs, floor[0] if floor else None))
        if same_name:
            yield same_name


def _one_key(clients: Clients, floors: Floors | None) -> Iterator[Row]:
    store, bare = clients.store, clients.bare
    for size, shapes in SHAPES.items():
        for shape, value in shapes.items():
            text = orjson.dumps(value)
            store.set("key", value)
            bare.hset("bare", "key", text)
            get = _sides(lambda: store.get("key"), lambda: orjson.loads(bare.hget("bare", "key")), "redis-py's hget")
            same(f"get {size}", get[0].work(), get[1].work(), value)
            floor = _floor(floors, lambda there, value=value: there.set("key", value), lambda there: there.get("key"))
            yield Row(f"get {size}", *get, shape, floor, lambda text=text: orjson.loads(text))
        for shape, value in shapes.items():
            set_ = _sides(
                lambda value=value: store.set("set", value),
                lambda value=value: bare.hset("bare", "set", orjson.dumps(value)),
                "a bare hset",
            )
            set_[0].work(), set_[1].work()
            same(f"set {size}", store.get("set"), orjson.loads(bare.hget("bare", "set")), value)
            floor = _floor(floors, None, lambda there, value=value: there.set("set", value))
            yield Row(f"set {size}: {WRITES}", *set_, shape, floor, lambda value=value: orjson.dumps(value))
    miss = _sides(lambda: store.get("absent"), lambda: bare.hget("bare", "absent"), "redis-py's hget")
    same("get, miss", miss[0].work(), miss[1].work(), None)
    yield Row("get, miss", *miss, "", _floor(floors, None, lambda there: there.get("absent")))


def _floor(floors: Floors | None, prepare: Callable[[Any], object] | None, call: Callable[[Any], object]) -> Any:
    if floors is None:
        return None
    if prepare is not None:
        prepare(floors.store)
    return floors.of(call)


def _near_cache(clients: Clients) -> Iterator[Row]:
    bare = clients.bare
    with connect(clients.store.url, user=USER, agent="bench", near_cache=True) as near:
        for size, shapes in SHAPES.items():
            for shape, value in shapes.items():
                near.set("near", value), bare.hset("bare", "near", orjson.dumps(value))
                hit = _sides(
                    lambda: near.get("near"), lambda: orjson.loads(bare.hget("bare", "near")), "redis-py's hget"
                )
                same(f"near hit {size}", hit[0].work(), hit[0].work(), hit[1].work(), value)
                yield Row(f"near hit {size}", *hit, shape)


def _awaited(clients: Clients) -> Iterator[Row]:
    store, bare = clients.astore, clients.abare
    gets, sets, gets_at_once, sets_at_once = [], [], [], []
    for shape, value in SHAPES["2 KB"].items():
        key = f"async {shape}"

        async def get(key: str = key) -> object:
            return orjson.loads(await bare.hget("bare", key))

        async def set_(key: str = key, value: object = value) -> object:
            return await bare.hset("bare", key, orjson.dumps(value))

        ours_get, ours_set = _method(store.get, key), _method(store.set, key, value)
        clients.run(ours_set()), clients.run(set_())
        same("async get 2 KB", clients.run(ours_get()), clients.run(get()), value)
        gets.append(Row("async get 2 KB", *_awaited_sides(ours_get, get), shape))
        sets.append(Row(f"async set 2 KB: {WRITES}", *_awaited_sides(ours_set, set_), shape))
        together = f"{AT_ONCE} at once"
        gets_at_once.append(Row(f"async get 2 KB, {together}", *_at_once(ours_get, get), shape))
        sets_at_once.append(Row(f"async set 2 KB, {together}: {WRITES}", *_at_once(ours_set, set_), shape))
    yield from (*gets, *sets, *gets_at_once, *sets_at_once)


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
    theirs = Entrant("a bare hdel", lambda: bare.hdel("doomed", f"key-{next(theirs_next)}"), prepare=fill_theirs)
    fill_ours(1), fill_theirs(1)
    same("delete", ours.work(), bool(theirs.work()), True)
    same("delete again", store.delete("key-0"), bool(bare.hdel("doomed", "key-0")), False)
    fill_ours(1), fill_theirs(1)
    yield Row(f"delete: {WRITES}", ours, theirs)


def _batches(clients: Clients) -> Iterator[Row]:
    store, bare = clients.store.use_namespace("batch"), clients.bare
    sets, gets = [], []
    for shape, value in SHAPES["2 KB"].items():
        items = {f"{shape}-{i:04}": value for i in range(BATCH)}
        keys = list(items)
        texts = [orjson.dumps(value)] * BATCH
        set_many = _sides(
            lambda items=items: store.set_many(items),
            lambda items=items: bare.hset("batch", mapping={key: orjson.dumps(value) for key, value in items.items()}),
            "a bare hset",
        )
        get_many = _sides(
            lambda keys=keys: store.get_many(keys),
            lambda keys=keys: {
                key: orjson.loads(text) for key, text in zip(keys, bare.hmget("batch", keys), strict=True)
            },
            "redis-py's hmget",
        )
        set_many[0].work(), set_many[1].work()
        same("set_many, get_many", get_many[0].work(), get_many[1].work(), items)
        dumps = lambda items=items: [orjson.dumps(v) for v in items.values()]  # noqa: E731
        loads = lambda texts=texts: list(map(orjson.loads, texts))  # noqa: E731
        sets.append(Row(f"set_many 1,000 x 2 KB: {WRITES}", *set_many, shape, json_work=dumps))
        gets.append(Row("get_many 1,000 x 2 KB", *get_many, shape, json_work=loads))
    yield from (*sets, *gets)


def _listings(clients: Clients, by_hand: bool = True) -> Iterator[Row]:
    store, bare = clients.store, clients.bare
    if by_hand:
        yield from _namespaces(clients)
    for keys in (MANY, PAGED):
        # One key in a hundred begins with "src-00".
        items = {f"src-{i % 100:02}/file-{i:06}": SMALL for i in range(keys)}
        namespace = store.use_namespace(f"list-{keys}")
        namespace.set_many(items)
        _fill_bare(clients, f"list-{keys}", items)
        listing = _sides(
            namespace.list_keys,
            lambda keys=keys: sorted(k.decode() for k in bare.hkeys(f"list-{keys}")),
            "redis-py's hkeys",
        )
        same(f"list_keys of {keys:,}", listing[0].work(), listing[1].work(), sorted(items))
        paged = keys > MANY
        yield Row(f"list_keys {keys:,}{', in pages' if paged else ''}", *listing)
        few = _sides(
            lambda namespace=namespace: namespace.list_keys("src-00"),
            lambda keys=keys: sorted(
                key for key in (raw.decode() for raw in bare.hkeys(f"list-{keys}")) if key.startswith("src-00")
            ),
            "redis-py's hkeys",
        )
        same(f"list_keys of {keys:,} with a prefix", few[0].work(), few[1].work())
        yield Row(f"list_keys {keys:,}, prefix of 1 %", *few)
        if not paged:
            text = orjson.dumps(SMALL)
            everything = _sides(
                namespace.get_all,
                lambda keys=keys: {k.decode(): orjson.loads(t) for k, t in bare.hgetall(f"list-{keys}").items()},
                "redis-py's hgetall",
            )
            same("get_all", everything[0].work(), everything[1].work(), items)
            loads = lambda text=text: [orjson.loads(text) for _ in range(MANY)]  # noqa: E731
            yield Row(f"get_all {keys:,} x 100 B", *everything, json_work=loads)


def _namespaces(clients: Clients) -> Iterator[Row]:
    user = "bench-namespaces"
    registry = f"user:{user}:namespaces"
    bare = clients.bare
    pipe = bare.pipeline(transaction=False)
    for number in range(MANY):
        pipe.sadd(registry, f"ns-{number:05}").hset(f"user:{user}:ns:ns-{number:05}", "k", "1")
    pipe.execute()
    with connect(clients.store.url, user=user) as store:
        sides = _sides(
            store.list_namespaces,
            lambda: sorted(raw.decode() for raw in bare.smembers(registry)),
            "redis-py's smembers",
        )
        same("list_namespaces", sides[0].work(), sides[1].work())
        yield Row("list_namespaces of 10,000", *sides)


def _clears(clients: Clients) -> Iterator[Row]:
    store, bare = clients.store.use_namespace("cleared"), clients.bare
    items = {f"key-{i:06}": i for i in range(PAGED)}
    fields = list(items)

    def delete() -> int:
        return sum(bare.hdel("cleared", *fields[start : start + BATCH]) for start in range(0, PAGED, BATCH))

    ours = Entrant("ours", store.clear, prepare=lambda calls: store.set_many(items))
    theirs = Entrant("hdel of each", delete, prepare=lambda calls: _fill_bare(clients, "cleared", items))
    ours.prepare(1), theirs.prepare(1)
    same("clear", ours.work(), theirs.work(), PAGED)
    yield Row("clear 100,000", ours, theirs, calls=1, rounds=3)


def _sides(ours: Callable[[], Any], theirs: Callable[[], Any], name: str) -> tuple[Entrant, Entrant]:
    return Entrant("ours", ours), Entrant(name, theirs)


def _awaited_sides(ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[Entrant, Entrant]:
    return Entrant("ours", ours, awaited=True), Entrant("redis.asyncio", theirs, awaited=True)


def _at_once(*works: Callable[[], Any]) -> Iterator[Entrant]:
    return (replace(side, calls_at_once=AT_ONCE) for side in _awaited_sides(*(_gathered(work) for work in works)))


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
