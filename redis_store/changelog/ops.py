"""Requests that watching sends to the server, and the decoders of their replies. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from redis_store.changelog.digests import SKETCH_BYTES
from redis_store.changelog.entry import LogEntry, Position, parse_entry
from redis_store.errors import ServerFull
from redis_store.limits import MAX_VALUE_BYTES, LogBounds
from redis_store.namespace.keys import NamespaceKeys, UserKeys, glob_for_prefix
from redis_store.ops.listing import (
    PAGE_KEYS,
    PART_BYTES,
    SNAPSHOT_BYTES,
    SNAPSHOT_KEYS,
    START,
    names_page,
    page_size_of,
)
from redis_store.ops.run_script import run_script
from redis_store.protocol.call import Call, as_is, read, transaction
from redis_store.protocol.command import Command
from redis_store.scripts import ATTACH, NOTE, SIZES, SMALL
from redis_store.server_config import WISHED_FLAGS, missing_flags

FIELDS_PER_NOTE = 500
BYTES_PER_NOTE = 1024 * 1024
"""Size of the names of the fields that one script notes, in bytes; one name alone may be longer."""
FIELDS_PER_READ = 100
FIELDS_PER_SIZING = 1000
LOG_PAGE = 500
BLANK_LIFE_MS = 30_000
"""Time for which a blank log is kept without a watcher, in ms; watchers postpone its expiry."""
SEEN_HEAD_BYTES = 16 + 8 + 42


class Seen(NamedTuple):
    """The state that the last watcher saved: its position, and a sketch of the namespace there (`changelog/digests.py`)."""

    epoch: bytes
    position: Position
    sketch: bytes


class Attached(NamedTuple):
    """The state of a namespace's log, which `attach` created if it was missing."""

    epoch: bytes
    made: bool
    last: LogEntry
    seen: Seen | None
    blank: bool
    """Whether nothing was ever written while the log was there, and the namespace holds nothing."""


class Tail(NamedTuple):
    """The log from a known entry on, that one included, and the number of the namespace's fields at the same moment."""

    entries: list[Any]
    fields: int


class Page(NamedTuple):
    """A page of a namespace and its log at the same moment: from a known entry on, or the last entry alone."""

    entries: list[Any]
    cursor: str
    texts: dict[bytes, bytes]
    left: list[bytes]
    """Names of the page whose values were not read, because they are big: the next call reads them."""


def read_flags() -> Call[str]:
    return Call((("CONFIG", "GET", "notify-keyspace-events"),), _flags, True)


def add_flags(flags: str) -> Call[Any]:
    """Add the missing flags of `WISHED_FLAGS` to the current ones, `flags`, because ``CONFIG SET`` replaces them all."""
    return Call((("CONFIG", "SET", "notify-keyspace-events", flags + missing_flags(flags, WISHED_FLAGS)),), as_is)


def probe(key: bytes, token: int) -> Call[list[Any] | None]:
    """Cause the events of a hash on a Redis key used for nothing else, and publish a token after them."""
    return transaction([("HSET", key, "probe", 1), ("UNLINK", key), ("PUBLISH", key, token)])


async def attach(
    namespaces: Sequence[tuple[NamespaceKeys, LogBounds, bool]],
    epochs: Sequence[bytes],
    channel: bytes | None,
    token: int,
) -> list[Attached]:
    """Create missing logs of namespaces, return the state of all of them, and publish a token at the same moment.

    A blank log expires soon, unless the third item of a namespace says that it lasts: a consumer goes on from it.
    """
    commands: list[Command] = []
    for (keys, bounds, lasts), epoch in zip(namespaces, epochs, strict=True):
        # The first command sends the script's text, so that the server knows its digest in the later ones.
        say = ATTACH.by_digest if commands else ATTACH.by_text
        commands.append(say((keys.log, keys.seen, keys.data), (epoch, bounds.life_ms, "" if lasts else BLANK_LIFE_MS)))
    if channel is not None:
        commands.append(("PUBLISH", channel, token))
    replies = await _at_one_moment(commands)
    return [_attached(reply) for reply in replies[: len(namespaces)]]


