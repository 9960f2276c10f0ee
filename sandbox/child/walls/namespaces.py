"""New Linux namespaces for one run: users, mounts, processes, network, IPC, host name, cgroups."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from sandbox.child.walls import kernel

_EVERY = (
    kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)
_HARMLESS = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
_BYTES_PER_FILE = 16 * 1024
"""Scratch space per inode, in bytes. Limits the number of files, and with it the kernel memory for their metadata."""


def enter(scratch_bytes: int) -> None:
    """Leave all namespaces of the parent; the next child is the first process of a new one.

    `/tmp` becomes an empty folder in memory with `scratch_bytes` of space, `/proc` an empty read-only one.
    """
    uid, gid = os.geteuid(), os.getegid()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1, "PR_SET_DUMPABLE")  # /proc/self is root's after giving up root
    kernel.unshare(_EVERY)
    map_ids(uid, gid, uid, gid)
    files = max(64, scratch_bytes // _BYTES_PER_FILE)
    kernel.mount("tmpfs", "/tmp", "tmpfs", _HARMLESS, f"size={scratch_bytes},nr_inodes={files},mode=700")
    kernel.mount("tmpfs", "/proc", "tmpfs", _HARMLESS | kernel.MS_RDONLY, "size=4k,nr_inodes=1,mode=555")
    interfaces = [name for _, name in socket.if_nameindex()]
    if interfaces not in ([], ["lo"]):
        raise OSError(f"the new network namespace has the interfaces {', '.join(interfaces)}")


def map_ids(inside_uid: int, inside_gid: int, uid: int, gid: int) -> None:
    """Map the one user and group of a new user namespace to those outside."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"{inside_gid} {gid} 1")
    Path("/proc/self/uid_map").write_text(f"{inside_uid} {uid} 1")
