"""The hub: follows change logs and keyspace events on one server, for all watchers of one process. No I/O, no clock.

A runner (`hub/run_hub.py`) has two connections. On the *listening* one the hub has exact subscriptions: the keyspace channels of
the watched namespaces, and a barrier channel of its own. On the *reading* one it makes its calls, one after the other.

`session` runs the hub on one pair of connections. It is an ``async def`` that awaits three kinds of objects, which the runner
carries out: a `Call` on the reading connection, a `Tell` on the listening one (without waiting for a reply), and a `HubPause`
until a message arrives or a time has come. The runner calls `set_clock` before each step and passes each message to `heard`.

How it works:

- A keyspace event only wakes the hub; the changes come from the log. The number of events is checked against the log's entries.
- Each read of a log begins with the last known entry. If that is not the first entry returned, history is gone: a reset.
- Each read publishes a token in the same transaction. When the token comes back, every event from before the read has been
  received, and the numbers must agree. If they do not, there was an external write: the namespace is compared with its digests,
  page by page. Each page is read in one transaction with the log.
- A script reads each difference again and appends it to the log. So all watchers, later ones too, see it in the same order. If
  two hubs find the same difference, the second one finds it in the log.
- A hub that begins to watch a namespace compares it with the state that the last watcher saved (`changelog/digests.py`). The log
  names the keys written since then; the sketch shows whether anything else was written. If so, the log gets a *gap*: watchers
  that resume from before the gap get a reset.
- Expiry times come from the log (`x`) and from the server (``HPEXPIRETIME``). They are kept in a heap; keys that are due are
  read.
- A log is *blank* if nothing was ever written while it was there. Without a consumer it expires half a minute after its last
  watcher has left: nobody has a cursor in it, and reading names that hold nothing must not fill the server.
- Every log is read once a second in any case, because ``FLUSHDB`` fires no event.
- Without events (`counts_events` is False) the listening connection blocks in ``XREAD``. The hub then compares when the number
  of keys disagrees, and after a reconnect.

The parts: `hub/subscribers.py` (watchers and their namespaces), `hub/events.py` (the listening connection), `hub/compare.py`
(comparisons), `hub/watched_namespace.py` (one namespace). This module decides the order of the work.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import islice
from typing import Any

from redis_store.changelog import ops as says
from redis_store.changelog.consumers import advance, release
from redis_store.changelog.entry import CursorFormat
from redis_store.errors import ConnectionLost, DataStoreError, PermissionDenied, ServerRefused, WrongKeyType
from redis_store.hub.compare import Doubts
from redis_store.hub.events import Listening
from redis_store.hub.mailbox import HistoryGone, Listed, Mailbox, Replaced
from redis_store.hub.requests import HubPause, Request, Tell, say
from redis_store.hub.subscribers import Apart, Members, Registry
from redis_store.hub.watched_namespace import MOST_NEWS_BYTES, WatchedNamespace
from redis_store.ops.listing import START
from redis_store.protocol.command import Command
from redis_store.protocol.error_replies import SlotElsewhere

TICK_S = 1.0
COALESCE_S = 0.002
"""Shortest time between two reads of the logs, in seconds, so that a busy writer costs the server few reads.

