"""Writing the keys of an export, in steps that keep the server from others for a few milliseconds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from redis_store.admin.lines import FIRST_LINE, ParsedLine, Row, info_with_tags, parse_line, read_last_line, row_of
from redis_store.errors import InvalidInput, UnsupportedByServer, WrongKeyType
from redis_store.namespace.keys import UserKeys, decode_name
from redis_store.namespace.scope import Scope
from redis_store.ops.run_script import KINDS_OF_SCRIPT_KEYS, run_checked
from redis_store.protocol.call import Call, as_is
from redis_store.protocol.command import Argument
from redis_store.protocol.error_replies import ScriptMissing
from redis_store.scripts import RESTORE

KEYS_PER_RESTORE = 100
BYTES_PER_RESTORE = 64 * 1024
BYTES_PER_STEP = 512 * 1024
SCRIPTS_PER_STEP = 100

NAMED = 10
"""Keys that were kept which a result names."""


class KeptKey(NamedTuple):
    """A key that an import left as it is, because it holds something else."""

    user: str
    namespace: str
    key: str


@dataclass
class Imported:
    """What an import did."""

    keys: int = 0
    """Keys that were read."""
    written: int = 0
    already: int = 0
    """Keys that held the same already, as after an import that was interrupted."""
    expired: int = 0
    """Keys that have expired since the export."""
    kept: int = 0
    """Keys that hold something else, and were left as they are."""
    first_kept: list[KeptKey] = field(default_factory=list)

    def add(self, other: Imported) -> None:
        """Add what a step did."""
        self.keys += other.keys
        self.written += other.written
        self.already += other.already
        self.expired += other.expired
        self.kept += other.kept
        self.first_kept += other.first_kept[: NAMED - len(self.first_kept)]


class Lines:
    """The keys of an export's lines, checked one by one; and at the end, whether all are there and unchanged.

    Raises `InvalidInput` with the number of the line.
    """

    def __init__(self, lines: Iterable[bytes], user: str | None = None, namespace: str | None = None) -> None:
        self._lines = lines
        self._user = user
        self._namespace = None if namespace is None else namespace.encode()
        self.number = 0
        """The number of the last line."""

    def __iter__(self) -> Iterator[Row]:
        user, namespace = self._user, self._namespace
        for line in self._checked():
            if user is None or user == line.user:
                row = row_of(line)
                if namespace is None or namespace == row.namespace:
                    yield row

    def check(self) -> None:
        """Check all lines, and make nothing of them."""
        for _ in self._checked():
            pass

    def _checked(self) -> Iterator[ParsedLine]:
        digest, keys, end = hashlib.sha256(), 0, None
        user: str | None = None
        for line in self._lines:
            self.number += 1
            if self.number == 1:
                self._check_first(line)
                digest.update(line)
                continue
            if end is not None:
                raise self._broken("there is more after the end of the export")
            if line[-1:] != b"\n":
                raise self._broken("it is cut off")
            if (end := read_last_line(line)) is not None:
                if end != (keys, digest.hexdigest()):
                    raise self._broken(
                        f"the lines before it are not those that were exported: {keys:,} keys are there, and {end[0]:,} were"
                        f" exported{'' if end[0] != keys else ', with other contents'}"
                    )
                continue
            digest.update(line)
            try:
                parsed = parse_line(line)
                if parsed.user != user:
                    user = UserKeys.of(parsed.user).user
            except InvalidInput as error:
                raise self._broken(str(error)) from None
            keys += 1
            yield parsed
        if end is None:
            self.number += 1
            raise self._broken("the last line of the export is missing, so others may be missing too")

    def _check_first(self, line: bytes) -> None:
        if line == FIRST_LINE:
            return
        if line.startswith(FIRST_LINE[:24]):
            raise self._broken("a newer version made this export: upgrade agent-data-store")
        raise self._broken("this is no export of redis-store: its first line is another")

    def _broken(self, why: str) -> InvalidInput:
        return InvalidInput(f"Line {self.number:,} of the export cannot be used: {why}.")


def steps_of(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield rows in parts of one user each, which one step writes."""
    step: list[Row] = []
    size = places = 0
    user, namespace = "", b""
    for row in rows:
        if row.user != user or row.namespace != namespace:
            places += 1
        if step and (row.user != user or size >= BYTES_PER_STEP or places > SCRIPTS_PER_STEP):
            yield step
            step, size, places = [], 0, 1
        user, namespace = row.user, row.namespace
        step.append(row)
        size += len(row.field) + len(row.text) + len(row.info) + 100
    if step:
        yield step


async def restore(scope: Scope, rows: Sequence[Row], replace: bool) -> Imported:
    """Write keys of one user, given in any order of namespaces."""
    mode = "replace" if replace else "keep"
    parts = [part for _, group in groupby(rows, _namespace_of) for part in _scripts_of(list(group))]
    calls = [_arguments(scope, mode, part) for part in parts]
    try:
        replies = await _restored(calls)
    except WrongKeyType:
        # The digest is known now. Each part by itself, so that the error names the key.
        replies = [await run_checked(RESTORE, keys, KINDS_OF_SCRIPT_KEYS[:4], given) for keys, given in calls]
    except UnsupportedByServer as error:
        raise UnsupportedByServer(
            f"Keys of user {scope.user.user!r} expire, and this server cannot let single keys expire: import into Redis 7.4,"
            " Valkey 9.0 or later."
        ) from error
    done = Imported(keys=len(rows))
    for part, (written, same, expired, others) in zip(parts, replies, strict=True):
        kept = [
            KeptKey(row.user, decode_name(row.namespace), decode_name(row.field))
            for row in map(part.__getitem__, others)
        ]
        done.add(Imported(0, written, same, expired, len(kept), kept))
    return done


async def _restored(calls: Sequence[tuple[tuple[bytes, ...], tuple[Argument, ...]]]) -> list[Any]:
    try:
        reply = await Call(tuple(RESTORE.by_digest(*each) for each in calls), as_is)
    except ScriptMissing:
        reply = await Call(tuple(RESTORE.by_text(*each) for each in calls), as_is)
    return [reply] if len(calls) == 1 else list(reply)


def _namespace_of(row: Row) -> bytes:
    return row.namespace


def _scripts_of(rows: Sequence[Row]) -> Iterator[list[Row]]:
    part: list[Row] = []
    size = 0
    for row in rows:
        row_bytes = len(row.field) + len(row.text) + len(row.info)
        if part and (len(part) == KEYS_PER_RESTORE or size + row_bytes > BYTES_PER_RESTORE):
            yield part
            part, size = [], 0
        part.append(row)
        size += row_bytes
    if part:
        yield part


def _arguments(scope: Scope, mode: str, rows: Sequence[Row]) -> tuple[tuple[bytes, ...], tuple[Argument, ...]]:
    user: UserKeys = scope.user
    keys = user.of_stored(rows[0].namespace)
    head = (keys.name, *scope.script_head[1:], mode)
    given: list[Argument] = []
    for row in rows:
        info = info_with_tags(user, row.info, row.tags) if row.tags else row.info
        given += (row.field, row.text, info, b"" if row.expires_ms is None else row.expires_ms)
    return (keys.data, keys.registry, keys.info, keys.log), (*head, *given)
