"""Checks of a server and of all users' data: what is wrong, what that means, what mends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from orjson import JSONDecodeError, loads

from redis_store.admin.walks import Walk, redis_keys
from redis_store.errors import PermissionDenied, ServerRefused, UnsupportedEncoding
from redis_store.namespace.format import check_mark
from redis_store.namespace.keys import decode_name
from redis_store.namespace.redis_key import RedisKey
from redis_store.ops.listing import START
from redis_store.ops.run_script import run_script
from redis_store.ops.server_info import server_info
from redis_store.protocol.call import Call, all_replies, as_is, read
from redis_store.scripts import DROP_ORPHAN

CHECKED_BYTES = 256 * 1024
"""Bytes of values that one step reads to check them, about."""

_MOST_FIELDS = 500
_SLOW_S = 0.01
_CLOCK_OFF_S = 1.0

_TYPES = {
    "ns": b"hash",
    "info": b"hash",
    "namespaces": b"set",
    "log": b"stream",
    "lock": b"string",
    "format": b"string",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found."""

    level: str
    """``wrong``, or ``note`` for what may be on purpose."""
    check: str
    """What was checked, such as ``registry``."""
    what: str
    means: str
    mend: str
    """The command or the setting that mends it."""
    user: str | None = None
    namespace: str | None = None
    key: str | None = None
    mended: bool = False
    """Whether it was mended just now."""


async def check_server(now: Callable[[], float]) -> Walk[Finding]:
    """Yield what is wrong with the server and its settings."""
    yield [
        Finding(
            "note" if name in ("CONFIG", "HPEXPIRE") else "wrong",
            "server",
            f"The server lacks {name}.",
            cost,
            "another server, or its settings: docs/managed-services.md",
        )
        for name, cost in (await server_info()).lacks.items()
    ]
    yield await _facts()
    yield await _clock(now)


async def _facts() -> list[Finding]:
    try:
        lines = (await read("INFO")).decode(errors="replace").splitlines()
    except (PermissionDenied, ServerRefused):
        return []
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    found = []
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        found.append(
            Finding(
                "wrong",
                "memory",
                f"maxmemory-policy is {policy}.",
                "a full server deletes whole namespaces and locks in silence",
                "CONFIG SET maxmemory-policy noeviction",
            )
        )
    if facts.get("maxmemory") == "0":
        found.append(
            Finding(
                "note",
                "memory",
                "maxmemory is not set.",
                "the machine's memory is the bound; the system may kill the server",
                "CONFIG SET maxmemory 2gb",
            )
        )
    if "err" in (facts.get("rdb_last_bgsave_status"), facts.get("aof_last_write_status")):
        found.append(
            Finding(
                "wrong",
                "persistence",
                "The last save to disk failed.",
                "a crash loses what was written since",
                "the server's log says why: disk space, rights",
            )
        )
    config = await _config("save", "client-output-buffer-limit")
    if facts.get("aof_enabled") == "0" and config.get("save") == "":
        found.append(
            Finding(
                "wrong",
                "persistence",
                "Nothing is saved to disk.",
                "a restart of the server loses all data",
                "CONFIG SET appendonly yes",
            )
        )
    limits = config.get("client-output-buffer-limit", "").split()
    if "pubsub" in limits and 0 < int(limits[limits.index("pubsub") + 1]) < 8 * 1024 * 1024:
        found.append(
            Finding(
                "wrong",
                "watchers",
                "client-output-buffer-limit of pubsub is below 8 MB.",
                "the server disconnects watchers in a burst of writes",
                "CONFIG SET client-output-buffer-limit 'pubsub 33554432 8388608 60'",
            )
        )
    return found


