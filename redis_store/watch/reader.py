"""A state machine that turns a hub's items into changes, the same for threads and asyncio. No I/O.

Each namespace has a track, which is in one of these phases:

- ``waiting``: the hub has not reported yet from which position it follows the namespace.
- ``catching up``: the watcher resumes from a cursor. It reads the log itself, page by page, up to the hub's position.
- ``listing``: the watcher gives every key, at the beginning or after a reset, and reads the namespace page by page. Each page
  comes with the log's last entry of the same moment. An entry from the hub that is older than a key's page is not given again.
- ``live``: the watcher passes on the hub's entries.

While a track is not live, nothing is taken from the mailbox, which is bounded; entries wait there in order. The exception is
the beginning of a watcher of all namespaces, which waits for the last namespace to be opened. Entries of the others that
arrive until then are read again, from the log or with the keys.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

from redis_store.changelog import ops as says
from redis_store.changelog.entry import Cursor, CursorFormat, LogEntry, Position, id_order, parse_entry
from redis_store.changelog.ops import LOG_PAGE
from redis_store.errors import DataStoreError
from redis_store.hub.mailbox import Delivery, HistoryGone, Item, Opened, Overflow
from redis_store.limits import MAX_VALUE_BYTES
from redis_store.namespace.keys import NamespaceKeys, UserKeys, decode_name
from redis_store.ops.listing import SNAPSHOT_KEYS, START
from redis_store.protocol.call import Op
from redis_store.types import Change, ChangeOp, ChangeSource
from redis_store.values.codec import Codec

Phase: TypeAlias = Literal["waiting", "catching up", "listing", "live"]
Order: TypeAlias = "tuple[int, int]"

ONE_PAGE_KEYS = 2 * SNAPSHOT_KEYS

CATCH_UP_BYTES = MAX_VALUE_BYTES
"""Limit on the total size of the values read together while catching up, in bytes. One entry with more leads to a reset."""


class Ready(NamedTuple):
    """A change that can be given. Its value is decoded and its cursor written only on request."""

    track: Track
    op: ChangeOp
    field: bytes | None
    text: bytes | None
    position: Position | None
    """The position after it, for its cursor; None for a cursor that leads to a reset."""
    source: ChangeSource
    agent: str | None = None
    run: str | None = None
    root: str | None = None
    missed: int | None = None


class Given(NamedTuple):
    """The next change for a watcher's caller, or the error of its value."""

    ready: Ready
    track: Track
    cursor: str
    change: Change | DataStoreError


class Track:
    """The state of one namespace in one watcher."""

    def __init__(self, user: UserKeys, keys: NamespaceKeys) -> None:
        self.keys = keys
        self.name = decode_name(keys.name)
        self.cursors = CursorFormat(user, keys.name)
        self.phase: Phase = "waiting"
        self.epoch = b""
        self.position = Position(b"0-0", 0)
        """The watcher's position, past entries that did not match its prefix too."""
        self.order: Order = (0, 0)
        self.until: Order = (0, 0)
        """While catching up: the entry after which the hub's deliveries continue."""
        self.page_cursor = START
        self.page_keys = 0
        self.listed_from: Position | None = None
        self.listed_to: Order = (0, 0)
        self.page_of: dict[bytes, Order] = {}
        """By key, the log's last entry when the key was read, until the watcher is past the listing."""
        self.held_back: Ready | None = None

    def cursor_of(self, position: Position | None) -> str:
        """Return the text of a cursor at a position, or of a reset for None."""
        return self.cursors.reset if position is None else self.cursors.write(self.epoch, position)

    def list_all(self) -> None:
        """Begin to give every key; later changes follow."""
        self.phase = "listing"
        self.page_cursor, self.page_keys = START, 0
        self.listed_from = None
        self.page_of = {}
        self.held_back = None

    def move(self, position: Position, order: Order) -> None:
        """Set the watcher's position."""
        self.position, self.order = position, order
        if self.page_of and order > self.listed_to:
            self.page_of = {}

    def is_listed(self, field: bytes, order: Order) -> bool:
        """Whether a key was read after an entry, so that the entry adds nothing for it."""
        return bool(self.page_of) and order <= self.page_of.get(field, (0, 0))


