"""LangGraph's checkpointer."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from redis_store import AsyncDataStore, DataStore
from redis_store.integrations.langgraph.pruning import delete_for_runs, prune
from redis_store.integrations.langgraph.threads import TUPLES_PER_PAGE, Places, Threads, Tuples
from redis_store.integrations.sides import Sides


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
        return self.run(lambda store: self._threads(store).get_tuple(config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that the config names, else the latest one; None if there is none."""
        return await self.arun(lambda store: self._threads(store).get_tuple(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Iterate over the checkpoints that fit, the latest first, of all threads if the config names none."""
        found = self.run(lambda store: self._threads(store).places(config, before))
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
        found = await self.arun(lambda store: self._threads(store).places(config, before))
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
        return self.run(lambda store: self._threads(store).put(config, checkpoint, metadata, new_versions))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint with the values of its new versions, atomically, and return its config."""
        return await self.arun(lambda store: self._threads(store).put(config, checkpoint, metadata, new_versions))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store the writes of a task, all or none, in one round trip."""
        self.run(lambda store: self._threads(store).put_writes(config, writes, task_id, task_path))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store the writes of a task, all or none, in one round trip."""
        await self.arun(lambda store: self._threads(store).put_writes(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        """Delete all of a thread."""
        self.run(lambda store: self._threads(store).thread(str(thread_id)).clear())

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete all of a thread."""
        await self.arun(lambda store: self._threads(store).thread(str(thread_id)).clear())

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of these runs in all threads, with their writes. Values that others share stay."""
        self.run(lambda store: delete_for_runs(self._threads(store), set(run_ids)))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of these runs in all threads, with their writes. Values that others share stay."""
        await self.arun(lambda store: delete_for_runs(self._threads(store), set(run_ids)))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all of a thread to another, atomically. What the target has besides stays."""
        self.run(lambda store: self._threads(store).copy(str(source_thread_id), str(target_thread_id)))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all of a thread to another, atomically. What the target has besides stays."""
        await self.arun(lambda store: self._threads(store).copy(str(source_thread_id), str(target_thread_id)))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete all checkpoints of these threads but the latest of each checkpoint namespace; with ``"delete"`` all.

        Ancestors that a kept checkpoint's delta channels are rebuilt from are kept too.
        """
        self.run(lambda store: prune(self._threads(store), thread_ids, strategy))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete all checkpoints of these threads but the latest of each checkpoint namespace; with ``"delete"`` all.

        Ancestors that a kept checkpoint's delta channels are rebuilt from are kept too.
        """
        await self.arun(lambda store: prune(self._threads(store), thread_ids, strategy))

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return what these channels are rebuilt from: two round trips for each 50 ancestors of the checkpoint."""
        return self.run(lambda store: self._threads(store).delta_history(config, channels))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return what these channels are rebuilt from: two round trips for each 50 ancestors of the checkpoint."""
        return await self.arun(lambda store: self._threads(store).delta_history(config, channels))

    def get_next_version(self, current: str | int | float | None, channel: None = None) -> str:
        """Return a version after `current` that no other branch of the thread has: a count and random digits."""
        count = 0 if current is None else int(str(current).split(".")[0])
        return f"{count + 1:032}.{secrets.token_hex(8)}"

    def _threads(self, store: AsyncDataStore) -> Threads:
        return Threads(store, self._prefix, self.serde)

    async def _load_page(self, store: AsyncDataStore, page: Places, wanted: dict[str, Any] | None) -> Tuples:
        return await self._threads(store).load_page(page, wanted)


def _pages(found: Places, most: int) -> Iterator[Places]:
    """Yield pages of `most` places, and no more than `TUPLES_PER_PAGE`; none if `most` is 0."""
    size = min(most, TUPLES_PER_PAGE)
    for start in range(0, len(found) if size > 0 else 0, max(size, 1)):
        yield found[start : start + size]
