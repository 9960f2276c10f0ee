"""The `data_store` global of agents: the API of `redis_store.DataStore`, carried out by the host over a socket.

Names and values are checked here by the same code as on the host, so that errors read the same and cost no round trip.
The host checks them again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, ParamSpec, TypeVar, cast, overload

from redis_store import memo
from redis_store.errors import InvalidType, WaitTimeout
from redis_store.flows.compute_once import LOCK_TIMEOUT_S, encode_tag
from redis_store.flows.optimistic import check_max_items
from redis_store.limits import check_timeout, ttl_to_ms
from redis_store.mapping import StoreMapping
from redis_store.memo import CacheDecorator, CachedFunction, KeyMaker, Options, TagMaker
from redis_store.namespace.access import NO_WRITES, Access
from redis_store.namespace.keys import MAX_AGENT_BYTES, encode_name, encode_prefix
from redis_store.types import MISSING, Change, Json, JsonInput, KeyInfo, Missing, Ttl
from redis_store.values import rules
from sandbox.child.store import hold
from sandbox.child.store.arguments import dump_of, metadata_text, ttl_seconds
from sandbox.child.store.arguments import key_text as _key
from sandbox.child.store.arguments import key_texts as _keys
from sandbox.child.store.compute_once import AsyncView, compute_once
from sandbox.child.store.run_flows import run_flow
from sandbox.child.store.session import Session
from sandbox.child.store.transaction import Draft, Transaction, transact, update
from sandbox.child.store.watch import Waits, Watch

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DataStore(StoreMapping):
    """A handle of one namespace of the agent's user: JSON values stored under keys.

    Methods raise an error of `redis_store.errors`: `InvalidInput` before anything is sent, `AccessDenied` for a namespace
    that the agent or the handle may not use, `StoreUnavailable` if the server cannot be reached, `ServerRefused` if it
    reports an error, and `StoredDataError` for stored data that this package did not write.
    """

    def __init__(self, session: Session, waits: Waits) -> None:
        self._session = session
        self._waits = waits

    @property
    def namespace(self) -> str:
        """The namespace that the methods work on."""
        return self._session.namespace

    @property
    def user(self) -> str:
        """The owner of the data."""
        return self._session.user

    def get(self, key: str, default: Any = None) -> Json:
        """Return the value of a key, or `default` if the key is missing. A stored null is returned as None."""
        parts = self._session.call("get", _key(key))
        return self._session.decode(parts[0], key) if parts else default

    def set(
        self,
        key: str,
        value: JsonInput,
        metadata: dict[str, Json] | None = None,
        ttl: Ttl = None,
    ) -> None:
        """Store a value under a key, replacing any previous value and its ttl.

        `metadata` is merged into the key's existing metadata. `ttl` is in seconds, or a timedelta. Without one the namespace's
        default ttl applies; `NEVER` stores the value without expiry.
        """
        self._session.call(
            "set", _key(key), rules.dump(value), metadata_text(metadata), ttl_seconds(ttl, self._session.ttl_s)
        )

    def expire(self, key: str, ttl: float | timedelta) -> bool:
        """Set a key to expire `ttl` from now, replacing any earlier ttl. Return whether the key exists."""
        return bool(self._session.call("expire", _key(key), ttl_to_ms(ttl) / 1000)[0])

    def persist(self, key: str) -> bool:
        """Remove the ttl of a key, so that it does not expire. Return whether it had one."""
        return bool(self._session.call("persist", _key(key))[0])

    def increment(self, key: str, by: float = 1) -> Json:
        """Add `by` to the number stored under a key, atomically, and return the sum. A missing key counts as 0.

        Integers stay exact, and the key keeps its ttl. Raises `WrongValueType` if the value is not a number.
        """
        return self._session.decode(
            self._session.call("increment", _key(key), rules.dump(by), self._session.ttl_s)[0], key
        )

    def append(self, key: str, *items: JsonInput, max_items: int | None = None) -> None:
        """Append items to the list stored under a key, atomically. A missing key counts as an empty list.

        With `max_items`, only that many of the newest items are kept. The key keeps its ttl. Raises `WrongValueType` if the
        value is not a list.
        """
        most = None if max_items is None else check_max_items(max_items)
        texts = [rules.dump(item) for item in rules.to_plain(list(items))]
        self._session.call("append", _key(key), most, self._session.ttl_s, *texts)

    def set_if_absent(self, key: str, value: JsonInput, ttl: Ttl = None) -> bool:
        """Store a value if the key is missing, and return whether it was stored. Of concurrent callers, one gets True."""
        text = rules.dump(value)
        return bool(self._session.call("set_if_absent", _key(key), text, ttl_seconds(ttl, self._session.ttl_s))[0])

    def compare_and_set(self, key: str, expected: JsonInput | Missing, value: JsonInput, ttl: Ttl = None) -> bool:
        """Store a value if the key holds `expected`, atomically, and return whether it was stored.

        With `MISSING` as `expected`, the key must be missing; None means a stored null. 1, 1.0 and true are different values.
        As with `set`, a previous ttl is dropped.
        """
        old = None if expected is MISSING else rules.dump(expected)
        text = rules.dump(value)
        return bool(
            self._session.call("compare_and_set", _key(key), old, text, ttl_seconds(ttl, self._session.ttl_s))[0]
        )

    def rename(self, key: str, new: str) -> bool:
        """Move a value with its metadata and ttl to another key, replacing that key's value. Return whether `key` exists."""
        return bool(self._session.call("rename", _key(key), _key(new))[0])

    @overload  # type: ignore[override]  # a store's takes a key and a function too
    def update(self, key: str, function: Callable[[Any], Any], /, default: Any = None) -> Json: ...
    @overload
    def update(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), /, **more: Any) -> None: ...
    def update(self, /, *args: Any, **kwargs: Any) -> Json:
        """Replace a key's value with ``function(value)``, atomically, and return the new value.

        The function gets `default` if the key is missing. It is called again whenever another writer changed the key
        meanwhile. The key keeps its ttl. If the function raises, the exception propagates and nothing is written.
        Called with a mapping or pairs, as `dict.update`, stores all items or none.
        """
        if args and (isinstance(args[0], str) or len(args) > 1):
            return run_flow(update(self._session, *args, **kwargs))
        return super().update(*args, **kwargs)

    def pop(self, key: str, default: Any = MISSING) -> Json:
        """Delete a key and return its value. If the key is missing, return `default`, or raise KeyError without one."""
        parts = self._session.call("pop", _key(key))
        if not parts and default is MISSING:
            raise KeyError(key)
        return self._session.decode(parts[0], key) if parts else default

    def get_or_set(
        self,
        key: str,
        make: Callable[[], Any],
        ttl: Ttl = None,
        stale: Ttl = None,
        lock_timeout: float | timedelta = LOCK_TIMEOUT_S,
        tags: Iterable[str] | None = None,
    ) -> Json:
        """Return the value of a key; if it is missing, compute it with ``make()`` and store it.

        Concurrent callers, in any number of processes, compute a missing value once. The others wait for the result. If
        `make` raises, nothing is stored and they get `ComputeFailed`. `make` may take any time. If its run ends, another
        caller computes; if its process is stopped without ending, another computes after `lock_timeout` seconds. A stored
        null counts as a value. For an asynchronous function use `cached`.

        With `stale`, an expired value is returned for that many seconds more, while one caller refreshes it. A value with
        `tags` is also deleted by `invalidate_tag`. A value that is deleted while it is computed is not stored.
        """
        return compute_once(self._session, make, key, ttl, stale, lock_timeout, tags)

    def cached(
        self,
        ttl: Ttl = None,
        key: KeyMaker = None,
        version: str | int | None = None,
        tags: TagMaker = None,
        stale: Ttl = None,
        lock_timeout: float | timedelta = LOCK_TIMEOUT_S,
    ) -> CacheDecorator:
        """Decorate a function so that its results are cached in this namespace, as with `get_or_set`.

        By default the key is made of the function's name, `version` and the arguments, which must be JSON values. `key`
        replaces it: a template such as ``"user:{user_id}"``, filled with the arguments, or a function of them. `tags` is a
        list of such templates, or a function. With a new `version`, old results are ignored and expire with their ttl.
        The decorated function has ``cache_key(...)``, ``invalidate(...)`` and ``invalidate_all()``. An
        ``async def`` remains one: calls of it, and of its ``invalidate`` and ``invalidate_all``, are awaited.
        """
        options = Options(ttl, key, version, tags, stale, lock_timeout)

        def decorate(function: Callable[P, R], /) -> CachedFunction[P, R]:
            if inspect.iscoroutinefunction(function):
                return cast(
                    "CachedFunction[P, R]",
                    memo.cached_async(cast(Any, AsyncView(self, self._session)), function, options),
                )
            return memo.cached(cast(Any, self), function, options)

        return decorate

    def invalidate_tag(self, tag: str) -> int:
        """Delete the values with a tag, in all namespaces of the user, and return how many were deleted."""
        encode_tag(tag)
        self._session.check_writes_somewhere()
        read, write = (
            [str(one) for one in patterns] for patterns in (self._session.access.read, self._session.access.write)
        )
        return int(self._session.call_for_user("invalidate_tag", str.__str__(tag), len(read), *read, *write)[0])

    def transaction(self) -> Transaction:
        """Return a transaction over the user's namespaces, to be used as a context manager.

        When its block ends, its writes are stored atomically, provided that no value it has read has changed. Otherwise
        `Conflict` is raised and nothing is stored. Writes by others to keys that it has not read do not conflict.
        `transact` retries on a conflict.
        """
        return Transaction(self._session, Draft(self._session))

    def transact(self, function: Callable[[Transaction], T]) -> T:
        """Run ``function(transaction)``, commit, and return its result. Run it again after each conflict.

        The function may be called several times, so it should only read and write through the transaction. Raises `Conflict`
        after very many tries.
        """
        return run_flow(transact(self._session, function))

    def lock(self, name: str, ttl: float | timedelta = 30, timeout: float | None = None) -> hold.Lock:
        """Return a mutual-exclusion lock, scoped to the user and shared by all namespaces, to be used as a context manager.

        Renewed while the holder is alive, released when its run ends; expires `ttl` seconds after the host dies. Waiters
        acquire it in FIFO order. `timeout` is in seconds: `LockTimeout` is raised if the lock was not acquired in time, and 0
        tries once. ``with`` blocks the agent while it waits; with ``async with`` its other tasks continue.
        """
        return hold.lock(self._session, name, ttl, timeout)

    def semaphore(self, name: str, n: int, ttl: float | timedelta = 30, timeout: float | None = None) -> hold.Semaphore:
        """Return a semaphore with `n` slots, used like a `lock`. All callers must pass the same `n` for a name."""
        return hold.semaphore(self._session, name, n, ttl, timeout)

    def rate_limit(self, name: str, n: int, per: float | timedelta, timeout: float | None = None) -> hold.RateLimit:
        """Return a rate limit of `n` uses in any `per` seconds, by the server's clock, to be used as a context manager.

        All callers must pass the same `n` and `per` for a name. Entering waits for the next free use, or raises `LockTimeout`
        if there is none within `timeout` seconds.
        """
        return hold.rate_limit(self._session, name, n, per, timeout)

    def delete(self, key: str) -> bool:
        """Delete a key and return whether it existed."""
        return bool(self._session.call("delete", _key(key))[0])

    def delete_many(self, keys: Iterable[str]) -> int:
        """Delete several keys atomically and return how many existed."""
        return int(self._session.call("delete_many", *_keys(keys))[0])

    def list_keys(self, prefix: str | None = None) -> list[str]:
        """Return the keys that begin with `prefix`, sorted. The prefix is literal, not a pattern."""
        return self._session.call("list_keys", encode_prefix(prefix) or None)

    def iter_keys(self, prefix: str | None = None) -> Iterator[str]:
        """Iterate over the keys page by page, for namespaces too big for a list.

        Each page is consistent in itself. A key may come twice while the namespace grows.
        """
        for page in self._pages("scan_page", prefix):
            yield from page

    def iter_items(self, prefix: str | None = None) -> Iterator[tuple[str, Json]]:
        """Iterate over keys and values page by page, as `iter_keys` does, for namespaces too big for a dict."""
        for page in self._pages("scan_items_page", prefix):
            yield from self._pairs(page)

    def list_namespaces(self, prefix: str | None = None) -> list[str]:
        """Return the user's namespaces that hold data and may be read, sorted. The prefix is literal."""
        names = self._session.channel.call("list_namespaces", self._session.namespace, encode_prefix(prefix) or None)
        return [name for name in names if self._session.access.may_read(name)]

    def get_many(self, keys: Iterable[str]) -> dict[str, Json]:
        """Return the values of the keys that exist, in the order of `keys`, as a snapshot."""
        return dict(self._pairs(self._session.call("get_many", *_keys(keys))))

    def get_all(self, prefix: str | None = None) -> dict[str, Json]:
        """Return the keys that begin with `prefix`, with their values."""
        return dict(self._pairs(self._session.call("get_all", encode_prefix(prefix) or None)))

    def set_many(
        self,
        items: Mapping[str, JsonInput],
        metadata: dict[str, Json] | None = None,
        ttl: Ttl = None,
    ) -> int:
        """Store all items or none, and return their number. `metadata` and `ttl` apply to each item, as in `set`."""
        if not isinstance(items, Mapping):
            raise InvalidType(f"A batch must be a dict of keys and values, not {type(items).__name__}.")
        pairs = [part for key, value in items.items() for part in (_key(key), dump_of(key, value))]
        return int(
            self._session.call("set_many", metadata_text(metadata), ttl_seconds(ttl, self._session.ttl_s), *pairs)[0]
        )

    def clear(self) -> int:  # type: ignore[override]  # as `StoreMapping`'s
        """Delete every key of the namespace and return how many were deleted."""
        return int(self._session.call("clear")[0])

    def info(self, key: str) -> KeyInfo | None:
        """Return a key's info (times, writers, metadata, size), or None if the key is missing."""
        parts = self._session.call("info", _key(key))
        if not parts:
            return None
        name, created, created_by, updated, updated_by, metadata, size, expires = parts
        return KeyInfo(
            name, _time(created), created_by, _time(updated), updated_by, rules.load(metadata), size, _time(expires)
        )

    def watch(
        self,
        prefix: str | None = None,
        since: str | None = None,
        consumer: str | None = None,
        initial: bool = False,
    ) -> Watch:
        """Return an iterator over the changes of this namespace from now on, for ``for`` or ``async for``. It ends with the run.

        `prefix` selects keys that begin with it. `since` continues after the change with that `cursor`. `consumer` names a
        consumer: its cursor is kept in Redis and is saved when the next change is requested. `initial` yields every key first.
        """
        return self._watch(False, prefix, since, consumer, initial)

    def watch_all(
        self,
        prefix: str | None = None,
        since: Mapping[str, str] | None = None,
        consumer: str | None = None,
        initial: bool = False,
    ) -> Watch:
        """Return an iterator over the changes of all namespaces whose names begin with `prefix`, including new ones.

        As `watch`, except that `since` is a dict of namespaces and cursors. Every key is yielded of a namespace that is not
        in it.
        """
        if since is not None and not isinstance(since, Mapping):
            raise InvalidType(
                f"watch_all goes on from a dict of namespaces and cursors, not from a {type(since).__name__}."
            )
        return self._watch(True, prefix, None if since is None else dict(since), consumer, initial)

    def wait_for(self, key: str, timeout: float | None = None) -> Json:
        """Return the value of a key, waiting until the key exists.

        Raises `WaitTimeout`, a `TimeoutError`, after `timeout` seconds.
        """
        self._session.check("wait_for")
        _, answer = self._waits.ask("wait", self._session.namespace, _key(key), check_timeout(timeout))
        return self._session.decode(answer.result()[0], key)

    def wait_until(self, key: str, predicate: Callable[[Json], bool], timeout: float | None = None) -> Json:
        """Return the value of a key, waiting until the key exists and ``predicate(value)`` is true. Raises as `wait_for`."""
        limit_s = check_timeout(timeout)
        deadline = None if limit_s is None else monotonic() + limit_s
        if not callable(predicate):
            raise InvalidType(f"A predicate must be callable, not {type(predicate).__name__}.")
        name = _key(key)
        with self.watch(prefix=name) as changes:
            change: Change | None = None
            while True:
                if change is None or change.op == "reset":
                    value = self.get(name, MISSING)
                elif change.key == name and change.op == "set":
                    value = change.value
                else:
                    value = MISSING
                if value is not MISSING and predicate(value):
                    return value
                change = changes.next_change(None if deadline is None else max(0.0, deadline - monotonic()))
                if change is None:
                    raise WaitTimeout(
                        f"The key {name!r} in namespace {self._session.namespace!r} had no value that was waited for within"
                        f" {limit_s:g} seconds.",
                        namespace=self._session.namespace,
                        key=name,
                    )

    def use_namespace(self, name: str, ttl: Ttl = None, max_keys: int | None = None) -> DataStore:
        """Return a handle of another namespace of the same user.

        `ttl` is the default ttl of values written through the handle. With `max_keys`, a write through it that exceeds this
        number of keys evicts other keys: from a random sample, those written longest ago.
        """
        return DataStore(self._session.moved(name, ttl, max_keys), self._waits)

    def read_only(self) -> DataStore:
        """Return a handle that cannot write, neither here nor in the user's other namespaces."""
        return DataStore(self._session.narrowed(NO_WRITES), self._waits)

    def restricted(
        self,
        *,
        read: Iterable[str] | None = None,
        write: Iterable[str] | None = None,
        namespaces: Iterable[str] | None = None,
    ) -> DataStore:
        """Return a handle that may use only the given namespaces: `read` to read, `write` to write, `namespaces` for both.

        Each is a name, or a prefix followed by ``*``. An omitted right is lost: ``restricted(read=["shared"])`` cannot write.
        A handle can only be narrowed. Other access raises `AccessDenied` before anything is sent.
        """
        return DataStore(self._session.narrowed(Access.of(read, write, namespaces)), self._waits)

    def __repr__(self) -> str:
        return f"<DataStore user={self._session.user!r} namespace={self._session.namespace!r}>"

    def _contains(self, key: str) -> bool:
        return bool(self._session.call("contains", _key(key))[0])

    def _count(self) -> int:
        return int(self._session.call("count")[0])

    def _watch(self, everywhere: bool, prefix: str | None, since: object, consumer: object, initial: object) -> Watch:
        names = encode_prefix(prefix)
        if not everywhere:
            self._session.check("watch")
        elif not self._session.access.may_read_all(names):
            raise self._session.access.refusal("read", f"{names}*")
        if since is not None and not isinstance(since, (str, dict)):
            raise InvalidType(f"A cursor must be the str of a change's .cursor, not {type(since).__name__}.")
        if not isinstance(initial, bool):
            raise InvalidType(f"initial must be True or False, not {type(initial).__name__}.")
        if consumer is not None:
            encode_name(consumer, "consumer name", MAX_AGENT_BYTES)
        text = None if since is None else rules.dump(since)
        asked = (everywhere, names or None, text, consumer, initial)
        return Watch(self._waits, self._decode_in, self._session.namespace, *asked)  # type: ignore[arg-type]  # checked above

    def _decode_in(self, text: bytes, namespace: str, key: str) -> Json:
        return self._session.moved(namespace).decode(text, key)

    def _pages(self, operation: str, prefix: str | None) -> Iterator[list[Any]]:
        checked = encode_prefix(prefix) or None
        cursor = "0"
        while True:
            cursor, *page = self._session.call(operation, cursor, checked)
            yield page
            if cursor == "0":
                return

    def _pairs(self, parts: list[Any]) -> Iterator[tuple[str, Json]]:
        for key, text in zip(parts[::2], parts[1::2], strict=True):
            yield key, self._session.decode(text, key)


def _time(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)
