"""LangGraph's checkpoints: a namespace of the user's for each thread.

Its keys are JSON lists, whose first element says what the value is:

- ``["head", ns]``: the id of the latest checkpoint of a checkpoint namespace;
- ``["checkpoint", ns, id]``: a checkpoint without its channels' values, its metadata, and the id of its parent;
- ``["value", ns, channel, version]``: the value of a channel, which all checkpoints with this version share;
- ``["writes", ns, id]``: a list of the pending writes of a checkpoint's tasks, to which each `put_writes` appends;
- ``["thread"]``: the thread's id, if the name of the namespace is not made of it alone.

A checkpoint, its new values and the head are written by one transaction. It checks the version of the head, and so does what
deletes checkpoints: neither misses the other.
"""

from __future__ import annotations

import json
import secrets
from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    PendingWrite,
    get_checkpoint_id,
    get_checkpoint_metadata,
    writes_sort_key,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from redis_store import AsyncDataStore, DataStore, InvalidInput, Json, bytes_from_json, bytes_to_json, fit_name
from redis_store.integrations.langgraph.sides import Sides

VALUES_PER_TRANSACTION = 900
"""Maximum number of channel values that are written in the transaction of their checkpoint; more go before it."""

DELETED_PER_TRANSACTION = 200
"""Maximum number of checkpoints, or of values, that one transaction deletes."""

TUPLES_PER_PAGE = 50
"""Maximum number of checkpoints that `list` reads at once."""


class At(NamedTuple):
    """The place of a checkpoint."""

    thread: str
    ns: str
    id: str


class Doomed(NamedTuple):
    """Keys that are deleted together, and the checkpoint namespace that they belong to."""

    ns: str
    keys: tuple[str, ...]


JsonList: TypeAlias = list[Json]
Places: TypeAlias = list[At]
Tuples: TypeAlias = list[CheckpointTuple]
PendingWrites: TypeAlias = list[PendingWrite]

Rows: TypeAlias = dict[str, Any]
"""Checkpoints by their keys."""

Choose: TypeAlias = Callable[[AsyncDataStore, Rows], Coroutine[Any, Any, set[str]]]
"""Given a thread and its checkpoints, returns the keys of those to delete."""


Tails: TypeAlias = list[PendingWrites]


class Step(NamedTuple):
    """A checkpoint's parent, and what it has for some channels."""

    parent: str | None
    writes: PendingWrites
    values: Rows


