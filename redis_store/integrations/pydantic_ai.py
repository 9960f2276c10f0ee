"""For Pydantic AI: a `ConversationStore` whose conversations are values of one user."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any, cast
from uuid import uuid4

from pydantic import TypeAdapter
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    ConversationStore,
)
from pydantic_ai.messages import ModelMessagesTypeAdapter

from redis_store import AsyncDataStore, AsyncTransaction, fit_name
from redis_store.integrations.stores import async_store
from redis_store.types import Json, KeyInfo

CONVERSATIONS_NAMESPACE = "conversations"
"""Default namespace of the records; messages are in it with ``:entries`` behind, and the index of messages with ``:lines``."""

LINE_ENTRIES = 256
"""Number of depths of a conversation whose entries are in one value of the index."""

DELETED_AT_ONCE = 500
"""Maximum number of entries that the transaction deletes with their conversation; more follow it, as many at a time."""

_AS_RECORD: TypeAdapter[ConversationRecord] = TypeAdapter(ConversationRecord)


class RedisConversationStore(ConversationStore):
    """Conversations of one user, for `UIAdapter` and for ``load`` and ``save`` around runs. An asynchronous context manager.

    Takes an `AsyncDataStore`, or a url as `connect_async` does, and a user; `close` closes only a store of a url. `save`,
    `branch` and `fork` write in one transaction: all or nothing. One `save` takes at most 900 new messages, more raise
    `LimitExceeded`. `delete` also deletes the messages that no other conversation has.

    A history is read in three round trips. `list_conversations` reads all records of the namespace.
    """

    def __init__(
        self,
        store: AsyncDataStore | str | None = None,
        *,
        user: str | None = None,
        namespace: str = CONVERSATIONS_NAMESPACE,
    ) -> None:
        self._store, self._owned = async_store(store, user)
        self._records = self._store.use_namespace(namespace)
        self._entries = self._store.use_namespace(f"{namespace}:entries")
        self._lines = self._store.use_namespace(f"{namespace}:lines")

    async def close(self) -> None:
        """Close the store, if it was made from a url."""
        if self._owned:
            await self._store.close()

    async def __aenter__(self) -> RedisConversationStore:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def read_record(self, conversation_id: str) -> ConversationRecord | None:
        """Return the record of a conversation, or None."""
        found = await self._records.get(fit_name(conversation_id))
        return None if found is None else _record_of(found)

    async def read_records(self, *, scope: str | None = None, limit: int | None = None) -> Sequence[ConversationRecord]:
        """Return the records with a scope, the newest first."""
        every = [_record_of(found) for found in (await self._records.get_all()).values()]
        records = [record for record in every if scope is None or record.scope == scope]
        records.sort(key=lambda record: record.updated_at, reverse=True)
        return records[:limit]

    async def read_entry(self, entry_id: str) -> ConversationEntry:
        """Return an entry, or raise KeyError."""
        return (await self._entries_of([entry_id]))[0]

    async def read_history(self, head_id: str | None, *, limit: int | None = None) -> list[ConversationEntry]:
        """Return the entries up to one, or the last of them: the entry, the index and the rest are a round trip each."""
        if head_id is None or limit == 0:
            return []
        head = cast("dict[str, Any] | None", await self._entries.get(fit_name(head_id)))
        if head is None:
            raise KeyError(head_id)
        first = 0 if limit is None else max(0, head["depth"] - limit + 1)
        parents = await self._parents(head["family"], first, head["depth"])
        ids: list[str] = []
        at: str | None = head_id
        while at is not None and len(ids) <= head["depth"] - first:
            ids.append(at)
            at = parents[at]
        return await self._entries_of(reversed(ids))

    async def write_record(
        self,
        record: ConversationRecord,
        *,
        new_entries: Sequence[ConversationEntry] = (),
        expected_revision: str | None,
    ) -> None:
        """Store a record and its new entries in one transaction."""

        async def write(transaction: AsyncTransaction) -> None:
            records, entries, lines = self._views(transaction)
            before = new_entries[0].parent_id if new_entries else record.head_id
            (stored, _), parent = await asyncio.gather(
                _read(self._records, records, fit_name(record.conversation_id)),
                _none() if before is None else _read(self._entries, entries, fit_name(before)),
            )
            if (None if stored is None else stored["record"]["revision"]) != expected_revision:
                raise ConversationConflict(record.conversation_id)
            if before is not None and parent[0] is None:
                raise ConversationConflict(record.conversation_id)
            family = stored["family"] if stored else parent[0]["family"] if parent[0] else uuid4().hex
            depth = parent[0]["depth"] + 1 if parent[0] else 0
            chunks: dict[str, list[list[str | None]]] = {}
            for at, entry in enumerate(new_entries, depth):
                chunks.setdefault(_line(family, at), []).append([entry.id, entry.parent_id])
                value = {
                    "family": family,
                    "depth": at,
                    "parent": entry.parent_id,
                    "message": _message_json(entry.message),
                }
                entries.set(fit_name(entry.id), value)
            (members, _), *there = await _read_many(self._lines, lines, [family, *chunks])
            tips = [tip for tip in (record.head_id, *record.branches) if tip is not None]
            lines.set(family, {**(members or {}), record.conversation_id: tips})
            for (name, pairs), (old, _) in zip(chunks.items(), there, strict=True):
                lines.set(name, cast(Json, [*(old or []), *pairs]))
            records.set(fit_name(record.conversation_id), {"family": family, "record": _record_json(record)})

        await self._store.transact(write)

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        """Delete a record, and the entries that no other conversation reaches."""

        async def delete(transaction: AsyncTransaction) -> list[str]:
            records, entries, lines = self._views(transaction)
            stored, _ = await _read(self._records, records, fit_name(conversation_id))
            if stored is None or stored["record"]["revision"] != expected_revision:
                raise ConversationConflict(conversation_id)
            family = stored["family"]
            members = dict((await _read(self._lines, lines, family))[0] or {})
            members.pop(conversation_id, None)
            chunks = await self._lines.get_all(f"{family}:")
            parents = {entry: parent for pairs in chunks.values() for entry, parent in cast(Any, pairs)}
            reached: set[str] = set()
            for tips in members.values():
                for tip in tips:
                    at: str | None = tip
                    while at is not None and at not in reached:
                        reached.add(at)
                        at = parents[at]
            unused = [fit_name(entry) for entry in parents if entry not in reached]
            records.delete(fit_name(conversation_id))
            if members:
                lines.set(family, members)
            else:
                lines.delete(family)
            for name, pairs in chunks.items():
                kept = [pair for pair in cast(Any, pairs) if pair[0] in reached]
                if not kept:
                    lines.delete(name)
                elif kept != pairs:
                    lines.set(name, kept)
            for entry in unused[:DELETED_AT_ONCE]:
                entries.delete(entry)
            return unused[DELETED_AT_ONCE:]

        rest = await self._store.transact(delete)
        for start in range(0, len(rest), DELETED_AT_ONCE):
            await self._entries.delete_many(rest[start : start + DELETED_AT_ONCE])

    def _views(self, transaction: AsyncTransaction) -> tuple[AsyncTransaction, AsyncTransaction, AsyncTransaction]:
        records, entries, lines = (each.namespace for each in (self._records, self._entries, self._lines))
        return (
            transaction.use_namespace(records),
            transaction.use_namespace(entries),
            transaction.use_namespace(lines),
        )

    async def _parents(self, family: str, first: int, last: int) -> dict[str, str | None]:
        """Return the parents of the entries of a family at some depths, on all branches."""
        names = [_line(family, depth) for depth in range(first - first % LINE_ENTRIES, last + 1, LINE_ENTRIES)]
        chunks = await self._lines.get_many(names)
        return {entry: parent for pairs in chunks.values() for entry, parent in cast(Any, pairs)}

    async def _entries_of(self, ids: Iterable[str]) -> list[ConversationEntry]:
        wanted = list(ids)
        found: dict[str, Any] = await self._entries.get_many([fit_name(each) for each in wanted])
        values = [found[fit_name(each)] for each in wanted]  # KeyError: it was deleted meanwhile
        messages = ModelMessagesTypeAdapter.validate_json(json.dumps([value["message"] for value in values]))
        return [
            ConversationEntry(id=each, parent_id=value["parent"], message=message)
            for each, value, message in zip(wanted, values, messages, strict=True)
        ]


async def _none() -> tuple[Any, int]:
    return None, 0


async def _read(store: AsyncDataStore, view: AsyncTransaction, key: str) -> tuple[Any, int]:
    return (await _read_many(store, view, [key]))[0]


async def _read_many(store: AsyncDataStore, view: AsyncTransaction, keys: list[str]) -> list[tuple[Any, int]]:
    """Return values and versions, and let the transaction fail if they change."""
    found: dict[str, tuple[Json, KeyInfo]] = await store.get_many(keys, info=True)
    read = [(found[key][0], found[key][1].version or 0) if key in found else (None, 0) for key in keys]
    for key, (_, version) in zip(keys, read, strict=True):
        view.check(key, version)
    return read


def _line(family: str, depth: int) -> str:
    return f"{family}:{depth // LINE_ENTRIES:08d}"


def _record_json(record: ConversationRecord) -> Json:
    return cast(Json, json.loads(_AS_RECORD.dump_json(record)))


def _record_of(value: Any) -> ConversationRecord:
    return _AS_RECORD.validate_json(json.dumps(value["record"]))


def _message_json(message: Any) -> Json:
    return cast(Json, json.loads(ModelMessagesTypeAdapter.dump_json([message]))[0])
