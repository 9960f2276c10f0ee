"""Resource limits of an agent's process, and the numbers of its descriptors."""

from __future__ import annotations

import fcntl
import os
import resource
from contextlib import suppress

DATA, CONTROL = 3, 4
FIRST_FREE_DESCRIPTOR = 5
MOST_DESCRIPTORS = 1024
"""Limit on the open descriptors of a sandbox process before the agent starts."""

_OWN_THREADS = 2
"""Threads beside the agent's own limit: its first thread, and the thread that listens to the host."""
_OWN_MEMORY_BYTES = 24 * 1024 * 1024
"""Memory that the sandbox itself takes after measuring the interpreter, in bytes: a thread's stack, buffers."""

_SMALL = {"RLIMIT_MEMLOCK": 0, "RLIMIT_MSGQUEUE": 0, "RLIMIT_NICE": 0, "RLIMIT_RTPRIO": 0, "RLIMIT_SIGPENDING": 1024}


def place(data: int, control: int, output: int | None = None) -> None:
    """Move the channels to their numbers, closing any descriptors there."""
    high = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 64) for one in (data, control)]
    if output is not None:
        output = fcntl.fcntl(output, fcntl.F_DUPFD_CLOEXEC, 64)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.close(output)
    for source, target in zip(high, (DATA, CONTROL), strict=True):
        os.dup2(source, target, inheritable=False)
        os.close(source)


def limit(limits: dict[str, int], memory_in_use: int, count_threads: bool) -> None:
    """Set each limit, soft and hard alike, so that none can be raised.

    Use `count_threads` only in a user namespace: elsewhere the user's other processes count too.
    """
    values = {
        resource.RLIMIT_AS: memory_in_use + _OWN_MEMORY_BYTES + limits["memory_bytes"],
        resource.RLIMIT_CPU: limits["cpu_s"],
        resource.RLIMIT_NOFILE: limits["descriptors"],
        resource.RLIMIT_FSIZE: limits["scratch_bytes"],
        resource.RLIMIT_CORE: 0,
    }
    if count_threads:
        values[resource.RLIMIT_NPROC] = limits["threads"] + _OWN_THREADS
    for which, value in values.items():
        _, hard = resource.getrlimit(which)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(which, (allowed, allowed))
        except (OSError, ValueError):
            if which != resource.RLIMIT_AS:  # macOS refuses it
                raise
    for name, value in _SMALL.items():
        if hasattr(resource, name):
            resource.setrlimit(getattr(resource, name), (value, value))


def memory_in_use() -> int:
    """Return the size of this process's address space."""
    with suppress(OSError, ValueError), open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * resource.getpagesize()
    return 0