async def _config(*names: str) -> dict[str, str]:
    try:
        flat = await read("CONFIG", "GET", *names)
    except (PermissionDenied, ServerRefused):
        return {}
    texts = [part.decode(errors="replace") for part in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


async def _clock(now: Callable[[], float]) -> list[Finding]:
    took, off = [], []
    for _ in range(5):
        begin = now()
        seconds, micros = await read("TIME")
        took.append(now() - begin)
        off.append(int(seconds) + int(micros) / 1e6 - begin - took[-1] / 2)
    found = []
    if min(took) > _SLOW_S:
        found.append(
            Finding(
                "note",
                "latency",
                f"A request takes {min(took) * 1000:.0f} ms.",
                "each call takes as long, or a multiple",
                "run processes near the server; use batches and near_cache=True",
            )
        )
    if abs(off[took.index(min(took))]) > _CLOCK_OFF_S:
        found.append(
            Finding(
                "wrong",
                "clock",
                f"The server's clock differs from this machine's by {off[took.index(min(took))]:.0f} s.",
                "times in infos and expiries differ from those of the processes",
                "synchronize both clocks, for example with chrony",
            )
        )
    return found


async def check_data(repair: bool = False) -> Walk[Finding]:
    """Yield what is inconsistent in the data of all users. With `repair`, mend what can be mended without loss."""
    forms: dict[str, bool] = {}
    async for page in redis_keys():
        types = await all_replies(*(("TYPE", key) for key, _ in page)) if page else []
        found: list[Finding] = []
        for (key, parts), kind in zip(page, types, strict=True):
            expected = _TYPES.get(parts.kind)
            if kind == b"none":
                continue
            if expected is not None and kind != expected:
                found.append(
                    _wrong(
                        parts,
                        "type",
                        f"The Redis key {decode_name(key)!r} is a {kind.decode()}.",
                        "each use raises WrongKeyType",
                        "RENAME or UNLINK it with `redis-store redis`",
                    )
                )
                continue
            if parts.agent is None:
                found += await _checked(key, parts, forms, repair)
        yield found


async def _checked(key: bytes, parts: RedisKey, forms: dict[str, bool], repair: bool) -> list[Finding]:
    keys = parts.keys.of_stored(parts.name) if parts.name else None
    if parts.kind == "namespaces" and forms.setdefault(parts.user, parts.tagged) != parts.tagged:
        return [
            _wrong(
                parts,
                "forms",
                "The user has data in both forms of Redis keys.",
                "a store shows one of them only",
                "docs/data-model.md#hash-tags",
            )
        ]
    if parts.kind == "format":
        try:
            check_mark(await read("GET", key), parts.user)
        except UnsupportedEncoding as error:
            return [_wrong(parts, "format", str(error), "this version cannot use the data", "docs/upgrading.md")]
    if parts.kind == "lock" and await read("PTTL", key) == -1:
        return [
            _wrong(
                parts,
                "locks",
                f"The lock {decode_name(parts.name)!r} never expires.",
                "callers wait for ever",
                "redis-store locks release",
            )
        ]
    if parts.kind == "info" and keys is not None and not await read("EXISTS", keys.data):
        one = _wrong(
            parts, "info", "The info has no data.", "it takes memory and is ignored", "redis-store doctor --repair"
        )
        return [replace(one, mended=repair and await run_script(DROP_ORPHAN, (keys.data, key), ()) == 1)]
    if parts.kind != "ns" or keys is None:
        return []
    found = await _bad_values(key, parts)
    if not await read("SISMEMBER", keys.registry, parts.name):
        one = _wrong(
            parts,
            "registry",
            "The namespace is not in the registry.",
            "list_namespaces() does not show it",
            "redis-store doctor --repair",
        )
        if repair:
            await Call((("SADD", keys.registry, parts.name),), as_is)
        found.append(replace(one, mended=repair))
    return found


async def _bad_values(key: bytes, parts: RedisKey) -> list[Finding]:
    fields, size = await all_replies(("HLEN", key), ("MEMORY", "USAGE", key))
    each = size // max(1, fields) if isinstance(size, int) and isinstance(fields, int) else CHECKED_BYTES
    count = max(1, min(_MOST_FIELDS, CHECKED_BYTES // max(1, each)))
    found = []
    cursor = START
    while True:
        raw, flat = await read("HSCAN", key, cursor, "COUNT", count, bulk=True)
        for field, text in zip(flat[::2], flat[1::2], strict=True):
            if not _is_json(text):
                one = _wrong(
                    parts,
                    "values",
                    "The value is not JSON.",
                    "reading it raises CorruptValue",
                    "redis-store redis HGET shows it; then set or delete it",
                )
                found.append(replace(one, key=decode_name(field)))
        cursor = raw.decode()
        if cursor == START:
            return found


def _is_json(text: bytes) -> bool:
    if text.startswith(b"\x01"):  # compressed: it would have to be decompressed whole
        return True
    try:
        loads(text)
    except JSONDecodeError:
        return False
    return True


def _wrong(parts: RedisKey, check: str, what: str, means: str, mend: str) -> Finding:
    namespace = decode_name(parts.name) if parts.kind in ("ns", "info", "log") else None
    return Finding("wrong", check, what, means, mend, parts.user, namespace)
