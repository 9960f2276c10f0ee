"""Single-flight operations; the flow over them is `flows/compute_once.py`'s `get_or_set`.

A computed value is stored only if its claim still holds. Deleting the key revokes the claim, so that no value computed from
older data comes back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from redis_store.errors import DataStoreError
from redis_store.flows.compute_once import (
    LOCK_TIMEOUT_S,
    ClaimAnswer,
    Claimed,
    Computing,
    Failed,
    Found,
    Trouble,
    check_tags,
    encode_tag,
    lifetimes,
)
from redis_store.flows.flow import Look
from redis_store.limits import UNBOUNDED, ttl_to_ms
from redis_store.namespace.keys import UserKeys, decode_name, encode_key
from redis_store.namespace.scope import Scope
from redis_store.ops.bounds import bound_of, ending, settled
from redis_store.ops.key_info import texts_of_tags
from redis_store.ops.run_script import KINDS_OF_SCRIPT_KEYS, run_checked, run_script
from redis_store.ops.values import GET, get, wanted_ttl
from redis_store.protocol.call import Op, read
from redis_store.scripts import BOUNDED, COUNT_HITS, FLIGHT_CLAIM, FLIGHT_COMMIT, FLIGHT_FAIL, FLIGHT_RENEW
from redis_store.stats import REPORTED_HITS, Counters
from redis_store.types import MISSING, Json, Missing, Ttl

MAX_ERROR_CHARS = 1000
"""Limit of the part of an error's message that waiters receive, in characters."""


class _Scoped(Protocol):
    """A plan, or the operations of a store."""

    @property
    def scope(self) -> Scope: ...


def count_hit(self: _Scoped) -> Op[None] | None:
    """Count a value that a look has found. Return the operation that reports the hits so far, if it is time for it."""
    scope = self.scope
    hits, data = scope.hits, scope.keys.data
    count = hits[data] = hits[data] + 1
    return None if count < REPORTED_HITS else _report(scope, hits.pop(data, 0))


