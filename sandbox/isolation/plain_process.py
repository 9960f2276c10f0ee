"""The agent process of the tier `unsafe-process`, with its sockets and its folder."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from sandbox.child.scratch import remove_folder
from sandbox.isolation import layout
from sandbox.isolation.child import is_ready, overused, socket_pairs
from sandbox.limits import Limits

_KILL_PATIENCE_S = 1.0
"""Timeout of waiting for a killed descendant to end, in seconds."""


class Process:
    """A `Child`: an interpreter with the standard library, an empty environment and an empty folder of its own.

    A context manager: on exit the process, its session and its descendants are ended, its sockets closed and its folder deleted.
    A daemon that is in neither (double fork with `setsid`) is out of reach and survives.
    """

    isolation = "unsafe-process"
    in_a_room = False
    is_watched = True
    was_lost = False

    def __init__(self, limits: Limits) -> None:
        self.cpu_s = 0.0
        self.pidfd: int | None = None
        self._folder = tempfile.mkdtemp(prefix="sandbox-")
        try:
            pairs = socket_pairs(*[socket.SOCK_STREAM] * 3)
        except BaseException:
            remove_folder(self._folder)
            raise
        (self.data, data), (self.control, control), (self.output, output) = pairs
        try:
            with data, control, output:
                self._popen = subprocess.Popen(
                    self._command(data.fileno(), control.fileno(), limits),
                    stdin=subprocess.DEVNULL,
                    stdout=output.fileno(),
                    stderr=output.fileno(),
                    pass_fds=(data.fileno(), control.fileno()),
                    cwd=self._folder,
                    env=layout.START_ENVIRONMENT | {"HOME": self._folder, "TMPDIR": self._folder},
                    start_new_session=True,
                )
        except BaseException:
            self._close()
            raise
        self.pidfd = _open_pidfd(self._popen.pid)

    @staticmethod
    def _command(data_fd: int, control_fd: int, limits: Limits) -> list[str]:
        command = [sys.executable, *layout.in_place().command[1:]]
        return [*command, "run", str(data_fd), str(control_fd), json.dumps(limits.for_the_kernel())]

    def has_ended(self) -> bool:
        """Whether the process itself has ended. It stays a zombie until `kill`, so that its id is not reused."""
        if hasattr(os, "waitid"):
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            try:
                return self._popen.returncode is not None or os.waitid(os.P_PID, self._popen.pid, flags) is not None
            except ChildProcessError:  # the host ignores SIGCHLD, or has waited for it: the exit code is lost
                return True
        return self._popen.poll() is not None

    def kill(self) -> int:
        """End the process and its descendants; return the exit code, negative for a signal. If it ended before, its own code."""
        if self._popen.returncode is not None:
            return self._popen.returncode
        with ExitStack() as descriptors:
            started = [pidfd for pid in _descendants(self._popen.pid) if (pidfd := _open_pidfd(pid)) is not None]
            for pidfd in started:
                descriptors.callback(os.close, pidfd)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            for pidfd in started:
                with suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            code = self._wait()
            for pidfd in started:
                is_ready(pidfd, _KILL_PATIENCE_S)
        return code

    def overused(self, limits: Limits) -> str | None:
        """Return the name of a limit that the process exceeds, among those that the kernel does not enforce, or None."""
        return overused(self._popen.pid, self._folder, limits)

    def _wait(self) -> int:
        with suppress(ChildProcessError):  # other code in the host has waited for it already
            _, status, usage = os.wait4(self._popen.pid, 0)
            self.cpu_s = usage.ru_utime + usage.ru_stime
            self._popen.returncode = os.waitstatus_to_exitcode(status)
        return self._popen.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.kill()
        finally:
            self._close()

    def _close(self) -> None:
        for sock in (self.data, self.control, self.output):
            sock.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None
        remove_folder(self._folder)


def _open_pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends; None on a system without pidfds."""
    with suppress(AttributeError, OSError):
        return os.pidfd_open(pid)
    return None


def _descendants(pid: int) -> list[int]:
    """Return the descendants of a process, as far as the system shows them."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        for children in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            with suppress(OSError):
                pids = [int(text) for text in children.read_text().split()]
                found += pids
                waiting += pids
    return found
