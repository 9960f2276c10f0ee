"""Renewing what threads hold, from one background thread for all stores that share connections."""

from __future__ import annotations

import _thread
import heapq
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from redis_store.errors import DataStoreError, StoreClosed
from redis_store.flows.clock import clock
from redis_store.flows.flow import Repeated

if TYPE_CHECKING:
    from redis_store.protocol.call import Op

KEEPER_LINGER_S = 5.0
"""Time for which the idle renewing thread waits for more to renew before it ends, in seconds."""


def start_thread(work: Callable[[], object], name: str) -> None:
    """Start a daemon thread, also where a signal handler may raise: one that interrupts `Thread.start` breaks the new thread.

    So another thread starts it, as handlers run in the main thread only.
    """

    def start() -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # the system has no more threads: this one works, without its name
            work()

    _thread.start_new_thread(start, ())


class _Holding(NamedTuple):
    """What a store holds, and the thread with which it ends; None if any thread may release it."""

    repeated: Repeated
    run: Callable[[Op[bool]], bool]
    holder: threading.Thread | None


class Keeper:
    """Renews what threads hold while the holding thread is alive.

    It has one daemon thread, which starts with the first holding and ends `KEEPER_LINGER_S` after the last.
    """

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Drop all holdings, as a forked child must: its parent keeps renewing them."""
        # Re-entrant, because a signal handler may use a lock too. Entered itself: a handler that raises could leave it held
        # in the middle of entering the condition.
        self._lock = threading.RLock()
        self._news = threading.Condition(self._lock)
        self._due: list[tuple[float, int, _Holding]] = []
        self._count = 0
        self._looks_at = 0.0
        self._working = False
        self._closed = False

    def repeat(self, repeated: Repeated, run: Callable[[Op[bool]], bool], *, tied: bool) -> None:
        """Start renewing or undoing something with `run`; with `tied`, only while the calling thread is alive."""
        with self._lock:
            due = clock() + repeated.first_s
            self._put(due, _Holding(repeated, run, threading.current_thread() if tied else None))
            if not self._working:
                self._working = True
                try:
                    start_thread(self._work, "redis-store-keeper")
                except (RuntimeError, MemoryError):  # the system has no more threads
                    self._working = False
                    raise
            elif due < self._looks_at:
                self._news.notify()

    def close(self) -> None:
        """Tell the thread to end."""
        with self._lock:
            self._closed = True
            self._news.notify()

    def _put(self, due: float, holding: _Holding) -> None:
        self._count += 1
        heapq.heappush(self._due, (due, self._count, holding))

    def _work(self) -> None:
        while (holding := self._next()) is not None:
            if holding.holder is not None and not holding.holder.is_alive():
                continue
            again_at = _try(holding)
            if again_at is not None:
                with self._lock:
                    self._put(again_at, holding)

    def _next(self) -> _Holding | None:
        """Wait until the next holding is due and return it, or None if the thread is to end."""
        with self._lock:
            while not self._closed:
                while self._due and self._due[0][2].repeated.over:
                    heapq.heappop(self._due)
                now = clock()
                self._looks_at = self._due[0][0] if self._due else now + KEEPER_LINGER_S
                wait_s = self._looks_at - now
                if wait_s <= 0:
                    return heapq.heappop(self._due)[2]
                if not self._news.wait(wait_s) and not self._due:
                    break
            self._working = False
            return None


def _try(holding: _Holding) -> float | None:
    """Try once, and return when to try again, or None for never."""
    began = clock()
    try:
        answer = holding.run(holding.repeated.op())
    except StoreClosed:
        return None
    except DataStoreError:
        answer = None
    return holding.repeated.tried(began, clock(), answer)
