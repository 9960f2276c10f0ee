"""Transactions for threads and for asyncio: reads happen at once, writes when the block ends."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from redis_store.drivers.aio import AsyncDriver
from redis_store.drivers.sync import SyncDriver
from redis_store.limits import check_max_keys
from redis_store.namespace.scope import Scope
from redis_store.ops import values
from redis_store.ops.transactions import Draft, commit
from redis_store.types import Json, JsonInput, Ttl

__all__ = ["AsyncTransaction", "Transaction"]


class _Writes:
    """Writes that are collected until the block ends, for threads and asyncio."""

    _draft: Draft
    _scope: Scope

    def set(self, key: str, value: JsonInput, ttl: Ttl = None) -> None:
        """Store a value when the block ends; later reads in the transaction return it. `ttl` as in `DataStore.set`."""
        self._draft.set(self._scope, key, value, ttl)

    def delete(self, key: str) -> None:
        """Delete a key when the block ends; a missing key is no error."""
        self._draft.delete(self._scope, key)


class Transaction(_Writes):
    """A transaction over a user's namespaces: all of its writes are stored, or none if a value it has read has changed.

    Made by `DataStore.transaction`; a context manager. If its block raises, nothing is written.
    """

    def __init__(self, driver: SyncDriver, scope: Scope, draft: Draft, tx: str) -> None:
        self._driver = driver
        self._scope = scope
        self._draft = draft
        self._tx = tx

    def get(self, key: str, default: Any = None) -> Json:
        """Return the value of a key, or `default` if the key is missing.

        The transaction sees its own writes, and each other key as it first read it.
        """
        return self._driver.run(self._draft.get(self._scope, key, default))

    def use_namespace(self, name: str, ttl: Ttl = None, max_keys: int | None = None) -> Transaction:
        """Return a view of this transaction for another namespace of the user; arguments as in `DataStore.use_namespace`."""
        scope = self._scope.moved(name, values.default_ttl(ttl), check_max_keys(max_keys))
        return Transaction(self._driver, scope, self._draft, self._tx)

    def __enter__(self) -> Self:
        self._draft.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._driver.run(commit(self._draft, self._tx))
        self._draft.over = True


class AsyncTransaction(_Writes):
    """A transaction over a user's namespaces: all of its writes are stored, or none if a value it has read has changed.

    Made by `AsyncDataStore.transaction`; an asynchronous context manager. If its block raises, nothing is written.
    """

    def __init__(self, driver: AsyncDriver, scope: Scope, draft: Draft, tx: str) -> None:
        self._driver = driver
        self._scope = scope
        self._draft = draft
        self._tx = tx

    async def get(self, key: str, default: Any = None) -> Json:
        """Return the value of a key, or `default` if the key is missing.

        The transaction sees its own writes, and each other key as it first read it.
        """
        return await self._driver.run(self._draft.get(self._scope, key, default))

    def use_namespace(self, name: str, ttl: Ttl = None, max_keys: int | None = None) -> AsyncTransaction:
        """Return a view of this transaction for another namespace of the user; arguments as in `DataStore.use_namespace`."""
        scope = self._scope.moved(name, values.default_ttl(ttl), check_max_keys(max_keys))
        return AsyncTransaction(self._driver, scope, self._draft, self._tx)

    async def __aenter__(self) -> Self:
        self._draft.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self._driver.run(commit(self._draft, self._tx))
        self._draft.over = True
