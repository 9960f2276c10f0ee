"""The quota of the namespaces that an agent may write."""

from __future__ import annotations

import threading
import time

from redis_store import DataStore
from redis_store.brokers.usage import stored_bytes
from redis_store.errors import LimitExceeded
from sandbox.permissions import Granted

FRESH_S = 1.0
"""Time for which the server's estimate is used, in seconds: other runs write too."""

REST = 10
"""Pause between two estimates, as a multiple of the time that one takes."""

QUICK_S = 0.005
"""Part of an estimate's time that needs no pause, in seconds."""

LONGEST_REST_S = 0.5


class Quota:
    """Checks writes against `Permissions.quota_bytes`.

    The server estimates the size before the first write. Then the charges of the writes are added to it, which are about the
    memory that they take. The server is asked again when the estimate is old; and when the quota seems used up, if the run
    has changed anything since, because overwritten and deleted values count until then. Concurrent runs can therefore exceed
    the quota by the bytes that they write between two estimates.
    """

    def __init__(self, granted: Granted) -> None:
        self._granted = granted
        self._lock = threading.RLock()
        self._left = 0
        self._changed = False
        self._fresh_until = 0.0
        self._rest_until = 0.0

    def check(self, size: int, store: DataStore) -> None:
        """Count a write of about `size` bytes, or raise `LimitExceeded` if it would exceed the quota.

        `store` is one of the user's; closing it ends an estimate.
        """
        quota = self._granted.quota_bytes
        if quota is None:
            return
        with self._lock:
            now = time.monotonic()
            if now >= self._fresh_until:
                self._estimate(quota, store)
            elif self._left < size and self._changed:
                time.sleep(max(0.0, self._rest_until - now))
                self._estimate(quota, store)
            if self._left < size:
                raise LimitExceeded(
                    f"Writing about {size:,} bytes would exceed the quota of {quota:,} bytes, of which"
                    f" {max(self._left, 0):,} are left: delete data first.",
                    limit="quota_bytes",
                    limit_bytes=quota,
                    size_bytes=size,
                )
            self._left -= size
            self._changed = True

    def note_change(self) -> None:
        """Note that the run has deleted or replaced something, so that the quota may have room again."""
        self._changed = True

    def _estimate(self, quota: int, store: DataStore) -> None:
        begun = time.monotonic()
        self._changed = False  # before the server is asked: what another process of the run deletes meanwhile may count
        self._left = quota - stored_bytes(store, self._granted.access.may_write, quota)
        now = time.monotonic()
        rest_s = min(LONGEST_REST_S, REST * max(0.0, now - begun - QUICK_S))
        self._rest_until = now + rest_s
        self._fresh_until = now + max(FRESH_S, 2 * rest_s)
