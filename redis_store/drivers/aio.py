"""The driver for asyncio: one shared connection per event loop, and more for big replies and exclusive operations."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol, TypeVar

from redis_store.connections import forks
from redis_store.connections.address import DEFAULT_TIMEOUT_S, Address
from redis_store.connections.aio import LoopConnection
from redis_store.connections.resolver import Resolver, Source
from redis_store.connections.spin import Spinner
from redis_store.drivers import eviction_warning
from redis_store.drivers.form import looking, making_sure, rehearse, unsure
from redis_store.drivers.nodes import Following, TurnedAway
from redis_store.drivers.store_driver import Core, StoreDriver
from redis_store.drivers.sync import members_of
from redis_store.drivers.wakeups import AsyncPauses
from redis_store.errors import ConnectionLost, DataStoreError, StoreClosed, StoreTimeout, StoreUnavailable
from redis_store.namespace.scope import Scope
from redis_store.near.async_side import LoopSide
from redis_store.near.cache import NearCache
from redis_store.protocol.call import Alone, Call, Op, not_a_call
from redis_store.protocol.command import ReplyError
from redis_store.protocol.drive import drive_async
from redis_store.protocol.error_replies import translate
from redis_store.protocol.read import Read
from redis_store.protocol.redirects import marked, unmarked

T = TypeVar("T")

logger = logging.getLogger("redis_store")

MOST_OWN_CONNECTIONS = 8
"""Maximum number of connections for big replies and exclusive operations in an event loop; further ones wait."""


class AsyncClosable(Protocol):
    """Something that a store closes with itself."""

    def close(self) -> Awaitable[None] | None: ...


class _LoopState:
    """The connections of one event loop."""

    __slots__ = ("attempts", "connecting", "failure", "idle", "lent", "loop", "near", "places", "retired", "shared")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.shared: LoopConnection | None = None
        self.retired: LoopConnection | None = None
        """The former shared connection, which may still have calls."""
        self.connecting = asyncio.Lock()
        self.attempts = 0
        self.failure: StoreUnavailable | None = None
        """Number of attempts to open the shared connection, and the error of the last one."""
        self.places = asyncio.Semaphore(MOST_OWN_CONNECTIONS)
        self.idle: list[LoopConnection] = []
        self.lent: set[LoopConnection] = set()
        self.near: LoopSide | None = None

    def drop_idle(self) -> None:
        """Close the idle connections after one broke, as they most likely broke too."""
        while self.idle:
            self.idle.pop().close()

    def connections(self) -> list[LoopConnection]:
        return [each for each in (self.shared, self.retired, *self.idle, *self.lent) if each is not None]


class AsyncCore(Core):
    """What the asyncio stores of one client share: also the connections of each event loop."""

    def __init__(self, resolver: Resolver, timeout_s: float | None = None, *, configures: bool = False) -> None:
        super().__init__(Source(resolver, configures), timeout_s)
        self._resolver = resolver
        self._states: dict[int, _LoopState] = {}
        self._latest: _LoopState | None = None
        self._waits_for_replicas = resolver.min_replicas > 0
        self._waits_s = timeout_s or DEFAULT_TIMEOUT_S
        """The time-out, also if it is in the url."""
        self._spinner = Spinner()
        forks.inherited.add(self)

    async def everywhere(self) -> list[AsyncCore]:
        """Return the cores for all nodes that have slots, for what concerns all users; on a single server this one.

        The table of slots is read now, as nodes may have come since.
        """
        if (look := looking(self._resolver)) is not None:
            await drive_async(look, self.exchange, Exception)
        topology = self.cluster
        if topology is not None:
            await asyncio.to_thread(topology.refresh, at_once=True)
        return self._primaries(topology)

    def _for_node(self, source: Source) -> AsyncCore:
        core = copy.copy(self)
        core.source, core._resolver = source, source.resolver
        core._start_over()
        if self._near_bytes:
            core.use_near_cache(self._near_bytes)
        forks.inherited.add(core)
        return core

    async def close(self) -> None:
        """Close the connections of every event loop and stop using the server."""
        await _close_all(self.watching)  # first, because a consumer releases its name through its driver
        everyone = self._everyone()
        await _close_all(self.watching)  # of waits that began meanwhile
        for core in everyone:
            await core._disconnect()

    async def _disconnect(self) -> None:
        if self.near is not None:
            self.near.leave(self)
            self.near = None  # other clients go on using the cached values
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

    def emptied(self) -> AsyncCore:
        """Return what a store has left when it closes and its client does not: no connections, and no cached values."""
        left = copy.copy(self)
        left.is_closed, left.near, left.around = True, None, None
        left._start_over()
        return left

    async def exchange(self, call: Call[Any]) -> Any:
        """Carry out a call on a connection of the running event loop, once more on another if that is harmless."""
        if type(call) is not Call:
            raise not_a_call(call)
        try:
            future = self._send(call)
            return await (self._request(call) if future is None else future)
        except ConnectionLost as error:
            if not call.repeatable and error.outcome_unknown:
                raise
            logger.info("a connection broke, and no write can have happened; trying once more on a new one")
            self._state().drop_idle()
            return await self._request(call)

    def _send(self, call: Call[Any]) -> asyncio.Future[Any] | None:
        """Send a call on the shared connection; None if it has to wait or needs another connection."""
        connection = self._state().shared
        if (
            connection is None
            or call.bulk
            or (self._waits_for_replicas and not call.repeatable)
            or not connection.usable
        ):
            return None
        return connection.send(call.commands, call.repeatable)

    async def _request(self, call: Call[Any]) -> Any:
        # The server answers it when replicas have it, and until then nothing else on its connection.
        has_to_wait = self._waits_for_replicas and not call.repeatable
        if call.bulk or has_to_wait:
            async with self.own_connection(has_to_wait) as own:
                return await own.request(call.commands, call.repeatable)
        state = self._state()
        connection = state.shared
        if connection is None or not connection.usable:
            connection = await self._connect_shared(state)
        return await connection.request(call.commands, call.repeatable)

    def _state(self) -> _LoopState:
        if self.is_closed:
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

    def drop_idle(self) -> None:
        """Close the idle connections of the running event loop after one broke."""
        self._state().drop_idle()

    def near_side(self, near: NearCache) -> LoopSide:
        """Return the near cache's side of the running event loop."""
        state = self._state()
        if state.near is None or state.near.closed:
            state.near = near.loop_side(self)
        return state.near

    async def _connect_shared(self, state: _LoopState) -> LoopConnection:
        attempts = state.attempts
        async with state.connecting:
            if state.attempts > attempts and state.failure is not None:
                raise copy.copy(state.failure)  # callers that wait for one attempt do not fail one after the other
            if state.shared is None or not state.shared.usable:
                state.failure = None
                try:
                    opened = await self._connect()
                except StoreUnavailable as error:
                    state.failure = copy.copy(error)
                    raise
                finally:
                    state.attempts += 1
                if state.shared is not None:
                    state.shared.retire()
                state.retired, state.shared = state.shared, opened
                # After the call that needed the connection, which is sent in this iteration of the loop.
                state.loop.call_soon(self._ask_policy, state.shared)
            return state.shared

    def _ask_policy(self, connection: LoopConnection) -> None:
        """Query the server's eviction policy, once."""
        shown = connection.shown
        if connection.usable and eviction_warning.is_due(shown):
            connection.ask(eviction_warning.QUESTION, lambda answer: eviction_warning.note(shown, answer))

    async def _connect(self) -> LoopConnection:
        address = await self._address()
        self._waits_s = address.timeout_s
        connection = await LoopConnection.open(address, self._spinner)
        logger.debug("connected to %s", address.shown)
        if self.is_closed:
            connection.close()
            raise StoreClosed("The store was closed while it connected: connect again.")
        return connection

    async def run_once(self, op: Op[T]) -> T:
        """Run an operation on a connection that is closed after it."""
        try:
            connection = await self._connect()
        except BaseException:
            op.close()
            raise
        try:
            return await drive_async(op, lambda call: connection.request(call.commands, call.repeatable), Exception)
        finally:
            connection.close()

    async def _address(self) -> Address:
        if self._resolver.may_block:
            return await asyncio.to_thread(self._resolver.address)
        return self._resolver.address()

    @asynccontextmanager
    async def own_connection(self, has_to_wait: bool = False) -> AsyncIterator[LoopConnection]:
        """Lend a connection. It returns to the stack of idle ones only if no reply is outstanding; otherwise it is closed."""
        state = self._state()
        await self._take_place(state, has_to_wait)
        try:
            connection = await self._usable_idle(state)
            state.lent.add(connection)
            done = False
            try:
                yield connection
                done = True
            finally:
                state.lent.discard(connection)
                if done and connection.usable and connection.idle and not self.is_closed:
                    state.idle.append(connection)
                else:
                    connection.close()
        finally:
            state.places.release()

    async def _take_place(self, state: _LoopState, has_to_wait: bool) -> None:
        """Wait in the queue for a connection, but not past the time-out if nothing arrives for the callers ahead.

        A write that `has_to_wait` for replicas never waits longer: each of those ahead may take half of the time-out.
        """
        if not state.places.locked():
            await state.places.acquire()
            return
        began = state.loop.time()
        acquiring = state.loop.create_task(state.places.acquire())
        try:
            while not acquiring.done():
                last = began if has_to_wait else max((each.progress_at for each in state.lent), default=began)
                left = max(began, last) + self._waits_s - state.loop.time()
                if left <= 0:
                    raise StoreTimeout(
                        f"The server did not reply within {self._waits_s:g} s to the calls before this one, of which"
                        f" {MOST_OWN_CONNECTIONS} are sent at once: nothing was written by it. Try again."
                        if has_to_wait
                        else f"The server did not reply within {self._waits_s:g} s to the {MOST_OWN_CONNECTIONS} big reads and"
                        " transactions before this call: nothing was written by it. Try again."
                    )
                await asyncio.wait((acquiring,), timeout=left)
        except BaseException:
            if not acquiring.cancel():
                state.places.release()
            raise

    async def _usable_idle(self, state: _LoopState) -> LoopConnection:
        while state.idle:
            connection = state.idle.pop()
            if connection.usable:
                return connection
            connection.close()
        return await self._connect()

    def _forget_closed_loops(self) -> None:
        for key, state in list(self._states.items()):
            # Loops of several threads may run this at once; the one that removes a state also closes it.
            if state.loop.is_closed() and self._states.pop(key, None) is state:
                for connection in state.connections():
                    connection.abandon()

    def leave_to_parent(self) -> None:
        """In a forked child, open connections of its own.

        The inherited ones stay open and unused: closing them would remove them from the epoll instance that both share.
        """
        _left_to_parent.append(self._states)
        self._start_over()
        self.hits.clear()  # the parent reports them

    def _start_over(self) -> None:
        self._states = {}
        self._latest = None


