"""From a zygote's fork to the agent: new namespaces, another fork, waiting for a run, walls.

A child is made before there is a run for it, because creating namespaces takes the longest. It waits on its own socket to the
zygote. A run arrives with four descriptors: data, control, output and birth. The host receives a pidfd of the process over
*birth*, which the agent never holds.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NoReturn

from sandbox.child import start
from sandbox.child.walls import kernel, namespaces, rlimits, walls

DESCRIPTORS = 4
MOST_REQUEST_BYTES = 64 * 1024
_BIRTH_FAILED = 70


def be_born(
    waiting: socket.socket,
    built: walls.Walls,
    scratch_bytes: int,
    adopt: Adoption,
    folders: dict[str, str],
) -> NoReturn:
    """Turn a fork of the zygote into the agent's process, or into the intermediate one, which reports its child to `adopt`."""
    zygote = os.getppid()
    birth = -1
    try:
        _close_others({waiting.fileno(), adopt.fileno(), *built.read_only, *built.read_write})
        if built.in_a_room:
            namespaces.enter(scratch_bytes)
            pid = os.fork()
            if pid:
                adopt.tell(pid)
                os._exit(0)
        else:
            _die_with(zygote)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        message, descriptors, _, _ = socket.recv_fds(waiting, MOST_REQUEST_BYTES, DESCRIPTORS)
        if not message:
            os._exit(0)
        *channels, birth = descriptors
        _become_agent(json.loads(message), channels, birth, built, folders)
    except BaseException as error:
        _report(error, waiting, birth)
    os._exit(_BIRTH_FAILED)


class Adoption:
    """A pipe on which an intermediate process reports the child that the zygote is about to adopt."""

    _FORMAT = struct.Struct("=II")

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.number = 0
        """The number of the child being made; a fork keeps the number it was made with."""

    def fileno(self) -> int:
        """Return the descriptor that the intermediate process writes to."""
        return self._write

    def tell(self, pid: int) -> None:
        """Report the process id of the child."""
        os.write(self._write, self._FORMAT.pack(self.number, pid))

    def heard(self) -> Iterator[tuple[int, int]]:
        """Yield the number and process id of each reported child."""
        with suppress(BlockingIOError):
            while True:
                yield self._FORMAT.unpack(os.read(self._read, self._FORMAT.size))


def say(birth: int, *descriptors: int, **what: Any) -> None:
    """Send the host a message about one run; do nothing if the host has gone."""
    with suppress(OSError), socket.socket(fileno=os.dup(birth)) as sock:
        socket.send_fds(sock, [json.dumps(what).encode()], descriptors)


def _become_agent(
    request: dict[str, Any], channels: list[int], birth: int, built: walls.Walls, folders: dict[str, str]
) -> None:
    pidfd = os.pidfd_open(os.getpid())
    say(birth, pidfd, born=True)
    rlimits.place(*channels)
    scratch = request["scratch"]
    os.environ.update(HOME=scratch, TMPDIR=scratch)
    os.chdir(scratch)
    walls.put_up(built, request["limits"], scratch)
    if request["trial"]:
        os.write(1, b"ok")
        os._exit(0)
    start.main(rlimits.DATA, rlimits.CONTROL, folders)


def _report(error: BaseException, waiting: socket.socket, birth: int) -> None:
    """Report why there is no agent: to the zygote before there is a run, else as the agent's output, which the host reads."""
    reason = str(error) if isinstance(error, (OSError, walls.WallMissing)) else repr(error)
    with suppress(OSError):
        if birth < 0:
            waiting.send(reason.encode())
        else:
            os.write(2, reason.encode())


def _close_others(kept: set[int]) -> None:
    """Close the descriptors of the zygote and of other runs: an end kept open here would hide that its owner has ended."""
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, rlimits.MOST_DESCRIPTORS)


def _die_with(parent: int) -> None:
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL, "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        os._exit(_BIRTH_FAILED)
