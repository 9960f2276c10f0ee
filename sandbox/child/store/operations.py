"""The operations of an agent's `data_store`, passed to the host over a socket.

Arguments are checked here by the same code as on the host, so that errors read the same and cost no round trip. The host checks
them again.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import random
from time import monotonic
from typing import Any, Literal, NoReturn, TypeVar

from redis_store import memo
from redis_store.errors import DataStoreError, InvalidType, waited_too_long
from redis_store.flows.compute_once import get_or_set
from redis_store.flows.flow import Ask, Do, Flow
from redis_store.flows.optimistic import (
    change_value,
    check_function,
    check_open,
    check_parts,
    not_a_function,
    pop_value,
)
from redis_store.limits import check_timeout, check_version
from redis_store.namespace.access import EVERYTHING, Access
from redis_store.namespace.keys import MAX_AGENT_BYTES, MAX_NAMESPACE_BYTES, encode_name, encode_prefix
from redis_store.store import DataStore
from redis_store.types import MISSING, Change, Json, Ttl
from redis_store.values import rules
from sandbox.child import json_text
from sandbox.child.awaitables import is_awaited
from sandbox.child.channels import DataChannel
from sandbox.child.store import hold
from sandbox.child.store.compute_once import Flight, decorator, new_token
from sandbox.child.store.run_flows import DRIVER, run_flow
from sandbox.child.store.watch import Waits, Watch
from sandbox.protocol.arguments import BOUND, DELETE, EXPECT, LARGEST_INT, READ, SET, TTL, key_text
from sandbox.protocol.frames import Part
from sandbox.protocol.operations import BOUNDED, OPERATIONS, REFUSABLE

T = TypeVar("T")

_RESERVED = b"\x01"


@dataclass(frozen=True, slots=True)
class ChannelOperations:
    """The operations on one namespace of the run's user, as the host carries them out."""

    channel: DataChannel
    waits: Waits
    user: str
    namespace: str
    access: Access = EVERYTHING
    ttl_ms: int | None = None
    max_keys: int | None = None

    def call(self, operation: str, *arguments: Any) -> Any:
        try:
            if is_awaited(sys._getframe(1).f_back):  # that of the agent, which has called a method of `DataStore`
                raise InvalidType(f"data_store is not awaited: remove `await` from the call of {operation}.")
            here = _HERE.get(operation)
            if here is not None:
                return here(self, *arguments)
            row = OPERATIONS.get(operation)
            if row is None:
                _belongs_to_the_host(operation)
            parts = self.send(operation, *row.encode(self, arguments))
            collects = gc.isenabled()
            try:
                gc.disable()  # it would look through the values again and again while they are made, and JSON has no cycles
                return row.answer.decode(self, parts, arguments)
            finally:
                if collects:
                    gc.enable()
        except DataStoreError as error:
            self.tell_refused(operation, arguments[0] if arguments else None, error)
            raise

    def tell_refused(self, operation: str, key: object, error: DataStoreError) -> None:
        """Tell the host of an error that it does not know, if the call was to write."""
        if operation in REFUSABLE and error is not self.channel.known_error:
            self.channel.known_error = error
            self.waits.tell_refused(operation, self.namespace, key, error)

    def send(self, operation: str, *parts: Part) -> list[Any]:
        """Send the parts of a call to the host, and return the parts of the answer."""
        row = OPERATIONS[operation]
        if self.access is not EVERYTHING:
            self.check(row.reads, row.writes)
        if self.max_keys is not None and row.adds:
            most = min(self.max_keys, LARGEST_INT)
            return self.channel.call(BOUNDED, self.namespace, most, operation, *parts)
        return self.channel.call(operation, self.namespace, *parts)

    def check(self, reads: bool = False, writes: bool = False) -> None:
        """Raise `AccessDenied` if this handle was narrowed. The host checks the rights of the whole run."""
        if reads and not self.access.may_read(self.namespace):
            raise self.access.refusal("read", self.namespace)
        if writes and not self.access.may_write(self.namespace):
            raise self.access.refusal("write", self.namespace)

    def check_writes_somewhere(self) -> None:
        """Raise `AccessDenied` if this handle may write no namespace."""
        if not self.access.write:
            raise self.access.refusal("write", self.namespace)

    def encode(self, value: object) -> bytes:
        """Return the JSON text of a value, or raise `InvalidValue`."""
        return json_text.dump(value)

    def decode(self, text: bytes, key: str) -> Json:
        """Return the value of stored bytes, or raise a `StoredDataError` that names the key."""
        try:
            return json_text.load(text)
        except (ValueError, RecursionError):
            if text[:1] == _RESERVED:
                raise rules.not_readable(self.namespace, key) from None
            raise rules.not_json(text, self.namespace, key) from None

    @property
    def scope(self) -> ChannelOperations:
        return self

    @property
    def url(self) -> str:
        _belongs_to_the_host("url")

    def run(self, op: Any) -> Any:
        return DRIVER.run(op)

    def run_flow(self, flow: Flow[T]) -> T:
        return run_flow(flow)

    def moved(self, name: str, ttl_ms: int | None = None, max_keys: int | None = None) -> ChannelOperations:
        encode_name(name, "namespace", MAX_NAMESPACE_BYTES)
        return replace(self, namespace=str.__str__(name), ttl_ms=ttl_ms, max_keys=max_keys)

    def narrowed(self, access: Access) -> ChannelOperations:
        return replace(self, access=self.access.narrowed(access))

    def as_json_text(self, errors_as_values: bool) -> NoReturn:
        _belongs_to_the_host("as_json_text")

    def stats(self) -> NoReturn:
        _belongs_to_the_host("stats")

    def close(self) -> None:
        """Do nothing: the host closes the store when the run is over."""

    def draft(self, begun: bool = False) -> ChannelDraft:
        return ChannelDraft(self, begun)

    def lock(self, name: str, ttl: Ttl, timeout: float | None) -> hold.Lock:
        return hold.Lock(DRIVER, hold.lock_steps(self, name, ttl), timeout)

    def semaphore(self, name: str, n: int, ttl: Ttl, timeout: float | None) -> hold.Semaphore:
        return hold.Semaphore(DRIVER, hold.semaphore_steps(self, name, n, ttl), timeout)

    def rate_limit(self, name: str, n: int, per: Ttl, timeout: float | None) -> hold.RateLimit:
        return hold.RateLimit(DRIVER, hold.RateLimitSteps(self, name, n, per), timeout)

    def cached(self, store: DataStore, options: memo.Options) -> memo.CacheDecorator:
        decorate: memo.CacheDecorator = decorator(store, self, options)
        return decorate

    def watch(self, prefix: str | None, since: str | None, consumer: str | None, initial: bool) -> Watch:
        self.check(reads=True)
        if since is not None and not isinstance(since, str):
            raise InvalidType(f"A cursor must be the str of a change's .cursor, not {type(since).__name__}.")
        return self._watch(False, encode_prefix(prefix), since, consumer, initial)

    def watch_all(
        self, prefix: str | None, since: Mapping[str, str] | None, consumer: str | None, initial: bool
    ) -> Watch:
        names = encode_prefix(prefix)
        if not self.access.may_read_all(names):
            raise self.access.refusal("read", f"{names}*")
        if since is not None and not isinstance(since, Mapping):
            raise InvalidType(
                f"watch_all goes on from a dict of namespaces and cursors, not from {rules.one(type(since))}."
            )
        return self._watch(True, names, None if since is None else dict(since), consumer, initial)

    def _watch(self, everywhere: bool, prefix: str, since: object, consumer: str | None, initial: bool) -> Watch:
        if not isinstance(initial, bool):
            raise InvalidType(f"initial must be True or False, not {type(initial).__name__}.")
        if consumer is not None:
            encode_name(consumer, "consumer name", MAX_AGENT_BYTES)
        text = None if since is None else rules.dump(since)
        return Watch(self.waits, self._decode_in, self.namespace, everywhere, prefix or None, text, consumer, initial)

    def _decode_in(self, text: bytes, namespace: str, key: str) -> Json:
        return self.moved(namespace).decode(text, key)

    def __str__(self) -> str:
        return f"user={self.user!r} namespace={self.namespace!r}"


