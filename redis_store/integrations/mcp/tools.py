"""The tools of the MCP server: what a model reads of them, the check of their arguments, and what each does with a store."""

from __future__ import annotations

import contextlib
import heapq
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from redis_store.aio import AsyncDataStore
from redis_store.errors import DataStoreError, InvalidInput
from redis_store.integrations.mcp.budget import (
    AnswerList,
    Spot,
    dumps,
    read_cursor,
    shortened,
    value_answer,
    write_cursor,
)
from redis_store.integrations.mcp.feed import ChangeFeeds, SeenChange
from redis_store.types import MISSING, Json, KeyInfo

PAGES_PER_CALL = 50
"""Maximum number of pages of a namespace that one call of a tool reads; the next call goes on from there."""
MOST_CHANGES_SHOWN = 1_000
MOST_LOOKED_AT = 20_000
"""Maximum number of keys among which `recent_changes` looks for the last ones written before it was first called."""
SNIPPET_CHARS = 80
"""Characters of a value before and after what `search` has found."""
MOST_MESSAGE_CHARS = 2_000

_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
}
_ESCAPED_CODE = re.compile(rb"\\u[0-9a-fA-F]{4}")

Arguments = dict[str, Any]
Row = dict[str, Any]
Moment = tuple[str, str]
"""When a key was written last, and its name: the order of `recent_changes`."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool: its name, what a model reads of it, and its arguments as JSON schemas."""

    name: str
    description: str
    arguments: Mapping[str, Mapping[str, Any]]
    required: tuple[str, ...] = ()
    writes: bool = False
    destroys: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {name: dict(schema) for name, schema in self.arguments.items()},
            "required": list(self.required),
            "additionalProperties": False,
        }

    def checked(self, given: Mapping[str, Any] | None) -> Arguments:
        """Return the arguments of a call, or raise `InvalidInput`. A null stands for an argument that was left out."""
        arguments = {
            name: value for name, value in (given or {}).items() if value is not None or not self._type_of(name)
        }
        for name, value in arguments.items():
            if name not in self.arguments:
                raise InvalidInput(
                    f"{self.name} has no argument {shortened(name)!r}: it has {', '.join(self.arguments)}."
                )
            wanted = self._type_of(name)
            if wanted and (not isinstance(value, _JSON_TYPES[wanted]) or isinstance(value, bool)):
                raise InvalidInput(f"{name} must be of the type {wanted}, not {type(value).__name__}.")
        for name in self.required:
            if name not in arguments:
                raise InvalidInput(f"{self.name} needs the argument {name!r}.")
        return arguments

    def _type_of(self, name: str) -> str | None:
        return self.arguments.get(name, {}).get("type")


_NAMESPACE_ARGUMENT = {"namespace": {"type": "string", "description": "The namespace; without it, the default one."}}
_CURSOR_ARGUMENT = {
    "cursor": {"type": "string", "description": "The cursor of the last answer, to get what comes after it."}
}
_KEY_ARGUMENT = {"key": {"type": "string", "description": "The key."}}
_PREFIX_ARGUMENT = {"prefix": {"type": "string", "description": "Only names that begin with this text."}}
_VERSION_ARGUMENT = {
    "if_version": {
        "type": "integer",
        "description": "Write only if the key still has this version, as `get` returned it; 0: only if the key is absent.",
    }
}

