"""Lua scripts that run in the server, read once as package data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from redis_store.protocol.call import Argument, Command, Opening
from redis_store.protocol.packing import opening


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, and the digest under which a server caches it."""

    name: str
    text: bytes
    sha: bytes

    def by_digest(self, keys: tuple[bytes, ...], arguments: tuple[Argument, ...]) -> Command:
        """Return the command that runs a cached script; a server that has not cached it replies ``NOSCRIPT``."""
        return (b"EVALSHA", self.sha, len(keys), *keys, *arguments)

    def opening(self, keys: tuple[bytes, ...], arguments: tuple[Argument, ...]) -> Opening:
        """Return the start of `by_digest`, packed once for the many calls that differ only in a field and a value."""
        return opening("EVALSHA", self.sha, len(keys), *keys, *arguments, keys=keys)

    def by_text(self, keys: tuple[bytes, ...], arguments: tuple[Argument, ...]) -> Command:
        """Return the command that runs the script on any server, which then caches it."""
        return (b"EVAL", self.text, len(keys), *keys, *arguments)


def _load(*names: str) -> Script:
    """Read a script and the texts that precede it; the last name is the script's own."""
    return _script(names[-1], b"".join(map(_read, names)))


def _bounded(script: Script) -> Script:
    """Return the script wrapped in the code that evicts keys to make room for its writes (`bound.lua`)."""
    before = b"".join(map(_read, ("prelude", "bound", "bound_open")))
    return _script(f"bounded {script.name}", before + script.text + _read("bound_close"))


def _read(name: str) -> bytes:
    return (files(__name__) / f"{name}.lua").read_bytes()


def _script(name: str, text: bytes) -> Script:
    return Script(name, text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


SET = _load("prelude", "info_text", "set")
WRITE = _load("prelude", "info_text", "write")
CHECK = _load("prelude", "check")
REPLACE = _load("prelude", "info_text", "field", "replace")
INCREMENT = _load("prelude", "info_text", "field", "increment")
APPEND = _load("prelude", "info_text", "field", "append")
EXPIRE = _load("prelude", "expire")
DELETE = _load("prelude", "remove", "delete")
TAKE = _load("prelude", "remove", "take")
RENAME = _load("prelude", "info_text", "field", "remove", "rename")
TRANSACT = _load("prelude", "info_text", "field", "remove", "transact")
CLEAR = _load("prelude", "clear")
INFO = _load("info")
METADATA = _load("metadata")
SMALL = _load("small")
SIZES = _load("sizes")
SCAN_KEYS = _load("scan_keys")
PRESENT = _load("holds", "present")
PRUNE = _load("holds", "prune")
LOCK_ACQUIRE = _load("queue", "lock_acquire")
LOCK_RENEW = _load("lock_renew")
LOCK_RELEASE = _load("queue", "lock_release")
SEMAPHORE_ACQUIRE = _load("queue", "semaphore_acquire")
SEMAPHORE_RENEW = _load("semaphore_renew")
SEMAPHORE_RELEASE = _load("queue", "semaphore_release")
RATE_TAKE = _load("rate_take")
FLIGHT_CLAIM = _load("flight", "flight_claim")
FLIGHT_RENEW = _load("flight", "flight_renew")
FLIGHT_COMMIT = _load("prelude", "info_text", "field", "flight", "flight_commit")
FLIGHT_FAIL = _load("flight", "flight_fail")
UNTAG = _script("untag", _read("untag_open") + DELETE.text + _read("untag_close"))
EVICT = _load("prelude", "bound", "evict")
BOUNDED = {
    script.name: _bounded(script)
    for script in (SET, WRITE, REPLACE, INCREMENT, APPEND, RENAME, TRANSACT, FLIGHT_COMMIT)
}
"""The scripts that can add keys, by name, in the form for a namespace with `max_keys`."""
ATTACH = _load("attach")
NOTE = _load("note")
CLAIM = _load("claim")
ADVANCE = _load("advance")
RELEASE = _load("release")
