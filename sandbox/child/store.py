"""The `data_store` that agents see: the API of `redis_store.DataStore`, with the host at the other end of a socket.

Names and values are judged here by the same code as outside, so that a refusal reads the same and costs no round trip;
the host judges them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

from redis_store import _plain
from redis_store._access import EVERYTHING, NO_WRITES, Access
from redis_store._keys import MAX_NAMESPACE_BYTES, encode_key, encode_name, encode_prefix
from redis_store.errors import CorruptValue, InvalidType, InvalidValue, UnsupportedEncoding, WaitTimeout
from redis_store.mapping import StoreMapping
from redis_store.types import Change, Json, JsonInput, KeyInfo
from sandbox._messages import WRITES
from sandbox.child.channels import DataChannel
from sandbox.child.watching import Waits, Watch, checked_timeout

MAX_CONSUMER_BYTES = 256
_ABSENT: Any = object()
_RESERVED_FIRST_BYTE = 0x01
_LARGEST_INT = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DataStore(StoreMapping):
    """JSON under keys, in one namespace of the user for whom the agent runs."""

    def __init__(
        self, channel: DataChannel, user: str, namespace: str, waits: Waits, access: Access = EVERYTHING
    ) -> None:
        self._channel = channel
        self._waits = waits
        self._user = user
        self._namespace = namespace
        self._access = access

    @property
    def namespace(self) -> str:
        """The namespace that this object works in."""
        return self._namespace

    @property
    def user(self) -> str:
        """The user whose data this is."""
        return self._user

    def get(self, key: str, default: Any = None) -> Json:
        """Return the value of a key, or `default` where it is absent."""
        parts = self._call("get", _key(key))
        return self._decode(parts[0], key) if parts else default

    def set(
        self,
        key: str,
        value: JsonInput,
        metadata: dict[str, Json] | None = None,
        ttl: float | timedelta | None = None,
    ) -> None:
        """Store a value; `metadata` is merged into what the key has, a ttl that it had is dropped."""
        self._call("set", _key(key), _plain.dump(value), _metadata(metadata), _seconds(ttl))

    def delete(self, key: str) -> bool:
        """Delete a key and return whether it was there."""
        return bool(self._call("delete", _key(key))[0])

    def delete_many(self, keys: Iterable[str]) -> int:
        """Delete keys and return how many were there."""
        return int(self._call("delete_many", *_keys(keys))[0])

    def list_keys(self, prefix: str | None = None) -> list[str]:
        """Return the keys of the namespace that begin with `prefix`, sorted."""
        return self._call("list_keys", encode_prefix(prefix) or None)

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
        names = self._channel.call("list_namespaces", self._namespace, encode_prefix(prefix) or None)
        return [name for name in names if self._access.may_read(name)]

    def get_many(self, keys: Iterable[str]) -> dict[str, Json]:
        """Return the values of those keys that are there, in the order asked for."""
        return dict(self._pairs(self._call("get_many", *_keys(keys))))

    def get_all(self, prefix: str | None = None) -> dict[str, Json]:
        """Return all keys of the namespace that begin with `prefix`, with their values."""
        return dict(self._pairs(self._call("get_all", encode_prefix(prefix) or None)))

    def set_many(
        self,
        items: Mapping[str, JsonInput],
        metadata: dict[str, Json] | None = None,
        ttl: float | timedelta | None = None,
    ) -> int:
        """Store all of the items or none, and return how many."""
        if not isinstance(items, Mapping):
            raise InvalidType(f"A batch must be a dict of keys and values, not {type(items).__name__}.")
        pairs = [part for key, value in items.items() for part in (_key(key), _dump_of(key, value))]
        return int(self._call("set_many", _metadata(metadata), _seconds(ttl), *pairs)[0])

    def clear(self) -> int:  # type: ignore[override]  # as `StoreMapping`'s
        """Delete every key of the namespace and return how many there were."""
        return int(self._call("clear")[0])

    def info(self, key: str) -> KeyInfo | None:
        """Return what is known about a key beside its value, or None where it is absent."""
        parts = self._call("info", _key(key))
        if not parts:
            return None
        name, created, created_by, updated, updated_by, metadata, size, expires = parts
        return KeyInfo(
            name, _time(created), created_by, _time(updated), updated_by, _plain.load(metadata), size, _time(expires)
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
        self._check("wait_for")
        _, answer = self._waits.ask("wait", self._namespace, _key(key), checked_timeout(timeout))
        return self._decode(answer.result()[0], key)

    def wait_until(self, key: str, predicate: Callable[[Json], bool], timeout: float | None = None) -> Json:
        """Return the value of the key as soon as the key is there and ``predicate(value)`` is true; else as `wait_for`."""
        limit_s = checked_timeout(timeout)
        deadline = None if limit_s is None else monotonic() + limit_s
        if not callable(predicate):
            raise InvalidType(f"A predicate must be callable, not {type(predicate).__name__}.")
        name = _key(key)
        with self.watch(prefix=name) as changes:
            change: Change | None = None
            while True:
                if change is None or change.op == "reset":
                    value = self.get(name, _ABSENT)
                elif change.key == name and change.op == "set":
                    value = change.value
                else:
                    value = _ABSENT
                if value is not _ABSENT and predicate(value):
                    return value
                change = changes.next_change(None if deadline is None else max(0.0, deadline - monotonic()))
                if change is None:
                    raise WaitTimeout(
                        f"The key {name!r} in namespace {self._namespace!r} had no value that was waited for within"
                        f" {limit_s:g} seconds.",
                        namespace=self._namespace,
                        key=name,
                    )

    def use_namespace(self, name: str) -> DataStore:
        """Return the store of another namespace of the same user."""
        encode_name(name, "namespace", MAX_NAMESPACE_BYTES)
        return DataStore(self._channel, self._user, str.__str__(name), self._waits, self._access)

    def read_only(self) -> DataStore:
        """Return this store without the right to write, for the user's other namespaces too."""
        return DataStore(self._channel, self._user, self._namespace, self._waits, self._access.narrowed(NO_WRITES))

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
        access = self._access.narrowed(Access.of(read, write, namespaces))
        return DataStore(self._channel, self._user, self._namespace, self._waits, access)

    def __repr__(self) -> str:
        return f"<DataStore user={self._user!r} namespace={self._namespace!r}>"

    def _contains(self, key: str) -> bool:
        return bool(self._call("contains", _key(key))[0])

    def _count(self) -> int:
        return int(self._call("count")[0])

    def _watch(self, everywhere: bool, prefix: str | None, since: object, consumer: object, initial: object) -> Watch:
        names = encode_prefix(prefix)
        if not everywhere:
            self._check("watch")
        elif not self._access.may_read_all(names):
            raise self._access.refusal("read", f"{names}*")
        if since is not None and not isinstance(since, (str, dict)):
            raise InvalidType(f"A cursor must be the str of a change's .cursor, not {type(since).__name__}.")
        if not isinstance(initial, bool):
            raise InvalidType(f"initial must be True or False, not {type(initial).__name__}.")
        if consumer is not None:
            encode_name(consumer, "consumer name", MAX_CONSUMER_BYTES)
        text = None if since is None else _plain.dump(since)
        asked = (everywhere, names or None, text, consumer, initial)
        return Watch(self._waits, self._decode_in, self._namespace, *asked)  # type: ignore[arg-type]  # judged above

    def _decode_in(self, text: bytes, namespace: str, key: str) -> Json:
        return self.use_namespace(namespace)._decode(text, key)

    def _call(self, operation: str, *arguments: Any) -> list[Any]:
        if self._access is not EVERYTHING:
            self._check(operation)
        return self._channel.call(operation, self._namespace, *arguments)

    def _check(self, operation: str) -> None:
        """Keep a handle to what it was narrowed to; what the agent as a whole may do is the host's to judge."""
        action = "write" if operation in WRITES else "read"
        may = self._access.may_write if operation in WRITES else self._access.may_read
        if not may(self._namespace):
            raise self._access.refusal(action, self._namespace)

    def _pages(self, operation: str, prefix: str | None) -> Iterator[list[Any]]:
        checked = encode_prefix(prefix) or None
        cursor = "0"
        while True:
            cursor, *page = self._call(operation, cursor, checked)
            yield page
            if cursor == "0":
                return

    def _pairs(self, parts: list[Any]) -> Iterator[tuple[str, Json]]:
        for key, text in zip(parts[::2], parts[1::2], strict=True):
            yield key, self._decode(text, key)

    def _decode(self, text: bytes, key: str) -> Json:
        try:
            return _plain.load(text)
        except (ValueError, RecursionError):
            raise self._undecodable(text, key) from None

    def _undecodable(self, text: bytes, key: str) -> CorruptValue | UnsupportedEncoding:
        where = f"The value of {key!r} in namespace {self._namespace!r}"
        if text[:1] == bytes([_RESERVED_FIRST_BYTE]):
            return UnsupportedEncoding(
                f"{where} has an encoding that this version cannot read: upgrade agent-data-store.",
                namespace=self._namespace,
                key=key,
            )
        return CorruptValue(
            f"{where} is not JSON (it begins with {text[:32]!r}): set it again, or delete it.",
            namespace=self._namespace,
            key=key,
            first_bytes=text[:32],
        )


