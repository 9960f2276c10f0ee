"""The identity of this machine, and whether the machine recorded in a folder may still be using it.

File locks work within one kernel. A folder on a network filesystem may be in use by another kernel, which neither our locks nor
the socket reach. So a process that starts a server records the machine.

    same boot                    this kernel, perhaps another container: the locks decide
    other boot, same machine     the server ran before the machine restarted, and is gone
    other machine, local disk    the disk was moved, or the container is new: only one kernel can have it mounted
    other machine, otherwise     refused; the error names the machine
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
    """A machine and one of its boots. Unknown fields are empty."""

    hostname: str
    machine: str
    boot: str

    def may_still_use(self, folder: Path, here: Host) -> bool:
        """Whether a server that this host started in `folder` may still be running, out of sight of `here`."""
        if self.boot and self.boot == here.boot:
            return False
        same_name = self.hostname == here.hostname
        same_machine = not (self.machine and here.machine) or self.machine == here.machine
        return not (same_name and same_machine) and not is_on_local_filesystem(folder)


@functools.cache
def this_host() -> Host:
    """Return the machine that this process runs on."""
    return Host(socket.gethostname(), _first_line(Path("/etc/machine-id")), _boot_id())


def is_on_local_filesystem(folder: Path) -> bool:
    """Whether the folder is on a filesystem that only one kernel can have mounted; False if unknown."""
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
