"""The driver for threads: each operation borrows a connection of its own."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from redis_store.connections import forks
from redis_store.connections.resolver import Source
from redis_store.connections.sync import HeldConnection
from redis_store.drivers.loans import Loans
from redis_store.drivers.wakeups import SyncPauses
from redis_store.errors import ConnectionLost
from redis_store.flows.renewing import Keeper
from redis_store.namespace.scope import Scope
from redis_store.near.cache import NearCache, join_cache
from redis_store.protocol.call import Alone, Call, Op, not_a_call
from redis_store.protocol.drive import drive
from redis_store.protocol.read import Read

T = TypeVar("T")

logger = logging.getLogger("redis_store")


class Closable(Protocol):
    """Something that a store closes with itself."""

    def close(self) -> object: ...


class SyncDriver:
    """Runs operations against one server. Thread-safe."""

    def __init__(self, loans: Loans, source: Source, timeout_s: float | None = None) -> None:
        self.loans = loans
        """Where operations borrow their connections."""
        self.source = source
        """The server's address and configuration right, for the hub."""
        self.timeout_s = timeout_s
        self.watches: weakref.WeakSet[Closable] = weakref.WeakSet()
        """Watchers and pauses, which are closed with the store."""
        self.near: NearCache | None = None
        """The near cache, if the store has one; it is asked before the server."""
        self.around: Callable[[Op[Any]], Op[Any]] | None = None
        """Wrapper of each operation, if the near cache or telemetry observes its calls."""
        self.measured: Callable[[Op[Any]], Op[Any]] | None = None
        """The telemetry part of `around`, for operations that do not run through this driver's `run`."""
        self.keeper = Keeper(self.run)
        """Renews what the flows of this driver hold."""
        forks.inherited.add(self)

    @property
    def url(self) -> str:
        """The server's url, including secrets."""
        return self.source.resolver.url

    def use_near_cache(self, max_bytes: int) -> None:
        """Read through the near cache of the server from now on."""
        self.near = join_cache(self.url, self, self.source.resolver, max_bytes)
        self.near.threads.open(self)
        self.around = self.near.watching

    def run(self, op: Op[T], most_s: float | None = None) -> T:
        """Run an operation and return its result. It waits at most this long, or the time-out."""
        if self.around is not None:
            op = self.around(op)
        held: HeldConnection | None = None
        try:
            call = op.send(None)
            held = self.loans.take(most_s)
            while True:
                if type(call) is not Call:
                    raise not_a_call(call)
                try:
                    try:
                        reply = held.exchange(call.commands, call.repeatable)
                    except ConnectionLost as error:
                        if not call.repeatable and error.outcome_unknown:
                            raise
                        held = self._replace(held, most_s)
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
                self.loans.put_back(held)

    def read(self, read: Read[T], scope: Scope, wanted: Any, default: Any = None) -> T:
        """Run an operation that reads, or let the near cache answer it."""
        near = self.near
        if near is not None:
            return near.threads.answer(read, scope, wanted, default, self)
        return self.run(read.ask(scope, wanted, default))

    def run_alone(self, alone: Alone[T]) -> T:
        """Run an operation on one connection, from its first call to its last."""
        try:
            return self._run_on(alone.make(), self.loans.take)
        except ConnectionLost as error:
            if error.outcome_unknown:
                raise
            return self._run_on(alone.make(), self.loans.take_new)

    def _run_on(self, op: Op[T], take: Callable[[], HeldConnection]) -> T:
        if self.around is not None:
            op = self.around(op)
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
                self.loans.put_back(held)

    def pauses(self) -> SyncPauses:
        """Return the pauses of a flow; they are closed with the store."""
        pauses = SyncPauses(self.source, self.timeout_s)
        self.watches.add(pauses)
        return pauses

    def close(self) -> None:
        """Close all connections and stop using the server. Calls in progress fail; later ones are refused."""
        for watch in list(self.watches):
            watch.close()  # first, because a consumer releases its name through this driver
        self.loans.close()
        near, self.near = self.near, None
        if near is not None:
            near.leave(self)  # other stores go on using the cached values
        self.keeper.close()

    def _replace(self, broken: HeldConnection, most_s: float | None) -> HeldConnection:
        """Drop a broken connection and return a new one.

        If connecting fails, the caller keeps the broken one, which refuses further use.
        """
        logger.info("a connection broke, and no write can have happened; trying once more on a new one")
        self.loans.drop(broken)
        return self.loans.take_new(most_s)

    def leave_to_parent(self) -> None:
        """In a forked child, stop using what the parent goes on using."""
        self.loans.leave_to_parent()
        self.keeper.start_over()
