"""The scripts that run in the server, read once as package data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from redis_store._call import Command


@dataclass(frozen=True, slots=True)
class Script:
    """One script's text, and the digest under which a server keeps it."""

    name: str
    text: bytes
    sha: bytes

    def by_digest(self, keys: tuple[bytes, ...], arguments: tuple[bytes | str | int, ...]) -> Command:
        """The command that runs it where the server knows it; elsewhere the answer is ``NOSCRIPT``."""
        return (b"EVALSHA", self.sha, len(keys), *keys, *arguments)

    def by_text(self, keys: tuple[bytes, ...], arguments: tuple[bytes | str | int, ...]) -> Command:
        """The command that runs it anywhere, and makes the server know it."""
        return (b"EVAL", self.text, len(keys), *keys, *arguments)


def _load(name: str, *, prelude: bool = False) -> Script:
    folder = files(__name__)
    text = (folder / f"{name}.lua").read_bytes()
    if prelude:
        text = (folder / "prelude.lua").read_bytes() + text
    return Script(name, text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


WRITE = _load("write", prelude=True)
DELETE = _load("delete", prelude=True)
CLEAR = _load("clear", prelude=True)
INFO = _load("info")
METADATA = _load("metadata")
SMALL = _load("small")
PRESENT = _load("present")
PRUNE = _load("prune")
SCAN_KEYS = _load("scan_keys")
