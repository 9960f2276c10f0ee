"""The session store of the Claude Agent SDK: transcripts that any host can resume.

A project is a namespace, ``<prefix>/<project_key>``, with a record for each session: its summary, and of each of its transcripts
(the main one and those of subagents) an id and the number of batches. A transcript is a namespace of its own,
``<prefix>/<project_key>/<session_id>/<id>``, with a key for each appended batch. A second one has the uuids of its entries.

The record decides what exists, and each append and delete is one transaction that depends on its version. So they have happened
or not, whenever a process dies: what a record does not name is never read, and an id is never used again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from random import random
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast
from urllib.parse import quote

from claude_agent_sdk import fold_session_summary

from redis_store import AsyncDataStore, Conflict, InvalidName, InvalidType, KeyInfo, StoredDataError, fit_name
from redis_store.integrations.stores import async_store
from redis_store.namespace.keys import MAX_NAMESPACE_BYTES

if TYPE_CHECKING:
    from claude_agent_sdk.types import (
        SessionKey,
        SessionListSubkeysKey,
        SessionStoreEntry,
        SessionStoreListEntry,
        SessionSummaryEntry,
    )

_MOST_UUIDS = 900
"""Maximum number of uuids that an append stores; a transaction has 1,000 parts. A repeat of a larger append only takes room."""
_COMMIT_TRIES = 200
"""Maximum number of tries of an append or a delete, while others write to the session; as many as those of `update`."""
_PAUSE_S = 0.05
"""Maximum pause between two tries, in seconds."""
_MAIN = ""
"""The name of the main transcript in a record: a subpath is never empty."""


class TranscriptStore:
    """A `SessionStore` of the Claude Agent SDK: ``ClaudeAgentOptions(session_store=TranscriptStore(store))``.

    `store` is an `AsyncDataStore`, which stays open when this is closed, or a url, or None as for `connect_async`: then `user` is
    needed. The sessions are those of the user. Different projects, sessions and subpaths never share data, whatever is in their
    names. An append is stored as a whole or not at all, with the session's summary. Any number of processes may append to a
    session: those of one process stay in order.

    An entry whose ``uuid`` the transcript has already is left out. Times are by the server's clock, of the last append to the
    main transcript or one of a subagent.
    """

    def __init__(
        self, store: AsyncDataStore | str | None = None, *, user: str | None = None, prefix: str = "claude"
    ) -> None:
        if not isinstance(prefix, str) or not prefix or "/" in prefix:
            raise InvalidName(
                f"prefix {prefix!r} must be a name without '/', so that no two projects share a namespace.",
                kind="prefix",
            )
        self._store, self._own = async_store(store, user)
        self._prefix = prefix

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Add entries to a transcript, all or none. Takes three round trips; the first append takes two."""
        if not entries:
            return
        await self._retried(key, lambda record: self._appended(key, record, entries), "appended to")

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """Return the entries of a transcript in order, or None if it does not exist. Takes two round trips."""
        record = await self._record(key)
        transcript = record.transcripts.get(_path(key))
        if transcript is None:
            return None
        batches = await self._namespace(key, transcript[0]).get_all()
        return _without_repeats(entry for name in sorted(batches) for entry in batches[name]) or None

    async def list_sessions(self, project_key: str) -> list[SessionStoreListEntry]:
        """Return the ids of a project's sessions and the times of their last appends."""
        return [
            {"session_id": record.session_id, "mtime": record.mtime}
            for record in await self._records(project_key)
            if _MAIN in record.transcripts
        ]

    async def list_session_summaries(self, project_key: str) -> list[SessionSummaryEntry]:
        """Return the summaries of a project's sessions, which the appends keep."""
        return [
            {"session_id": record.session_id, "mtime": record.mtime, "data": record.summary or {}}
            for record in await self._records(project_key)
            if _MAIN in record.transcripts
        ]

    async def delete(self, key: SessionKey) -> None:
        """Delete a transcript; without a subpath, the session with all of its transcripts."""
        await self._retried(key, lambda record: self._deleted(key, record), "deleted from")

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        """Return the subpaths of a session."""
        return [path for path in (await self._record(key)).transcripts if path != _MAIN]

    async def close(self) -> None:
        """Close the store if it was opened here. Later calls raise `StoreClosed`."""
        if self._own:
            await self._store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _retried(self, key: SessionKey, write: Callable[[_Record], Awaitable[bool]], done: str) -> None:
        """Call `write` with the session's record, as it is then, until it returns True."""
        for attempt in range(_COMMIT_TRIES):
            if await write(await self._record(key)):
                return
            await asyncio.sleep(random() * min(_PAUSE_S, 0.001 * 2**attempt))
        raise Conflict(
            f"Nothing was {done} the session {key['session_id']!r}: others wrote to it at each of {_COMMIT_TRIES} tries."
            " Try again."
        )

    async def _deleted(self, key: SessionKey, record: _Record) -> bool:
        path = _path(key)
        gone = record.transcripts if path == _MAIN else {path: record.transcripts.get(path)}
        ids = [transcript[0] for transcript in gone.values() if transcript is not None]
        if ids and not await self._committed(key, record, record.without(path)):
            return False
        for one in ids:  # they cannot be reached any more, and no caller writes to them
            await self._namespace(key, one).clear()
            await self._uuids(key, one).clear()
        return True

    async def _appended(self, key: SessionKey, record: _Record, entries: list[SessionStoreEntry]) -> bool:
        path = _path(key)
        transcript = record.transcripts.get(path)
        name, batches = transcript or (uuid.uuid4().hex, 0)
        uuids = [entry["uuid"] for entry in entries if isinstance(entry.get("uuid"), str)]
        known = await self._known(key, name, uuids) if transcript else set()
        new = _without_repeats(entries, known)
        if not new:
            return True
        added = {entry["uuid"] for entry in new if isinstance(entry.get("uuid"), str)}
        after = replace(record, transcripts={**record.transcripts, path: (name, batches + 1)})
        if path == _MAIN:
            before = cast("SessionSummaryEntry", {"session_id": key["session_id"], "mtime": 0, "data": record.summary})
            folded = fold_session_summary(None if record.summary is None else before, key, new)
            after = replace(after, summary=folded["data"])
        batch = _Batch(name, batches, new, added if len(added) <= _MOST_UUIDS else set())
        return await self._committed(key, record, after, batch)

    async def _committed(
        self, key: SessionKey, before: _Record, after: _Record | None, batch: _Batch | None = None
    ) -> bool:
        """Write a record, and a batch with its uuids, if the record is still as it was read. Return whether it was."""
        try:
            async with self._store.transaction() as transaction:
                sessions = transaction.use_namespace(self._project(key["project_key"]))
                sessions.check(fit_name(key["session_id"]), before.version)
                if after is None:
                    sessions.delete(fit_name(key["session_id"]))
                else:
                    sessions.set(fit_name(key["session_id"]), after.as_json())
                if batch is not None:
                    transcript = transaction.use_namespace(self._name(key, batch.transcript))
                    transcript.set(f"{batch.number:016d}", batch.entries)
                    uuids = transaction.use_namespace(self._name(key, batch.transcript, "#uuids"))
                    for one in batch.uuids:
                        uuids.set(fit_name(one), batch.number)
        except Conflict:
            return False
        return True

    async def _known(self, key: SessionKey, name: str, uuids: list[str]) -> set[str]:
        if not uuids:
            return set()
        found = await self._uuids(key, name).get_many({fit_name(one) for one in uuids})
        return {one for one in uuids if fit_name(one) in found}

    async def _record(self, key: SessionKey | SessionListSubkeysKey) -> _Record:
        name = fit_name(key["session_id"])
        namespace = self._store.use_namespace(self._project(key["project_key"]))
        found = (await namespace.get_many([name], info=True)).get(name)
        return _Record(key["session_id"]) if found is None else _Record.of(namespace.namespace, name, *found)

    async def _records(self, project_key: str) -> list[_Record]:
        namespace = self._store.use_namespace(self._project(project_key))
        found = await namespace.get_all(info=True)
        return [_Record.of(namespace.namespace, name, value, info) for name, (value, info) in found.items()]

    def _namespace(self, key: SessionKey, name: str) -> AsyncDataStore:
        return self._store.use_namespace(self._name(key, name))

    def _uuids(self, key: SessionKey, name: str) -> AsyncDataStore:
        return self._store.use_namespace(self._name(key, name, "#uuids"))

    def _project(self, project_key: str) -> str:
        return fit_name(f"{self._prefix}/{_quoted(project_key)}", MAX_NAMESPACE_BYTES)

    def _name(self, key: SessionKey, name: str, kind: str = "") -> str:
        session = f"{_quoted(key['project_key'])}/{_quoted(key['session_id'])}"
        return fit_name(f"{self._prefix}/{session}/{name}{kind}", MAX_NAMESPACE_BYTES)