@dataclass(frozen=True, slots=True)
class ComputePlan:
    """The checked arguments of one `get_or_set` call."""

    scope: Scope
    key: str
    field: bytes
    ttl_ms: int | Literal[""]
    stale_ms: int | Literal[""]
    lock_ms: int
    tag_names: tuple[tuple[UserKeys, bytes], ...]
    trouble: Trouble

    @classmethod
    def of(
        cls,
        scope: Scope,
        key: str,
        ttl: Ttl = None,
        stale: Ttl = None,
        lock_timeout: Ttl = LOCK_TIMEOUT_S,
        tags: Iterable[str] | None = None,
        timeout: float | None = None,
        on_error: str = "raise",
    ) -> ComputePlan:
        """Check the rights and the arguments of `get_or_set`. `stale` is added to the value's time to live."""
        scope.check_changeable()
        ttl_ms, stale_ms = lifetimes(wanted_ttl(scope, ttl), stale)
        names = () if tags is None else tuple(tag_name(scope, tag) for tag in check_tags(tags))
        lock_ms, trouble = ttl_to_ms(lock_timeout, "lock_timeout"), Trouble.of(timeout, on_error)
        plan = cls(scope, key, encode_key(key), ttl_ms, stale_ms, lock_ms, names, trouble)
        if names and scope.bounds is not UNBOUNDED:
            scope.bounds.check_tags(plan.tag_texts, len(plan.member))
        return plan

    @property
    def namespace(self) -> str:
        return self.scope.namespace

    @property
    def place(self) -> tuple[bytes, bytes]:
        return self.scope.keys.data, self.field

    @property
    def channel(self) -> bytes:
        return self.scope.keys.flight

    @property
    def word(self) -> bytes:
        return self.field

    def encode(self, value: Any) -> bytes:
        return self.scope.packed(self.scope.codec.encode(value), self.field)

    def decode(self, text: bytes) -> Json:
        return self.scope.codec.decode(text, self.scope.namespace, self.key)

    @property
    def counters(self) -> Counters:
        return self.scope.counters

    def look(self) -> Look[Json | Missing]:
        return Look(LOOK, self.scope, self.key, MISSING)

    async def claim(self, token: str, since_ms: int | None) -> ClaimAnswer:
        scope = self.scope
        keys = scope.keys
        expires = "1" if self.ttl_ms != "" else ""
        since = "" if since_ms is None else since_ms
        hits = scope.hits.pop(keys.data, 0)
        what, *rest = await run_checked(
            FLIGHT_CLAIM,
            (keys.data, keys.info, keys.flight, *scope.user.computed, *self.tags),
            (*[b"hash"] * 5, *[b"zset"] * len(self.tags)),
            (
                self.field,
                token,
                self.lock_ms,
                self.stale_ms,
                expires,
                since,
                self.member,
                scope.bounds.script_bytes,
                scope.name,
                hits,
            ),
        )
        if what == b"claimed":
            return Claimed()
        if hits:
            scope.hits[keys.data] += hits
        if what == b"big":
            there = await read("HGET", keys.data, self.field)
            return await self.claim(token, since_ms) if there is None else await self._found(there, since_ms)
        if what == b"value":
            return await self._found(rest[0], since_ms)
        if what == b"busy":
            return Computing(*rest)
        about = json.loads(rest[0])
        return Failed(about["type"], about["message"])

    async def _found(self, text: bytes, since_ms: int | None) -> Found:
        if self.stale_ms != "" and since_ms is None and (report := self.count_hit()) is not None:
            await report
        return Found(text)

    count_hit = count_hit

    async def renew(self, token: str) -> bool:
        arguments = (self.field, token, self.lock_ms, self.member)
        kinds = (b"hash", *[b"zset"] * len(self.tags))
        return bool(await run_checked(FLIGHT_RENEW, (self.scope.keys.flight, *self.tags), kinds, arguments))

    async def commit(self, token: str, text: bytes) -> tuple[bool, bytes | None]:
        """Store a computed value. Return whether it was stored, and if not, the stored bytes."""
        scope, bound = self.scope, bound_of(self.scope, (self.field,))
        scope.bounds.check_script(len(text))
        reply = await run_checked(
            FLIGHT_COMMIT if bound is None else BOUNDED[FLIGHT_COMMIT.name],
            (*scope.delete_keys, *self.tags),
            (*KINDS_OF_SCRIPT_KEYS, *[b"zset"] * len(self.tags)),
            (
                *(*scope.script_head, scope.writer.author, self.field, text, self.ttl_ms, token, self.tags_json),
                scope.bounds.script_bytes,
                *(() if bound is None else ending(*bound.arguments())),
            ),
        )
        if bound is not None:
            reply = await settled(scope, reply, bound)
        scope.counters.bytes_written += len(text) if reply == 1 else 0
        return (True, None) if reply == 1 else (False, reply[0])

    async def fail(self, token: str, failed: Failed | None) -> bool:
        """Give up a claim; without an error, one of the waiters computes in turn."""
        about = ""
        if failed is not None:
            about = json.dumps({"type": failed.error_type[:100], "message": failed.message[:MAX_ERROR_CHARS]})
        arguments = (self.field, token, about)
        return bool(await run_checked(FLIGHT_FAIL, (self.scope.keys.flight,), (b"hash",), arguments))

    @property
    def tags(self) -> tuple[bytes, ...]:
        """The Redis keys of the tags."""
        return tuple(keys.tag(raw) for keys, raw in self.tag_names)

    @property
    def member(self) -> bytes:
        """The key's member of a tag; the length says where the namespace's name ends."""
        return tag_member_prefix(self.scope) + self.field

    @property
    def tag_texts(self) -> list[str]:
        """The tags' Redis keys as the key's info has them (`scripts/info_text.lua`)."""
        return texts_of_tags(map(decode_name, self.tags))

    @property
    def tags_json(self) -> str:
        """The tags in a key's info, or an empty text."""
        return "{" + ",".join(f'"{name}":1' for name in self.tag_texts) + "}" if self.tags else ""


def tag_name(scope: Scope, tag: str) -> tuple[UserKeys, bytes]:
    """Check a tag and return its name, and the builder of its Redis key.

    Raises `AccessDenied` if the handle may not use the tag.
    """
    raw = encode_tag(tag)
    return scope.keys_of_name("tags", tag), raw


def tag_member_prefix(scope: Scope) -> bytes:
    """Return the start of a tag's members for keys of this namespace."""
    return b"%d:%b:" % (len(scope.name), scope.name)


async def _report(scope: Scope, hits: int) -> None:
    """Add hits to the counts of the namespace. They are lost if that fails: the caller has its value."""
    with suppress(DataStoreError):
        await run_script(COUNT_HITS, scope.user.computed, (scope.name, hits))


async def look(scope: Scope, key: str, default: Any) -> Any:
    return await get(scope, key, default)


LOOK = replace(GET, ask=look)
