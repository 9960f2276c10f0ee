"""The host's side of a zygote's child: its sockets, its pidfd and its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sandbox.child.scratch import remove_folder
from sandbox.errors import StartFailed
from sandbox.isolation.child import is_ready, overused
from sandbox.isolation.recipes import Recipe
from sandbox.limits import Limits

_BIRTH_TIMEOUT_S = 20.0
_END_TIMEOUT_S = 5.0
_MOST_MESSAGE_BYTES = 64 * 1024
_NEVER_BORN = -signal.SIGKILL

_living: weakref.WeakSet[BornChild] = weakref.WeakSet()


class BornChild:
    """A `Child` forked by a zygote. It is not a child of the host: the host holds a pidfd, and the zygote reports the exit code.

    Starting it takes milliseconds; only `pidfd` waits for that.
    """

    def __init__(
        self,
        recipe: Recipe,
        channels: list[socket.socket],
        birth: socket.socket,
        folder: str | None,
        release: Callable[[], None],
    ) -> None:
        self.data, self.control, self.output = channels
        self.isolation = recipe.tier
        self.in_a_room = recipe.in_a_room
        self.is_watched = not (recipe.counts_threads and recipe.in_a_room)
        self.cpu_s = 0.0
        self.was_lost = False
        self._birth = birth
        self._folder = folder
        self._release = release
        self._pidfd: int | None = None
        self._failure: StartFailed | None = None
        self._code: int | None = None
        self._closed = False
        _living.add(self)

    @property
    def pidfd(self) -> int:
        if self._pidfd is None:
            self._pidfd = self._await_birth()
        return self._pidfd

    def has_ended(self) -> bool:
        return self._code is not None or is_ready(self.pidfd, 0)

    def overused(self, limits: Limits) -> str | None:
        """Return the name of a limit that the process exceeds, among those that the kernel does not enforce here, or None."""
        return overused(_pid_of(self.pidfd), self._folder, limits)

    def kill(self) -> int:
        if self._code is None:
            try:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
                self._code = self._await_end()
            except StartFailed:
                self._code = _NEVER_BORN
        return self._code

    def __enter__(self) -> BornChild:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.kill()
        finally:
            self.close()

    def close(self) -> None:
        """Close the sockets and delete the folder of a process that has ended."""
        if not self._closed:
            self.forget()
            if self._folder:
                remove_folder(self._folder)
            self._release()

    def forget(self) -> None:
        """Close the descriptors in a forked copy of the host."""
        self._closed = True
        for sock in (self.data, self.control, self.output, self._birth):
            sock.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _await_birth(self) -> int:
        if self._failure is None:
            message, pidfd = receive(self._birth, _BIRTH_TIMEOUT_S)
            if pidfd is not None:
                return pidfd
            why = message.get("failed", "its zygote has ended or did not reply in time")
            self._failure = StartFailed(f"The agent process could not be started ({self.isolation}): {why}", output="")
        raise self._failure

    def _await_end(self) -> int:
        while message := receive(self._birth, _END_TIMEOUT_S)[0]:
            if "code" in message:
                self.cpu_s = message["cpu_s"]
                return int(message["code"])
        is_ready(self.pidfd, _END_TIMEOUT_S)
        self.was_lost = True
        return _NEVER_BORN


def receive(sock: socket.socket, timeout_s: float = 0) -> tuple[dict[str, Any], int | None]:
    """Return a message of a zygote and the descriptor that came with it; empty after the last message and after a timeout."""
    if timeout_s and not is_ready(sock, timeout_s):
        return {}, None
    with suppress(ConnectionError):
        text, descriptors, _, _ = socket.recv_fds(sock, _MOST_MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        if text:
            return json.loads(text), descriptors[0] if descriptors else None
    return {}, None


def forget_all() -> None:
    """Close the descriptors of all children in a forked copy of the host."""
    for child in list(_living):
        child.forget()


def _pid_of(pidfd: int) -> int | None:
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
            if line.startswith("Pid:"):
                return int(line[4:])
    return None
