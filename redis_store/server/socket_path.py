"""A short path to the embedded server's socket.

A unix socket's path has at most 108 bytes on Linux and 104 on macOS. The server binds a relative name, so the limit concerns
only clients. If the folder's path is too long, a symbolic link to it is made in a private folder under the runtime or temporary
directory, and recorded in the server's folder. A process that finds the link gone, or its name taken by another user, makes
another. All such links lead to the same socket, so processes need not agree on one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import uuid
from pathlib import Path

from redis_store.errors import EmbeddedServerError

#: Maximum length of a socket path that clients are given, in bytes.
MAX_SOCKET_PATH_BYTES = 100

#: The file in the folder that records the path of the short link.
RECORD = "short-path"


def socket_path(folder: Path) -> Path:
    """Return a path of the folder's socket that is short enough. Makes a link to a folder with a long path."""
    direct = folder / "server.sock"
    if _fits(direct):
        return direct
    link = _recorded_link(folder)
    if link is None:
        link = _make_link(folder)
        with contextlib.suppress(FileNotFoundError):  # `status` was called for a folder that does not exist
            (folder / RECORD).write_text(str(link))
    return link / "server.sock"


def remove_short_path(folder: Path) -> None:
    """Remove the short link to the folder, if there is one."""
    if (link := _recorded_link(folder)) is not None:
        shutil.rmtree(link.parent, ignore_errors=True)


def _recorded_link(folder: Path) -> Path | None:
    with contextlib.suppress(OSError):
        link = Path((folder / RECORD).read_text())
        if link.is_absolute() and _is_private(link.parent) and link.readlink() == folder:
            return link
    return None


def _fits(path: Path) -> bool:
    encoded = os.fsencode(path)
    try:
        encoded.decode()  # a url can contain only UTF-8 paths
    except UnicodeDecodeError:
        return False
    return len(encoded) <= MAX_SOCKET_PATH_BYTES


def _make_link(target: Path) -> Path:
    """Make a symbolic link to `target` with a short path, in a folder private to this user."""
    digest = hashlib.sha256(os.fsencode(target)).hexdigest()[:16]
    bases = [Path(base) for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp") if base]
    for base in bases:
        # The plain name first, so that all processes find the same link; a random name if another user has taken it.
        for name in (digest, f"{digest}-{uuid.uuid4().hex[:8]}"):
            link = base / f"redis-store-{os.geteuid()}-{name}" / "d"
            if _fits(link / "server.sock") and _place_link(link, target):
                return link
    raise EmbeddedServerError(
        f"The path of {str(target)!r} is too long for a unix socket, and no short link to it could be made in "
        f"{' or '.join(map(str, bases))}; give a shorter path with REDIS_STORE_DATA_DIR or data_dir=."
    )


def _place_link(link: Path, target: Path) -> bool:
    try:
        with contextlib.suppress(FileExistsError):
            link.parent.mkdir(mode=0o700)
        if not _is_private(link.parent):
            return False
        with contextlib.suppress(FileExistsError):
            link.symlink_to(target)
        return link.readlink() == target
    except OSError:
        return False


def _is_private(directory: Path) -> bool:
    """Whether `directory` is a real folder of this user that no other user can enter."""
    status = os.lstat(directory)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077
