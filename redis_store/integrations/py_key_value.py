"""py-key-value's store: a collection is a namespace, and its values are plain values, which agents read as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from key_value.aio.errors import DeserializationError, SerializationError, ValueTooLargeError
from key_value.aio.stores.base import (
    BaseContextManagerStore,
    BaseDestroyCollectionStore,
    BaseEnumerateCollectionsStore,
    BaseEnumerateKeysStore,
    ManagedEntry,
)

from redis_store import AsyncDataStore, InvalidValue, KeyInfo, LimitExceeded, StoredDataError, fit_name
from redis_store.integrations.stores import async_store
from redis_store.namespace.fit import CUT
from redis_store.namespace.keys import MAX_NAMESPACE_BYTES

_MOST_NAMES_BYTES = 48 * 1024
"""Names that are kept in metadata, of one call: metadata has at most 64 KiB, and JSON escapes take room."""
_NAMES = "py-key-value"
"""The metadata that has the names that did not fit, each under the name that is stored: a hash cannot be turned back."""


class KeyValueStore(
    BaseContextManagerStore, BaseEnumerateKeysStore, BaseEnumerateCollectionsStore, BaseDestroyCollectionStore
):
    """A py-key-value store, for FastMCP, pydocket and all that takes an `AsyncKeyValue`.

    `store` is an `AsyncDataStore`, which stays open when this is closed, or a url, or None as for `connect_async`: then `user` is
    needed. A collection is the user's namespace of this name. `default_collection` and `seed` are those of `BaseStore`.

    Each call takes one round trip, and `put_many` stores all of its values or none. The server expires values, by its own clock.
    The errors are py-key-value's where it has one for the case; `StoreUnavailable` is a ConnectionError, as its `RetryWrapper`
    expects.
    """

    def __init__(
        self,
        store: AsyncDataStore | str | None = None,
        *,
        user: str | None = None,
        default_collection: str | None = None,
        seed: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    ) -> None:
        self._store, own = async_store(store, user)
        super().__init__(
            client_provided_by_user=not own, default_collection=default_collection, seed=seed, stable_api=True
        )

    async def _setup(self) -> None:
        if not self._client_provided_by_user:
            self._exit_stack.push_async_callback(self._store.close)

    async def get(self, key: str, *, collection: str | None = None) -> dict[str, Any] | None:
        """Return the value of a key, or None. A near cache of the store may have it."""
        collection = collection or self.default_collection
        await self.setup_collection(collection=collection)
        with _errors(collection, key):
            value = await self._namespace(collection).get(fit_name(key))
        return None if value is None else _as_dict(value, collection, key)

    async def get_many(self, keys: Sequence[str], *, collection: str | None = None) -> list[dict[str, Any] | None]:
        """Return the values of the keys, in their order, with None for those that are missing: of one moment."""
        collection = collection or self.default_collection
        await self.setup_collection(collection=collection)
        names = [fit_name(key) for key in keys]
        with _errors(collection):
            found = await self._namespace(collection).get_many(names)
        return [
            None if (value := found.get(name)) is None else _as_dict(value, collection, key)
            for name, key in zip(names, keys, strict=True)
        ]

    async def _get_managed_entry(self, *, collection: str, key: str) -> ManagedEntry | None:
        return (await self._get_managed_entries(collection=collection, keys=[key]))[0]

    async def _get_managed_entries(self, *, collection: str, keys: Sequence[str]) -> list[ManagedEntry | None]:
        names = [fit_name(key) for key in keys]
        with _errors(collection):
            found = await self._namespace(collection).get_many(names, info=True)
        return [_entry(found.get(name), collection, key) for name, key in zip(names, keys, strict=True)]

    async def _put_managed_entry(self, *, collection: str, key: str, managed_entry: ManagedEntry) -> None:
        value, name = dict(managed_entry.value), fit_name(key)
        with _errors(collection, key):
            await self._namespace(collection).set(name, value, _names(collection, {name: key}), _ttl_of(managed_entry))

    async def _put_managed_entries(
        self,
        *,
        collection: str,
        keys: Sequence[str],
        managed_entries: Sequence[ManagedEntry],
        ttl: float | None,
        created_at: datetime,
        expires_at: datetime | None,
    ) -> None:
        names = {fit_name(key): key for key in keys}
        items = {fit_name(key): dict(entry.value) for key, entry in zip(keys, managed_entries, strict=True)}
        with _errors(collection):
            await self._namespace(collection).set_many(items, _names(collection, names), ttl)

    async def _delete_managed_entry(self, *, key: str, collection: str) -> bool:
        return await self._namespace(collection).delete(fit_name(key))

    async def _delete_managed_entries(self, *, keys: Sequence[str], collection: str) -> int:
        return await self._namespace(collection).delete_many({fit_name(key) for key in keys})

    async def _get_collection_keys(self, *, collection: str, limit: int | None = None) -> list[str]:
        namespace = self._namespace(collection)
        names = (await namespace.list_keys())[: _bound(limit)]
        cut = [name for name in names if CUT.search(name)]
        if not cut:
            return names
        infos = {name: info for name, (_, info) in (await namespace.get_many(cut, info=True)).items()}
        return [_original(infos.get(name), name) for name in names]

    async def _get_collection_names(self, *, limit: int | None = None) -> list[str]:
        names = (await self._store.list_namespaces())[: _bound(limit)]
        return [await self._collection_of(name) if CUT.search(name) else name for name in names]

    async def _collection_of(self, name: str) -> str:
        namespace = self._store.use_namespace(name)
        async for key in namespace.iter_keys():
            return _original(await namespace.info(key), name)
        return name

    async def _delete_collection(self, *, collection: str) -> bool:
        return await self._namespace(collection).clear() > 0

    def _namespace(self, collection: str) -> AsyncDataStore:
        return self._store.use_namespace(fit_name(collection, MAX_NAMESPACE_BYTES))


class _LivingEntry(ManagedEntry):
    """An entry that the server has returned: whether it has expired was decided there, not by the clock here."""

    @property
    def is_expired(self) -> bool:
        return False

    @property
    def ttl(self) -> float | None:
        return None if (left := super().ttl) is None else max(left, 0.0)


def _entry(found: tuple[Any, KeyInfo] | None, collection: str, key: str) -> ManagedEntry | None:
    if found is None or found[0] is None:
        return None
    value, info = found
    return _LivingEntry(value=_as_dict(value, collection, key), created_at=info.created_at, expires_at=info.expires_at)


def _as_dict(value: Any, collection: str, key: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise DeserializationError(
        "Another program has stored a value that is no object: delete it, or read it with a DataStore",
        {"collection": collection, "key": key, "type": type(value).__name__},
    )


def _ttl_of(entry: ManagedEntry) -> float | None:
    """Return the ttl that was asked for: `entry.ttl` has shrunk since."""
    if entry.expires_at is None or entry.created_at is None:
        return entry.ttl
    return (entry.expires_at - entry.created_at).total_seconds()


def _bound(limit: int | None) -> int | None:
    return None if limit is None else max(limit, 0)


def _names(collection: str, keys: dict[str, str]) -> dict[str, Any] | None:
    """Return the metadata that has the names that did not fit, or None, as nearly always. Longer ones cannot be listed."""
    collections = {fit_name(collection, MAX_NAMESPACE_BYTES): collection}
    cut = {name: original for name, original in (collections | keys).items() if name != original}
    if not cut:
        return None
    texts = {name: original for name, original in cut.items() if _is_text(original)}
    while sum(len(name) + len(original.encode()) for name, original in texts.items()) > _MOST_NAMES_BYTES:
        texts.popitem()
    return {_NAMES: texts} if texts else None


def _is_text(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _original(info: KeyInfo | None, name: str) -> str:
    names = info.metadata.get(_NAMES) if info else None
    original = names.get(name) if isinstance(names, dict) else None
    return original if isinstance(original, str) else name


@contextmanager
def _errors(collection: str, key: str | None = None) -> Iterator[None]:
    """Raise the errors of py-key-value for those of the store that it has a class for."""
    try:
        yield
    except InvalidValue as error:
        raise SerializationError(str(error), {"collection": collection, "key": key}) from error
    except StoredDataError as error:
        raise DeserializationError(str(error), {"collection": collection, "key": key}) from error
    except LimitExceeded as error:
        if error.limit not in ("max_value_bytes", "max_batch_bytes"):
            raise
        facts = error.facts
        raise ValueTooLargeError(facts["size_bytes"], facts["limit_bytes"], collection, key) from error
