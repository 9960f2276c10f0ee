"""The only builder of Redis keys, and the only judge of names from outside.

A user id stands percent-encoded in its keys, so that no id can look like another or like a part of a key. Namespace names
stand last and stay as they are; fields of hashes are keys of agents and stay as they are too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from redis_store.errors import InvalidName, InvalidType, LimitExceeded

DEFAULT_NAMESPACE = "default"
"""The namespace of a handle for which none is named."""

MAX_KEY_BYTES = 64 * 1024
MAX_NAMESPACE_BYTES = 1024
MAX_USER_BYTES = 256
MAX_AGENT_BYTES = 256

_CONSUMERS = b"consumer:"
"""The locks that say which process is a consumer begin so."""

_UNSAFE = re.compile(rb"[^A-Za-z0-9_.-]")
_GLOB = re.compile(r"([\\*?\[\]])")


@dataclass(frozen=True, slots=True)
class NamespaceKeys:
    """The Redis keys of one namespace, and what stands for it in the user's registry."""

    name: bytes
    data: bytes
    registry: bytes
    info: bytes
    log: bytes
    flight: bytes
    """Who computes what in this namespace (`ops.flights`)."""
    seen: bytes
    """What the last watcher knew when it looked: see `changelog.digests`."""


@dataclass(frozen=True, slots=True)
class UserKeys:
    """Builds the keys of one user; on a cluster they share a hash tag, and so a slot."""

    user: str
    prefix: bytes
    registry: bytes

    @classmethod
    def of(cls, user: str, *, hash_tag: bool = False) -> UserKeys:
        """Check a user id and return its keys; with `hash_tag` as Redis Cluster wants them."""
        raw = encode_name(user, "user id", MAX_USER_BYTES)
        encoded = _percent(raw)
        prefix = b"user:{%s}:" % encoded if hash_tag else b"user:%s:" % encoded
        return cls(user, prefix, prefix + b"namespaces")

    def namespace(self, name: str) -> NamespaceKeys:
        """Check a namespace's name and return its keys."""
        raw = encode_name(name, "namespace", MAX_NAMESPACE_BYTES)
        return self.of_stored(raw)

    def of_stored(self, raw: bytes) -> NamespaceKeys:
        """Return the keys of a namespace, from its name as the registry holds it."""
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
        """Return the key of a namespace's hash, from its name as the registry holds it."""
        return self.prefix + b"ns:" + name

    @property
    def fence(self) -> bytes:
        """The hash that counts, by the names of locks, how often each was taken."""
        return self.prefix + b"fence"

    def lock(self, name: bytes) -> bytes:
        """Return the key of a lock."""
        return self.prefix + b"lock:" + name

    def limit(self, name: bytes) -> bytes:
        """Return the key of a semaphore or of a rate limit."""
        return self.prefix + b"limit:" + name

    def queue(self, kind: bytes, name: bytes) -> bytes:
        """Return the key of those who wait for a ``lock`` or, with a semaphore, for a ``limit``."""
        return self.prefix + b"queue:" + kind + b":" + name

    def tag(self, name: bytes) -> bytes:
        """Return the key of what carries a tag."""
        return self.prefix + b"tag:" + name

    def barrier(self, random: str) -> bytes:
        """Return the channel, and the key to probe with, of one watching process."""
        return self.prefix + b"w:" + random.encode()

    def consumer(self, name: str) -> bytes:
        """Check a consumer's name and return the key of its cursors."""
        return self.prefix + b"consumer:" + encode_name(name, "consumer name", MAX_AGENT_BYTES)

    def consumer_lock(self, name: str, namespace: bytes) -> bytes:
        """Return the key of the lock that says which process is this consumer; an empty namespace stands for all."""
        return self.lock(_CONSUMERS + _percent(name.encode()) + b":" + namespace)


def encode_key(key: str) -> bytes:
    """Check an agent's key and return the hash field that stands for it."""
    if type(key) is str and key:
        try:
            raw = key.encode()
        except UnicodeEncodeError:
            raise _surrogate("key", key) from None
        if len(raw) <= MAX_KEY_BYTES:
            return raw
    return encode_name(key, "key", MAX_KEY_BYTES)


def encode_name(name: object, kind: str, limit_bytes: int) -> bytes:
    """Return a name in UTF-8, or say why it cannot be one."""
    if not isinstance(name, str):
        raise InvalidType(f"A {kind} must be a str, not {type(name).__name__}: {_shown(name)}.")
    if not name:
        raise InvalidName(f"A {kind} must not be empty: give it at least one character.", kind=kind)
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise _surrogate(kind, name) from None
    if len(raw) > limit_bytes:
        raise LimitExceeded(
            f"The {kind} {_shown(name)} takes {len(raw):,} bytes in UTF-8, and at most {limit_bytes:,} are allowed:"
            " shorten it, for example with a hash of its end.",
            limit=f"max_{kind.replace(' ', '_')}_bytes",
            limit_bytes=limit_bytes,
            size_bytes=len(raw),
        )
    return raw


def encode_lock_name(name: object) -> bytes:
    """Return a caller's name of a lock in UTF-8; those of consumers' locks are not to be had, or it would pose as one."""
    raw = encode_name(name, "lock name", MAX_NAMESPACE_BYTES)
    if raw.startswith(_CONSUMERS):
        raise InvalidName(
            f"The lock name {_shown(name)} begins with {_CONSUMERS.decode()!r}, as do the locks of consumers: choose another.",
            kind="lock name",
        )
    return raw


def encode_prefix(prefix: str | None) -> str:
    """Check a prefix of keys or namespaces; None and the empty one match everything."""
    if prefix is None or prefix == "":
        return ""
    encode_name(prefix, "prefix", MAX_KEY_BYTES)
    return str(prefix)


def glob_for_prefix(prefix: str) -> str:
    """Return the MATCH pattern that stands for a literal prefix."""
    return _GLOB.sub(r"\\\1", prefix) + "*"


def decode_name(raw: bytes) -> str:
    """Return a key or namespace as it is stored; what is not UTF-8 (written by hand) is shown with backslashes."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="backslashreplace")


def decode_names(raws: Iterable[bytes]) -> list[str]:
    """Return keys or namespaces as `decode_name` does, at once."""
    try:
        return list(map(bytes.decode, raws := list(raws)))
    except UnicodeDecodeError:
        return list(map(decode_name, raws))


def _percent(raw: bytes) -> bytes:
    return _UNSAFE.sub(lambda match: b"%%%02X" % match.group()[0], raw)


def _surrogate(kind: str, name: str) -> InvalidName:
    return InvalidName(
        f"The {kind} {_shown(name)} has a lone surrogate, which UTF-8 cannot say: encode it in a way of your own.",
        kind=kind,
    )


def _shown(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 80 else text[:77] + "..."
