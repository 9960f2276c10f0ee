"""The quota of the namespaces that an agent may write, and of what it stores beside them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from redis_store import DataStore
from redis_store.brokers.usage import list_beside, stored_bytes
from redis_store.errors import DataStoreError, LimitExceeded
from sandbox.permissions import Granted

FRESH_S = 1.0
"""Time for which the server's estimate is used, in seconds: other runs write too."""

REST = 10
"""Pause between two estimates, as a multiple of the time that one takes."""

QUICK_S = 0.005
"""Part of an estimate's time that needs no pause, in seconds."""

LONGEST_REST_S = 0.5

LISTED_S = 5.0
"""Time after which a name is listed again, in seconds: less than names stay listed under which nothing is stored."""

MOST_LISTED = 10_000
"""Limit of the names that a run is known to have listed."""


SLACK = 4
"""A write in place, which does not grow the data, is also made beyond the quota, by a part of it that this divides."""


def _nothing() -> int:
    return 0


class Quota:
    """Checks what a run stores against `Permissions.quota_bytes`.

    The server estimates the size before the first write. Then the charges of the writes are added to it, which are about the
    memory that they take. The server is asked again when the estimate is old; and when the quota seems used up, if the run
    has changed anything since, because overwritten and deleted values count until then. Concurrent runs can therefore exceed
    the quota by the bytes that they write between two estimates. A write that would still exceed the quota is made if the data
    grows by no more than what is left, because it replaces other data.

    What is stored beside the data is listed before, so that every later estimate finds it (`redis_store.ops.usage`).
    """

    def __init__(self, granted: Granted) -> None:
        self._granted = granted
        self._lock = threading.RLock()
        self._left = 0
        self._changed = False
        self._fresh_until = 0.0
        self._rest_until = 0.0
        self._listed: dict[bytes, float] = {}
        self._unlisted: deque[bytes] = deque()

    @property
    def is_set(self) -> bool:
        """Whether there is a quota."""
        return self._granted.quota_bytes is not None

    def check(
        self, size: int, store: DataStore, beside: Sequence[bytes] = (), replaced: Callable[[], int] = _nothing
    ) -> None:
        """Count about `size` bytes to be stored, or raise `LimitExceeded` if they would exceed the quota.

        `store` is one of the user's with the rights of the run; closing it ends an estimate. `beside` names what will be stored
        beside the data. `replaced` asks the server how many of the bytes replace others.
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
            if self._left < size and self._left + quota // SLACK >= 0:
                size = max(0, size - replaced())
            self._take(size, quota)
            self._list(store, beside)

    def count(self, size: int, beside: Sequence[bytes]) -> None:
        """Count as `check` does, by the last estimate and without asking the server. `flush` lists the names."""
        quota = self._granted.quota_bytes
        if quota is not None:
            self._take(size, quota)
            self._unlisted.extend(beside)

    def flush(self, store: DataStore) -> None:
        """List the names that were counted and not listed yet."""
        if self._unlisted:
            with self._lock:
                self._list(store, ())

    def note_change(self, store: DataStore, beside: Sequence[bytes] = ()) -> None:
        """Note that the run has deleted, replaced or released something, so that the quota may have room again.

        `beside` names the namespaces: what stays beside their data has to be found without it.
        """
        self._changed = True
        if self.is_set and beside:
            with self._lock, suppress(DataStoreError):  # a full server refuses it; the call itself is done
                self._list(store, beside)

    def _take(self, size: int, quota: int) -> None:
        if size and self._left < size:
            raise LimitExceeded(
                f"Storing about {size:,} bytes would exceed the quota of {quota:,} bytes, of which"
                f" {max(self._left, 0):,} are left: delete data first.",
                limit="quota_bytes",
                limit_bytes=quota,
                size_bytes=size,
            )
        self._left -= size
        self._changed = True

    def _list(self, store: DataStore, names: Sequence[bytes]) -> None:
        now, wanted = time.monotonic(), list(names)
        while self._unlisted:
            wanted.append(self._unlisted.popleft())
        new = [name for name in dict.fromkeys(wanted) if self._listed.get(name, now) <= now]
        if new:
            list_beside(store, new)
            if len(self._listed) + len(new) > MOST_LISTED:
                self._listed.clear()
            self._listed.update(dict.fromkeys(new, now + LISTED_S))

    def _estimate(self, quota: int, store: DataStore) -> None:
        begun = time.monotonic()
        self._changed = False  # before the server is asked: what another process of the run deletes meanwhile may count
        self._left = quota - stored_bytes(store, self._granted.access.may_write, quota + quota // SLACK)
        now = time.monotonic()
        rest_s = min(LONGEST_REST_S, REST * max(0.0, now - begun - QUICK_S))
        self._rest_until = now + rest_s
        self._fresh_until = now + max(FRESH_S, 2 * rest_s)
