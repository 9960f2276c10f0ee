"""The hub: what one process that watches says to one server, for all its watchers. No I/O, no clock.

A runner (`_hub_thread`) has two connections. On the *listening* one the hub has exact subscriptions: the keyspace channels of
the watched namespaces, and a barrier channel of its own. On the *reading* one it makes its calls, one after the other.

`session` is the hub's life on a pair of connections. It is an ``async def`` that awaits three kinds of things, and the runner
carries them out: a `Call` on the reading connection, a `Tell` on the listening one (nothing is waited for), and a `Pause` until
something is heard or a time has come. Before each step the runner sets `now`. What is heard comes in through `heard`.

How it works, in a sentence each:

- An event *wakes*; the log *tells*; the events counted against what the log's entries account for *doubt*.
- Each read of a log begins with the entry known last. Where that is not the first to come, history is gone: a reset.
- Behind each read, in the same transaction, a token is published. When it comes back, all events from before the read have
  come, and the numbers must agree. Where they do not, somebody wrote by hand: the namespace is compared with its digests, page
  by page, each page of one moment with the log.
- What is found that way is *told in the log* by a script that looks again. So all who watch see it in the same order, and so
  does who comes later. Two hubs that find the same: the second finds it in the log.
- Who begins to watch compares with what the last watcher left behind (`_digests`): the log tells what was written since then,
  the sketch whether anything else was. If so, and it cannot be said what, the log gets a *gap*, at which those who go on from
  before it get a reset.
- Keys that expire are known from the log (`x`) and from the server (``HPEXPIRETIME``), in a heap; what is due is looked at.
- Each second all logs are read in any case: ``FLUSHDB`` fires no event.
- Without events (`counts_events` False) the listening connection blocks in ``XREAD``; comparisons are made where the number of
  keys does not agree, and after a reconnect.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis_store._call import Call, Command
from redis_store._feed import Feed
from redis_store._keys import NamespaceKeys, UserKeys
from redis_store._log_entry import Entry, Position
from redis_store._mailbox import Failed, HistoryGone, Listed, Mailbox, Replaced
from redis_store._scope import LogBounds
from redis_store.errors import ConnectionLost, DataStoreError, PermissionDenied, ServerRefused
from redis_store.ops import feed as says
from redis_store.ops.consumers import keep_lock
from redis_store.ops.feed import START, Seen, Tail
from redis_store.ops.reconcile import explain

TICK_S = 1.0
TOKEN_S = 3.0
"""A token that is not back by then is lost, and with it perhaps events: the connections are made anew."""

COALESCE_S = 0.002
"""Reads follow each other at this distance, so that a busy writer costs the server few of them."""

FEEDS_PER_READ = 64
FEEDS_PER_TICK = 500
SAVE_S = 5.0
REFRESH_S = 3600.0
LOCK_TICKS = 2
SCAN_REST = 10
"""A comparison is followed by a rest of so many times its length, so that who writes by hand all the time is bearable."""

EXPIRY_AGAIN_MS = 1000
BLOCK_MS = 500


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a command on the listening connection; what it answers is heard."""

    command: Command

    def __await__(self) -> Generator[Tell, Any, None]:
        yield self


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait until something is heard, somebody wants something, or the time has come."""

    until: float

    def __await__(self) -> Generator[Pause, Any, None]:
        yield self


@dataclass(frozen=True, slots=True)
class Join:
    """A watcher wants a namespace."""

    mailbox: Mailbox
    user: UserKeys
    keys: NamespaceKeys
    bounds: LogBounds


@dataclass(frozen=True, slots=True)
class JoinAll:
    """A watcher wants all namespaces of a user whose names begin so, those to come included."""

    mailbox: Mailbox
    user: UserKeys
    prefix: bytes
    bounds: LogBounds


@dataclass(frozen=True, slots=True)
class Leave:
    """A watcher goes."""

    mailbox: Mailbox


@dataclass(slots=True)
class Registry:
    """The namespaces of a user, watched by those who want all of them."""

    user: UserKeys
    channel: bytes
    wanted: list[JoinAll] = field(default_factory=list)
    listed: set[int] = field(default_factory=set)
    """Who has been given the first list, by the identity of the mailbox."""
    subscribed: bool = False
    dirty: bool = True


class Hub:
    """The state of a hub, and what it says."""

    def __init__(
        self,
        database: int,
        random_hex: Callable[[int], str],
        *,
        configures: bool = False,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.now = 0.0
        self.configures = configures
        self.counts_events = True
        self.feeds: dict[bytes, Feed] = {}
        self._by_channel: dict[bytes, Feed] = {}
        self._registries: dict[bytes, Registry] = {}
        self._channel_head = b"__keyspace@%d__:" % database
        self._random_hex = random_hex
        self._warn = warn
        self._warned = False
        self._requests: list[Join | JoinAll | Leave] = []
        self._barrier: bytes | None = None
        self._confirmed: set[bytes] = set()
        self._probed: set[bytes] = set()
        self._token = 0
        self._token_heard = -1
        self._clock_ms = 0.0
        """The server's clock less ours, in ms."""
        self._read_at = 0.0
        self._tick_at = 0.0
        self._ticks = 0
        self._refresh_at = 0.0
        self._turn = 0
        self._leaving: list[Command] = []
        self._unheeded: list[bytes] = []
        self._listener_id: int | None = None
        self._blocked = False

    # What the runner says to the hub.

    def ask(self, request: Join | JoinAll | Leave) -> None:
        """A watcher comes or goes."""
        self._requests.append(request)

    def heard(self, reply: Any) -> None:
        """Something came on the listening connection."""
        if isinstance(reply, Exception):
            raise ConnectionLost(f"The server refused what a watcher listens to: {reply}.")
        if not self.counts_events:
            self._heard_unblocked(reply)
            return
        if not isinstance(reply, list) or len(reply) != 3:
            return
        kind, channel, payload = reply
        if kind == b"message":
            feed = self._by_channel.get(channel)
            if feed is not None:
                feed.heard(payload)
            elif channel == self._barrier:
                self._token_heard = int(payload)
            else:
                self._heard_elsewhere(channel, payload)
        elif kind == b"subscribe":
            self._confirmed.add(channel)

    @property
    def unused(self) -> bool:
        """Whether there is nobody to watch for, and nothing left to say."""
        return not self.feeds and not self._registries and not self._requests and not self._leaving

    def mailboxes(self) -> list[Mailbox]:
        """All who watch, or want to."""
        found = {id(mailbox): mailbox for feed in self.feeds.values() for mailbox in feed.followers}
        for registry in self._registries.values():
            found |= {id(wanted.mailbox): wanted.mailbox for wanted in registry.wanted}
        for request in self._requests:
            found[id(request.mailbox)] = request.mailbox
        return list(found.values())

    def disconnected(self) -> None:
        """The connections are gone, and with them everything that was on its way."""
        self._confirmed.clear()
        self._unheeded.clear()
        self._leaving.clear()
        self._token_heard = -1
        self._blocked = False
        self._listener_id = None
        for feed in self.feeds.values():
            feed.subscribed = False
            feed.attached = False
            feed.scan = None
            feed.events = feed.told = 0
            if feed.knows:
                feed.suspect(0.0)
        for registry in self._registries.values():
            registry.subscribed = False
            registry.dirty = True

    def fail_newcomers(self, error: DataStoreError) -> None:
        """Tell those who have not begun to watch yet that they cannot."""
        self._admit()
        newcomers = [m for feed in self.feeds.values() if not feed.epoch for m in feed.followers]
        for registry in self._registries.values():
            newcomers += [join.mailbox for join in registry.wanted if id(join.mailbox) not in registry.listed]
        for mailbox in newcomers:
            mailbox.put(Failed(error))
            self._requests.append(Leave(mailbox))
        self._admit()

    # What the hub says.

    async def session(self) -> None:
        """Live on a pair of connections until they break."""
        if self._barrier is None:
            user = self._some_user()
            if user is None:
                return
            self._barrier = user.barrier(self._random_hex(8))
        await self._find_out_about_events()
        self._tick_at = self.now + TICK_S
        while True:
            self._admit()
            if not await self._work():
                await Pause(self._next_time())

    async def _work(self) -> bool:
        """Do the most urgent thing; False where there is none."""
        if self._leaving:
            commands, self._leaving = self._leaving[:100], self._leaving[100:]
            with contextlib.suppress(ServerRefused, PermissionDenied):
                await Call(tuple(commands), lambda reply: reply)
            return True
        if self._unheeded:
            channels, self._unheeded = self._unheeded, []
            if self.counts_events:
                await Tell((b"UNSUBSCRIBE", *channels))
        if unopened := [feed for feed in self.feeds.values() if not feed.attached][:FEEDS_PER_READ]:
            await self._open(unopened)
            return True
        if registry := next((each for each in self._registries.values() if each.dirty), None):
            await self._list(registry)
            return True
        if self.now >= self._read_at and (dirty := [feed for feed in self.feeds.values() if feed.dirty]):
            await self._read(dirty[:FEEDS_PER_READ])
            return True
        if not self.counts_events and not self._blocked and self.feeds:
            await self._block()
        server_ms = self._server_ms()
        for feed in self.feeds.values():
            due_ms = feed.next_expiry()
            if due_ms is not None and due_ms <= server_ms:
                await self._expire(feed, server_ms)
                return True
        for feed in self.feeds.values():
            if self._may_scan(feed):
                await self._scan(feed)
                return True
        if self.now >= self._tick_at:
            await self._tick()
            return True
        return False

    def _next_time(self) -> float:
        times = [self._tick_at]
        for feed in self.feeds.values():
            if feed.dirty:
                times.append(self._read_at)
            if feed.compare_at is not None:
                times.append(feed.compare_at)
            if (due_ms := feed.next_expiry()) is not None:
                times.append((due_ms + 1 - self._clock_ms) / 1000)
        return min(times)

    def _may_scan(self, feed: Feed) -> bool:
        if not feed.attached or not feed.wants_digests:
            return False
        if feed.scan is not None or not feed.knows:
            return True
        return feed.compare_at is not None and feed.compare_at <= self.now

    # Who comes and goes.

    def _admit(self) -> None:
        while self._requests:
            request = self._requests.pop(0)
            if isinstance(request, Leave):
                self._let_go(request.mailbox)
            elif request.mailbox.closed:
                continue
            elif isinstance(request, Join):
                self._join(request, fresh=False)
            else:
                registry = self._registries.get(request.user.prefix)
                if registry is None:
                    channel = self._channel_head + request.user.registry
                    registry = self._registries[request.user.prefix] = Registry(request.user, channel)
                registry.wanted.append(request)
                registry.dirty = True

    def _join(self, join: Join, *, fresh: bool) -> None:
        feed = self.feeds.get(join.keys.data)
        if feed is None:
            feed = Feed(join.user, join.keys, self._channel_head + join.keys.data, join.bounds, fresh)
            self.feeds[join.keys.data] = self._by_channel[feed.channel] = feed
        feed.follow(join.mailbox)

    def _let_go(self, mailbox: Mailbox) -> None:
        for registry in list(self._registries.values()):
            registry.wanted = [join for join in registry.wanted if join.mailbox is not mailbox]
            registry.listed.discard(id(mailbox))
            if not registry.wanted:
                del self._registries[registry.user.prefix]
        for feed in list(self.feeds.values()):
            feed.unfollow(mailbox)
            if not feed.followers:
                del self.feeds[feed.keys.data], self._by_channel[feed.channel]
                self._leaving += self._save(feed)
                self._unheeded.append(feed.channel)

    def _save(self, feed: Feed) -> Iterator[Command]:
        """Leave behind what is known of a namespace, unless there are doubts."""
        if feed.knows and feed.attached and feed.compare_at is None and feed.scan is None:
            feed.saved_at, feed.saved_position = self.now, feed.position.id
            seen = Seen(feed.epoch, feed.position, feed.digests.sketch.to_bytes())
            yield says.save_seen(feed.keys, seen, feed.bounds.life_ms)

    def _some_user(self) -> UserKeys | None:
        self._admit()
        for feed in self.feeds.values():
            return feed.user
        for registry in self._registries.values():
            return registry.user
        return None

    # Events, or doing without.

    async def _find_out_about_events(self) -> None:
        assert self._barrier is not None
        if self.configures:
            await self._configure()
        self.counts_events = True
        try:
            await self._subscribe([self._barrier, self._channel_head + self._barrier])
            self._probed.clear()
            await says.probe(self._barrier, token := self._next_token())
            await self._wait_for_token(token)
        except (ServerRefused, PermissionDenied) as error:
            self._warn_once(f"it does not let this user publish or subscribe ({error})")
        else:
            if {b"hset", b"del"} <= self._probed:
                return
            self._warn_once("its notify-keyspace-events lacks some of the flags Khgsxe")
        self.counts_events = False
        await Tell(("UNSUBSCRIBE",))
        await Tell(("CLIENT", "ID"))

    async def _configure(self) -> None:
        try:
            flags = await says.read_flags()
            if says.missing_flags(flags):
                await says.add_flags(flags)
        except (ServerRefused, PermissionDenied) as error:
            if not self._warned:
                self._warn(f"cannot set notify-keyspace-events: {error}")

    def _warn_once(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn(
                f"The server sends no keyspace events: {reason}. Watching goes on with XREAD: changes come as before, but"
                " values that were overwritten by hand (HSET of a key that is there) go unnoticed, other writes by hand,"
                " expiries and evictions are noticed after about a second, and new watchers and namespaces wait up to"
                f" {BLOCK_MS / 1000:g} s. To have them: redis-store doctor, or connect(..., configure_server=True)."
            )

    def _heard_elsewhere(self, channel: bytes, event: bytes) -> None:
        if self._barrier is not None and channel == self._channel_head + self._barrier:
            self._probed.add(event)
        for registry in self._registries.values():
            if registry.channel == channel:
                registry.dirty = True

    async def _subscribe(self, channels: Sequence[bytes]) -> None:
        self._confirmed.difference_update(channels)
        await Tell((b"SUBSCRIBE", *channels))
        await self._wait_for(lambda: self._confirmed.issuperset(channels))

    def _next_token(self) -> int:
        self._token += 1
        return self._token

    async def _wait_for_token(self, token: int) -> None:
        await self._wait_for(lambda: self._token_heard >= token)

    async def _wait_for(self, condition: Callable[[], bool]) -> None:
        end = self.now + TOKEN_S
        while True:
            await Pause(end)
            if condition():
                return
            if self.now >= end:
                raise ConnectionLost("The server's messages to a watcher stopped coming")

    async def _block(self) -> None:
        """Have the listening connection wait for the next entry of any log."""
        self._blocked = True
        feeds = list(self.feeds.values())
        logs, ids = [feed.keys.log for feed in feeds], [feed.position.id for feed in feeds]
        await Tell(("XREAD", "BLOCK", BLOCK_MS, "COUNT", 1, "STREAMS", *logs, *ids))

    def _heard_unblocked(self, reply: Any) -> None:
        if isinstance(reply, int):
            self._listener_id = reply
        elif reply is None or (isinstance(reply, list) and reply and isinstance(reply[0], list)):
            self._blocked = False
            logs = {log for log, _ in reply or ()}
            for feed in self.feeds.values():
                feed.dirty = feed.dirty or feed.keys.log in logs

    # Namespaces.

    async def _open(self, feeds: list[Feed]) -> None:
        """Begin, or after a new connection go on, to follow namespaces."""
        if self.counts_events:
            if channels := [feed.channel for feed in feeds if not feed.subscribed]:
                await self._subscribe(channels)
        elif self._blocked and self._listener_id is not None:
            with contextlib.suppress(ServerRefused, PermissionDenied):
                await Call((("CLIENT", "UNBLOCK", self._listener_id),), lambda reply: reply)
        epochs = [self._random_hex(8).encode() for _ in feeds]
        try:
            found = await says.attach([feed.keys for feed in feeds], epochs, [feed.bounds for feed in feeds])
        except (ServerRefused, PermissionDenied) as error:
            await self._open_apart(feeds, error)
            return
        for feed, attached in zip(feeds, found, strict=True):
            feed.subscribed = True
            await self._attach(feed, attached)

    async def _open_apart(self, feeds: list[Feed], error: DataStoreError) -> None:
        """One of several cannot be followed: find out which, so that the others can."""
        if len(feeds) > 1:
            for feed in feeds:
                await self._open([feed])
            return
        (feed,) = feeds
        if feed.epoch:
            raise ConnectionLost(f"A watched namespace cannot be followed any more: {error}")
        for mailbox in feed.followers:
            mailbox.put(Failed(error))
            self._requests.append(Leave(mailbox))
        self._admit()

    async def _attach(self, feed: Feed, attached: says.Attached) -> None:
        feed.attached = True
        feed.dirty = True
        last = Position(attached.last.id, attached.last.mark)
        if not feed.epoch:
            feed.epoch, feed.position = attached.epoch, last
            feed.made_here, feed.seen = attached.made, attached.seen
            followers, feed.followers = feed.followers, []
            for mailbox in followers:
                feed.unsure = [other for other in feed.unsure if other is not mailbox]
                feed.follow(mailbox)
        elif feed.epoch != attached.epoch:
            await self._start_over(feed, attached)

    async def _start_over(self, feed: Feed, attached: says.Attached | None = None) -> None:
        """History is gone: all who follow begin anew."""
        if attached is None:
            (attached,) = await says.attach([feed.keys], [self._random_hex(8).encode()], [feed.bounds])
        feed.forget()
        feed.epoch = attached.epoch
        feed.position = Position(attached.last.id, attached.last.mark)
        # The log may be an older one, and nobody has looked since then what was written by hand.
        feed.made_here, feed.seen = attached.made, attached.seen
        feed.unsure = []
        feed.announce(HistoryGone(feed.keys.data, feed.epoch))

    async def _list(self, registry: Registry) -> None:
        """Find the namespaces of a user that are new to those who want all."""
        if self.counts_events and not registry.subscribed:
            await self._subscribe([registry.channel])
            registry.subscribed = True
        registry.dirty = False
        names: set[bytes] = set()
        cursor = START
        while True:
            cursor, some = await says.registry_page(registry.user, cursor)
            names.update(some)
            if cursor == START:
                break
        for join in registry.wanted:
            fresh = id(join.mailbox) in registry.listed
            for name in sorted(name for name in names if name.startswith(join.prefix)):
                keys = registry.user.of_stored(name)
                feed = self.feeds.get(keys.data)
                if feed is None or join.mailbox not in feed.followers:
                    self._join(Join(join.mailbox, join.user, keys, join.bounds), fresh=fresh)
        while opening := [feed for feed in self.feeds.values() if not feed.attached][:FEEDS_PER_READ]:
            await self._open(opening)
        for join in registry.wanted:
            if id(join.mailbox) not in registry.listed:
                registry.listed.add(id(join.mailbox))
                join.mailbox.put(Listed())

    # The log.

    async def _read(self, feeds: list[Feed]) -> None:
        """Read what is new in some logs, hand it on, and see whether it accounts for all events."""
        for feed in feeds:
            feed.dirty = False
        channel = self._barrier if self.counts_events else None
        token = self._next_token()
        server_ms, tails = await says.tails([(feed.keys, feed.position.id) for feed in feeds], channel, token)
        self._clock_ms = server_ms - self.now * 1000
        for feed, tail in zip(feeds, tails, strict=True):
            await self._accept(feed, tail)
        self._read_at = self.now + COALESCE_S
        if channel is not None:
            await self._wait_for_token(token)
        for feed in feeds:
            feed.settle(self.now, server_ms, counted=channel is not None)

    async def _accept(self, feed: Feed, tail: Tail) -> None:
        entries = feed.take(tail.entries)
        if entries is None:
            await self._start_over(feed)
            feed.dirty = True
            return
        feed.fields = tail.fields
        await self._pass_on(feed, entries)

    async def _pass_on(self, feed: Feed, entries: list[Entry]) -> None:
        if not entries:
            return
        await says.fill_in(feed.keys, entries)
        feed.apply(entries)
        feed.deliver(entries)

    # What was not told.

    async def _scan(self, feed: Feed) -> None:
        """Learn or compare one page of a namespace."""
        if feed.scan is None:
            feed.begin_scan(await says.page_size(feed.keys), self.now)
        scan = feed.scan
        assert scan is not None
        page = await says.page(feed.keys, scan.cursor, scan.page_keys, feed.position.id)
        entries = feed.take(page.entries)
        if entries is None:
            await self._start_over(feed)
            return
        await self._pass_on(feed, entries)
        touched = {news[1] for entry in entries for news in entry.news if news is not None and news[1] is not None}
        feed.look_at(page, touched)
        await self._learn_expiries(feed, list(page.texts))
        if scan.cursor == START:
            suspects = feed.end_scan()
            if scan.learns:
                await self._check_history(feed)
            elif suspects:
                await self._note(feed, suspects)
            else:
                feed.notes_refused = 0
            feed.rest(self.now + SCAN_REST * (self.now - scan.started))

    async def _learn_expiries(self, feed: Feed, names: list[bytes]) -> None:
        if not names or not self._fields_expire:
            return
        try:
            times = await says.expiries_of(feed.keys, names)
        except ServerRefused:
            self._fields_expire = False
            return
        for name, at_ms in zip(names, times or (), strict=False):
            if at_ms > 0 and feed.expires.get(name) != at_ms:
                feed.expect_expiry(name, at_ms)

    _fields_expire = True

    async def _check_history(self, feed: Feed) -> None:
        """The namespace is known now: does the log tell all that happened since somebody watched last?"""
        seen, feed.seen = feed.seen, None
        if not feed.made_here:
            verdict = None
            if seen is not None and seen.epoch == feed.epoch:
                verdict = await explain(feed, seen, self._server_ms())
            if verdict is None:
                await says.note_gap(feed.keys)
                for mailbox in feed.unsure:
                    mailbox.put(HistoryGone(feed.keys.data, feed.epoch))
            else:
                await self._note(feed, verdict.expired, "e")
                await self._note(feed, verdict.changed, "d")
        feed.unsure = []
        feed.dirty = True
        for command in self._save(feed):
            await Call((command,), lambda reply: reply)

    async def _note(self, feed: Feed, names: list[bytes], mode: str = "c") -> None:
        """Tell in the log what was found, unless others have just told something: then look again."""
        now_ms = self._server_ms()
        if mode != "e":
            expired = [name for name in names if feed.expires.get(name, math.inf) <= now_ms]
            if expired:
                gone = set(expired)
                await self._note(feed, expired, "e")
                names, mode = [name for name in names if name not in gone], "d"
        for start in range(0, len(names), says.FIELDS_PER_NOTE):
            part = names[start : start + says.FIELDS_PER_NOTE]
            expected = feed.position.id if feed.notes_refused < 3 else b""
            try:
                if not await says.note(feed.keys, feed.bounds, expected, mode, part):
                    feed.notes_refused += 1
                    feed.dirty = True
                    feed.suspect(self.now)
                    break
            except (ServerRefused, PermissionDenied):
                await self._tell_followers(feed, part, mode)
                feed.rest(self.now + TICK_S)
                continue
            feed.notes_refused = 0
            await self._read([feed])

    async def _tell_followers(self, feed: Feed, names: list[bytes], mode: str) -> None:
        """The log takes nothing (a full server, a replica): tell at least those who are here."""
        texts = await says.texts_of(feed.keys, names)
        entry = Entry(feed.position.id, feed.position.mark, [], found=True, local=True)
        for name, text in zip(names, texts, strict=True):
            if text is not None and mode != "e":
                entry.news.append(("set", name, text))
            elif text is None:
                entry.news.append(("expire" if mode == "e" else "delete", name, None))
        feed.apply([entry])
        feed.deliver([entry])

    async def _expire(self, feed: Feed, server_ms: int) -> None:
        """Look at keys that should have expired."""
        if not feed.wants_digests:
            feed.expires.clear()
            return
        names = feed.take_due(server_ms, says.FIELDS_PER_NOTE, EXPIRY_AGAIN_MS)
        if names:
            await self._note(feed, names, "e")

    # From time to time.

    async def _tick(self) -> None:
        self._tick_at = self.now + TICK_S
        self._ticks += 1
        feeds = list(self.feeds.values())
        start = self._turn if self._turn < len(feeds) else 0
        for feed in feeds[start : start + FEEDS_PER_TICK]:
            feed.dirty = True
        self._turn = start + FEEDS_PER_TICK
        for registry in self._registries.values():
            registry.dirty = True
        commands: list[Command] = []
        for feed in feeds:
            if self.now - feed.saved_at > SAVE_S and feed.saved_position != feed.position.id:
                commands += self._save(feed)
        if self.now >= self._refresh_at:
            self._refresh_at = self.now + REFRESH_S
            commands += [("PEXPIRE", feed.keys.log, feed.bounds.life_ms) for feed in feeds]
            commands += [("PEXPIRE", feed.keys.seen, feed.bounds.life_ms) for feed in feeds]
        for start in range(0, len(commands), 100):
            with contextlib.suppress(ServerRefused, PermissionDenied):
                await Call(tuple(commands[start : start + 100]), lambda reply: reply)
        await self._keep_locks()

    async def _keep_locks(self) -> None:
        """Show that the consumers of this process live."""
        for mailbox in self.mailboxes():
            if mailbox.lock is not None and not await keep_lock(*mailbox.lock):
                mailbox.lock = None
                mailbox.put(Replaced())

    def _server_ms(self) -> int:
        return int(self.now * 1000 + self._clock_ms)


__all__ = ["Hub", "Join", "JoinAll", "Leave", "Pause", "Tell"]