async def tails(
    feeds: Iterable[tuple[NamespaceKeys, bytes]], channel: bytes | None, token: int
) -> tuple[int, list[Tail]]:
    """Read logs from known entries on, and publish a token after the reads. Return the server's clock in ms, and the tails."""
    commands: list[Command] = []
    for keys, entry_id in feeds:
        commands += (("XRANGE", keys.log, entry_id, "+"), ("HLEN", keys.data))
    commands.append(("TIME",))
    if channel is not None:
        commands.append(("PUBLISH", channel, token))
    replies = await _at_one_moment(commands)
    end = len(replies) - (1 if channel is None else 2)
    seconds, micros = replies[end]
    return (
        int(seconds) * 1000 + int(micros) // 1000,
        [Tail(replies[at], replies[at + 1]) for at in range(0, end, 2)],
    )


async def page(
    keys: NamespaceKeys,
    cursor: str,
    count: int,
    entry_id: bytes | None,
    prefix: str = "",
    left: Sequence[bytes] = (),
) -> Page:
    """Read a page of a namespace, and the log from an entry on, or only the last entry if none is given.

    `left` is what the last call left of its page, and is read first. Big values are read in steps of a few megabytes, or of one.
    """
    log: Command = (
        ("XREVRANGE", keys.log, "+", "-", "COUNT", 1) if entry_id is None else ("XRANGE", keys.log, entry_id, "+")
    )
    if count >= PAGE_KEYS and not left:
        scan: Command = ("HSCAN", keys.data, cursor, "COUNT", count)
        if prefix:
            scan = (*scan, "MATCH", glob_for_prefix(prefix))
        replies = await _at_one_moment([log, scan])
        raw, flat = replies[1]
        return Page(replies[0], raw.decode(), dict(zip(flat[::2], flat[1::2], strict=True)), [])
    names = list(left)
    if not names:
        following, listed = await names_page(keys.data, cursor, prefix, count)
        cursor, names = following or START, list(dict.fromkeys(listed))
    most = min(count, len(names))
    while True:
        part = names[:most]
        commands = [log, *_reading(keys, part)]
        replies = await _at_one_moment(commands)
        texts = [] if not part else replies[1] if most == 1 else replies[1][1]
        if texts is not None:
            found = {name: text for name, text in zip(part, texts, strict=True) if text is not None}
            return Page(replies[0], cursor, found, names[most:])
        most //= 2


def _reading(keys: NamespaceKeys, part: Sequence[bytes]) -> list[Command]:
    """Return the command that reads values, several only if they are small together."""
    if not part:
        return []
    if len(part) == 1:
        return [("HMGET", keys.data, *part)]
    return [SIZES.by_text((keys.data,), (PART_BYTES, "", *part))]


async def page_size(keys: NamespaceKeys, most: int = PAGE_KEYS) -> int:
    """Return the number of keys in a page of bounded size. If `most` allows more than a page, a small namespace is one page."""
    fields, memory_bytes, _ = await run_script(SMALL, (keys.data,), ("keys", 0, 0), repeatable=True)
    if fields <= SNAPSHOT_KEYS < most and memory_bytes <= SNAPSHOT_BYTES:
        return most
    return page_size_of(fields, memory_bytes)


def log_between(keys: NamespaceKeys, first: bytes, last: bytes, count: int | None = None) -> Call[list[Any]]:
    """Read entries, both ends included."""
    limit = () if count is None else ("COUNT", count)
    return Call((("XRANGE", keys.log, first, last, *limit),), as_is, True, True)


def texts_of(keys: NamespaceKeys, fields: Sequence[bytes]) -> Call[list[bytes | None]]:
    return Call((("HMGET", keys.data, *fields),), as_is, True, True)


async def fill_in(keys: NamespaceKeys, entries: Sequence[LogEntry], most_bytes: int, prefix: bytes = b"") -> bool:
    """Read the values that were too big for the log, of keys that begin with `prefix`.

    Changes whose values are gone are dropped, because the log will have their deletion too. Returns False, and reads nothing,
    if several values take more than `most_bytes` together.
    """
    wanted: dict[bytes, bytes | None] = {}
    for _, _, name in _unread(entries):
        if name.startswith(prefix):
            wanted[name] = None
    if not wanted:
        return True
    names = list(wanted)
    if not await _fit(keys, names, most_bytes):
        return False
    for start in range(0, len(names), FIELDS_PER_READ):
        part = names[start : start + FIELDS_PER_READ]
        wanted.update(zip(part, await texts_of(keys, part), strict=True))
    for entry, at, name in _unread(entries):
        text = wanted.get(name)
        entry.news[at] = None if text is None else ("set", name, text)
    return True


