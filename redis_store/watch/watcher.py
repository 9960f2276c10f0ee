"""A watcher's steps, written once for threads and asyncio. No I/O, no clock.

Its ``async def`` methods are flows (`flows/flow.py`), which a facade (`watch/sync.py`, `watch/aio.py`) runs: it also carries out
`Receive`, and ends a `Pause` when the watch is closed. While the server is away, a watcher waits for it.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from typing import TypeVar

from redis_store.connections.resolver import Source
from redis_store.errors import (
    DataStoreError,
    ServerReadOnly,
    StoreClosed,
    StoreUnavailable,
)
from redis_store.flows.flow import Do, Now, Pause, Receive, may_pass
from redis_store.hub.mailbox import Closed, Delivery, Item, Listed, Mailbox, Opened, Overflow, Replaced, WatchFailed
from redis_store.hub.run_hub import join, leave
from redis_store.protocol.call import Op
from redis_store.types import Change
from redis_store.watch.request import SAVE_AFTER, STAND_BY_S, WatchRequest

_log = logging.getLogger("redis_store.watch.sync")

T = TypeVar("T")

_WATCH_RETRY_S = 0.2


class Watching:
    """The state of one watcher."""

    def __init__(
        self, plan: WatchRequest, source: Source, timeout_s: float | None, wake: Callable[[], None] | None
    ) -> None:
        self.plan = plan
        self.standing_by = False
        self.closing = False
        self._source = source
        self._timeout_s = timeout_s
        self._wake = wake
        self._pid = os.getpid()
        self._given: Change | None = None
        self._under_way: dict[str, str] = {}
        """For a consumer: by namespace, the cursor of the last change returned, until that change is done."""
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

    async def take(self, most: int, deadline: float | None) -> list[Change]:
        """Return one to `most` changes, or none when the deadline passes."""
        found: list[Change] = []
        while not found:
            await self._make_ready(deadline)
            if not self._follower.has_ready:
                return found
            if not await self._keep_first_cursor(deadline):
                if self.standing_by:
                    continue
                return found
            # Once a change is in `found`, nothing more is awaited: cancelling the caller must not lose changes.
            while len(found) < most and self._more_is_there() and self._has_cursor():
                ready = self._follower.pop()
                if isinstance(ready.change, DataStoreError):
                    if found:
                        self._follower.put_back(ready)
                        return found
                    if ready.track.name not in self._under_way:
                        await self._advance({ready.track.keys.name: ready.cursor}, None)
                    raise ready.change
                found.append(ready.change)
                if self.plan.consumer is not None:
                    self._under_way[ready.change.namespace] = ready.change.cursor
        return found

    async def next_change(self, deadline: float | None) -> Change | None:
        """Return the next change. The change returned before is done."""
        if self._given is not None:
            await self._done(self._given, deadline)
            self._given = None
        found = await self.take(1, deadline)
        if found:
            self._given = found[0]
        return self._given

    async def done(self, change: Change) -> None:
        """Move the consumer's cursor past a change. The change must be one that this watcher can have returned."""
        self.plan.check_done(change)
        await self._done(change, None)

    async def _done(self, change: Change, deadline: float | None) -> None:
        if self.plan.consumer is not None:
            name = self.plan.scope.user.namespace(change.namespace).name
            await self._advance({name: change.cursor}, deadline)
            if self._under_way.get(change.namespace) == change.cursor:
                del self._under_way[change.namespace]

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
        plan, mailbox = self.plan, self.mailbox
        self._follower = plan.new_follower()
        if plan.consumer is not None:
            mailbox.lock = (plan.consumer.lock, plan.consumer.cursors, plan.consumer.holder)
        mailbox.resumes = plan.since is not None
        mailbox.budget = plan.budget
        join(plan.request(mailbox), self._source, self._timeout_s)
        until = Listed if plan.everywhere else Opened
        item: Item | None = None
        while not isinstance(item, until):
            item = await Receive(None)
            self._refuse_end(item)
            if isinstance(item, WatchFailed):
                if not may_pass(item.error):
                    self.mailbox.put(item)  # kept, so that every later call raises it
                raise item.error
            if item is not None:
                self._accept(item)
            if self.standing_by:
                return
        if plan.consumer is None:
            return
        moved = plan.first_cursors(self._follower.tracks)
        if plan.everywhere:  # a consumer of one namespace keeps its cursor, or it would begin at the log's end
            moved.update(dict.fromkeys(self._follower.gone, ""))  # so that cursors of emptied namespaces do not pile up
        if moved:
            await self._advance(moved, None)

    async def _make_ready(self, deadline: float | None) -> None:
        """Work and wait until a change is ready or the deadline passes."""
        while not self._follower.has_ready:
            if self.closing:
                raise StoreClosed("The watch is closed.")
            if self.standing_by:
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

    def _more_is_there(self) -> bool:
        """Whether another change can be returned without waiting."""
        while not self._follower.has_ready:
            if self._follower.busy or self.standing_by or (item := self.mailbox.take(0)) is None:
                return False
            if isinstance(item, WatchFailed):
                self.mailbox.put(item)  # for the next call, because this one has changes to return
                return False
            self._accept(item)
        return True

    def _accept(self, item: Item) -> None:
        self._refuse_end(item)
        if isinstance(item, WatchFailed):
            self.mailbox.put(item)  # kept, so that every later call raises it
            raise item.error
        if isinstance(item, Replaced):
            self._replaced()
        elif isinstance(item, Overflow):
            self._follower.accept(item, self.mailbox.reopen())
        else:
            self._follower.accept(item)

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

    async def _advance(self, moved: dict[bytes, str], deadline: float | None) -> None:
        if self.plan.consumer is None or self.standing_by:
            return
        self._passed = 0
        if await self._run_patiently(lambda: self.plan.advance(moved), deadline) and self.plan.lost:
            self._replaced()

    def _has_cursor(self) -> bool:
        """Whether a cursor is stored for the namespace of the next change, in case the consumer is killed with that change.

        True without a consumer's name.
        """
        return self.plan.consumer is None or self._follower.next_track().keys.name in self.plan.stored

    async def _keep_first_cursor(self, deadline: float | None) -> bool:
        """Store a cursor for the namespace of the next change if it has none, for example because it is new.

        Return False if the deadline passes, or if another process has become the consumer.
        """
        if not self._has_cursor():
            track = self._follower.next_track()
            await self._advance({track.keys.name: track.cursors.reset}, deadline)
        return self._follower.has_ready and self._has_cursor()

    async def _save_passed(self, item: Item) -> None:
        """Save the cursor periodically while entries are irrelevant to this consumer."""
        if self.plan.consumer is None or not isinstance(item, Delivery):
            return
        self._passed += len(item.entries)
        track = self._follower.tracks.get(item.feed)
        if self._passed < SAVE_AFTER or track is None or self._follower.has_ready:
            return
        if track.name not in self._under_way:
            await self._advance({track.keys.name: track.cursor_of(track.position)}, None)

    def _stand_by(self) -> None:
        self.standing_by = True
        assert self.plan.consumer is not None
        _log.info("Another process holds the consumer %r; this one stands by.", self.plan.consumer.name)

    def _replaced(self) -> None:
        """Discard everything pending and stand by, because another process has become the consumer."""
        self.leave()
        self.mailbox = Mailbox(wake=self._wake)
        self._follower = self.plan.new_follower()
        self._given = None
        self._under_way = {}
        self._stand_by()

    async def _try_to_take_over(self, deadline: float | None) -> bool:
        """Try to become the consumer, and otherwise wait. False if the deadline passes."""
        try:
            if await Do(self.plan.claim()):
                self.standing_by = False
                await self._join()
                return True
        except (StoreUnavailable, ServerReadOnly) as error:
            if not may_pass(error):
                raise
            _log.debug("Standing by while the server is away: %s", error)
            self.standing_by = True
        return await self._pause(STAND_BY_S, deadline)

    def _refuse_end(self, item: Item | None) -> None:
        if isinstance(item, Closed):
            self.mailbox.put(item)
            if self.closing:
                raise StoreClosed("The watch is closed.")
            raise StoreClosed(
                "This watch has ended, or it belongs to the process that this one was forked from: open a new one."
            )
