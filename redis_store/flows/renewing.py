"""Renewing what threads hold, from one background thread per driver."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from redis_store.errors import DataStoreError, StoreClosed
from redis_store.flows.flow import Keeping

if TYPE_CHECKING:
    from redis_store.protocol.call import Op

KEEPER_LINGER_S = 5.0
"""Time for which the idle renewing thread waits for more to renew before it ends, in seconds."""


class Keeper:
    """Renews what threads hold while the holding thread is alive.

    Each driver has one daemon thread for it, which starts with the first holding and ends `KEEPER_LINGER_S` after the last.
    """

    def __init__(self, run: Callable[[Op[bool]], bool]) -> None:
        self._run = run
        self.start_over()

    def start_over(self) -> None:
        """Drop all holdings, as a forked child must: its parent keeps renewing them."""
        self._news = threading.Condition()
        self._due: list[tuple[float, int, Keeping, threading.Thread | None]] = []
        self._count = 0
        self._looks_at = 0.0
        self._thread: threading.Thread | None = None
        self._closed = False

    def keep(self, keeping: Keeping, tied: bool) -> Keeping:
        """Start renewing; with `tied`, only while the calling thread is alive."""
        with self._news:
            due = time.monotonic() + keeping.pause_s
            self._put(due, keeping, threading.current_thread() if tied else None)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="redis-store-keeper", daemon=True)
                self._thread.start()
            elif due < self._looks_at:
                self._news.notify()
        return keeping

    def close(self) -> None:
        """Tell the thread to end."""
        with self._news:
            self._closed = True
            self._news.notify()

    def _put(self, due: float, keeping: Keeping, holder: threading.Thread | None) -> None:
        self._count += 1
        heapq.heappush(self._due, (due, self._count, keeping, holder))

    def _work(self) -> None:
        while (found := self._next()) is not None:
            keeping, holder = found
            if keeping.stopped or (holder is not None and not holder.is_alive()):
                continue
            again = self._renewed(keeping)
            if again is not None:
                with self._news:
                    self._put(again, keeping, holder)

    def _next(self) -> tuple[Keeping, threading.Thread | None] | None:
        """Wait until the next holding is due and return it with its holder, or None if the thread is to end."""
        with self._news:
            while not self._closed:
                while self._due and self._due[0][2].stopped:
                    heapq.heappop(self._due)
                now = time.monotonic()
                self._looks_at = self._due[0][0] if self._due else now + KEEPER_LINGER_S
                wait_s = self._looks_at - now
                if wait_s <= 0:
                    _, _, keeping, holder = heapq.heappop(self._due)
                    return keeping, holder
                if not self._news.wait(wait_s) and not self._due:
                    break
            self._thread = None
            return None

    def _renewed(self, keeping: Keeping) -> float | None:
        """Renew once, and return when to renew again, or None for never."""
        began = time.monotonic()
        try:
            kept = self._run(keeping.renew())
        except StoreClosed:
            return None
        except DataStoreError:
            # It is held until its ttl ends: retry soon, until it is certainly lost.
            now = time.monotonic()
            return None if keeping.lost(now) else now + keeping.pause_s / 4
        keeping.renewed(began, kept)
        return began + keeping.pause_s if kept else None
