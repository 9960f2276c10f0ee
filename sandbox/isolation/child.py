"""What the rest of the host knows of an agent's process, whoever started it."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Protocol

from sandbox.limits import Limits


class Child(Protocol):
    """A process that waits on its control channel to be told what to run.

    A context manager: at its end the process, what it started, its sockets and its files are gone.
    """

    data: socket.socket
    control: socket.socket
    output: socket.socket
    isolation: str
    """The tier of `sandbox.isolation` that it runs in."""
    in_a_room: bool
    """Whether it sees files where `_layout.in_a_room` shows them, else where the host has them."""
    is_watched: bool
    """Whether `overused` has to be asked now and then."""
    cpu_s: float
    """Processor time that it took, known when it has ended."""

    @property
    def pidfd(self) -> int | None:
        """A descriptor that is readable when the process has ended; None where the system has no such.

        Waits for the process to be there; raises `StartFailed` where it does not come.
        """

    def overused(self, limits: Limits) -> str | None:
        """Return the name of a limit that the process is over, of those that the kernel does not hold here."""

    def has_ended(self) -> bool:
        """Whether the process is over."""

    def kill(self) -> int:
        """End the process and what it started; return its exit code (negative: a signal), its own if it was over."""

    def __enter__(self) -> Child: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
