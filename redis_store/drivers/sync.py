"""The driver for threads: each operation borrows a connection of its own."""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from redis_store.connections import forks
from redis_store.connections.resolver import Source
from redis_store.connections.sync import HeldConnection
from redis_store.drivers.form import making_sure, rehearse, unsure
from redis_store.drivers.loans import Loans, NoConnections
from redis_store.drivers.store_driver import StoreDriver
from redis_store.drivers.wakeups import SyncPauses
from redis_store.errors import ConnectionLost, DataStoreError
from redis_store.flows.renewing import Keeper
from redis_store.namespace.scope import Scope
from redis_store.near.cache import NearCache, join_cache
from redis_store.protocol.call import Alone, Call, Op, not_a_call
from redis_store.protocol.command import ReplyError
from redis_store.protocol.drive import drive
from redis_store.protocol.error_replies import translate
from redis_store.protocol.read import Read

T = TypeVar("T")
C = TypeVar("C")

logger = logging.getLogger("redis_store")


class Closable(Protocol):
    """Something that a store closes with itself."""

    def close(self) -> object: ...


class SyncCore:
    """What the stores of one client share: connections, near cache, telemetry, and the thread that renews what they hold."""

    def __init__(self, loans: Loans, source: Source, timeout_s: float | None = None) -> None:
        self.loans = loans
        """Where operations borrow their connections."""
        self.source = source
        """The server's address and configuration right, for the hub."""
        self.timeout_s = timeout_s
        self.watching: weakref.WeakSet[Closable] = weakref.WeakSet()
        """The drivers that have watchers or pauses, which are closed with the client."""
        self.near: NearCache | None = None
        """The near cache, if the client has one; it is asked before the server."""
        self.around: Callable[[Op[Any]], Op[Any]] | None = None
        """Wrapper of each operation, if the near cache or telemetry observes its calls."""
        self.measured: Callable[[Op[Any]], Op[Any]] | None = None
        """The telemetry part of `around`, for operations that do not run through a driver's `run`."""
        self.keeper = Keeper()
        """Renews what the flows of the stores hold."""
        self.is_closed = False
        self._borrows = False
        """Whether the connections and the keeper are another core's."""
        forks.inherited.add(self)

    @property
    def url(self) -> str:
        """The server's url, including secrets."""
        return self.source.resolver.url

    def with_near_cache(self, max_bytes: int) -> SyncCore:
        """Return a core with a near cache, over the connections of this one. Closing it leaves them open."""
        core = copy.copy(self)
        core._borrows = True
        core.watching = weakref.WeakSet()
        core.use_near_cache(max_bytes)
        return core

    def use_near_cache(self, max_bytes: int) -> None:
        """Read through the near cache of the server from now on."""
        self.near = join_cache(self, self.source.resolver, max_bytes)
        self.near.threads.open(self)
        self.around = self.near.watching

    def close(self) -> None:
        """Close all connections and stop using the server. Calls in progress fail; later ones are refused."""
        self._close_drivers()  # first, because a consumer releases its name through its driver
        self.is_closed = True
        if not self._borrows:
            self.loans.close()
            self.keeper.close()
        self._close_drivers()  # of waits that began meanwhile
        near, self.near = self.near, None
        if near is not None:
            near.leave(self)  # other clients go on using the cached values

    def _close_drivers(self) -> None:
        for driver in members_of(self.watching):
            driver.close()

    def emptied(self) -> SyncCore:
        """Return what a store has left when it closes and its client does not: no connections, and no cached values."""
        left = copy.copy(self)
        left.is_closed, left.loans, left.near, left.around = True, _CLOSED, None, None
        return left

    def unobserved(self) -> SyncCore:
        """Return this core for operations that are no caller's."""
        core = copy.copy(self)
        core.near = core.around = None
        return core

    def leave_to_parent(self) -> None:
        """In a forked child, stop using what the parent goes on using."""
        self.loans.leave_to_parent()
        self.keeper.start_over()


