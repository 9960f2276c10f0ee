"""The only builder of Redis keys, and the only validator of names from callers.

A user id is percent-encoded in its Redis keys, so that no id can be taken for another or for a part of a Redis key. Namespace
names come last and stay as they are. The fields of hashes are the agents' keys and stay as they are too.
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from redis_store.errors import InvalidName, InvalidType, LimitExceeded
from redis_store.limits import shown

DEFAULT_NAMESPACE = "default"
"""The namespace of a handle if the caller names none."""

MAX_KEY_BYTES = 64 * 1024
MAX_NAMESPACE_BYTES = 1024
MAX_USER_BYTES = 256
MAX_AGENT_BYTES = 256

SLOTS = 16_384
"""The hash slots of a cluster."""

_CONSUMERS = b"consumer:"
"""Prefix of the locks that name the process holding a consumer."""

AUDIT_LOG = b"user::audit"
"""The Redis key of the log of operators' changes. No user's data is there, as no user id is empty."""

_UNSAFE = re.compile(rb"[^A-Za-z0-9_.-]")
_GLOB = re.compile(r"([\\*?\[\]])")


@dataclass(frozen=True, slots=True)
class NamespaceKeys:
    """The Redis keys of one namespace, and its name as stored in the user's registry."""

    name: bytes
    data: bytes
    registry: bytes
    info: bytes
    log: bytes
    flight: bytes
    """The claims of callers that compute values of this namespace (`ops/compute_once.py`)."""
    seen: bytes
    """The state of the namespace as the last watcher read it: see `changelog/digests.py`."""


class FormUnknown(AttributeError):
    """A Redis key was needed before the form of the keys is known: a mistake in this package, or a rehearsal."""


class Form(Protocol):
    """The form of a user's Redis keys, which depends on the server."""

    tagged: bool | None
    """Whether they have a hash tag, as a cluster needs it: ``user:{<id>}:...``; None while that is unknown."""
    is_redis: bool
    """Whether the server is known to be Redis, whose scripts copy big values more slowly than those of Valkey."""


@dataclass(slots=True)
class FixedForm:
    """The form where no server has to be asked."""

    tagged: bool | None
    is_redis: bool = False


PLAIN, TAGGED = FixedForm(False), FixedForm(True)


