"""Checks of a server and of all users' data: what is wrong, what that means, what mends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

from orjson import JSONDecodeError, loads

from redis_store.admin.walks import Unreadable, Walk, look_at_marks, parts_of, redis_keys
from redis_store.errors import CorruptValue, UnsupportedEncoding
from redis_store.limits import LogBounds
from redis_store.namespace.keys import decode_name
from redis_store.namespace.redis_key import RedisKey
from redis_store.ops.listing import START
from redis_store.ops.run_script import run_script
from redis_store.ops.server_info import read_if_allowed, server_info
from redis_store.protocol.call import Call, all_replies, as_is, read
from redis_store.protocol.command import Command
from redis_store.protocol.error_replies import raise_error_reply
from redis_store.scripts import DROP_ORPHAN
from redis_store.server import ServerStatus
from redis_store.server_config import facts_of
from redis_store.values.compression import PLAIN

KEYS_PER_CHECK = 100
"""Redis keys that one step asks about, which takes the server a fraction of a millisecond."""

CHECKED_BYTES = 256 * 1024
"""Bytes of values that one step reads to check them, about."""

SLOW_TO_EXPIRE = 100_000
"""Keys of a namespace kept by a clear from which on its expiry is noticed by other clients."""

_DAY_MS = 86_400_000
_LOG_MS = LogBounds().days * _DAY_MS
_RUN_MS = 30 * _DAY_MS
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
    "runs": b"hash",
    "run": b"hash",
    "computed": b"hash",
}


_REPAIR = "redis-store doctor --repair"
"""What the advice of a finding names that a repair mends."""


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

    @property
    def can_be_mended(self) -> bool:
        """Whether a repair mends it, without loss."""
        return not self.mended and _REPAIR in self.mend


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


def check_embedded(state: ServerStatus, free_bytes: int, data_bytes: int) -> list[Finding]:
    """Return what there is to know of the embedded server."""
    users = "an unknown number of" if state.users is None else f"{state.users:,}"
    found = [
        Finding(
            "note",
            "embedded",
            f"This is the embedded server in {str(state.data_dir)!r}: {state.engine} {state.version}, {state.state},"
            f" {state.durability}, {'pinned' if state.pinned else 'not pinned'}, used by {users} processes.",
            "it serves the processes of one OS user on one machine, and its folder is the data",
            "docs/embedded-server.md; back up as in docs/backup.md",
        )
    ]
    if free_bytes < data_bytes:
        found.append(
            Finding(
                "wrong",
                "embedded",
                f"The disk has {free_bytes:,} bytes left, and the data takes {data_bytes:,}.",
                "the log is rewritten beside the old one: if the disk is full, writes are refused",
                "delete other files, or move the folder to a larger disk",
            )
        )
    return found


async def _facts() -> list[Finding]:
    info = await read_if_allowed("INFO")
    if info is None:
        return []
    facts = facts_of(info)
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
    flat = await read_if_allowed("CONFIG", "GET", *names) or []
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
    known: Unreadable = {}
    kept_big = 0
    async for page in redis_keys():
        looked = await look_at_marks(page, known)
        yield [
            Finding(
                "wrong", "format", str(error), "this version cannot use or check the data", "docs/upgrading.md", user
            )
            for (user, _), error in looked.items()
            if error is not None
        ]
        page = [each for each in page if known[each[1].user, each[1].tagged] is None]
        types = await all_replies(*(("TYPE", key) for key, _ in page)) if page else []
        asked: list[_Asked] = []
        found: list[Finding] = []
        for (key, parts), kind in zip(page, types, strict=True):
            if kind == b"none":
                continue
            if (one := _of_type(key, parts, kind) or _of_form(parts, forms)) is not None:
                found.append(one)
            elif questions := _questions(key, parts, kind):
                asked.append(_Asked(key, parts, questions))
        yield found
        for part in parts_of(asked, KEYS_PER_CHECK):
            answers = await _answers(part)
            yield [one for each, answer in answers.items() for one in await _judged(each, answer, repair)]
            kept_big += sum(
                each.parts.kind == "trash" and answer[0] >= SLOW_TO_EXPIRE for each, answer in answers.items()
            )
            async for bad in _bad_values(
                {each.key: (each.parts, *answer[1:]) for each, answer in answers.items() if each.parts.kind == "ns"}
            ):
                yield bad
    if kept_big and (await _config("lazyfree-lazy-expire")).get("lazyfree-lazy-expire") == "no":
        yield [
            Finding(
                "note",
                "undo",
                f"{kept_big} big Redis keys are kept for undo, and lazyfree-lazy-expire is off.",
                "the server stands still for a moment when they expire, a day after the clear",
                "CONFIG SET lazyfree-lazy-expire yes",
            )
        ]


class _Asked(NamedTuple):
    """A Redis key of the expected type, and what the server is asked about it."""

    key: bytes
    parts: RedisKey
    questions: tuple[Command, ...]


def _of_type(key: bytes, parts: RedisKey, kind: bytes) -> Finding | None:
    if kind == _TYPES.get(parts.kind, kind):
        return None
    return _wrong(
        parts,
        "type",
        f"The Redis key {decode_name(key)!r} is a {kind.decode()}.",
        "each use raises WrongKeyType",
        "RENAME or UNLINK it with `redis-store redis`",
    )


def _of_form(parts: RedisKey, forms: dict[str, bool]) -> Finding | None:
    if parts.kind != "namespaces" or parts.agent is not None:
        return None
    if forms.setdefault(parts.user, parts.tagged) == parts.tagged:
        return None
    return _wrong(
        parts,
        "forms",
        "The user has data in both forms of Redis keys.",
        "a store shows one of them only",
        "docs/data-model.md#hash-tags",
    )


def _questions(key: bytes, parts: RedisKey, kind: bytes) -> tuple[Command, ...]:
    """Return what the server is asked about a Redis key: first what `_judged` needs, then the size of a namespace."""
    if parts.kind == "trash":
        return (("HLEN", key),) if kind == b"hash" else ()
    if parts.agent is not None:
        return ()
    if parts.kind in ("lock", "log"):
        return (("PTTL", key),)
    if parts.kind == "run":
        return ("PTTL", key), ("HEXISTS", parts.keys.runs, parts.name)
    if parts.kind == "info" and parts.name:
        return (("EXISTS", parts.keys.data(parts.name)),)
    if parts.kind == "ns" and parts.name:
        return ("SISMEMBER", parts.keys.registry, parts.name), ("HLEN", key), ("MEMORY", "USAGE", key)
    return ()


async def _answers(some: Sequence[_Asked]) -> dict[_Asked, list[Any]]:
    questions = [question for one in some for question in one.questions]
    replies = await all_replies(*questions)
    for question, reply in zip(questions, replies, strict=True):
        if question[0] != "MEMORY":  # which some servers lack
            raise_error_reply(reply, (question,))
    left = iter(replies)
    return {one: list(islice(left, len(one.questions))) for one in some}


async def _judged(one: _Asked, answers: list[Any], repair: bool) -> list[Finding]:
    """Return what the answers show, and mend it."""
    key, parts, _ = one
    answer = answers[0]
    if parts.kind == "run":
        run = _kept_run(one, *answers)
        if run is None:
            return []
        endless = answer == -1
        if endless and repair:
            await Call((("PEXPIRE", key, _RUN_MS),), as_is)
        return [replace(run, mended=endless and repair)]
    if parts.kind == "lock" and answer == -1:
        return [
            _wrong(
                parts,
                "locks",
                f"The lock {decode_name(parts.name)!r} never expires.",
                "callers wait for ever",
                "redis-store locks release",
            )
        ]
    if parts.kind == "log" and answer == -1:
        found = _wrong(
            parts,
            "logs",
            "The change log never expires.",
            "it keeps values that were deleted, and nobody may be watching",
            "redis-store doctor --repair gives it the usual life; watchers prolong it",
        )
        if repair:
            await Call((("PEXPIRE", key, _LOG_MS),), as_is)
        return [replace(found, mended=repair)]
    if parts.kind == "info" and not answer:
        found = _wrong(
            parts, "info", "The info has no data.", "it takes memory and is ignored", "redis-store doctor --repair"
        )
        data = parts.keys.data(parts.name)
        return [replace(found, mended=repair and await run_script(DROP_ORPHAN, (data, key), ()) == 1)]
    if parts.kind == "ns" and not answer:
        found = _wrong(
            parts,
            "registry",
            "The namespace is not in the registry.",
            "list_namespaces() does not show it",
            "redis-store doctor --repair",
        )
        if repair:
            await Call((("SADD", parts.keys.registry, parts.name),), as_is)
        return [replace(found, mended=repair)]
    return []


def _kept_run(one: _Asked, life_ms: int, is_listed: int) -> Finding | None:
    name = decode_name(one.parts.name)
    if life_ms == -1:
        return _wrong(
            one.parts,
            "runs",
            f"The record of run {name!r} never expires.",
            "it takes memory for ever",
            "redis-store doctor --repair gives it 30 days",
        )
    if not is_listed:
        return _wrong(
            one.parts,
            "runs",
            f"The record of run {name!r} is not in the index.",
            "it is not listed, and counts for no bound; it expires by itself",
            "nothing, or UNLINK it with `redis-store redis`",
        )
    return None


async def _bad_values(sizes: dict[bytes, tuple[RedisKey, int, object]]) -> Walk[Finding]:
    """Yield the values that cannot be read, of namespaces with these numbers of keys and bytes of memory, by their Redis keys."""
    left = {key: (START, _page_of(fields, memory_bytes)) for key, (_, fields, memory_bytes) in sizes.items()}
    while left:
        some: list[Command] = []
        size = 0
        for key, (cursor, (count, page_bytes)) in left.items():
            size += page_bytes
            if some and size > CHECKED_BYTES:
                break
            some.append(("HSCAN", key, cursor, "COUNT", count))
        reply = await Call(tuple(some), as_is, True, True)
        found: list[Finding] = []
        for key, (raw, flat) in zip(list(left), [reply] if len(some) == 1 else reply, strict=False):
            parts, cursor = sizes[key][0], raw.decode()
            pairs = zip(flat[::2], flat[1::2], strict=True)
            found += [one for pair in pairs if (one := _of_value(parts, *pair)) is not None]
            if cursor == START:
                del left[key]
            else:
                left[key] = cursor, left[key][1]
        yield found


def _page_of(fields: int, memory_bytes: object) -> tuple[int, int]:
    """Return how many keys of a namespace one step looks at, and their bytes, about."""
    each = max(1, memory_bytes // max(1, fields)) if isinstance(memory_bytes, int) else CHECKED_BYTES
    count = max(1, min(_MOST_FIELDS, CHECKED_BYTES // each))
    return count, each * min(count, fields)


def _of_value(parts: RedisKey, field: bytes, text: bytes) -> Finding | None:
    what = _what_is_wrong(text, decode_name(parts.name), decode_name(field))
    if what is None:
        return None
    found = _wrong(
        parts, "values", what, "reading it raises an error", "redis-store redis HGET shows it; then set or delete it"
    )
    return replace(found, key=decode_name(field))


def _what_is_wrong(stored: bytes, namespace: str, key: str) -> str | None:
    """Say what is wrong with stored bytes, or return None for JSON, and for what cannot be decompressed here."""
    try:
        loads(PLAIN.plain(stored, namespace, key))
    except CorruptValue as error:
        return str(error)
    except UnsupportedEncoding as error:
        return None if isinstance(error.__cause__, ImportError) else str(error)
    except JSONDecodeError:
        return "The value is not JSON."
    return None


def _wrong(parts: RedisKey, check: str, what: str, means: str, mend: str) -> Finding:
    namespace = decode_name(parts.name) if parts.kind in ("ns", "info", "log") else None
    return Finding("wrong", check, what, means, mend, parts.user, namespace)