def _key(key: object) -> str:
    encode_key(key)  # type: ignore[arg-type]  # it judges whatever an agent passes
    return str.__str__(key)


def _keys(keys: Iterable[str]) -> list[str]:
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable):
        raise InvalidType(f"Keys must be a list of str, not {type(keys).__name__}: put a single key in a list.")
    return [_key(key) for key in keys]


def _dump_of(key: str, value: object) -> bytes:
    try:
        return _plain.dump(value)
    except InvalidValue as error:
        raise InvalidValue(f"Under the key {key!r}: {error}", path=error.path, key=key) from None


def _metadata(metadata: dict[str, Json] | None) -> bytes | None:
    if metadata is not None and not isinstance(metadata, dict):
        raise InvalidType(f"Metadata must be a dict or None, not {type(metadata).__name__}.")
    return _plain.dump(metadata) if metadata else None


def _seconds(ttl: object) -> float | None:
    if ttl is None:
        return None
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise InvalidType(f"A ttl must be a number of seconds or a timedelta, not {type(ttl).__name__}.")
    if isinstance(seconds, float):
        return float(seconds)
    # The host refuses what is out of range; the nearest number that a message can carry is out of range too.
    return max(-_LARGEST_INT, min(int(seconds), _LARGEST_INT))


def _time(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)
