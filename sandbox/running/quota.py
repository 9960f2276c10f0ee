"""The quota of the namespaces that an agent may write."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import redis_store
from redis_store.errors import LimitExceeded
from sandbox.permissions import Granted

Open = Callable[[], AbstractContextManager[redis_store.DataStore]]


class Quota:
    """Checks writes against `Permissions.quota_bytes`.

    The server is asked for its estimate of the size before the first write, and again whenever the bytes written since could
    have reached the quota. Only then do overwritten and deleted values and writes by others count. Concurrent runs can
    therefore exceed the quota by the bytes that they write between two estimates.
    """

    def __init__(self, granted: Granted, open_store: Open) -> None:
        """`open_store` opens the user's store with every right, to ask for sizes."""
        self._granted = granted
        self._open_store = open_store
        self._lock = threading.RLock()
        self._left: int | None = None

    def check(self, size: int) -> None:
        """Count a write of `size` bytes, or raise `LimitExceeded` if it would exceed the quota."""
        quota = self._granted.quota_bytes
        if quota is None:
            return
        with self._lock:
            if self._left is None or self._left < size:
                self._left = quota - self._taken()
            if self._left < size:
                raise LimitExceeded(
                    f"Writing {size:,} bytes would exceed the quota of {quota:,} bytes, of which {max(self._left, 0):,}"
                    " are left: delete data first.",
                    limit="quota_bytes",
                    limit_bytes=quota,
                    size_bytes=size,
                )
            self._left -= size

    def _taken(self) -> int:
        may_write = self._granted.access.may_write
        with self._open_store() as store:
            return sum(store.use_namespace(name).memory_bytes() for name in store.list_namespaces() if may_write(name))
