"""The driver for threads: each operation borrows a connection of its own."""

from __future__ import annotations

import copy
import logging
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from redis_store.connections import forks
from redis_store.connections.resolver import Source
from redis_store.connections.sync import HeldConnection
from redis_store.drivers.form import looking, making_sure, rehearse, unsure
from redis_store.drivers.loans import Loans, NoConnections, OwnConnections
from redis_store.drivers.nodes import Following, TurnedAway, is_of_cluster
from redis_store.drivers.store_driver import Core, StoreDriver
from redis_store.drivers.wakeups import SyncPauses
from redis_store.errors import ConnectionLost, DataStoreError, StoreTimeout, StoreUnavailable
from redis_store.flows.renewing import Keeper
from redis_store.namespace.scope import Scope
from redis_store.protocol.call import Alone, Call, Op, not_a_call
from redis_store.protocol.command import ReplyError
from redis_store.protocol.drive import drive
from redis_store.protocol.error_replies import translate
from redis_store.protocol.read import Read
from redis_store.protocol.redirects import Node, marked, redirection_of, unmarked

T = TypeVar("T")
C = TypeVar("C")

logger = logging.getLogger("redis_store")


class Closable(Protocol):
    """Something that a store closes with itself."""

    def close(self) -> object: ...


class SyncCore(Core):
    """What the blocking stores of one client share: also connections, and the thread that renews what they hold."""

    def __init__(
        self,
        loans: Loans,
        source: Source,
        timeout_s: float | None = None,
        lender: tuple[SyncCore, Callable[[Loans], Loans]] | None = None,
    ) -> None:
        """`lender` is the core whose connections these loans lend, and what makes such loans of those for another node."""
        super().__init__(source, timeout_s)
        self.loans = loans
        """Where operations borrow their connections."""
        self.keeper = Keeper()
        """Renews what the flows of the stores hold."""
        self._borrows = False
        """Whether the connections and the keeper are another core's."""
        self._lender = lender
        self._observed: SyncCore | None = None
        """The core that this one is, without what observes its operations."""
        forks.inherited.add(self)

    def at(self, node: Node) -> SyncCore:
        if self._observed is not None and node != self.source.resolver.node:
            return self._observed.at(node).unobserved()
        return super().at(node)

    def everywhere(self) -> list[SyncCore]:
        """Return the cores for all nodes that have slots, for what concerns all users; on a single server this one.

        The table of slots is read now, as nodes may have come since.
        """
        if (look := looking(self.source.resolver)) is not None:
            SyncDriver(self.unobserved()).run(look)
        topology = self.cluster
        if topology is not None:
            topology.refresh(at_once=True)
        return self._primaries(topology)

    def _for_node(self, source: Source) -> SyncCore:
        core = copy.copy(self)
        core.source = source
        if self._lender is None:
            assert isinstance(self.loans, OwnConnections), "others are lent"
            core.loans = self.loans.beside(source.resolver)
        else:
            owner, lend = self._lender
            assert source.resolver.node is not None
            owner = owner.at(source.resolver.node)
            core.loans, core.near = lend(owner.loans), owner.near
            core.around = None if owner.near is None else owner.near.watching
        if self._near_bytes:
            core.use_near_cache(self._near_bytes)
        if core.is_closed:  # meanwhile
            core.loans.close()
        forks.inherited.add(core)
        return core

    def with_near_cache(self, max_bytes: int) -> SyncCore:
        """Return a core with a near cache, over the connections of this one. Closing it leaves them open."""
        core = copy.copy(self)
        core._borrows = True
        core.watching = weakref.WeakSet()
        core._lender, core._nodes = (self, _as_they_are), None
        core.use_near_cache(max_bytes)
        return core

    def use_near_cache(self, max_bytes: int) -> None:
        super().use_near_cache(max_bytes)
        assert self.near is not None
        self.near.threads.open(self)

    def close(self) -> None:
        """Close all connections and stop using the server. Calls in progress fail; later ones are refused."""
        self._close_drivers()  # first, because a consumer releases its name through its driver
        everyone = self._everyone()
        if not self._borrows:
            for core in everyone:
                core.loans.close()
            self.keeper.close()
        self._close_drivers()  # of waits that began meanwhile
        for core in everyone:
            near, core.near = core.near, None
            if near is not None:
                near.leave(core)  # other clients go on using the cached values

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
        core._observed = self
        return core

    def leave_to_parent(self) -> None:
        """In a forked child, stop using what the parent goes on using."""
        self.loans.leave_to_parent()
        self.keeper.start_over()
        self.hits.clear()  # the parent reports them


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
            look = SyncDriver(self.core.unobserved(), user)
            look._unsure = None
            resolver = self.core.source.resolver
            look.run(making_sure(user, resolver), most_s)
            if resolver.topology is not None:
                resolver.topology.refresh_if_due()
                self._settle()
            if not keeps:
                loans = look.core.loans
                loans.drop(loans.take(most_s))
        elif self.core.cluster is not None:
            self._settle()
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
            while True:
                if type(call) is not Call:
                    raise not_a_call(call)
                try:
                    try:
                        if held is None:
                            held = loans.take(most_s)
                        reply = held.exchange(call.commands, call.repeatable)
                    except (ConnectionLost, StoreTimeout) as error:
                        broken, held = held, None
                        if broken is not None:
                            loans.drop(broken)
                        loans, held, reply = self._retry(call, error, broken is not None, most_s)
                    else:
                        if held.standing.turned_away and self._is_turned_away(held, call, reply):
                            away, held = held, None
                            loans.put_back(away)
                            loans, held, reply = self._follow(call, reply, most_s)
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
        call = read.call(scope, wanted)
        try:
            reply = _reply_to(core.loans, call)
        except ConnectionLost:
            if core.cluster is None:
                raise
        else:
            if type(reply) is not ReplyError:
                return read.result(scope, wanted, default, reply)
            if redirection_of(reply) is None or not is_of_cluster(reply, core.source.resolver):
                raise translate(reply, call.commands)
        return self.run(read.ask(scope, wanted, default))

    def _retry(
        self, call: Call[Any], error: StoreUnavailable, broke: bool, most_s: float | None
    ) -> tuple[Loans, HeldConnection | None, Any]:
        """Carry out a call again whose connection `broke`, or could not be opened, if that is harmless."""
        cluster = self.core.cluster
        # Without primaries, no node was ever reached.
        in_cluster = cluster is not None and bool(cluster.primaries) and not self.stays
        if (
            not (broke or in_cluster)
            or (broke and type(error) is not ConnectionLost)
            or (error.outcome_unknown and not call.repeatable)
        ):
            raise error
        if in_cluster:
            return self._follow(call, None, most_s, error, broke)
        loans = self.core.loans
        held = _take_another(loans, most_s)
        try:
            return loans, held, held.exchange(call.commands, call.repeatable)
        except BaseException:
            loans.put_back(held)
            raise

    def _is_turned_away(self, held: HeldConnection, call: Call[Any], reply: Any) -> bool:
        """Whether a call is to be sent again, because its node has refused it as nodes of a cluster do."""
        held.standing.turned_away = False
        return self._is_refused(reply, call.commands, self.core.source.resolver)

    def _follow(
        self,
        call: Call[Any],
        reply: Any,
        most_s: float | None,
        error: StoreUnavailable | None = None,
        broke: bool = False,
    ) -> tuple[Loans, HeldConnection | None, Any]:
        """Carry out a call that its node has refused, or that never reached it, at the node of the cluster that has the data.

        Return the reply, with the connection that it came on and where that is borrowed.
        """
        following = self._following(self.core.source.resolver, call.commands, most_s)
        if error is None:
            following.replied(reply, self.core.source.resolver.node)
        elif broke:
            following.broke(error)
        else:
            following.failed(error)
        while True:
            core, held = self._next_core(following), None
            if core is None:
                continue
            try:
                held = (core.loans.take_new if following.anew else core.loans.take)(following.most_s)
                if following.replied(
                    held.exchange(following.journey.next(), call.repeatable), core.source.resolver.node
                ):
                    self._stay(core, following)
                    if self.stays:
                        return self.core.loans, None, following.journey.reply
                    arrived, held = held, None
                    return core.loans, arrived, following.journey.reply
            except (ConnectionLost, StoreTimeout) as failure:
                if held is not None:
                    if type(failure) is StoreTimeout or (failure.outcome_unknown and not call.repeatable):
                        raise
                    broken, held = held, None
                    core.loans.drop(broken)
                following.failed(failure)
            finally:
                if held is not None:
                    core.loans.put_back(held)

    def _next_core(self, following: Following) -> SyncCore | None:
        """Wait until it is time for the next attempt, and return the core for its node; None if no node is known."""
        time.sleep(following.pause())
        if following.must_look:
            following.topology.refresh_if_due()
        try:
            return self.core.at(following.node())
        except StoreUnavailable as error:
            following.failed(error)
            return None

    def run_alone(self, alone: Alone[T]) -> T:
        """Run an operation on one connection, from its first call to its last."""
        if self._unsure is not None:
            self._make_sure_for(alone.make()).close()
        core = self.core
        try:
            return self._run_on(alone.make(), core, core.loans.take)
        except ConnectionLost as error:
            if error.outcome_unknown:
                raise
            if core.cluster is None:
                return self._run_on(alone.make(), core, core.loans.take_new)
            following = self._following(self.core.source.resolver)
            following.broke(error)
        except TurnedAway as away:
            following = self._following(self.core.source.resolver)
            following.turned_away(away.reply, away.commands, away.node)
        while True:
            next_core = self._next_core(following)
            if next_core is None:
                continue
            take = next_core.loans.take_new if following.anew else next_core.loans.take
            try:
                result = self._run_on(alone.make(), next_core, take, following.asking)
            except ConnectionLost as error:
                if error.outcome_unknown:
                    raise
                following.failed(error)
            except TurnedAway as away:
                following.turned_away(away.reply, away.commands, away.node)
            else:
                self._stay(next_core, following)
                return result

    def _run_on(self, op: Op[T], core: SyncCore, take: Callable[[], HeldConnection], asking: bool = False) -> T:
        loans, around = core.loans, core.around
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
            if asking:
                reply = unmarked(held.exchange(marked(call.commands), call.repeatable), call.commands)
            else:
                reply = held.exchange(call.commands, call.repeatable)
            if held.standing.turned_away and self._is_turned_away(held, call, reply):
                raise TurnedAway(reply, call.commands, core.source.resolver.node)
            return reply

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


class SyncNodeDriver(SyncDriver):
    """Runs operations on all users of one server, or of one node of a cluster; see `StoreDriver.stays`."""

    __slots__ = ()
    stays = True


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
            loans.drop(held)
            held = _take_another(loans, None)
            reply = held.exchange(call.commands, True)
    finally:
        loans.put_back(held)
    return reply


def _take_another(loans: Loans, most_s: float | None) -> HeldConnection:
    """Return a new connection in place of a broken one."""
    logger.info("a connection broke, and no write can have happened; trying once more on a new one")
    return loans.take_new(most_s)


def _as_they_are(loans: Loans) -> Loans:
    return loans


_CLOSED = NoConnections()