@dataclass(frozen=True, slots=True)
class UserKeys:
    """Builds the Redis keys of one user. On a cluster they share a hash tag, and so a hash slot.

    While the form is unknown it builds none: drivers find it out before an operation begins.
    """

    user: str
    form: Form = field(compare=False)
    own_part: bytes = b""
    """The part of an agent's own names, see `own`."""
    prefix: bytes = field(init=False, repr=False, compare=False)
    registry: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.form.tagged is None:
            object.__setattr__(self, "__class__", _LateKeys)
        else:
            self._build(self.form.tagged)

    def _build(self, tagged: bool) -> None:
        prefix = self._prefix(tagged)
        object.__setattr__(self, "registry", prefix + b"namespaces")
        object.__setattr__(self, "prefix", prefix + self.own_part)

    def _prefix(self, tagged: bool) -> bytes:
        return (b"user:{%b}:" if tagged else b"user:%b:") % _percent(self.user.encode())

    @classmethod
    def of(cls, user: str, *, hash_tag: bool = False, form: Form | None = None) -> UserKeys:
        """Check a user id and return its key builder; with `hash_tag`, keys have the form that Redis Cluster needs."""
        encode_name(user, "user id", MAX_USER_BYTES)
        return cls(user, form or (TAGGED if hash_tag else PLAIN))

    @property
    def name_for_cursors(self) -> bytes:
        """Return what tells the cursors of this user from those of others. It is the same in both forms of keys."""
        return self._prefix(False) + self.own_part

    @property
    def slot(self) -> int:
        """The hash slot that all keys of the user are in, on a cluster."""
        return crc_hqx(_percent(self.user.encode()), 0) % SLOTS

    def registry_in(self, tagged: bool) -> bytes:
        """Return the Redis key of the registry in one of the two forms."""
        return self._prefix(tagged) + b"namespaces"

    def format_in(self, tagged: bool) -> bytes:
        """Return the Redis key of the mark of the format version (`format.py`); scripts make it from that of the registry."""
        return self._prefix(tagged) + b"format"

    def namespace(self, name: str) -> NamespaceKeys:
        """Check a namespace's name and return its Redis keys."""
        return self.of_stored(encode_namespace(name))

    def of_stored(self, raw: bytes) -> NamespaceKeys:
        """Return the Redis keys of a namespace, from its name as stored in the registry."""
        prefix = self.prefix
        return NamespaceKeys(
            raw,
            self.data(raw),
            self.registry,
            prefix + b"info:" + raw,
            prefix + b"log:" + raw,
            prefix + b"flight:" + raw,
            prefix + b"seen:" + raw,
        )

    def data(self, name: bytes) -> bytes:
        """Return the Redis key of a namespace's hash, from its name as stored in the registry."""
        return self.prefix + b"ns:" + name

    def own(self, agent: str) -> UserKeys:
        """Return the builder for an agent's own locks, limits, tags and consumers.

        Of other Redis keys it builds none: data belongs to the user. An encoded name contains no ``:``, so no name reaches a key
        of another agent or of the user.
        """
        return UserKeys(self.user, self.form, b"own:%b:" % _percent(encode_name(agent, "agent name", MAX_AGENT_BYTES)))

    def beside(self, agent: str) -> bytes:
        """Return the Redis key of the list of what an agent's runs have stored beside the data (`ops/usage.py`)."""
        return self.prefix + b"beside:" + _percent(agent.encode())

    @property
    def computed(self) -> tuple[bytes, bytes]:
        """The Redis keys of the hashes that count hits and computations: of the even days since 1970, and of the odd ones."""
        return self.prefix + b"computed:0", self.prefix + b"computed:1"

    @property
    def runs(self) -> bytes:
        """The Redis key of the index of the runs that are kept (`ops/kept_runs.py`)."""
        return self.prefix + b"runs"

    def run(self, run: str) -> bytes:
        """Return the Redis key of the record of a run that is kept."""
        return self.prefix + b"run:" + run.encode()

    @property
    def fence(self) -> bytes:
        """The Redis key of the hash with the last fencing number of any lock."""
        return self.prefix + b"fence"

    def lock(self, name: bytes) -> bytes:
        """Return the Redis key of a lock."""
        return self.prefix + b"lock:" + name

    def limit(self, name: bytes) -> bytes:
        """Return the Redis key of a semaphore."""
        return self.prefix + b"limit:" + name

    def rate(self, name: bytes) -> bytes:
        """Return the Redis key of a rate limit."""
        return self.prefix + b"rate:" + name

    def queue(self, kind: bytes, name: bytes) -> bytes:
        """Return the Redis key of the queue of waiters; `kind` is ``lock``, or ``limit`` for a semaphore."""
        return self.prefix + b"queue:" + kind + b":" + name

    def tries(self, kind: bytes, name: bytes) -> bytes:
        """Return the Redis key of the last try of each waiter in a `queue`."""
        return self.prefix + b"tries:" + kind + b":" + name

    def tag(self, name: bytes) -> bytes:
        """Return the Redis key of a tag's entries."""
        return self.prefix + b"tag:" + name

    @property
    def tags(self) -> bytes:
        """The Redis key of the registry of tags, which the scripts keep (`scripts/tags.lua`)."""
        return self.prefix + b"tags"

    def barrier(self, random: str) -> bytes:
        """Return the channel of one watching process, which is also the Redis key that it probes with."""
        return self.prefix + b"w:" + random.encode()

    @property
    def none(self) -> bytes:
        """A Redis key that never exists. A cluster that moves the slot refuses commands of several keys with it."""
        return self.prefix + b"w:none"

    def wake(self, random: str) -> bytes:
        """Return the Redis key of the stream with which one watching process ends its own ``XREAD``."""
        return self.barrier(random) + b":wake"

    def consumer(self, name: str) -> bytes:
        """Check a consumer's name and return the Redis key of its cursors."""
        return self.prefix + b"consumer:" + encode_name(name, "consumer name", MAX_AGENT_BYTES)

    def consumer_lock(self, name: str, namespace: bytes) -> bytes:
        """Return the Redis key of the lock of the process that holds a consumer; an empty namespace stands for all."""
        return self.lock(_CONSUMERS + _percent(name.encode()) + b":" + namespace)


