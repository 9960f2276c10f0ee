"""`AsyncAdmin`, operations over all users for asyncio: the methods of `Admin`, awaited, over the same walks and operations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from types import TracebackType
from typing import Self, TypeVar, Unpack

from redis_store.admin import audit, usage
from redis_store.admin.operator import operator_name
from redis_store.admin.records import AuditEntry, NamespaceUsage, UserUsage
from redis_store.admin.sync import Collector
from redis_store.admin.usage import NamespaceTotals, UsageOrder, UserTotals
from redis_store.admin.walks import Walk, next_page
from redis_store.aio import AsyncDataStore
from redis_store.clients.aio import AsyncClient, async_core_of
from redis_store.clients.options import ClientOptions
from redis_store.drivers.aio import AsyncDriver
from redis_store.namespace.keys import DEFAULT_NAMESPACE, encode_prefix
from redis_store.protocol.call import Op

T = TypeVar("T")
R = TypeVar("R")


class AsyncAdmin:
    """Operations over all users of a server, for asyncio. An asynchronous context manager.

    Methods, options and errors are those of `Admin`; `client` is an `AsyncClient`, which stays open, or the url of a server.
    """

    def __init__(
        self, client: AsyncClient | str | None = None, *, operator: str | None = None, **options: Unpack[ClientOptions]
    ) -> None:
        self.operator = operator_name(operator)
        self._owns_client = not isinstance(client, AsyncClient)
        self.client = client if isinstance(client, AsyncClient) else AsyncClient(client, **options)
        self.on_step: Callable[[int], object] | None = None
        """Called after each step of a listing with the number of records that it found, for progress."""

    def store(self, user: str, namespace: str = DEFAULT_NAMESPACE, agent: str | None = None) -> AsyncDataStore:
        """Return a user's store on the connections of this object's client."""
        return self.client.store(user=user, namespace=namespace, agent=agent)

    # See

    async def list_users(self, by: UsageOrder = "name", unwritten_since: datetime | None = None) -> list[UserUsage]:
        """Return what each user has, users without data included, ordered by name, memory, keys or last write.

        With `unwritten_since`, only users whose last write is before it. The times are those in the infos of the values that are
        there: neither deletions nor external writes count.
        """
        return await self._collect(usage.measured, UserTotals(by, unwritten_since))

    async def list_namespaces(
        self,
        user: str | None = None,
        prefix: str | None = None,
        by: UsageOrder = "name",
        unwritten_since: datetime | None = None,
    ) -> list[NamespaceUsage]:
        """Return the namespaces that hold data, of one user or of all, ordered as by `list_users`.

        Unlike `DataStore.list_namespaces` it also finds those that only external writes have made.
        """
        start = encode_prefix(prefix)
        return await self._collect(
            lambda: usage.measured(user, start, of_namespaces=True), NamespaceTotals(by, unwritten_since)
        )

    # Change

    # Move

    # Check

    # Guard

    # The log of operators' changes

    async def note(
        self,
        what: str,
        outcome: str = "done",
        *,
        user: str | None = None,
        namespace: str | None = None,
        key: str | None = None,
        count: int | None = None,
    ) -> None:
        """Add an entry to the log of operators' changes. The methods that change something do it themselves."""
        await self._run(audit.note(self.operator, what, outcome, user=user, namespace=namespace, key=key, count=count))

    def iter_audit(self, since: datetime | None = None) -> AsyncIterator[AuditEntry]:
        """Iterate over the log of operators' changes, the oldest first. It keeps the last 10,000 at least."""
        return self._each(lambda: audit.entries(since), everywhere=False)

    async def close(self) -> None:
        """Close the client, unless it was passed. May be repeated."""
        if self._owns_client:
            await self.client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncAdmin of {self.client!r}>"

    async def _primaries(self) -> list[AsyncDriver]:
        """Return a driver for each server that holds keys: the one place that knows of several."""
        return [AsyncDriver(async_core_of(self.client))]

    async def _run(self, op: Op[T]) -> T:
        """Run an operation on a Redis key that belongs to no user."""
        return await (await self._primaries())[0].run(op)

    async def _each(self, walk: Callable[[], Walk[T]], *, everywhere: bool = True) -> AsyncIterator[T]:
        """Iterate over the records of a walk over each server, or the first one."""
        primaries = await self._primaries()
        for driver in primaries if everywhere else primaries[:1]:
            async for page in self._pages(driver, walk()):
                for record in page:
                    yield record

    async def _collect(self, walk: Callable[[], Walk[T]], collector: Collector[T, R]) -> R:
        """Return one result of a walk over each server."""
        for driver in await self._primaries():
            async for page in self._pages(driver, walk()):
                collector.add(page)
        return collector.result()

    async def _pages(self, driver: AsyncDriver, walk: Walk[T]) -> AsyncIterator[list[T]]:
        try:
            while (page := await driver.run(next_page(walk))) is not None:
                if self.on_step is not None:
                    self.on_step(len(page))
                yield page
        finally:
            await walk.aclose()