No message is taken meanwhile: if each event woke the thread, it would cost a busy writer on the same core more than its own work.
"""

APART_S = 0.1
"""Time after which a hub tries again to follow a user whose data is being moved, in seconds."""

FEEDS_PER_READ = 64
FEEDS_PER_TICK = 500
SAVE_S = 5.0
"""Interval at which the state of a changing namespace is saved, in seconds. Each save writes 2 KB."""

REFRESH_S = 3600.0

BLANK_REFRESH_S = says.BLANK_LIFE_MS / 1000 / 4
"""Interval at which the expiry of blank logs is postponed, in seconds."""


class Hub:
    """The state of a hub, and the calls that it makes."""

    def __init__(self, database: int, random_hex: Callable[[int], str], warn: Callable[[str], None]) -> None:
        self.configures = False
        """Whether the hub may change the server's settings."""
        self.apart: list[Apart] = []
        """Watchers that the runner is to bring back, here or to the hub of another node."""
        self.patience_s = 0.0
        """Time for which the beginning of a watcher survives broken connections after the first one, in seconds."""
        self.members = Members(database)
        self._listening = Listening(self.members, random_hex, warn)
        self._doubts = Doubts(self._read, self._start_over)
        self._random_hex = random_hex
        self._now = 0.0
        self._read_at = 0.0
        self._tick_at = 0.0
        self._refresh_at = self._blank_at = 0.0
        self._turn = 0

    # Called by the runner.

    def set_clock(self, now: float) -> None:
        """Set the current time. Called before each step."""
        self._now = self._listening.now = self._doubts.now = now

    def ask(self, request: Request) -> None:
        """Queue a watcher's request to begin or end."""
        self.members.ask(request)

    def heard(self, reply: Any) -> None:
        """Take a message from the listening connection."""
        self._listening.heard(reply)

    @property
    def unused(self) -> bool:
        """Whether there is no watcher, no request and nothing left to save."""
        return self.members.none and not self.apart

    def mailboxes(self) -> list[Mailbox]:
        """Return the mailboxes of all watchers, including those whose requests are queued."""
        return [*self.members.all(), *(mailbox for each in self.apart for mailbox in each.moving.mailboxes())]

    def disconnected(self, error: DataStoreError, *, were_made: bool = False) -> None:
        """Note that the connections are gone, or could not be made. Watchers that have not begun yet get the error.

        If the connections `were_made` and then broke, such a watcher waits once instead: the fault may be older than its request.
        On a cluster it waits for `patience_s`, as a call does.
        """
        self._listening.disconnected()
        spares = isinstance(error, ConnectionLost) and (were_made or self.patience_s > 0)
        self.members.disconnected(error, now=self._now, patience_s=self.patience_s if spares else None)

    # The session.

    async def session(self) -> None:
        """Run on a pair of connections until they break."""
        self.members.admit()
        while (user := self.members.some_user()) is not None:
            try:
                await self._listening.begin(user, self.configures)
                break
            except SlotElsewhere as error:
                self._set_apart(error)
        if user is None:
            return
        self._tick_at = self._now + TICK_S
        while self.members.some_user() is not None or not self.apart:
            self.members.admit()
            self._tell_listed()
            try:
                if not await self._work():
                    await HubPause(self._next_time(), deaf_until=self._read_at)
            except SlotElsewhere as error:
                self._set_apart(error)

    def _set_apart(self, error: SlotElsewhere) -> None:
        """Take the watchers out of a user whose data is being moved to another node, so that those of others go on."""
        user = self.members.user_of(error.redis_key)
        if user is None:
            raise error
        self.apart.append(Apart(self.members.release(user), error, self._now + APART_S))

    async def _work(self) -> bool:
        """Do the most urgent work. Return False if there is none."""
        agenda = self.members.agenda
        if agenda.kept:
            kept = list(islice(agenda.kept, FEEDS_PER_TICK))
            await say([("PEXPIRE", feed.keys.log, feed.bounds.life_ms) for feed in kept])
            for feed in kept:
                agenda.kept.pop(feed, None)
        for feed in [feed for feed in agenda.left if feed.may_end(self._now)]:
            self.members.end(feed)
        if self.members.ended:
            await self._say_goodbye()
        elif agenda.unopened:
            await self._open(agenda.at_once(agenda.unopened, FEEDS_PER_READ))
        elif registry := next((each for each in self.members.registries.values() if each.dirty), None):
            await self._list(registry)
        elif agenda.dirty and self._now >= self._read_at:
            await self._read(agenda.at_once(agenda.dirty, FEEDS_PER_READ))
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
        """Save the state of namespaces without watchers, and unsubscribe from their events."""
        ended, self.members.ended = self.members.ended, []
        await say([command for feed in ended for command in self._doubts.save(feed)])
        # A new watcher may have joined meanwhile.
        channels = [feed.channel for feed in ended if feed.subscribed and feed.channel not in self.members.by_channel]
        if self._listening.counts_events:
            for start in range(0, len(channels), FEEDS_PER_TICK):
                await Tell((b"UNSUBSCRIBE", *channels[start : start + FEEDS_PER_TICK]))

    async def _open(self, feeds: list[WatchedNamespace]) -> None:
        """Begin to follow namespaces, or resume after a reconnect."""
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
        """Read the end of each log, and wait until all earlier events have been received."""
        epochs = [self._random_hex(8).encode() for _ in feeds]
        channel = self._listening.barrier if self._listening.counts_events else None
        token = self._listening.new_token(feeds)
        found = await says.attach([(feed.keys, feed.bounds, feed.lasts) for feed in feeds], epochs, channel, token)
        if channel is not None:
            await self._listening.token_back(token)
        return found

    def _refuse(self, feed: WatchedNamespace, error: DataStoreError) -> None:
        if feed.opened:
            raise ConnectionLost(f"A watched namespace can no longer be followed: {error}")
        self.members.refuse(feed.followers, error)

    async def _start_over(self, feed: WatchedNamespace) -> None:
        """Follow the log from its end, because history is gone; every watcher gets a reset."""
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
        """Store a reset as the cursor of each consumer.

        A consumer that is killed before it is done with the reset then gets it again: its cursor may be gone, or old.
        """
        reset = CursorFormat(feed.user, feed.keys.name).reset
        for mailbox in feed.followers:
            await self._speak_for(mailbox, {feed.keys.name: reset})

    async def _list(self, registry: Registry) -> None:
        """Read a user's registry, and begin to follow the namespaces that are new to watchers of all namespaces."""
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
            await self._open(agenda.at_once(agenda.unopened, FEEDS_PER_READ))

    def _tell_listed(self) -> None:
        """Tell each watcher of all namespaces when every namespace of the first listing is open."""
        for registry in self.members.registries.values():
            for join in registry.wanted:
                if not registry.dirty and id(join.mailbox) not in registry.listed and self.members.has_opened(join):
                    registry.listed.add(id(join.mailbox))
                    join.mailbox.put(Listed())

    # The log.

    async def _read(self, feeds: list[WatchedNamespace]) -> None:
        """Read and deliver the new entries of some logs, and check that they account for all events."""
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

    # Periodic work.

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
                if not feed.is_passing:
                    commands += [("PEXPIRE", key, feed.bounds.life_ms) for key in (feed.keys.log, feed.keys.seen)]
        if self._now >= self._blank_at:
            self._blank_at = self._now + BLANK_REFRESH_S
            commands += [says.keep_blank(feed.keys) for feed in feeds if feed.is_passing]
        await say(commands)
        await self._keep_locks()
        await self._listening.recheck()

    async def _keep_locks(self) -> None:
        """Renew the locks of this process's consumers."""
        for mailbox in self.members.all():
            await self._speak_for(mailbox, {})

    async def _speak_for(self, mailbox: Mailbox, moved: dict[bytes, str]) -> None:
        """Renew a consumer's lock and move its cursors, or notice that another process has become the consumer.

        Does nothing for a watcher without a consumer's name.
        """
        if mailbox.lock is None or mailbox.closed:
            return
        lock, cursors, holder = mailbox.lock
        with contextlib.suppress(ServerRefused, PermissionDenied, WrongKeyType):
            if not await advance(lock, cursors, holder, moved, mailbox.cursors_ms):
                mailbox.lock = None
                mailbox.put(Replaced())
            elif mailbox.closed:  # closed meanwhile: it may have released the lock before this call acquired it again
                await release(lock, holder)
