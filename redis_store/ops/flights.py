"""Operations of computing a value once, and the flow of `get_or_set` over them.

Whoever finds no value claims to compute it, in the server, under a token. The claim is renewed while he computes, and lapses
when he dies; the others look again until there is a value, an error, or nobody who computes. What he computed is stored only
if his claim still holds: deleting the key takes it away, so that nothing computed from older data comes back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from redis_store._call import Call, as_is
from redis_store._codec import check_value_size
from redis_store._flow import FIRST_PAUSE_S, LONGEST_PAUSE_S, Ask, Do, Keep, Look, Now, Pause, Rand, next_pause, spread
from redis_store._keys import MAX_NAMESPACE_BYTES, encode_key, encode_name
from redis_store._scope import Scope
from redis_store.errors import ComputeFailed, DataStoreError, InvalidInput, InvalidType
from redis_store.ops._script import run_checked
from redis_store.ops.values import ttl_to_ms, wanted_ttl
from redis_store.scripts import FLIGHT_CLAIM, FLIGHT_COMMIT, FLIGHT_FAIL, FLIGHT_RENEW
from redis_store.types import Json, Ttl

LOCK_TIMEOUT_S = 30
"""After so many seconds without a sign of life the one who computes is taken for dead."""

MAX_ERROR_CHARS = 1000
"""So much of an error's message reaches those who waited."""

_KINDS_OF_COMMIT_KEYS = (b"hash", b"set", b"hash", b"stream", b"hash")


class Claimed(NamedTuple):
    """Nobody has the value: the caller computes it."""


class Found(NamedTuple):
    """There is a value, and these are its bytes."""

    text: bytes


class Failed(NamedTuple):
    """Somebody computed while the caller waited, and his function raised this."""

    error_type: str
    message: str


class Computing(NamedTuple):
    """Somebody else computes; after so many ms without a renewal he no longer does. `now_ms` is the server's clock."""

    left_ms: int
    now_ms: int


Answer: TypeAlias = Claimed | Found | Failed | Computing


@dataclass(frozen=True, slots=True)
class Plan:
    """What a caller of `get_or_set` wants, checked."""

    scope: Scope
    key: str
    field: bytes
    ttl_ms: int | Literal[""]
    stale_ms: int | Literal[""]
    lock_ms: int
    tags: tuple[bytes, ...]

    @classmethod
    def of(
        cls,
        scope: Scope,
        key: str,
        ttl: Ttl = None,
        stale: Ttl = None,
        lock_timeout: Ttl = LOCK_TIMEOUT_S,
        tags: Iterable[str] | None = None,
    ) -> Plan:
        """Check the rights and the arguments of `get_or_set`. A value that may be served stale lives so much longer."""
        scope.check_changeable()
        ttl_ms = wanted_ttl(scope, ttl)
        stale_ms: int | Literal[""] = ""
        if stale is not None:
            stale_ms = ttl_to_ms(stale)
            if not isinstance(ttl_ms, int):
                raise InvalidInput("stale= is for values that expire: give a ttl too.")
            ttl_ms += stale_ms
        fresh: int | Literal[""] = ttl_ms if isinstance(ttl_ms, int) else ""
        keys = tuple(scope.user.tag(encode_tag(tag)) for tag in check_tags(tags))
        return cls(scope, key, encode_key(key), fresh, stale_ms, ttl_to_ms(lock_timeout), keys)

    @property
    def member(self) -> bytes:
        """What stands for the key in a tag; the length tells where the namespace's name ends."""
        return tag_member_prefix(self.scope) + self.field


def check_tags(tags: Iterable[str] | None) -> tuple[str, ...]:
    """Check that tags are a list of texts, and return each once."""
    if tags is None:
        return ()
    if isinstance(tags, (str, bytes)) or not isinstance(tags, Iterable):
        raise InvalidType(f"Tags must be a list of str, not {type(tags).__name__}: put a single tag in a list.")
    found = tuple(tags)
    for tag in found:
        encode_tag(tag)
    return tuple(dict.fromkeys(found))


def encode_tag(tag: str) -> bytes:
    """Check a tag and return its name in UTF-8."""
    return encode_name(tag, "tag", MAX_NAMESPACE_BYTES)


def tag_member_prefix(scope: Scope) -> bytes:
    """What the members of a tag begin with that stand for keys of this namespace."""
    return b"%d:%b:" % (len(scope.keys.name), scope.keys.name)


async def look(plan: Plan) -> bytes | None:
    text: bytes | None = await Call((("HGET", plan.scope.keys.data, plan.field),), as_is, True)
    plan.scope.counters.read(text)
    return text


async def claim(plan: Plan, token: str, since_ms: int | None) -> Answer:
    keys = plan.scope.keys
    expires = "1" if plan.ttl_ms != "" else ""
    since = "" if since_ms is None else since_ms
    what, *rest = await run_checked(
        FLIGHT_CLAIM,
        (keys.data, keys.flight, *plan.tags),
        (b"hash", b"hash", *[b"zset"] * len(plan.tags)),
        (plan.field, token, plan.lock_ms, plan.stale_ms, expires, since, plan.member),
    )
    if what == b"value":
        return Found(rest[0])
    if what == b"busy":
        return Computing(*rest)
    if what == b"claimed":
        return Claimed()
    about = json.loads(rest[0])
    return Failed(about["type"], about["message"])


