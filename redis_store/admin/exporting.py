"""Reading everything of namespaces, each as it was at one moment, as the lines of an export.

A small namespace is read by one script. A bigger one is read in pages, while its change log tells which keys others write
meanwhile; these are read again, until a step finds that nothing was written since the one before. Then all that was read is
what the namespace held at that moment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import count as count_from
from itertools import islice
from typing import Any, NamedTuple

from redis_store.admin.lines import FIRST_LINE, ends_of, key_part, last_line, start_of
from redis_store.admin.spool import Spool
from redis_store.admin.usage import infos_per_scan
from redis_store.admin.walks import Walk
from redis_store.changelog.entry import LogEntry, parse_entry
from redis_store.changelog.ops import page, page_size
from redis_store.errors import Conflict
from redis_store.limits import MAX_BOUND
from redis_store.namespace.keys import NamespaceKeys, UserKeys, decode_name
from redis_store.ops.listing import PAGE_KEYS, PART_BYTES, START
from redis_store.ops.run_script import read_together, run_each, run_script
from redis_store.protocol.call import all_replies
from redis_store.protocol.command import Command
from redis_store.scripts import DUMP, FOLLOW, INFOS, SIZES

NAMESPACES_PER_STEP = 8
SMALL_KEYS = 100
SMALL_BYTES = 64 * 1024
"""Limits of a namespace that one script reads, in keys and in bytes of memory; it takes the server a quarter of a millisecond."""

FOLLOWED_MS = 60_000
"""Time for which a log that was made for an export outlives it, in ms."""

CHANGED_PER_STEP = 500

MOST_CHANGED = 10_000
"""Keys that wait to be read again, at most, while the other pages are read."""

MOST_STEPS_BEHIND = 10_000

CHUNK_BYTES = 128 * 1024

TRIES = 3
"""Tries to read a namespace whose change log is cut off or deleted meanwhile."""

INFOS_SAMPLED = 1000
"""Infos of a namespace whose memory is measured; that of the others is estimated from theirs."""

PAGES_PER_RENEWAL = 50
"""Pages after which the log that is followed gets its life renewed."""


class Place(NamedTuple):
    """A namespace of a user."""

    user: UserKeys
    name: bytes

    @property
    def keys(self) -> NamespaceKeys:
        """Its Redis keys."""
        return self.user.of_stored(self.name)


class Digest:
    """Counts the lines of an export, and returns what it consists of."""

    def __init__(self) -> None:
        self.keys = 0
        self._digest = hashlib.sha256(FIRST_LINE)

    def add(self, lines: Sequence[bytes]) -> bytes:
        """Return the text of lines."""
        text = b"".join(lines)
        self.keys += len(lines)
        self._digest.update(text)
        return text

    @property
    def sha256(self) -> str:
        """The digest of what was added."""
        return self._digest.hexdigest()

    def end(self) -> bytes:
        """Return the last line."""
        return last_line(self.keys, self.sha256)


async def lines_of(places: Iterable[Place], new_epoch: str) -> Walk[bytes]:
    """Yield the lines of namespaces, sorted by key within each."""
    left = iter(places)
    while some := list(islice(left, NAMESPACES_PER_STEP)):
        keys = [place.keys for place in some]
        wholes = await run_each(DUMP, [((each.data, each.info), (SMALL_KEYS, SMALL_BYTES)) for each in keys])
        for place, whole in zip(some, wholes, strict=True):
            start = start_of(place.user.user, place.name)
            if whole is not None:
                flat, infos, expiries = whole
                ends = ends_of(place.user, flat[::2], flat[1::2], infos, expiries)
                pairs = zip(map(key_part, flat[::2]), ends, strict=True)
                yield [b"%b%b%b" % (start, name, end) for name, end in sorted(pairs) if end]
                continue
            async for lines in _lines_of_big(place, start, new_epoch):
                yield lines


async def _lines_of_big(place: Place, start: bytes, new_epoch: str) -> Walk[bytes]:
    for tries_left in reversed(range(TRIES)):
        spool = Spool()
        try:
            async for _ in _read_big(place, spool, new_epoch):
                yield []
            for lines in _chunks(b"%b%b%b" % (start, *pair) for pair in spool.sorted()):
                yield lines
            return
        except _LogLost:
            if not tries_left:
                raise Conflict(
                    f"The change log of namespace {decode_name(place.name)!r} is shorter than what is written to it while a page"
                    " is read: export it when it is quieter, or raise log_entries and log_bytes of its writers."
                ) from None
        finally:
            spool.close()


def _chunks(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for line in lines:
        chunk.append(line)
        size += len(line)
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class _LogLost(Exception):
    """The change log does not reach back to the last entry that was read."""


class _Followed:
    """What the log of a namespace told since its reading began."""

    def __init__(self, position: bytes, spool: Spool) -> None:
        self.position = position
        """The last entry that was seen."""
        self.changed: dict[bytes, None] = {}
        self._spool = spool

    @property
    def is_long(self) -> bool:
        """Whether so many keys wait to be read again that it should be done now."""
        return len(self.changed) > MOST_CHANGED

    def see(self, raw_entries: Sequence[Any]) -> None:
        """Note the changes of entries that were read from the last known one on."""
        if not raw_entries or raw_entries[0][0] != self.position:
            raise _LogLost
        for entry in map(parse_entry, raw_entries[1:]):
            self._note(entry)
        self.position = raw_entries[-1][0]

    def _note(self, entry: LogEntry) -> None:
        for news in entry.news:
            if news is None:
                continue
            op, field, _ = news
            if op == "clear" or field is None:
                self._spool.clear()
                self.changed.clear()
            else:
                self.changed[field] = None


async def _read_big(place: Place, spool: Spool, new_epoch: str) -> Walk[None]:
    """Read a namespace into a spool; yield nothing after each step."""
    keys = place.keys
    count = await _page_keys(keys)
    followed = _Followed(await run_script(FOLLOW, (keys.log,), (new_epoch, FOLLOWED_MS)), spool)
    cursor, left = START, list[bytes]()
    for pages_read in count_from(1):
        if pages_read % PAGES_PER_RENEWAL == 0:
            await run_script(FOLLOW, (keys.log,), (new_epoch, FOLLOWED_MS))
        found = await page(keys, cursor, count, followed.position, left=left)
        followed.see(found.entries)
        cursor, left = found.cursor, found.left
        if found.texts:
            fields = list(found.texts)
            _, infos, expiries, *_ = await run_script(INFOS, (keys.data, keys.info), ("", *fields), True, True)
            spool.add(map(key_part, fields), ends_of(place.user, fields, list(found.texts.values()), infos, expiries))
        while followed.is_long:
            await _read_again(place, list(islice(followed.changed, min(CHANGED_PER_STEP, count))), followed, spool)
            yield []
        yield []
        if cursor == START and not left:
            break
    for _ in range(MOST_STEPS_BEHIND):
        part = list(islice(followed.changed, min(CHANGED_PER_STEP, max(1, count))))
        if await _read_again(place, part, followed, spool):
            return
        yield []
    raise Conflict(
        f"Namespace {decode_name(place.name)!r} is written to faster than it can be read: export it when it is quieter."
    )


async def _page_keys(keys: NamespaceKeys) -> int:
    """Return how many keys one step reads, by the size of their values and of their infos."""
    count = await page_size(keys)
    if count < PAGE_KEYS:  # then a script copies the values, which takes the server 2 ms for 1 MiB
        count = max(1, count // 2)
    infos, memory_bytes = await all_replies(
        ("HLEN", keys.info), ("MEMORY", "USAGE", keys.info, "SAMPLES", INFOS_SAMPLED)
    )
    return min(count, infos_per_scan(infos if isinstance(infos, int) else 0, memory_bytes))


async def _read_again(place: Place, part: Sequence[bytes], followed: _Followed, spool: Spool) -> bool:
    """Read keys that changed, and the log, at one moment. Return whether everything in the spool is of that moment."""
    keys = place.keys
    log: Command = ("XRANGE", keys.log, followed.position, "+")
    both = (keys.data, keys.info)
    most = len(part)
    while True:
        some = part[:most]
        if not some:
            replies = await read_together([log])
            break
        sizes = SIZES.by_text((keys.data,), (PART_BYTES if most > 1 else MAX_BOUND, "", *some))
        replies = await read_together([log, sizes, INFOS.by_text(both, ("", *some))])
        if replies[1][1] is not None:
            break
        most //= 2
    for field in some:
        del followed.changed[field]
    followed.see(replies[0])
    if some:
        _, infos, expiries, *_ = replies[2]
        spool.add(map(key_part, some), ends_of(place.user, some, replies[1][1], infos, expiries))
    return not followed.changed
