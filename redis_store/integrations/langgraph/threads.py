"""The threads of LangGraph: a namespace of the user's for each, with its checkpoints.

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
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, TypeAlias

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
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

from redis_store import AsyncDataStore, Json, bytes_from_json, bytes_to_json, fit_name
from redis_store.namespace.keys import MAX_NAMESPACE_BYTES

VALUES_PER_TRANSACTION = 900
"""Maximum number of channel values that are written in the transaction of their checkpoint; more go before it."""

TUPLES_PER_PAGE = 50
"""Maximum number of checkpoints that `list` reads at once."""


class CheckpointPlace(NamedTuple):
    """The place of a checkpoint."""

    thread: str
    ns: str
    id: str


Places: TypeAlias = list[CheckpointPlace]
Tuples: TypeAlias = list[CheckpointTuple]

Rows: TypeAlias = dict[str, Any]
"""Checkpoints by their keys."""


class AncestorStep(NamedTuple):
    """A checkpoint's parent, and what it has for some channels."""

    parent: str | None
    writes: list[PendingWrite]
    values: Rows


class Threads:
    """The threads of a user: reading and writing their checkpoints."""

    def __init__(self, store: AsyncDataStore, prefix: str, serde: SerializerProtocol) -> None:
        self._store = store
        self._prefix = prefix
        self._serde = serde

    def thread(self, thread: str) -> AsyncDataStore:
        """Return the namespace of a thread."""
        return self._store.use_namespace(fit_name(self._prefix + thread, MAX_NAMESPACE_BYTES))

    def _is_cut(self, thread: str) -> bool:
        """Return whether the name of a thread's namespace does not say which thread it is."""
        return fit_name(self._prefix + thread, MAX_NAMESPACE_BYTES) != self._prefix + thread

    async def ids(self) -> Sequence[str]:
        """Return the ids of all threads."""
        ids = []
        for name in await self._store.list_namespaces(prefix=self._prefix):
            thread = name.removeprefix(self._prefix)
            if fit_name(name, MAX_NAMESPACE_BYTES) != name:  # it ends like a name that was made to fit
                written = await self._store.use_namespace(name).get(key_of("thread"))
                if not isinstance(written, str):
                    continue
                thread = json.loads(written)
            ids.append(thread)
        return ids

    def dump(self, value: Any) -> list[Json]:
        """Return any object as a value: the serializer's name for its kind, and base64 text."""
        kind, data = self._serde.dumps_typed(value)
        return [kind, bytes_to_json(data)]

    def load(self, row: Any) -> Any:
        """Return the object of such a value."""
        kind, data = row
        return self._serde.loads_typed((kind, bytes_from_json(data)))

    async def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint, its new values and the head by one transaction, and return its config."""
        configurable = config["configurable"]
        at = place_of(config, checkpoint["id"])
        thread = self.thread(at.thread)
        bare = {name: value for name, value in checkpoint.items() if name != "channel_values"}
        there = checkpoint["channel_values"]
        values: dict[str, Json] = {
            key_of("value", at.ns, channel, version): self.dump(there[channel]) if channel in there else None
            for channel, version in new_versions.items()
        }
        row: dict[str, Json] = {
            "checkpoint": self.dump(bare),
            "metadata": self.dump(get_checkpoint_metadata(config, metadata)),
            "parent": configurable.get("checkpoint_id"),
        }
        rows: dict[str, Json] = {key_of("checkpoint", at.ns, at.id): row}
        if self._is_cut(at.thread):
            rows[key_of("thread")] = json.dumps(at.thread)
        head = key_of("head", at.ns)

        async def write(transaction: Any) -> None:
            latest, version = await head_of(thread, head)
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
        return config_of(configurable["thread_id"], at)

    async def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> None:
        """Append the writes of a task to those of its checkpoint."""
        at = place_of(config, config["configurable"]["checkpoint_id"])
        rows: list[Json] = [
            [task_id, WRITES_IDX_MAP.get(channel, number), task_path, channel, *self.dump(value)]
            for number, (channel, value) in enumerate(writes)
        ]
        thread = self.thread(at.thread)
        if rows:
            await thread.append(key_of("writes", at.ns, at.id), *rows)

    async def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that the config names, else the latest one."""
        thread_id = config["configurable"]["thread_id"]
        wanted = get_checkpoint_id(config)
        at = place_of(config, wanted or "")
        thread = self.thread(at.thread)
        while True:
            if not wanted:
                at = at._replace(id=(await head_of(thread, key_of("head", at.ns)))[0])
                if not at.id:
                    return None
            found = await self._load_places([at])
            if found:
                result = found[0]
                return result._replace(config=config if wanted else config_of(thread_id, at))
            if wanted or (await head_of(thread, key_of("head", at.ns)))[0] == at.id:
                return None

    async def places(self, config: RunnableConfig | None, before: RunnableConfig | None) -> Places:
        """Return the places of the checkpoints that fit, the latest first."""
        configurable = config["configurable"] if config else {}
        ns, wanted = configurable.get("checkpoint_ns"), configurable.get("checkpoint_id")
        end = get_checkpoint_id(before) if before else None
        named = configurable.get("thread_id")
        found = []
        for thread in await self.ids() if named is None else [str(named)]:
            for key in await self.thread(thread).list_keys(prefix=beginning_of("checkpoint")):
                at = CheckpointPlace(thread, *parts_of(key))
                if ns in (None, at.ns) and wanted in (None, "", at.id) and (not end or at.id < end):
                    found.append(at)
        return sorted(found, key=lambda at: at.id, reverse=True)

    async def load_page(self, page: Places, wanted: dict[str, Any] | None) -> Tuples:
        """Return the checkpoints at these places whose metadata have these entries."""

        def fits(metadata: CheckpointMetadata) -> bool:
            return all(metadata.get(name) == value for name, value in (wanted or {}).items())

        return await self._load_places(page, fits)

    async def _load_places(
        self,
        places: Sequence[CheckpointPlace],
        fits: Callable[[CheckpointMetadata], bool] = lambda metadata: True,
    ) -> Tuples:
        """Return the checkpoints at these places whose metadata fit: two round trips for each thread."""
        of_thread: defaultdict[str, Places] = defaultdict(list)
        for at in places:
            of_thread[at.thread].append(at)
        loaded: dict[CheckpointPlace, CheckpointTuple] = {}
        for thread, ats in of_thread.items():
            handle = self.thread(thread)
            keys = [key_of(kind, at.ns, at.id) for at in ats for kind in ("checkpoint", "writes")]
            loaded |= await self._load_thread(handle, ats, await handle.get_many(keys), fits)
        return [loaded[at] for at in places if at in loaded]

    async def _load_thread(
        self,
        thread: AsyncDataStore,
        places: Sequence[CheckpointPlace],
        rows: dict[str, Json],
        fits: Callable[[CheckpointMetadata], bool],
    ) -> dict[CheckpointPlace, CheckpointTuple]:
        found: dict[CheckpointPlace, tuple[Checkpoint, CheckpointMetadata, str | None]] = {}
        keys: dict[CheckpointPlace, dict[str, str]] = {}
        for at in places:
            row: Any = rows.get(key_of("checkpoint", at.ns, at.id))
            if row is not None and fits(metadata := self.load(row["metadata"])):
                checkpoint = self.load(row["checkpoint"])
                found[at] = checkpoint, metadata, row["parent"]
                keys[at] = {key_of("value", at.ns, c, v): c for c, v in checkpoint["channel_versions"].items()}
        wanted = dict.fromkeys(key for each in keys.values() for key in each)
        values = await thread.get_many(wanted) if wanted else {}
        gone: Collection[str] = ()
        if len(values) < len(wanted):  # they were never stored, or a checkpoint has been deleted since it was read
            names = [key_of("checkpoint", at.ns, at.id) for at in found]
            gone = set(names) - set(await thread.get_many(names))
        return {
            at: CheckpointTuple(
                config=config_of(at.thread, at),
                checkpoint={
                    **checkpoint,
                    "channel_values": {c: self.load(row) for key, c in keys[at].items() if (row := values.get(key))},
                },
                metadata=metadata,
                parent_config=config_of(at.thread, at._replace(id=parent)) if parent else None,
                pending_writes=self._load_writes(rows.get(key_of("writes", at.ns, at.id))),
            )
            for at, (checkpoint, metadata, parent) in found.items()
            if key_of("checkpoint", at.ns, at.id) not in gone
        }

    async def delta_history(self, config: RunnableConfig, channels: Sequence[str]) -> dict[str, DeltaChannelHistory]:
        """Return each channel's writes since the nearest ancestor that has its value, the oldest first, and that value."""
        if not channels:
            return {}
        at = place_of(config, get_checkpoint_id(config) or "")
        thread = self.thread(at.thread)
        if not at.id:
            at = at._replace(id=(await head_of(thread, key_of("head", at.ns)))[0])
        ids = sorted(parts_of(key)[1] for key in await thread.list_keys(beginning_of("checkpoint", at.ns)))
        writes: dict[str, list[list[PendingWrite]]] = {channel: [] for channel in channels}  # the newest first
        seeds: dict[str, Any] = {}
        steps: dict[str, AncestorStep] = {}
        row: Any = await thread.get(key_of("checkpoint", at.ns, at.id))
        parent = row["parent"] if row else None
        passed = {at.id}  # data written by hand may have a circle
        while parent and parent not in passed and len(seeds) < len(writes):
            passed.add(parent)
            if parent not in steps:
                page = ids[: bisect_right(ids, parent)][-TUPLES_PER_PAGE:]
                steps = await self._steps(thread, at.ns, page, set(writes) - set(seeds))
                if parent not in steps:
                    break
            step = steps[parent]
            for channel in set(writes) - set(seeds):
                writes[channel].append([write for write in step.writes if write[1] == channel])
                if channel in step.values:
                    seeds[channel] = self.load(step.values[channel])
            parent = step.parent
        history: dict[str, DeltaChannelHistory] = {}
        for channel, tails in writes.items():
            history[channel] = {"writes": [write for tail in reversed(tails) for write in tail]}
            if channel in seeds:
                history[channel]["seed"] = seeds[channel]
        return history

    async def _steps(
        self, thread: AsyncDataStore, ns: str, ids: Sequence[str], channels: Collection[str]
    ) -> dict[str, AncestorStep]:
        """Return what these checkpoints have for the channels."""
        rows: Rows = await thread.get_many([key_of(kind, ns, id_) for id_ in ids for kind in ("checkpoint", "writes")])
        keys: dict[str, dict[str, str]] = {}
        for id_ in ids:
            if (row := rows.get(key_of("checkpoint", ns, id_))) is not None:
                versions = self.load(row["checkpoint"])["channel_versions"]
                keys[id_] = {c: key_of("value", ns, c, versions[c]) for c in channels if c in versions}
        values = await thread.get_many(dict.fromkeys(key for each in keys.values() for key in each.values()))
        return {
            id_: AncestorStep(
                rows[key_of("checkpoint", ns, id_)]["parent"],
                self._load_writes(rows.get(key_of("writes", ns, id_)), channels),
                {channel: values[key] for channel, key in each.items() if values.get(key)},
            )
            for id_, each in keys.items()
        }

    def _load_writes(self, rows: Any, channels: Collection[str] | None = None) -> list[PendingWrite]:
        """Return the writes in the order of their tasks: of a task's repeated ones the first, of special channels the last."""
        writes: dict[tuple[str, int], Any] = {}
        for row in rows or ():
            task, number, channel = row[0], row[1], row[3]
            if channels is not None and channel not in channels:
                continue
            if number < 0 or (task, number) not in writes:
                writes[task, number] = row
        ordered = sorted(writes.values(), key=lambda row: writes_sort_key(row[2], row[0], row[1]))
        return [(task, channel, self.load(row)) for task, _, _, channel, *row in ordered]

    async def copy(self, source: str, target: str) -> None:
        """Copy a thread. A head that the target has stays if it is later."""
        if source == target:
            return
        rows = await self.thread(source).get_all()
        if not rows:
            return
        thread = self.thread(target)
        rows.pop(key_of("thread"), None)
        if self._is_cut(target):
            rows[key_of("thread")] = json.dumps(target)
        heads = [key for key in rows if key.startswith(beginning_of("head"))]
        for key, latest in (await thread.get_many(heads)).items():
            rows[key] = max(str(rows[key]), str(latest))
        await thread.set_many(rows)


def key_of(*parts: Any) -> str:
    return json.dumps(parts, separators=(",", ":"))


def beginning_of(*parts: str) -> str:
    """Return what the keys with these first parts begin with."""
    return key_of(*parts)[:-1] + ","


def parts_of(key: str) -> list[Any]:
    """Return a key's parts after its kind."""
    return list(json.loads(key)[1:])


async def head_of(thread: AsyncDataStore, head: str) -> tuple[str, int | None]:
    """Return the id of the latest checkpoint, or an empty text, and the version of the head, or 0."""
    value, info = (await thread.get_many([head], info=True)).get(head, ("", None))
    return str(value), 0 if info is None else info.version


def place_of(config: RunnableConfig, id_: str) -> CheckpointPlace:
    configurable = config["configurable"]
    return CheckpointPlace(str(configurable["thread_id"]), configurable.get("checkpoint_ns") or "", id_)


def config_of(thread_id: Any, at: CheckpointPlace) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": at.ns, "checkpoint_id": at.id}}
