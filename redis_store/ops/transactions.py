"""Transactions: collect reads and writes, then write by one script if everything read is unchanged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from redis_store.errors import Conflict, LimitExceeded
from redis_store.flows.optimistic import changed_since_read, check_open, check_parts, other_version
from redis_store.limits import UNBOUNDED, check_version
from redis_store.namespace.keys import NamespaceKeys, decode_name, encode_key
from redis_store.namespace.scope import Scope
from redis_store.ops.batch import check_burden
from redis_store.ops.bounds import Bound, ending, settled
from redis_store.ops.key_info import version_of
from redis_store.ops.run_script import KINDS_OF_SCRIPT_KEYS, run_checked
from redis_store.ops.updates import is_packed, stored
from redis_store.ops.values import wanted_ttl
from redis_store.protocol.command import Argument
from redis_store.scripts import BOUNDED, TRANSACT
from redis_store.types import Json, Ttl

MAX_NAMESPACES = 750
"""Maximum number of namespaces in a transaction: each takes five arguments, and no command has more than `MOST_ARGUMENTS`."""

Place: TypeAlias = tuple[bytes, bytes]
"""A namespace's name and a field."""


class Mismatch(NamedTuple):
    """What a commit has found instead of what it expected."""

    place: Place
    version: int | None
    """The version that is there, see `version_of`."""
    expected: int | None
    """The version that was expected; None if the value that was read was."""


class Write(NamedTuple):
    """The new content of a field: bytes, or None to delete it."""

    text: bytes | None
    ttl_ms: int | str = ""


@dataclass(slots=True)
class Draft:
    """The reads and pending writes of a transaction."""

    scope: Scope
    tx: str
    """The transaction's id in the change log."""
    reads: dict[Place, bytes | None] = field(default_factory=dict)
    writes: dict[Place, Write] = field(default_factory=dict)
    checks: dict[Place, int] = field(default_factory=dict)
    """The versions that keys must have."""
    bounds: dict[bytes, int] = field(default_factory=dict)
    """The `max_keys` of the written namespaces that were opened with a bound, by name."""
    begun: bool = False
    over: bool = False
    size_bytes: int = 0

    def begin(self) -> None:
        """Begin the transaction."""
        check_open(begun=True, over=self.over)
        self.begun = True

    def check_open(self) -> None:
        """Raise `InvalidInput` if the transaction has not begun, or has ended."""
        check_open(self.begun, self.over)

    def set(self, scope: Scope, key: str, value: Any, ttl: Ttl) -> None:
        """Record a write."""
        scope.check_writable()
        self.check_open()
        raw = encode_key(key)
        text = scope.codec.encode(value)
        self.writes[scope.name, raw] = Write(scope.packed(text, raw), wanted_ttl(scope, ttl))
        if scope.max_keys is not None:
            self.bounds[scope.name] = scope.max_keys
        self._check_size(len(text))

    def delete(self, scope: Scope, key: str) -> None:
        """Record a delete."""
        scope.check_writable()
        self.check_open()
        self.writes[scope.name, encode_key(key)] = Write(None)
        self._check_size()

    def check(self, scope: Scope, key: str, version: int) -> None:
        """Record a version that a key must have."""
        scope.check_readable()
        self.check_open()
        self.checks[scope.name, encode_key(key)] = check_version(version)
        self._check_size()

    def _check_size(self, more_bytes: int = 0) -> None:
        self.size_bytes += more_bytes
        limit_bytes = self.scope.limits.max_batch_bytes
        if self.size_bytes > limit_bytes:
            raise LimitExceeded(
                f"The transaction's reads and writes take {self.size_bytes:,} bytes, and at most {limit_bytes:,} are"
                " allowed: divide it into several, or raise max_batch_bytes.",
                limit="max_batch_bytes",
                limit_bytes=limit_bytes,
                size_bytes=self.size_bytes,
            )
        count = len(self.reads) + len(self.writes) + len(self.checks)
        check_parts(count)

    async def get(self, scope: Scope, key: str, default: Any = None) -> Json:
        """Return a key's value as the transaction sees it: as the transaction wrote it, else as it was first read."""
        scope.check_readable()
        self.check_open()
        raw = encode_key(key)
        place = (scope.name, raw)
        if place in self.writes:
            text = self.writes[place].text
        else:
            if place not in self.reads:
                text = self.reads[place] = await stored(scope, raw)
                self._check_size(len(text or b""))
            text = self.reads[place]
        return default if text is None else scope.codec.decode(text, scope.namespace, key)

    async def commit(self) -> None:
        """Write everything if all that was read is unchanged; else raise `Conflict`."""
        self.check_open()
        self.over = True
        if not self.reads and not self.writes and not self.checks:
            return
        failed = await commit_parts(self.scope, self.reads, self.writes, self.tx, self.bounds, self.checks)
        if failed is not None:
            raise conflict_of(failed)


