"""Single flight in an agent: its function runs here, between a claim and a commit that the host carries out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import random
from typing import Any, Literal

from redis_store.flows.compute_once import (
    LOCK_TIMEOUT_S,
    ClaimAnswer,
    Claimed,
    Computing,
    Failed,
    Found,
    check_tags,
    get_or_set,
    lifetimes,
)
from redis_store.flows.flow import Do
from redis_store.limits import ttl_to_ms
from redis_store.memo import Cache
from redis_store.stats import Counters
from redis_store.types import Json, Ttl
from redis_store.values import rules
from sandbox.child.store.arguments import key_text, new_token, ttl_seconds
from sandbox.child.store.run_flows import run_flow, run_flow_async
from sandbox.child.store.session import Session
from sandbox.protocol.messages import BUSY, FAILED, VALUE

_COUNTERS = Counters()
"""Counters that are never shown: the record of a run has its own."""


@dataclass(frozen=True, slots=True)
class Flight:
    """The checked arguments of one `get_or_set` call, and the steps that carry it out."""

    session: Session
    key: str
    ttl_s: float | None
    stale_s: float | None
    ttl_ms: int | Literal[""]
    stale_ms: int | Literal[""]
    lock_ms: int
    tags: tuple[str, ...]

    @classmethod
    def of(
        cls,
        session: Session,
        key: str,
        ttl: Ttl = None,
        stale: Ttl = None,
        lock_timeout: Ttl = LOCK_TIMEOUT_S,
        tags: Iterable[str] | None = None,
    ) -> Flight:
        """Check the rights and the arguments of `get_or_set`."""
        session.check("claim_value")
        ttl_s = ttl_seconds(ttl, session.ttl_s)
        ttl_ms, stale_ms = lifetimes("" if ttl_s is None else ttl_to_ms(ttl_s), stale)
        texts = tuple(str.__str__(tag) for tag in check_tags(tags))
        stale_s = None if stale_ms == "" else stale_ms / 1000
        return cls(
            session, key_text(key), ttl_s, stale_s, ttl_ms, stale_ms, ttl_to_ms(lock_timeout, "lock_timeout"), texts
        )

    @property
    def place(self) -> tuple[str, str]:
        return self.session.namespace, self.key

    @property
    def channel(self) -> bytes:
        return b""

    @property
    def word(self) -> bytes:
        return b""

    def encode(self, value: Any) -> bytes:
        return rules.dump(value)

    def decode(self, text: bytes) -> Json:
        return self.session.decode(text, self.key)

    @property
    def counters(self) -> Counters:
        return _COUNTERS

    def look_near(self) -> Do[bytes | None]:
        return Do(self.look())

    async def look(self) -> bytes | None:
        parts = self.session.call("get", self.key)
        return parts[0] if parts else None

    async def claim(self, token: str, since_ms: int | None) -> ClaimAnswer:
        lock_s = self.lock_ms / 1000
        state, *rest = self.session.call(
            "claim_value", self.key, token, self.ttl_s, self.stale_s, lock_s, since_ms or 0, *self.tags
        )
        if state == VALUE:
            return Found(rest[0])
        if state == BUSY:
            return Computing(*rest)
        return Failed(*rest) if state == FAILED else Claimed()

    async def renew(self, token: str) -> bool:
        return bool(self.session.call("renew_value", self.key, token, self.lock_ms / 1000, *self.tags)[0])

    async def commit(self, token: str, text: bytes) -> tuple[bool, bytes | None]:
        ended = self.session.call("commit_value", self.key, token, text, self.ttl_s, self.stale_s, *self.tags)
        return (True, None) if ended[0] else (False, await self.look())

    async def fail(self, token: str, failed: Failed | None) -> bool:
        about = ("", "") if failed is None else failed
        return bool(self.session.call("fail_value", self.key, token, *about)[0])


def compute_once(session: Session, make: Callable[[], Any], key: str, *wanted: Any) -> Json:
    """Return the value of a key; concurrent callers compute a missing value once."""
    return run_flow(get_or_set(Flight.of(session, key, *wanted), make, new_token, random))


class AsyncView:
    """A store with asynchronous methods: those that `redis_store.memo` needs for a cached asynchronous function."""

    def __init__(self, store: Cache, session: Session) -> None:
        self._store = store
        self._session = session

    async def get_or_set(
        self, key: str, make: Callable[[], Any], *, ttl: Ttl, stale: Ttl, lock_timeout: Ttl, tags: Iterable[str] | None
    ) -> Json:
        flight = Flight.of(self._session, key, ttl, stale, lock_timeout, tags)
        return await run_flow_async(get_or_set(flight, make, new_token, random))

    async def delete(self, key: str) -> bool:
        return self._store.delete(key)

    async def list_keys(self, prefix: str) -> list[str]:
        return self._store.list_keys(prefix)

    async def delete_many(self, keys: list[str]) -> int:
        return self._store.delete_many(keys)
