"""Carries out operations for threads: each call on a connection of its own, taken from a stack of idle ones."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TypeVar

from redis_store._call import Op, ReplyError
from redis_store._replies import raise_error_reply
from redis_store._resolve import Resolver
from redis_store._spin import Spinner
from redis_store._sync_connection import HeldConnection
from redis_store.errors import ConnectionLost, StoreClosed

T = TypeVar("T")

_MOST_IDLE = 64
_drivers: weakref.WeakSet[SyncDriver] = weakref.WeakSet()


class SyncDriver:
    """Runs operations against one server; any number of threads may use it at once."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._closed = False
        self._lock = threading.Lock()
        self._idle: list[HeldConnection] = []
        self._connections: set[HeldConnection] = set()
        self._spinner = Spinner()
        self._cores_allow = self._spinner.enabled
        _drivers.add(self)

    @property
    def url(self) -> str:
        """Where the server is, secrets included."""
        return self._resolver.url

    def run(self, op: Op[T], *, alone: bool = False) -> T:
        """Carry an operation out and return its result.

        With `alone`, the operation has one connection from its first call to its last, and none of its calls is repeated.
        """
        held: HeldConnection | None = None
        done = False
        try:
            call = op.send(None)
            held = self._take()
            while True:
                try:
                    try:
                        reply = held.exchange(call.commands, call.repeatable)
                    except ConnectionLost as error:
                        if alone or not (call.repeatable or not error.outcome_unknown):
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
            done = True
            result: T = stop.value
            return result
        finally:
            op.close()
            if held is not None:
                self._put_back(held, usable=done or not alone)

    def close(self) -> None:
        """Close all connections and let go of the server; calls under way fail, later ones are refused."""
        self._closed = True
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
        held = HeldConnection(self._resolver.address(), self._spinner)
        with self._lock:
            self._connections.add(held)
        if self._closed:  # while it connected: `close` may not have seen it
            self._drop(held)
            raise StoreClosed("The store was closed while it connected: connect again.")
        return held

    def _replace(self, broken: HeldConnection) -> HeldConnection:
        """Drop a broken connection, and the idle ones, which most likely broke with it; return a new one.

        Where none can be had, the broken one stays the caller's; it refuses every further use by itself.
        """
        self._drop(broken)
        while self._idle:
            try:
                self._drop(self._idle.pop())
            except IndexError:
                break
        return self._connect()

    def _put_back(self, held: HeldConnection, *, usable: bool) -> None:
        if usable and not held.busy and not self._closed and len(self._idle) < _MOST_IDLE:
            self._idle.append(held)
        else:
            self._drop(held)

    def _drop(self, held: HeldConnection) -> None:
        with self._lock:
            self._connections.discard(held)
        held.close()

    def _leave_to_parent(self) -> None:
        """In a forked child: close our copies of the descriptors, which the parent goes on using."""
        inherited, self._connections, self._idle = self._connections, set(), []
        self._lock = threading.Lock()  # a thread that is not here may have held it
        for connection in inherited:
            connection.close()


def _after_fork_in_child() -> None:
    for driver in list(_drivers):
        driver._leave_to_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)
