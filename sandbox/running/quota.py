"""The quota of the namespaces that an agent may write, and of what it stores beside them."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from redis_store import DataStore
from redis_store.brokers.usage import list_beside, stored_bytes
from redis_store.errors import DataStoreError, LimitExceeded
from redis_store.namespace.access import Access
from sandbox.permissions import Granted

FRESH_S = 1.0
"""Time for which the server's estimate is used, in seconds: other runs write too."""

REST = 10
"""Pause between two estimates, as a multiple of the time that one takes."""

QUICK_S = 0.005
"""Part of an estimate's time that needs no pause, in seconds."""

LONGEST_REST_S = 0.5
"""Limit of the pause, in seconds."""

LISTED_S = 5.0
"""Time after which a name is listed again, in seconds: less than names stay listed under which nothing is stored."""

MOST_LISTED = 10_000
"""Limit of the names that a run is known to have listed."""

SLACK = 4
"""A write in place, which does not grow the data, is also made beyond the quota, by a part of it that this divides."""


def _nothing() -> int:
    return 0


class Allowance:
    """What the runs with one grant may still store: by the last estimate, less what they were charged since. Thread-safe.

    What a call stores is seen by an estimate that begins after the call. So a charge counts until such an estimate.
    """

    def __init__(self, granted: Granted, quota: int) -> None:
        self._granted = granted
        self._quota = quota
        self._asking = threading.RLock()
        self._lock = threading.RLock()
        self._charged = 0
        """Sum of all charges."""
        self._stored = 0
        """Sum of the charges whose calls have ended."""
        self._most = 0
        """The most that `_charged` may become."""
        self._found = 0
        """What the last estimate left of the quota, without any charges."""
        self._events = 1
        """Number of the last event: a run that joined, a deletion or a replacement."""
        self._joined = 1
        """Number of the last run that joined, among the events."""
        self._deleted = 0
        """Number of the last deletion, among the events."""
        self._replaced = 0
        """Number of the last replacement, among the events."""
        self._seen = 0
        """Number of the last event before the last estimate."""
        self._fresh_until = 0.0
        self._rest_until = 0.0

    def take(self, size: int, store: DataStore, replaced: Callable[[], int] = _nothing) -> int:
        """Charge `size`, or what is not `replaced` of it, and return that; raises `LimitExceeded`."""
        if self._pause_s(size) is not None:
            with self._asking:
                pause_s = self._pause_s(size)  # again, as another run may have asked meanwhile
                if pause_s is not None:
                    if pause_s:
                        time.sleep(pause_s)
                    self._estimate(store)
        if size > self._left() >= -(self._quota // SLACK):
            size = max(0, size - replaced())
        self.charge(size)
        return size

    def charge(self, size: int) -> None:
        """Charge `size` by the last estimate, or raise `LimitExceeded`."""
        with self._lock:
            left = self._left()
            if size and left < size:
                raise LimitExceeded(
                    f"Storing about {size:,} bytes would exceed the quota of {self._quota:,} bytes, of which"
                    f" {max(left, 0):,} are left: delete data first.",
                    limit="quota_bytes",
                    limit_bytes=self._quota,
                    size_bytes=size,
                )
            self._charged += size

    def settle(self, size: int) -> None:
        """Note that the call that was charged `size` has ended."""
        with self._lock:
            self._stored += size

    def note_change(self, *, deleted: bool) -> None:
        """Note that something was deleted or released, or only replaced."""
        with self._lock:
            self._events += 1
            if deleted:
                self._deleted = self._events
            else:
                self._replaced = self._events

    def join(self) -> None:
        """Ask the server before the next charge: the host may have stored or deleted something before a run."""
        with self._lock:
            self._events += 1
            self._joined = self._events

    def _left(self) -> int:
        return self._most - self._charged

    def _pause_s(self, size: int) -> float | None:
        """Return after how many seconds the server is to be asked before `size` is charged; None if the last estimate decides.

        What was stored makes no room, unless it took less than was charged for it.
        """
        now = time.monotonic()
        if self._joined > self._seen or now >= self._fresh_until:
            return 0.0
        if self._left() >= size:
            return None
        if self._deleted > self._seen or self._found >= size:
            return max(0.0, self._rest_until - now)
        return 0.0 if self._replaced > self._seen and now >= self._rest_until else None

    def _estimate(self, store: DataStore) -> None:
        begun = time.monotonic()
        with self._lock:  # before the server is asked: what happens meanwhile may not be in its answer
            seen, stored = self._events, self._stored
        most = self._quota + self._quota // SLACK
        found = self._quota - stored_bytes(store, self._granted.access.may_write, most)
        now = time.monotonic()
        rest_s = min(LONGEST_REST_S, REST * max(0.0, now - begun - QUICK_S))
        with self._lock:
            self._seen = seen
            self._found = found
            self._most = found + stored
            self._rest_until = now + rest_s
            self._fresh_until = now + max(FRESH_S, 2 * rest_s)


_shared: weakref.WeakValueDictionary[tuple[str, str, Access, int], Allowance] = weakref.WeakValueDictionary()

os.register_at_fork(after_in_child=_shared.clear)  # another thread may have held a lock


class Quota:
    """Checks what a run stores against `Permissions.quota_bytes`.

    The server estimates the size before the first write. Then the charges of the writes are added to it, which are about the
    memory that they take. Runs at the same time with one user and grant share the estimate and the charges, if one process
    serves them. The others can exceed the quota by the bytes that they write between two estimates.

    The server is asked again when the estimate is old; and when the quota seems used up, if that can have changed: something was
    deleted, or the charges since are what is too much. What was replaced is a reason too, but not one to pause for. A write
    that would still exceed the quota is made if the data grows by no more than what is left, because it replaces other data.

    What is stored beside the data is listed before, so that every later estimate finds it (`redis_store.ops.usage`).
    """

    def __init__(self, granted: Granted, url: str = "", user: str = "") -> None:
        """`url` and `user` tell whose runs share the estimate; without them, the run is alone."""
        self._allowance: Allowance | None = None
        if granted.quota_bytes is not None:
            self._allowance = Allowance(granted, granted.quota_bytes)
            if user:
                self._allowance = _shared.setdefault((url, user, granted.access, granted.quota_bytes), self._allowance)
                self._allowance.join()
        self._lock = threading.RLock()
        self._listed: dict[bytes, float] = {}
        self._unlisted: deque[bytes] = deque()

    @property
    def is_set(self) -> bool:
        """Whether there is a quota."""
        return self._allowance is not None

    def check(
        self, size: int, store: DataStore, beside: Sequence[bytes] = (), replaced: Callable[[], int] = _nothing
    ) -> int:
        """Charge about `size` bytes to be stored, or raise `LimitExceeded` if they would exceed the quota.

        Returns what was charged, which `settle` takes when the call has ended. `store` is one of the user's with the rights of
        the run; closing it ends an estimate. `beside` names what will be stored beside the data. `replaced` asks the server how
        many of the bytes replace others.
        """
        if self._allowance is None:
            return 0
        charged = self._allowance.take(size, store, replaced)
        try:
            with self._lock:
                self._list(store, beside)
        except BaseException:
            self._allowance.settle(charged)
            raise
        return charged

    def settle(self, charged: int) -> None:
        """Note that a call has ended that was charged this much."""
        if self._allowance is not None and charged:
            self._allowance.settle(charged)

    def count(self, size: int, beside: Sequence[bytes]) -> None:
        """Charge as `check` does, by the last estimate and without asking the server. `flush` lists the names."""
        if self._allowance is not None:
            self._allowance.charge(size)
            self._allowance.settle(size)
            self._unlisted.extend(beside)

    def flush(self, store: DataStore) -> None:
        """List the names that were counted and not listed yet."""
        if self._unlisted:
            with self._lock:
                self._list(store, ())

    def note_change(self, store: DataStore, beside: Sequence[bytes] = (), *, deleted: bool = True) -> None:
        """Note that the run has deleted or released something, or only replaced it, so that the quota may have room again.

        `beside` names the namespaces: what stays beside their data has to be found without it.
        """
        if self._allowance is None:
            return
        self._allowance.note_change(deleted=deleted)
        if beside:
            with self._lock, suppress(DataStoreError):  # a full server refuses it; the call itself is done
                self._list(store, beside)

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