class AsyncDriver(StoreDriver[AsyncCore, AsyncClosable]):
    """Runs the operations of one store against the server of its client, from any number of event loops."""

    __slots__ = ()

    async def make_sure(self, *, keeps: bool = True) -> None:
        """Find out the form of the user's Redis keys, before the first operation, and that its data is not in the other form.

        `keeps` the connection for the operation that follows.
        """
        resolver = self.core.source.resolver
        user = unsure(self._unsure, resolver)  # another store may have looked meanwhile
        if user is not None:
            look = making_sure(user, resolver)
            if keeps or self.core.cluster is not None:
                await drive_async(look, self._exchange, Exception)
            else:
                await self.core.run_once(look)
            if resolver.topology is not None and resolver.topology.is_due:
                await asyncio.to_thread(resolver.topology.refresh_if_due)
        self._settle()
        self._unsure = None

    def run(self, op: Op[T]) -> Coroutine[Any, Any, T]:
        """Run an operation and return its result."""
        if self._unsure is not None:
            return self._run_later(op)
        core = self.core
        exchange = core.exchange if core.cluster is None else self._exchange
        return drive_async(op if core.around is None else core.around(op), exchange, Exception)

    async def _exchange(self, call: Call[Any]) -> Any:
        """Carry out a call, on the node of a cluster that has the data."""
        core = self.core
        resolver = core.source.resolver
        try:
            reply = await core.exchange(call)
        except ConnectionLost as error:
            topology = core.cluster
            if topology is None or not topology.primaries or core.is_closed or self.stays or error.outcome_unknown:
                raise
            following = self._following(resolver, call.commands)
            following.failed(error)
        else:
            if not self._is_refused(reply, call.commands, resolver):
                return reply
            following = self._following(resolver, call.commands)
            following.replied(reply, resolver.node)
        while True:
            next_core = await self._next_core(following)
            if next_core is None:
                continue
            sent = call._replace(commands=following.journey.next())
            try:
                if following.replied(await next_core.exchange(sent), next_core.source.resolver.node):
                    self._stay(next_core, following)
                    return following.journey.reply
            except ConnectionLost as error:
                if error.outcome_unknown and not call.repeatable:
                    raise
                following.failed(error)

    async def _next_core(self, following: Following) -> AsyncCore | None:
        """Wait until it is time for the next attempt, and return the core for its node; None if no node is known."""
        await asyncio.sleep(following.pause())
        if following.must_look:
            await asyncio.to_thread(following.topology.refresh_if_due)
        try:
            return self.core.at(following.node())
        except StoreUnavailable as error:
            following.failed(error)
            return None

    def read(self, read: Read[T], scope: Scope, wanted: Any, default: Any = None) -> Coroutine[Any, Any, T]:
        """Run an operation that reads, or let the near cache answer it."""
        if self._unsure is not None:
            return self._read_later(read, scope, wanted, default)
        core = self.core
        if core.near is not None:
            return core.near_side(core.near).answer(read, scope, wanted, default, self)
        if read.call is None or read.result is None or core.around is not None:
            return self.run(read.ask(scope, wanted, default))
        exchange = core.exchange if core.cluster is None else self._exchange
        return _read_at_once(exchange, read.call(scope, wanted), read.result, scope, wanted, default)

    async def _read_later(self, read: Read[T], scope: Scope, wanted: Any, default: Any) -> T:
        (await self._make_sure_for(read.ask(scope, wanted, default))).close()
        return await self.read(read, scope, wanted, default)

    async def _run_later(self, op: Op[T]) -> T:
        return await self.run(await self._make_sure_for(op))

    async def _make_sure_for(self, op: Op[T]) -> Op[T]:
        """Do `make_sure` and return the operation. If that fails, what the operation would refuse in any case is raised."""
        try:
            await self.make_sure()
        except DataStoreError:
            rehearse(op)
            raise
        except BaseException:
            op.close()
            raise
        return op

    async def run_alone(self, alone: Alone[T]) -> T:
        """Run an operation on one connection, from its first call to its last."""
        if self._unsure is not None:
            (await self._make_sure_for(alone.make())).close()
        core = self.core
        try:
            return await self._run_on_own(alone.make(), core)
        except ConnectionLost as error:
            if error.outcome_unknown:
                raise
            core.drop_idle()
            if core.cluster is None:
                return await self._run_on_own(alone.make(), core)
            following = self._following(core.source.resolver)
            following.broke(error)
        except TurnedAway as away:
            following = self._following(core.source.resolver)
            following.turned_away(away.reply, away.commands, away.node)
        while True:
            next_core = await self._next_core(following)
            if next_core is None:
                continue
            if following.anew:
                next_core.drop_idle()
            try:
                result = await self._run_on_own(alone.make(), next_core, following.asking)
            except ConnectionLost as error:
                if error.outcome_unknown:
                    raise
                following.failed(error)
            except TurnedAway as away:
                following.turned_away(away.reply, away.commands, away.node)
            else:
                self._stay(next_core, following)
                return result

    async def _run_on_own(self, op: Op[T], core: AsyncCore, asking: bool = False) -> T:
        async with AsyncExitStack() as stack:
            own: LoopConnection | None = None

            async def exchange(call: Call[Any]) -> Any:
                nonlocal own
                if type(call) is not Call:
                    raise not_a_call(call)
                if own is None:
                    own = await stack.enter_async_context(core.own_connection())
                if asking:
                    replies = await own.request(marked(call.commands), call.repeatable)
                    reply = unmarked(replies, call.commands)
                else:
                    reply = await own.request(call.commands, call.repeatable)
                resolver = core.source.resolver
                if self._is_refused(reply, call.commands, resolver):
                    raise TurnedAway(reply, call.commands, resolver.node)
                return reply

            return await drive_async(op if core.around is None else core.around(op), exchange, Exception)

    def pauses(self) -> AsyncPauses:
        """Return the pauses of a flow; they are closed with the store."""
        pauses = AsyncPauses(self.source, self.timeout_s)
        self.watches.add(pauses)
        return pauses

    async def close(self) -> None:
        """End the store's watches and waits, and refuse later calls; close the connections if they are the store's own."""
        await _close_all(self._watches or ())  # first, because a consumer releases its name through this driver
        if self._owns_core:
            await self.core.close()
        elif not self.core.is_closed:
            self.core = self.core.emptied()
        await _close_all(self._watches or ())  # those that began meanwhile


class AsyncNodeDriver(AsyncDriver):
    """Runs operations on all users of one server, or of one node of a cluster; see `StoreDriver.stays`."""

    __slots__ = ()
    stays = True


async def _read_at_once(
    exchange: Callable[[Call[Any]], Awaitable[Any]], call: Call[Any], result: Callable[..., T], *arguments: Any
) -> T:
    """Carry out one call, as a driver's `run` does; without an operation it takes some microseconds less."""
    reply = await exchange(call)
    if type(reply) is ReplyError:
        raise translate(reply, call.commands)
    return result(*arguments, reply)


async def _close_all(them: Iterable[AsyncClosable]) -> None:
    for each in members_of(them):
        closing = each.close()
        if closing is not None:
            await closing


_left_to_parent: list[dict[int, _LoopState]] = []
