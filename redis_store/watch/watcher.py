"""A watcher's steps, written once for threads and asyncio. No I/O, no clock.

Its ``async def`` methods are flows (`flows/flow.py`), which a facade (`watch/sync.py`, `watch/aio.py`) runs: it also carries out
`Receive`, and ends a `Pause` when the watch is closed. While the server is away, a watcher waits for it.

A call may be interrupted at any point, by a cancellation or by a signal handler that raises. So a flow removes no change from
the queue: it returns `Selection`, and the facade assigns that to `taken` in its last instruction before it returns. What was not
returned comes again.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from redis_store.connections.resolver import Source
from redis_store.errors import (
    DataStoreError,
    ServerReadOnly,
    StoreClosed,
    StoreUnavailable,
)
from redis_store.flows.flow import Do, Now, Pause, Receive, may_pass
from redis_store.hub.mailbox import Closed, Delivery, Item, Listed, Mailbox, Opened, Replaced, WatchFailed
from redis_store.hub.run_hub import join, leave
from redis_store.protocol.call import Op
from redis_store.types import Change
from redis_store.watch.reader import Track
from redis_store.watch.request import SAVE_AFTER, STAND_BY_S, WatchRequest

_log = logging.getLogger("redis_store.watch.sync")

T = TypeVar("T")

_BIG_TEXT_BYTES = 1024 * 1024
"""JSON text of a value, in bytes, above which a change is the last that is returned at once."""

_WATCH_RETRY_S = 0.2


class Selection(NamedTuple):
    """The changes that a call returns, or the error that it raises, and the watcher's state after that."""

    changes: list[Change]
    error: DataStoreError | None
    at: int
    under_way: dict[str, str]
    given: Change | None


