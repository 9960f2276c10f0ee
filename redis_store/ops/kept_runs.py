"""Runs that are kept: a record of each, and an index of all of a user, under Redis keys that no namespace has.

So no agent reaches them: a broker takes names of namespaces, locks and the like, and no Redis keys. Each write keeps the bounds.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import quote

from redis_store.namespace.keys import MAX_AGENT_BYTES, UserKeys, encode_name
from redis_store.ops.run_record import (
    MAX_RECORD_BYTES,
    KeptRun,
    RunSummary,
    parse_record,
    parse_summary,
    record_text,
    summary_text,
)
from redis_store.ops.run_script import run_script
from redis_store.protocol.call import Call, all_replies, as_is, read
from redis_store.scripts import KEEP_RUN

RECORD_COST = 512
"""Bytes that a record counts beside its texts: its Redis key, and its entry in the index."""

DROPPED_AT_ONCE = 20
"""Records that one script drops, at most; the next one goes on."""

IDS_PER_LOOK = 100
"""Records in which one step looks for a nested run."""

_ENTRY = re.compile(rb"(\d{1,17}) (\d{1,14}) (\d{1,14}) (\S*) ")
"""The beginning of an entry of the index, see `scripts/keep_run.lua`."""


async def keep(user: UserKeys, run: KeptRun, most_runs: int, most_bytes: int, life_ms: int) -> None:
    """Keep the record of a run, and drop those over the bounds and those that have expired.

    A bound is exceeded by the records of one agent, or of several that have as many; the oldest of them goes.
    """
    record = record_text(run, min(MAX_RECORD_BYTES, most_bytes // 2))
    nested, summary = " ".join(run.nested).encode(), summary_text(run)
    size = len(record) + len(nested) + len(summary) + RECORD_COST
    bounds = (life_ms, most_runs, most_bytes, DROPPED_AT_ONCE)
    arguments = (run.run, quote(run.agent, safe=""), summary, size, record, nested, *bounds)
    while not await run_script(KEEP_RUN, (user.runs, user.run(run.run)), arguments):
        pass


async def list_runs(user: UserKeys) -> list[RunSummary]:
    """Return the runs that are kept, the one that began last first."""
    index, (seconds, _) = await Call((("HGETALL", user.runs), ("TIME",)), as_is, True, True)
    now = datetime.fromtimestamp(int(seconds), UTC)
    found = [
        one for raw in index[1::2] if (one := _listed(raw)) is not None and one.expires_at and one.expires_at > now
    ]
    return sorted(found, key=lambda one: (one.started, one.run), reverse=True)


async def get_run(user: UserKeys, run: str) -> KeptRun | None:
    """Return the record of a run, or of the run that it is nested in; None if there is none."""
    name = _checked(run)
    text = await read("HGET", user.run(name), "record", bulk=True)
    if text is None and (outer := await _run_around(user, name)) is not None:
        text, name = await read("HGET", user.run(outer), "record", bulk=True), outer
    return None if text is None else parse_record(text, name)


async def drop_run(user: UserKeys, run: str) -> bool:
    """Delete the record of a run. Return whether there was one."""
    name = _checked(run)
    dropped = await Call((("UNLINK", user.run(name)), ("HDEL", user.runs, name)), as_is)
    return any(dropped)


async def _run_around(user: UserKeys, run: str) -> str | None:
    """Return the run that a run is nested in, if its record is kept."""
    outer = [one.run for one in await list_runs(user) if one.nested]
    for start in range(0, len(outer), IDS_PER_LOOK):
        some = outer[start : start + IDS_PER_LOOK]
        replies = await all_replies(*(("HGET", user.run(each), "nested") for each in some))
        for each, nested in zip(some, replies, strict=True):
            if isinstance(nested, bytes) and run.encode() in nested.split():
                return each
    return None


def _listed(raw: bytes) -> RunSummary | None:
    """Return the summary in an entry of the index, or None for an entry by hand."""
    entry = _ENTRY.match(raw)
    summary = None if entry is None else parse_summary(raw[entry.end() :])
    if entry is None or summary is None:
        return None
    expires_at = datetime.fromtimestamp(int(entry[2]) / 1000, UTC)
    return replace(summary, bytes=int(entry[3]), expires_at=expires_at)


def _checked(run: str) -> str:
    encode_name(run, "run id", MAX_AGENT_BYTES)
    return run
