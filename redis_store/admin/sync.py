"""`Admin`, operations over all users of a server: each method is a line over a walk or an operation."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from secrets import token_urlsafe
from typing import IO, Any, Protocol, Self, TypeVar, Unpack

from redis_store.admin import activity, audit, changing, doctor, letters, logins, moving, search, server_stats, usage
from redis_store.admin.changing import Deleted
from redis_store.admin.doctor import Finding
from redis_store.admin.files import Writable, rows_of, written
from redis_store.admin.follow_sync import FollowedChanges
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
from redis_store.admin.usage import NamespaceTotals, UsageOrder, UserTotals
from redis_store.admin.walks import Walk, next_page
from redis_store.clients.options import ClientOptions
from redis_store.clients.sync import Client, core_of, scope_in
from redis_store.connections.resolver import Source, database_of
from redis_store.drivers.sync import SyncDriver, SyncNodeDriver
from redis_store.errors import DataStoreError, InvalidSettings
from redis_store.namespace.keys import DEFAULT_NAMESPACE, encode_prefix
from redis_store.namespace.scope import Scope
from redis_store.ops import kept_runs
from redis_store.ops.run_record import KeptRun, RunSummary
from redis_store.ops.server_info import ping
from redis_store.ops.values import delete
from redis_store.protocol.call import Op
from redis_store.protocol.drive import drive
from redis_store.store import DataStore
from redis_store.types import Json, JsonInput, Ttl

T = TypeVar("T")
L = TypeVar("L", bound=logins.NewLogin | bool | None)
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
        if isinstance(client, Client) and options:
            raise InvalidSettings(f"A client has its own options: pass {', '.join(options)} to Client.")
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

    def list_changes(
        self, since: datetime, user: str | None = None, namespace: str | None = None
    ) -> list[ChangeRecord]:
        """Return the changes since a time, the oldest first: when, who, where, what.

        Of a namespace that is watched they are those in its change log. Of others only the last write of each key that is still
        there is known, from its info, and neither deletions nor external writes.
        """
        return self._collect(lambda: search.changes(since, user, namespace), ChangesInOrder())

    def follow_changes(
        self, user: str | None = None, namespace: str | None = None, since: datetime | None = None
    ) -> FollowedChanges:
        """Follow the changes as they come, of one user or namespace or of all, new ones included.

        With `since`, those since that time come first, as in `list_changes`. In a namespace that has no change log, the first
        change makes one, which is kept for a minute after the last; the first is known from the infos of its keys, and if it was
        a deletion, the key is not. External writes, and keys that expire, are shown only where an agent watches. A server
        that sends no keyspace events is looked at about once a second.
        """
        return FollowedChanges(self._followed_source(), user, namespace, since)

    def search(
        self,
        text: str,
        user: str | None = None,
        namespace: str | None = None,
        *,
        keys_only: bool = False,
        ignore_case: bool = False,
    ) -> Iterator[SearchHit]:
        """Iterate over the keys that contain a literal text, or whose values do as JSON text, of one user or of all."""
        return self._each(lambda: search.search(text, user, namespace, keys_only=keys_only, ignore_case=ignore_case))

    def server_stats(self) -> list[ServerStats]:
        """Return what each server counts: one, or the primaries of a cluster."""
        database = database_of(self.client.url)
        return [driver.run(server_stats.server_stats(database)) for driver in self._primaries()]

    def list_consumers(self, user: str | None = None) -> list[ConsumerState]:
        """Return how far each consumer is in each namespace, of one user or of all, and whether a process works as it."""
        found = self._each(lambda: activity.consumers(user))
        return sorted(found, key=lambda one: (one.user, one.consumer, one.namespace))

    def list_locks(self, user: str | None = None) -> list[HeldLock]:
        """Return the locks and semaphores that are held or kept for a waiter, of one user or of all."""
        return sorted(self._each(lambda: activity.locks(user)), key=lambda one: (one.user, one.kind, one.name))

    def list_rate_limits(self, user: str | None = None) -> list[RateLimitState]:
        """Return the rate limits that were used within their last period, of one user or of all."""
        return sorted(self._each(lambda: activity.rate_limits(user)), key=lambda one: (one.user, one.name))

    def list_computations(self, user: str | None = None) -> list[ComputedValue]:
        """Return the values that `get_or_set` and cached functions are computing, and those that failed in the last seconds."""
        found = self._each(lambda: activity.computations(user))
        return sorted(found, key=lambda one: (one.user, one.namespace, one.key))

    def list_cache_rates(self, user: str | None = None) -> list[CacheRate]:
        """Return the hits and computations of each namespace today and yesterday, by the server's clock in UTC.

        They are those of `get_or_set` and cached functions, of one user or of all. Each process reports hits with its next
        computation in the namespace, or after 1,000. At most 2,000 namespaces of a user are counted each day.
        """
        found = self._each(lambda: activity.cache_rates(user))
        return sorted(found, key=lambda one: (one.user, one.namespace))

    def list_tags(self, user: str | None = None) -> list[TagUsage]:
        """Return the tags of cached values, of one user or of all, the biggest first."""
        found = self._each(lambda: activity.tags(user))
        return sorted(found, key=lambda one: (-one.values, one.user, one.tag))

    def iter_dead_letters(self, user: str | None = None, consumer: str | None = None) -> Iterator[DeadLetter]:
        """Iterate over the changes that agents could not process, of one user and consumer or of all."""
        return self._each(lambda: letters.letters(user, consumer))

    def list_runs(self, user: str) -> list[RunSummary]:
        """Return the runs of a user's agents that are kept, the one that began last first.

        They are kept with `Sandbox(keep=)` and ``sandbox run --keep``. A nested run is part of the record of its run.
        """
        return self._run_for(user, lambda scope: kept_runs.list_runs(scope.user))

    def get_run(self, user: str, run: str) -> KeptRun | None:
        """Return the record of a run, or None if none is kept: its timeline, output, error and hints, with secrets masked.

        For the id of a nested run, it is the record of the run that it belongs to.
        """
        return self._run_for(user, lambda scope: kept_runs.get_run(scope.user, run))

    def drop_run(self, user: str, run: str) -> bool:
        """Delete the record of a run. Return whether there was one."""
        dropped = self._run_for(user, lambda scope: kept_runs.drop_run(scope.user, run))
        if dropped:
            self.note("runs drop", user=user, key=run, count=1)
        return dropped

    def release_lock(self, user: str, name: str, agent: str | None = None) -> bool:
        """Take a lock from its holder, for the next waiter. Return False if nobody holds it.

        The holder goes on until it renews the lock and finds it lost: make sure before that it is dead or does no harm. `agent`
        names the agent whose own lock it is.
        """
        with self._failure_noted("locks release", user, key=name):
            released = self._run_for(user, lambda scope: activity.release_lock(scope, name, agent))
            if released:
                self.note("locks release", user=user, key=name, count=1)
        return released

    def retry_dead_letter(self, user: str, consumer: str, letter: str) -> RetryOutcome:
        """Write a dead letter's change once more, so that its consumer gets it, and delete the dead letter.

        The value is the one that the key has now; it keeps its expiry, and other watchers see the write too. Returns ``retried``,
        ``gone`` if the key was deleted since, ``no value`` if the change was no write, or ``not there``. In the last three cases
        nothing is changed.
        """
        namespace = f"{letters.DEAD_LETTERS}{consumer}"
        with self._failure_noted("dead-letters retry", user, namespace, letter):
            outcome = self._run_for(user, lambda scope: letters.retry(scope, letter), namespace)
            if outcome == "retried":
                self.note("dead-letters retry", user=user, namespace=namespace, key=letter, count=1)
        return outcome

    def drop_dead_letter(self, user: str, consumer: str, letter: str) -> bool:
        """Delete a dead letter. Return whether it existed."""
        namespace = f"{letters.DEAD_LETTERS}{consumer}"
        with self._failure_noted("dead-letters drop", user, namespace, letter):
            dropped = self._run_for(user, lambda scope: delete(scope, letter), namespace)
            if dropped:
                self.note("dead-letters drop", user=user, namespace=namespace, key=letter, count=1)
        return dropped

    # Change

    def set_value(
        self,
        user: str,
        namespace: str,
        key: str,
        value: JsonInput,
        metadata: dict[str, Json] | None = None,
        ttl: Ttl = None,
    ) -> None:
        """Store a value in a user's namespace, as `DataStore.set` does."""
        with self._failure_noted("set", user, namespace, key):
            self.store(user, namespace).set(key, value, metadata, ttl)
            self.note("set", user=user, namespace=namespace, key=key, count=1)

    def delete_keys(self, user: str, namespace: str, keys: Iterable[str]) -> int:
        """Delete keys of a user's namespace. Return how many of them existed."""
        with self._failure_noted("delete", user, namespace):
            count = self.store(user, namespace).delete_many(keys)
            self.note("delete", user=user, namespace=namespace, count=count)
        return count

    def clear(self, user: str, namespace: str, *, undoable: bool = True) -> int:
        """Delete all keys of a namespace, and the values in its change log at once. Return how many keys it had.

        Watchers see a reset of the namespace, as their history is gone.
        `undo_clear` can bring the keys back for a day; then they go. Only the last clear of a namespace is kept. Without
        `undoable` everything goes at once, also what an earlier clear kept.
        """
        return self._carry_out(lambda setting: changing.clear(setting, user, namespace, undoable))

    def clear_namespaces(self, user: str, prefix: str, *, undoable: bool = True) -> int:
        """Clear all namespaces of a user whose names begin with a prefix, one after the other; see `clear`.

        If it is interrupted, some are cleared and the others are as before: call it again.
        """
        wanted = encode_prefix(prefix)
        return self._carry_out(lambda setting: changing.clear_all(setting, user, wanted, undoable))

    def undo_clear(self, user: str, namespace: str) -> Imported:
        """Bring back the keys that the last `clear` of a namespace deleted, within a day. Return what was done.

        Keys that were written since stay as they are, and count as kept. Watchers see each key that comes back. The result has
        no keys if there is nothing to bring back. If it is interrupted, call it again.
        """
        return self._carry_out(lambda setting: changing.undo(setting, user, namespace))

    def copy_namespace(
        self, user: str, namespace: str, to_namespace: str, to_user: str | None = None, *, replace: bool = False
    ) -> Imported:
        """Write all keys of a namespace, as it was at one moment, into another namespace, of the same user or `to_user`.

        Times, writers, metadata, tags and expiry are kept. Keys that hold something else there stay, unless `replace`. If it is
        interrupted, call it again.
        """
        to_user = user if to_user is None else to_user
        return self._carry_out(lambda setting: moving.copy(setting, user, namespace, to_user, to_namespace, replace))

    def rename_namespace(self, user: str, namespace: str, new: str) -> int:
        """Give a namespace another name, in one step. Return how many keys it has; 0 if it holds nothing.

        Raises `Conflict` if the new name holds data. Cursors of consumers stay with the old name. Watchers of the old name see a
        clear, and those of the new one every key. If it is interrupted, call it again.
        """
        return self._carry_out(lambda setting: changing.rename(setting, user, namespace, new))

    def delete_user(self, user: str) -> Deleted:
        """Delete everything of a user: data, infos, change logs, tags, locks, limits, cursors.

        At the end a scan makes sure that nothing is left. Raises `Conflict` if agents of the user go on writing: stop them, and
        call it again. It cannot be undone. The log of operators' changes names the user.
        """
        return self._carry_out(lambda setting: changing.delete_user(setting, user))

    # Move

    def export(
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
                return self._carry_out(lambda setting: moving.export(setting, file.write, user, namespace, prefix))
        return self._carry_out(lambda setting: moving.export(setting, to.write, user, namespace, prefix))

    def import_(
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
            self._carry_out(lambda setting: moving.import_(setting, rows, replace, done))
        return done

    # Check

    def doctor(self, *, repair: bool = False) -> list[Finding]:
        """Check the server's settings and all users' data, and return what was found.

        With `repair`, mend what can be mended without loss: namespaces missing in the registry, infos without
        data, and change logs and records of runs that never expire.
        """
        if repair:
            self.note("doctor --repair", "begun")
        found = embedded_findings(self.client.url, self.client.options)
        found += dict.fromkeys(self._each(lambda: doctor.check_server(time.time)))  # nodes have much in common
        found += list(self._each(lambda: doctor.check_data(repair)))
        if repair:
            self.note("doctor --repair", count=sum(one.mended for one in found))
        return found

    # Guard

    def list_logins(self) -> list[logins.UserLogin]:
        """Return the logins of the server that reach one user's data and no other Redis keys, by name."""
        return self._run(logins.list_logins)

    def create_login(self, user: str, *, login: str | None = None, near_cache: bool = False) -> logins.NewLogin:
        """Make a login that reaches the user's data and nothing else, with a random password.

        The login has the user's id, percent-encoded as in Redis keys, unless `login` names it. Raises `Conflict` if it exists. If
        the server refuses ``ACL SETUSER``, nothing is made, and the record says so and has the line to add.

        With `near_cache` the near cache works; but the login can then see the names of all Redis keys that are written.
        """
        password = token_urlsafe(PASSWORD_BYTES)

        def create() -> Op[logins.NewLogin]:
            return logins.create_login(user, password, self.client.url, login=login, near_cache=near_cache)

        return self._changed_login("login create", user, create)

    def rotate_login(
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

        return self._changed_login("login rotate", user, rotate, create)

    def remove_login(self, user: str, *, login: str | None = None) -> bool:
        """Remove a login and end its connections; the data stays. Return whether the user had such a login.

        Raises `Conflict` if the login reaches more than the user's data.
        """
        return self._changed_login("login remove", user, lambda: logins.remove_login(user, login=login))

    def _changed_login(
        self, what: str, user: str, make: Callable[[], Op[L]], where_missing: Callable[[], Op[L]] | None = None
    ) -> L:
        """Change a login on each node, replicas included.

        There is a note before and after: the second would be missing if the process died.
        """
        logins.name_of_login(user)  # raises for what is no user
        self.note(what, "begun", user=user)
        outcome = "failed"
        try:
            nodes = self._nodes()
            for node in nodes:  # before any is changed, as a change of some of them would be half of one
                node.run(ping())
            results = [node.run(make()) for node in nodes]
            if where_missing is not None and any(results):
                results = [each or node.run(where_missing()) for node, each in zip(nodes, results, strict=True)]
            result = logins.of_all(results)
            if logins.is_done(result):
                outcome = "done"
        finally:
            self.note(what, outcome, user=user)
        return result

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
        self._run(
            lambda: audit.note(self.operator, what, outcome, user=user, namespace=namespace, key=key, count=count)
        )

    def iter_audit(self, since: datetime | None = None) -> Iterator[AuditEntry]:
        """Iterate over the log of operators' changes, the oldest first. It keeps the last 10,000 at least."""
        return self._each(lambda: audit.entries(since), everywhere=False)

    def close(self) -> None:
        """Close the client, unless it was passed. May be repeated."""
        if self._owns_client:
            self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Admin of {self.client!r}>"

    @contextlib.contextmanager
    def _failure_noted(
        self, what: str, user: str, namespace: str | None = None, key: str | None = None
    ) -> Iterator[None]:
        """Note that a change may have been made, if it ends with an interruption or without the server's reply."""
        try:
            yield
        except GeneratorExit:
            raise
        except BaseException as error:
            if not isinstance(error, DataStoreError) or error.outcome_unknown:
                with contextlib.suppress(DataStoreError):
                    self.note(what, "failed", user=user, namespace=namespace, key=key)
            raise

    def _carry_out(self, program: Callable[[Setting], Program[T]]) -> T:
        """Run a program, each operation on the server where it belongs."""
        primaries = self._primaries()
        setting = Setting(
            self.operator,
            len(primaries),
            partial(scope_in, self.client),
            self.on_step or (lambda count: None),
        )

        def step(at: At[Any]) -> Any:
            if isinstance(at.where, int):
                return primaries[at.where].run(at.op)
            return self._run_for(at.where, lambda scope: at.op)

        return drive(program(setting), step)

    def _followed_source(self) -> Source:
        self._primaries()  # it is known then whether the server is a cluster
        return core_of(self.client).source

    def _primaries(self) -> list[SyncNodeDriver]:
        """Return a driver for each server that holds keys: the one place that knows of several."""
        return [SyncNodeDriver(core) for core in core_of(self.client).everywhere()]

    def _nodes(self) -> list[SyncNodeDriver]:
        """Return a driver for each server with an access list: the replicas of a cluster have some too."""
        primaries, core = self._primaries(), core_of(self.client)
        if core.cluster is None:
            return primaries
        nodes = primaries[0].run(logins.nodes_of_cluster(core.cluster.primaries))
        return [SyncNodeDriver(core.at(node)) for node in nodes] or primaries

    def _run(self, op: Callable[[], Op[T]]) -> T:
        """Run an operation on a Redis key that belongs to no user."""
        return self._primaries()[0].run(op())

    def _run_for(self, user: str, op: Callable[[Scope], Op[T]], namespace: str = DEFAULT_NAMESPACE) -> T:
        """Run an operation on a namespace of one user."""
        scope = scope_in(self.client, user, namespace)
        return SyncDriver(core_of(self.client), scope.user).run(op(scope))

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
