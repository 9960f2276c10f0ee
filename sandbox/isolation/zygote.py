"""The host's side of a zygote: a process that is started once and forks a fresh child for each run."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from sandbox.child.scratch import remove_folder
from sandbox.isolation.child import is_ready, socket_pairs
from sandbox.isolation.lacks import is_lack
from sandbox.isolation.layout import Pair
from sandbox.isolation.recipes import Recipe
from sandbox.isolation.zygote_child import BornChild, receive
from sandbox.limits import Limits

_START_TIMEOUT_S = 20.0
_END_TIMEOUT_S = 5.0
_SCRATCH_IN_A_ROOM = "/tmp"


_MISSING_MODULE = re.compile(r"No module named '(\w+)")


class ZygoteFailed(Exception):
    """A zygote or its children could not be started; the message says what the system refused."""

    def __init__(self, said: str) -> None:
        missing = _MISSING_MODULE.search(said)
        if missing is not None and missing[1] in sys.stdlib_module_names:
            folder = Path(os.__file__).parent
            said += f" (the likely cause: the user that agents run as may not read {folder}, Python's own folder)"
        super().__init__(said)


class ZygoteGone(Exception):
    """The zygote takes no more requests: it was idle for too long, or has reached its number of children."""


def files_at(paths: tuple[Pair, ...]) -> dict[str, tuple[int, int] | None]:
    """Return the identities of the files at some paths of the host; None where there is none."""
    found: dict[str, tuple[int, int] | None] = {}
    for path, _ in paths:
        found[path] = None
        with suppress(OSError):
            stat = os.stat(path)  # noqa: PTH116  # there may be thousands
            found[path] = stat.st_dev, stat.st_ino
    return found


class Zygote:
    """One zygote. Any thread may request children. Once superseded, it ends with its last child."""

    def __init__(self, recipe: Recipe, packages: tuple[Pair, ...] = (), **settings: Any) -> None:
        self.recipe = recipe
        self.files = files_at(packages)
        """The files of the packages that its children see, even if others have replaced them since."""
        self._lock = threading.RLock()
        self._children = 0
        self._superseded = False
        self.is_closed = False
        self._pidfd: int | None = None
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            errors, write = os.pipe()
        except BaseException:
            self._socket.close()
            theirs.close()
            raise
        try:
            with theirs:
                command, environment = recipe.command(theirs.fileno(), packages, settings)
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=write,
                    pass_fds=(theirs.fileno(),),
                    cwd="/",
                    env=environment,
                    start_new_session=True,
                )
        except BaseException as error:
            os.close(errors)
            self._socket.close()
            if isinstance(error, (OSError, ValueError)) and not (isinstance(error, OSError) and is_lack(error)):
                raise ZygoteFailed(str(error)) from None
            raise
        finally:
            os.close(write)
        try:
            self._wait_until_ready(errors)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(errors)

    @property
    def process_id(self) -> int:
        """Id of the process that the host started: bubblewrap, or the zygote itself."""
        return self._process.pid

    def bear(self, limits: Limits, trial: bool = False) -> BornChild:
        """Return a new child, which may still be starting; raise `ZygoteGone` if the zygote takes no more requests."""
        with self._lock:
            if self._superseded:
                raise ZygoteGone
            self._children += 1
        folder = None
        try:
            if not self.recipe.in_a_room:
                folder = tempfile.mkdtemp(prefix="sandbox-")
                if self.recipe.folder_of != os.geteuid():
                    os.chown(folder, self.recipe.folder_of, -1)
            request = {"limits": limits.for_the_kernel(), "scratch": folder or _SCRATCH_IN_A_ROOM, "trial": trial}
            return self._ask(request, folder)
        except BaseException as error:
            if folder:
                remove_folder(folder)
            self._release()
            if isinstance(error, ConnectionError):
                raise ZygoteGone from None
            raise

    def supersede(self) -> None:
        """Take no more requests, and end the zygote with its last child."""
        self._superseded = True
        self._count(0)

    def close(self) -> None:
        """End the zygote and its children."""
        self.is_closed = True
        self._socket.close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # a zygote runs no agent's code, so that only the system can have stopped it
            if self._pidfd is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._process.kill()
            self._process.wait()
        self._close_pidfd()

    def forget(self) -> None:
        """Close the descriptors in a forked copy of the host: the zygote ends when the last copy of its socket is closed."""
        self._socket.close()
        self._process.returncode = 0  # the zygote is not a child of this process
        self._close_pidfd()

    def _ask(self, request: dict[str, Any], folder: str | None) -> BornChild:
        *channels, last = socket_pairs(*[socket.SOCK_STREAM] * 3, socket.SOCK_SEQPACKET)
        ours, birth = [pair[0] for pair in channels], last[0]
        given = [pair[1] for pair in (*channels, last)]
        try:
            socket.send_fds(self._socket, [json.dumps(request).encode()], [one.fileno() for one in given])
        except BaseException as error:
            for sock in (*ours, birth):
                sock.close()
            if isinstance(error, OSError) and not isinstance(error, ConnectionError) and not is_lack(error):
                raise ConnectionError(str(error)) from None  # the socket is closed: the zygote was just superseded
            raise
        finally:
            for sock in given:
                sock.close()
        return BornChild(self.recipe, ours, birth, folder, self._release)

    def _release(self) -> None:
        self._count(-1)

    def _close_pidfd(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _count(self, change: int) -> None:
        """Count children, and end a superseded zygote with its last one."""
        with self._lock:
            self._children += change
            close = self._superseded and self._children == 0
        if close:
            self.close()

    def _wait_until_ready(self, errors: int) -> None:
        if not is_ready(self._socket, _START_TIMEOUT_S):
            raise ZygoteFailed(f"the zygote was not ready within {_START_TIMEOUT_S:g} s")
        message, self._pidfd = receive(self._socket)
        if not message.get("ready"):
            said = os.read(errors, 64 * 1024).decode(errors="replace").strip() if is_ready(errors, 1) else ""
            raise ZygoteFailed(said.splitlines()[-1] if said else "the zygote ended without a message")
