"""The pace at which a run moves bytes through the server, so that others get their turn."""

from __future__ import annotations

import threading
import time

MOVED_BYTES_S = 128 * 1024 * 1024
"""Limit of the bytes that a run moves, per second."""

MOVED_AT_ONCE = 256 * 1024 * 1024
"""Bytes that a run may move before it is held to the pace."""


class Pace:
    """Counts the bytes that all processes of a run move. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._left: float = MOVED_AT_ONCE
        self._at = time.monotonic()

    def spend(self, moved_bytes: int) -> float:
        """Count bytes, and return for how many seconds the process that moved them shall wait."""
        with self._lock:
            now = time.monotonic()
            self._left = min(MOVED_AT_ONCE, self._left + (now - self._at) * MOVED_BYTES_S) - moved_bytes
            self._at = now
            return max(0.0, -self._left / MOVED_BYTES_S)
