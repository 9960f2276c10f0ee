"""What is going on: locks and semaphores that are held, rate limits, consumers, values being computed, and tags."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

from redis_store.admin.records import CacheRate, ComputedValue, ConsumerState, HeldLock, RateLimitState, TagUsage
from redis_store.admin.usage import time_of
from redis_store.admin.walks import Walk, hash_pages, parts_of, readable_keys
from redis_store.changelog.entry import CursorFormat, id_order
from redis_store.errors import InvalidInput
from redis_store.namespace.keys import UserKeys, decode_name
from redis_store.namespace.redis_key import RedisKey
from redis_store.namespace.scope import Scope
from redis_store.ops.locks import LockOps
from redis_store.ops.run_script import run_each, run_script
from redis_store.protocol.call import all_replies, read
from redis_store.protocol.command import Command, ReplyError
from redis_store.scripts import BEHIND, RATE_LOOK

NAMES_PER_LOOK = 100
"""Locks, consumers or tags that are looked at in one step."""

ENTRIES_PER_LOOK = 200
"""Entries of a change log that one step counts."""

_CLAIMS_PER_LOOK = 500
_COUNTS_PER_LOOK = 500
_CONSUMERS = b"consumer:"
_FENCE_US = 10**15
"""Fencing numbers from here on are times, in µs."""


async def locks(user: str | None = None) -> Walk[HeldLock]:
    """Yield the locks and semaphores that are held or waited for. Consumers' locks are left out."""
    now = await now_ms()
    async for page in readable_keys(user):
        chosen = [
            each for each in page if each[1].kind in ("lock", "limit") and not each[1].name.startswith(_CONSUMERS)
        ]
        for part in parts_of(chosen, NAMES_PER_LOOK):
            yield await _locks(part, now)


async def _locks(part: Sequence[tuple[bytes, RedisKey]], now: int) -> list[HeldLock]:
    commands: list[Command] = []
    for key, parts in part:
        kind = parts.kind.encode()
        is_lock = parts.kind == "lock"
        commands += [
            ("GET", key) if is_lock else ("ZCOUNT", key, f"({now}", "+inf"),
            ("TYPE", key) if is_lock else ("ZSCORE", key, "n"),
            ("PTTL", key),
            ("LLEN", owner_of(parts).queue(kind, parts.name)),
        ]
    replies = await all_replies(*commands)
    return [
        found
        for at, (_, parts) in enumerate(part)
        if (found := _lock(parts, replies[4 * at : 4 * at + 4], now)) is not None
    ]