class LangGraphSaver(Sides, BaseCheckpointSaver[str]):
    """A LangGraph checkpointer in the user's namespaces ``<prefix>/threads/<thread_id>``, made with a store, or a url and `user`.

    A checkpoint is written whole or not at all.
    """

    def __init__(
        self,
        store: DataStore | AsyncDataStore | str | None = None,
        *,
        user: str | None = None,
        prefix: str = "langgraph",
        serde: SerializerProtocol | None = None,
    ) -> None:
        super().__init__(serde=serde)
        self._prefix = f"{prefix}/threads/"
        self.open_sides(store, user)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that the config names, else the latest one; None if there is none."""
        return self.run(lambda store: self._get_tuple(store, config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that the config names, else the latest one; None if there is none."""
        return await self.arun(lambda store: self._get_tuple(store, config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Iterate over the checkpoints that fit, the latest first, of all threads if the config names none."""
        found = self.run(lambda store: self._places(store, config, before))
        left = len(found) if limit is None else limit
        for page in _pages(found, TUPLES_PER_PAGE if filter and left > 0 else left):
            for each in self.run(partial(self._load_page, page=page, wanted=filter)):
                yield each
                left -= 1
                if left <= 0:
                    return

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Iterate over the checkpoints that fit, the latest first, of all threads if the config names none."""
        found = await self.arun(lambda store: self._places(store, config, before))
        left = len(found) if limit is None else limit
        for page in _pages(found, TUPLES_PER_PAGE if filter and left > 0 else left):
            for each in await self.arun(partial(self._load_page, page=page, wanted=filter)):
                yield each
                left -= 1
                if left <= 0:
                    return

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint with the values of its new versions, atomically, and return its config."""
        return self.run(lambda store: self._put(store, config, checkpoint, metadata, new_versions))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint with the values of its new versions, atomically, and return its config."""
        return await self.arun(lambda store: self._put(store, config, checkpoint, metadata, new_versions))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store the writes of a task, all or none, in one round trip."""
        self.run(lambda store: self._put_writes(store, config, writes, task_id, task_path))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store the writes of a task, all or none, in one round trip."""
        await self.arun(lambda store: self._put_writes(store, config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        """Delete all of a thread."""
        self.run(lambda store: self._thread(store, str(thread_id)).clear())

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete all of a thread."""
        await self.arun(lambda store: self._thread(store, str(thread_id)).clear())

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of these runs in all threads, with their writes. Values that others share stay."""
        self.run(lambda store: self._delete_for_runs(store, set(run_ids)))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of these runs in all threads, with their writes. Values that others share stay."""
        await self.arun(lambda store: self._delete_for_runs(store, set(run_ids)))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all of a thread to another, atomically. What the target has besides stays."""
        self.run(lambda store: self._copy_thread(store, str(source_thread_id), str(target_thread_id)))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all of a thread to another, atomically. What the target has besides stays."""
        await self.arun(lambda store: self._copy_thread(store, str(source_thread_id), str(target_thread_id)))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete all checkpoints of these threads but the latest of each checkpoint namespace; with ``"delete"`` all.

        Ancestors that a kept checkpoint's delta channels are rebuilt from are kept too.
        """
        self.run(lambda store: self._prune(store, thread_ids, strategy))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete all checkpoints of these threads but the latest of each checkpoint namespace; with ``"delete"`` all.

        Ancestors that a kept checkpoint's delta channels are rebuilt from are kept too.
        """
        await self.arun(lambda store: self._prune(store, thread_ids, strategy))

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return what these channels are rebuilt from: two round trips for each 50 ancestors of the checkpoint."""
        return self.run(lambda store: self._delta_history(store, config, channels))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return what these channels are rebuilt from: two round trips for each 50 ancestors of the checkpoint."""
        return await self.arun(lambda store: self._delta_history(store, config, channels))

    def get_next_version(self, current: str | int | float | None, channel: None = None) -> str:
        """Return a version after `current` that no other branch of the thread has: a count and random digits."""
        count = 0 if current is None else int(str(current).split(".")[0])
        return f"{count + 1:032}.{secrets.token_hex(8)}"

    def _thread(self, store: AsyncDataStore, thread: str) -> AsyncDataStore:
        return store.use_namespace(fit_name(self._prefix + thread, 1024))

    def _is_cut(self, thread: str) -> bool:
        """Return whether the name of a thread's namespace does not say which thread it is."""
        return fit_name(self._prefix + thread, 1024) != self._prefix + thread

    async def _threads(self, store: AsyncDataStore) -> Sequence[str]:
        """Return the ids of all threads."""
        threads = []
        for name in await store.list_namespaces(prefix=self._prefix):
            thread = name.removeprefix(self._prefix)
            if fit_name(name, 1024) != name:  # it ends like a name that was made to fit
                written = await store.use_namespace(name).get(_key("thread"))
                if not isinstance(written, str):
                    continue
                thread = json.loads(written)
            threads.append(thread)
        return threads

    def _dump(self, value: Any) -> JsonList:
        kind, data = self.serde.dumps_typed(value)
        return [kind, bytes_to_json(data)]

    def _load(self, row: Any) -> Any:
        kind, data = row
        return self.serde.loads_typed((kind, bytes_from_json(data)))

    async def _put(
        self,
        store: AsyncDataStore,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        configurable = config["configurable"]
        at = _place(config, checkpoint["id"])
        thread = self._thread(store, at.thread)
        bare = {name: value for name, value in checkpoint.items() if name != "channel_values"}
        there = checkpoint["channel_values"]
        values: dict[str, Json] = {
            _key("value", at.ns, channel, version): self._dump(there[channel]) if channel in there else None
            for channel, version in new_versions.items()
        }
        row: dict[str, Json] = {
            "checkpoint": self._dump(bare),
            "metadata": self._dump(get_checkpoint_metadata(config, metadata)),
            "parent": configurable.get("checkpoint_id"),
        }
        rows: dict[str, Json] = {_key("checkpoint", at.ns, at.id): row}
        if self._is_cut(at.thread):
            rows[_key("thread")] = json.dumps(at.thread)
        head = _key("head", at.ns)

        async def write(transaction: Any) -> None:
            latest, version = await _head(thread, head)
            if len(values) > VALUES_PER_TRANSACTION:
                await thread.set_many(values)  # no checkpoint names them yet
            else:
                rows.update(values)
            if version is not None:
                transaction.check(head, version)
            for key, each in rows.items():
                transaction.set(key, each)
            transaction.set(head, max(latest, at.id))  # also where it stays: its version says that there was a write

        await thread.transact(write)
        return _config(configurable["thread_id"], at)

    async def _put_writes(
        self,
        store: AsyncDataStore,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> None:
        at = _place(config, config["configurable"]["checkpoint_id"])
        rows: JsonList = [
            [task_id, WRITES_IDX_MAP.get(channel, number), task_path, channel, *self._dump(value)]
            for number, (channel, value) in enumerate(writes)
        ]
        thread = self._thread(store, at.thread)
        if rows:
            await thread.append(_key("writes", at.ns, at.id), *rows)

    async def _get_tuple(self, store: AsyncDataStore, config: RunnableConfig) -> CheckpointTuple | None:
        thread_id = config["configurable"]["thread_id"]
        wanted = get_checkpoint_id(config)
        at = _place(config, wanted or "")
        thread = self._thread(store, at.thread)
        while True:
            if not wanted:
                at = at._replace(id=(await _head(thread, _key("head", at.ns)))[0])
                if not at.id:
                    return None
            found = await self._load_places(store, [at])
            if found:
                result = found[0]
                return result._replace(config=config if wanted else _config(thread_id, at))
            if wanted or (await _head(thread, _key("head", at.ns)))[0] == at.id:
                return None

    async def _places(
        self, store: AsyncDataStore, config: RunnableConfig | None, before: RunnableConfig | None
    ) -> Places:
        """Return the places of the checkpoints that fit, the latest first."""
        configurable = config["configurable"] if config else {}
        ns, wanted = configurable.get("checkpoint_ns"), configurable.get("checkpoint_id")
        end = get_checkpoint_id(before) if before else None
        named = configurable.get("thread_id")
        found = []
        for thread in await self._threads(store) if named is None else [str(named)]:
            for key in await self._thread(store, thread).list_keys(prefix=_beginning("checkpoint")):
                at = At(thread, *_parts(key))
                if ns in (None, at.ns) and wanted in (None, "", at.id) and (not end or at.id < end):
                    found.append(at)
        return sorted(found, key=lambda at: at.id, reverse=True)

    async def _load_page(self, store: AsyncDataStore, page: Places, wanted: dict[str, Any] | None) -> Tuples:
        def fits(metadata: CheckpointMetadata) -> bool:
            return all(metadata.get(name) == value for name, value in (wanted or {}).items())

        return await self._load_places(store, page, fits)

    async def _load_places(
        self,
        store: AsyncDataStore,
        places: Sequence[At],
        fits: Callable[[CheckpointMetadata], bool] = lambda metadata: True,
    ) -> Tuples:
        """Return the checkpoints at these places whose metadata fit: two round trips for each thread."""
        of_thread: defaultdict[str, Places] = defaultdict(list)
        for at in places:
            of_thread[at.thread].append(at)
        loaded: dict[At, CheckpointTuple] = {}
        for thread, ats in of_thread.items():
            handle = self._thread(store, thread)
            keys = [_key(kind, at.ns, at.id) for at in ats for kind in ("checkpoint", "writes")]
            loaded |= await self._load_thread(handle, ats, await handle.get_many(keys), fits)
        return [loaded[at] for at in places if at in loaded]

    async def _load_thread(
        self,
        thread: AsyncDataStore,
        places: Sequence[At],
        rows: dict[str, Json],
        fits: Callable[[CheckpointMetadata], bool],
    ) -> dict[At, CheckpointTuple]:
        found: dict[At, tuple[Checkpoint, CheckpointMetadata, str | None]] = {}
        keys: dict[At, dict[str, str]] = {}
        for at in places:
            row: Any = rows.get(_key("checkpoint", at.ns, at.id))
            if row is not None and fits(metadata := self._load(row["metadata"])):
                checkpoint = self._load(row["checkpoint"])
                found[at] = checkpoint, metadata, row["parent"]
                keys[at] = {_key("value", at.ns, c, v): c for c, v in checkpoint["channel_versions"].items()}
        wanted = dict.fromkeys(key for each in keys.values() for key in each)
        values = await thread.get_many(wanted) if wanted else {}
        gone: Collection[str] = ()
        if len(values) < len(wanted):  # they were never stored, or a checkpoint has been deleted since it was read
            names = [_key("checkpoint", at.ns, at.id) for at in found]
            gone = set(names) - set(await thread.get_many(names))
        return {
            at: CheckpointTuple(
                config=_config(at.thread, at),
                checkpoint={
                    **checkpoint,
                    "channel_values": {c: self._load(row) for key, c in keys[at].items() if (row := values.get(key))},
                },
                metadata=metadata,
                parent_config=_config(at.thread, at._replace(id=parent)) if parent else None,
                pending_writes=self._load_writes(rows.get(_key("writes", at.ns, at.id))),
            )
            for at, (checkpoint, metadata, parent) in found.items()
            if _key("checkpoint", at.ns, at.id) not in gone
        }

    async def _delta_history(
        self, store: AsyncDataStore, config: RunnableConfig, channels: Sequence[str]
    ) -> dict[str, DeltaChannelHistory]:
        if not channels:
            return {}
        at = _place(config, get_checkpoint_id(config) or "")
        thread = self._thread(store, at.thread)
        if not at.id:
            at = at._replace(id=(await _head(thread, _key("head", at.ns)))[0])
        ids = sorted(_parts(key)[1] for key in await thread.list_keys(_beginning("checkpoint", at.ns)))
        writes: dict[str, Tails] = {channel: [] for channel in channels}  # the newest first
        seeds: dict[str, Any] = {}
        steps: dict[str, Step] = {}
        row: Any = await thread.get(_key("checkpoint", at.ns, at.id))
        parent = row["parent"] if row else None
        while parent and len(seeds) < len(writes):
            if parent not in steps:
                page = ids[: bisect_right(ids, parent)][-TUPLES_PER_PAGE:]
                steps = await self._steps(thread, at.ns, page, set(writes) - set(seeds))
                if parent not in steps:
                    break
            step = steps[parent]
            for channel in set(writes) - set(seeds):
                writes[channel].append([write for write in step.writes if write[1] == channel])
                if channel in step.values:
                    seeds[channel] = self._load(step.values[channel])
            parent = step.parent
        history: dict[str, DeltaChannelHistory] = {}
        for channel, tails in writes.items():
            history[channel] = {"writes": [write for tail in reversed(tails) for write in tail]}
            if channel in seeds:
                history[channel]["seed"] = seeds[channel]
        return history

    async def _steps(
        self, thread: AsyncDataStore, ns: str, ids: Sequence[str], channels: Collection[str]
    ) -> dict[str, Step]:
        """Return what these checkpoints have for the channels."""
        rows: Rows = await thread.get_many([_key(kind, ns, id_) for id_ in ids for kind in ("checkpoint", "writes")])
        keys: dict[str, dict[str, str]] = {}
        for id_ in ids:
            if (row := rows.get(_key("checkpoint", ns, id_))) is not None:
                versions = self._load(row["checkpoint"])["channel_versions"]
                keys[id_] = {c: _key("value", ns, c, versions[c]) for c in channels if c in versions}
        values = await thread.get_many(dict.fromkeys(key for each in keys.values() for key in each.values()))
        return {
            id_: Step(
                rows[_key("checkpoint", ns, id_)]["parent"],
                self._load_writes(rows.get(_key("writes", ns, id_)), channels),
                {channel: values[key] for channel, key in each.items() if values.get(key)},
            )
            for id_, each in keys.items()
        }

    def _load_writes(self, rows: Any, channels: Collection[str] | None = None) -> PendingWrites:
        """Return the writes in the order of their tasks: of a task's repeated ones the first, of special channels the last."""
        writes: dict[tuple[str, int], Any] = {}
        for row in rows or ():
            task, number, channel = row[0], row[1], row[3]
            if channels is not None and channel not in channels:
                continue
            if number < 0 or (task, number) not in writes:
                writes[task, number] = row
        ordered = sorted(writes.values(), key=lambda row: writes_sort_key(row[2], row[0], row[1]))
        return [(task, channel, self._load(row)) for task, _, _, channel, *row in ordered]

    async def _copy_thread(self, store: AsyncDataStore, source: str, target: str) -> None:
        if source == target:
            return
        rows = await self._thread(store, source).get_all()
        if not rows:
            return
        thread = self._thread(store, target)
        rows.pop(_key("thread"), None)
        if self._is_cut(target):
            rows[_key("thread")] = json.dumps(target)
        heads = [key for key in rows if key.startswith(_beginning("head"))]
        for key, latest in (await thread.get_many(heads)).items():
            rows[key] = max(str(rows[key]), str(latest))
        await thread.set_many(rows)

    async def _delete_for_runs(self, store: AsyncDataStore, runs: Collection[str]) -> None:
        async def choose(thread: AsyncDataStore, rows: Rows) -> set[str]:
            return {key for key, row in rows.items() if self._load(row["metadata"]).get("run_id") in runs}

        if not runs:
            return
        for thread in await self._threads(store):
            await self._delete_chosen(self._thread(store, thread), choose)

    async def _prune(self, store: AsyncDataStore, threads: Iterable[str], strategy: str) -> None:
        if strategy not in ("keep_latest", "delete"):
            raise InvalidInput(f'strategy is "keep_latest" or "delete", not {strategy!r}.')
        for name in threads:
            thread = self._thread(store, str(name))
            if strategy == "delete":
                await thread.clear()
            else:
                await self._delete_chosen(thread, self._superseded)

    async def _superseded(self, thread: AsyncDataStore, rows: Rows) -> set[str]:
        """Return the keys of the checkpoints that are not the latest, nor needed to rebuild a delta channel of one that is."""
        kept = set()
        for ns, latest in _latest(rows).items():
            key = _key("checkpoint", ns, latest)
            waiting = set(self._load(rows[key]["metadata"]).get("counters_since_delta_snapshot") or ())
            while key in rows and key not in kept:
                kept.add(key)
                versions = self._load(rows[key]["checkpoint"])["channel_versions"]
                stored = {_key("value", ns, channel, versions[channel]): channel for channel in waiting & set(versions)}
                if stored:
                    waiting -= {stored[each] for each, row in (await thread.get_many(stored)).items() if row}
                if not waiting or not rows[key]["parent"]:
                    break
                key = _key("checkpoint", ns, rows[key]["parent"])
        return set(rows) - kept

    async def _delete_chosen(self, thread: AsyncDataStore, choose: Choose) -> None:
        """Delete the chosen checkpoints, their writes, and the values that no other checkpoint of their namespace has."""

        async def delete(transaction: Any) -> bool:
            return await self._delete_some(thread, choose, transaction)

        while await thread.transact(delete):
            pass

    async def _delete_some(self, thread: AsyncDataStore, choose: Choose, transaction: Any) -> bool:
        """Delete what one transaction takes, and return whether there is more. It fails if a checkpoint is written meanwhile."""
        heads = await thread.get_all(_beginning("head"), info=True)
        rows: Rows = await thread.get_all(_beginning("checkpoint"))
        chosen = await choose(thread, rows)
        live = {
            _key("value", ns, channel, version)
            for key, row in rows.items()
            if key not in chosen
            for ns in [_parts(key)[0]]
            for channel, version in self._load(row["checkpoint"])["channel_versions"].items()
        }
        known = {_parts(key)[0] for key in heads}
        doomed = [Doomed(ns, (key, _key("writes", ns, id_))) for key in sorted(chosen) for ns, id_ in [_parts(key)]]
        for key in await thread.list_keys(_beginning("value")):
            if key not in live and (ns := _parts(key)[0]) in known:
                doomed.append(Doomed(ns, (key,)))
        now = doomed[:DELETED_PER_TRANSACTION]
        latest = _latest(set(rows) - chosen)
        for ns in {each.ns for each in now}:
            head = _key("head", ns)
            if head in heads and heads[head][1].version is not None:
                transaction.check(head, heads[head][1].version)
            if ns in latest:
                transaction.set(head, latest[ns])
            else:
                transaction.delete(head)
        for key in (key for each in now for key in each.keys):
            transaction.delete(key)
        return len(now) < len(doomed)


def _key(*parts: Any) -> str:
    return json.dumps(parts, separators=(",", ":"))


def _beginning(*parts: str) -> str:
    """Return what the keys with these first parts begin with."""
    return _key(*parts)[:-1] + ","


def _parts(key: str) -> list[Any]:
    """Return a key's parts after its kind."""
    return list(json.loads(key)[1:])


def _latest(keys: Iterable[str]) -> dict[str, str]:
    """Return the id of the latest of these checkpoints in each checkpoint namespace."""
    latest: dict[str, str] = {}
    for key in keys:
        ns, id_ = _parts(key)
        latest[ns] = max(latest.get(ns, ""), id_)
    return latest


async def _head(thread: AsyncDataStore, head: str) -> tuple[str, int | None]:
    """Return the id of the latest checkpoint, or an empty text, and the version of the head, or 0."""
    value, info = (await thread.get_many([head], info=True)).get(head, ("", None))
    return str(value), 0 if info is None else info.version


def _place(config: RunnableConfig, id_: str) -> At:
    configurable = config["configurable"]
    return At(str(configurable["thread_id"]), configurable.get("checkpoint_ns") or "", id_)


def _config(thread_id: Any, at: At) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": at.ns, "checkpoint_id": at.id}}


def _pages(found: Places, most: int) -> Iterator[Places]:
    """Yield pages of `most` places, and no more than `TUPLES_PER_PAGE`; none if `most` is 0."""
    size = min(most, TUPLES_PER_PAGE)
    for start in range(0, len(found) if size > 0 else 0, max(size, 1)):
        yield found[start : start + size]
