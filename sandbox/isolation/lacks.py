"""Lacks of the system that pass: no descriptor, memory, process or thread left. They become `StartFailed`."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from redis_store.errors import DataStoreError
from sandbox.errors import SandboxError, StartFailed

_LACKS = frozenset(
    {
        errno.EAGAIN,
        errno.EINTR,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.ESTALE,
    }
)
"""Errors of system calls that say nothing about their arguments: the same call may succeed a moment later."""


def is_lack(error: OSError) -> bool:
    """Whether the system lacked something for a moment."""
    return error.errno in _LACKS


@contextmanager
def start_failures() -> Iterator[None]:
    """Raise `StartFailed` for an `OSError` of the system in this block; errors of the two packages pass unchanged."""
    try:
        yield
    except (SandboxError, DataStoreError):
        raise
    except OSError as error:
        raise start_failure(error) from error


def start_failure(error: BaseException) -> StartFailed:
    """Return the error for what the system refused, for example a descriptor or a thread."""
    return StartFailed(f"The host could not start the agent: {error}. Try again when the system has room.", output="")


def start_thread(thread: threading.Thread) -> None:
    """Start a thread; raise `StartFailed` if the system has no more."""
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        raise start_failure(error) from error