TOOLS = (
    ToolSpec(
        "get",
        "Read the JSON value of a key, with its version and its last writer. A long value is cut at its structure:"
        " call again with the cursor for the next part, which goes on with the list, object or text at `continues`.",
        {**_KEY_ARGUMENT, **_NAMESPACE_ARGUMENT, **_CURSOR_ARGUMENT},
        ("key",),
    ),
    ToolSpec(
        "set",
        "Store a JSON value under a key, in place of any previous one. Pass if_version, the version that you have read,"
        " if others may have changed the value since.",
        {
            **_KEY_ARGUMENT,
            "value": {"description": "Any JSON value."},
            **_NAMESPACE_ARGUMENT,
            "ttl": {"type": "number", "description": "Seconds after which the key expires."},
            "metadata": {"type": "object", "description": "Facts about the value, merged into those that it has."},
            **_VERSION_ARGUMENT,
        },
        ("key", "value"),
        writes=True,
        destroys=True,
    ),
    ToolSpec(
        "delete",
        "Delete a key.",
        {**_KEY_ARGUMENT, **_NAMESPACE_ARGUMENT, **_VERSION_ARGUMENT},
        ("key",),
        writes=True,
        destroys=True,
    ),
    ToolSpec(
        "append",
        "Append items to the list under a key, or begin one. Nothing is lost if others append at the same time.",
        {
            **_KEY_ARGUMENT,
            "items": {"type": "array", "items": {}, "description": "The items, each any JSON value."},
            **_NAMESPACE_ARGUMENT,
            "max_items": {"type": "integer", "description": "Keep only that many of the newest items."},
        },
        ("key", "items"),
        writes=True,
    ),
    ToolSpec(
        "list_keys", "List the keys of a namespace.", {**_NAMESPACE_ARGUMENT, **_PREFIX_ARGUMENT, **_CURSOR_ARGUMENT}
    ),
    ToolSpec("list_namespaces", "List the namespaces that hold data.", {**_PREFIX_ARGUMENT, **_CURSOR_ARGUMENT}),
    ToolSpec(
        "search",
        "Find the keys of a namespace that have all words of a query in their name or in their value, in any case of"
        " letters. An answer may have no matches and a cursor: call again with it to search the rest.",
        {
            "query": {"type": "string", "description": "The words."},
            **_NAMESPACE_ARGUMENT,
            **_PREFIX_ARGUMENT,
            **_CURSOR_ARGUMENT,
        },
        ("query",),
    ),
    ToolSpec(
        "recent_changes",
        "Show what was written in a namespace last, newest first: by whom and when. Call again with the cursor for what"
        " has changed since, in order. `reset` means that changes were lost: read again what you depend on.",
        {
            **_NAMESPACE_ARGUMENT,
            "limit": {
                "type": "integer",
                "description": f"At most this many changes, up to {MOST_CHANGES_SHOWN}; 50 if left out.",
            },
            **_CURSOR_ARGUMENT,
        },
    ),
)


