"""The mapping protocol over a store's methods: ``store[key]``, ``in``, ``len``, iteration, ``del``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import ItemsView, Iterator, KeysView, MutableMapping, ValuesView
from typing import Any

from redis_store.types import Json

_ABSENT = object()


class StoreMapping(MutableMapping[str, Json]):
    """A namespace as a dict of its keys, built on the methods of a store without further round trips.

    It differs from a dict in two ways. A store is true even if its namespace is empty, because agents test
    ``if data_store`` to see whether they have one. Two stores are equal only if they are the same object.
    """

    @abstractmethod
    def get(self, key: str, default: Any = None) -> Json: ...

    @abstractmethod
    def set(self, key: str, value: Any) -> None: ...

    @abstractmethod
    def delete(self, key: str) -> bool: ...

    @abstractmethod
    def set_if_absent(self, key: str, value: Any) -> bool: ...

    @abstractmethod
    def set_many(self, items: dict[str, Any]) -> int: ...

    @abstractmethod
    def clear(self) -> int: ...  # type: ignore[override]  # a store's returns the number of keys

    @abstractmethod
    def iter_keys(self) -> Iterator[str]: ...

    @abstractmethod
    def iter_items(self) -> Iterator[tuple[str, Json]]: ...

    @abstractmethod
    def contains(self, key: str) -> bool: ...

    @abstractmethod
    def count(self) -> int: ...

    def __getitem__(self, key: str) -> Json:
        value = self.get(key, _ABSENT)
        if value is _ABSENT:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self.set(key, value)

    def __delitem__(self, key: str) -> None:
        if not self.delete(key):
            raise KeyError(key)

    def popitem(self) -> tuple[str, Json]:
        """Delete any key, and return it and its value; of concurrent callers, one gets it. Raise KeyError if there is none."""
        for key in self:
            value = self.pop(key, _ABSENT)
            if value is not _ABSENT:
                return key, value
        raise KeyError("popitem(): the namespace is empty")

    def setdefault(self, key: str, default: Any = None) -> Json:
        """Return the value of a key; if it is missing, store `default`, without replacing what another writer has stored."""
        while True:
            value = self.get(key, _ABSENT)
            if value is not _ABSENT:
                return value
            if self.set_if_absent(key, default):
                return default

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key != "" and self.contains(key)

    def __len__(self) -> int:
        return self.count()

    def __iter__(self) -> Iterator[str]:
        return self.iter_keys()

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def keys(self) -> KeysView[str]:
        """Return a view of the keys that reads page by page."""
        return KeysView(self)

    def items(self) -> ItemsView[str, Json]:
        """Return a view of the keys and values that reads page by page."""
        return _Items(self)

    def values(self) -> ValuesView[Json]:
        """Return a view of the values that reads page by page."""
        return _Values(self)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Store the items of a mapping or of pairs, all or none; arguments as in `dict.update`."""
        self.set_many(dict(*args, **kwargs))


class _Items(ItemsView[str, Json]):
    """Reads pages of items; the standard library's view would get each key by itself."""

    _mapping: StoreMapping

    def __iter__(self) -> Iterator[tuple[str, Json]]:
        return self._mapping.iter_items()


class _Values(ValuesView[Json]):
    """Reads pages of items; the standard library's view would get each key by itself."""

    _mapping: StoreMapping

    def __iter__(self) -> Iterator[Json]:
        return (value for _, value in self._mapping.iter_items())