class _LateKeys(UserKeys):
    """A builder made while the form was unknown. A class of its own, because `__getattr__` makes every attribute slower."""

    __slots__ = ()

    def __getattr__(self, name: str) -> bytes:
        """Build what was not built at first. Python calls this for what is not there."""
        if name not in ("prefix", "registry"):
            raise AttributeError(name)
        if (tagged := self.form.tagged) is None:
            raise FormUnknown(name)
        self._build(tagged)
        object.__setattr__(self, "__class__", UserKeys)
        return self.prefix if name == "prefix" else self.registry


def encode_key(key: str) -> bytes:
    """Check a key and return the hash field that it is stored under."""
    if type(key) is str and key:
        try:
            raw = key.encode()
        except UnicodeEncodeError:
            raise _surrogate("key", key) from None
        if len(raw) <= MAX_KEY_BYTES:
            return raw
    return encode_name(key, "key", MAX_KEY_BYTES)


def encode_name(name: object, kind: str, limit_bytes: int) -> bytes:
    """Return a name in UTF-8, or raise an `InvalidInput` that says why it is invalid."""
    if not isinstance(name, str):
        raise InvalidType(f"The {kind} must be a str, not {type(name).__name__}: {shown(name)}.")
    if not name:
        raise InvalidName(f"The {kind} must not be empty: give it at least one character.", kind=kind)
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise _surrogate(kind, name) from None
    if len(raw) > limit_bytes:
        raise LimitExceeded(
            f"The {kind} {shown(name)} takes {len(raw):,} bytes in UTF-8, and at most {limit_bytes:,} are allowed:"
            " shorten it, for example with a hash of its end.",
            limit=f"max_{kind.replace(' ', '_')}_bytes",
            limit_bytes=limit_bytes,
            size_bytes=len(raw),
        )
    return raw


def encode_namespace(name: str) -> bytes:
    """Check a namespace's name and return it as it is stored in the registry."""
    return encode_name(name, "namespace", MAX_NAMESPACE_BYTES)


def encode_lock_name(name: object) -> bytes:
    """Return a lock's name in UTF-8. Names of consumers' locks are rejected, as a caller could hold a consumer with them."""
    raw = encode_name(name, "lock name", MAX_NAMESPACE_BYTES)
    if raw.startswith(_CONSUMERS):
        raise InvalidName(
            f"The lock name {shown(name)} begins with {_CONSUMERS.decode()!r}, which is reserved for consumers: choose another.",
            kind="lock name",
        )
    return raw


def encode_prefix(prefix: str | None) -> str:
    """Return a prefix of keys or namespaces as a str, or raise if it is invalid. None and an empty prefix match everything."""
    if prefix is None or prefix == "":
        return ""
    encode_name(prefix, "prefix", MAX_KEY_BYTES)
    return str(prefix)


def glob_for_prefix(prefix: str) -> str:
    """Return the MATCH pattern of a literal prefix."""
    return _GLOB.sub(r"\\\1", prefix) + "*"


def decode_name(raw: bytes) -> str:
    """Return a stored key or namespace as str. Bytes that are not UTF-8 (external writes) become backslash escapes."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="backslashreplace")


def decode_names(raws: Iterable[bytes]) -> list[str]:
    """Return stored keys or namespaces as `decode_name` does, but faster for many."""
    try:
        return list(map(bytes.decode, raws := list(raws)))
    except UnicodeDecodeError:
        return list(map(decode_name, raws))


def _percent(raw: bytes) -> bytes:
    return _UNSAFE.sub(lambda match: b"%%%02X" % match.group()[0], raw)


def _surrogate(kind: str, name: str) -> InvalidName:
    return InvalidName(
        f"The {kind} {shown(name)} has a lone surrogate, which UTF-8 cannot represent: encode it, for example with"
        " base64.",
        kind=kind,
    )
