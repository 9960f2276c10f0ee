"""The hub: what one process that watches says to one server, for all its watchers. No I/O, no clock.

A runner (`hub.thread`) has two connections. On the *listening* one the hub has exact subscriptions: the keyspace channels of
the watched namespaces, and a barrier channel of its own. On the *reading* one it makes its calls, one after the other.

`session` is the hub's life on a pair of connections. It is an ``async def`` that awaits three kinds of things, and the runner
carries them out: a `Call` on the reading connection, a `Tell` on the listening one (nothing is waited for), and a `HubPause` until
something is heard or a time has come. Before each step the runner sets `now`. What is heard comes in through `heard`.

How it works, in a sentence each:

- An event *wakes*; the log *tells*; the events counted against what the log's entries account for *doubt*.
- Each read of a log begins with the entry known last. Where that is not the first to come, history is gone: a reset.
- Behind each read, in the same transaction, a token is published. When it comes back, all events from before the read have
  come, and the numbers must agree. Where they do not, somebody wrote by hand: the namespace is compared with its digests, page
  by page, each page of one moment with the log.
- What is found that way is *told in the log* by a script that looks again. So all who watch see it in the same order, and so
  does who comes later. Two hubs that find the same: the second finds it in the log.
- Who begins to watch compares with what the last watcher left behind (`changelog.digests`): the log tells what was written since then,
  the sketch whether anything else was. If so, and it cannot be said what, the log gets a *gap*, at which those who go on from
  before it get a reset.
- Keys that expire are known from the log (`x`) and from the server (``HPEXPIRETIME``), in a heap; what is due is looked at.
- Each second all logs are read in any case: ``FLUSHDB`` fires no event.
- Without events (`counts_events` False) the listening connection blocks in ``XREAD``; comparisons are made where the number of
  keys does not agree, and after a reconnect.

The parts: `hub.subscribers` (who watches what), `hub.events` (what is heard), `hub.compare` (what is compared), `hub.watched_namespace` (one
namespace); here is the order in which things are done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from redis_store.changelog import ops as says
from redis_store.changelog.consumers import advance, release
from redis_store.changelog.entry import CursorFormat
from redis_store.errors import ConnectionLost, DataStoreError, PermissionDenied, ServerRefused, WrongKeyType
from redis_store.hub.compare import Doubts
from redis_store.hub.events import Listening
from redis_store.hub.mailbox import HistoryGone, Listed, Mailbox, Replaced
from redis_store.hub.requests import HubPause, Request, Tell, say
from redis_store.hub.subscribers import Members, Registry
from redis_store.hub.watched_namespace import MOST_NEWS_BYTES, WatchedNamespace
from redis_store.ops.listing import START
from redis_store.protocol.call import Command

TICK_S = 1.0
COALESCE_S = 0.002
"""Reads follow each other at this distance, so that a busy writer costs the server few of them."""

FEEDS_PER_READ = 64
FEEDS_PER_TICK = 500
SAVE_S = 5.0
"""What is known of a namespace is left behind so often, while it changes; that are 2 KB each time."""

REFRESH_S = 3600.0


class Hub:
    """The state of a hub, and what it says."""

    def __init__(self, database: int, random_hex: Callable[[int], str], warn: Callable[[str], None]) -> None:
        self.configures = False
        """Whether the server's settings may be changed."""
        self.members = Members(database)
        self._listening = Listening(self.members, random_hex, warn)
        self._doubts = Doubts(self._read, self._start_over)
        self._random_hex = random_hex
        self._now = 0.0
        self._read_at = 0.0
        self._tick_at = 0.0
        self._refresh_at = 0.0
        self._turn = 0

    # What the runner says to the hub.

    def set_clock(self, now: float) -> None:
        """Say what time it is, before each step."""
        self._now = self._listening.now = self._doubts.now = now

    def ask(self, request: Request) -> None:
        """A watcher comes or goes."""
        self.members.ask(request)

    def heard(self, reply: Any) -> None:
        """Something came on the listening connection."""
        self._listening.heard(reply)

    @property
    def unused(self) -> bool:
        """Whether there is nobody to watch for, and nothing left to say."""
        return self.members.none

    def mailboxes(self) -> list[Mailbox]:
        """All who watch, or want to."""
        return self.members.all()

    def disconnected(self, error: DataStoreError, *, were_made: bool = False) -> None:
        """The connections are gone, or could not be made; who has not begun to watch yet is told why.

        Where they `were_made` and then broke, a newcomer waits once: what broke may be older than its wish to watch.
        """
        self._listening.disconnected()
        self.members.disconnected(error, spares=were_made and isinstance(error, ConnectionLost))

    # What the hub says.

    async def session(self) -> None:
        """Live on a pair of connections until they break."""
        self.members.admit()
        user = self.members.some_user()
        if user is None:
            return
        await self._listening.begin(user, self.configures)
        self._tick_at = self._now + TICK_S
        while True:
            self.members.admit()
            self._tell_listed()
            if not await self._work():
                await HubPause(self._next_time())

    async def _work(self) -> bool:
        """Do the most urgent thing; False where there is none."""
        agenda = self.members.agenda
        for feed in [feed for feed in agenda.left if feed.may_end(self._now)]:
            self.members.end(feed)
        if self.members.ended:
            await self._say_goodbye()
        elif agenda.unopened:
            await self._open(agenda.first(agenda.unopened, FEEDS_PER_READ))
        elif registry := next((each for each in self.members.registries.values() if each.dirty), None):
            await self._list(registry)
        elif agenda.dirty and self._now >= self._read_at:
            await self._read(agenda.first(agenda.dirty, FEEDS_PER_READ))
        elif due := next((feed for feed in agenda.expiring if feed.expiries.is_due(self._doubts.server_ms)), None):
            await self._doubts.expire(due)
        elif doubtful := next((feed for feed in agenda.doubtful if feed.may_be_scanned(self._now)), None):
            await self._doubts.scan(doubtful)
        elif self._now >= self._tick_at:
            await self._tick()
        else:
            if not self._listening.counts_events and self.members.feeds:
                await self._listening.block(self.members.feeds.values())
            return False
        return True

    def _next_time(self) -> float:
        agenda = self.members.agenda
        times = [self._tick_at]
        if agenda.dirty:
            times.append(self._read_at)
        times += [feed.compare_at for feed in agenda.doubtful if feed.compare_at is not None]
        for feed in agenda.expiring:
            if (due_ms := feed.expiries.next()) is not None:
                times.append((due_ms + 1 - self._doubts.clock_ms) / 1000)
        return min(times)

    # Namespaces.

    async def _say_goodbye(self) -> None:
        """Nobody watches some namespaces any more."""
        ended, self.members.ended = self.members.ended, []
        await say([command for feed in ended for command in self._doubts.save(feed)])
        # Somebody may have come back meanwhile.
        channels = [feed.channel for feed in ended if feed.subscribed and feed.channel not in self.members.by_channel]
        if channels and self._listening.counts_events:
            await Tell((b"UNSUBSCRIBE", *channels))

    async def _open(self, feeds: list[WatchedNamespace]) -> None:
        """Begin, or after a new connection go on, to follow namespaces."""
        if self._listening.counts_events:
            await self._listening.subscribe([feed.channel for feed in feeds])
        else:
            await self._listening.unblock()
        for feed in feeds:
            feed.subscribed = True
        try:
            found = await self._attach(feeds)
        except (ServerRefused, PermissionDenied) as error:
            if len(feeds) == 1:
                self._refuse(feeds[0], error)
                return
            for feed in feeds:
                await self._open([feed])
            return
        for feed, attached in zip(feeds, found, strict=True):
            if feed.attach(attached):
                await self._announce_loss(feed)

    async def _attach(self, feeds: list[WatchedNamespace]) -> list[says.Attached]:
        """See where logs stand, and which events belong to the time before that."""
        epochs = [self._random_hex(8).encode() for _ in feeds]
        channel = self._listening.barrier if self._listening.counts_events else None
        token = self._listening.new_token(feeds)
        found = await says.attach([(feed.keys, feed.bounds) for feed in feeds], epochs, channel, token)
        if channel is not None:
            await self._listening.token_back(token)
        return found

    def _refuse(self, feed: WatchedNamespace, error: DataStoreError) -> None:
        if feed.opened:
            raise ConnectionLost(f"A watched namespace cannot be followed any more: {error}")
        self.members.refuse(feed.followers, error)

    async def _start_over(self, feed: WatchedNamespace) -> None:
        """History is gone: all who follow begin anew."""
        (attached,) = await self._attach([feed])
        feed.begin_at(attached)
        await self._announce_loss(feed)

    async def _announce_loss(self, feed: WatchedNamespace) -> None:
        feed.unsure = []
        try:
            await self._keep_resets(feed)
        finally:
            for mailbox in feed.followers:
                mailbox.put(HistoryGone(feed.keys.data, feed.epoch))

    async def _keep_resets(self, feed: WatchedNamespace) -> None:
        """Have consumers that are killed before they are done with the reset get it again: their cursors may be gone, or old."""
        reset = CursorFormat(feed.user, feed.keys.name).reset
        for mailbox in feed.followers:
            await self._speak_for(mailbox, {feed.keys.name: reset})

    async def _list(self, registry: Registry) -> None:
        """Find the namespaces of a user that are new to those who want all."""
        if self._listening.counts_events and not registry.subscribed:
            await self._listening.subscribe([registry.channel])
            registry.subscribed = True
        registry.dirty = False
        names: set[bytes] = set()
        cursor = START
        while True:
            cursor, some = await says.registry_page(registry.user, cursor)
            names.update(some)
            if cursor == START:
                break
        self.members.missing(registry, names)
        agenda = self.members.agenda
        while agenda.unopened:
            await self._open(agenda.first(agenda.unopened, FEEDS_PER_READ))

    def _tell_listed(self) -> None:
        """Tell those who want all namespaces when they have all that there were."""
        for registry in self.members.registries.values():
            for join in registry.wanted:
                if not registry.dirty and id(join.mailbox) not in registry.listed and self.members.has_opened(join):
                    registry.listed.add(id(join.mailbox))
                    join.mailbox.put(Listed())

    # The log.

    async def _read(self, feeds: list[WatchedNamespace]) -> None:
        """Read what is new in some logs, hand it on, and see whether it accounts for all events."""
        for feed in feeds:
            self.members.agenda.dirty.pop(feed, None)
        counted = self._listening.counts_events
        token = self._listening.new_token(feeds)
        channel = self._listening.barrier if counted else None
        server_ms, tails = await says.tails([(feed.keys, feed.position.id) for feed in feeds], channel, token)
        self._doubts.clock_ms = server_ms - self._now * 1000
        for feed, tail in zip(feeds, tails, strict=True):
            entries = feed.take(tail.entries)
            if entries is None or not await says.fill_in(feed.keys, entries, MOST_NEWS_BYTES):
                await self._start_over(feed)
                continue
            feed.fields = tail.fields
            feed.accept(entries)
        self._read_at = self._now + COALESCE_S
        if counted:
            await self._listening.token_back(token)
            self._listening.expect_events(feeds)
        for feed in feeds:
            feed.settle(self._now, server_ms, counted=counted)

    # From time to time.

    async def _tick(self) -> None:
        self._tick_at = self._now + TICK_S
        feeds = list(self.members.feeds.values())
        start = self._turn if self._turn < len(feeds) else 0
        self._turn = start + FEEDS_PER_TICK
        for feed in feeds[start : self._turn]:
            feed.wake()
        for registry in self.members.registries.values():
            registry.dirty = True
        commands: list[Command] = []
        for feed in feeds:
            if self._now - feed.saved_at > SAVE_S and feed.saved_position != feed.position.id:
                commands += self._doubts.save(feed)
        if self._now >= self._refresh_at:
            self._refresh_at = self._now + REFRESH_S
            for feed in feeds:
                commands += [("PEXPIRE", key, feed.bounds.life_ms) for key in (feed.keys.log, feed.keys.seen)]
        await say(commands)
        await self._keep_locks()
        await self._listening.recheck()

    async def _keep_locks(self) -> None:
        """Show that the consumers of this process live."""
        for mailbox in self.members.all():
            await self._speak_for(mailbox, {})

    async def _speak_for(self, mailbox: Mailbox, moved: dict[bytes, str]) -> None:
        """Where a watcher is a consumer, show that it lives, and move its cursors; or find out that another process is it now."""
        if mailbox.lock is None or mailbox.closed:
            return
        lock, cursors, holder = mailbox.lock
        with contextlib.suppress(ServerRefused, PermissionDenied, WrongKeyType):
            if not await advance(lock, cursors, holder, moved):
                mailbox.lock = None
                mailbox.put(Replaced())
            elif mailbox.closed:  # meanwhile, and it may have released the lock before it was taken again here
                await release(lock, holder)
