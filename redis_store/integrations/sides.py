"""One body for both sides: functions that await a store, run on a blocking store or on one for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar, cast

from redis_store import AsyncDataStore, DataStore, InvalidInput, InvalidType, connect, connect_async

T = TypeVar("T")

Body = Callable[[AsyncDataStore], Coroutine[Any, Any, T]]
"""A function that does its work with the store that it is given, and awaits nothing else."""


def finish(body: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that awaits only calls that never wait, and return its result."""
    try:
        body.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    body.close()
    raise RuntimeError("A body for both sides may await the calls of its store only.")


class AwaitedTransaction:
    """A blocking transaction with a `get` that can be awaited."""

    def __init__(self, transaction: Any) -> None:
        self._transaction = transaction

    async def get(self, key: str, default: Any = None) -> Any:
        return self._transaction.get(key, default)

    def use_namespace(self, name: str) -> AwaitedTransaction:
        return AwaitedTransaction(self._transaction.use_namespace(name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction, name)


class AwaitedStore:
    """A blocking store whose calls can be awaited. Each is over when it is awaited, so `finish` runs what uses them."""

    def __init__(self, store: DataStore) -> None:
        self._store = store

    def use_namespace(self, name: str, **options: Any) -> AwaitedStore:
        return AwaitedStore(self._store.use_namespace(name, **options))

    async def transact(self, function: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        return self._store.transact(lambda transaction: finish(function(AwaitedTransaction(transaction))))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AwaitedTransaction]:
        with self._store.transaction() as transaction:
            yield AwaitedTransaction(transaction)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return call


def awaited(store: DataStore) -> AsyncDataStore:
    """Return a blocking store as what a body for both sides takes."""
    return cast(AsyncDataStore, AwaitedStore(store))


class Sides:
    """The blocking store and the store for asyncio behind an adapter; a mixin with its `close`, `aclose` and `with`.

    An adapter made with a `DataStore` runs its asynchronous calls in threads, one with an `AsyncDataStore` has no blocking ones,
    and one with a url, or with a user alone, opens both stores and closes them.
    """

    def open_sides(self, store: DataStore | AsyncDataStore | str | None, user: str | None, **options: Any) -> None:
        """Take a store, or open both for a url and a user, as `connect` does."""
        name = type(self).__name__
        self._blocking: DataStore | None = None
        self._async: AsyncDataStore | None = None
        self._owned = False
        if store is None or isinstance(store, str):
            if user is None:
                raise InvalidInput(
                    f"{name} got neither a store nor a user: pass a store, or user=, whose data this is."
                )
            self._async = connect_async(store, user=user, **options)
            self._blocking = connect(store, user=user, **options)
            self._owned = True
        elif user is not None:
            raise InvalidInput(f"{name} got a store and user={user!r}: the store has its user, so pass one of them.")
        elif isinstance(store, DataStore):
            self._blocking = store
        elif isinstance(store, AsyncDataStore):
            self._async = store
        else:
            raise InvalidType(f"{name} takes a DataStore, an AsyncDataStore or a url, not a {type(store).__name__}.")

    def run(self, body: Body[T]) -> T:
        """Run a body on the blocking store."""
        if self._blocking is None:
            raise InvalidInput(
                f"A blocking call on a {type(self).__name__} with an AsyncDataStore: await the call that begins with a,"
                " or make it with a DataStore or a url."
            )
        return finish(body(awaited(self._blocking)))

    async def arun(self, body: Body[T]) -> T:
        """Run a body on the store for asyncio, else in a thread on the blocking one."""
        if self._async is not None:
            return await body(self._async)
        return await asyncio.to_thread(self.run, body)

    def close(self) -> None:
        """Close the blocking store that was opened for a url. `aclose` closes both."""
        if self._owned and self._blocking is not None:
            self._blocking.close()

    async def aclose(self) -> None:
        """Close the stores that were opened for a url. A store that was passed stays open."""
        self.close()
        if self._owned and self._async is not None:
            await self._async.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
