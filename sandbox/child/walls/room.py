"""The room: a root of a few folders with a program as its first process. Does what bubblewrap does, without it.

Everything in the room except `/tmp` is read-only. `/proc` is the outer one, for the zygote, which hides it from each run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from pathlib import Path
from typing import Any, NoReturn

from sandbox.child.walls import kernel, namespaces

_MOUNT_SETATTR = 442  # on every architecture
_AT_RECURSIVE = 0x8000


def build(settings: dict[str, Any]) -> None:
    """Make the room and move into it, permanently."""
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    os.umask(0o022)
    # By descriptor, because the next mount hides the sources under /tmp.
    sources = {source: os.open(source, os.O_PATH | os.O_CLOEXEC) for source, _ in settings["binds"]}
    kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=4m,mode=755")
    root = "/tmp/room"
    os.mkdir(root)  # noqa: PTH102
    kernel.mount("tmpfs", root, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=4m,mode=755")
    for source, target in settings["binds"]:
        _bind(f"/proc/self/fd/{sources[source]}", root + target, read_only=True)
    for target in settings["hidden"]:
        kernel.mount("tmpfs", root + target, "tmpfs", kernel.MS_RDONLY, "size=4k,nr_inodes=1,mode=555")
    for name in ("null", "zero", "urandom"):
        _bind(f"/dev/{name}", f"{root}/dev/{name}", read_only=False)
    for text, target in settings["links"]:
        Path(root + target).symlink_to(text)
    for folder in ("proc", "tmp"):
        Path(root, folder).mkdir()
    kernel.mount("/proc", f"{root}/proc", None, kernel.MS_BIND | kernel.MS_REC)
    os.chdir(root)
    kernel.pivot_root(".", ".")
    kernel.unmount(".")
    os.chdir("/")
    kernel.mount(
        None, "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    )


def _bind(source: str, target: str, read_only: bool) -> None:
    place = Path(target)
    if Path(source).is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    kernel.mount(source, target, None, kernel.MS_BIND | kernel.MS_REC)
    if read_only:
        wanted = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV  # the mount attributes have the same values
        attributes = (ctypes.c_uint64 * 4)(wanted, 0, 0, 0)
        kernel.syscall("mount_setattr", _MOUNT_SETATTR, -100, os.fsencode(target), _AT_RECURSIVE, attributes, 32)


def enter(settings: dict[str, Any]) -> None:
    """Leave the host's namespaces. Root needs no user namespace for that, and gives up its rights in the zygote."""
    others = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    if settings["as_root"]:
        kernel.unshare(others)
    else:
        uid, gid = os.geteuid(), os.getegid()
        kernel.unshare(others | kernel.CLONE_NEWUSER)
        namespaces.map_ids(settings["uid"], settings["uid"], uid, gid)
    socket.sethostname("agent")


def main(settings: dict[str, Any]) -> NoReturn:
    """Run a command in a room, and end with its exit code."""
    enter(settings)
    pid = os.fork()
    if pid:
        os.close(settings["descriptor"])
        signal.signal(signal.SIGTERM, lambda number, frame: os.kill(pid, signal.SIGKILL))
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
    build(settings)
    os.set_inheritable(settings["descriptor"], True)
    os.execve(settings["command"][0], settings["command"], settings["environment"])
