"""The check of a change log for completeness since the last watcher: finds the changes that it lacks. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson

from redis_store.changelog import ops as says
from redis_store.changelog.digests import digest_of
from redis_store.changelog.entry import LogEntry, id_order, parse_entry
from redis_store.changelog.ops import Seen
from redis_store.hub.watched_namespace import WatchedNamespace
from redis_store.ops.listing import START

TOO_BIG = 0
"""Stand-in for the digest of a value that was too big for the log."""

_PART = 500
_SAME_MS = 1000
"""Largest difference of a script's clock and the log's on a busy machine, in ms. After a wrong match the sketch disagrees."""


@dataclass(slots=True)
class Told:
    """The state of the keys that a log names, according to the log: their digests (None: gone), and when they expire."""

    digests: dict[bytes, int | None] = field(default_factory=dict)
    expires: dict[bytes, int] = field(default_factory=dict)
    first: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    """The operation of the first change of each key, and its time, in ms."""
    cleared: bool = False

    def add(self, entry: LogEntry) -> None:
        for news in entry.news:
            if news is None:
                continue
            op, name, text = news
            if name is None:
                self.cleared = True
                self.digests.clear()
                self.expires.clear()
                continue
            self.first.setdefault(name, (op, entry.order[0]))
            self.expires.pop(name, None)
            if op != "set":
                self.digests[name] = None
                continue
            self.digests[name] = TOO_BIG if text is None else digest_of(text)
            if entry.expires_ms is not None:
                self.expires[name] = entry.expires_ms


@dataclass(slots=True)
class Verdict:
    """The changes that the log lacks: the keys, with their last known digests (None: absent)."""

    expired: dict[bytes, int | None] = field(default_factory=dict)
    changed: dict[bytes, int | None] = field(default_factory=dict)


async def explain(feed: WatchedNamespace, seen: Seen, server_ms: int) -> Verdict | None:
    """Compare a learned namespace with the state that its last watcher saved. Return None if the changes cannot be determined."""
    raw = await says.log_between(feed.keys, seen.position.id, feed.position.id)
    if not raw:
        return None
    first, *later = (parse_entry(each) for each in raw)
    if first.id != seen.position.id or first.mark != seen.position.mark:
        return None
    told = Told()
    for entry in later:
        told.add(entry)
    verdict = _differences(feed, told, server_ms)
    if told.cleared:
        verdict.changed.update((name, None) for name in feed.digests if name not in told.digests)
        return verdict
    if feed.digests.before(seen.sketch, told.digests, {}) is not None:
        return verdict
    return await _explain_rest(feed, seen, told, verdict, server_ms)


async def _explain_rest(
    feed: WatchedNamespace, seen: Seen, told: Told, verdict: Verdict, server_ms: int
) -> Verdict | None:
    """Explain the sketch if the log names too many keys or lacks some: find keys and old digests that fit it."""
    earlier = await _told_before(feed, seen)
    known = await _known_before(feed, seen, told, earlier)
    lost = {
        name for name, at in earlier.expires.items() if at <= server_ms and name not in feed.digests.of
    } - told.digests.keys()
    touched = told.digests.keys() | lost
    rest = feed.digests.difference(seen.sketch, touched, known)
    fitting = {name for name in feed.digests if name not in touched and rest.may_hold(name)}
    fitting |= {name for name in await _left_infos(feed) if name not in touched and rest.may_hold(name)}
    before = feed.digests.before(seen.sketch, touched | fitting, known)
    if before is None:
        return None
    for name in lost:
        if before[name] is not None:
            verdict.expired[name] = before[name]
    for name in fitting:
        if before[name] != feed.digests.of.get(name):
            verdict.changed[name] = before[name]
    return verdict


def _differences(feed: WatchedNamespace, told: Told, server_ms: int) -> Verdict:
    """Compare the keys that the log names with their current state."""
    verdict = Verdict()
    for name, digest in told.digests.items():
        present = feed.digests.of.get(name)
        if present == digest or (digest == TOO_BIG and present is not None):
            continue
        gone = present is None and told.expires.get(name, server_ms + 1) <= server_ms
        (verdict.expired if gone else verdict.changed)[name] = digest
    return verdict


async def _left_infos(feed: WatchedNamespace) -> list[bytes]:
    """Return keys that have an info and no value: an external write deleted them."""
    left: list[bytes] = []
    cursor = START
    while True:
        page = await says.info_page(feed.keys, cursor)
        cursor = page.cursor
        left += [name for name in page.texts if name not in feed.digests]
        if cursor == START:
            return left


async def _told_before(feed: WatchedNamespace, seen: Seen) -> Told:
    earlier = Told()
    for raw in await says.log_between(feed.keys, b"-", seen.position.id):
        earlier.add(parse_entry(raw))
    return earlier


async def _known_before(feed: WatchedNamespace, seen: Seen, told: Told, earlier: Told) -> dict[bytes, int | None]:
    """Return the digests that touched keys had when the state was saved, where the log or their infos show them."""
    before: dict[bytes, int | None] = {}
    unknown = []
    for name in told.digests:
        digest = earlier.digests.get(name, TOO_BIG)
        if digest != TOO_BIG:
            before[name] = digest
        elif told.first[name][0] == "set" and name not in earlier.digests:
            unknown.append(name)
    seen_ms = id_order(seen.position.id)[0]
    for start in range(0, len(unknown), _PART):
        part = unknown[start : start + _PART]
        for name, info in zip(part, await says.infos_of(feed.keys, part), strict=True):
            # A key that was created at the time of its first entry did not exist before.
            created, told_ms = _created(info), told.first[name][1]
            if created is not None and abs(created - told_ms) <= _SAME_MS and created > seen_ms:
                before[name] = None
    return before


def _created(info: bytes | None) -> int | None:
    try:
        created = orjson.loads(info or b"{}")["created"]
    except (ValueError, TypeError, KeyError):
        return None
    return created if isinstance(created, int) else None
