"""The store for asyncio: the methods of `store.DataStore`, awaited, over the same operations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from datetime import timedelta
from random import random
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from redis_store.connections.address import without_secrets
from redis_store.drivers.aio import AsyncDriver
from redis_store.flows.compute_once import LOCK_TIMEOUT_S, get_or_set
from redis_store.flows.flow import Flow
from redis_store.flows.run_async import run_flow
from redis_store.limits import check_max_keys
from redis_store.locks import AsyncLock, AsyncRateLimit, AsyncSemaphore
from redis_store.memo import AsyncCacheDecorator, KeyMaker, Options, TagMaker, async_decorator
from redis_store.namespace.access import NO_WRITES, Access
from redis_store.namespace.scope import Scope
from redis_store.near.cache import stats_of
from redis_store.ops import batch, listing, transactions, updates, values
from redis_store.ops.compute_once import ComputePlan
from redis_store.ops.locks import LockOps, RateLimitOps, SemaphoreOps
from redis_store.ops.tags import invalidate_tag
from redis_store.ops.transactions import Draft
from redis_store.protocol.call import Alone, Op
from redis_store.settings import new_id
from redis_store.stats import StoreStats
from redis_store.transaction import AsyncTransaction
from redis_store.types import MISSING, Json, JsonInput, KeyInfo, Missing, Ttl
from redis_store.watch.aio import AsyncWatch, wait_until
from redis_store.watch.request import WatchRequest

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


class AsyncDataStore:
    """One namespace of one user, and the way to the user's others, for asyncio.

    Made by `connect_async`; an asynchronous context manager. A call that is cancelled may or may not have been carried out;
    it never disturbs another.
    """

    def __init__(self, driver: AsyncDriver, scope: Scope) -> None:
        self._driver = driver
        self._scope = scope

    @property
    def url(self) -> str:
        """Where the server is, with the password if there is one."""
        return self._driver.url

    @property
    def user(self) -> str:
        """The user whose data this is."""
        return self._scope.user.user

    @property
    def namespace(self) -> str:
        """The namespace that the methods work on."""
        return self._scope.namespace

    async def get(self, key: str, default: Any = None) -> Json:
        """Return the value, or `default` where the key is absent; a stored null comes back as None."""
        near = self._driver.near
        return await (
            self._run(values.get(self._scope, key, default)) if near is None else near.get(self._scope, key, default)
        )

    async def set(
        self,
        key: str,
        value: JsonInput,
        metadata: dict[str, Json] | None = None,
        ttl: Ttl = None,
    ) -> None:
        """Store a value; metadata is merged into what the key has; a time to live that it had is dropped.

        `ttl` is in seconds, or a timedelta; without one the namespace's default counts, against which there is `NEVER`.
        """
        await self._run(values.set_value(self._scope, key, value, metadata, ttl))

    async def expire(self, key: str, ttl: float | timedelta) -> bool:
        """Let a key expire that long from now, whatever it had before, and return whether it was there."""
        return await self._run(values.expire(self._scope, key, ttl))

    async def persist(self, key: str) -> bool:
        """Take a key's time to live away and return whether it had one."""
        return await self._run(values.persist(self._scope, key))

    async def increment(self, key: str, by: float = 1) -> Json:
        """Add a number to the one under a key, and return the sum; an absent key counts as nothing.

        Whole numbers stay exact; a ttl that the key has stays. Raises `WrongValueType` where it holds anything but a number.
        """
        return await self._run_flow(updates.increment(self._scope, key, by, random))

    async def append(self, key: str, *items: JsonInput, max_items: int | None = None) -> None:
        """Append to the list under a key, or begin one; with `max_items`, only so many of the newest stay.

        A ttl that the key has stays. Raises `WrongValueType` where it holds anything but a list.
        """
        await self._run_flow(updates.append(self._scope, key, items, max_items, random))

    async def set_if_absent(self, key: str, value: JsonInput, ttl: Ttl = None) -> bool:
        """Store a value where the key holds none, and return whether that was so: one of many callers gets True."""
        return await self._run(updates.set_if_absent(self._scope, key, value, ttl))

    async def compare_and_set(self, key: str, expected: JsonInput | Missing, value: JsonInput, ttl: Ttl = None) -> bool:
        """Store a value if the key holds `expected`, or nothing with `MISSING`, and return whether it did.

        A stored null is a value, so None does not stand for nothing; nor is 1 the same as 1.0 or true. As with `set`, a ttl
        that the key had is dropped.
        """
        return await self._run(updates.compare_and_set(self._scope, key, expected, value, ttl))

    async def rename(self, key: str, new: str) -> bool:
        """Move a value with its metadata and ttl to another key, in place of what that holds; False where there is none."""
        return await self._run(updates.rename(self._scope, key, new))

    async def update(self, key: str, function: Callable[[Any], Any], default: Any = None) -> Json:
        """Replace a key's value by what a function makes of it, and return that.

        The function gets `default` where the key is absent; it may be asynchronous, and is called again whenever others
        wrote meanwhile. A ttl that the key has stays. What it raises comes out, and nothing is written.
        """
        return await self._run_flow(updates.update(self._scope, key, function, default, rand=random))

    async def pop(self, key: str, default: Any = MISSING) -> Json:
        """Delete a key and return the value that it had, else `default`; KeyError where there is none either."""
        return await self._run(updates.pop(self._scope, key, default))

    async def get_or_set(
        self,
        key: str,
        make: Callable[[], Any],
        ttl: Ttl = None,
        stale: Ttl = None,
        lock_timeout: float | timedelta = LOCK_TIMEOUT_S,
        tags: Iterable[str] | None = None,
    ) -> Json:
        """Return the value; where there is none, compute it with `make` and store it.

        Of any number of callers in any number of processes one computes. The others wait, holding no connection, and get its
        result, or `ComputeFailed` where `make` raised: then nothing is stored. `make` may take its time; if its process dies,
        another caller computes after `lock_timeout` seconds. An asynchronous store awaits what `make` returns, if it can be.
        A stored null is a value like others.

        With `stale`, a value whose ttl is over is served for so many seconds more while one caller refreshes it.
        A value with `tags` is deleted by `invalidate_tag` too. What is deleted while it is computed is not stored.
        """
        plan = ComputePlan.of(self._scope, key, ttl, stale, lock_timeout, tags)
        return await self._run_flow(get_or_set(plan, make, new_id, random))

    def cached(
        self,
        ttl: Ttl = None,
        key: KeyMaker = None,
        version: str | int | None = None,
        tags: TagMaker = None,
        stale: Ttl = None,
        lock_timeout: float | timedelta = LOCK_TIMEOUT_S,
    ) -> AsyncCacheDecorator:
        """Decorate a function so that its results are kept in this namespace, as by `get_or_set`.

        The key is made of the function's name, `version` and its arguments, which must be what JSON can say; or `key` says
        it: a text like ``"user:{user_id}"``, filled with the arguments, or a function of them. So may `tags`, a list of such
        texts or a function. With another `version` the old results count no longer, and go when their ttl is over.
        The function gets ``cache_key(...)``, ``invalidate(...)`` and ``invalidate_all()``.
        """
        return async_decorator(self, Options(ttl, key, version, tags, stale, lock_timeout))

    async def invalidate_tag(self, tag: str) -> int:
        """Delete the cached values that carry a tag, in all of the user's namespaces, and return how many there were."""
        return await self._run_flow(invalidate_tag(self._scope, tag))

    def transaction(self) -> AsyncTransaction:
        """Begin a transaction in the user's namespaces: what its block reads must still stand when the block ends.

        Then everything that it wrote is written at one moment; else `Conflict` is raised and nothing is. Writers of keys that
        it has not read never disturb it. `transact` runs a function again instead.
        """
        return self._transaction(Draft(self._scope))

    async def transact(self, function: Callable[[AsyncTransaction], Awaitable[T]]) -> T:
        """Run a function with a `transaction`, again whenever others wrote what it read, and return what it returns.

        The function should do nothing but read and write through the transaction. `Conflict` after very many tries.
        """
        return await self._run_flow(transactions.transact(self._scope, self._transaction, function, new_id, random))

    def lock(self, name: str, ttl: float | timedelta = 30, timeout: float | None = None) -> AsyncLock:
        """Return a lock of the user's, to be held in a block; every namespace's store means the same one.

        It is renewed while its holder lives, and gone `ttl` seconds after he died; those who wait get it in their turn.
        With a `timeout` in seconds, `LockTimeout` is raised where it was not free in time; 0 tries once.
        """
        return AsyncLock(self._driver, LockOps.of(self._scope, name, ttl), timeout)

    def semaphore(self, name: str, n: int, ttl: float | timedelta = 30, timeout: float | None = None) -> AsyncSemaphore:
        """Return one of `n` places, to be held as a `lock` is; all users of a name give the same `n`."""
        return AsyncSemaphore(self._driver, SemaphoreOps.of(self._scope, name, n, ttl), timeout)

    def rate_limit(self, name: str, n: int, per: float | timedelta, timeout: float | None = None) -> AsyncRateLimit:
        """Return a limit of `n` in any `per` seconds, by the server's clock; all users of a name give the same numbers."""
        return AsyncRateLimit(self._driver, RateLimitOps.of(self._scope, name, n, per), timeout)

    async def delete(self, key: str) -> bool:
        """Delete a key and return whether it was there."""
        return await self._run(values.delete(self._scope, key))

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Delete keys, all at one moment, and return how many were there."""
        return await self._run(batch.delete_many(self._scope, keys, new_id()))

    async def list_keys(self, prefix: str | None = None) -> list[str]:
        """Return the keys, sorted; the prefix is literal. One moment, but for very big namespaces under writing."""
        return await self._run_alone(listing.list_keys(self._scope, prefix))

    async def iter_keys(self, prefix: str | None = None) -> AsyncIterator[str]:
        """Iterate over the keys page by page, each true by itself; a key may come twice while the namespace grows."""
        cursor = listing.START
        while True:
            cursor, page = await self._run(listing.scan_page(self._scope, cursor, prefix))
            for key in page:
                yield key
            if cursor == listing.START:
                return

    async def iter_items(self, prefix: str | None = None) -> AsyncIterator[tuple[str, Json]]:
        """Iterate over keys and values page by page, as `iter_keys` does."""
        page_keys = await self._run(listing.page_size(self._scope))
        cursor = listing.START
        while True:
            cursor, page = await self._run(listing.scan_items_page(self._scope, cursor, prefix, page_keys))
            for item in page.items():
                yield item
            if cursor == listing.START:
                return

    async def scan_page(self, cursor: str = listing.START, prefix: str | None = None) -> tuple[str, list[str]]:
        """Return the cursor of the next page and one page of keys; the first and the last cursor is ``"0"``."""
        return await self._run(listing.scan_page(self._scope, cursor, prefix))

    async def scan_items_page(
        self, cursor: str = listing.START, prefix: str | None = None
    ) -> tuple[str, dict[str, Json]]:
        """Return the cursor of the next page and one page of keys with their values, as `scan_page` does."""
        return await self._run(listing.scan_items_page(self._scope, cursor, prefix))

    async def list_namespaces(self, prefix: str | None = None) -> list[str]:
        """Return the user's namespaces that hold data, sorted; the prefix is literal."""
        return await self._run(listing.list_namespaces(self._scope, prefix))

    async def memory_bytes(self) -> int:
        """Return how many bytes of the server's memory this namespace takes, by the server's own estimate."""
        return await self._run(listing.memory_bytes(self._scope))

    async def get_many(self, keys: Iterable[str]) -> dict[str, Json]:
        """Return the values of those keys that are there, in the order asked for, as they stood at one moment."""
        near = self._driver.near
        return await (
            self._run(batch.get_many(self._scope, keys)) if near is None else near.get_many(self._scope, keys)
        )

    async def get_all(self, prefix: str | None = None) -> dict[str, Json]:
        """Return keys and values; one moment up to 10,000 keys and 16 MiB, and beyond unless somebody keeps writing."""
        return await self._run_alone(listing.get_all(self._scope, prefix))

    async def set_many(
        self,
        items: Mapping[str, JsonInput],
        metadata: dict[str, Json] | None = None,
        ttl: Ttl = None,
    ) -> int:
        """Store a batch, all or nothing, also for readers, and return how many; metadata and ttl as in `set`."""
        op = batch.set_many(self._scope, items, metadata, ttl, new_id())
        return await (self._run_alone(op) if isinstance(op, Alone) else self._run(op))

    async def clear(self) -> int:
        """Delete everything in this namespace and return how many keys there were."""
        return await self._run(batch.clear(self._scope))

    async def info(self, key: str) -> KeyInfo | None:
        """Return what is known about a key beside its value, None where it is absent."""
        return await self._run(values.info(self._scope, key))

    def watch(
        self,
        prefix: str | None = None,
        since: str | None = None,
        consumer: str | None = None,
        initial: bool = False,
    ) -> AsyncWatch:
        """Iterate over the changes of this namespace as they come, from now on; see `Change` and ``docs/watching.md``.

        `prefix` narrows it to keys that begin so. `since` goes on behind a change, by its `cursor`. `consumer` keeps the cursor
        in Redis under that name and moves it when the next change is asked for, so that a process that is killed sees the change
        again that it was working on; of several processes with the same name one works and the others stand by. `initial` gives
        every key first. Raises `InvalidInput` for a cursor of another namespace. For asyncio "now" is when it is entered
        (``async with``) or first asked for a change.
        """
        plan = WatchRequest.of_namespace(self._scope, prefix, since, consumer, initial, new_id())
        return AsyncWatch(self._driver, self._driver.source, plan)

    def watch_all(
        self,
        prefix: str | None = None,
        since: Mapping[str, str] | None = None,
        consumer: str | None = None,
        initial: bool = False,
    ) -> AsyncWatch:
        """Iterate over the changes in all of the user's namespaces, or those whose names begin so, those to come included.

        Everything as in `watch`, but that `since` is a dict of namespaces and cursors: of those that are not in it, every key
        is given.
        """
        plan = WatchRequest.of_all(self._scope, prefix, since, consumer, initial, new_id())
        return AsyncWatch(self._driver, self._driver.source, plan)

    async def wait_for(self, key: str, timeout: float | None = None) -> Json:
        """Return the value at once if the key is there, else as soon as it is written.

        Raises `WaitTimeout`, a `TimeoutError`, if `timeout` seconds pass.
        """
        return await wait_until(self._driver, self._scope, key, None, timeout)

    async def wait_until(self, key: str, predicate: Callable[[Json], bool], timeout: float | None = None) -> Json:
        """Return the value of the key as soon as the key is there and ``predicate(value)`` is true; else as `wait_for`."""
        return await wait_until(self._driver, self._scope, key, predicate, timeout)

    def use_namespace(self, name: str, ttl: Ttl = None, max_keys: int | None = None) -> AsyncDataStore:
        """Return the same user's store for another namespace; it shares the connections, and closes with this one.

        With `ttl`, what is written through it expires by default. With `max_keys`, other keys go when a write through it makes
        them more, of some taken at random those that were written longest ago.
        """
        return AsyncDataStore(self._driver, self._scope.moved(name, values.default_ttl(ttl), check_max_keys(max_keys)))

    def read_only(self) -> AsyncDataStore:
        """Return this store without the right to write, for the user's other namespaces too."""
        return AsyncDataStore(self._driver, self._scope.narrowed(NO_WRITES))

    def restricted(
        self,
        *,
        read: Iterable[str] | None = None,
        write: Iterable[str] | None = None,
        namespaces: Iterable[str] | None = None,
    ) -> AsyncDataStore:
        """Return a store that may read and write these namespaces and no others of the user's; both for `namespaces`.

        Each is a name, or the beginning of names with a ``*`` as its last character. What is named replaces the right to
        everything, so that ``restricted(read=["shared"])`` writes nowhere; a handle can only be narrowed. What is not
        allowed raises `AccessDenied` before anything is sent; `list_namespaces` shows what may be read.
        """
        return AsyncDataStore(self._driver, self._scope.narrowed(Access.of(read, write, namespaces)))

    def as_json_text(self) -> AsyncDataStore:
        """Return this namespace with values as JSON text in bytes, for brokers that pass them on without reading them."""
        return AsyncDataStore(self._driver, self._scope.as_json_text())

    def stats(self) -> StoreStats:
        """Return what this store has counted since it was opened, with its other namespaces and handles, in this process."""
        return stats_of(self._scope, self._driver.near)

    async def close(self) -> None:
        """Close the connections; the last user of the embedded server stops it. Harmless when repeated."""
        await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[str]:
        return self.iter_keys()

    def __repr__(self) -> str:
        return f"<AsyncDataStore user={self.user!r} namespace={self.namespace!r} at {without_secrets(self.url)}>"

    def _run(self, op: Op[T]) -> Coroutine[Any, Any, T]:
        return self._driver.run(op)

    def _run_flow(self, flow: Flow[T]) -> Coroutine[Any, Any, T]:
        return run_flow(self._driver, flow)

    def _transaction(self, draft: Draft) -> AsyncTransaction:
        return AsyncTransaction(self._driver, self._scope, draft, new_id())

    def _run_alone(self, op: Alone[T]) -> Coroutine[Any, Any, T]:
        return self._driver.run_alone(op)
