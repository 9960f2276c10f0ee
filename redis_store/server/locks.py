"""File locks that stay correct across `fork`, and polling with a deadline.

A `flock(2)` lock belongs to the *open file description*. A forked child shares it, and an unlock in either process unlocks it
for both. It ends when the last descriptor is closed, which the kernel does however a process ends. So nothing here ever unlocks:
a lock is given up by closing its descriptor. One table has every descriptor, so that a forked child can close the inherited ones.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from redis_store.errors import EmbeddedServerError

_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


class FileLock:
    """A shared or exclusive lock on a file, held until `close` or until the process is gone."""

    def __init__(self, path: Path, fd: int, identity: tuple[int, int]) -> None:
        self.path = path
        self.fd = fd
        self.is_kept = False  # by `released_on_error`
        self.thread = threading.get_ident()
        self.number = next(_numbers)
        self._identity = identity

    def is_current(self) -> bool:
        """Whether the descriptor is still ours and `path` is still the locked file (the folder was not removed)."""
        return _identity_of(self.fd) == self._identity == _identity_of(self.path)

    def sign(self) -> None:
        """Write our process id into the file, for the error messages of waiting processes."""
        with contextlib.suppress(OSError):  # on a full disk only the number in a message is lost
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, str(os.getpid()).encode(), 0)

    def become_exclusive(self) -> bool:
        """Convert a shared lock into an exclusive one and return True, if no other process holds one.

        If it returns False, the shared lock may be lost.
        """
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close our descriptor. Idempotent.

        The lock ends unless a forked child or a started server has the same open file description.
        """
        with guard:
            if _table.get(self.fd) is self:
                self.close_descriptor()
                del _table[self.fd]  # last: if interrupted before this, `released_on_error` still finds the lock

    def close_descriptor(self) -> None:
        """Close the descriptor if it is still ours.

        Daemonizing code closes every descriptor, and the number may since be another file's.
        """
        if _identity_of(self.fd) == self._identity:
            os.close(self.fd)


# Every lock that is held or being taken, by descriptor. The guard is held while a descriptor is opened or closed together with
# its entry, and across every fork. So no child inherits a descriptor that is not in the table.
_table: dict[int, FileLock] = {}
guard = threading.RLock()
_numbers = itertools.count()


@contextlib.contextmanager
def released_on_error() -> Iterator[None]:
    """On an error, close the locks that this thread took inside and that are not kept.

    This covers a Ctrl-C between any two steps, also between taking a lock and entering the `with` that would close it.
    """
    first = next(_numbers)
    try:
        yield
    except BaseException:
        for lock in list(_table.values()):
            if lock.thread == threading.get_ident() and lock.number > first and not lock.is_kept:
                lock.close()
        raise


def try_lock(path: Path, *, shared: bool = False) -> FileLock | None:
    """Lock the file, creating it if missing. Return None if another lock conflicts. Never waits."""
    while True:
        with guard:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            status = os.fstat(fd)
            lock = _table[fd] = FileLock(path, fd, (status.st_dev, status.st_ino))
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        except OSError as error:
            lock.close()
            if error.errno not in _NO_LOCKS_HERE:
                raise
            raise EmbeddedServerError(
                f"The filesystem of {str(path.parent)!r} has no file locks ({error.strerror}), so two servers could write the "
                "same data; put the folder on a local disk with REDIS_STORE_DATA_DIR or data_dir=."
            ) from error
        if lock.is_current():
            return lock
        lock.close()  # the file was removed between our open and our lock: try its successor


def check_that_locks_work(held: FileLock) -> None:
    """Raise `EmbeddedServerError` if the filesystem grants an exclusive lock twice."""
    second = try_lock(held.path)
    if second is None:
        return
    second.close()
    raise EmbeddedServerError(
        f"The filesystem of {str(held.path.parent)!r} grants an exclusive lock twice, so two servers could write the same "
        "data; put the folder on a local disk with REDIS_STORE_DATA_DIR or data_dir=."
    )


def signed_by(path: Path) -> str:
    """Return ``process 123``, the last process to take the exclusive lock on the file, for an error message."""
    with contextlib.suppress(OSError):
        pid = path.read_text(errors="replace").strip()
        if pid.isdecimal():
            return f"process {pid}"
    return "another process"


def count_shared(path: Path, witness: Path) -> int | None:
    """Return how many processes hold a shared lock on `path`, by the kernel's list, or None if unknown.

    The list names files by device and inode, and on some filesystems these differ from those of `stat`. So a lock is taken on
    `witness`, a file beside it that nothing else locks, to see how the list names its device.
    """
    try:
        lock = try_lock(witness, shared=True)
        if lock is None:
            return None
        with contextlib.closing(lock):
            held = list(_flocks())
        inode, witness_inode = path.stat().st_ino, witness.stat().st_ino
    except OSError:
        return None
    devices = {device for device, number, pid in held if number == witness_inode and pid == os.getpid()}
    if not devices:
        return None
    return sum(number == inode and device in devices for device, number, _ in held)


def _flocks() -> Iterator[tuple[str, int, int]]:
    """Yield (device, inode, pid) of each shared flock, from lines like ``3: FLOCK  ADVISORY  READ 812 fe:00:4321 0 EOF``."""
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[3] == "READ":
            major, minor, inode = fields[5].split(":")
            yield f"{major}:{minor}", int(inode), int(fields[4])


def disown_inherited() -> list[FileLock]:
    """Start an empty table in a forked child, and return the inherited locks, whose descriptors are still open."""
    global guard, _table
    inherited, _table, guard = list(_table.values()), {}, threading.RLock()
    return inherited


def _identity_of(file: int | Path) -> tuple[int, int] | None:
    try:
        status = os.fstat(file) if isinstance(file, int) else file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Patience:
    """Waits in growing steps until a deadline, to poll for something that sends no notification."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._pause_s = 0.0005

    def renew(self, seconds: float) -> None:
        """Move the deadline to `seconds` from now, unless it is later already."""
        self._deadline = max(self._deadline, time.monotonic() + seconds)

    def wait(self) -> bool:
        """Sleep a little and return True, or return False when the deadline is past."""
        if time.monotonic() >= self._deadline:
            return False
        time.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 1.4, 0.02)
        return True
