"""The Redis keys of one namespace, read with a raw client."""

from __future__ import annotations

from typing import Any, NamedTuple

import redis

from redis_store.namespace.keys import UserKeys

EPOCH = "epoch"
"""The field of the entry that creates a log."""


class NamespaceView:
    """The four keys of a namespace."""

    PARTS = ("data", "info", "registry", "log")

    def __init__(self, raw: redis.Redis, user: str, namespace: str = "default") -> None:
        keys = UserKeys.of(user).namespace(namespace)
        self.raw = raw
        self.keys = {"data": keys.data, "info": keys.info, "registry": keys.registry, "log": keys.log}

    def snapshot(self) -> dict[str, Any]:
        """Return everything about the four keys that a write could change."""
        return {part: self._content(key) for part, key in self.keys.items()}

    def _content(self, key: bytes) -> Any:
        """Return a key's content without the order of its fields, which a server may change at any time."""
        kind = self.raw.type(key)
        if kind == b"hash":
            return self.raw.hgetall(key)
        return self.raw.smembers(key) if kind == b"set" else self.raw.dump(key)

    def watch(self) -> None:
        """Create the log, as a watcher does."""
        self.raw.execute_command("XADD", self.keys["log"], "*", EPOCH, "0123456789abcdef")

    def spoil(self, part: str) -> bytes:
        """Replace a key of the store by a string, and return the key."""
        self.raw.delete(self.keys[part])
        self.raw.set(self.keys[part], "another type")
        return self.keys[part]

    def entries(self) -> list[Entry]:
        """Return the log's entries after the one that created it, with repeated fields kept."""
        # redis-py's own parser drops repeated fields.
        with self.raw.client() as client:
            client.response_callbacks = {}
            rows = client.execute_command("XRANGE", self.keys["log"], "-", "+")
        entries = [Entry(row_id, list(zip(flat[::2], flat[1::2], strict=True))) for row_id, flat in rows]
        return [entry for entry in entries if entry.pairs[0][0] != EPOCH.encode()]


class Entry(NamedTuple):
    """One entry of a log."""

    id: bytes
    pairs: list[tuple[bytes, bytes]]

    @property
    def head(self) -> bytes:
        """The JSON text under the empty name, which must come first."""
        name, text = self.pairs[0]
        assert name == b""
        return text

    @property
    def changes(self) -> list[tuple[bytes, bytes]]:
        return self.pairs[1:]