def _unread(entries: Sequence[LogEntry]) -> Iterator[tuple[LogEntry, int, bytes]]:
    """Yield the changes that set a key but lack the value: the entry, the index of the change, and the key."""
    for entry in entries:
        for at, news in enumerate(entry.news):
            if news is not None and news[0] == "set" and news[1] is not None and news[2] is None:
                yield entry, at, news[1]


async def _fit(keys: NamespaceKeys, names: Sequence[bytes], most_bytes: int) -> bool:
    """Whether values take at most this many bytes together. Asks the server only if values within their limit could be more."""
    if len(names) == 1 or len(names) * MAX_VALUE_BYTES <= most_bytes:
        return True
    size_bytes = 0
    for start in range(0, len(names), FIELDS_PER_SIZING):
        part = names[start : start + FIELDS_PER_SIZING]
        part_bytes, _, _ = await run_script(SIZES, (keys.data,), (0, "", *part), repeatable=True)
        size_bytes += part_bytes
    return size_bytes <= most_bytes


def infos_of(keys: NamespaceKeys, fields: Sequence[bytes]) -> Call[list[bytes | None]]:
    return Call((("HMGET", keys.info, *fields),), as_is, True, True)


def expiries_of(keys: NamespaceKeys, fields: Sequence[bytes]) -> Call[list[int] | None]:
    """Read when fields expire, in ms since 1970, negative for never. Servers before Redis 7.4 lack the command."""
    return read("HPEXPIRETIME", keys.data, "FIELDS", len(fields), *fields)


def parts_to_note(names: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Yield the names in parts that one script can note without keeping the server from others."""
    part: list[bytes] = []
    size_bytes = 0
    for name in names:
        size_bytes += len(name)
        if part and (len(part) == FIELDS_PER_NOTE or size_bytes > BYTES_PER_NOTE):
            yield part
            part, size_bytes = [], len(name)
        part.append(name)
    if part:
        yield part


async def note(keys: NamespaceKeys, bounds: LogBounds, expected: bytes, mode: str, fields: Sequence[bytes]) -> bool:
    """Append the current state of fields to the log. Return False if the log has an entry after the expected one."""
    head = (keys.name, bounds.entries, bounds.bytes_for_scripts, expected, mode)
    return bool(await run_script(NOTE, (keys.data, keys.registry, keys.log), (*head, *fields)))


def note_gap(keys: NamespaceKeys) -> Command:
    """Return the command that logs a gap: the changes before it are not all in the log."""
    return ("XADD", keys.log, "NOMKSTREAM", "*", "", '{"n":0,"gap":1}')


def save_seen(keys: NamespaceKeys, seen: Seen, life_ms: int) -> Command:
    """Return the command that saves a watcher's state for later watchers."""
    epoch, position, sketch = seen
    raw = b"%b%08x%-42b%b" % (epoch, position.mark, position.id, sketch)
    return ("SET", keys.seen, raw, "PX", life_ms)


def keep_blank(keys: NamespaceKeys) -> Command:
    """Return the command that keeps a blank log for its watchers, which does not shorten a longer life."""
    return ("PEXPIRE", keys.log, BLANK_LIFE_MS, "GT")


def registry_page(user: UserKeys, cursor: str) -> Call[tuple[str, list[bytes]]]:
    return Call((("SSCAN", user.registry, cursor, "COUNT", 1000),), lambda reply: (reply[0].decode(), reply[1]), True)


async def _at_one_moment(commands: list[Command]) -> list[Any]:
    """Read in a transaction. A full server (Redis 7.0) refuses that; then read singly, which may cause needless comparisons."""
    try:
        replies = await transaction(commands)
    except ServerFull:
        found = await Call(tuple(commands), as_is, True)
        replies = found if len(commands) > 1 else [found]
    assert replies is not None, "nothing is watched"
    return replies


def _flags(reply: Any) -> str:
    return reply[1].decode() if len(reply) > 1 else ""


def _attached(reply: Any) -> Attached:
    epoch, made, last, seen, blank = reply
    return Attached(epoch, bool(made), parse_entry(last), None if seen is None else _seen(seen), bool(blank))


def _seen(raw: bytes) -> Seen | None:
    if len(raw) != SEEN_HEAD_BYTES + SKETCH_BYTES:
        return None
    try:
        position = Position(raw[24:66].rstrip(), int(raw[16:24], 16))
    except ValueError:
        return None
    return Seen(raw[:16], position, raw[66:])