class Tools:
    """The tools of one store. Each returns the JSON text of an answer within the budget."""

    def __init__(self, store: AsyncDataStore, feeds: ChangeFeeds, read_only: bool, most_tokens: int) -> None:
        self._store = store
        self._feeds = feeds
        self._most = most_tokens
        self.specs = {spec.name: spec for spec in TOOLS if not (spec.writes and read_only)}

    async def call(self, spec: ToolSpec, given: Mapping[str, Any] | None) -> str:
        """Check the arguments, and carry the tool out."""
        arguments = spec.checked(given)
        do: Callable[..., Awaitable[str]] = getattr(self, spec.name)
        if "namespace" in spec.arguments:
            space = self._store.use_namespace(arguments.pop("namespace", self._store.namespace))
            return await do(space, **arguments)
        return await do(**arguments)

    async def get(self, space: AsyncDataStore, key: str, cursor: str | None = None) -> str:
        found = await space.get_many([key], info=True)
        if key not in found:
            return dumps({"found": False})
        value, info = found[key]
        about: dict[str, Json] = {
            "version": info.version,
            "updated_at": _time(info.updated_at),
            "updated_by": info.updated_by,
        }
        if info.expires_at is not None:
            about["expires_at"] = _time(info.expires_at)
        if info.metadata and cursor is None:
            about["metadata"] = info.metadata
        return value_answer(value, about, cursor, self._most)

    async def read(self, namespace: str, key: str, cursor: str | None) -> tuple[str, str | None] | None:
        """Return the JSON text of a value or of a part of it, and the cursor of the next part; None if there is no such key."""
        value = await self._store.use_namespace(namespace).get(key, MISSING)
        if value is MISSING:
            return None
        answer = json.loads(value_answer(value, {}, cursor, self._most))
        text = answer["json_text"] if "json_text" in answer else dumps(answer["value"])
        return text, answer.get("cursor")

    async def set(self, space: AsyncDataStore, key: str, value: Json, **options: Any) -> str:
        await space.set(key, value, **options)
        return dumps({"stored": True})

    async def delete(self, space: AsyncDataStore, key: str, **options: Any) -> str:
        return dumps({"deleted": await space.delete(key, **options)})

    async def append(self, space: AsyncDataStore, key: str, items: list[Json], max_items: int | None = None) -> str:
        await space.append(key, *items, max_items=max_items)
        return dumps({"appended": len(items)})

    async def list_keys(self, space: AsyncDataStore, prefix: str | None = None, cursor: str | None = None) -> str:
        place, entries = Spot.read(cursor), AnswerList(self._most)
        for _ in range(PAGES_PER_CALL):
            following, page = await space.scan_page(place.scan, prefix)
            for key in place.rest_of(following, page):
                if not entries.add(entries.name(key)):
                    return entries.answer("keys", place.write())
                place.last = shortened(key)
            if following == "0":
                return entries.answer("keys", None)
            place = Spot(following)
        return entries.answer("keys", place.write())

    async def list_namespaces(self, prefix: str | None = None, cursor: str | None = None) -> str:
        last = "" if cursor is None else read_cursor(cursor, (str,))[0]
        entries = AnswerList(self._most)
        names = sorted((shortened(name), name) for name in await self._store.list_namespaces(prefix))
        for short, name in names:
            if short > last:
                if not entries.add(entries.name(name)):
                    return entries.answer("namespaces", write_cursor(last))
                last = short
        return entries.answer("namespaces", None)

    async def search(
        self, space: AsyncDataStore, query: str, prefix: str | None = None, cursor: str | None = None
    ) -> str:
        words = query.lower().split()
        if not words:
            raise InvalidInput("query has no words: pass some, or call list_keys to see all keys.")
        texts = space.as_json_text()
        place, entries = Spot.read(cursor), AnswerList(self._most)
        for _ in range(PAGES_PER_CALL):
            following, page = await texts.scan_items_page(place.scan, prefix)
            for key in place.rest_of(following, page):
                snippet = _snippet(key, page[key], words)
                if snippet is not None and not entries.add({"key": entries.name(key), "text": snippet}):
                    return entries.answer("matches", place.write())
                place.last = shortened(key)
            if following == "0":
                return entries.answer("matches", None)
            place = Spot(following)
        return entries.answer("matches", place.write())

    async def recent_changes(self, space: AsyncDataStore, limit: int = 50, cursor: str | None = None) -> str:
        if not 1 <= limit <= MOST_CHANGES_SHOWN:
            raise InvalidInput(f"limit must be from 1 to {MOST_CHANGES_SHOWN}, not {str(limit)[:20]}.")
        feed = await self._feeds.of(space.namespace)
        number, before = feed.last, None
        if cursor is not None:
            feed_id, since, time, name = read_cursor(cursor, (str, int, str, str))
            if time:
                before = (time, name)
            elif feed_id == feed.id and feed.knows(since):
                return self._following(feed.id, since, await feed.after(since), limit)
        latest = {one.change.key: one for one in await feed.after(0)}
        entries = AnswerList(self._most)
        rows, is_all = await self._written(space, limit, before)
        rows += [
            ((_exact(one.at), shortened(key or "")), _seen_row(one))
            for key, one in latest.items()
            if one.change.op != "set"
        ]
        rows = sorted((row for row in rows if before is None or row[0] < before), key=lambda row: row[0], reverse=True)
        more: dict[str, Json] = {}
        last: Moment = ("", "")
        for moment, row in rows:
            if len(entries.items) == limit or not entries.add(_named(row, entries)):
                more["older"] = write_cursor(feed.id, number, *last)
                break
            last = moment
        if not is_all:
            more["incomplete"] = f"only {MOST_LOOKED_AT:,} keys of the namespace were looked at"
        if cursor is not None and before is None:
            more["reset"] = True
        return entries.answer("changes", write_cursor(feed.id, number, "", "") if before is None else None, **more)

    def _following(self, feed_id: str, number: int, seen: list[SeenChange], limit: int) -> str:
        entries = AnswerList(self._most)
        for one in seen[:limit]:
            if not entries.add(_named(_seen_row(one), entries)):
                break
            number = one.number
        more: dict[str, Json] = {"more": True} if seen and number < seen[-1].number else {}
        return entries.answer("changes", write_cursor(feed_id, number, "", ""), **more)

    async def _written(
        self, space: AsyncDataStore, limit: int, before: Moment | None
    ) -> tuple[list[tuple[Moment, Row]], bool]:
        """Return the rows of the keys that were written last, one more than asked for, and whether all keys were looked at."""
        newest: list[tuple[Moment, int, KeyInfo]] = []
        count = 0
        async for key, (_, info) in space.as_json_text().iter_items(info=True):
            count += 1
            if info.updated_at is not None:
                moment = (_exact(info.updated_at), shortened(key))
                if before is None or moment < before:
                    push = heapq.heappush if len(newest) <= limit else heapq.heappushpop
                    push(newest, (moment, count, info))  # the count, because a key may come twice
            if count >= MOST_LOOKED_AT:
                break
        rows = {moment: _written_row(info) for moment, _, info in newest}
        return list(rows.items()), count < MOST_LOOKED_AT


