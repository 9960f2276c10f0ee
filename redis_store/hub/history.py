"""The check of a change log for completeness since the last watcher. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from redis_store.changelog import ops as says
from redis_store.changelog.digests import digest_of
from redis_store.changelog.entry import id_order, parse_entry
from redis_store.changelog.ops import Seen
from redis_store.hub.watched_namespace import WatchedNamespace
from redis_store.ops.key_info import created_ms

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

    def add(self, raw_entries: Iterable[Any]) -> Told:
        for entry in map(parse_entry, raw_entries):
            for op, name, text in filter(None, entry.news):
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
        return self


async def expired_since(feed: WatchedNamespace, seen: Seen, server_ms: int) -> list[bytes] | None:
    """Return the keys of a learned namespace that expired since its last watcher saved its state, without a log entry.

    Returns None if anything else differs from the log, or if too much was written to tell.
    """
    raw = await says.log_between(feed.keys, seen.position.id, feed.position.id)
    if not raw:
        return None
    first = parse_entry(raw[0])
    if first.id != seen.position.id or first.mark != seen.position.mark:
        return None
    told, now = Told().add(raw[1:]), feed.digests
    expired = []
    for name, digest in told.digests.items():
        present = now.of.get(name)
        if present is None and told.expires.get(name, server_ms + 1) <= server_ms:
            expired.append(name)
        elif present != digest and (digest != TOO_BIG or present is None):
            return None
    if told.cleared:
        return None if now.of.keys() - told.digests.keys() else expired
    if now.only_touched(seen.sketch, told.digests, {}):
        return expired
    earlier = Told().add(await says.log_between(feed.keys, b"-", seen.position.id))
    lost = {name for name, at in earlier.expires.items() if at <= server_ms and name not in now} - told.digests.keys()
    known = await _known_before(feed, seen, told, earlier)
    return [*expired, *lost] if now.only_touched(seen.sketch, told.digests.keys() | lost, known) else None


async def _known_before(feed: WatchedNamespace, seen: Seen, told: Told, earlier: Told) -> dict[bytes, int | None]:
    """Return the digests that keys had when the state was saved, where the log or their infos show them."""
    before = {name: digest for name, digest in earlier.digests.items() if digest != TOO_BIG and name in told.digests}
    unknown = [name for name in told.digests if told.first[name][0] == "set" and name not in earlier.digests]
    seen_ms = id_order(seen.position.id)[0]
    for start in range(0, len(unknown), _PART):
        part = unknown[start : start + _PART]
        for name, info in zip(part, await says.infos_of(feed.keys, part), strict=True):
            # A key that was created at the time of its first entry did not exist before.
            written_ms, told_ms = created_ms(info), told.first[name][1]
            if written_ms is not None and abs(written_ms - told_ms) <= _SAME_MS and written_ms > seen_ms:
                before[name] = None
    return before
