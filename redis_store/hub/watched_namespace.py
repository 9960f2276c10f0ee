"""The hub's state of one watched namespace: its position in the change log, its digests, and any sign that they disagree.

No I/O: `hub/hub.py` decides when to read, and passes the replies in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from redis_store.changelog.digests import Digests, digest_of
from redis_store.changelog.entry import LogEntry, Position, parse_entry
from redis_store.changelog.ops import Attached, Page, Seen
from redis_store.hub.expiries import Expiries
from redis_store.hub.mailbox import Delivery, HistoryGone, Mailbox, Opened, Suspicion
from redis_store.limits import MAX_VALUE_BYTES, LogBounds
from redis_store.namespace.keys import NamespaceKeys, UserKeys
from redis_store.ops.listing import START

LEARNED_FIRST = 2000
"""Largest namespace, in keys, that is learned before its watchers are told that they are watching. In a larger namespace,
external writes made while it is learned cause a reset."""

MOST_NEWS_BYTES = 4 * MAX_VALUE_BYTES
"""Limit on the total size of values to read after one read of the log, in bytes. Beyond it, every watcher gets a reset."""

LEAVE_S = 2.0
"""Longest time to keep an unwatched namespace whose state is incomplete, in seconds. Complete state is saved for the next
watcher."""


@dataclass(slots=True)
class Scan:
    """A scan of the namespace, page by page: the first one learns the digests, a later one compares with them."""

    learns: bool
    page_keys: int
    started: float
    cursor: str = START
    left: list[bytes] = field(default_factory=list)
    met: set[bytes] = field(default_factory=set)
    touched: set[bytes] = field(default_factory=set)
    suspects: dict[bytes, None] = field(default_factory=dict)


class WatchedNamespace:
    """A namespace with at least one watcher, or whose last watcher has just left."""

    def __init__(
        self,
        user: UserKeys,
        keys: NamespaceKeys,
        channel: bytes,
        bounds: LogBounds,
        agenda: Agenda,
    ) -> None:
        self._agenda = agenda
        agenda.unopened[self] = None
        self.user = user
        self.keys = keys
        self.channel = channel
        """The channel of its keyspace events."""
        self.bounds = bounds
        self.followers: list[Mailbox] = []
        self._new_to: list[Mailbox] = []
        """Watchers of all namespaces that began before there was anything in this one, so that they get every key."""
        self.unsure: list[Mailbox] = []
        """Watchers that resume from a cursor, until it is known whether the log since then is complete."""
        self.wants_digests = False
        """Whether any watcher needs changes, and not only suspicions."""
        self.subscribed = False
        self.opened = False
        """Whether the watchers have been told that they are watching."""
        self.epoch = b""
        self.position = Position(b"0-0", 0)
        self.seen: Seen | None = None
        self.made_here = False
        self.blank = False
        """Whether nothing was ever written while the log was there, so that the log expires soon without a watcher."""
        self.lasts = False
        """Whether a consumer follows it, so that a blank log is kept as long as others."""
        self.digests = Digests()
        self.knows = False
        """Whether the digests are complete, so that a scan can be compared with them."""
        self.checked = False
        """Whether the log since the last watcher left has been checked for completeness."""
        self.events = 0
        """Keyspace events since the last token, without those of expiry."""
        self.counted = 0
        """Keyspace events up to the last token."""
        self.told = 0
        """Keyspace events accounted for by the log entries read since the last token."""
        self._catching_up = False
        """Whether the next read is the first on new connections, so that the events of its entries were not received."""
        self.fields = 0
        self.reaping = False
        """Whether fields have expired that the server may still include in the number of fields."""
        self.scan: Scan | None = None
        self.compare_at: float | None = None
        self.notes_refused = 0
        self.saved_at = 0.0
        self.saved_position = b""
        self.expiries = Expiries()
        self._last_event = b""
        self._rest_until = 0.0
        self._left_at: float | None = None

    def may_end(self, now: float) -> bool:
        """Whether the state of an unwatched namespace can be dropped."""
        self._left_at = self._left_at or now
        return self.sure or not self.wants_digests or now - self._left_at > LEAVE_S

    @property
    def sure(self) -> bool:
        """Whether its digests are complete and no comparison is pending."""
        return self.knows and self.checked and self.subscribed and self.compare_at is None and self.scan is None

    def is_followed_by(self, mailbox: Mailbox) -> bool:
        return any(other is mailbox for other in self.followers)

    def follow(self, mailbox: Mailbox, *, fresh: bool = False) -> None:
        """Deliver changes to a watcher from now on; if the namespace is `fresh` to it, it gets every key first."""
        self.followers.append(mailbox)
        if fresh:
            self._new_to.append(mailbox)
        self.wants_digests = self.wants_digests or not mailbox.light
        if mailbox.lock is not None and not self.lasts:
            self.lasts = True
            self._keep()
        self._agenda.left.pop(self, None)
        self._left_at = None
        if mailbox.resumes and not self.checked:
            self.unsure.append(mailbox)
        self._learn()
        if self.opened:
            mailbox.put(self._opening(mailbox))

    def _opening(self, mailbox: Mailbox) -> Opened:
        fresh = any(other is mailbox for other in self._new_to)
        return Opened(self.keys, self.epoch, self.position, fresh, self.knows and not len(self.digests))

    def _open(self) -> None:
        """Tell the watchers that they get every change from now on."""
        if not self.opened:
            self.opened = True
            for mailbox in self.followers:
                mailbox.put(self._opening(mailbox))

    def unfollow(self, mailbox: Mailbox) -> None:
        self.followers = [other for other in self.followers if other is not mailbox]
        self.unsure = [other for other in self.unsure if other is not mailbox]
        self._new_to = [other for other in self._new_to if other is not mailbox]

    def attach(self, attached: Attached) -> bool:
        """Take the log's state on new connections. Return True if watchers were following another log, which is gone."""
        self._agenda.unopened.pop(self, None)
        self.wake()
        self.counted = self.told = 0
        if self.epoch == attached.epoch:
            self._catching_up = True
            return False
        self.begin_at(attached)
        return self.opened

    def begin_at(self, attached: Attached) -> None:
        """Follow a log from its end on, and learn the namespace."""
        self.digests.clear()
        self.expiries.clear()
        self.knows = self.checked = False
        self.scan = None
        self.compare_at = None
        self.counted = self.told = 0
        self.epoch = attached.epoch
        self.position = Position(attached.last.id, attached.last.mark)
        self.blank = attached.blank
        self.made_here, self.seen = attached.made or attached.blank, attached.seen
        self.wake()
        self._learn()

    def disconnected(self) -> None:
        """Note that events are no longer received, and ask for a comparison after the reconnect."""
        self._agenda.unopened[self] = None
        self.subscribed = False
        self.scan = None
        self.events = self.counted = self.told = 0
        if self.knows:
            self.suspect(0.0)

    def move_to(self, agenda: Agenda) -> None:
        """Note that another hub follows it from now on."""
        self._agenda = agenda
        self.disconnected()
        self._learn()
        if self.expiries.next() is not None:
            agenda.expiring[self] = None

    @property
    def is_passing(self) -> bool:
        """Whether the log is there only while it is watched."""
        return self.blank and not self.lasts

    def _keep(self) -> None:
        """Schedule that a log that was blank, or has a consumer now, is kept as long as others."""
        if self.blank:
            self._agenda.kept[self] = None

    def wake(self) -> None:
        """Schedule a read of the log."""
        self._agenda.dirty[self] = None

    def heard(self, event: bytes) -> None:
        """Take a keyspace event."""
        self._agenda.dirty[self] = None
        if event == b"hexpired":
            self.reaping = True
        elif event == b"del" and self._last_event == b"hexpired":
            # Either the last field expired or the key was deleted just then. Little is left, so comparing is cheap.
            self.suspect(0.0)
        else:
            self.events += 1
        self._last_event = event

    def count(self) -> None:
        """Take the token's return: the events received so far belong to the read that published it, or to earlier ones."""
        self.counted += self.events
        self.events = 0

    def take(self, raw_entries: list[Any]) -> list[LogEntry] | None:
        """Return the entries after the last known one, or None if the read does not begin with that one."""
        if not raw_entries:
            return None
        first, *others = (parse_entry(raw) for raw in raw_entries)
        if first.id != self.position.id or first.mark != self.position.mark:
            return None
        return others

    def accept(self, entries: list[LogEntry]) -> None:
        """Move the position past entries whose values have been read, apply them, and deliver them to all watchers.

        All in one step, so that a connection that breaks while values are read leaves nothing undelivered.
        """
        if entries:
            self._keep()
            self.blank = False
            if not self._catching_up:
                self.told += sum(entry.events for entry in entries)
            self.position = Position(entries[-1].id, entries[-1].mark)
            self.apply(entries)
            self.deliver(entries)

    def settle(self, now: float, server_ms: int, *, counted: bool = True) -> None:
        """Ask for a comparison if the log disagrees with the events (if `counted`) or with the number of fields.

        Every event from before the last read has been received by now.
        """
        agrees = not counted or self.counted == self.told
        self.counted = self.told = 0
        self._catching_up = False
        if not self.wants_digests:
            self._open()
            if not agrees or not counted:
                for mailbox in self.followers:
                    mailbox.put(Suspicion(self.keys.data))
            return
        if not self.knows:
            self._settle_unknown(now, agrees)
            return
        surplus = self.fields - len(self.digests)
        if surplus == 0:
            self.reaping = False
        if agrees and self.expiries.pending(server_ms):
            return  # expiries are reported first; until then the number of fields proves nothing
        # The server counts expired fields until it reaps them.
        if not agrees or surplus < 0 or (surplus > 0 and not self.reaping):
            self.suspect(now)

    def _settle_unknown(self, now: float, agrees: bool) -> None:
        """Handle a possible external write while the namespace is still being learned."""
        if not agrees:
            if self.opened:
                for mailbox in self.followers:
                    mailbox.put(HistoryGone(self.keys.data, self.epoch))
            if self.scan is not None:
                self.suspect(now)
        if self.fields > LEARNED_FIRST:
            self._open()

    def suspect(self, now: float) -> None:
        """Ask for a comparison."""
        if self.compare_at is None:
            self.compare_at = max(now, self._rest_until)
            self._agenda.doubtful[self] = None

    def rest(self, until: float) -> None:
        """Delay comparisons until this time."""
        self._rest_until = until
        if self.compare_at is not None:
            self.compare_at = max(self.compare_at, until)

    def apply(self, entries: list[LogEntry]) -> None:
        """Update the digests from entries whose values have been read.

        A change that a hub found by comparing is dropped from the entry if the digests already have it.
        """
        if not self.wants_digests:
            return
        for entry in entries:
            for at, news in enumerate(entry.news):
                if news is None:
                    continue
                op, name, text = news
                if op == "clear":
                    is_news = self.digests.clear()
                    self.expiries.clear()
                    if self.scan is not None:
                        self.scan.suspects.clear()
                else:
                    assert name is not None
                    is_news = self._apply_one(entry, op, name, text)
                if entry.found and self.knows and not is_news:
                    entry.news[at] = None

    def _apply_one(self, entry: LogEntry, op: str, name: bytes, text: bytes | None) -> bool:
        if self.scan is not None:
            self.scan.touched.add(name)
            self.scan.suspects.pop(name, None)
        if op != "set":
            self.expiries.forget(name)
            self.reaping = self.reaping or op == "expire"
            return self.digests.drop(name)
        assert text is not None, "values are read before"
        if entry.expires_ms is not None:
            self.expect_expiry(name, entry.expires_ms)
        else:
            self.expiries.forget(name)
        return self.digests.put(name, digest_of(text))

    def deliver(self, entries: list[LogEntry]) -> None:
        """Deliver entries to all watchers."""
        if not entries or not self.followers:
            return
        delivery = Delivery.of(self.keys.data, entries)
        if delivery.changes or any(entry.gap for entry in entries):
            for mailbox in self.followers:
                mailbox.deliver(delivery)

    def may_be_scanned(self, now: float) -> bool:
        """Whether something can be learned or compared at this time."""
        if not self.wants_digests or not self.epoch:
            return False
        if self.scan is not None or not self.checked:
            return True
        return self.compare_at is not None and self.compare_at <= now

    def begin_scan(self, page_keys: int, now: float) -> None:
        self.scan = Scan(not self.knows, page_keys, now)
        self.compare_at = None

    def _learn(self) -> None:
        if not self.checked and self.wants_digests:
            self._agenda.doubtful[self] = None

    def look_at(self, page: Page, touched_now: set[bytes]) -> None:
        """Learn or compare a page. It was read in one transaction with the log."""
        scan = self.scan
        assert scan is not None
        scan.cursor, scan.left = page.cursor, page.left
        for name, text in page.texts.items():
            scan.met.add(name)
            if name in touched_now:
                continue
            if scan.learns:
                self.digests.put(name, digest_of(text))
            elif self.digests.of.get(name) != digest_of(text):
                scan.suspects[name] = None

    def end_scan(self) -> list[bytes]:
        """End the scan. Return the fields that differ from their digests; a scan that learns returns none."""
        scan, self.scan = self.scan, None
        assert scan is not None
        if scan.learns:
            self.knows = True
            self._open()
            return []
        self.end_doubts()
        # HSCAN returns every field that exists from the start of a scan to its end.
        missing = [name for name in self.digests if name not in scan.met and name not in scan.touched]
        return [*scan.suspects, *missing]

    def end_doubts(self) -> None:
        """Take the namespace off the agenda of comparisons, unless another one was asked for meanwhile."""
        if self.compare_at is None and self.scan is None:
            self._agenda.doubtful.pop(self, None)

    def expect_expiry(self, name: bytes, at_ms: int) -> None:
        """Note when a key expires, in ms of the server's clock."""
        self.expiries.expect(name, at_ms)
        self._agenda.expiring[self] = None