def error_text(error: DataStoreError) -> str:
    """Return the JSON text of an error, for the model: what happened, and what it can do."""
    facts = {name: getattr(error, name, None) for name in ("version", "path", "outcome_unknown")}
    known = {name: fact for name, fact in facts.items() if fact}
    if len(str(known)) > MOST_MESSAGE_CHARS:
        known = {}
    return dumps({"error": type(error).__name__, "message": str(error)[:MOST_MESSAGE_CHARS], **known})


def _snippet(key: str, text: bytes, words: list[str]) -> str | None:
    """Return the part of a value around the first word that it has, or None if the key and the value lack a word."""
    if _ESCAPED_CODE.search(text):
        with contextlib.suppress(ValueError):
            text = orjson.dumps(orjson.loads(text))
    shown = text.decode(errors="replace")
    folded, name = shown.lower(), key.lower()
    places = []
    for word in words:
        at = folded.find(dumps(word)[1:-1])
        if at >= 0:
            places.append(at)
        elif word not in name:
            return None
    at = min(places, default=0)
    begin = max(0, at - SNIPPET_CHARS)
    end = at + 2 * SNIPPET_CHARS
    return ("..." if begin else "") + shown[begin:end] + ("..." if end < len(shown) else "")


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")


def _exact(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _written_row(info: KeyInfo) -> Row:
    return {
        "key": info.key,
        "op": "set",
        "by": info.updated_by,
        "run": info.run,
        "at": _time(info.updated_at),
        "version": info.version,
    }


def _seen_row(one: SeenChange) -> Row:
    change = one.change
    return {"key": change.key, "op": change.op, "by": change.agent, "run": change.run, "at": _time(one.at)}


def _named(row: Row, entries: AnswerList) -> Row:
    """Return a row without what is unknown, and with its key as an answer shows it."""
    known = {name: value for name, value in row.items() if value is not None}
    return {**known, "key": entries.name(row["key"])} if row["key"] is not None else known
