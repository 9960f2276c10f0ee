"""The log of operators' changes: a stream with one entry for each, and the oldest of too many dropped."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from redis_store.admin.records import AuditEntry
from redis_store.admin.usage import check_time, time_of
from redis_store.admin.walks import Walk
from redis_store.namespace.keys import AUDIT_LOG
from redis_store.protocol.call import Call, as_is, read

AUDIT_ENTRIES = 10_000
"""Entries of the log of operators' changes, at least; older ones are dropped."""

LONGEST_OPERATOR = 256
"""Maximum length of an operator's name in the log, in characters."""

ENTRIES_READ = 500
"""Entries of the log that one step reads."""


async def note(
    by: str,
    what: str,
    outcome: str = "done",
    *,
    user: str | None = None,
    namespace: str | None = None,
    key: str | None = None,
    count: int | None = None,
) -> None:
    """Add an entry. A change of several steps adds one with ``begun`` before the first, and another after the last."""
    facts = {"by": by[:LONGEST_OPERATOR], "what": what, "outcome": outcome, "user": user, "namespace": namespace}
    facts.update(key=key, count=None if count is None else str(count))
    flat = [part for name, fact in facts.items() if fact is not None for part in (name, _sendable(fact))]
    await Call((("XADD", AUDIT_LOG, "MAXLEN", "~", AUDIT_ENTRIES, "*", *flat),), as_is)


async def entries(since: datetime | None = None) -> Walk[AuditEntry]:
    """Yield the entries, the oldest first."""
    check_time(since, "since")
    begin = "-" if since is None else str(max(0, int(since.timestamp() * 1000)))
    while True:
        page = await read("XRANGE", AUDIT_LOG, begin, "+", "COUNT", ENTRIES_READ, bulk=True)
        yield [entry for each in page if (entry := _entry(*each)) is not None]
        if len(page) < ENTRIES_READ:
            return
        begin = f"({page[-1][0].decode()}"


def _entry(entry_id: bytes, flat: list[bytes]) -> AuditEntry | None:
    at = time_of(int(entry_id.partition(b"-")[0]))
    if at is None:
        return None
    texts = [text.decode(errors="backslashreplace") for text in flat]
    facts: dict[str, Any] = dict(zip(texts[::2], texts[1::2], strict=False))
    count = facts.get("count")
    return AuditEntry(
        at=at,
        by=facts.get("by", ""),
        what=facts.get("what", ""),
        outcome=facts.get("outcome", ""),
        user=facts.get("user"),
        namespace=facts.get("namespace"),
        key=facts.get("key"),
        count=int(count) if count is not None and count.isdecimal() and len(count) < 19 else None,
    )


def _sendable(text: str) -> bytes:
    return text.encode(errors="backslashreplace")