class Agenda:
    """The hub's namespaces by the work that they need. Ordered, so that each gets its turn."""

    def __init__(self) -> None:
        self.unopened: dict[WatchedNamespace, None] = {}
        self.dirty: dict[WatchedNamespace, None] = {}
        """Namespaces whose logs must be read."""
        self.doubtful: dict[WatchedNamespace, None] = {}
        """Namespaces to learn or to compare."""
        self.expiring: dict[WatchedNamespace, None] = {}
        """Namespaces with keys that will expire."""
        self.kept: dict[WatchedNamespace, None] = {}
        """Namespaces whose logs were to expire soon, and must be kept as long as others."""
        self.left: dict[WatchedNamespace, None] = {}
        """Namespaces without watchers. They end once their state is complete and can be saved for later watchers."""

    @classmethod
    def at_once(cls, feeds: Iterable[WatchedNamespace], most: int) -> list[WatchedNamespace]:
        """Return the first namespaces; of one user, if keys have a hash tag: no command of a cluster spans two slots."""
        first = list(islice(feeds, most))
        if first and first[0].user.form.tagged:
            first = [feed for feed in first if feed.user.user == first[0].user.user]
        return first

    def strike(self, feed: WatchedNamespace) -> None:
        """Remove a namespace from every list."""
        for feeds in (self.unopened, self.dirty, self.doubtful, self.expiring, self.kept, self.left):
            feeds.pop(feed, None)
