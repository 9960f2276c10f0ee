"""Putting up the walls around an agent's process, in the only working order, and testing each before the agent starts.

The order is capabilities, no_new_privs, Landlock, resource limits, and last seccomp, which forbids changing any of these.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from sandbox.child.walls import kernel, landlock, rlimits, seccomp

_REFUSALS = (errno.EPERM, errno.EACCES)


class WallMissing(Exception):
    """A wall failed its test; the agent must not be started."""


class Walls(NamedTuple):
    """The walls around every run of a zygote."""

    in_a_room: bool
    """Whether each run has its own namespaces."""
    landlock: int
    """Landlock version to use, 0 for none."""
    read_only: list[int]
    read_write: list[int]
    memory_bytes: int
    """Memory that the interpreter takes before the agent starts, in bytes."""
    left_out: frozenset[str] = frozenset()
    """Walls that a test leaves out. "verification" leaves out the testing of the walls."""


def put_up(walls: Walls, limits: dict[str, int], scratch: str) -> None:
    """Put up the walls around this process, permanently. Raise `WallMissing` or `OSError` if one fails."""
    if "capabilities" not in walls.left_out:
        kernel.drop_capabilities()
        if walls.in_a_room:  # hidden from the same user; elsewhere the host counts scratch bytes in /proc
            kernel.prctl(kernel.PR_SET_DUMPABLE, 0, "PR_SET_DUMPABLE")
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")
    if walls.in_a_room:
        _expect(os.getpid() == 1 and os.listdir("/proc") == [], "namespaces")  # noqa: PTH208
    if walls.landlock and "landlock" not in walls.left_out:
        folders = landlock.open_paths([scratch])
        landlock.restrict(walls.landlock, walls.read_only, walls.read_write + folders)
    os.closerange(rlimits.FIRST_FREE_DESCRIPTOR, rlimits.MOST_DESCRIPTORS)
    if "limits" not in walls.left_out:
        rlimits.limit(limits, walls.memory_bytes, walls.in_a_room)
    verify = "verification" not in walls.left_out
    if verify:  # before seccomp, which would refuse this too
        _expect(_is_refused(lambda: socket.sethostname(socket.gethostname())), "capabilities")
    if "seccomp" not in walls.left_out:
        seccomp.install(os.getpid(), walls.in_a_room)
    if verify:
        _verify(walls, scratch)


def _verify(walls: Walls, scratch: str) -> None:
    """Try the acts that must be refused, and writing to the scratch folder, which must work."""
    if walls.landlock:
        _expect(_is_refused(lambda: os.listdir("/")), "landlock")  # noqa: PTH208
    _expect(_is_refused(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()), "seccomp (a socket)")
    _expect(_is_refused(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close()), "seccomp (a unix socket)")
    _expect(_is_refused(_fork), "seccomp (a fork)")
    _expect(_is_refused(lambda: os.kill(0, 0)), "seccomp (a signal)")
    _expect(_is_refused(lambda: _open(os.__file__, os.O_WRONLY)), "read-only folders")
    for path in ("/etc/passwd", "/proc/self/environ"):
        _expect(_is_refused(lambda path=path: _open(path, os.O_RDONLY)), "the host's files")  # type: ignore[misc]
    probe = os.path.join(scratch, ".probe")  # noqa: PTH118
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    os.unlink(probe)  # noqa: PTH108


def _open(path: str, flags: int) -> None:
    os.close(os.open(path, flags))


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _is_refused(act: Callable[[], Any]) -> bool:
    """Whether an act is refused: forbidden, or its target does not exist."""
    try:
        act()
    except FileNotFoundError:
        return True
    except OSError as error:
        return error.errno in _REFUSALS or error.errno == errno.EROFS
    return False


def _expect(holds: bool, wall: str) -> None:
    if not holds:
        raise WallMissing(f"the agent's process is not isolated: {wall} failed its test")
