"""The `data_store` that agents see: the API of `redis_store.DataStore`, with the host at the other end of a socket.

Names and values are judged here by the same code as outside, so that a refusal reads the same and costs no round trip;
the host judges them again.
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
    """JSON under keys, in one namespace of the user for whom the agent runs."""

    def __init__(self, session: Session, waits: Waits) -> None:
        self._session = session
        self._waits = waits

    @property
    def namespace(self) -> str:
        """The namespace that this object works in."""
        return self._session.namespace

    @property
    def user(self) -> str:
        """The user whose data this is."""
        return self._session.user

    def get(self, key: str, default: Any = None) -> Json:
        """Return the value of a key, or `default` where it is absent."""
        parts = self._session.call("get", _key(key))
        return self._session.decode(parts[0], key) if parts else default

    def set(
        self,
        key: str,
        value: JsonInput,
        metadata: dict[str, Json] | None = None,
        ttl: Ttl = None,
    ) -> None:
        """Store a value; metadata is merged into what the key has; a time to live that it had is dropped.

        `ttl` is in seconds, or a timedelta; without one the namespace's default counts, against which there is `NEVER`.
        """
        self._session.call(
            "set", _key(key), rules.dump(value), metadata_text(metadata), ttl_seconds(ttl, self._session.ttl_s)
        )

    def expire(self, key: str, ttl: float | timedelta) -> bool:
        """Let a key expire that long from now, whatever it had before, and return whether it was there."""
        return bool(self._session.call("expire", _key(key), ttl_to_ms(ttl) / 1000)[0])

    def persist(self, key: str) -> bool:
        """Take a key's time to live away and return whether it had one."""
        return bool(self._session.call("persist", _key(key))[0])

    def increment(self, key: str, by: float = 1) -> Json:
        """Add a number to the one under a key, and return the sum; an absent key counts as nothing.

        Whole numbers stay exact; a ttl that the key has stays. Raises `WrongValueType` where it holds anything but a number.
        """
        return self._session.decode(
            self._session.call("increment", _key(key), rules.dump(by), self._session.ttl_s)[0], key
        )

    def append(self, key: str, *items: JsonInput, max_items: int | None = None) -> None:
        """Append to the list under a key, or begin one; with `max_items`, only so many of the newest stay.

        A ttl that the key has stays. Raises `WrongValueType` where it holds anything but a list.
        """
        most = None if max_items is None else check_max_items(max_items)
        texts = [rules.dump(item) for item in rules.to_plain(list(items))]
        self._session.call("append", _key(key), most, self._session.ttl_s, *texts)

    def set_if_absent(self, key: str, value: JsonInput, ttl: Ttl = None) -> bool:
        """Store a value where the key holds none, and return whether that was so: one of many callers gets True."""
        text = rules.dump(value)
        return bool(self._session.call("set_if_absent", _key(key), text, ttl_seconds(ttl, self._session.ttl_s))[0])

    def compare_and_set(self, key: str, expected: JsonInput | Missing, value: JsonInput, ttl: Ttl = None) -> bool:
        """Store a value if the key holds `expected`, or nothing with `MISSING`, and return whether it did.

        A stored null is a value, so None does not stand for nothing; nor is 1 the same as 1.0 or true. As with `set`, a ttl
        that the key had is dropped.
        """
        old = None if expected is MISSING else rules.dump(expected)
        text = rules.dump(value)
        return bool(
            self._session.call("compare_and_set", _key(key), old, text, ttl_seconds(ttl, self._session.ttl_s))[0]
        )

    def rename(self, key: str, new: str) -> bool:
        """Move a value with its metadata and ttl to another key, in place of what that holds; False where there is none."""
        return bool(self._session.call("rename", _key(key), _key(new))[0])

    @overload  # type: ignore[override]  # a store's takes a key and a function too
    def update(self, key: str, function: Callable[[Any], Any], /, default: Any = None) -> Json: ...
    @overload
    def update(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), /, **more: Any) -> None: ...
    def update(self, /, *args: Any, **kwargs: Any) -> Json:
        """Replace a key's value by what a function makes of it, and return that.

        The function gets `default` where the key is absent, and is called again whenever others wrote meanwhile. A ttl that
        the key has stays. What it raises comes out, and nothing is written.
        Called with a mapping or pairs instead, stores them all or nothing, as `dict.update` takes them.
        """
        if args and (isinstance(args[0], str) or len(args) > 1):
            return run_flow(update(self._session, *args, **kwargs))
        return super().update(*args, **kwargs)

    def pop(self, key: str, default: Any = MISSING) -> Json:
        """Delete a key and return the value that it had, else `default`; KeyError where there is none either."""
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
        """Return the value; where there is none, compute it with `make` and store it.

        Of any number of callers in any number of processes one computes. The others wait, and get its result, or
        `ComputeFailed` where `make` raised: then nothing is stored. `make` may take its time; if its run ends, another caller
        computes, and `lock_timeout` seconds after its process was stopped without an end. A stored null is a value like others.
        An asynchronous function is for `cached`.

        With `stale`, a value whose ttl is over is served for so many seconds more while one caller refreshes it.
        A value with `tags` is deleted by `invalidate_tag` too. What is deleted while it is computed is not stored.
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
        """Decorate a function so that its results are kept in this namespace, as by `get_or_set`.

        The key is made of the function's name, `version` and its arguments, which must be what JSON can say; or `key` says
        it: a text like ``"user:{user_id}"``, filled with the arguments, or a function of them. So may `tags`, a list of such
        texts or a function. With another `version` the old results count no longer, and go when their ttl is over.
        The function gets ``cache_key(...)``, ``invalidate(...)`` and ``invalidate_all()``. An ``async def`` stays one: it is
        awaited, and so are its ``invalidate`` and ``invalidate_all``.
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
        """Delete the cached values that carry a tag, in all of the user's namespaces, and return how many there were."""
        encode_tag(tag)
        self._session.check_writes_somewhere()
        read, write = (
            [str(one) for one in patterns] for patterns in (self._session.access.read, self._session.access.write)
        )
        return int(self._session.call_for_user("invalidate_tag", str.__str__(tag), len(read), *read, *write)[0])

    def transaction(self) -> Transaction:
        """Begin a transaction in the user's namespaces: what its block reads must still stand when the block ends.

        Then everything that it wrote is written at one moment; else `Conflict` is raised and nothing is. Writers of keys that
        it has not read never disturb it. `transact` runs a function again instead.
        """
        return Transaction(self._session, Draft(self._session))

    def transact(self, function: Callable[[Transaction], T]) -> T:
        """Run a function with a `transaction`, again whenever others wrote what it read, and return what it returns.

        The function should do nothing but read and write through the transaction. `Conflict` after very many tries.
        """
        return run_flow(transact(self._session, function))

    def lock(self, name: str, ttl: float | timedelta = 30, timeout: float | None = None) -> hold.Lock:
        """Return a lock of the user's, to be held in a block; every namespace's store means the same one.

        It is renewed while its holder lives, given back when his run ends, and gone `ttl` seconds after the host died; those
        who wait get it in their turn. With a `timeout` in seconds, `LockTimeout` is raised where it was not free in time; 0
        tries once. ``with`` blocks the agent while it waits; ``async with`` lets its other tasks go on.
        """
        return hold.lock(self._session, name, ttl, timeout)

    def semaphore(self, name: str, n: int, ttl: float | timedelta = 30, timeout: float | None = None) -> hold.Semaphore:
        """Return one of `n` places, to be held as a `lock` is; all users of a name give the same `n`."""
        return hold.semaphore(self._session, name, n, ttl, timeout)

    def rate_limit(self, name: str, n: int, per: float | timedelta, timeout: float | None = None) -> hold.RateLimit:
        """Return a limit of `n` in any `per` seconds, by the server's clock; all users of a name give the same numbers."""
        return hold.rate_limit(self._session, name, n, per, timeout)

    def delete(self, key: str) -> bool:
        """Delete a key and return whether it was there."""
        return bool(self._session.call("delete", _key(key))[0])

    def delete_many(self, keys: Iterable[str]) -> int:
        """Delete keys and return how many were there."""
        return int(self._session.call("delete_many", *_keys(keys))[0])

    def list_keys(self, prefix: str | None = None) -> list[str]:
        """Return the keys of the namespace that begin with `prefix`, sorted."""
        return self._session.call("list_keys", encode_prefix(prefix) or None)

    def iter_keys(self, prefix: str | None = None) -> Iterator[str]:
        """Iterate over the keys page by page, for namespaces too big for a list."""
        for page in self._pages("scan_page", prefix):
            yield from page

    def iter_items(self, prefix: str | None = None) -> Iterator[tuple[str, Json]]:
        """Iterate over keys and values page by page, for namespaces too big for a dict."""
        for page in self._pages("scan_items_page", prefix):
            yield from self._pairs(page)

    def list_namespaces(self, prefix: str | None = None) -> list[str]:
        """Return the user's namespaces that hold data, sorted."""
        names = self._session.channel.call("list_namespaces", self._session.namespace, encode_prefix(prefix) or None)
        return [name for name in names if self._session.access.may_read(name)]

    def get_many(self, keys: Iterable[str]) -> dict[str, Json]:
        """Return the values of those keys that are there, in the order asked for."""
        return dict(self._pairs(self._session.call("get_many", *_keys(keys))))

    def get_all(self, prefix: str | None = None) -> dict[str, Json]:
        """Return all keys of the namespace that begin with `prefix`, with their values."""
        return dict(self._pairs(self._session.call("get_all", encode_prefix(prefix) or None)))

    def set_many(
        self,
        items: Mapping[str, JsonInput],
        metadata: dict[str, Json] | None = None,
        ttl: Ttl = None,
    ) -> int:
        """Store all of the items or none, and return how many."""
        if not isinstance(items, Mapping):
            raise InvalidType(f"A batch must be a dict of keys and values, not {type(items).__name__}.")
        pairs = [part for key, value in items.items() for part in (_key(key), dump_of(key, value))]
        return int(
            self._session.call("set_many", metadata_text(metadata), ttl_seconds(ttl, self._session.ttl_s), *pairs)[0]
        )

    def clear(self) -> int:  # type: ignore[override]  # as `StoreMapping`'s
        """Delete every key of the namespace and return how many there were."""
        return int(self._session.call("clear")[0])

    def info(self, key: str) -> KeyInfo | None:
        """Return what is known about a key beside its value, or None where it is absent."""
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
        """Iterate over the changes of this namespace as they come, with ``for`` or ``async for``; it ends with the run."""
        return self._watch(False, prefix, since, consumer, initial)

    def watch_all(
        self,
        prefix: str | None = None,
        since: Mapping[str, str] | None = None,
        consumer: str | None = None,
        initial: bool = False,
    ) -> Watch:
        """Iterate over the changes in all of the user's namespaces, or those whose names begin so; else as `watch`."""
        if since is not None and not isinstance(since, Mapping):
            raise InvalidType(
                f"watch_all goes on from a dict of namespaces and cursors, not from a {type(since).__name__}."
            )
        return self._watch(True, prefix, None if since is None else dict(since), consumer, initial)

    def wait_for(self, key: str, timeout: float | None = None) -> Json:
        """Return the value at once if the key is there, else as soon as it is written; `WaitTimeout` if not in time."""
        self._session.check("wait_for")
        _, answer = self._waits.ask("wait", self._session.namespace, _key(key), check_timeout(timeout))
        return self._session.decode(answer.result()[0], key)

    def wait_until(self, key: str, predicate: Callable[[Json], bool], timeout: float | None = None) -> Json:
        """Return the value of the key as soon as the key is there and ``predicate(value)`` is true; else as `wait_for`."""
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
        """Return the store of another namespace of the same user.

        With `ttl`, what is written through it expires by default. With `max_keys`, other keys go when a write through it makes
        them more, of some taken at random those that were written longest ago.
        """
        return DataStore(self._session.moved(name, ttl, max_keys), self._waits)

    def read_only(self) -> DataStore:
        """Return this store without the right to write, for the user's other namespaces too."""
        return DataStore(self._session.narrowed(NO_WRITES), self._waits)

    def restricted(
        self,
        *,
        read: Iterable[str] | None = None,
        write: Iterable[str] | None = None,
        namespaces: Iterable[str] | None = None,
    ) -> DataStore:
        """Return a store that may read and write these namespaces and no others; both for `namespaces`.

        Each is a name, or the beginning of names with a ``*`` as its last character.
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
        return Watch(self._waits, self._decode_in, self._session.namespace, *asked)  # type: ignore[arg-type]  # judged above

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
