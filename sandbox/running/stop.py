"""The way for any thread to end a run."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from sandbox.errors import SandboxError


class Stop:
    """Wakes whoever watches over a process; the first error counts."""

    def __init__(self) -> None:
        self.error: SandboxError | None = None
        self._lock = threading.Lock()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def end(self, error: SandboxError) -> None:
        """End the run with this error, unless it has one."""
        if self.error is None:
            self.error = error
        self.wake()

    def wake(self) -> None:
        """Make the supervisor look around."""
        with self._lock, suppress(OSError):
            os.write(self._write, b"!")

    def fileno(self) -> int:
        return self._read

    def drain(self) -> None:
        """Forget the wake-ups so far."""
        with suppress(BlockingIOError):
            os.read(self._read, 4096)

    def close(self) -> None:
        """Give up the descriptors; whoever still wants to end the run comes too late."""
        with self._lock:
            os.close(self._read)
            os.close(self._write)
            self._read = self._write = -1
