"""One watched namespace, as a hub knows it: where it stands in the log, what should be there, and what does not agree.

No I/O: `hub.hub` says when to look, and hands in what was found.
"""

from __future__ import annotations

from collections.abc import Mapping
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
"""A namespace of at most so many keys is learned before anybody is told that it is watched. In a bigger one hand-made writes
of the time in which it is learned lead to a reset."""

MOST_NEWS_BYTES = 4 * MAX_VALUE_BYTES
"""Values that were written since the last look and are more than this together are not read at once: all who watch begin anew."""

LEAVE_S = 2.0
"""So long a namespace that nobody watches any more is kept at most, to be known when somebody comes back."""


@dataclass(slots=True)
class Scan:
    """A walk over the namespace, page by page: the first one learns it, a later one compares."""

    learns: bool
    page_keys: int
    started: float
    cursor: str = START
    met: set[bytes] = field(default_factory=set)
    touched: set[bytes] = field(default_factory=set)
    suspects: dict[bytes, None] = field(default_factory=dict)


class WatchedNamespace:
    """A namespace that is watched."""

    def __init__(
        self,
        user: UserKeys,
        keys: NamespaceKeys,
        channel: bytes,
        bounds: LogBounds,
        agenda: Agenda,
        *,
        fresh: bool,
    ) -> None:
        self._agenda = agenda
        agenda.unopened[self] = None
        self.user = user
        self.keys = keys
        self.channel = channel
        """Where its keyspace events are published."""
        self.bounds = bounds
        self.fresh = fresh
        self.followers: list[Mailbox] = []
        self.unsure: list[Mailbox] = []
        """Followers that go on where somebody stopped, while it is not yet known whether the log tells all since."""
        self.wants_digests = False
        """Whether anybody needs more than suspicions."""
        self.subscribed = False
        self.opened = False
        """Whether those who follow have been told that they do."""
        self.epoch = b""
        self.position = Position(b"0-0", 0)
        self.seen: Seen | None = None
        self.made_here = False
        self.digests = Digests()
        self.knows = False
        """Whether the digests are complete, and so something to compare with."""
        self.checked = False
        """Whether it is known that the log tells all since somebody watched last."""
        self.events = 0
        """Keyspace events since the last token, those of expiry not counted."""
        self.counted = 0
        """Keyspace events up to the last token."""
        self.told = 0
        """Keyspace events that the log entries read since the last token account for."""
        self._catching_up = False
        """The next read is the first on new connections: its entries' events went to nobody."""
        self.fields = 0
        self.reaping = False
        """Fields have expired, so the number of fields may be behind for a while."""
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
        """Whether a namespace that nobody watches any more can be let go."""
        self._left_at = self._left_at or now
        return self.sure or not self.wants_digests or now - self._left_at > LEAVE_S

    @property
    def sure(self) -> bool:
        """Whether it is known whole, and without doubts."""
        return self.knows and self.checked and self.subscribed and self.compare_at is None and self.scan is None

    def is_followed_by(self, mailbox: Mailbox) -> bool:
        return any(other is mailbox for other in self.followers)

    def follow(self, mailbox: Mailbox) -> None:
        """Let a watcher have what comes from here on."""
        self.followers.append(mailbox)
        self.wants_digests = self.wants_digests or not mailbox.light
        self._agenda.left.pop(self, None)
        self._left_at = None
        if mailbox.resumes and not self.checked:
            self.unsure.append(mailbox)
        self._learn()
        if self.opened:
            mailbox.put(self._opening())

    def _opening(self) -> Opened:
        return Opened(self.keys, self.epoch, self.position, self.fresh, self.knows and not len(self.digests))

    def _open(self) -> None:
        """From here on whatever happens is told to those who follow."""
        if not self.opened:
            self.opened = True
            for mailbox in self.followers:
                mailbox.put(self._opening())

    def unfollow(self, mailbox: Mailbox) -> None:
        self.followers = [other for other in self.followers if other is not mailbox]
        self.unsure = [other for other in self.unsure if other is not mailbox]

    def attach(self, attached: Attached) -> bool:
        """The log is there, on new connections; True where it is another than before."""
        self._agenda.unopened.pop(self, None)
        self.wake()
        self.counted = self.told = 0
        if self.epoch == attached.epoch:
            self._catching_up = True
            return False
        self.begin_at(attached)
        return self.opened

    def begin_at(self, attached: Attached) -> None:
        """Follow a log from its end on, and learn what the namespace is like."""
        self.digests.clear()
        self.expiries.clear()
        self.knows = self.checked = False
        self.scan = None
        self.compare_at = None
        self.counted = self.told = 0
        self.epoch = attached.epoch
        self.position = Position(attached.last.id, attached.last.mark)
        self.made_here, self.seen = attached.made, attached.seen
        self.wake()
        self._learn()

    def disconnected(self) -> None:
        """What happens from now on is not heard: compare when there are connections again."""
        self._agenda.unopened[self] = None
        self.subscribed = False
        self.scan = None
        self.events = self.counted = self.told = 0
        if self.knows:
            self.suspect(0.0)

    def wake(self) -> None:
        """Have the log read."""
        self._agenda.dirty[self] = None

    def heard(self, event: bytes) -> None:
        """A keyspace event has come."""
        self._agenda.dirty[self] = None
        if event == b"hexpired":
            self.reaping = True
        elif event == b"del" and self._last_event == b"hexpired":
            # The last field expired; or somebody deleted the key just then. There is little left to compare.
            self.suspect(0.0)
        else:
            self.events += 1
        self._last_event = event

    def count(self) -> None:
        """The token has come: what has been heard so far belongs to what was read with it, or before."""
        self.counted += self.events
        self.events = 0

    def take(self, raw_entries: list[Any]) -> list[LogEntry] | None:
        """Return the entries behind the known one, with which a read must begin; None where it does not."""
        if not raw_entries:
            return None
        first, *others = (parse_entry(raw) for raw in raw_entries)
        if first.id != self.position.id or first.mark != self.position.mark:
            return None
        return others

    def accept(self, entries: list[LogEntry]) -> None:
        """Move on behind entries whose values have been read, remember what they say, and hand them to all who follow.

        In one step, so that a connection that breaks while values are read leaves nothing undelivered.
        """
        if entries:
            if not self._catching_up:
                self.told += sum(entry.events for entry in entries)
            self.position = Position(entries[-1].id, entries[-1].mark)
            self.apply(entries)
            self.deliver(entries)

    def settle(self, now: float, server_ms: int, *, counted: bool = True) -> None:
        """All events from before the last read have come (where they are `counted`): they and the log must agree."""
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
            return  # who is gone will be told first, then numbers count
        # Fields that have expired are counted by the server until it reaps them.
        if not agrees or surplus < 0 or (surplus > 0 and not self.reaping):
            self.suspect(now)

    def _settle_unknown(self, now: float, agrees: bool) -> None:
        """Somebody may have written by hand before it was known what there had been."""
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
        """Make no comparison before then."""
        self._rest_until = until
        if self.compare_at is not None:
            self.compare_at = max(self.compare_at, until)

    def apply(self, entries: list[LogEntry]) -> None:
        """Remember what entries say, whose values have been read; what was found is news once only."""
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
        """Hand entries to all who follow."""
        if not entries or not self.followers:
            return
        delivery = Delivery.of(self.keys.data, entries)
        if delivery.changes or any(entry.gap for entry in entries):
            for mailbox in self.followers:
                mailbox.deliver(delivery)

    def may_be_scanned(self, now: float) -> bool:
        """Whether there is something to learn or to compare at this time."""
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
        """Learn or compare a page, read at the moment at which the log was read too."""
        scan = self.scan
        assert scan is not None
        scan.cursor = page.cursor
        for name, text in page.texts.items():
            scan.met.add(name)
            if name in touched_now:
                continue
            if scan.learns:
                self.digests.put(name, digest_of(text))
            elif self.digests.of.get(name) != digest_of(text):
                scan.suspects[name] = None

    def end_scan(self) -> list[bytes]:
        """Return the fields that are not as they should be; where the walk was to learn, there are none."""
        scan, self.scan = self.scan, None
        assert scan is not None
        if scan.learns:
            self.knows = True
            self._open()
            return []
        self.end_doubts()
        # A field that was there from the start of the walk to its end has been met.
        missing = [name for name in self.digests if name not in scan.met and name not in scan.touched]
        return [*scan.suspects, *missing]

    def end_doubts(self) -> None:
        """There is nothing left to learn or to compare, unless a comparison has been asked for meanwhile."""
        if self.compare_at is None and self.scan is None:
            self._agenda.doubtful.pop(self, None)

    def believe(self, digests: Mapping[bytes, int | None]) -> None:
        """Take keys for what they were before somebody wrote them by hand, so that the comparison finds it."""
        for name, digest in digests.items():
            if digest is None:
                self.digests.drop(name)
            else:
                self.digests.put(name, digest)

    def expect_expiry(self, name: bytes, at_ms: int) -> None:
        """A key expires then, in ms of the server's clock."""
        self.expiries.expect(name, at_ms)
        self._agenda.expiring[self] = None


class Agenda:
    """Which of a hub's namespaces need what; ordered, so that each gets its turn."""

    def __init__(self) -> None:
        self.unopened: dict[WatchedNamespace, None] = {}
        self.dirty: dict[WatchedNamespace, None] = {}
        """Something was heard of them, so that their logs have to be read."""
        self.doubtful: dict[WatchedNamespace, None] = {}
        """They have to be learned or compared."""
        self.expiring: dict[WatchedNamespace, None] = {}
        """Keys of theirs will expire."""
        self.left: dict[WatchedNamespace, None] = {}
        """Nobody watches them any more; they end when it is known what they are like, for those who come later."""

    @staticmethod
    def first(feeds: dict[WatchedNamespace, None], most: int) -> list[WatchedNamespace]:
        return list(islice(feeds, most))

    def strike(self, feed: WatchedNamespace) -> None:
        """It needs nothing any more."""
        for feeds in (self.unopened, self.dirty, self.doubtful, self.expiring, self.left):
            feeds.pop(feed, None)
