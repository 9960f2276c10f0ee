"""LangGraph's store: a namespace of the user's for each of its own, and beside it one for the vectors of a search by meaning.

A namespace ``("users", "ada")`` is ``<prefix>/items/users.ada``: labels contain no dots. A value is an object with the item as
``value``, its ttl in minutes as ``ttl`` if it has one, and ``key`` and ``path`` as JSON texts where those do not fit as names.
Its vectors are the value of the same key in ``<prefix>/vectors/users.ada``. Both are written by one transaction.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any, NamedTuple, TypeVar

from langchain_core.embeddings import Embeddings
from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    validate_op_namespace,
)

from redis_store import AsyncDataStore, DataStore, InvalidInput, Json, KeyInfo, fit_name
from redis_store.integrations.langgraph.filters import fits, matches
from redis_store.integrations.langgraph.vectors import Embedder, Vector, best_scores, vector_to_json
from redis_store.integrations.sides import Sides
from redis_store.namespace.keys import MAX_NAMESPACE_BYTES

PUTS_PER_TRANSACTION = 300
"""Maximum number of items that one transaction writes: each is two values, in two namespaces."""

KEYS_NEAR = 100
"""Number of keys that a search reads at once: those of which a near cache answers."""

KEYS_IN_ONE_READ = 8
"""Number of keys that are read at once from the server rather than in two steps."""

NARROWING_CHARACTERS = 100
"""Maximum number of characters of a prefix that the server compares: names that were cut still begin with them."""

UNSCORED = -2.0
"""The rank of an item without a vector, below that of any similarity."""

_UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)
"""The times of a value that was written by hand."""


class ItemNamespace(NamedTuple):
    """A LangGraph namespace, and the part of a store namespace's name that stands for it."""

    path: tuple[str, ...]
    name: str


class FoundItem(NamedTuple):
    """A value that a search has found."""

    place: ItemNamespace
    name: str
    row: Any
    info: KeyInfo
    score: float | None = None


