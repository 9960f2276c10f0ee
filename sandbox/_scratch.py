"""A run's folder on disk, where it has none in memory: how full it is, and its end."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path


def folder_bytes(folder: str, enough: int) -> int:
    """Return the space that a folder takes, or something over `enough` as soon as that is certain."""
    total, waiting = 0, [folder]
    while waiting and total <= enough:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512 + 256
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                if total > enough:
                    break
    return total


def remove_folder(folder: str) -> None:
    """Remove a folder and all in it, whatever the agent did to it."""
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