async def renew(plan: Plan, token: str) -> bool:
    arguments = (plan.field, token, plan.lock_ms, plan.member)
    kinds = (b"hash", *[b"zset"] * len(plan.tags))
    return bool(await run_checked(FLIGHT_RENEW, (plan.scope.keys.flight, *plan.tags), kinds, arguments))


async def commit(plan: Plan, token: str, text: bytes) -> tuple[bool, bytes | None]:
    """Store a computed value; whether it was stored, and if not, the bytes that stand there."""
    scope = plan.scope
    reply = await run_checked(
        FLIGHT_COMMIT,
        (*scope.delete_keys, *plan.tags),
        (*_KINDS_OF_COMMIT_KEYS, *[b"zset"] * len(plan.tags)),
        (*scope.script_head, scope.writer.agent_json, plan.field, text, plan.ttl_ms, token, plan.member),
    )
    scope.counters.bytes_written += len(text) if reply == 1 else 0
    return (True, None) if reply == 1 else (False, reply[0])


async def fail(plan: Plan, token: str, failed: Failed | None) -> bool:
    """Give a claim up; without an error, one of those who wait computes in turn."""
    about = ""
    if failed is not None:
        about = json.dumps({"type": failed.error_type[:100], "message": failed.message[:MAX_ERROR_CHARS]})
    arguments = (plan.field, token, about)
    return bool(await run_checked(FLIGHT_FAIL, (plan.scope.keys.flight,), (b"hash",), arguments))


async def get_or_set(plan: Plan, make: Callable[[], Any], new_token: Callable[[], str], rand: Rand) -> Json:
    """The flow of `DataStore.get_or_set`."""
    if not callable(make):
        raise InvalidType(f"What computes a value must be a function, not {type(make).__name__}.")
    decode, namespace, key = plan.scope.codec.decode, plan.scope.namespace, plan.key
    if plan.stale_ms == "":
        text = await Look(plan.scope, key, lambda: look(plan))
        if text is not None:
            return decode(text, namespace, key)
    token = new_token()
    since_ms: int | None = None
    pause_s = FIRST_PAUSE_S
    counters = plan.scope.counters
    while True:
        asked = await Now()
        answer = await Do(claim(plan, token, since_ms))
        if isinstance(answer, Found):
            if plan.stale_ms != "" and since_ms is None:
                counters.read(answer.text)  # elsewhere the look has counted it as a miss
            return decode(answer.text, namespace, key)
        if isinstance(answer, Claimed):
            counters.computes += 1
            counters.misses += plan.stale_ms != "" and since_ms is None
            return decode(await _compute(plan, make, token, asked), namespace, key)
        if isinstance(answer, Failed):
            raise _failed(plan, answer)
        if (plan.scope.keys.data, plan.field) in _under_way.get():
            raise InvalidInput(f"The function that computes {key!r} asks for {key!r} itself, which would never end.")
        if since_ms is None:
            counters.waits += 1
            counters.misses += plan.stale_ms != ""
            since_ms = answer.now_ms
        await Pause(min(spread(pause_s, rand), max(0.001, answer.left_ms / 1000)), plan.scope.keys.data)
        pause_s = next_pause(pause_s, _longest_pause(plan))


_under_way: ContextVar[tuple[tuple[bytes, bytes], ...]] = ContextVar("_under_way", default=())
"""What this thread or task computes just now."""


async def _compute(plan: Plan, make: Callable[[], Any], token: str, asked: float) -> bytes:
    """Compute the value under a claim that holds since `asked`, store it, and return the bytes that callers get."""
    keeping = await Keep(lambda: renew(plan, token), plan.lock_ms / 1000, asked)
    before = _under_way.set((*_under_way.get(), (plan.scope.keys.data, plan.field)))
    try:
        value = await Ask[Any](make)
        text = check_value_size(plan.scope.codec.encode(value), plan.scope.limits.max_value_bytes, plan.field)
        stored, there = await Do(commit(plan, token, text))
    except GeneratorExit:
        raise
    except BaseException as error:
        plan.scope.counters.compute_errors += 1
        # An interrupt or a cancellation says nothing about the function: then somebody else tries it.
        failed = Failed(type(error).__name__, _message(error)) if isinstance(error, Exception) else None
        with suppress(DataStoreError):
            await Do(fail(plan, token, failed))
        raise
    finally:
        _under_way.reset(before)
        keeping.stop()
    # Somebody has set another value meanwhile: it is newer, and the one that the others see.
    return there if there is not None and not stored and plan.stale_ms == "" else text


def _longest_pause(plan: Plan) -> float:
    """Those who wait look often enough to see a value that does not live long."""
    return LONGEST_PAUSE_S if plan.ttl_ms == "" else max(FIRST_PAUSE_S, min(LONGEST_PAUSE_S, plan.ttl_ms / 4000))


def _message(error: BaseException) -> str:
    return str(error).encode(errors="backslashreplace").decode()


def _failed(plan: Plan, failed: Failed) -> ComputeFailed:
    return ComputeFailed(
        f"Another caller computed {plan.key!r}, and failed with {failed.error_type} ({failed.message}): nothing was cached."
        " Call again to compute it here.",
        key=plan.key,
        error_type=failed.error_type,
        error_message=failed.message,
    )
