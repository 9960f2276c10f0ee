"""Lua scripts that run in the server, read once as package data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from redis_store.limits import MOST_ARGUMENTS
from redis_store.namespace.format import mark
from redis_store.protocol.command import Argument, Command, Opening
from redis_store.protocol.packing import as_bytes, opening, pack_texts

_LONG_BYTES = 1024
"""Length of an argument, in bytes, from which it is sent by itself beside those that are packed together (`wide.lua`)."""

_HEAD = 3
"""Arguments of a command before a script's keys."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, and the digest under which a server caches it."""

    name: str
    text: bytes
    sha: bytes

    def by_digest(self, keys: tuple[bytes, ...], arguments: tuple[Argument, ...]) -> Command:
        """Return the command that runs a cached script; a server that has not cached it replies ``NOSCRIPT``."""
        script = self
        if (room := MOST_ARGUMENTS - _HEAD - len(keys)) < len(arguments):
            script, arguments = _widened(self), _packed(arguments, room)
        return (b"EVALSHA", script.sha, len(keys), *keys, *arguments)

    def opening(self, keys: tuple[bytes, ...], arguments: tuple[Argument, ...]) -> Opening:
        """Return the start of `by_digest`, packed once for the many calls that differ only in a field and a value."""
        return opening("EVALSHA", self.sha, len(keys), *keys, *arguments, keys=keys)

    def opening_by_text(self, keys: tuple[bytes, ...], arguments: tuple[Argument, ...]) -> Opening:
        """Return the start of `by_text`, packed once."""
        return opening("EVAL", self.text, len(keys), *keys, *arguments, keys=keys)

    def by_text(self, keys: tuple[bytes, ...], arguments: tuple[Argument, ...]) -> Command:
        """Return the command that runs the script on any server, which then caches it."""
        script = self
        if (room := MOST_ARGUMENTS - _HEAD - len(keys)) < len(arguments):
            script, arguments = _widened(self), _packed(arguments, room)
        return (b"EVAL", script.text, len(keys), *keys, *arguments)


@cache
def _widened(script: Script) -> Script:
    """Return the form of a script that takes any number of arguments, packed together (`wide.lua`)."""
    return _script(f"wide {script.name}", _read("wide") + script.text)


def _packed(arguments: tuple[Argument, ...], room: int) -> tuple[bytes, ...]:
    """Return the arguments of a widened script: at most `room`, but no less than 2."""
    texts = [as_bytes(argument) for argument in arguments]
    places = [at for at, text in enumerate(texts) if len(text) >= _LONG_BYTES][: max(0, room - 2)]
    long = [texts[at] for at in places]
    for at in places:
        texts[at] = b""
    return (pack_texts(texts), pack_texts([b"%d" % (at + 1) for at in places]), *long)


def _load(*names: str) -> Script:
    """Read a script and the texts that precede it; the last name is the script's own."""
    return _script(names[-1], b"".join(map(_read, names)))


def _writing(*names: str) -> Script:
    """Read a script that writes to a namespace."""
    return _script(names[-1], b"local mark = '%b'\n" % mark() + b"".join(map(_read, ("base", "prelude", *names))))


def _setting(*names: str) -> Script:
    """Read a script that sets single fields."""
    return _writing("times", "info_text", "tags", "field", *names)


def _awaited(*names: str) -> Script:
    """Read a script that others may wait for."""
    return _load("base", "waiters", *names)


def _bounded(name: str, text: bytes) -> Script:
    """Return a script wrapped in the code that evicts keys to make room for its writes (`bound.lua`)."""
    return _script(f"bounded {name}", _writing("times", "bound").text + text + _read("bound_close"))


def _read(name: str) -> bytes:
    """Read a text without its lines that are comments: a server digests each text that it is sent, at 400 bytes a microsecond."""
    lines = (files(__name__) / f"{name}.lua").read_bytes().splitlines(keepends=True)
    return b"".join(line for line in lines if not line.lstrip().startswith(b"--"))


