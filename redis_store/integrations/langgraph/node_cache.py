"""LangGraph's cache of the results of nodes: one namespace of the user's, so that all nodes of a step are one round trip."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.cache.base import BaseCache, FullKey, Namespace, ValueT
from langgraph.checkpoint.serde.base import SerializerProtocol

from redis_store import AsyncDataStore, DataStore, Json, StoreUnavailable, bytes_from_json, bytes_to_json, fit_name
from redis_store.flows.compute_once import check_on_error
from redis_store.integrations.sides import Sides
from redis_store.types import OnError

logger = logging.getLogger(__name__)

NAMESPACE_BYTES = 16_384
"""Maximum bytes of a LangGraph namespace in a key; of a longer one there is a hash."""


class LangGraphCache(Sides, BaseCache[ValueT]):
    """A LangGraph cache in the user's namespace ``<prefix>/cache``, made with a store, or a url and `user`.

    A ttl is in seconds. With ``on_error="compute"``, nothing is found or stored while the store is unavailable, and a warning is
    logged.
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
        check_on_error(on_error)
        self._name = f"{prefix}/cache"
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

    def _at(self, store: AsyncDataStore) -> AsyncDataStore:
        return store.use_namespace(self._name, on_error=self._on_error)

    async def _get(self, store: AsyncDataStore, keys: Sequence[FullKey]) -> dict[FullKey, ValueT]:
        wanted = {_name_of(namespace, key): (tuple(namespace), key) for namespace, key in keys}
        found: dict[FullKey, ValueT] = {}
        for name, row in (await self._at(store).get_many(wanted)).items():
            try:
                found[wanted[name]] = self._load(row)
            except Exception as error:  # of any serializer
                logger.debug("The cached value of %r cannot be read, and counts as missing: %r", name, error)
        return found

    async def _set(self, store: AsyncDataStore, pairs: Mapping[FullKey, tuple[ValueT, int | None]]) -> None:
        groups: defaultdict[int | None, dict[str, Json]] = defaultdict(dict)
        for (namespace, key), (value, ttl) in pairs.items():
            kind, data = self.serde.dumps_typed(value)
            groups[ttl][_name_of(namespace, key)] = [kind, bytes_to_json(data)]
        for ttl, rows in groups.items():
            try:
                await self._at(store).set_many(rows, ttl=ttl)
            except StoreUnavailable as error:
                if self._on_error == "raise":
                    raise
                logger.warning("%d results of nodes were not cached: %s", len(rows), error)

    async def _clear(self, store: AsyncDataStore, namespaces: Sequence[Namespace] | None) -> None:
        at = self._at(store)
        if namespaces is None:
            await at.clear()
            return
        names = [name for namespace in namespaces for name in await at.list_keys(_beginning_of(namespace))]
        await at.delete_many(names)

    def _load(self, row: Any) -> ValueT:
        kind, data = row
        return self.serde.loads_typed((kind, bytes_from_json(data)))


def _beginning_of(namespace: Namespace) -> str:
    """Return what the keys of a namespace, and no others, begin with: its labels as JSON."""
    return fit_name(json.dumps(list(namespace)), NAMESPACE_BYTES) + " "


def _name_of(namespace: Namespace, key: str) -> str:
    return fit_name(_beginning_of(namespace) + key)
