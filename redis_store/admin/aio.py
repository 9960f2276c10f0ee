"""`AsyncAdmin`, operations over all users for asyncio: the methods of `Admin`, awaited, over the same walks and operations."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime
from functools import partial
from pathlib import Path
from secrets import token_urlsafe
from typing import IO, Any, Self, TypeVar, Unpack

from redis_store.admin import activity, audit, changing, doctor, letters, logins, moving, search, server_stats, usage
from redis_store.admin.changing import Deleted
from redis_store.admin.doctor import Finding
from redis_store.admin.files import Writable, rows_of, written
from redis_store.admin.follow_async import AsyncFollowedChanges
from redis_store.admin.importing import Imported
from redis_store.admin.letters import RetryOutcome
from redis_store.admin.moving import Exported
from redis_store.admin.operator import PASSWORD_BYTES, embedded_findings, operator_name
from redis_store.admin.programs import At, Program, Setting
from redis_store.admin.records import (
    AuditEntry,
    CacheRate,
    ChangeRecord,
    ComputedValue,
    ConsumerState,
    DeadLetter,
    HeldLock,
    NamespaceUsage,
    RateLimitState,
    SearchHit,
    ServerStats,
    TagUsage,
    UserUsage,
)
from redis_store.admin.search import ChangesInOrder
from redis_store.admin.sync import Collector
from redis_store.admin.usage import NamespaceTotals, UsageOrder, UserTotals
from redis_store.admin.walks import Walk, next_page
from redis_store.aio import AsyncDataStore
from redis_store.clients.aio import AsyncClient, async_core_of, async_scope_in
from redis_store.clients.options import ClientOptions
from redis_store.connections.resolver import Source, database_of
from redis_store.drivers.aio import AsyncDriver, AsyncNodeDriver
from redis_store.errors import DataStoreError, InvalidSettings
from redis_store.namespace.keys import DEFAULT_NAMESPACE, encode_prefix
from redis_store.namespace.scope import Scope
from redis_store.ops import kept_runs
from redis_store.ops.run_record import KeptRun, RunSummary
from redis_store.ops.server_info import ping
from redis_store.ops.values import delete
from redis_store.protocol.call import Op
from redis_store.protocol.drive import drive_async
from redis_store.types import Json, JsonInput, Ttl

T = TypeVar("T")
L = TypeVar("L", bound=logins.NewLogin | bool | None)
R = TypeVar("R")


class AsyncAdmin:
    """Operations over all users of a server, for asyncio. An asynchronous context manager.

    Methods, options and errors are those of `Admin`; `client` is an `AsyncClient`, which stays open, or the url of a server.
    """

    def __init__(
        self, client: AsyncClient | str | None = None, *, operator: str | None = None, **options: Unpack[ClientOptions]
    ) -> None:
        self.operator = operator_name(operator)
        if isinstance(client, AsyncClient) and options:
            raise InvalidSettings(f"A client has its own options: pass {', '.join(options)} to AsyncClient.")
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

    async def list_changes(
        self, since: datetime, user: str | None = None, namespace: str | None = None
    ) -> list[ChangeRecord]:
        """Return the changes since a time, the oldest first: when, who, where, what.

        Of a namespace that is watched they are those in its change log. Of others only the last write of each key that is still
        there is known, from its info, and neither deletions nor external writes.
        """
        return await self._collect(lambda: search.changes(since, user, namespace), ChangesInOrder())

    def follow_changes(
        self, user: str | None = None, namespace: str | None = None, since: datetime | None = None
    ) -> AsyncFollowedChanges:
        """Follow the changes as they come, of one user or namespace or of all, new ones included.

        With `since`, those since that time come first, as in `list_changes`. In a namespace that has no change log, the first
        change makes one, which is kept for a minute after the last; the first is known from the infos of its keys, and if it was
        a deletion, the key is not. External writes, and keys that expire, are shown only where an agent watches. A server
        that sends no keyspace events is looked at about once a second.
        """
        return AsyncFollowedChanges(self._followed_source, user, namespace, since)

    def search(
        self,
        text: str,
        user: str | None = None,
        namespace: str | None = None,
        *,
        keys_only: bool = False,
        ignore_case: bool = False,
    ) -> AsyncIterator[SearchHit]:
        """Iterate over the keys that contain a literal text, or whose values do as JSON text, of one user or of all."""
        return self._each(lambda: search.search(text, user, namespace, keys_only=keys_only, ignore_case=ignore_case))

    async def server_stats(self) -> list[ServerStats]:
        """Return what each server counts: one, or the primaries of a cluster."""
        database = database_of(self.client.url)
        return [await driver.run(server_stats.server_stats(database)) for driver in await self._primaries()]

    async def list_consumers(self, user: str | None = None) -> list[ConsumerState]:
        """Return how far each consumer is in each namespace, of one user or of all, and whether a process works as it."""
        found = await self._listed(lambda: activity.consumers(user))
        return sorted(found, key=lambda one: (one.user, one.consumer, one.namespace))

    async def list_locks(self, user: str | None = None) -> list[HeldLock]:
        """Return the locks and semaphores that are held or kept for a waiter, of one user or of all."""
        return sorted(await self._listed(lambda: activity.locks(user)), key=lambda one: (one.user, one.kind, one.name))

    async def list_rate_limits(self, user: str | None = None) -> list[RateLimitState]:
        """Return the rate limits that were used within their last period, of one user or of all."""
        return sorted(await self._listed(lambda: activity.rate_limits(user)), key=lambda one: (one.user, one.name))

    async def list_computations(self, user: str | None = None) -> list[ComputedValue]:
        """Return the values that `get_or_set` and cached functions are computing, and those that failed in the last seconds."""
        found = await self._listed(lambda: activity.computations(user))
        return sorted(found, key=lambda one: (one.user, one.namespace, one.key))

    async def list_cache_rates(self, user: str | None = None) -> list[CacheRate]:
        """Return the hits and computations of each namespace today and yesterday, by the server's clock in UTC.

        They are those of `get_or_set` and cached functions, of one user or of all. Each process reports hits with its next
        computation in the namespace, or after 1,000. At most 2,000 namespaces of a user are counted each day.
        """
        found = await self._listed(lambda: activity.cache_rates(user))
        return sorted(found, key=lambda one: (one.user, one.namespace))

    async def list_tags(self, user: str | None = None) -> list[TagUsage]:
        """Return the tags of cached values, of one user or of all, the biggest first."""
        found = await self._listed(lambda: activity.tags(user))
        return sorted(found, key=lambda one: (-one.values, one.user, one.tag))

    def iter_dead_letters(self, user: str | None = None, consumer: str | None = None) -> AsyncIterator[DeadLetter]:
        """Iterate over the changes that agents could not process, of one user and consumer or of all."""
        return self._each(lambda: letters.letters(user, consumer))

    async def list_runs(self, user: str) -> list[RunSummary]:
        """Return the runs of a user's agents that are kept, the one that began last first.

        They are kept with `Sandbox(keep=)` and ``sandbox run --keep``. A nested run is part of the record of its run.
        """
        return await self._run_for(user, lambda scope: kept_runs.list_runs(scope.user))

    async def get_run(self, user: str, run: str) -> KeptRun | None:
        """Return the record of a run, or None if none is kept: its timeline, output, error and hints, with secrets masked.

        For the id of a nested run, it is the record of the run that it belongs to.
        """
        return await self._run_for(user, lambda scope: kept_runs.get_run(scope.user, run))

    async def drop_run(self, user: str, run: str) -> bool:
        """Delete the record of a run. Return whether there was one."""
        dropped = await self._run_for(user, lambda scope: kept_runs.drop_run(scope.user, run))
        if dropped:
            await self.note("runs drop", user=user, key=run, count=1)
        return dropped

    async def release_lock(self, user: str, name: str, agent: str | None = None) -> bool:
        """Take a lock from its holder, for the next waiter. Return False if nobody holds it.

        The holder goes on until it renews the lock and finds it lost: make sure before that it is dead or does no harm. `agent`
        names the agent whose own lock it is.
        """
        async with self._failure_noted("locks release", user, key=name):
            released = await self._run_for(user, lambda scope: activity.release_lock(scope, name, agent))
            if released:
                await self.note("locks release", user=user, key=name, count=1)
        return released

    async def retry_dead_letter(self, user: str, consumer: str, letter: str) -> RetryOutcome:
        """Write a dead letter's change once more, so that its consumer gets it, and delete the dead letter.

        The value is the one that the key has now; it keeps its expiry, and other watchers see the write too. Returns ``retried``,
        ``gone`` if the key was deleted since, ``no value`` if the change was no write, or ``not there``. In the last three cases
        nothing is changed.
        """
        namespace = f"{letters.DEAD_LETTERS}{consumer}"
        async with self._failure_noted("dead-letters retry", user, namespace, letter):
            outcome = await self._run_for(user, lambda scope: letters.retry(scope, letter), namespace)
            if outcome == "retried":
                await self.note("dead-letters retry", user=user, namespace=namespace, key=letter, count=1)
        return outcome

    async def drop_dead_letter(self, user: str, consumer: str, letter: str) -> bool:
        """Delete a dead letter. Return whether it existed."""
        namespace = f"{letters.DEAD_LETTERS}{consumer}"
        async with self._failure_noted("dead-letters drop", user, namespace, letter):
            dropped = await self._run_for(user, lambda scope: delete(scope, letter), namespace)
            if dropped:
                await self.note("dead-letters drop", user=user, namespace=namespace, key=letter, count=1)
        return dropped

    # Change

    async def set_value(
        self,
        user: str,
        namespace: str,
        key: str,
        value: JsonInput,
        metadata: dict[str, Json] | None = None,
        ttl: Ttl = None,
    ) -> None:
        """Store a value in a user's namespace, as `DataStore.set` does."""
        async with self._failure_noted("set", user, namespace, key):
            await self.store(user, namespace).set(key, value, metadata, ttl)
            await self.note("set", user=user, namespace=namespace, key=key, count=1)

    async def delete_keys(self, user: str, namespace: str, keys: Iterable[str]) -> int:
        """Delete keys of a user's namespace. Return how many of them existed."""
        async with self._failure_noted("delete", user, namespace):
            count = await self.store(user, namespace).delete_many(keys)
            await self.note("delete", user=user, namespace=namespace, count=count)
        return count

    async def clear(self, user: str, namespace: str, *, undoable: bool = True) -> int:
        """Delete all keys of a namespace, and the values in its change log at once. Return how many keys it had.

        Watchers see a reset of the namespace, as their history is gone.
        `undo_clear` can bring the keys back for a day; then they go. Only the last clear of a namespace is kept. Without
        `undoable` everything goes at once, also what an earlier clear kept.
        """
        return await self._carry_out(lambda setting: changing.clear(setting, user, namespace, undoable))

    async def clear_namespaces(self, user: str, prefix: str, *, undoable: bool = True) -> int:
        """Clear all namespaces of a user whose names begin with a prefix, one after the other; see `clear`.

        If it is interrupted, some are cleared and the others are as before: call it again.
        """
        wanted = encode_prefix(prefix)
        return await self._carry_out(lambda setting: changing.clear_all(setting, user, wanted, undoable))

    async def undo_clear(self, user: str, namespace: str) -> Imported:
        """Bring back the keys that the last `clear` of a namespace deleted, within a day. Return what was done.

        Keys that were written since stay as they are, and count as kept. Watchers see each key that comes back. The result has
        no keys if there is nothing to bring back. If it is interrupted, call it again.
        """
        return await self._carry_out(lambda setting: changing.undo(setting, user, namespace))

    async def copy_namespace(
        self, user: str, namespace: str, to_namespace: str, to_user: str | None = None, *, replace: bool = False
    ) -> Imported:
        """Write all keys of a namespace, as it was at one moment, into another namespace, of the same user or `to_user`.

        Times, writers, metadata, tags and expiry are kept. Keys that hold something else there stay, unless `replace`. If it is
        interrupted, call it again.
        """
        to_user = user if to_user is None else to_user
        return await self._carry_out(
            lambda setting: moving.copy(setting, user, namespace, to_user, to_namespace, replace)
        )

    async def rename_namespace(self, user: str, namespace: str, new: str) -> int:
        """Give a namespace another name, in one step. Return how many keys it has; 0 if it holds nothing.

        Raises `Conflict` if the new name holds data. Cursors of consumers stay with the old name. Watchers of the old name see a
        clear, and those of the new one every key. If it is interrupted, call it again.
        """
        return await self._carry_out(lambda setting: changing.rename(setting, user, namespace, new))

    async def delete_user(self, user: str) -> Deleted:
        """Delete everything of a user: data, infos, change logs, tags, locks, limits, cursors.

        At the end a scan makes sure that nothing is left. Raises `Conflict` if agents of the user go on writing: stop them, and
        call it again. It cannot be undone. The log of operators' changes names the user.
        """
        return await self._carry_out(lambda setting: changing.delete_user(setting, user))

    # Move

    async def export(
        self,
        to: str | Path | Writable,
        user: str | None = None,
        namespace: str | None = None,
        *,
        prefix: str | None = None,
    ) -> Exported:
        """Write the keys of all users, of one, or of one namespace to a file, as lines of JSON; see ``docs/operating.md``.

        With `prefix`, only the keys of a namespace that begin with it.

        Each namespace is as it was at one moment. A file that ends with ``.gz`` or ``.zst`` is compressed, and it appears when it
        is complete. Exports of the same data have the same bytes. Records of runs are not part of it; nor are locks, limits,
        cursors and change logs.
        """
        if isinstance(to, (str, Path)):
            with written(Path(to)) as file:
                return await self._carry_out(
                    lambda setting: moving.export(setting, file.write, user, namespace, prefix)
                )
        return await self._carry_out(lambda setting: moving.export(setting, to.write, user, namespace, prefix))

    async def import_(
        self,
        file: str | Path | IO[bytes],
        user: str | None = None,
        namespace: str | None = None,
        *,
        replace: bool = False,
        done: Imported | None = None,
    ) -> Imported:
        """Write the keys of an export, or those of one user or one namespace of each user in it. Return what was done.

        A file is checked as a whole before anything is written; what comes through a pipe is checked line by line, and at the
        end. `InvalidInput` names the line. Keys that hold something else already are left as they are, unless `replace`. To go on
        after an interruption, import again. `done` counts what was done also if the import fails.
        """
        done = Imported() if done is None else done
        with rows_of(file, user, namespace) as rows:
            await self._carry_out(lambda setting: moving.import_(setting, rows, replace, done))
        return done

    # Check

    async def doctor(self, *, repair: bool = False) -> list[Finding]:
        """Check the server's settings and all users' data, and return what was found.

        With `repair`, mend what can be mended without loss: namespaces missing in the registry, infos without
        data, and change logs and records of runs that never expire.
        """
        if repair:
            await self.note("doctor --repair", "begun")
        found = await asyncio.to_thread(embedded_findings, self.client.url, self.client.options)
        about_servers = [one async for one in self._each(lambda: doctor.check_server(time.time))]
        found += dict.fromkeys(about_servers)  # nodes of a cluster have much in common
        found += [one async for one in self._each(lambda: doctor.check_data(repair))]
        if repair:
            await self.note("doctor --repair", count=sum(one.mended for one in found))
        return found

    # Guard

    async def list_logins(self) -> list[logins.UserLogin]:
        """Return the logins of the server that reach one user's data and no other Redis keys, by name."""
        return await self._run(logins.list_logins)

    async def create_login(self, user: str, *, login: str | None = None, near_cache: bool = False) -> logins.NewLogin:
        """Make a login that reaches the user's data and nothing else, with a random password.

        The login has the user's id, percent-encoded as in Redis keys, unless `login` names it. Raises `Conflict` if it exists. If
        the server refuses ``ACL SETUSER``, nothing is made, and the record says so and has the line to add.

        With `near_cache` the near cache works; but the login can then see the names of all Redis keys that are written.
        """
        password = token_urlsafe(PASSWORD_BYTES)

        def create() -> Op[logins.NewLogin]:
            return logins.create_login(user, password, self.client.url, login=login, near_cache=near_cache)

        return await self._changed_login("login create", user, create)

    async def rotate_login(
        self, user: str, *, login: str | None = None, near_cache: bool | None = None, keep_old: bool = False
    ) -> logins.NewLogin | None:
        """Give a login a new password, and the rules of this version. Return None if the user has no such login.

        The old password and all connections of the login end at once. With `keep_old` both go on until the next rotation. Raises
        `Conflict` if the login reaches more than the user's data.
        """
        password = token_urlsafe(PASSWORD_BYTES)

        def rotate() -> Op[logins.NewLogin | None]:
            return logins.rotate_login(
                user, password, self.client.url, login=login, near_cache=near_cache, keep_old=keep_old
            )

        def create() -> Op[logins.NewLogin | None]:  # on a node that has come since
            near = bool(near_cache)
            return logins.create_login(user, password, self.client.url, login=login, near_cache=near)

        return await self._changed_login("login rotate", user, rotate, create)

    async def remove_login(self, user: str, *, login: str | None = None) -> bool:
        """Remove a login and end its connections; the data stays. Return whether the user had such a login.

        Raises `Conflict` if the login reaches more than the user's data.
        """
        return await self._changed_login("login remove", user, lambda: logins.remove_login(user, login=login))

    async def _changed_login(
        self, what: str, user: str, make: Callable[[], Op[L]], where_missing: Callable[[], Op[L]] | None = None
    ) -> L:
        """Change a login on each node, replicas included.

        There is a note before and after: the second would be missing if the process died.
        """
        logins.name_of_login(user)  # raises for what is no user
        await self.note(what, "begun", user=user)
        outcome = "failed"
        try:
            nodes = await self._nodes()
            for node in nodes:  # before any is changed, as a change of some of them would be half of one
                await node.run(ping())
            results = [await node.run(make()) for node in nodes]
            if where_missing is not None and any(results):
                results = [each or await node.run(where_missing()) for node, each in zip(nodes, results, strict=True)]
            result = logins.of_all(results)
            if logins.is_done(result):
                outcome = "done"
        finally:
            await self.note(what, outcome, user=user)
        return result

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
        await self._run(
            lambda: audit.note(self.operator, what, outcome, user=user, namespace=namespace, key=key, count=count)
        )

    def iter_audit(self, since: datetime | None = None) -> AsyncIterator[AuditEntry]:
        """Iterate over the log of operators' changes, the oldest first. It keeps the last 10,000 at least."""
        return self._each(lambda: audit.entries(since), everywhere=False)

    async def close(self) -> None:
        """Close the client, unless it was passed. May be repeated."""
        if self._owns_client:
            await self.client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncAdmin of {self.client!r}>"

    @contextlib.asynccontextmanager
    async def _failure_noted(
        self, what: str, user: str, namespace: str | None = None, key: str | None = None
    ) -> AsyncIterator[None]:
        """Note that a change may have been made, if it ends with an interruption or without the server's reply."""
        try:
            yield
        except GeneratorExit:
            raise
        except BaseException as error:
            if not isinstance(error, DataStoreError) or error.outcome_unknown:
                with contextlib.suppress(DataStoreError):
                    await self.note(what, "failed", user=user, namespace=namespace, key=key)
            raise

    async def _carry_out(self, program: Callable[[Setting], Program[T]]) -> T:
        """Run a program, each operation on the server where it belongs."""
        primaries = await self._primaries()
        setting = Setting(
            self.operator,
            len(primaries),
            partial(async_scope_in, self.client),
            self.on_step or (lambda count: None),
        )

        async def step(at: At[Any]) -> Any:
            if isinstance(at.where, int):
                return await primaries[at.where].run(at.op)
            return await self._run_for(at.where, lambda scope: at.op)

        return await drive_async(program(setting), step)

    async def _followed_source(self) -> Source:
        await self._primaries()  # it is known then whether the server is a cluster
        return async_core_of(self.client).source

    async def _primaries(self) -> list[AsyncNodeDriver]:
        """Return a driver for each server that holds keys: the one place that knows of several."""
        return [AsyncNodeDriver(core) for core in await async_core_of(self.client).everywhere()]

    async def _nodes(self) -> list[AsyncNodeDriver]:
        """Return a driver for each server with an access list: the replicas of a cluster have some too."""
        primaries, core = await self._primaries(), async_core_of(self.client)
        if core.cluster is None:
            return primaries
        nodes = await primaries[0].run(logins.nodes_of_cluster(core.cluster.primaries))
        return [AsyncNodeDriver(core.at(node)) for node in nodes] or primaries

    async def _run(self, op: Callable[[], Op[T]]) -> T:
        """Run an operation on a Redis key that belongs to no user."""
        return await (await self._primaries())[0].run(op())

    async def _run_for(self, user: str, op: Callable[[Scope], Op[T]], namespace: str = DEFAULT_NAMESPACE) -> T:
        """Run an operation on a namespace of one user."""
        scope = async_scope_in(self.client, user, namespace)
        return await AsyncDriver(async_core_of(self.client), scope.user).run(op(scope))

    async def _listed(self, walk: Callable[[], Walk[T]]) -> list[T]:
        return [record async for record in self._each(walk)]

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


async def pages_of(admin: AsyncAdmin, walk: Callable[[], Walk[T]]) -> AsyncIterator[list[T]]:
    """Iterate over the pages of a walk over each server, for callers that show how far it is."""
    for driver in await admin._primaries():
        async for page in admin._pages(driver, walk()):
            yield page


async def run_in(admin: AsyncAdmin, user: str, namespace: str, op: Callable[[Scope], Op[T]]) -> T:
    """Run an operation on a namespace of one user, for callers that read what no method returns."""
    return await admin._run_for(user, op, namespace)