@dataclass(frozen=True, slots=True)
class _Record:
    """What is stored of a session beside its transcripts."""

    session_id: str
    transcripts: dict[str, tuple[str, int]] = field(default_factory=dict)
    """By subpath, `_MAIN` for the main one: the id of the transcript, and the number of its batches."""
    summary: dict[str, Any] | None = None
    version: int = 0
    """0 for a session that does not exist."""

    @classmethod
    def of(cls, namespace: str, name: str, value: Any, info: KeyInfo) -> _Record:
        try:
            transcripts = {path: (str(one), int(batches)) for path, (one, batches) in value["transcripts"].items()}
            summary = None if value["summary"] is None else dict(value["summary"])
            return cls(str(value["session_id"]), transcripts, summary, int(cast("int", info.version)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StoredDataError(
                f"The key {name!r} of the namespace {namespace!r} does not hold a session: another program has written it."
                " Delete it, or use another prefix.",
                namespace=namespace,
                key=name,
            ) from error

    @property
    def mtime(self) -> int:
        """The time of the last write, in ms since 1970: a version is that time in µs."""
        return self.version // 1000

    def without(self, path: str) -> _Record | None:
        """Return the record that a delete leaves, None if none: without the main transcript there is no session."""
        left = {other: transcript for other, transcript in self.transcripts.items() if other != path}
        return replace(self, transcripts=left) if left and path != _MAIN else None

    def as_json(self) -> dict[str, Any]:
        return {"session_id": self.session_id, "transcripts": self.transcripts, "summary": self.summary}


class _Batch(NamedTuple):
    """The entries of one append."""

    transcript: str
    number: int
    entries: list[SessionStoreEntry]
    uuids: set[str]


def _path(key: SessionKey) -> str:
    return key.get("subpath") or _MAIN


def _quoted(text: str) -> str:
    if not isinstance(text, str):
        raise InvalidType(f"A project_key and a session_id must be str, not {type(text).__name__}.")
    return quote(text, safe="", errors="surrogatepass")


def _without_repeats(entries: Iterable[Any], known: set[str] | None = None) -> list[Any]:
    """Return the entries without those whose uuid has come before, or is known."""
    seen = set(known or ())
    kept = []
    for entry in entries:
        one = entry.get("uuid") if isinstance(entry, dict) else None
        if isinstance(one, str):
            if one in seen:
                continue
            seen.add(one)
        kept.append(entry)
    return kept
