"""A transaction as its block sees it: reads at once, writes when the block ends, for threads and for asyncio."""

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
    """What both sides collect without asking the server."""

    _draft: Draft
    _scope: Scope

    def set(self, key: str, value: JsonInput, ttl: Ttl = None) -> None:
        """Store a value when the transaction ends."""
        self._draft.set(self._scope, key, value, ttl)

    def delete(self, key: str) -> None:
        """Delete a key when the transaction ends, if it is there."""
        self._draft.delete(self._scope, key)


class Transaction(_Writes):
    """Reads and writes in a user's namespaces, written all or nothing, and only if all that was read still stands.

    Made by `DataStore.transaction`; a context manager. A block that raises writes nothing.
    """

    def __init__(self, driver: SyncDriver, scope: Scope, draft: Draft, tx: str) -> None:
        self._driver = driver
        self._scope = scope
        self._draft = draft
        self._tx = tx

    def get(self, key: str, default: Any = None) -> Json:
        """Return the value as this transaction sees it, or `default` where the key is absent."""
        return self._driver.run(self._draft.get(self._scope, key, default))

    def use_namespace(self, name: str, ttl: Ttl = None, max_keys: int | None = None) -> Transaction:
        """Return the same transaction for another namespace of the user."""
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
    """Reads and writes in a user's namespaces, written all or nothing, and only if all that was read still stands.

    Made by `AsyncDataStore.transaction`; an asynchronous context manager. A block that raises writes nothing.
    """

    def __init__(self, driver: AsyncDriver, scope: Scope, draft: Draft, tx: str) -> None:
        self._driver = driver
        self._scope = scope
        self._draft = draft
        self._tx = tx

    async def get(self, key: str, default: Any = None) -> Json:
        """Return the value as this transaction sees it, or `default` where the key is absent."""
        return await self._driver.run(self._draft.get(self._scope, key, default))

    def use_namespace(self, name: str, ttl: Ttl = None, max_keys: int | None = None) -> AsyncTransaction:
        """Return the same transaction for another namespace of the user."""
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
