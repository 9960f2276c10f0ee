"""What users and namespaces take on the server: keys, memory, and the time of the last write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypeAlias

from redis_store.admin.records import NamespaceUsage, UserUsage
from redis_store.admin.walks import Walk, parts_of, redis_keys
from redis_store.errors import InvalidInput, InvalidType
from redis_store.namespace.keys import decode_name
from redis_store.namespace.redis_key import RedisKey
from redis_store.ops.listing import START
from redis_store.ops.run_script import run_each
from redis_store.protocol.call import all_replies
from redis_store.protocol.command import Command
from redis_store.scripts import LAST_WRITE

UsageOrder: TypeAlias = Literal["name", "memory", "keys", "last-write"]

KEYS_PER_MEASUREMENT = 100
"""Redis keys that are measured in one step, which takes the server about a millisecond."""

ELEMENTS_SAMPLED = 20
"""Elements of a Redis key whose memory is measured; that of the others is estimated from theirs."""

INFOS_PER_STEP = 1000
"""Infos of keys that one step looks at for the last write, about, which takes the server a millisecond."""

INFOS_PER_SCAN = 500
INFO_BYTES_PER_SCAN = 512 * 1024
"""Size of the infos of one namespace that one step looks at, in infos and in bytes of memory, about."""

_YEAR_9000_MS = 221_845_392_000_000
_HASHES = ("ns", "info")
_OF_NAMESPACES = ("ns", "info", "log", "flight", "seen")


class Measured(NamedTuple):
    """The size of one Redis key."""

    parts: RedisKey
    memory_bytes: int | None
    fields: int
    """The number of fields, of a namespace's data or info."""
    last_write_ms: int
    """The last write that the info of a namespace tells; 0 for none."""


async def measured(user: str | None = None, prefix: str = "", *, of_namespaces: bool = False) -> Walk[Measured]:
    """Measure the Redis keys of all users, or of one; or only those `of_namespaces` whose names begin with a prefix."""
    start = prefix.encode()
    async for page in redis_keys(user):
        if of_namespaces:
            page = [each for each in page if each[1].kind in _OF_NAMESPACES and each[1].name.startswith(start)]
        for part in parts_of(page, KEYS_PER_MEASUREMENT):
            yield await _measure(part)


def of_namespaces_only(page: Sequence[Measured]) -> list[Measured]:
    """Return those that count for a namespace."""
    return [one for one in page if one.parts.kind in _OF_NAMESPACES]


async def _measure(keys: Sequence[tuple[bytes, RedisKey]]) -> list[Measured]:
    commands: list[Command] = [("MEMORY", "USAGE", key, "SAMPLES", ELEMENTS_SAMPLED) for key, _ in keys]
    hashes = [at for at, (_, parts) in enumerate(keys) if parts.kind in _HASHES]
    commands += [("HLEN", keys[at][0]) for at in hashes]
    replies = await all_replies(*commands)
    sizes, counts = replies[: len(keys)], dict(zip(hashes, replies[len(keys) :], strict=True))
    fields = [count if isinstance(count := counts.get(at), int) else 0 for at in range(len(keys))]
    infos = {
        key: (fields[at], infos_per_scan(fields[at], sizes[at]))
        for at, (key, parts) in enumerate(keys)
        if parts.kind == "info" and fields[at]
    }
    last = await _last_writes(infos)
    return [
        # A missing reply is a key that is gone; an error is a server that does not report memory.
        Measured(parts, size if isinstance(size, int) else 0 if size is None else None, count, last.get(key, 0))
        for (key, parts), size, count in zip(keys, sizes, fields, strict=True)
    ]


