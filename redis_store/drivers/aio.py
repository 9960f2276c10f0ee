"""Carries out operations for asyncio: one shared connection an event loop, and others for what is big or stands alone."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol, TypeVar

from redis_store.connections.address import Address
from redis_store.connections.aio import LoopConnection
from redis_store.connections.resolver import Resolver, Source
from redis_store.connections.spin import Spinner
from redis_store.drivers import eviction_warning
from redis_store.drivers.wakeups import AsyncPauses
from redis_store.errors import ConnectionLost, StoreClosed
from redis_store.namespace.scope import Scope
from redis_store.protocol.call import Alone, Call, Op, ReplyError, not_a_call
from redis_store.protocol.replies import raise_error_reply
from redis_store.types import Json

T = TypeVar("T")

logger = logging.getLogger("redis_store")

MOST_OWN_CONNECTIONS = 8
"""How many big or lonely operations of one event loop run at once; further ones wait."""

_drivers: weakref.WeakSet[AsyncDriver] = weakref.WeakSet()


class AsyncClosable(Protocol):
    """Something that a store closes with itself."""

    def close(self) -> Awaitable[None] | None: ...


class AsyncNearReads(Protocol):
    """Reads through a near cache. The driver holds them, and leaves the cache when it closes."""

    async def get(self, scope: Scope, key: str, default: Any) -> Any: ...
    async def text(self, scope: Scope, key: str) -> bytes | None: ...
    async def get_many(self, scope: Scope, keys: Iterable[str]) -> dict[str, Json]: ...
    def shown(self) -> tuple[int, int, bool]: ...
    def leave(self) -> None: ...


class _LoopState:
    """The connections of one event loop."""

    __slots__ = ("connecting", "idle", "lent", "loop", "places", "shared")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.shared: LoopConnection | None = None
        self.connecting = asyncio.Lock()
        self.places = asyncio.Semaphore(MOST_OWN_CONNECTIONS)
        self.idle: list[LoopConnection] = []
        self.lent: set[LoopConnection] = set()

    def drop_idle(self) -> None:
        """Close the idle connections, which most likely broke together with one that did."""
        while self.idle:
            self.idle.pop().close()

    def connections(self) -> list[LoopConnection]:
        return [*([self.shared] if self.shared else []), *self.idle, *self.lent]


class AsyncDriver:
    """Runs operations against one server, from any number of event loops, each with connections of its own."""

    def __init__(self, resolver: Resolver, timeout_s: float | None = None, *, configures: bool = False) -> None:
        self._resolver = resolver
        self.timeout_s = timeout_s
        self.source = Source(resolver, configures)
        """What the hub of this server needs to know, for those who watch."""
        self.watches: weakref.WeakSet[AsyncClosable] = weakref.WeakSet()
        """What waits for changes, and ends with the store."""
        self.near: AsyncNearReads | None = None
        """What reads through the near cache, where the store has one."""
        self.around: Callable[[Op[Any]], Op[Any]] | None = None
        """Stands around each operation, where somebody wants to see its calls."""
        self.measured: Callable[[Op[Any]], Op[Any]] | None = None
        """The part of `around` that is telemetry's, for operations that go other ways."""
        self._closed = False
        self._states: dict[int, _LoopState] = {}
        self._latest: _LoopState | None = None
        self._spinner = Spinner()
        _drivers.add(self)

    @property
    def url(self) -> str:
        """Where the server is, secrets included."""
        return self._resolver.url

    async def run(self, op: Op[T]) -> T:
        """Carry an operation out and return its result."""
        return await self._drive(op, self._exchange)

    async def run_alone(self, alone: Alone[T]) -> T:
        """Carry an operation out on one connection, from its first call to its last."""
        try:
            return await self._run_on_own(alone.make())
        except ConnectionLost as error:
            if error.outcome_unknown:
                raise
            self._state().drop_idle()
            return await self._run_on_own(alone.make())

    async def _run_on_own(self, op: Op[T]) -> T:
        async with AsyncExitStack() as stack:
            own: LoopConnection | None = None

            async def exchange(call: Call[Any]) -> Any:
                nonlocal own
                if own is None:
                    own = await stack.enter_async_context(self._own_connection())
                return await own.request(call.commands, call.repeatable)

            return await self._drive(op, exchange)

    def _drive(self, op: Op[T], exchange: Callable[[Call[Any]], Awaitable[Any]]) -> Awaitable[T]:
        return drive(op if self.around is None else self.around(op), exchange)

    def pauses(self) -> AsyncPauses:
        """Return how the pauses of a flow pass; they end with the store."""
        pauses = AsyncPauses(self.source, self.timeout_s)
        self.watches.add(pauses)
        return pauses

    async def close(self) -> None:
        """Close the connections of every event loop and let go of the server."""
        for watch in list(self.watches):
            closing = watch.close()  # a consumer lets go of its name, for which it needs us
            if closing is not None:
                await closing
        self._closed = True
        if self.near is not None:
            self.near.leave()
            self.near = None  # what is kept is for others now
        states = self._states
        self._start_over()
        here = asyncio.get_running_loop()
        for state in states.values():
            for connection in state.connections():
                if state.loop is here:
                    connection.close()
                elif state.loop.is_closed():
                    connection.abandon()
                else:
                    state.loop.call_soon_threadsafe(connection.close)
        if self._resolver.may_block:
            await asyncio.to_thread(self._resolver.close)
        else:
            self._resolver.close()

    async def _exchange(self, call: Call[Any]) -> Any:
        try:
            return await self._request(call)
        except ConnectionLost as error:
            if not call.repeatable and error.outcome_unknown:
                raise
            logger.info("a connection broke before it had done anything that counts; trying once more on a new one")
            self._state().drop_idle()
            return await self._request(call)

    async def _request(self, call: Call[Any]) -> Any:
        if call.bulk:
            async with self._own_connection() as own:
                return await own.request(call.commands, call.repeatable)
        state = self._state()
        connection = state.shared
        if connection is None or not connection.usable:
            connection = await self._connect_shared(state)
        return await connection.request(call.commands, call.repeatable)

    def _state(self) -> _LoopState:
        if self._closed:
            raise StoreClosed("The store is closed: connect again.")
        loop = asyncio.get_running_loop()
        state = self._latest
        if state is None or state.loop is not loop:
            state = self._states.get(id(loop))
            if state is None or state.loop is not loop:
                self._forget_closed_loops()
                state = self._states[id(loop)] = _LoopState(loop)
            self._latest = state
        return state

    async def _connect_shared(self, state: _LoopState) -> LoopConnection:
        async with state.connecting:
            if state.shared is None or not state.shared.usable:
                state.shared = await self._connect()
                # Behind the call for which it was made, which goes out in this tick.
                state.loop.call_soon(self._ask_policy, state.shared)
            return state.shared

    def _ask_policy(self, connection: LoopConnection) -> None:
        """Ask the server, once, what it does when it is full."""
        shown = connection.shown
        if connection.usable and eviction_warning.is_due(shown):
            connection.ask(eviction_warning.QUESTION, lambda answer: eviction_warning.note(shown, answer))

    async def _connect(self) -> LoopConnection:
        address = await self._address()
        connection = await LoopConnection.open(address, self._spinner)
        logger.debug("connected to %s", address.shown)
        if self._closed:
            connection.close()
            raise StoreClosed("The store was closed while it connected: connect again.")
        return connection

    async def _address(self) -> Address:
        if self._resolver.may_block:
            return await asyncio.to_thread(self._resolver.address)
        return self._resolver.address()

    @asynccontextmanager
    async def _own_connection(self) -> AsyncIterator[LoopConnection]:
        """Lend a connection; whatever goes wrong meanwhile, what comes back into the stack has nothing outstanding."""
        state = self._state()
        async with state.places:
            connection = await self._usable_idle(state)
            state.lent.add(connection)
            done = False
            try:
                yield connection
                done = True
            finally:
                state.lent.discard(connection)
                if done and connection.usable and connection.idle and not self._closed:
                    state.idle.append(connection)
                else:
                    connection.close()

    async def _usable_idle(self, state: _LoopState) -> LoopConnection:
        while state.idle:
            connection = state.idle.pop()
            if connection.usable:
                return connection
        return await self._connect()

    def _forget_closed_loops(self) -> None:
        for key, state in list(self._states.items()):
            # Loops of several threads may come here at once; who takes a state out is the one who ends it.
            if state.loop.is_closed() and self._states.pop(key, None) is state:
                for connection in state.connections():
                    connection.abandon()

    def _start_over(self) -> None:
        self._states = {}
        self._latest = None


async def drive(op: Op[T], exchange: Callable[[Call[Any]], Awaitable[Any]]) -> T:
    """Step an operation to its end, with `exchange` for each of its calls."""
    try:
        call = op.send(None)
        while True:
            if type(call) is not Call:
                raise not_a_call(call)
            try:
                reply = await exchange(call)
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


_left_to_parent: list[dict[int, _LoopState]] = []


def _after_fork_in_child() -> None:
    # What the child makes anew gets connections of its own. The inherited ones are kept and not touched: closing them would
    # take them out of the epoll instance that the child shares with its parent.
    for driver in list(_drivers):
        _left_to_parent.append(driver._states)
        driver._start_over()


os.register_at_fork(after_in_child=_after_fork_in_child)
