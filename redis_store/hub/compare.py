"""Comparison of a namespace with its log: the hub finds the differences and appends them to the log. No I/O."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from redis_store.changelog import ops as says
from redis_store.changelog.entry import LogEntry
from redis_store.changelog.ops import Seen
from redis_store.errors import PermissionDenied, ServerRefused
from redis_store.hub.history import TOO_BIG, expired_since
from redis_store.hub.mailbox import HistoryGone
from redis_store.hub.requests import say
from redis_store.hub.watched_namespace import MOST_NEWS_BYTES, WatchedNamespace
from redis_store.ops.listing import START
from redis_store.protocol.command import Command

SCAN_REST = 10
"""Pause after a comparison, as a multiple of its duration. It bounds the cost of continual external writes."""

EXPIRY_AGAIN_MS = 50
"""Delay before checking again a key that is due to expire and has not, in ms."""

REFUSED_AGAIN_MS = 5
"""Delay before retrying an expiry that was not logged because of a concurrent write, in ms: until after the next read."""

NOTES_REFUSED = 3
"""Number of times that differences are compared again because of concurrent log entries. Then they are logged in any case."""

REST_S = 1.0


class Doubts:
    """Finds changes that are missing from the log: external writes, evictions and expiries."""

    def __init__(
        self,
        read: Callable[[list[WatchedNamespace]], Awaitable[None]],
        start_over: Callable[[WatchedNamespace], Awaitable[None]],
    ) -> None:
        self.now = 0.0
        self.clock_ms = 0.0
        """The server's clock minus the hub's, in ms."""
        self._read = read
        self._start_over = start_over
        self._fields_expire = True

    @property
    def server_ms(self) -> int:
        """The server's current time, in ms since 1970."""
        return int(self.now * 1000 + self.clock_ms)

    async def scan(self, feed: WatchedNamespace) -> None:
        """Learn or compare one page of a namespace. Once it is learned, check its history since the last watcher."""
        if feed.knows and not feed.checked:
            await self._check_history(feed)
            return
        if feed.scan is None:
            feed.begin_scan(await says.page_size(feed.keys), self.now)
        scan = feed.scan
        assert scan is not None
        page = await says.page(feed.keys, scan.cursor, scan.page_keys, feed.position.id, left=scan.left)
        entries = feed.take(page.entries)
        if entries is None or not await says.fill_in(feed.keys, entries, MOST_NEWS_BYTES):
            await self._start_over(feed)
            return
        feed.accept(entries)
        feed.look_at(page, {news[1] for entry in entries for news in entry.news if news is not None and news[1]})
        await self._learn_expiries(feed, list(page.texts))
        if scan.cursor == START and not scan.left:
            feed.rest(self.now + SCAN_REST * (self.now - scan.started))
            suspects = feed.end_scan()
            if suspects:
                await self._note(feed, suspects, "c")

    async def expire(self, feed: WatchedNamespace) -> None:
        """Log the expiry of keys that are due and gone."""
        if not feed.wants_digests:
            feed.expiries.clear()
            return
        names = feed.expiries.take_due(self.server_ms, says.FIELDS_PER_NOTE, EXPIRY_AGAIN_MS)
        if names:
            await self._note(feed, names, "e")

    def save(self, feed: WatchedNamespace) -> list[Command]:
        """Return the command that saves a namespace's state; nothing while a comparison is pending, or if the log is passing."""
        if not feed.sure or feed.is_passing:
            return []
        feed.saved_at, feed.saved_position = self.now, feed.position.id
        seen = Seen(feed.epoch, feed.position, feed.digests.sketch())
        return [says.save_seen(feed.keys, seen, feed.bounds.life_ms)]

    async def _learn_expiries(self, feed: WatchedNamespace, names: list[bytes]) -> None:
        for start in range(0, len(names), says.FIELDS_PER_SIZING):
            part = names[start : start + says.FIELDS_PER_SIZING]
            if not self._fields_expire:
                return
            try:
                times = await says.expiries_of(feed.keys, part)
            except ServerRefused:
                self._fields_expire = False
                return
            for name, at_ms in zip(part, times or (), strict=False):
                if at_ms <= 0:
                    feed.expiries.forget(name)
                else:
                    feed.expect_expiry(name, at_ms)

    async def _check_history(self, feed: WatchedNamespace) -> None:
        """Find out whether the log is complete since the last watcher. The namespace has been learned.

        If it is not, the log gets a gap, and watchers that resume get a reset.
        """
        if not feed.made_here:
            expired = None
            if feed.seen is not None and feed.seen.epoch == feed.epoch:
                expired = await expired_since(feed, feed.seen, self.server_ms)
            if expired is None:
                await say([says.note_gap(feed.keys)])
                for mailbox in feed.unsure:
                    mailbox.put(HistoryGone(feed.keys.data, feed.epoch))
            for name in expired or ():
                feed.digests.put(
                    name, TOO_BIG
                )  # back to the state that the log describes, so that the expiry is logged
                feed.expect_expiry(name, self.server_ms)
        feed.checked = True
        feed.end_doubts()
        feed.seen = None
        feed.unsure = []
        feed.wake()
        await say(self.save(feed))

    async def _note(self, feed: WatchedNamespace, names: list[bytes], mode: str) -> None:
        """Append differences to the log. After a concurrent log entry, nothing is appended and they are checked again."""
        if mode != "e":
            expired = [name for name in names if feed.expiries.is_past(name, self.server_ms)]
            if expired:
                await self._note(feed, expired, "e")
                gone = set(expired)
                names, mode = [name for name in names if name not in gone], "d"
        for part in says.parts_to_note(names):
            expected = feed.position.id if feed.notes_refused < NOTES_REFUSED else b""
            try:
                if not await says.note(feed.keys, feed.bounds, expected, mode, part):
                    self._refused(feed, part, mode)
                    return
            except (ServerRefused, PermissionDenied):
                await self._tell_followers(feed, part, mode)
                feed.rest(self.now + REST_S)
                continue
            feed.notes_refused = 0
            await self._read([feed])

    def _refused(self, feed: WatchedNamespace, names: list[bytes], mode: str) -> None:
        feed.notes_refused += 1
        feed.wake()
        if mode == "e":  # these keys are known, so no comparison is needed
            feed.expiries.again(names, self.server_ms + REFUSED_AGAIN_MS)
        else:
            feed.suspect(self.now)

    async def _tell_followers(self, feed: WatchedNamespace, names: list[bytes], mode: str) -> None:
        """Deliver differences to the current watchers only, because the server (full, or a replica) refuses the log entry."""
        texts = await says.texts_of(feed.keys, names)
        entry = LogEntry(feed.position.id, feed.position.mark, [], found=True, local=True)
        for name, text in zip(names, texts, strict=True):
            if text is None:
                entry.news.append(("expire" if mode == "e" else "delete", name, None))
            elif mode != "e":
                entry.news.append(("set", name, text))
        feed.apply([entry])
        feed.deliver([entry])