def _script(name: str, text: bytes) -> Script:
    return Script(name, text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


SET = _writing("times", "info_text", "set")
SET_BESIDE = _writing("times", "info_text", "set_beside")
WRITE = _script("write", _writing("times", "info_text", "write").text + _read("tags") + _read("write_tags"))
CHECK = _writing("check")
REPLACE = _setting("replace")
INCREMENT = _setting("increment")
APPEND = _setting("append")
EXPIRE = _writing("time", "tags", "expire")
TOUCH = _writing("time", "tags", "touch")
DELETE = _writing("remove", "delete")
TAKE = _writing("remove", "take")
RENAME = _setting("remove", "rename")
TRANSACT = _setting("version", "remove", "transact")
CLEAR = _writing("remove", "clear")
INFO = _load("info")
INFOS = _load("infos")
SMALL_INFOS = _load("small_infos", "infos")
SCAN_INFOS = _load("scan_infos")
RAISE_FORMAT = _load("raise_format")
DROP_ORPHAN = _load("drop_orphan")
METADATA = _load("metadata")
LAST_WRITE = _load("base", "times", "last_write")
RECENT = _load("base", "times", "recent")
BEHIND = _load("behind")
SMALL = _load("small")
SIZES = _load("sizes")
USAGE = _load("usage")
BURDEN = _load("base", "burden")
BESIDE = _load("time", "beside")
REPLACED = _load("replaced")
SWEEP = _load("base", "time", "tags", "sweep_tags", "sweep")
SCAN_KEYS = _load("scan_keys")
EMPTY = _load("holds", "empty")
PRUNE = _load("holds", "prune")
LOCK_ACQUIRE = _awaited("queue", "lock_acquire")
LOCK_RENEW = _load("lock_renew")
LOCK_RELEASE = _awaited("queue", "lock_release")
SEMAPHORE_ACQUIRE = _awaited("queue", "semaphore_acquire")
SEMAPHORE_RENEW = _awaited("queue", "semaphore_renew")
SEMAPHORE_RELEASE = _awaited("queue", "semaphore_release")
RATE_TAKE = _awaited("rate_take")
RATE_LOOK = _load("time", "rate_look")
FLIGHT_CLAIM = _awaited("tags", "sweep_tags", "flight", "count", "flight_claim")
COUNT_HITS = _awaited("count", "count_hits")
FLIGHT_RENEW = _awaited("tags", "flight", "flight_renew")
FLIGHT_COMMIT = _setting("waiters", "sweep_tags", "flight", "flight_commit")
FLIGHT_FAIL = _awaited("flight", "flight_fail")
BOUNDED = {
    script.name: _bounded(script.name, script.text)
    for script in (SET, WRITE, REPLACE, INCREMENT, APPEND, RENAME, TRANSACT, FLIGHT_COMMIT)
}
"""The scripts that can add keys, by name, in the form for a namespace with `max_keys`."""
EVICT = _bounded("evict", b"return 1\n")
"""Evicts the keys that remain, if they were too many for one script."""
IF_VERSION = {
    script.name: _script(
        f"{script.name} if version", _load("base", "times", "version", "if_version").text + script.text
    )
    for script in (WRITE, BOUNDED[WRITE.name], DELETE)
}
"""Scripts that write one field, by name, in the form that compares its version first."""
SEQUENCE_APPEND = _script(
    "sequence_append", _writing("sequence", "sequence_append").text + WRITE.text + _read("sequence_append_close")
)
SEQUENCE_READ = _load("base", "sequence", "sequence_read")
SEQUENCE_POP = _writing("remove", "sequence", "sequence_pop")
ATTACH = _load("attach")
NOTE = _load("note")
FOLLOW = _load("follow")
DUMP = _load("dump")
RESTORE = _writing("time", "tags", "restore")
DISCARD = _writing("remove", "discard")
MOVE = _writing("remove", "move")
RETAG = _load("base", "time", "tags", "retag")
CLAIM = _load("base", "claim")
RELEASE = _load("release")
KEEP_RUN = _load("base", "keep_run")