def _lock(parts: RedisKey, replies: list[Any], now: int) -> HeldLock | None:
    value, slots, left_ms, waiters = replies
    if value is None or isinstance(value, ReplyError):  # it is gone, or of another type
        return None
    told = _object(value)
    is_lock = parts.kind == "lock"
    held = int("owner" in told) if is_lock else value
    fence = told.get("fence")
    return HeldLock(
        user=parts.user,
        name=decode_name(parts.name),
        kind="lock" if is_lock else "semaphore",
        agent=parts.agent,
        held=held,
        slots=1 if is_lock else int(float(slots)) if isinstance(slots, bytes) else None,
        holder=_text(told.get("agent")),
        owner=_text(told.get("owner")),
        since=time_of(fence // 1000) if isinstance(fence, int) and fence >= _FENCE_US else None,
        expires_at=time_of(now + left_ms) if left_ms > 0 else None,
        waiters=waiters if isinstance(waiters, int) else 0,
    )


async def rate_limits(user: str | None = None) -> Walk[RateLimitState]:
    """Yield the rate limits that are in use. One that nobody asked for a period is gone."""
    async for page in readable_keys(user, "list"):
        chosen = [each for each in page if each[1].kind == "rate"]
        for part in parts_of(chosen, NAMES_PER_LOOK):
            replies = await run_each(RATE_LOOK, [((key,), ()) for key, _ in part])
            yield [_rate_limit(parts, reply) for (_, parts), reply in zip(part, replies, strict=True) if reply]


def _rate_limit(parts: RedisKey, reply: list[int]) -> RateLimitState:
    n, per_ms, used, waiting, free_ms = reply
    name = decode_name(parts.name)
    return RateLimitState(parts.user, name, parts.agent, n, per_ms / 1000, used, waiting, free_ms / 1000)


async def release_lock(scope: Scope, name: str, agent: str | None = None) -> bool:
    """Take a lock from its holder, who finds out at the next renewal. Return False if nobody holds it."""
    plain = LockOps.of(scope, name, 1)
    lock = LockOps(scope, scope.user if agent is None else scope.user.own(agent), plain.raw, plain.ttl_ms)
    value = await read("GET", lock.redis_key)
    owner = _object(value).get("owner")
    return isinstance(owner, str) and await lock.release(owner)


async def consumers(user: str | None = None) -> Walk[ConsumerState]:
    """Yield the state of each consumer in each namespace of which it has a cursor."""
    async for page in readable_keys(user, "hash"):
        for key, parts in page:
            if parts.kind == "consumer":
                async for cursors in hash_pages(key, NAMES_PER_LOOK):
                    yield await _states(parts, dict(cursors))


async def _states(parts: RedisKey, cursors: dict[bytes, bytes]) -> list[ConsumerState]:
    named = {namespace: text for namespace, text in cursors.items() if namespace}
    if not named:
        return []
    owner, name = owner_of(parts), decode_name(parts.name)
    of_all, *of_each = await all_replies(
        *(("GET", owner.consumer_lock(name, namespace)) for namespace in (b"", *named))
    )
    states = []
    for (namespace, text), lock in zip(named.items(), of_each, strict=True):
        at, behind = await _lag(parts, namespace, text)
        told = _object(lock if isinstance(lock, bytes) else of_all)
        states.append(
            ConsumerState(
                user=parts.user,
                consumer=name,
                agent=parts.agent,
                namespace=decode_name(namespace),
                is_held=bool(told),
                holder=_text(told.get("agent")),
                cursor=text.decode(errors="backslashreplace"),
                at=at,
                behind=behind,
            )
        )
    return states


async def _lag(parts: RedisKey, namespace: bytes, cursor: bytes) -> tuple[datetime | None, int | None]:
    """Return the time of a cursor, and the number of entries after it."""
    log = parts.keys.of_stored(namespace).log
    try:
        position = CursorFormat(parts.keys, namespace).read(cursor.decode(errors="replace"))
    except InvalidInput:  # of an external write
        position = None
    if position is None:
        return None, None
    after, behind = position.position.id, 0
    at = time_of(id_order(after)[0])
    if not await read("EXISTS", log):
        return at, None
    while True:
        count, last = await run_script(BEHIND, (log,), (after, ENTRIES_PER_LOOK), repeatable=True)
        behind += count
        if count < ENTRIES_PER_LOOK:
            return at, behind
        after = last


async def computations(user: str | None = None) -> Walk[ComputedValue]:
    """Yield the values that are being computed, and those whose computation has just failed."""
    now = await now_ms()
    async for page in readable_keys(user, "hash"):
        for key, parts in page:
            if parts.kind == "flight":
                async for claims in hash_pages(key, _CLAIMS_PER_LOOK):
                    made = (_computation(parts, field, claim, now) for field, claim in claims)
                    yield [one for one in made if one is not None]


def _computation(parts: RedisKey, field: bytes, claim: bytes, now: int) -> ComputedValue | None:
    digits, _, rest = claim.partition(b" ")
    ms = int(digits) if digits.isdigit() and len(digits) < 16 else 0
    where = (parts.user, decode_name(parts.name), decode_name(field[1:]))
    if field[:1] == b"c" and ms > now:
        return ComputedValue(*where, time_of(ms), None, None)
    if field[:1] == b"e":
        return ComputedValue(*where, None, time_of(ms), rest.decode(errors="backslashreplace"))
    return None


async def cache_rates(user: str | None = None) -> Walk[CacheRate]:
    """Yield the counts of hits and computations of each namespace in which values were found or computed."""
    met: set[tuple[str, bool]] = set()
    async for page in readable_keys(user, "hash"):
        for _, parts in page:
            if parts.kind == "computed" and (parts.user, parts.tagged) not in met:
                met.add((parts.user, parts.tagged))
                yield await cache_rates_of(parts.keys)


async def cache_rates_of(user: UserKeys) -> list[CacheRate]:
    """Return the counts of hits and computations of one user's namespaces, in order of their names."""
    counts: dict[bytes, int] = defaultdict(int)
    for key in user.computed:
        fields: dict[bytes, bytes] = {}
        async for some in hash_pages(key, _COUNTS_PER_LOOK):
            fields.update(some)
        for field, count in fields.items():
            counts[field] += int(count) if count.isdigit() and len(count) < 20 else 0
    names = {field[1:] for field in counts if field[:1] in (b"h", b"c")}
    return [CacheRate(user.user, decode_name(name), counts[b"h" + name], counts[b"c" + name]) for name in sorted(names)]


async def tags(user: str | None = None) -> Walk[TagUsage]:
    """Yield the tags of cached values, with the number of values that have each."""
    async for page in readable_keys(user, "zset"):
        chosen = [each for each in page if each[1].kind == "tag"]
        for part in parts_of(chosen, NAMES_PER_LOOK):
            counts = await all_replies(*(("ZCARD", key) for key, _ in part))
            yield [
                TagUsage(parts.user, decode_name(parts.name), parts.agent, count)
                for (_, parts), count in zip(part, counts, strict=True)
                if isinstance(count, int) and count
            ]


def owner_of(parts: RedisKey) -> UserKeys:
    """Return the builder of the keys of a name: the user's, or an agent's own."""
    return parts.keys if parts.agent is None else parts.keys.own(parts.agent)


async def now_ms() -> int:
    """Return the server's clock, in ms since 1970."""
    seconds, micros = await read("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


def _object(text: object) -> dict[str, Any]:
    """Return the JSON object that a reply is, or an empty one for another reply."""
    try:
        told = orjson.loads(text) if isinstance(text, bytes) else None
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _text(found: object) -> str | None:
    return found if isinstance(found, str) else None
