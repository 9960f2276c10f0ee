"""Single flight in an agent: its function runs here, between a claim and a commit that the host carries out."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import random
from typing import Any, Literal, Protocol

from redis_store import memo
from redis_store.flows.compute_once import (
    LOCK_TIMEOUT_S,
    ClaimAnswer,
    Failed,
    Trouble,
    check_tags,
    get_or_set,
    lifetimes,
)
from redis_store.limits import ttl_to_ms
from redis_store.stats import Counters
from redis_store.types import MISSING, Json, Missing, Ttl
from sandbox.child.store.run_flows import run_flow_async
from sandbox.protocol.arguments import TTL, Caller, key_text

_COUNTERS = Counters()
"""Counters that are never shown: the record of a run has its own."""


class HostCalls(Caller, Protocol):
    """The operations that the host carries out, as computations and locks need them."""

    @property
    def namespace(self) -> str: ...
    def call(self, operation: str, *arguments: Any) -> Any: ...
    def send(self, operation: str, *parts: Any) -> list[Any]: ...
    def check(self, reads: bool = False, writes: bool = False) -> None: ...
    def check_writes_somewhere(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Flight:
    """The checked arguments of one `get_or_set` call, and the steps that carry it out."""

    on: HostCalls
    key: str
    ttl_s: float | None
    stale_s: float | None
    ttl_ms: int | Literal[""]
    stale_ms: int | Literal[""]
    lock_ms: int
    tags: tuple[str, ...]
    trouble: Trouble

    @classmethod
    def of(
        cls,
        on: HostCalls,
        key: str,
        ttl: Ttl = None,
        stale: Ttl = None,
        lock_timeout: Ttl = LOCK_TIMEOUT_S,
        tags: Iterable[str] | None = None,
        timeout: float | None = None,
        on_error: str = "raise",
    ) -> Flight:
        """Check the rights and the arguments of `get_or_set`."""
        on.check(reads=True, writes=True)
        ttl_s = TTL.encode(on, ttl)
        ttl_ms, stale_ms = lifetimes("" if ttl_s is None else ttl_to_ms(ttl_s), stale)
        texts = tuple(str.__str__(tag) for tag in check_tags(tags))
        stale_s = None if stale_ms == "" else stale_ms / 1000
        lock_ms, trouble = ttl_to_ms(lock_timeout, "lock_timeout"), Trouble.of(timeout, on_error)
        return cls(on, key_text(key), ttl_s, stale_s, ttl_ms, stale_ms, lock_ms, texts, trouble)

    @property
    def namespace(self) -> str:
        return self.on.namespace

    @property
    def place(self) -> tuple[str, str]:
        return self.on.namespace, self.key

    @property
    def channel(self) -> bytes:
        return b""

    @property
    def word(self) -> bytes:
        return b""

    def encode(self, value: Any) -> bytes:
        return self.on.encode(value)

    def decode(self, text: bytes) -> Json:
        return self.on.decode(text, self.key)

    @property
    def counters(self) -> Counters:
        return _COUNTERS

    async def look(self) -> Json | Missing:
        text = self._text("look_value")
        return MISSING if text is None else self.decode(text)

    def count_hit(self) -> None:
        """Do nothing: the host counts what `look` finds."""

    def _text(self, operation: str = "get") -> bytes | None:
        parts = self.on.send(operation, self.key)
        return parts[0] if parts else None

    async def claim(self, token: str, since_ms: int | None) -> ClaimAnswer:
        lifetimes_s = self.ttl_s, self.stale_s, self.lock_ms / 1000
        answer: ClaimAnswer = self.on.call("claim_value", self.key, token, *lifetimes_s, since_ms or 0, self.tags)
        return answer

    async def renew(self, token: str) -> bool:
        return bool(self.on.call("renew_value", self.key, token, self.lock_ms / 1000, self.tags))

    async def commit(self, token: str, text: bytes) -> tuple[bool, bytes | None]:
        stored = self.on.call("commit_value", self.key, token, text, self.ttl_s, self.stale_s, self.tags)
        return (True, None) if stored else (False, self._text())

    async def fail(self, token: str, failed: Failed | None) -> bool:
        return bool(self.on.call("fail_value", self.key, token, *(("", "") if failed is None else failed)))


def new_token() -> str:
    """Return a random text that identifies the holder of a lock, a slot or a claim to the server."""
    return os.urandom(8).hex()


class AsyncView:
    """A store with asynchronous methods: those that `redis_store.memo` needs for a cached asynchronous function."""

    def __init__(self, store: memo.Cache, on: HostCalls) -> None:
        self._store = store
        self._on = on

    async def get_or_set(self, key: str, make: Callable[[], Any], **wanted: Any) -> Json:
        return await run_flow_async(get_or_set(Flight.of(self._on, key, **wanted), make, new_token, random))

    async def delete(self, key: str) -> bool:
        return self._store.delete(key)

    async def list_keys(self, prefix: str | None = None) -> list[str]:
        return self._store.list_keys(prefix)

    async def delete_many(self, keys: Iterable[str]) -> int:
        return self._store.delete_many(keys)


def decorator(store: memo.Cache, on: HostCalls, options: memo.Options) -> Any:
    """Return the decorator of `DataStore.cached`; an asynchronous function remains one, and its calls are awaited."""

    def decorate(function: Callable[..., Any], /) -> Any:
        if inspect.iscoroutinefunction(function):
            view: Any = AsyncView(store, on)
            return memo.cached_async(view, function, options)
        return memo.cached(store, function, options)

    return decorate
