"""Deleting checkpoints of a thread, with the values that only they have, while others may write to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any, NamedTuple, TypeAlias

from redis_store import AsyncDataStore, InvalidInput
from redis_store.integrations.langgraph.threads import Rows, Threads, beginning_of, key_of, parts_of

DELETED_PER_TRANSACTION = 200
"""Maximum number of checkpoints, or of values, that one transaction deletes."""


class Doomed(NamedTuple):
    """Keys that are deleted together, and the checkpoint namespace that they belong to."""

    ns: str
    keys: tuple[str, ...]


Choose: TypeAlias = Callable[[Threads, AsyncDataStore, Rows], Coroutine[Any, Any, set[str]]]
"""Given all threads, one of them and its checkpoints, returns the keys of those to delete."""


async def delete_for_runs(threads: Threads, runs: Collection[str]) -> None:
    """Delete the checkpoints of these runs in all threads."""

    async def choose(threads: Threads, thread: AsyncDataStore, rows: Rows) -> set[str]:
        return {key for key, row in rows.items() if threads.load(row["metadata"]).get("run_id") in runs}

    if not runs:
        return
    for thread in await threads.ids():
        await _delete_chosen(threads, threads.thread(thread), choose)


async def prune(threads: Threads, ids: Iterable[str], strategy: str) -> None:
    """Delete all checkpoints of these threads, or all that are superseded."""
    if strategy not in ("keep_latest", "delete"):
        raise InvalidInput(f'strategy is "keep_latest" or "delete", not {strategy!r}.')
    for name in ids:
        thread = threads.thread(str(name))
        if strategy == "delete":
            await thread.clear()
        else:
            await _delete_chosen(threads, thread, superseded)


async def superseded(threads: Threads, thread: AsyncDataStore, rows: Rows) -> set[str]:
    """Return the keys of the checkpoints that are not the latest, nor needed to rebuild a delta channel of one that is."""
    kept = set()
    for ns, latest in _latest(rows).items():
        key = key_of("checkpoint", ns, latest)
        waiting = set(threads.load(rows[key]["metadata"]).get("counters_since_delta_snapshot") or ())
        while key in rows and key not in kept:
            kept.add(key)
            versions = threads.load(rows[key]["checkpoint"])["channel_versions"]
            stored = {key_of("value", ns, channel, versions[channel]): channel for channel in waiting & set(versions)}
            if stored:
                waiting -= {stored[each] for each, row in (await thread.get_many(stored)).items() if row}
            if not waiting or not rows[key]["parent"]:
                break
            key = key_of("checkpoint", ns, rows[key]["parent"])
    return set(rows) - kept


async def _delete_chosen(threads: Threads, thread: AsyncDataStore, choose: Choose) -> None:
    """Delete the chosen checkpoints, their writes, and the values that no other checkpoint of their namespace has."""

    async def delete(transaction: Any) -> bool:
        return await _delete_some(threads, thread, choose, transaction)

    while await thread.transact(delete):
        pass


async def _delete_some(threads: Threads, thread: AsyncDataStore, choose: Choose, transaction: Any) -> bool:
    """Delete what one transaction takes, and return whether there is more. It fails if a checkpoint is written meanwhile."""
    heads = await thread.get_all(beginning_of("head"), info=True)
    rows: Rows = await thread.get_all(beginning_of("checkpoint"))
    chosen = await choose(threads, thread, rows)
    live = {
        key_of("value", ns, channel, version)
        for key, row in rows.items()
        if key not in chosen
        for ns in [parts_of(key)[0]]
        for channel, version in threads.load(row["checkpoint"])["channel_versions"].items()
    }
    known = {parts_of(key)[0] for key in heads}
    doomed = [Doomed(ns, (key, key_of("writes", ns, id_))) for key in sorted(chosen) for ns, id_ in [parts_of(key)]]
    for key in await thread.list_keys(beginning_of("value")):
        if key not in live and (ns := parts_of(key)[0]) in known:
            doomed.append(Doomed(ns, (key,)))
    now = doomed[:DELETED_PER_TRANSACTION]
    latest = _latest(set(rows) - chosen)
    for ns in {each.ns for each in now}:
        head = key_of("head", ns)
        if head in heads and heads[head][1].version is not None:
            transaction.check(head, heads[head][1].version)
        if ns in latest:
            transaction.set(head, latest[ns])
        else:
            transaction.delete(head)
    for key in (key for each in now for key in each.keys):
        transaction.delete(key)
    return len(now) < len(doomed)


def _latest(keys: Iterable[str]) -> dict[str, str]:
    """Return the id of the latest of these checkpoints in each checkpoint namespace."""
    latest: dict[str, str] = {}
    for key in keys:
        ns, id_ = parts_of(key)
        latest[ns] = max(latest.get(ns, ""), id_)
    return latest