def infos_per_scan(fields: int, memory_bytes: object) -> int:
    """Return how many infos of a namespace one step may look at, from their number and the memory of all of them."""
    if not isinstance(memory_bytes, int) or not fields or not memory_bytes:
        return INFOS_PER_SCAN
    return max(1, min(INFOS_PER_SCAN, INFO_BYTES_PER_SCAN * fields // memory_bytes))


async def _last_writes(infos: dict[bytes, tuple[int, int]]) -> dict[bytes, int]:
    """Return the last write that each info hash tells, in ms since 1970, from its size and what one step may look at."""
    last = dict.fromkeys(infos, 0)
    left = dict.fromkeys(infos, START)
    while left:
        some: list[bytes] = []
        looked = 0
        for key in left:
            some.append(key)
            fields, count = infos[key]
            looked += min(fields, INFOS_PER_SCAN) if count == INFOS_PER_SCAN else INFOS_PER_SCAN  # big ones
            if looked >= INFOS_PER_STEP:
                break
        replies = await run_each(LAST_WRITE, [((key,), (left[key], infos[key][1])) for key in some])
        for key, (cursor, ms) in zip(some, replies, strict=True):
            last[key] = max(last[key], int(ms))
            left[key] = cursor.decode()
            if left[key] == START:
                del left[key]
    return last


@dataclass(slots=True)
class _Total:
    """The sizes of several Redis keys together."""

    keys: int = 0
    memory_bytes: int | None = 0
    last_write_ms: int = 0

    def add(self, one: Measured) -> None:
        if one.memory_bytes is None or self.memory_bytes is None:
            self.memory_bytes = None
        else:
            self.memory_bytes += one.memory_bytes
        if one.parts.kind == "ns":
            self.keys += one.fields
        self.last_write_ms = max(self.last_write_ms, one.last_write_ms)

    @property
    def last_write(self) -> datetime | None:
        return time_of(self.last_write_ms)


class UserTotals:
    """Collects what was measured into a record for each user."""

    def __init__(self, by: UsageOrder = "name", unwritten_since: datetime | None = None) -> None:
        self._order = _order_of(by)
        self._since = check_time(unwritten_since, "unwritten_since")
        self._totals: dict[str, _Total] = {}
        self._namespaces: dict[str, set[bytes]] = {}

    def add(self, page: Sequence[Measured]) -> None:
        for one in page:
            user = one.parts.user
            self._totals.setdefault(user, _Total()).add(one)
            if one.parts.kind == "ns" and one.fields:
                self._namespaces.setdefault(user, set()).add(one.parts.name)

    def result(self) -> list[UserUsage]:
        found = (
            UserUsage(user, len(self._namespaces.get(user, ())), total.keys, total.memory_bytes, total.last_write)
            for user, total in self._totals.items()
        )
        chosen = [one for one in found if _is_older(one, self._since)]
        return sorted(chosen, key=lambda one: (*self._order(one), one.user))


class NamespaceTotals:
    """Collects what was measured into a record for each namespace that holds data."""

    def __init__(self, by: UsageOrder = "name", unwritten_since: datetime | None = None) -> None:
        self._order = _order_of(by)
        self._since = check_time(unwritten_since, "unwritten_since")
        self._totals: dict[tuple[str, bytes], _Total] = {}

    def add(self, page: Sequence[Measured]) -> None:
        for one in page:
            self._totals.setdefault((one.parts.user, one.parts.name), _Total()).add(one)

    def result(self) -> list[NamespaceUsage]:
        found = (
            NamespaceUsage(user, decode_name(name), total.keys, total.memory_bytes, total.last_write)
            for (user, name), total in self._totals.items()
            if total.keys
        )
        chosen = [one for one in found if _is_older(one, self._since)]
        return sorted(chosen, key=lambda one: (*self._order(one), one.user, one.namespace))


_ORDERS = {
    "name": lambda one: (),
    "memory": lambda one: (-(one.bytes or 0),),
    "keys": lambda one: (-one.keys,),
    "last-write": lambda one: (one.last_write or datetime.min.replace(tzinfo=UTC),),
}
"""The sort keys of the orders: the biggest first, and the one that was written longest ago first."""


def _order_of(by: str) -> Any:
    if by not in _ORDERS:
        raise InvalidInput(f"by must be one of {', '.join(map(repr, _ORDERS))}, not {by!r}.")
    return _ORDERS[by]


def _is_older(one: UserUsage | NamespaceUsage, since: datetime | None) -> bool:
    return since is None or (one.last_write is not None and one.last_write < since)


def time_of(ms: int) -> datetime | None:
    """Return a time of the server in ms since 1970, or None for 0 and for what no clock shows."""
    return datetime.fromtimestamp(ms / 1000, UTC) if 0 < ms < _YEAR_9000_MS else None


def check_time(value: datetime | None, name: str) -> datetime | None:
    """Return a time that a caller passed, or raise if it has no time zone."""
    if value is not None and not isinstance(value, datetime):
        raise InvalidType(f"{name} must be a datetime or None, not {type(value).__name__}.")
    if value is not None and value.tzinfo is None:
        raise InvalidInput(f"{name} has no time zone: pass, for example, datetime.now(UTC) - timedelta(minutes=10).")
    return value
