"""The interface of an agent process, as the host sees it, and what its implementations share."""

from __future__ import annotations

import select
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol

from sandbox.child.scratch import deleted_bytes, folder_bytes
from sandbox.limits import Limits


class Child(Protocol):
    """An agent process that waits on its control channel for the agent to run.

    A context manager: on exit the process and its descendants are ended, its sockets closed and its files deleted.
    """

    data: socket.socket
    control: socket.socket
    output: socket.socket
    isolation: str
    """Tier of isolation, as in `sandbox.isolation`."""
    in_a_room: bool
    """Whether it sees files at the paths of `layout.in_a_room`, rather than at those of the host."""
    is_watched: bool
    """Whether `overused` must be called periodically, because the kernel does not enforce every limit."""
    cpu_s: float
    """Processor time used, in seconds; set when the process has ended."""
    was_lost: bool
    """Whether the process that started it was killed, and this process with it; set when the process has ended."""

    @property
    def pidfd(self) -> int | None:
        """A descriptor that becomes readable when the process ends; None on a system without pidfds.

        Waits until the process exists; raises `StartFailed` if it cannot be started.
        """

    def overused(self, limits: Limits) -> str | None:
        """Return the name of a limit that the process exceeds, among those that the kernel does not enforce here, or None."""

    def has_ended(self) -> bool:
        """Whether the process has ended."""

    def kill(self) -> int:
        """End the process and its descendants; return the exit code, negative for a signal. If it ended before, its own code."""

    def __enter__(self) -> Child: ...
    def __exit__(self, *_: object) -> None: ...


def overused(pid: int | None, folder: str | None, limits: Limits) -> str | None:
    """Return the name of a limit that a process exceeds with its threads or with the files in its folder, or None."""
    if folder is not None:
        taken = folder_bytes(folder, limits.scratch_bytes)
        if taken + deleted_bytes(pid) > limits.scratch_bytes:
            return "scratch_bytes"
    return "threads" if _threads_of(pid) > limits.threads + 2 else None


def _threads_of(pid: int | None) -> int:
    """Return the number of threads of a process, or 0 if it is unknown."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[17])
    return 0


def socket_pairs(*kinds: socket.SocketKind) -> list[tuple[socket.socket, socket.socket]]:
    """Return a connected pair of sockets of each kind; if the system lacks one, close all of them and raise `OSError`."""
    with ExitStack() as made:
        pairs = []
        for kind in kinds:
            ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
            pairs.append((made.enter_context(ours), made.enter_context(theirs)))
        made.pop_all()
    return pairs


def is_ready(descriptor: int | socket.socket, timeout_s: float) -> bool:
    """Wait until a descriptor is readable, which a pidfd is once its process has ended. False after the timeout."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))