async def commit_parts(
    scope: Scope,
    reads: dict[Place, bytes | None],
    writes: dict[Place, Write],
    tx: str,
    max_keys: Mapping[bytes, int] | None = None,
    checks: Mapping[Place, int] | None = None,
) -> Mismatch | None:
    """Write if the fields in `reads` hold the given bytes, and those in `checks` have the given versions.

    Return None if written, else what was found in the first field that is otherwise.
    """
    checks = checks or {}
    compared = [*reads, *checks]
    _check_rights(scope, compared, writes)
    read_bytes = sum(len(text or b"") for text in reads.values())
    scope.bounds.check_script(read_bytes + sum(len(write.text or b"") for write in writes.values()))
    if scope.bounds is not UNBOUNDED:
        scope.bounds.check_names([raw for _, raw in (*compared, *writes)])
        written: dict[NamespaceKeys, list[bytes]] = defaultdict(list)
        deleted: dict[NamespaceKeys, list[bytes]] = defaultdict(list)
        for (name, raw), write in writes.items():
            (deleted if write.text is None else written)[scope.user.of_stored(name)].append(raw)
        await check_burden(scope, written, deleted)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(name for name, _ in (*compared, *writes)))}
    if len(numbers) > MAX_NAMESPACES:
        raise LimitExceeded(
            f"The transaction reads and writes {len(numbers):,} namespaces, and at most {MAX_NAMESPACES:,} are allowed:"
            " nothing was written. Make it smaller.",
            limit="max_transaction_namespaces",
            limit_count=MAX_NAMESPACES,
            size_bytes=len(numbers),
        )
    places = [scope.user.namespace(decode_name(name)) for name in numbers]
    keys = tuple(key for at in places for key in (at.data, at.registry, at.info, at.log, at.flight))
    arguments: list[Argument] = [
        places[0].name,
        *scope.script_head[1:],
        scope.writer.author,
        tx,
        len(compared),
        *numbers,
    ]
    for (name, raw), there in reads.items():
        arguments += (numbers[name], raw, "absent", b"") if there is None else (numbers[name], raw, "is", there)
    for (name, raw), version in checks.items():
        arguments += (numbers[name], raw, "version", version)
    for (name, raw), write in writes.items():
        if write.text is None:
            arguments += (numbers[name], raw, "delete", b"", "")
        else:
            arguments += (numbers[name], raw, "set", write.text, write.ttl_ms)
    if not max_keys:
        reply = await run_checked(TRANSACT, keys, KINDS_OF_SCRIPT_KEYS * len(places), tuple(arguments))
    else:
        bounds = {name: _bound(places[numbers[name]], most, name, writes) for name, most in max_keys.items()}
        arguments += ending(*(a for name, bound in bounds.items() for a in bound.arguments(5 * numbers[name] + 1)))
        reply = await run_checked(BOUNDED[TRANSACT.name], keys, KINDS_OF_SCRIPT_KEYS * len(places), tuple(arguments))
        reply = await settled(scope, reply, *bounds.values())
    if reply != 1:
        at, found = reply
        return Mismatch(compared[at], version_of(found), None if at < len(reads) else checks[compared[at]])
    scope.counters.bytes_written += sum(len(write.text or b"") for write in writes.values())
    return None


def _bound(keys: NamespaceKeys, max_keys: int, name: bytes, writes: dict[Place, Write]) -> Bound:
    stay = tuple(raw for (place, raw), write in writes.items() if place == name and write.text is not None)
    bound = Bound(keys, max_keys, stay)
    bound.check_room(decode_name(name))
    return bound


async def commit_packed(
    scope: Scope,
    reads: dict[Place, bytes | None],
    writes: dict[Place, Write],
    tx: str,
    max_keys: Mapping[bytes, int] | None = None,
    checks: Mapping[Place, int] | None = None,
) -> Mismatch | None:
    """Do `commit_parts` with reads given as JSON texts. A text that is stored compressed costs one more try."""
    reads = dict(reads)
    while (failed := await commit_parts(scope, reads, writes, tx, max_keys, checks)) is not None:
        if failed.expected is not None:
            break
        name, raw = failed.place
        place, text = scope.moved(decode_name(name)), reads[failed.place]
        there = await stored(place, raw)
        if there is None or text is None or not is_packed(place, decode_name(raw), there, text):
            break
        reads[failed.place] = there
    return failed


def conflict_of(found: Mismatch) -> Conflict:
    """Return the error for a transaction that was not committed."""
    namespace, key = map(decode_name, found.place)
    if found.expected is None:
        return changed_since_read(namespace, key, found.version)
    return other_version(namespace, key, found.expected, found.version)


def _check_rights(scope: Scope, reads: Iterable[Place], writes: Iterable[Place]) -> None:
    """Raise `AccessDenied` if a namespace may not be read or written, before anything is sent."""
    if scope.access.is_everything:
        return
    for name, _ in reads:
        scope.moved(decode_name(name)).check_readable()
    for name, _ in writes:
        scope.moved(decode_name(name)).check_writable()
