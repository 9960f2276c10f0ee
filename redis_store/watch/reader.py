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

A signal handler may raise between any two instructions that follow a call or a jump backwards. No change is lost by that, because
each step works out its result first, and then *commits* it: a series of assignments that ends with the one call that adds the
changes, as a method of C. A step that was interrupted before is repeated. `accepted` tells an item that is committed, and
perhaps still in the mailbox.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TypeAlias

from redis_store.changelog import ops as says
from redis_store.changelog.entry import Cursor, CursorFormat, LogEntry, Position, id_order, parse_entry
from redis_store.changelog.ops import LOG_PAGE
from redis_store.errors import DataStoreError
from redis_store.hub.mailbox import Delivery, HistoryGone, Item, Mailbox, Opened, Overflow
from redis_store.limits import MAX_VALUE_BYTES
from redis_store.namespace.keys import NamespaceKeys, UserKeys, decode_name
from redis_store.ops.listing import SNAPSHOT_KEYS, START
from redis_store.protocol.call import Op
from redis_store.types import Change, ChangeOp, ChangeSource
from redis_store.values.codec import Codec

Phase: TypeAlias = Literal["waiting", "catching up", "listing", "live"]
Order: TypeAlias = "tuple[int, int]"

ONE_PAGE_KEYS = 2 * SNAPSHOT_KEYS

FORGET_AFTER = 1000
"""Number of given changes that the queue keeps before it is shortened."""

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
    """A change for a watcher's caller, or the error of its value."""

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
        self.page_left: list[bytes] = []
        self.listed_from: Position | None = None
        self.listed_to: Order = (0, 0)
        self.page_of: dict[bytes, Order] = {}
        """By key, the log's last entry when the key was read, until the watcher is past the listing."""
        self.held_back: Ready | None = None

    def cursor_of(self, position: Position | None) -> str:
        """Return the text of a cursor at a position, or of a reset for None."""
        return self.cursors.reset if position is None else self.cursors.write(self.epoch, position)


