"""One watched namespace, as a hub knows it: where it stands in the log, what should be there, and what does not agree.

No I/O: `_feed_hub` says when to look, and hands in what was found.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

from redis_store._digests import Digests, digest_of
from redis_store._keys import NamespaceKeys, UserKeys
from redis_store._log_entry import Entry, Position, parse_entry
from redis_store._mailbox import Delivery, Item, Mailbox, Opened, Suspicion
from redis_store._scope import LogBounds
from redis_store.ops.feed import START, Page, Seen


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


class Feed:
    """A namespace that is watched."""

    def __init__(self, user: UserKeys, keys: NamespaceKeys, channel: bytes, bounds: LogBounds, fresh: bool) -> None:
        self.user = user
        self.keys = keys
        self.channel = channel
        """Where its keyspace events are published."""
        self.bounds = bounds
        self.fresh = fresh
        self.followers: list[Mailbox] = []
        self.unsure: list[Mailbox] = []
        """Followers that go on where somebody stopped, while it is not yet known whether the log tells all since."""
        self.subscribed = False
        self.attached = False
        self.epoch = b""
        self.position = Position(b"0-0", 0)
        self.seen: Seen | None = None
        self.made_here = False
        self.digests = Digests()
        self.knows = False
        """Whether the digests are complete, and so something to compare with."""
        self.dirty = False
        self.events = 0
        """Keyspace events since the last token, those of expiry not counted."""
        self.told = 0
        """Keyspace events that the log entries read since the last token account for."""
        self.fields = 0
        self.reaping = False
        """Fields have expired, so the number of fields may be behind for a while."""
        self.scan: Scan | None = None
        self.compare_at: float | None = None
        self.notes_refused = 0
        self.saved_at = 0.0
        self.saved_position = b""
        self.expires: dict[bytes, int] = {}
        self._due: list[tuple[int, bytes]] = []
        self._last_event = b""
        self._rest_until = 0.0

    @property
    def wants_digests(self) -> bool:
        """Whether anybody needs more than suspicions."""
        return any(not mailbox.light for mailbox in self.followers)

    def follow(self, mailbox: Mailbox) -> None:
        """Let a watcher have what comes from here on."""
        self.followers.append(mailbox)
        if mailbox.resumes and not self.knows:
            self.unsure.append(mailbox)
        if self.attached:
            mailbox.put(Opened(self.keys, self.epoch, self.position, self.fresh))

    def unfollow(self, mailbox: Mailbox) -> None:
        self.followers = [other for other in self.followers if other is not mailbox]
        self.unsure = [other for other in self.unsure if other is not mailbox]

    def announce(self, item: Item) -> None:
        for mailbox in self.followers:
            mailbox.put(item)

    def heard(self, event: bytes) -> None:
        """A keyspace event has come."""
        self.dirty = True
        if event == b"hexpired":
            self.reaping = True
        elif event == b"del" and self._last_event == b"hexpired":
            # The last field expired; or somebody deleted the key just then. There is little left to compare.
            self.suspect(0.0)
        else:
            self.events += 1
        self._last_event = event

    def take(self, raw_entries: list[Any]) -> list[Entry] | None:
        """Return the entries behind the known one, with which a read must begin; None where it does not."""
        if not raw_entries:
            return None
        first, *others = (parse_entry(raw) for raw in raw_entries)
        if first.id != self.position.id or first.mark != self.position.mark:
            return None
        if others:
            self.told += sum(entry.events for entry in others)
            self.position = Position(others[-1].id, others[-1].mark)
        return others

    def settle(self, now: float, server_ms: int, *, counted: bool = True) -> None:
        """All events from before the last read have come (where they are `counted`): they and the log must agree."""
        agrees = not counted or self.events == self.told
        self.events = self.told = 0
        if not self.wants_digests:
            if not agrees or not counted:
                self.announce(Suspicion(self.keys.data))
            return
        if not self.knows:
            if not agrees and self.scan is not None:
                self.compare_at = now
            return
        surplus = self.fields - len(self.digests)
        if surplus == 0:
            self.reaping = False
        next_expiry = self.next_expiry()
        if agrees and next_expiry is not None and next_expiry <= server_ms:
            return  # who is gone will be told first, then numbers count
        # Fields that have expired are counted by the server until it reaps them.
        if not agrees or surplus < 0 or (surplus > 0 and not self.reaping):
            self.suspect(now)

    def suspect(self, now: float) -> None:
        """Ask for a comparison."""
        if self.compare_at is None:
            self.compare_at = max(now, self._rest_until)

    def rest(self, until: float) -> None:
        """Make no comparison before then."""
        self._rest_until = until
        if self.compare_at is not None:
            self.compare_at = max(self.compare_at, until)

    def apply(self, entries: list[Entry]) -> None:
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
                    self.expires.clear()
                    if self.scan is not None:
                        self.scan.suspects.clear()
                else:
                    assert name is not None
                    is_news = self._apply_one(entry, op, name, text)
                if entry.found and self.knows and not is_news:
                    entry.news[at] = None

    def _apply_one(self, entry: Entry, op: str, name: bytes, text: bytes | None) -> bool:
        if self.scan is not None:
            self.scan.touched.add(name)
            self.scan.suspects.pop(name, None)
        if op != "set":
            self.expires.pop(name, None)
            self.reaping = self.reaping or op == "expire"
            return self.digests.drop(name)
        assert text is not None, "values are read before"
        if entry.expires_ms is not None:
            self.expect_expiry(name, entry.expires_ms)
        else:
            self.expires.pop(name, None)
        return self.digests.put(name, digest_of(text))

    def deliver(self, entries: list[Entry]) -> None:
        """Hand entries to all who follow."""
        if not entries or not self.followers:
            return
        delivery = Delivery.of(self.keys.data, entries)
        if delivery.changes or any(entry.gap for entry in entries):
            for mailbox in self.followers:
                mailbox.deliver(delivery)

    def begin_scan(self, page_keys: int, now: float) -> None:
        self.scan = Scan(not self.knows, page_keys, now)
        self.compare_at = None

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
            return []
        # A field that was there from the start of the walk to its end has been met.
        missing = [name for name in self.digests if name not in scan.met and name not in scan.touched]
        return [*scan.suspects, *missing]

    def forget(self) -> None:
        """History is gone: begin anew from where the log stands."""
        self.digests.clear()
        self.expires.clear()
        self.knows = False
        self.scan = None
        self.compare_at = None
        self.events = self.told = 0

    def expect_expiry(self, name: bytes, at_ms: int) -> None:
        self.expires[name] = at_ms
        heapq.heappush(self._due, (at_ms, name))

    def next_expiry(self) -> int | None:
        """When the next key expires, in ms of the server's clock."""
        due = self._due
        while due and due[0][1] not in self.expires:
            heapq.heappop(due)
        return due[0][0] if due else None

    def take_due(self, server_ms: int, most: int, again_ms: int) -> list[bytes]:
        """Return fields that should have expired; they come up again later, unless the log says that they are gone."""
        names: dict[bytes, None] = {}
        due = self._due
        while due and due[0][0] <= server_ms and len(names) < most:
            _, name = heapq.heappop(due)
            at = self.expires.get(name)
            if at is not None and at <= server_ms:
                names[name] = None
        for name in names:
            heapq.heappush(due, (server_ms + again_ms, name))
        return list(names)


__all__ = ["Feed", "Scan"]