class Follower:
    """Turns a hub's items into changes, in order."""

    def __init__(
        self,
        user: UserKeys,
        codec: Codec,
        *,
        prefix: str = "",
        initial: bool = False,
    ) -> None:
        self._user = user
        self._codec = codec
        self._prefix = prefix
        self._prefix_raw = prefix.encode()
        self._initial = initial
        self.tracks: dict[bytes, Track] = {}
        self._busy: deque[Track] = deque()
        self._starts: Mapping[bytes, Cursor | None] | None = None
        self._ready: deque[Ready] = deque()
        self.gone: set[bytes] = set()
        """Empty namespaces without changes since their cursors."""

    def start_from(self, cursors: Mapping[bytes, Cursor | None] | None) -> None:
        """Resume from these cursors by namespace (None stands for a reset). Without cursors, begin at the hub's position."""
        self._starts = cursors

    def add(self, keys: NamespaceKeys) -> Track:
        """Follow a namespace."""
        track = self.tracks.get(keys.data)
        if track is None:
            track = self.tracks[keys.data] = Track(self._user, keys)
        return track

    @property
    def busy(self) -> bool:
        """Whether pages must be read before the next item is taken from the mailbox."""
        while self._busy and self._busy[0].phase == "live":
            self._busy.popleft()
        return bool(self._busy)

    def next_work(self) -> Op[None]:
        """Return the operation that reads the next page."""
        track = self._busy[0]
        return self._list_page(track) if track.phase == "listing" else self._catch_up(track)

    @property
    def has_ready(self) -> bool:
        """Whether there is a change to be given."""
        return bool(self._ready)

    def next_track(self) -> Track:
        """Return the track of the next change."""
        return self._ready[0].track

    def pop(self) -> Given:
        """Return the next change, or the error of its value."""
        ready = self._ready.popleft()
        track = ready.track
        key = None if ready.field is None else decode_name(ready.field)
        cursor = track.cursor_of(ready.position)
        value = ready.missed
        if ready.text is not None:
            try:
                value = self._codec.decode(ready.text, track.name, key or "")
            except DataStoreError as error:
                return Given(ready, track, cursor, error)
        change = Change(track.name, key, ready.op, value, cursor, ready.source, ready.agent, ready.run, ready.root)
        return Given(ready, track, cursor, change)

    def put_back(self, given: Given) -> None:
        """Return a popped change to the front of the queue."""
        self._ready.appendleft(given.ready)

    def accept(self, item: Item, missed: int | None = None) -> None:
        """Take an item from the hub."""
        if type(item) is Delivery:
            track = self.tracks.get(item.feed)
            if track is None:
                pass
            elif track.phase == "live":
                for entry in item.entries:
                    self._give(track, entry)
            elif track.phase == "catching up":
                self._catch_up_to(track, item)
        elif isinstance(item, Opened):
            self._open(item)
        elif isinstance(item, HistoryGone):
            track = self.tracks.get(item.feed)
            if track is not None:
                track.epoch = item.epoch
                self._reset(track, None)
        elif isinstance(item, Overflow):
            for track in self.tracks.values():
                if track.phase != "waiting":
                    self._reset(track, missed)

    def _open(self, opened: Opened) -> None:
        track = self.add(opened.keys)
        name = opened.keys.name
        track.epoch = opened.epoch
        track.move(opened.position, id_order(opened.position.id))
        self._busy.append(track)
        if self._starts is not None and name in self._starts:
            start = self._starts[name]
            if start is None or start.epoch != opened.epoch:
                self._reset(track, None)
            else:
                if opened.empty and start.position == opened.position:
                    self.gone.add(name)
                track.until = track.order
                track.move(start.position, id_order(start.position.id))
                track.phase = "catching up"
        elif self._initial or opened.fresh or self._starts is not None:
            # A watcher that resumes without a cursor for this namespace gets every key of it.
            track.list_all()
        else:
            track.phase = "live"

    def _catch_up_to(self, track: Track, delivery: Delivery) -> None:
        """Extend catching up to a delivery that came while a watcher of all namespaces waited for the last one to open."""
        self.gone.discard(track.keys.name)
        last = delivery.entries[-1]
        if last.local:
            self._reset(track, None)  # the log does not have it
        else:
            track.until = max(track.until, last.order)

    def _reset(self, track: Track, missed: int | None) -> None:
        self._ready.append(Ready(track, "reset", None, None, None, "snapshot", missed=missed))
        track.list_all()
        if track not in self._busy:
            self._busy.append(track)

    def _give(self, track: Track, entry: LogEntry) -> None:
        """Queue an entry's changes, except those given already and those of keys on pages read later."""
        order = entry.order
        taken = 0
        if not entry.local:
            here = track.order
            if order < here or (order == here and track.position.taken < 0):
                return
            if order == here:
                taken = track.position.taken
            track.move(Position(entry.id, entry.mark), order)
        source: ChangeSource = "found" if entry.found else "log"
        last = len(entry.news) - 1
        for at, news in enumerate(entry.news):
            if news is None or at < taken:
                continue
            op, field, text = news
            if field is None:
                # The namespace was cleared, so give keys written after this again, even if a page had them.
                track.page_of = {}
            elif not self._wants(field) or track.is_listed(field, order):
                continue
            position = Position(entry.id, entry.mark, -1 if at == last else at + 1)
            self._ready.append(Ready(track, op, field, text, position, source, entry.agent, entry.run, entry.root))

    def _wants(self, field: bytes) -> bool:
        return field.startswith(self._prefix_raw)

    async def _list_page(self, track: Track) -> None:
        if not track.page_keys:
            track.page_keys = await says.page_size(track.keys, ONE_PAGE_KEYS)
        page = await says.page(track.keys, track.page_cursor, track.page_keys, None, self._prefix)
        track.page_cursor = page.cursor
        last = parse_entry(page.entries[0]) if page.entries else None
        if track.listed_from is None:
            track.listed_from = Position(b"0-0", 0) if last is None else Position(last.id, last.mark)
        order = track.listed_to = (0, 0) if last is None else last.order
        whole = page.cursor == START and not track.page_of
        for field, text in page.texts.items():
            if not self._wants(field) or field in track.page_of:
                continue
            if not whole:
                track.page_of[field] = order
            if track.held_back is not None:
                self._ready.append(track.held_back)
            track.held_back = Ready(track, "set", field, text, None, "snapshot")
        if page.cursor == START:
            self._end_listing(track)

    def _end_listing(self, track: Track) -> None:
        """End the listing. The last key, or the reset if there is no key, gets the cursor that continues after the listing."""
        assert track.listed_from is not None
        track.phase = "live"
        track.move(track.listed_from, id_order(track.listed_from.id))
        last, track.held_back = track.held_back, None
        if last is not None:
            self._ready.append(last._replace(position=track.position))
        elif self._ready and self._ready[-1].track is track and self._ready[-1].op == "reset":
            self._ready.append(self._ready.pop()._replace(position=track.position))

    async def _catch_up(self, track: Track) -> None:
        raw = await says.log_between(track.keys, track.position.id, b"+", LOG_PAGE + 1)
        entries = [parse_entry(each) for each in raw]
        known = track.position
        if not entries or entries[0].id != known.id or entries[0].mark != known.mark:
            self._reset(track, None)
            return
        news = entries if known.taken >= 0 else entries[1:]
        wanted = [entry for entry in news if entry.order <= track.until]
        more = wanted
        while not await says.fill_in(track.keys, more, CATCH_UP_BYTES, self._prefix_raw):
            if len(more) == 1:
                self._reset(track, None)
                return
            more = more[: len(more) // 2]
        for entry in more:
            if entry.gap and entry.id != known.id:
                self._reset(track, None)
                return
            self._give(track, entry)
        if len(more) == len(wanted) and (len(wanted) < len(news) or len(raw) <= LOG_PAGE):
            track.phase = "live"
