"""Carries out operations for threads: each call on a connection of its own, taken from a stack of idle ones."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from redis_store.connections.resolver import Resolver, Source
from redis_store.connections.spin import Spinner
from redis_store.connections.sync import HeldConnection
from redis_store.drivers import eviction_warning
from redis_store.drivers.wakeups import SyncPauses
from redis_store.errors import ConnectionLost, DataStoreError, StoreClosed
from redis_store.flows.renewing import Keeper
from redis_store.namespace.scope import Scope
from redis_store.protocol.call import Alone, Call, Op, ReplyError, not_a_call
from redis_store.protocol.replies import raise_error_reply
from redis_store.types import Json

T = TypeVar("T")

logger = logging.getLogger("redis_store")

_MOST_IDLE = 64
_drivers: weakref.WeakSet[SyncDriver] = weakref.WeakSet()


class Closable(Protocol):
    """Something that a store closes with itself."""

    def close(self) -> object: ...


class NearReads(Protocol):
    """Reads through a near cache. The driver holds them, and leaves the cache when it closes."""

    def get(self, scope: Scope, key: str, default: Any) -> Any: ...
    def text(self, scope: Scope, key: str) -> bytes | None: ...
    def get_many(self, scope: Scope, keys: Iterable[str]) -> dict[str, Json]: ...
    def contains(self, scope: Scope, key: str) -> bool: ...
    def watching(self, op: Op[T]) -> Op[T]: ...
    def lent_to(self, driver: SyncDriver) -> NearReads: ...
    def interrupt(self) -> None: ...
    def shown(self) -> tuple[int, int, bool]: ...
    def leave(self) -> None: ...


class SyncDriver:
    """Runs operations against one server; any number of threads may use it at once."""

    def __init__(self, resolver: Resolver, timeout_s: float | None = None, *, configures: bool = False) -> None:
        self._resolver = resolver
        self.timeout_s = timeout_s
        self.source = Source(resolver, configures)
        """What the hub of this server needs to know, for those who watch."""
        self.watches: weakref.WeakSet[Closable] = weakref.WeakSet()
        """What waits for changes, and ends with the store."""
        self.near: NearReads | None = None
        """What reads through the near cache, where the store has one."""
        self.around: Callable[[Op[Any]], Op[Any]] | None = None
        """Stands around each operation, where somebody wants to see its calls."""
        self.measured: Callable[[Op[Any]], Op[Any]] | None = None
        """The part of `around` that is telemetry's, for operations that go other ways."""
        self._closed = False
        self._asks_policy = True
        self._lock = threading.Lock()
        self._idle: list[HeldConnection] = []
        self._connections: set[HeldConnection] = set()
        self._spinner = Spinner()
        self._cores_allow = self._spinner.enabled
        self.keeper = Keeper(self.run)
        """Renews what the flows of this driver hold."""
        _drivers.add(self)

    @property
    def url(self) -> str:
        """Where the server is, secrets included."""
        return self._resolver.url

    def run(self, op: Op[T]) -> T:
        """Carry an operation out and return its result."""
        if self.around is not None:
            op = self.around(op)
        held: HeldConnection | None = None
        try:
            call = op.send(None)
            held = self._take()
            while True:
                if type(call) is not Call:
                    raise not_a_call(call)
                try:
                    try:
                        reply = held.exchange(call.commands, call.repeatable)
                    except ConnectionLost as error:
                        if not call.repeatable and error.outcome_unknown:
                            raise
                        held = self._replace(held)
                        reply = held.exchange(call.commands, call.repeatable)
                    if type(reply) is ReplyError or len(call.commands) > 1:
                        raise_error_reply(reply, call.commands)
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
                self._put_back(held)

    def run_alone(self, alone: Alone[T]) -> T:
        """Carry an operation out on one connection, from its first call to its last."""
        try:
            return self._run_on(alone.make(), self._take)
        except ConnectionLost as error:
            if error.outcome_unknown:
                raise
            return self._run_on(alone.make(), self._take_new)

    def _run_on(self, op: Op[T], take: Callable[[], HeldConnection]) -> T:
        if self.around is not None:
            op = self.around(op)
        held: HeldConnection | None = None
        done = False

        def exchange(call: Call[Any]) -> Any:
            nonlocal held
            if held is None:
                held = take()
            return held.exchange(call.commands, call.repeatable)

        try:
            result = drive(op, exchange)
            done = True
            return result
        finally:
            if held is not None:
                # What has not come to its end may have left a WATCH behind.
                held.busy = held.busy or not done
                self._put_back(held)

    def pauses(self) -> SyncPauses:
        """Return how the pauses of a flow pass; they end with the store."""
        pauses = SyncPauses(self.source, self.timeout_s)
        self.watches.add(pauses)
        return pauses

    def close(self) -> None:
        """Close all connections and let go of the server; calls under way fail, later ones are refused."""
        for watch in list(self.watches):
            watch.close()  # a consumer lets go of its name, for which it needs us
        self._closed = True
        if self.near is not None:
            self.near.leave()
            self.near = None  # what is kept is for others now
        self.keeper.close()
        with self._lock:
            connections, self._connections, self._idle = self._connections, set(), []
        for connection in connections:
            connection.close()
        self._resolver.close()

    def _take(self) -> HeldConnection:
        if self._closed:
            raise StoreClosed("The store is closed: connect again.")
        try:
            held = self._idle.pop()
        except IndexError:
            held = self._connect()
        # Polling while other threads work would take the interpreter from them.
        self._spinner.enabled = self._cores_allow and len(self._connections) - len(self._idle) <= 1
        return held

    def _connect(self) -> HeldConnection:
        if self._closed:
            raise StoreClosed("The store is closed: connect again.")
        address = self._resolver.address()
        held = HeldConnection(address, self._spinner)
        logger.debug("connected to %s", address.shown)
        with self._lock:
            self._connections.add(held)
        if self._closed:  # while it connected: `close` may not have seen it
            self._drop(held)
            raise StoreClosed("The store was closed while it connected: connect again.")
        return held

    def _replace(self, broken: HeldConnection) -> HeldConnection:
        """Drop a broken connection and return a new one.

        Where none can be had, the broken one stays the caller's; it refuses every further use by itself.
        """
        logger.info("a connection broke before it had done anything that counts; trying once more on a new one")
        self._drop(broken)
        return self._take_new()

    def _take_new(self) -> HeldConnection:
        """Return a new connection, where one broke: the idle ones most likely broke with it, and are dropped."""
        while self._idle:
            try:
                self._drop(self._idle.pop())
            except IndexError:
                break
        return self._connect()

    def _put_back(self, held: HeldConnection) -> None:
        if self._asks_policy and not held.busy and not self._closed:
            self._ask_policy(held)
        if held.busy or self._closed or len(self._idle) >= _MOST_IDLE:
            self._drop(held)
        else:
            self._idle.append(held)

    def _ask_policy(self, held: HeldConnection) -> None:
        """Ask the server, once, what it does when it is full; whatever comes of it, the caller's work is done."""
        self._asks_policy = False
        if not eviction_warning.is_due(held.shown):
            return
        try:
            eviction_warning.note(held.shown, held.exchange((eviction_warning.QUESTION,), True))
        except DataStoreError:
            logger.debug("%s did not say what it does when it is full", held.shown)
        except BaseException:
            self._drop(held)
            raise

    def _drop(self, held: HeldConnection) -> None:
        with self._lock:
            self._connections.discard(held)
        held.close()

    def _leave_to_parent(self) -> None:
        """In a forked child: close our copies of the descriptors, which the parent goes on using."""
        inherited, self._connections, self._idle = self._connections, set(), []
        self._lock = threading.Lock()  # a thread that is not here may have held it
        self.keeper.start_over()
        for connection in inherited:
            connection.close()


def drive(op: Op[T], exchange: Callable[[Call[Any]], Any]) -> T:
    """Step an operation to its end, with `exchange` for each of its calls; `SyncDriver.run` does so by itself, being hot."""
    try:
        call = op.send(None)
        while True:
            if type(call) is not Call:
                raise not_a_call(call)
            try:
                reply = exchange(call)
                if type(reply) is ReplyError or len(call.commands) > 1:
                    raise_error_reply(reply, call.commands)
            except Exception as error:
                call = op.throw(error)
            else:
                call = op.send(reply)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        op.close()


def _after_fork_in_child() -> None:
    for driver in list(_drivers):
        driver._leave_to_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)
