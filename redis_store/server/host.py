"""Which machine this is, and whether the one that a folder names may still be using it.

Locks tell the truth within one kernel. A folder on a network filesystem may be in use by another, where neither our locks nor
the socket reach, so who starts a server writes down where it runs.

    same boot                    this very kernel, perhaps another container: the locks decide
    other boot, same machine     it ran here before a restart of the machine, and is gone
    other machine, local disk    the disk was moved, or the container is a new one: only one kernel can have it mounted
    other machine, else          refused, by name
"""

from __future__ import annotations

import functools
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_LOCAL_FILESYSTEMS = frozenset(
    ["apfs", "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "hfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"]
)


@dataclass(frozen=True, slots=True)
class Host:
    """A machine and one of its boots; what is not known is empty."""

    hostname: str
    machine: str
    boot: str

    def may_still_use(self, folder: Path, here: Host) -> bool:
        """Whether a server that this host started in `folder` may be alive where `here` cannot see it."""
        if self.boot and self.boot == here.boot:
            return False
        same_name = self.hostname == here.hostname
        same_machine = not (self.machine and here.machine) or self.machine == here.machine
        return not (same_name and same_machine) and not is_on_local_filesystem(folder)


@functools.cache
def this_host() -> Host:
    """The machine that this process runs on."""
    return Host(socket.gethostname(), _first_line(Path("/etc/machine-id")), _boot_id())


def is_on_local_filesystem(folder: Path) -> bool:
    """Whether the folder lies on a filesystem that one kernel alone can have mounted; False where that is not known."""
    best, kind = "", ""
    for line in _read(Path("/proc/self/mountinfo")).splitlines():
        left, _, right = line.partition(" - ")
        mount_point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), left.split()[4])
        if folder.is_relative_to(mount_point) and len(mount_point) >= len(best):
            best, kind = mount_point, right.split()[0]
    return kind in _LOCAL_FILESYSTEMS


def _boot_id() -> str:
    if sys.platform != "darwin":
        return _first_line(Path("/proc/sys/kernel/random/boot_id"))
    command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _first_line(path: Path) -> str:
    return _read(path).partition("\n")[0].strip()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
