"""Measuring and removing a run's scratch folder on disk, used where there is none in memory."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import suppress


def folder_bytes(folder: str, enough: int) -> int:
    """Return the space that a folder takes, in bytes, or a number over `enough` as soon as the total exceeds it.

    A folder that cannot be read, because it is too deep or was made unreadable, counts as too much.
    """
    total, waiting = 0, [folder]
    try:
        while waiting and total <= enough:
            with suppress(FileNotFoundError), os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        total += entry.stat(follow_symlinks=False).st_blocks * 512 + 256
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                    if total > enough:
                        break
    except OSError:
        return enough + 1
    return total


def deleted_bytes(pid: int | None) -> int:
    """Return the space, in bytes, of deleted files that a process holds open; 0 if the system does not permit a look."""
    blocks: dict[tuple[int, int], int] = {}
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
            with suppress(OSError):
                found = os.stat(f"/proc/{pid}/fd/{name}")  # noqa: PTH116
                if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                    blocks[found.st_dev, found.st_ino] = found.st_blocks
    return sum(blocks.values()) * 512


def remove_folder(folder: str) -> None:
    """Remove a folder and its content, whatever the agent did to it: no path is too long and no folder too deep.

    Nested folders are moved to the top before they are emptied.
    """
    prefix = f".{os.urandom(8).hex()}-"  # random, so that the agent cannot have taken the name
    with suppress(FileNotFoundError):
        names = (f"{prefix}{number}" for number in itertools.count())
        top = _open(folder, None)
        try:
            _empty(top, top, names)
            while folders := [name for name in os.listdir(top) if name.startswith(prefix)]:  # noqa: PTH208
                for name in folders:
                    inner = _open(name, top)
                    try:
                        _empty(inner, top, names)
                    finally:
                        os.close(inner)
                    os.rmdir(name, dir_fd=top)
        finally:
            os.close(top)
        os.rmdir(folder)  # noqa: PTH106


def _open(name: str, parent: int | None) -> int:
    with suppress(PermissionError):
        os.chmod(name, 0o700, dir_fd=parent)  # the agent may have made it unreadable
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)


def _empty(folder: int, top: int, names: Iterator[str]) -> None:
    """Delete the files of a folder, and move its folders to the top under the next free names."""
    for entry in os.listdir(folder):
        if not stat.S_ISDIR(os.stat(entry, dir_fd=folder, follow_symlinks=False).st_mode):
            os.unlink(entry, dir_fd=folder)
        else:
            os.chmod(entry, 0o700, dir_fd=folder)  # moving a folder writes to it
            os.rename(entry, next(names), src_dir_fd=folder, dst_dir_fd=top)