class LangGraphStore(Sides, BaseStore):
    """A LangGraph store in the user's namespaces that begin with ``<prefix>/items/``, made with a store, or a url and `user`.

    `index` is that of LangGraph's own stores; ``embed=`` is short for ``index={"embed": embed}``. Vectors are compared in this
    process: pass a store with ``near_cache=True``, and those that did not change are not read again. `ttl` is a `TTLConfig`.
    """

    supports_ttl = True

    def __init__(
        self,
        store: DataStore | AsyncDataStore | str | None = None,
        *,
        user: str | None = None,
        prefix: str = "langgraph",
        index: IndexConfig | None = None,
        embed: Embeddings | Callable[[Sequence[str]], Any] | str | None = None,
        ttl: TTLConfig | None = None,
    ) -> None:
        super().__init__()
        if embed is not None:
            if index is not None and "embed" in index:
                raise InvalidInput("Both embed= and an index with embed were passed: pass one of them.")
            index = {**(index or {}), "embed": embed}  # type: ignore[typeddict-item]
        self._items = f"{prefix}/items/"
        self._vectors = f"{prefix}/vectors/"
        self._embedder = None if index is None else Embedder(index)
        self.index_config = index
        self.ttl_config = ttl
        self.open_sides(store, user, near_cache=index is not None)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out operations: the reads first, then the puts, of which the last of each item counts.

        The puts of up to 300 items are one transaction, more are several.
        """
        ops, texts, queries = self._prepared(ops)
        vectors, wanted = {}, {}
        if self._embedder is not None and (texts or queries):
            embeddings = self._embedder.embeddings
            vectors = self._embedder.units(texts, embeddings.embed_documents(texts) if texts else [])
            wanted = {query: self._embedder.unit(embeddings.embed_query(query)) for query in queries}
        return self.run(lambda store: self._carry_out(store, ops, vectors, wanted))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out operations, as `batch` does."""
        ops, texts, queries = self._prepared(ops)
        vectors, wanted = {}, {}
        if self._embedder is not None and (texts or queries):
            embeddings = self._embedder.embeddings
            vectors = self._embedder.units(texts, await embeddings.aembed_documents(texts) if texts else [])
            embedded = await asyncio.gather(*(embeddings.aembed_query(query) for query in queries))
            wanted = {q: self._embedder.unit(numbers) for q, numbers in zip(queries, embedded, strict=True)}
        return await self.arun(lambda store: self._carry_out(store, ops, vectors, wanted))

    def _prepared(self, ops: Iterable[Op]) -> tuple[list[Op], list[str], list[str]]:
        """Return checked operations, and the texts and queries to embed."""
        checked = list(ops)
        texts: dict[str, None] = {}
        queries: dict[str, None] = {}
        for op in checked:
            if not isinstance(op, (GetOp, SearchOp, PutOp, ListNamespacesOp)):
                raise InvalidInput(
                    f"A store carries out GetOp, SearchOp, PutOp and ListNamespacesOp, not {type(op).__name__}."
                )
            validate_op_namespace(op)
            if isinstance(op, PutOp) and op.value is not None and not op.namespace:
                raise InvalidInput("An item needs a namespace: pass at least one label.")
            if isinstance(op, (SearchOp, ListNamespacesOp)) and min(op.limit, op.offset) < 0:
                raise InvalidInput(f"limit and offset are at least 0, not {op.limit} and {op.offset}.")
            if self._embedder is not None and isinstance(op, PutOp):
                texts |= dict.fromkeys(self._embedder.texts_of(op))
            if isinstance(op, SearchOp) and op.query:
                queries[op.query] = None
        return checked, list(texts), list(queries)

    async def _carry_out(
        self, store: AsyncDataStore, ops: list[Op], vectors: dict[str, Vector], queries: dict[str, Vector]
    ) -> list[Result]:
        results: list[Result] = [None] * len(ops)
        gets: defaultdict[tuple[str, ...], dict[int, GetOp]] = defaultdict(dict)
        puts: dict[tuple[tuple[str, ...], str], PutOp] = {}
        for number, op in enumerate(ops):
            if isinstance(op, GetOp):
                gets[op.namespace][number] = op
            elif isinstance(op, PutOp):
                puts[op.namespace, op.key] = op
        for path, of_path in gets.items():
            for number, item in (await self._get(store, self._place(path), of_path)).items():
                results[number] = item
        for number, op in enumerate(ops):
            if isinstance(op, SearchOp):
                results[number] = await self._search(store, op, queries.get(op.query or ""))
            elif isinstance(op, ListNamespacesOp):
                results[number] = await self._list(store, op)
        await self._put(store, list(puts.values()), vectors)
        return results

    async def _get(self, store: AsyncDataStore, place: ItemNamespace, ops: dict[int, GetOp]) -> dict[int, Item]:
        names = {number: fit_name(op.key) for number, op in ops.items()}
        rows = await store.use_namespace(place.name).get_many(list(dict.fromkeys(names.values())), info=True)
        refreshed = [name for number, name in names.items() if ops[number].refresh_ttl]
        await self._refresh(store, place, {name: rows[name][0] for name in refreshed if name in rows})
        found = {number: _item(Item, place, name, *rows[name]) for number, name in names.items() if name in rows}
        return {number: item for number, item in found.items() if item is not None}

    async def _put(self, store: AsyncDataStore, puts: list[PutOp], vectors: dict[str, Vector]) -> None:
        for start in range(0, len(puts), PUTS_PER_TRANSACTION):
            some = puts[start : start + PUTS_PER_TRANSACTION]

            async def write(transaction: Any, some: list[PutOp] = some) -> None:
                for op in some:
                    place, key = self._place(op.namespace), fit_name(op.key)
                    items = transaction.use_namespace(place.name)
                    beside = transaction.use_namespace(self._beside(place))
                    ttl = None if op.ttl is None else op.ttl * 60
                    if op.value is None:
                        items.delete(key)
                    else:
                        items.set(key, self._row(place, key, op), ttl=ttl)
                    texts = [] if self._embedder is None else self._embedder.texts_of(op)
                    if texts:
                        beside.set(key, [vector_to_json(vectors[text]) for text in texts], ttl=ttl)
                    else:
                        beside.delete(key)

            await store.transact(write)

    def _row(self, place: ItemNamespace, key: str, op: PutOp) -> dict[str, Json]:
        row: dict[str, Json] = {"value": dict(op.value or {})}
        if op.ttl is not None:
            row["ttl"] = op.ttl
        if key != op.key:
            row["key"] = json.dumps(op.key)
        if place.name != self._items + ".".join(place.path):
            row["path"] = json.dumps(place.path)
        return row

    async def _refresh(self, store: AsyncDataStore, place: ItemNamespace, rows: dict[str, Json]) -> None:
        """Let the ttl of the items that have one begin anew. One that was just stored without a ttl gets none."""
        groups: defaultdict[float, list[str]] = defaultdict(list)
        for key, row in rows.items():
            minutes = row.get("ttl") if isinstance(row, dict) else None
            if isinstance(minutes, (int, float)) and minutes > 0:
                groups[minutes].append(key)
        for minutes, keys in groups.items():
            names = [place.name] if self._embedder is None else [place.name, self._beside(place)]
            for name in names:
                await store.use_namespace(name, ttl=minutes * 60, sliding=True).get_many(keys)

    async def _search(self, store: AsyncDataStore, op: SearchOp, query: Vector | None) -> list[SearchItem]:
        places = await self._places(store, op.namespace_prefix)
        if query is not None:
            hits = await self._nearest(store, places, op, query)
        elif op.filter:
            hits = await self._filtered(store, places, op)
        else:
            hits = await self._first(store, places, op)
        if op.refresh_ttl:
            rows: defaultdict[ItemNamespace, dict[str, Json]] = defaultdict(dict)
            for hit in hits:
                rows[hit.place][hit.name] = hit.row
            for place, of_place in rows.items():
                await self._refresh(store, place, of_place)
        items = (_item(SearchItem, hit.place, hit.name, hit.row, hit.info, score=hit.score) for hit in hits)
        return [item for item in items if item is not None]

    async def _first(self, store: AsyncDataStore, places: list[ItemNamespace], op: SearchOp) -> list[FoundItem]:
        """Return the items that are wanted, in the order of namespaces and keys; no other values are read."""
        hits: list[FoundItem] = []
        skipped = 0
        for place in places:
            if len(hits) >= op.limit:
                break
            at = store.use_namespace(place.name)
            keys = sorted(await at.list_keys())
            wanted = keys[max(0, op.offset - skipped) :][: op.limit - len(hits)]
            skipped += len(keys) - len(wanted)
            if wanted:
                rows = await at.get_many(wanted, info=True)
                hits += [FoundItem(place, name, row, info) for name, (row, info) in rows.items()]
        return hits

    async def _filtered(self, store: AsyncDataStore, places: list[ItemNamespace], op: SearchOp) -> list[FoundItem]:
        """Return the items that fit, in the order of namespaces and keys."""
        hits: list[FoundItem] = []
        for place in places:
            if len(hits) >= op.offset + op.limit:
                break
            rows = await store.use_namespace(place.name).get_all(info=True)
            hits += [FoundItem(place, name, row, info) for name, (row, info) in sorted(rows.items()) if _fits(row, op)]
        return hits[op.offset :][: op.limit]

    async def _nearest(
        self, store: AsyncDataStore, places: list[ItemNamespace], op: SearchOp, query: Vector
    ) -> list[FoundItem]:
        """Return the items that fit, the most similar first, and those without a vector after them."""
        ranked: list[tuple[float, ItemNamespace, str]] = []
        scores: dict[tuple[ItemNamespace, str], float] = {}
        for place in places:
            at = store.use_namespace(place.name)
            keys = sorted(await at.list_keys())
            if op.filter:
                keys = [name for name, row in (await _read(at, keys)).items() if _fits(row, op)]
            best = best_scores(query, await _read(store.use_namespace(self._beside(place)), keys))
            scores |= {(place, name): score for name, score in best.items()}
            ranked += [(-best.get(name, UNSCORED), place, name) for name in keys]
        ranked.sort()
        wanted = [(place, name) for _, place, name in ranked[op.offset :][: op.limit]]
        of_place: defaultdict[ItemNamespace, list[str]] = defaultdict(list)
        for place, name in wanted:
            of_place[place].append(name)
        rows = {
            (place, name): pair
            for place, names in of_place.items()
            for name, pair in (await store.use_namespace(place.name).get_many(names, info=True)).items()
        }
        return [FoundItem(*each, *rows[each], scores.get(each)) for each in wanted if each in rows]

    async def _list(self, store: AsyncDataStore, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        conditions = op.match_conditions or ()
        prefix: tuple[str, ...] = ()
        for condition in conditions:
            if condition.match_type == "prefix":
                prefix = tuple(takewhile(lambda label: label != "*", condition.path))
        paths = [place.path for place in await self._places(store, prefix)]
        paths = [path for path in paths if all(matches(path, condition) for condition in conditions)]
        if op.max_depth is not None:
            paths = sorted({path[: op.max_depth] for path in paths})
        return paths[op.offset :][: op.limit]

    def _place(self, path: tuple[str, ...]) -> ItemNamespace:
        return ItemNamespace(tuple(path), fit_name(self._items + ".".join(path), MAX_NAMESPACE_BYTES))

    def _beside(self, place: ItemNamespace) -> str:
        """Return the name of the namespace for vectors."""
        return fit_name(self._vectors + ".".join(place.path), MAX_NAMESPACE_BYTES)

    async def _places(self, store: AsyncDataStore, prefix: tuple[str, ...]) -> list[ItemNamespace]:
        """Return the namespaces that hold items and begin with these labels, in order."""
        places = []
        for name in await store.list_namespaces(prefix=self._items + _narrowing(prefix)):
            path: tuple[str, ...] | None = tuple(name.removeprefix(self._items).split("."))
            if fit_name(name, MAX_NAMESPACE_BYTES) != name:  # it ends like a name that was made to fit
                path = await _written_path(store.use_namespace(name))
            if path is not None and path[: len(prefix)] == tuple(prefix):
                places.append(ItemNamespace(path, name))
        return sorted(places)


def _narrowing(prefix: tuple[str, ...]) -> str:
    """Return what the names of the namespaces that begin with these labels begin with."""
    text = ".".join(prefix)[:NARROWING_CHARACTERS]
    return text if text.isprintable() else ""  # a lone surrogate, among others, is in no name


async def _written_path(at: AsyncDataStore) -> tuple[str, ...] | None:
    """Return the labels of a namespace whose name was made to fit, from one of its items."""
    async for row in _some_values(at):
        if isinstance(row, dict) and isinstance(row.get("path"), str):
            return tuple(json.loads(row["path"]))
    return None


async def _some_values(at: AsyncDataStore) -> AsyncIterator[Json]:
    keys = await at.list_keys()
    for start in range(0, len(keys), KEYS_NEAR):
        for row in (await at.get_many(keys[start : start + KEYS_NEAR])).values():
            yield row


async def _read(at: AsyncDataStore, keys: list[str]) -> dict[str, Json]:
    """Return values in steps that a near cache can answer: all but the first, which asks the server after the listing of keys."""
    first = 1 if len(keys) > KEYS_IN_ONE_READ else 0
    rows = await at.get_many(keys[:first])
    for start in range(first, len(keys), KEYS_NEAR):
        rows |= await at.get_many(keys[start : start + KEYS_NEAR])
    return rows


def _fits(row: Json, op: SearchOp) -> bool:
    value = row.get("value") if isinstance(row, dict) else None
    return isinstance(value, dict) and fits(value, op.filter)


ItemT = TypeVar("ItemT", bound=Item)


def _item(kind: type[ItemT], place: ItemNamespace, name: str, row: Json, info: KeyInfo, **more: Any) -> ItemT | None:
    """Return an item; None for a value that no store of LangGraph's has written."""
    if not isinstance(row, dict) or not isinstance(row.get("value"), dict):
        return None
    return kind(
        namespace=place.path,
        key=json.loads(row["key"]) if "key" in row else name,
        value=row["value"],
        created_at=info.created_at or _UNKNOWN_TIME,
        updated_at=info.updated_at or info.created_at or _UNKNOWN_TIME,
        **more,
    )