def _reset_of(track: Track, missed: int | None = None) -> Ready:
    return Ready(track, "reset", None, None, None, "snapshot", missed=missed)


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
        self.at = 0
        """Number of the changes in `_ready` that the caller has got."""
        self.accepted: Item | None = None
        """The item whose effects were committed last."""
        self._busy: deque[Track] = deque()
        """The tracks for which pages must be read, in order. One may be in it twice, or no longer need it."""
        self._starts: Mapping[bytes, Cursor | None] | None = None
        self._ready: list[Ready] = []
        self._listed: tuple[dict[bytes, Order], dict[bytes, Order]] | None = None
        """What the last commit leaves to `_settle`: a track's `page_of`, and the keys to add to it."""
        self.gone: set[bytes] = set()
        """Empty namespaces without changes since their cursors."""

    def start_from(self, cursors: Mapping[bytes, Cursor | None] | None) -> None:
        """Resume from these cursors by namespace (None stands for a reset). Without cursors, begin at the hub's position."""
        self._starts = cursors

    @property
    def busy(self) -> bool:
        """Whether pages must be read before the next item is taken from the mailbox."""
        while self._busy and self._busy[0].phase in ("waiting", "live"):
            self._busy.popleft()
        return bool(self._busy)

    def next_work(self) -> Op[None]:
        """Return the operation that reads the next page."""
        track = self._busy[0]
        return self._list_page(track) if track.phase == "listing" else self._catch_up(track)

    def has(self, at: int) -> bool:
        """Whether there is a change to be given at a place of the queue, counted as `at` is."""
        return at < len(self._ready)

    def track_at(self, at: int) -> Track:
        """Return the track of a change in the queue."""
        return self._ready[at].track

    def change_at(self, at: int) -> Given:
        """Return a change in the queue, or the error of its value."""
        ready = self._ready[at]
        track = ready.track
        key = None if ready.field is None else decode_name(ready.field)
        cursor = track.cursor_of(ready.position)
        value = ready.missed
        if ready.text is not None:
            try:
                value = self._codec.decode(ready.text, track.name, key or "")
            except DataStoreError as error:
                return Given(track, cursor, error)
        change = Change(track.name, key, ready.op, value, cursor, ready.source, ready.agent, ready.run, ready.root)
        return Given(track, cursor, change)

    def forget_given(self) -> None:
        """Remove the changes that the caller has got from the queue."""
        if self.at == len(self._ready) or self.at >= FORGET_AFTER:
            # No call comes between the two assignments.
            self._ready, self.at = self._ready[self.at :], 0

    def accept(self, item: Item, mailbox: Mailbox) -> None:
        """Take an item from the hub, unless it is `accepted` already."""
        self._settle()
        if item is self.accepted:
            return
        if type(item) is Delivery:
            track = self.tracks.get(item.feed)
            if track is None:
                pass
            elif track.phase == "live":
                self._give(track, item.entries, item, track.phase)
            elif track.phase == "catching up":
                self._catch_up_to(track, item)
        elif isinstance(item, Opened):
            self._open(item)
        elif isinstance(item, HistoryGone):
            track = self.tracks.get(item.feed)
            if track is not None:
                track.epoch = item.epoch
                self._reset(track, item)
        elif isinstance(item, Overflow):
            self._overflow(item, mailbox)

    def _settle(self) -> None:
        """Finish the last commit."""
        if self._listed is not None:
            page_of, listed = self._listed
            page_of.update(listed)
            self._listed = None

    def _open(self, opened: Opened) -> None:
        name = opened.keys.name
        track = self.tracks.get(opened.keys.data)
        if track is None:
            track = self.tracks[opened.keys.data] = Track(self._user, opened.keys)
        track.epoch = opened.epoch
        position, order, until = opened.position, id_order(opened.position.id), (0, 0)
        phase: Phase = "live"
        resets: list[Ready] = []
        if self._starts is not None and name in self._starts:
            start = self._starts[name]
            if start is None or start.epoch != opened.epoch:
                phase = "listing"
                resets.append(_reset_of(track))
            else:
                if opened.empty and start.position == position:
                    self.gone.add(name)
                phase, until = "catching up", order
                position, order = start.position, id_order(start.position.id)
        elif self._initial or opened.fresh or self._starts is not None:
            # A watcher that resumes without a cursor for this namespace gets every key of it.
            phase = "listing"
        self._busy.append(track)
        # The commit:
        track.page_cursor, track.page_keys, track.page_left = START, 0, []
        track.listed_from, track.page_of, track.held_back = None, {}, None
        track.position, track.order, track.until, track.phase = position, order, until, phase
        self.accepted = opened
        self._ready.extend(resets)

    def _catch_up_to(self, track: Track, delivery: Delivery) -> None:
        """Extend catching up to a delivery that came while a watcher of all namespaces waited for the last one to open."""
        self.gone.discard(track.keys.name)
        last = delivery.entries[-1]
        if last.local:
            self._reset(track, delivery)  # the log does not have it
        else:
            track.until = max(track.until, last.order)

    def _reset(self, track: Track, item: Item | None) -> None:
        """Queue a reset, and begin to give every key."""
        reset = _reset_of(track)
        self._busy.append(track)
        # The commit:
        track.page_cursor, track.page_keys, track.page_left = START, 0, []
        track.listed_from, track.page_of, track.held_back = None, {}, None
        track.phase = "listing"
        self.accepted = self.accepted if item is None else item
        self._ready.append(reset)

    def _overflow(self, item: Overflow, mailbox: Mailbox) -> None:
        """Reset every namespace, and accept deliveries again."""
        tracks = [track for track in self.tracks.values() if track.phase != "waiting"]
        resets = [_reset_of(track, mailbox.missed) for track in tracks]
        self._busy.extend(tracks)
        for track in tracks:
            track.page_cursor, track.page_keys, track.page_left = START, 0, []
            track.listed_from, track.page_of, track.held_back = None, {}, None
            track.phase = "listing"
        # The commit:
        self.accepted = item
        mailbox.missed = 0
        mailbox.full = False
        self._ready.extend(resets)

    def _give(self, track: Track, entries: Iterable[LogEntry], item: Item | None, phase: Phase) -> None:
        """Queue the changes of entries, except those given already and those of keys on pages read later."""
        position, here, page_of = track.position, track.order, track.page_of
        found: list[Ready] = []
        for entry in entries:
            order = entry.order
            taken = 0
            if not entry.local:
                if order < here or (order == here and position.taken < 0):
                    continue
                if order == here:
                    taken = position.taken
                position, here = Position(entry.id, entry.mark), order
                if page_of and order > track.listed_to:
                    page_of = {}
            source: ChangeSource = "found" if entry.found else "log"
            last = len(entry.news) - 1
            for at, news in enumerate(entry.news):
                if news is None or at < taken:
                    continue
                op, field, text = news
                if field is None:
                    # The namespace was cleared, so give keys written after this again, even if a page had them.
                    page_of = {}
                elif not self._wants(field) or (page_of and order <= page_of.get(field, (0, 0))):
                    continue  # not wanted, or read after the entry, which adds nothing then
                after = Position(entry.id, entry.mark, -1 if at == last else at + 1)
                found.append(Ready(track, op, field, text, after, source, entry.agent, entry.run, entry.root))
        # The commit:
        track.position, track.order, track.page_of, track.phase = position, here, page_of, phase
        self.accepted = self.accepted if item is None else item
        self._ready.extend(found)

    def _wants(self, field: bytes) -> bool:
        return field.startswith(self._prefix_raw)

    async def _list_page(self, track: Track) -> None:
        self._settle()
        if not track.page_keys:
            track.page_keys = await says.page_size(track.keys, ONE_PAGE_KEYS)
        page = await says.page(track.keys, track.page_cursor, track.page_keys, None, self._prefix, left=track.page_left)
        last = parse_entry(page.entries[0]) if page.entries else None
        listed_from = track.listed_from
        if listed_from is None:
            listed_from = Position(b"0-0", 0) if last is None else Position(last.id, last.mark)
        order = (0, 0) if last is None else last.order
        ends = page.cursor == START and not page.left
        whole = ends and track.listed_from is None
        found: list[Ready] = []
        listed: dict[bytes, Order] = {}
        held_back = track.held_back
        for field, text in page.texts.items():
            if not self._wants(field) or field in track.page_of:
                continue
            if not whole:
                listed[field] = order
            if held_back is not None:
                found.append(held_back)
            held_back = Ready(track, "set", field, text, None, "snapshot")
        position, here = track.position, track.order
        if ends:
            # The last key gets the cursor that continues after the listing.
            position, here = listed_from, id_order(listed_from.id)
            if held_back is not None:
                found.append(held_back._replace(position=position))
                held_back = None
        phase: Phase = "live" if ends else "listing"
        # The commit:
        track.page_cursor, track.page_left = page.cursor, page.left
        track.listed_from, track.listed_to, track.held_back = listed_from, order, held_back
        track.position, track.order, track.phase = position, here, phase
        self._listed = (track.page_of, listed)
        self._ready.extend(found)
        self._settle()

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
        gap = next((at for at, entry in enumerate(more) if entry.gap and entry.id != known.id), None)
        ends = gap is None and len(more) == len(wanted) and (len(wanted) < len(news) or len(raw) <= LOG_PAGE)
        self._give(track, more[:gap], None, "live" if ends else track.phase)
        if gap is not None:
            self._reset(track, None)
