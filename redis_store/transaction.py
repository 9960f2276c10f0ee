"""Transactions for threads and for asyncio: reads happen at once, writes when the block ends."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, Self

from redis_store.limits import check_max_keys, default_ttl_ms
from redis_store.types import Json, JsonInput, Ttl


class PendingTransaction(Protocol):
    """The reads and pending writes of a transaction. A scope is the namespace of one call."""

    over: bool

    def begin(self) -> None: ...
    def set(self, scope: Any, key: str, value: Any, ttl: Ttl) -> None: ...
    def delete(self, scope: Any, key: str) -> None: ...
    def check(self, scope: Any, key: str, version: int) -> None: ...
    async def get(self, scope: Any, key: str, default: Any) -> Json: ...
    async def commit(self) -> None: ...


class Runner(Protocol):
    """What a transaction needs of a store's operations; `run` returns an awaitable for asyncio."""

    @property
    def scope(self) -> Any: ...
    def run(self, op: Any) -> Any: ...
    def moved(self, name: str, ttl_ms: int | None, max_keys: int | None) -> Runner: ...


class Transaction:
    """A transaction over a user's namespaces: all of its writes are stored, or none if a value it has read has changed.

    Made by `DataStore.transaction`; a context manager. If its block raises, nothing is written.
    """

    def __init__(self, operations: Runner, draft: PendingTransaction) -> None:
        self._operations = operations
        self._draft = draft

    def get(self, key: str, default: Any = None) -> Json:
        """Return the value of a key, or `default` if the key is missing.

        The transaction sees its own writes, and each other key as it first read it.
        """
        return self._operations.run(self._draft.get(self._operations.scope, key, default))

    def set(self, key: str, value: JsonInput, ttl: Ttl = None) -> None:
        """Store a value when the block ends; later reads in the transaction return it. `ttl` as in `DataStore.set`."""
        self._draft.set(self._operations.scope, key, value, ttl)

    def delete(self, key: str) -> None:
        """Delete a key when the block ends; a missing key is no error."""
        self._draft.delete(self._operations.scope, key)

    def check(self, key: str, version: int) -> None:
        """Let the transaction fail unless the key has this version, `KeyInfo.version`, when the block ends; 0: it is missing.

        Then `Conflict` is raised, with the `version` that the key has, and nothing is written. No value is compared, and none is
        read. An external write does not change a version.
        """
        self._draft.check(self._operations.scope, key, version)

    def use_namespace(self, name: str, ttl: Ttl = None, max_keys: int | None = None) -> Transaction:
        """Return a view of this transaction for another namespace of the user; arguments as in `DataStore.use_namespace`."""
        return Transaction(self._operations.moved(name, default_ttl_ms(ttl), check_max_keys(max_keys)), self._draft)

    def __enter__(self) -> Self:
        self._draft.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._operations.run(self._draft.commit())
        self._draft.over = True

    def __repr__(self) -> str:
        return f"<Transaction {self._operations}{' (over)' if self._draft.over else ''}>"


class AsyncTransaction:
    """A transaction over a user's namespaces: all of its writes are stored, or none if a value it has read has changed.

    Made by `AsyncDataStore.transaction`; an asynchronous context manager. If its block raises, nothing is written.
    """

    def __init__(self, operations: Runner, draft: PendingTransaction) -> None:
        self._operations = operations
        self._draft = draft

    async def get(self, key: str, default: Any = None) -> Json:
        """Return the value of a key, or `default` if the key is missing.

        The transaction sees its own writes, and each other key as it first read it.
        """
        return await self._operations.run(self._draft.get(self._operations.scope, key, default))

    def set(self, key: str, value: JsonInput, ttl: Ttl = None) -> None:
        """Store a value when the block ends; later reads in the transaction return it. `ttl` as in `DataStore.set`."""
        self._draft.set(self._operations.scope, key, value, ttl)

    def delete(self, key: str) -> None:
        """Delete a key when the block ends; a missing key is no error."""
        self._draft.delete(self._operations.scope, key)

    def check(self, key: str, version: int) -> None:
        """Let the transaction fail unless the key has this version, `KeyInfo.version`, when the block ends; 0: it is missing.

        Then `Conflict` is raised, with the `version` that the key has, and nothing is written. No value is compared, and none is
        read. An external write does not change a version.
        """
        self._draft.check(self._operations.scope, key, version)

    def use_namespace(self, name: str, ttl: Ttl = None, max_keys: int | None = None) -> AsyncTransaction:
        """Return a view of this transaction for another namespace of the user; arguments as in `DataStore.use_namespace`."""
        return AsyncTransaction(
            self._operations.moved(name, default_ttl_ms(ttl), check_max_keys(max_keys)), self._draft
        )

    async def __aenter__(self) -> Self:
        self._draft.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self._operations.run(self._draft.commit())
        self._draft.over = True

    def __repr__(self) -> str:
        return f"<AsyncTransaction {self._operations}{' (over)' if self._draft.over else ''}>"
