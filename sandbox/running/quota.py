"""How much may lie in the namespaces that an agent may write to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import redis_store
from redis_store.errors import LimitExceeded
from sandbox.permissions import Granted

Open = Callable[[], AbstractContextManager[redis_store.DataStore]]


class Quota:
    """Compares what is there with `Permissions.quota_bytes` before a write.

    The server's estimate is asked for once, and again when what was written since could have reached the quota: what the
    run overwrote or deleted, and what others wrote, comes in only then. Runs that write at the same time can go over it by
    what they write between two looks.
    """

    def __init__(self, granted: Granted, open_store: Open) -> None:
        """`open_store` gives the user's store with every right, for the host's own questions."""
        self._granted = granted
        self._open_store = open_store
        self._lock = threading.Lock()
        self._left: int | None = None

    def check(self, size: int) -> None:
        """Take note of a write, or raise `LimitExceeded` where there is no room for it."""
        quota = self._granted.quota_bytes
        if quota is None:
            return
        with self._lock:
            if self._left is None or self._left < size:
                self._left = quota - self._taken()
            if self._left < size:
                raise LimitExceeded(
                    f"Writing {size:,} bytes would go over the quota of {quota:,} bytes, of which {max(self._left, 0):,}"
                    " are left: delete something first.",
                    limit="quota_bytes",
                    limit_bytes=quota,
                    size_bytes=size,
                )
            self._left -= size

    def _taken(self) -> int:
        may_write = self._granted.access.may_write
        with self._open_store() as store:
            return sum(store.use_namespace(name).memory_bytes() for name in store.list_namespaces() if may_write(name))