def _belongs_to_the_host(name: str) -> NoReturn:
    raise AttributeError(f"An agent's data_store has no {name}: the connection belongs to its host.", name=name)


# Operations of several steps, between which functions of the agent run or the agent waits


def _get_or_set(on: ChannelOperations, key: str, make: Callable[[], Any], *wanted: Any) -> Json:
    return run_flow(get_or_set(Flight.of(on, key, *wanted), make, new_token, random))


def _text_of(on: ChannelOperations, key: str) -> bytes | None:
    parts = on.send("get", key)
    return parts[0] if parts else None


async def _update(on: ChannelOperations, key: str, function: Callable[[Any], Any], default: Any) -> Json:
    on.check(reads=True, writes=True)
    name = key_text(key)
    check_function(function)

    async def look() -> bytes | None:
        return _text_of(on, name)

    async def change(there: bytes | None) -> bytes:
        value = default if there is None else on.decode(there, name)
        return on.encode(await Ask[Any](function, (value,)))

    async def put(text: bytes, there: bytes | None) -> Literal[True] | bytes | None:
        done, found = on.call("replace", name, there, text)
        return True if done else found

    return on.decode(await change_value(name, await Do(look()), look, change, put, random), name)


async def _pop(on: ChannelOperations, key: str, default: Any) -> Json:
    name = key_text(key)

    async def take(there: bytes | None) -> Literal[True] | bytes | None:
        done, *found = on.send("pop", name, there)
        return True if done else found[0] if found else None

    value = await pop_value(name, take, lambda text: on.decode(text, name))
    return default if value is MISSING else value


