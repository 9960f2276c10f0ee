"""A way for any thread to end an agent process."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from sandbox.errors import SandboxError


class Stop:
    """Wakes the supervisor of a process. The first error is kept, later ones are ignored."""

    def __init__(self) -> None:
        self.error: SandboxError | None = None
        self._lock = threading.RLock()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def end(self, error: SandboxError) -> None:
        """End the run with this error, unless it has ended with another."""
        if self.error is None:
            self.error = error
        self.wake()

    def wake(self) -> None:
        """Wake the supervisor."""
        with self._lock, suppress(OSError):
            os.write(self._write, b"!")

    def fileno(self) -> int:
        return self._read

    def drain(self) -> None:
        """Discard pending wake-ups."""
        with suppress(BlockingIOError):
            os.read(self._read, 4096)

    def close(self) -> None:
        """Close the descriptors; later calls of `end` have no effect."""
        with self._lock:
            os.close(self._read)
            os.close(self._write)
            self._read = self._write = -1