class SyncDriver(StoreDriver[SyncCore, Closable]):
    """Runs the operations of one store against the server of its client. Thread-safe."""

    __slots__ = ()

    @property
    def loans(self) -> Loans:
        """Where operations borrow their connections."""
        return self.core.loans

    @property
    def keeper(self) -> Keeper:
        """Renews what the flows of this driver hold."""
        return self.core.keeper

    def make_sure(self, most_s: float | None = None, *, keeps: bool = True) -> None:
        """Find out the form of the user's Redis keys, before the first operation, and that its data is not in the other form.

        `keeps` the connection for the operation that follows.
        """
        user = unsure(self._unsure, self.core.source.resolver)  # another store may have looked meanwhile
        if user is not None:
            loans = self.core.loans
            SyncDriver(self.core.unobserved()).run(making_sure(user, self.core.source.resolver), most_s)
            if not keeps:
                loans.drop(loans.take(most_s))
        self._unsure = None

    def _make_sure_for(self, op: Op[T], most_s: float | None = None) -> Op[T]:
        """Do `make_sure` and return the operation. If that fails, what the operation would refuse in any case is raised."""
        try:
            self.make_sure(most_s)
        except DataStoreError:
            rehearse(op)
            raise
        except BaseException:
            op.close()
            raise
        return op

    def run(self, op: Op[T], most_s: float | None = None) -> T:
        """Run an operation and return its result. It waits at most this long, or the time-out."""
        if self._unsure is not None:
            op = self._make_sure_for(op, most_s)
        core = self.core
        if core.around is not None:
            op = core.around(op)
        loans = core.loans
        held: HeldConnection | None = None
        try:
            call = op.send(None)
            held = loans.take(most_s)
            while True:
                if type(call) is not Call:
                    raise not_a_call(call)
                try:
                    try:
                        reply = held.exchange(call.commands, call.repeatable)
                    except ConnectionLost as error:
                        if not call.repeatable and error.outcome_unknown:
                            raise
                        held = _replace(loans, held, most_s)
                        reply = held.exchange(call.commands, call.repeatable)
                except Exception as error:
                    call = op.throw(error)
                else:
                    call = op.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            op.close()
            if held is not None:
                loans.put_back(held)

    def read(self, read: Read[T], scope: Scope, wanted: Any, default: Any = None) -> T:
        """Run an operation that reads, or let the near cache answer it."""
        if self._unsure is not None:
            self._make_sure_for(read.ask(scope, wanted, default)).close()
        core = self.core
        if core.near is not None:
            return core.near.threads.answer(read, scope, wanted, default, self)
        if read.call is None or read.result is None or core.around is not None:
            return self.run(read.ask(scope, wanted, default))
        return read.result(scope, wanted, default, _reply_to(core.loans, read.call(scope, wanted)))

    def run_alone(self, alone: Alone[T]) -> T:
        """Run an operation on one connection, from its first call to its last."""
        if self._unsure is not None:
            self._make_sure_for(alone.make()).close()
        loans = self.core.loans
        try:
            return self._run_on(alone.make(), loans, loans.take)
        except ConnectionLost as error:
            if error.outcome_unknown:
                raise
            return self._run_on(alone.make(), loans, loans.take_new)

    def _run_on(self, op: Op[T], loans: Loans, take: Callable[[], HeldConnection]) -> T:
        around = self.core.around
        if around is not None:
            op = around(op)
        held: HeldConnection | None = None
        done = False

        def exchange(call: Call[Any]) -> Any:
            nonlocal held
            if type(call) is not Call:
                raise not_a_call(call)
            if held is None:
                held = take()
            return held.exchange(call.commands, call.repeatable)

        try:
            result = drive(op, exchange, Exception)
            done = True
            return result
        finally:
            if held is not None:
                # An operation that did not finish may have left a WATCH behind.
                held.busy = held.busy or not done
                loans.put_back(held)

    def pauses(self) -> SyncPauses:
        """Return the pauses of a flow; they are closed with the store."""
        pauses = SyncPauses(self.source, self.timeout_s)
        self.watches.add(pauses)
        return pauses

    def close(self) -> None:
        """End the store's watches and waits, and refuse later calls; close the connections if they are the store's own."""
        self._close_watches()  # first, because a consumer releases its name through this driver
        if self._owns_core:
            self.core.close()
        elif not self.core.is_closed:
            self.core = self.core.emptied()
        self._close_watches()  # those that began meanwhile

    def _close_watches(self) -> None:
        for watch in members_of(self._watches or ()):
            watch.close()


def members_of(them: Iterable[C]) -> list[C]:
    """Return the members of a weak set, to which other threads may be adding."""
    while True:
        try:
            return list(them)
        except RuntimeError:  # it changed meanwhile
            continue


def _reply_to(loans: Loans, call: Call[Any]) -> Any:
    """Carry out one call that may be repeated, as `run` does; without an operation it takes a microsecond less."""
    held = loans.take()
    try:
        try:
            reply = held.exchange(call.commands, True)
        except ConnectionLost:
            held = _replace(loans, held, None)
            reply = held.exchange(call.commands, True)
    finally:
        loans.put_back(held)
    if type(reply) is ReplyError:
        raise translate(reply, call.commands)
    return reply


def _replace(loans: Loans, broken: HeldConnection, most_s: float | None) -> HeldConnection:
    """Drop a broken connection and return a new one.

    If connecting fails, the caller keeps the broken one, which refuses further use.
    """
    logger.info("a connection broke, and no write can have happened; trying once more on a new one")
    loans.drop(broken)
    return loans.take_new(most_s)


_CLOSED = NoConnections()