async def _sequence_pop(on: ChannelOperations) -> Json:
    name = ""

    async def take(there: bytes | None) -> Literal[True] | bytes | None:
        nonlocal name
        done, *found = on.send("sequence_pop", name, there)
        if not found:
            return True if done else None
        name, text = found
        return bytes(text)

    return await pop_value(f"the last of {on.namespace}", take, lambda text: on.decode(text, name))


def _wait_until(
    on: ChannelOperations, key: str, predicate: Callable[[Json], bool] | None, timeout: float | None
) -> Json:
    limit_s = check_timeout(timeout)
    on.check(reads=True)
    if predicate is None:
        text = on.waits.value(on.namespace, key_text(key), limit_s)
        if text is None:
            raise waited_too_long(key, on.namespace, "was not there", limit_s)
        return on.decode(text, key)
    deadline = None if limit_s is None else monotonic() + limit_s
    if not callable(predicate):
        raise not_a_function("wait_until", "a function of the value", predicate, "write `lambda value: ...`")
    name = key_text(key)
    with on.watch(name, None, None, False) as changes:
        change: Change | None = None
        while True:
            value = MISSING
            if change is None or change.op == "reset":
                value = on.call("get", name, MISSING)
            elif change.key == name and change.op == "set":
                value = change.value
            if value is not MISSING and predicate(value):
                return value
            change = changes.next_change(None if deadline is None else max(0.0, deadline - monotonic()))
            if change is None:
                raise waited_too_long(name, on.namespace, "had no value that was waited for", limit_s)


_HERE: dict[str, Callable[..., Any]] = {
    "get_or_set": _get_or_set,
    "pop": lambda on, *arguments: DRIVER.run(_pop(on, *arguments)),
    "sequence_pop": lambda on: DRIVER.run(_sequence_pop(on)),
    "update": lambda on, *arguments: run_flow(_update(on, *arguments)),
    "wait_until": _wait_until,
    "page_size": lambda on: None,  # the host finds it out
    "infos_page_size": lambda on: None,
}


@dataclass(slots=True)
class ChannelDraft:
    """The reads and pending writes of a transaction: JSON text by namespace and key, None for a missing key or a deletion."""

    on: ChannelOperations
    begun: bool = False
    over: bool = False
    reads: dict[tuple[str, str], bytes | None] = field(default_factory=dict)
    writes: dict[tuple[str, str], tuple[bytes | None, float | None]] = field(default_factory=dict)
    checks: dict[tuple[str, str], int] = field(default_factory=dict)
    bounds: dict[str, int] = field(default_factory=dict)

    def begin(self) -> None:
        check_open(begun=True, over=self.over)
        self.begun = True

    async def get(self, scope: ChannelOperations, key: str, default: Any) -> Json:
        scope.check(reads=True)
        check_open(self.begun, self.over)
        place = (scope.namespace, key_text(key))
        if place in self.writes:
            text = self.writes[place][0]
        else:
            if place not in self.reads:
                self.reads[place] = _text_of(scope, place[1])
                self._check_size()
            text = self.reads[place]
        return default if text is None else scope.decode(text, key)

    def set(self, scope: ChannelOperations, key: str, value: Any, ttl: Ttl) -> None:
        try:
            scope.check(writes=True)
            check_open(self.begun, self.over)
            self.writes[scope.namespace, key_text(key)] = scope.encode(value), TTL.encode(scope, ttl)
        except DataStoreError as error:
            scope.tell_refused("set", key, error)
            raise
        if scope.max_keys is not None:
            self.bounds[scope.namespace] = min(scope.max_keys, LARGEST_INT)
        self._check_size()

    def delete(self, scope: ChannelOperations, key: str) -> None:
        scope.check(writes=True)
        check_open(self.begun, self.over)
        self.writes[scope.namespace, key_text(key)] = (None, None)
        self._check_size()

    def check(self, scope: ChannelOperations, key: str, version: int) -> None:
        scope.check(reads=True)
        check_open(self.begun, self.over)
        self.checks[scope.namespace, key_text(key)] = check_version(version)
        self._check_size()

    async def commit(self) -> None:
        check_open(self.begun, self.over)
        self.over = True
        parts: list[Part] = []
        for (namespace, key), text in self.reads.items():
            parts += (READ, namespace, key, text, None)
        for (namespace, key), (text, ttl_s) in self.writes.items():
            parts += (DELETE if text is None else SET, namespace, key, text, ttl_s)
        for (namespace, key), version in self.checks.items():
            parts += (EXPECT, namespace, key, None, version)
        for namespace, max_keys in self.bounds.items():
            parts += (BOUND, namespace, "", None, max_keys)
        if parts:
            self.on.send("commit_transaction", *parts)

    def _check_size(self) -> None:
        check_parts(len(self.reads) + len(self.writes) + len(self.checks))
