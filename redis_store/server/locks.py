"""File locks that a `fork` cannot confuse, and the patience to wait for them.

`flock(2)` locks belong to the *open file description*: a forked child shares it, an unlock anywhere unlocks it for all, and it
is gone when the last descriptor is closed, by the kernel too, however the process ends. So nothing here ever unlocks: locks are
given up by closing. Every descriptor stands in one table, so that a forked child can close what it inherited.
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
from types import TracebackType

from redis_store.errors import EmbeddedServerError

_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


class FileLock:
    """A lock held on a file, shared or exclusive, until `close`, or until the process is gone."""

    def __init__(self, path: Path, fd: int, identity: tuple[int, int]) -> None:
        self.path = path
        self.fd = fd
        self.is_kept = False
        self.thread = threading.get_ident()
        self.number = next(_numbers)
        self._identity = identity

    def is_current(self) -> bool:
        """Whether the descriptor is still ours, and `path` still the file that it locks (nobody removed the folder)."""
        return _identity_of(self.fd) == self._identity == _identity_of(self.path)

    def sign(self) -> None:
        """Leave our process id in the file, for the messages of those who wait."""
        with contextlib.suppress(OSError):  # a full disk costs only the number in a message
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, str(os.getpid()).encode(), 0)

    def become_exclusive(self) -> bool:
        """Turn a shared lock into an exclusive one, if nobody else has one; if not, ours may be lost."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def keep(self) -> FileLock:
        """Have the lock outlive the `LockTable` in which it was taken."""
        self.is_kept = True
        return self

    def close(self) -> None:
        """Give the lock up, unless a forked child or a started server holds it by the same description; idempotent."""
        with _guard:
            if _table.get(self.fd) is self:
                self.close_descriptor()
                del _table[self.fd]  # last: what is interrupted before stays known, and is closed by the `LockTable`

    def close_descriptor(self) -> None:
        """Close the descriptor, if it is still ours: code that makes daemons closes all that it finds, and numbers come again."""
        if _identity_of(self.fd) == self._identity:
            os.close(self.fd)


# Every lock that is held or about to be, by descriptor. The guard is held while a descriptor is opened or closed and noted, and
# across every fork, so that no child inherits one that the table does not know.
_table: dict[int, FileLock] = {}
_guard = threading.RLock()
_numbers = itertools.count()


class LockTable:
    """A context manager that, on an error, closes the locks that its thread took inside and did not `keep`.

    A Ctrl-C can come between any two steps, also between taking a lock and the `with` that would give it back.
    """

    def __enter__(self) -> None:
        self._first = next(_numbers)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        for lock in list(_table.values()):
            if lock.thread == threading.get_ident() and lock.number > self._first and not lock.is_kept:
                lock.close()


def try_lock(path: Path, *, shared: bool = False) -> FileLock | None:
    """Lock the file, which is made if missing; None if somebody else's lock forbids it. Never waits."""
    while True:
        with _guard:
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
                f"The filesystem of {str(path.parent)!r} has no file locks ({error.strerror}), without which two servers could "
                "write the same data; put the folder on a local disk with REDIS_STORE_DATA_DIR or data_dir=."
            ) from error
        if lock.is_current():
            return lock
        lock.close()  # the file was removed between our open and our lock: try the one that is there now


def check_that_locks_work(held: FileLock) -> None:
    """Refuse a filesystem that grants an exclusive lock twice."""
    second = try_lock(held.path)
    if second is None:
        return
    second.close()
    raise EmbeddedServerError(
        f"The filesystem of {str(held.path.parent)!r} grants an exclusive lock twice, so that two servers could write the same "
        "data; put the folder on a local disk with REDIS_STORE_DATA_DIR or data_dir=."
    )


def signed_by(path: Path) -> str:
    """``process 123``: who took the exclusive lock on the file last, for a message."""
    with contextlib.suppress(OSError):
        pid = path.read_text(errors="replace").strip()
        if pid.isdecimal():
            return f"process {pid}"
    return "another process"


def count_shared(path: Path, witness: Path) -> int | None:
    """How many processes hold a shared lock on `path`, by the kernel's own list, or None where that cannot be known.

    The list names files by device and inode, and not on every filesystem by those that `stat` gives: a lock on `witness`, a file
    beside it that nobody else locks, shows how ours are written.
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
    """(device, inode, pid) of each shared flock, from lines as ``3: FLOCK  ADVISORY  READ 812 fe:00:4321 0 EOF``."""
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[3] == "READ":
            major, minor, inode = fields[5].split(":")
            yield f"{major}:{minor}", int(inode), int(fields[4])


def before_fork() -> None:
    """Keep the table still until the child has its copy."""
    _guard.acquire()


def after_fork_in_parent() -> None:
    """Go on."""
    _guard.release()


def disown_inherited() -> list[FileLock]:
    """In a forked child: start an empty table, and return the old one for `close_inherited`."""
    global _guard, _table
    inherited, _table, _guard = list(_table.values()), {}, threading.RLock()
    return inherited


def close_inherited(inherited: list[FileLock]) -> None:
    """In a forked child: close the parent's descriptors; the parent's own keep its locks."""
    for lock in inherited:
        lock.close_descriptor()


def _identity_of(file: int | Path) -> tuple[int, int] | None:
    try:
        status = os.fstat(file) if isinstance(file, int) else file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Patience:
    """Waits in growing steps until a deadline; for polling what has no other way to be waited for."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._pause_s = 0.0005

    def renew(self, seconds: float) -> None:
        """Allow for `seconds` more from now."""
        self._deadline = max(self._deadline, time.monotonic() + seconds)

    def wait(self) -> bool:
        """Sleep a little and return True, or return False when the deadline is past."""
        if time.monotonic() >= self._deadline:
            return False
        time.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 1.4, 0.02)
        return True
