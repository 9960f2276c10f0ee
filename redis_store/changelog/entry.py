"""Entries of a namespace's change log, as the scripts write them, and the cursors that point into it. No I/O.

An entry's first field is empty and holds its head, a JSON object. The pairs after it are the changes. Each is a key with
``s<json>`` (set), ``r`` (set, too big for the log: read it), ``d`` (deleted) or ``e`` (expired), or an empty field with ``c``
(cleared). Members of a head: ``n``, the number of events that the write fired on the data hash; ``x``, when its keys expire;
``agent``, ``run``, ``tx``; ``root``, the agent of the outermost run, if the writer is a nested run; ``epoch`` in the entry
that made the log; ``found`` for changes that a hub found by comparing; ``gap`` after external writes that a hub could not
identify, made while there was no watcher.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from redis_store.errors import InvalidInput
from redis_store.namespace.keys import UserKeys
from redis_store.types import ChangeOp

News: TypeAlias = "tuple[ChangeOp, bytes | None, bytes | None] | None"
"""One change: operation, the key's field, JSON text (None for a set with an unread value). None for a change already known."""

_OPS: Final[dict[bytes, ChangeOp]] = {b"d": "delete", b"e": "expire"}


@dataclass(slots=True)
class LogEntry:
    """One entry of a log."""

    id: bytes
    mark: int
    """A checksum of its contents, so that an entry with the same id from another history is not mistaken for it."""
    news: list[News]
    events: int = 0
    """The number of keyspace events that the write fired on the data hash."""
    expires_ms: int | None = None
    agent: str | None = None
    run: str | None = None
    root: str | None = None
    found: bool = False
    gap: bool = False
    local: bool = False
    """Whether it is in no log, because the server refused it. Its id is then that of the entry before."""

    @property
    def order(self) -> tuple[int, int]:
        """The sort key of entries."""
        return id_order(self.id)


class Position(NamedTuple):
    """A place in a log: after an entry, or after the first `taken` of its changes."""

    id: bytes
    mark: int
    taken: int = -1
    """The number of the entry's changes before this place; -1 for all."""


class Cursor(NamedTuple):
    """A parsed cursor."""

    epoch: bytes
    position: Position


def id_order(entry_id: bytes) -> tuple[int, int]:
    """Return an entry id as two numbers, for comparison."""
    ms, _, sequence = entry_id.partition(b"-")
    return int(ms), int(sequence)


def parse_entry(raw: Any) -> LogEntry:
    """Parse an entry of a reply. An entry that the library cannot have written has no changes."""
    entry_id, flat = raw
    entry = LogEntry(entry_id, zlib.crc32(b"\0".join(flat)), [])
    if not flat or flat[0]:
        return entry
    try:
        head = orjson.loads(flat[1])
        entry.events = int(head.get("n", 0))
        expires_ms = head.get("x")
        entry.expires_ms = None if expires_ms is None else int(expires_ms)
    except (ValueError, TypeError, AttributeError, OverflowError):
        return entry
    entry.agent, entry.run, entry.root = (_name(head.get(what)) for what in ("agent", "run", "root"))
    entry.found, entry.gap = "found" in head, "gap" in head
    entry.news = [_news(field, said) for field, said in zip(flat[2::2], flat[3::2], strict=True)]
    return entry


def _name(found: object) -> str | None:
    return found if isinstance(found, str) else None


def _news(field: bytes, said: bytes) -> News:
    if not field:
        return ("clear", None, None) if said == b"c" else None
    kind = said[:1]
    if kind == b"s":
        return "set", field, said[1:]
    if kind == b"r":
        return "set", field, None
    op = _OPS.get(kind)
    return None if op is None else (op, field, None)


# A cursor's text: version, tag of user and namespace, the log's epoch, entry id, number of its changes taken, its checksum.
_CURSOR = re.compile(
    r"1\.([0-9a-f]{12})\.(?:reset|([0-9a-f]{16})\.([0-9]{1,20}-[0-9]{1,20})\.(-1|[0-9]{1,9})\.([0-9a-f]{8}))"
)


class CursorFormat:
    """Writes and reads the cursors of one namespace of one user."""

    __slots__ = ("_head", "_tag", "namespace", "reset")

    def __init__(self, user: UserKeys, namespace: bytes) -> None:
        self._tag = blake2b(user.name_for_cursors + namespace, digest_size=6).hexdigest()
        self._head = f"1.{self._tag}."
        self.namespace = namespace
        self.reset = self._head + "reset"
        """The cursor of a consumer that must begin with a reset."""

    def write(self, epoch: bytes, position: Position) -> str:
        """Return the text of a cursor at a position."""
        return f"{self._head}{epoch.decode()}.{position.id.decode()}.{position.taken}.{position.mark:08x}"

    def read(self, text: object) -> Cursor | None:
        """Parse a cursor. Return None for the cursor of a reset.

        Raises `InvalidInput` for text that is not a cursor, or a cursor of another namespace or user.
        """
        if not isinstance(text, str):
            raise InvalidInput(f"A cursor must be the str of a change's .cursor, not {type(text).__name__}.")
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise InvalidInput(f"{text[:80]!r} is not a cursor: pass the .cursor of a change, unchanged.")
        tag, epoch, entry_id, taken, mark = match.groups()
        if tag != self._tag:
            raise InvalidInput(
                f"The cursor {text!r} belongs to another namespace or another user: pass the cursor of a change in"
                f" {self.namespace.decode(errors='backslashreplace')!r}."
            )
        if epoch is None:
            return None
        return Cursor(epoch.encode(), Position(entry_id.encode(), int(mark, 16), int(taken)))
