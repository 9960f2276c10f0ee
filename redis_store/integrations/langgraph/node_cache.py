"""LangGraph's cache of the results of nodes: each of its namespaces is one of the user's."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.cache.base import BaseCache, FullKey, Namespace, ValueT
from langgraph.checkpoint.serde.base import SerializerProtocol

from redis_store import AsyncDataStore, DataStore, Json, bytes_from_json, bytes_to_json, fit_name
from redis_store.integrations.langgraph.sides import Sides
from redis_store.types import OnError


class LangGraphCache(Sides, BaseCache[ValueT]):
    """A LangGraph cache in the user's namespaces that begin with ``<prefix>/cache/``, made with a store, or a url and `user`.

    A ttl is in seconds. With ``on_error="compute"`` nothing is found while the store is unavailable, and a warning is logged.
    """

    def __init__(
        self,
        store: DataStore | AsyncDataStore | str | None = None,
        *,
        user: str | None = None,
        prefix: str = "langgraph",
        serde: SerializerProtocol | None = None,
        on_error: OnError = "raise",
    ) -> None:
        super().__init__(serde=serde)
        self._prefix = f"{prefix}/cache/"
        self._on_error: OnError = on_error
        self.open_sides(store, user)

    def get(self, keys: Sequence[FullKey]) -> dict[FullKey, ValueT]:
        """Return the cached values of the keys that have one. A value that the serializer cannot read counts as missing."""
        return self.run(lambda store: self._get(store, keys))

    async def aget(self, keys: Sequence[FullKey]) -> dict[FullKey, ValueT]:
        """Return the cached values of the keys that have one, as `get` does."""
        return await self.arun(lambda store: self._get(store, keys))

    def set(self, pairs: Mapping[FullKey, tuple[ValueT, int | None]]) -> None:
        """Store values with their ttl in seconds, or None."""
        self.run(lambda store: self._set(store, pairs))

    async def aset(self, pairs: Mapping[FullKey, tuple[ValueT, int | None]]) -> None:
        """Store values with their ttl in seconds, or None."""
        await self.arun(lambda store: self._set(store, pairs))

    def clear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """Delete all values of these namespaces, or of all that the cache has. Namespaces below them stay."""
        self.run(lambda store: self._clear(store, namespaces))

    async def aclear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """Delete all values of these namespaces, or of all that the cache has. Namespaces below them stay."""
        await self.arun(lambda store: self._clear(store, namespaces))

    def _at(self, store: AsyncDataStore, namespace: Namespace) -> AsyncDataStore:
        name = self._prefix + json.dumps(list(namespace), separators=(",", ":"))
        return store.use_namespace(fit_name(name, 1024), on_error=self._on_error)

    async def _get(self, store: AsyncDataStore, keys: Sequence[FullKey]) -> dict[FullKey, ValueT]:
        wanted: defaultdict[Namespace, dict[str, str]] = defaultdict(dict)
        for namespace, key in keys:
            wanted[tuple(namespace)][fit_name(key)] = key
        found: dict[FullKey, ValueT] = {}
        for namespace, names in wanted.items():
            for name, row in (await self._at(store, namespace).get_many(names)).items():
                try:
                    found[namespace, names[name]] = self._load(row)
                except Exception:  # written by another version or serializer: computed anew
                    continue
        return found

    async def _set(self, store: AsyncDataStore, pairs: Mapping[FullKey, tuple[ValueT, int | None]]) -> None:
        groups: defaultdict[tuple[Namespace, int | None], dict[str, Json]] = defaultdict(dict)
        for (namespace, key), (value, ttl) in pairs.items():
            kind, data = self.serde.dumps_typed(value)
            groups[tuple(namespace), ttl][fit_name(key)] = [kind, bytes_to_json(data)]
        for (namespace, ttl), rows in groups.items():
            await self._at(store, namespace).set_many(rows, ttl=ttl)

    async def _clear(self, store: AsyncDataStore, namespaces: Sequence[Namespace] | None) -> None:
        if namespaces is not None:
            for namespace in namespaces:
                await self._at(store, namespace).clear()
            return
        for name in await store.list_namespaces(prefix=self._prefix):
            await store.use_namespace(name).clear()

    def _load(self, row: Any) -> ValueT:
        kind, data = row
        return self.serde.loads_typed((kind, bytes_from_json(data)))
