"""The process of one run: its start, its sockets, its folder, and the end of all three."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

import msgpack

import redis_store

_HERE = Path(__file__).parent
_PACKAGES = (_HERE, Path(redis_store.__file__).parent, Path(msgpack.__file__).parent)
_FLAGS = ("-I", "-S", "-u", "-X", "utf8")

_PATIENCE_S = 1.0
"""How long to wait for a killed process to be gone."""


class Process:
    """An interpreter with the standard library, an empty environment and an empty folder of its own.

    A context manager: at its end the process, whatever it started in its session and among its descendants, its sockets
    and its folder are gone. A daemon that left both (double fork with `setsid`) is out of reach here.
    """

    def __init__(self) -> None:
        self.data, data = socket.socketpair()
        self.control, control = socket.socketpair()
        self.output, output = socket.socketpair()
        self.pidfd: int | None = None
        self._folder = tempfile.mkdtemp(prefix="sandbox-")
        try:
            with data, control, output:
                self._popen = subprocess.Popen(
                    self._command(data.fileno(), control.fileno()),
                    stdin=subprocess.DEVNULL,
                    stdout=output.fileno(),
                    stderr=output.fileno(),
                    pass_fds=(data.fileno(), control.fileno()),
                    cwd=self._folder,
                    env={"LANG": "C.UTF-8", "HOME": self._folder, "TMPDIR": self._folder},
                    start_new_session=True,
                )
        except BaseException:
            self._close()
            raise
        self.pidfd = _open_pidfd(self._popen.pid)

    @staticmethod
    def _command(data_fd: int, control_fd: int) -> list[str]:
        boot = _HERE / "child" / "boot.py"
        return [sys.executable, *_FLAGS, str(boot), str(data_fd), str(control_fd), *map(str, _PACKAGES)]

    def has_ended(self) -> bool:
        """Whether the process itself is over; it stays a zombie, so that its id is nobody else's until `kill`."""
        if hasattr(os, "waitid"):
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return self._popen.returncode is not None or os.waitid(os.P_PID, self._popen.pid, flags) is not None
        return self._popen.poll() is not None

    def kill(self) -> int:
        """End the process and what it started; return its exit code (negative: a signal), its own if it was over."""
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
            code = self._popen.wait()
            for pidfd in started:
                _wait_for(pidfd)
        return code

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        _remove_folder(self._folder)


def _open_pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends, where the system has such."""
    with suppress(AttributeError, OSError):
        return os.pidfd_open(pid)
    return None


def _wait_for(pidfd: int) -> None:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.poll(_PATIENCE_S * 1000)


def _descendants(pid: int) -> list[int]:
    """Return the processes that this one started, and theirs, as far as the system shows them."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        for children in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            with suppress(OSError):
                pids = [int(text) for text in children.read_text().split()]
                found += pids
                waiting += pids
    return found


def _remove_folder(folder: str) -> None:
    if sys.version_info >= (3, 12):
        shutil.rmtree(folder, onexc=_remove_anyway)
    else:
        shutil.rmtree(folder, onerror=_remove_anyway)


def _remove_anyway(function: object, path: str, info: object) -> None:
    """Remove what the agent made unreadable; what is gone already is fine."""
    with suppress(OSError):
        parent = Path(path).parent
        parent.chmod(0o700)
        target = Path(path)
        if target.is_dir() and not target.is_symlink():
            target.chmod(0o700)
            shutil.rmtree(path, ignore_errors=True)
        else:
            target.unlink()
