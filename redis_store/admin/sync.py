"""`Admin`, operations over all users of a server: each method is a line over a walk or an operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self, TypeVar, Unpack

from redis_store.admin import audit, usage
from redis_store.admin.operator import operator_name
from redis_store.admin.records import AuditEntry, NamespaceUsage, UserUsage
from redis_store.admin.usage import NamespaceTotals, UsageOrder, UserTotals
from redis_store.admin.walks import Walk, next_page
from redis_store.clients.options import ClientOptions
from redis_store.clients.sync import Client, core_of
from redis_store.drivers.sync import SyncDriver
from redis_store.namespace.keys import DEFAULT_NAMESPACE, encode_prefix
from redis_store.protocol.call import Op
from redis_store.store import DataStore

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)


class Collector(Protocol[T_contra, R_co]):
    """Collects the pages of a walk into one result."""

    def add(self, page: Sequence[T_contra], /) -> None: ...

    def result(self) -> R_co: ...


class Admin:
    """Operations over all users of a server, for operators and services. A context manager.

    `client` is a `Client`, which stays open, or the url of a server; without one the server is found as by `connect`. `operator`
    is the name in the log of changes; by default that of this process's user and host. The other options are those of `Client`.

    Listings ask the server in steps that take it a few milliseconds, so that other clients are served. They show each record
    that is there from beginning to end; others may come and go meanwhile. Methods raise the errors of a `DataStore`.
    """

    def __init__(
        self, client: Client | str | None = None, *, operator: str | None = None, **options: Unpack[ClientOptions]
    ) -> None:
        self.operator = operator_name(operator)
        self._owns_client = not isinstance(client, Client)
        self.client = client if isinstance(client, Client) else Client(client, **options)
        self.on_step: Callable[[int], object] | None = None
        """Called after each step of a listing with the number of records that it found, for progress."""

    def store(self, user: str, namespace: str = DEFAULT_NAMESPACE, agent: str | None = None) -> DataStore:
        """Return a user's store on the connections of this object's client."""
        return self.client.store(user=user, namespace=namespace, agent=agent)

    # See

    def list_users(self, by: UsageOrder = "name", unwritten_since: datetime | None = None) -> list[UserUsage]:
        """Return what each user has, users without data included, ordered by name, memory, keys or last write.

        With `unwritten_since`, only users whose last write is before it. The times are those in the infos of the values that are
        there: neither deletions nor external writes count.
        """
        return self._collect(usage.measured, UserTotals(by, unwritten_since))

    def list_namespaces(
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
        return self._collect(
            lambda: usage.measured(user, start, of_namespaces=True), NamespaceTotals(by, unwritten_since)
        )

    # Change

    # Move

    # Check

    # Guard

    # The log of operators' changes

    def note(
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
        self._run(audit.note(self.operator, what, outcome, user=user, namespace=namespace, key=key, count=count))

    def iter_audit(self, since: datetime | None = None) -> Iterator[AuditEntry]:
        """Iterate over the log of operators' changes, the oldest first. It keeps the last 10,000 at least."""
        return self._each(lambda: audit.entries(since), everywhere=False)

    def close(self) -> None:
        """Close the client, unless it was passed. May be repeated."""
        if self._owns_client:
            self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Admin of {self.client!r}>"

    def _primaries(self) -> list[SyncDriver]:
        """Return a driver for each server that holds keys: the one place that knows of several."""
        return [SyncDriver(core_of(self.client))]

    def _run(self, op: Op[T]) -> T:
        """Run an operation on a Redis key that belongs to no user."""
        return self._primaries()[0].run(op)

    def _each(self, walk: Callable[[], Walk[T]], *, everywhere: bool = True) -> Iterator[T]:
        """Iterate over the records of a walk over each server, or the first one."""
        for driver in self._primaries() if everywhere else self._primaries()[:1]:
            for page in self._pages(driver, walk()):
                yield from page

    def _collect(self, walk: Callable[[], Walk[T]], collector: Collector[T, R_co]) -> R_co:
        """Return one result of a walk over each server."""
        for driver in self._primaries():
            for page in self._pages(driver, walk()):
                collector.add(page)
        return collector.result()

    def _pages(self, driver: SyncDriver, walk: Walk[T]) -> Iterator[list[T]]:
        try:
            while (page := driver.run(next_page(walk))) is not None:
                if self.on_step is not None:
                    self.on_step(len(page))
                yield page
        finally:
            with suppress(StopIteration):
                walk.aclose().send(None)