class Watching:
    """The state of one watcher."""

    def __init__(
        self, plan: WatchRequest, source: Callable[[], Source], timeout_s: float | None, wake: Callable[[], None] | None
    ) -> None:
        self.plan = plan
        self.standing_by = False
        self.closing = False
        self._source = source
        self._timeout_s = timeout_s
        self._wake = wake
        self._pid = os.getpid()
        self.busy = False
        """Whether a call takes changes. The facade sets it, and refuses a second one."""
        self.taken: Selection | None = None
        """What the last call has returned, until the next one records it."""
        self._given: Change | None = None
        """The last change returned, until it is done."""
        self._under_way: dict[str, str] = {}
        """For a consumer: by namespace, the cursor of the last change returned, until that change is done."""
        self._finished: dict[str, str] = {}
        """By namespace, the cursor of the last change that is done: apart, as another thread may call `done` beside the taker."""
        self._joined = False
        self._passed = 0
        self._waits = False
        """Whether it is waiting for the server, and has logged so."""
        self.mailbox = Mailbox(wake=wake)
        self._follower = plan.new_follower()

    async def begin(self) -> None:
        """Join the hub and wait until it follows, so that every later write is seen; or stand by."""
        if self.plan.consumer is None or await Do(self.plan.claim()):
            await self._join()
        else:
            self._stand_by()

    async def take(self, most: int, deadline: float | None) -> Selection:
        """Find one to `most` changes, or none when the deadline passes."""
        self._record_taken()
        while True:
            await self._make_ready(deadline)
            at = self._follower.at
            if not self._follower.has(at):
                return self._nothing()
            if not await self._keep_first_cursor(deadline):
                if self.standing_by:
                    continue
                return self._nothing()
            taken = self._gather(most)
            if taken.error is not None:
                track = self._follower.track_at(at)
                if not self._is_under_way(track):
                    await self._advance({track.keys.name: self._follower.change_at(at).cursor}, deadline)
                    if self.standing_by:
                        continue
            return taken

    async def next_change(self, deadline: float | None) -> Selection:
        """Find the next change. The change returned before is done."""
        self._record_taken()
        # If the deadline passes, changes that are ready are returned all the same: the next one moves the cursor past both.
        if self._given is not None and await self._done(self._given, deadline):
            self._given = None
        found = await self.take(1, deadline)
        changes = found.changes
        return Selection(changes, found.error, found.at, found.under_way, changes[0]) if changes else found

    def _record_taken(self) -> None:
        """Record what the last call has returned. Repeating it is harmless."""
        taken = self.taken
        if taken is None:
            self._follower.forget_given()
            return
        self._follower.at = taken.at
        self._under_way = {name: at for name, at in taken.under_way.items() if at != self._finished.get(name)}
        self._given = taken.given
        self.taken = None
        self._follower.forget_given()

    def _gather(self, most: int) -> Selection:
        """Look up to `most` changes that can be returned without waiting, or the error of the first one's value."""
        follower = self._follower
        changes: list[Change] = []
        consumes = self.plan.consumer is not None
        under_way = dict(self._under_way) if consumes else self._under_way
        at = follower.at
        while len(changes) < most and self._more_is_there(at) and self._has_cursor(at):
            _, cursor, change = follower.change_at(at)
            if isinstance(change, DataStoreError):
                if changes:
                    break
                return Selection([], change, at + 1, self._under_way, self._given)
            at += 1
            changes.append(change)
            if consumes:
                under_way[change.namespace] = cursor
            if isinstance(change.value, bytes) and len(change.value) > _BIG_TEXT_BYTES:
                break  # compressed, thousands of such texts may be ready
        return Selection(changes, None, at, under_way, self._given)

    def _is_under_way(self, track: Track) -> bool:
        """Whether a change of this namespace was returned and is not done."""
        cursor = self._under_way.get(track.name)
        return cursor is not None and cursor != self._finished.get(track.name)

    def _nothing(self) -> Selection:
        return Selection([], None, self._follower.at, self._under_way, self._given)

    async def done(self, change: Change) -> None:
        """Move the consumer's cursor past a change. The change must be one that this watcher can have returned."""
        self.plan.check_done(change)
        await self._done(change, None)

    async def _done(self, change: Change, deadline: float | None) -> bool:
        """Move the consumer's cursor past a change. False if the deadline passes."""
        if self.plan.consumer is not None:
            name = self.plan.scope.user.namespace(change.namespace).name
            if not await self._advance({name: change.cursor}, deadline):
                return False
            self._finished[change.namespace] = change.cursor
        return True

    def end(self) -> bool:
        """End the watcher. Return True if the caller must release its consumer's lock."""
        first, self.closing = not self.closing, True
        self.mailbox.close()
        self.leave()
        mine = self.plan.consumer is not None and not self.standing_by
        return first and mine and self._pid == os.getpid()

    def leave(self) -> None:
        """Leave the hub. A finalizer may call this at any point."""
        leave(self.mailbox)

    async def _join(self) -> None:
        plan = self.plan
        self._joined = False
        self.leave()  # of a beginning that was interrupted
        self.mailbox = mailbox = Mailbox(wake=self._wake)
        self._follower = plan.new_follower()
        if plan.consumer is not None:
            mailbox.lock = (plan.consumer.lock, plan.consumer.cursors, plan.consumer.holder)
            mailbox.cursors_ms = plan.cursors_ms
        mailbox.resumes = plan.since is not None
        mailbox.budget = plan.budget
        if self.closing:
            raise StoreClosed("The watch is closed.")
        join(plan.request(mailbox), self._source(), self._timeout_s)
        until = Listed if plan.everywhere else Opened
        item: Item | None = None
        while not isinstance(item, until):
            item = await Receive(None)
            if item is None:
                continue
            if isinstance(item, WatchFailed) and may_pass(item.error):
                mailbox.drop(item)
                raise item.error
            self._accept(item)
            if mailbox is not self.mailbox:  # another process has become the consumer
                return
        if plan.consumer is None:
            self._joined = True
            return
        moved = plan.first_cursors(self._follower.tracks)
        if plan.everywhere:  # a consumer of one namespace keeps its cursor, or it would begin at the log's end
            moved.update(dict.fromkeys(self._follower.gone, ""))  # so that cursors of emptied namespaces do not pile up
        if moved:
            await self._run_patiently(lambda: plan.advance(moved), None)
            if plan.lost:
                self._replaced()
                return
        self.standing_by = False
        self._joined = True

    async def _make_ready(self, deadline: float | None) -> None:
        """Work and wait until a change is ready or the deadline passes."""
        while not self._follower.has(self._follower.at):
            if self.closing:
                raise StoreClosed("The watch is closed.")
            if self.standing_by or not self._joined:
                if not await self._try_to_take_over(deadline):
                    return
            elif self._follower.busy:
                if not await self._run_patiently(self._follower.next_work, deadline):
                    return
            else:
                item = await Receive(deadline)
                if item is None:
                    return
                self._accept(item)
                await self._save_passed(item)

    def _more_is_there(self, at: int) -> bool:
        """Whether the queue has a change at this place, or gets one without waiting."""
        while not self._follower.has(at):
            if self._follower.busy or self.standing_by:
                return False
            item = self.mailbox.peek(0)
            if item is None or isinstance(item, (WatchFailed, Closed, Replaced)):
                return False  # for the next call, because this one has changes to return
            self._accept(item)
        return True

    def _accept(self, item: Item) -> None:
        """Take an item from the mailbox; a refusal and the end stay in it, so that every later call raises them."""
        mailbox = self.mailbox
        if isinstance(item, Closed):
            if self.closing:
                raise StoreClosed("The watch is closed.")
            raise StoreClosed(
                "This watch has ended, or it belongs to the process that this one was forked from: open a new one."
            )
        if isinstance(item, WatchFailed):
            raise item.error
        if isinstance(item, Replaced):
            self._replaced()
            return
        self._follower.accept(item, mailbox)
        mailbox.drop(item)

    async def _run_patiently(self, make: Callable[[], Op[T]], deadline: float | None) -> bool:
        """Run an operation until the server is back, making a new one for each try. False if the deadline passes."""
        while True:
            try:
                await Do(make())
            except (StoreUnavailable, ServerReadOnly) as error:
                if not may_pass(error):
                    raise
                if not self._waits:
                    self._waits = True
                    _log.warning("A watcher is waiting for the server: %s", error)
                if not await self._pause(_WATCH_RETRY_S, deadline):
                    return False
                if self.closing:
                    raise StoreClosed("The watch is closed.") from None
            else:
                self._waits = False
                return True

    async def _pause(self, seconds: float, deadline: float | None) -> bool:
        """Pause for a time. False if the deadline passes first."""
        left_s = math.inf if deadline is None else deadline - await Now()
        await Pause(max(0.0, min(seconds, left_s)))
        return left_s > seconds

    async def _advance(self, moved: dict[bytes, str], deadline: float | None) -> bool:
        """Move the consumer's cursors. False if the deadline passes."""
        if self.plan.consumer is None or self.standing_by:
            return True
        self._passed = 0
        if not await self._run_patiently(lambda: self.plan.advance(moved), deadline):
            return False
        if self.plan.lost:
            self._replaced()
        return True

    def _has_cursor(self, at: int) -> bool:
        """Whether a cursor is stored for the namespace of a change, in case the consumer is killed with that change.

        True without a consumer's name.
        """
        return self.plan.consumer is None or self._follower.track_at(at).keys.name in self.plan.stored

    async def _keep_first_cursor(self, deadline: float | None) -> bool:
        """Store a cursor for the namespace of the next change if it has none, for example because it is new.

        Return False if the deadline passes, or if another process has become the consumer.
        """
        if not self._has_cursor(self._follower.at):
            track = self._follower.track_at(self._follower.at)
            await self._advance({track.keys.name: track.cursors.reset}, deadline)
        return self._follower.has(self._follower.at) and self._has_cursor(self._follower.at)

    async def _save_passed(self, item: Item) -> None:
        """Save the cursor periodically while entries are irrelevant to this consumer."""
        if self.plan.consumer is None or not isinstance(item, Delivery):
            return
        self._passed += len(item.entries)
        track = self._follower.tracks.get(item.feed)
        if self._passed < SAVE_AFTER or track is None or self._follower.has(self._follower.at):
            return
        if not self._is_under_way(track):
            await self._advance({track.keys.name: track.cursor_of(track.position)}, None)

    def _stand_by(self) -> None:
        self.standing_by = True
        assert self.plan.consumer is not None
        _log.info("Another process holds the consumer %r; this one stands by.", self.plan.consumer.name)

    def _replaced(self) -> None:
        """Discard everything pending and stand by, because another process has become the consumer."""
        # First, without a call: a taken-over watch begins anew even if the rest is interrupted.
        self.standing_by = True
        self._joined = False
        self._given = None
        self._under_way = {}
        self._finished = {}
        self.leave()
        self.mailbox = Mailbox(wake=self._wake)
        self._follower = self.plan.new_follower()
        self._stand_by()

    async def _try_to_take_over(self, deadline: float | None) -> bool:
        """Try to become the consumer, and otherwise wait. False if the deadline passes."""
        try:
            if self.plan.consumer is None or await Do(self.plan.claim()):
                await self._join()
                return True
        except (StoreUnavailable, ServerReadOnly) as error:
            if not may_pass(error):
                raise
            _log.debug("Standing by while the server is away: %s", error)
            self.standing_by = True
        return await self._pause(STAND_BY_S, deadline)
