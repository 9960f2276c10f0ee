"""A process's membership in an embedded server: one lease for each folder, for any number of handles and threads.

The design is described in `server/embedded.py`.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
from pathlib import Path

from redis_store.errors import EmbeddedServerError, StoreClosed
from redis_store.server import locks, probe
from redis_store.server.folder import Folder, translated_errors
from redis_store.server.locks import FileLock, Patience, released_on_error, signed_by, try_lock
from redis_store.server.probe import ProbeAnswer, Talk
from redis_store.server.process import START_TIMEOUT_S, bring_up, end_orphan, shut_down

_log = logging.getLogger("redis_store")

_MAX_ROUNDS = 5


class Membership:
    """This process's share in the server of one folder, held by any number of handles and released by the last of them."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._handles = 0
        self._always = False
        self._lease: FileLock | None = None
        self._server_pid: int | None = None
        self._lock = threading.RLock()

    def enter(self, *, always: bool) -> None:
        """Count one more handle, and return when the server replies. With `always` it syncs each write by then."""
        with self._lock:
            self._handles += 1
            try:
                self._always = self._always or always
                with (
                    released_on_error()
                ):  # inside, because `leave` would mistake a leftover lock of ours for another process's
                    self._rejoin()
            except BaseException:
                with contextlib.suppress(OSError):
                    self.leave()
                raise

    def ensure_running(self) -> None:
        """Return when the server listens; start it again if needed."""
        lease = self._lease
        if lease is not None and lease.is_current():
            answer = probe.probe(self.folder.socket_path(), always=self._always)
            # A silent server is running, and the user of the connection has a timeout of its own.
            if answer is ProbeAnswer.READY or (answer is ProbeAnswer.SILENT and not self._always):
                return
        with self._lock:
            if not self._handles:
                raise StoreClosed(
                    f"The embedded server in {str(self.folder.path)!r} was closed because this process is exiting."
                )
            self._rejoin()

    def leave(self, *, entirely: bool = False) -> None:
        """Count one handle less, or all. After the last, give up the lease; the last process shuts the server down."""
        with self._lock:
            self._handles = 0 if entirely else max(0, self._handles - 1)
            if not self._handles:
                self._always = False
                self._give_up()

    def reborn(self) -> None:
        """Take a lease of our own in a forked child, while the inherited one still prevents a shutdown."""
        self._lock = threading.RLock()
        inherited, self._lease = self._lease, None
        if inherited is not None and self._handles:
            with contextlib.suppress(OSError):  # `ensure_running` repairs it; EmbeddedServerError is an OSError, too
                self._lease = self._try_lease()

    def _rejoin(self) -> None:
        _call_at_end_of_multiprocessing_child()
        trouble: OSError | None = None
        for _ in range(_MAX_ROUNDS):
            # At each step the folder may have been removed or the server killed: then start over.
            try:
                self.folder.prepare()
                self.folder.refuse_other_host()
                lease = self._take_lease()
                bring_up(self.folder, always=self._always)
                self._settle()
                if lease.is_current():
                    return
            except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, BrokenPipeError) as error:
                trouble = error
        if isinstance(trouble, FileNotFoundError):
            raise trouble
        raise EmbeddedServerError(
            f"The embedded server in {str(self.folder.path)!r} ended each time it was started; {self.folder.log_since(0)}"
        ) from trouble

    def _take_lease(self) -> FileLock:
        if self._lease is not None:
            if self._lease.is_current():
                return self._lease
            self._give_up()
        patience = Patience(START_TIMEOUT_S)
        while (lease := self._try_lease()) is None:
            if not patience.wait():
                raise EmbeddedServerError(
                    f"The embedded server in {str(self.folder.path)!r} has been shutting down for {START_TIMEOUT_S:.0f} s; if "
                    f"{signed_by(self.folder.lease_lock)} is stopped, continue it (kill -CONT) or end it."
                )
        self._lease = lease
        return lease

    def _try_lease(self) -> FileLock | None:
        lease = try_lock(self.folder.lease_lock, shared=True)
        if lease is not None:
            lease.is_kept = True
        return lease

    def _settle(self) -> None:
        with Talk(self.folder.socket_path(), START_TIMEOUT_S) as talk:
            self._server_pid = talk.peer_pid()
            probe.add_needed_events(talk)
            engine = probe.engine_of(talk)
        if engine is not None:
            self.folder.record_writer(engine)

    def _give_up(self) -> None:
        lease, self._lease = self._lease, None
        if lease is None:
            return
        if not lease.is_current():  # the folder was removed, and with it the path to the server
            if lease.become_exclusive():
                end_orphan(self.folder, self._server_pid)
            lease.close()
            return
        lease.close()
        with contextlib.suppress(FileNotFoundError):
            shut_down_unless_used(self.folder)


def shut_down_unless_used(folder: Folder) -> None:
    """Shut the server down and wait until it is gone, unless a process has a lease or the server is pinned."""
    whole = try_lock(folder.lease_lock)
    if whole is None:
        return
    with contextlib.closing(whole):
        whole.sign()
        if folder.pinned_durability() is None and not shut_down(folder):
            _log.warning(
                "the embedded server in %s does not stop; the next process to use the folder takes it over", folder.path
            )


def membership_of(folder: Folder) -> Membership:
    """Return this process's membership in the folder's server, the same object for the same folder."""
    with _members_lock:
        return _members.setdefault(folder.path, Membership(folder))


def leave_all() -> None:
    """Give up every lease of this process. Runs at its exit."""
    for member in list(_members.values()):
        with contextlib.suppress(OSError), translated_errors(member.folder):
            member.leave(entirely=True)


_members: dict[Path, Membership] = {}
_members_lock = threading.RLock()
_exit_pid = 0


def _call_at_end_of_multiprocessing_child() -> None:
    # A child of `multiprocessing` ends with `os._exit`, which skips `atexit`; it runs `multiprocessing`'s finalizers instead.
    global _exit_pid
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None or _exit_pid == os.getpid():
        return
    from multiprocessing import util

    util.Finalize(None, leave_all, exitpriority=-1000)
    _exit_pid = os.getpid()


def _after_fork_in_child() -> None:
    global _members_lock
    _members_lock = threading.RLock()
    inherited = locks.disown_inherited()
    for member in _members.values():
        member.reborn()
    for lock in inherited:  # the parent keeps its locks through its own descriptors
        lock.close_descriptor()
    util = sys.modules.get("multiprocessing.util")
    if util is not None:  # it drops its finalizers right after the fork, and then calls this
        util.register_after_fork(locks, lambda _: _call_at_end_of_multiprocessing_child())


os.register_at_fork(
    before=lambda: locks.guard.acquire(),  # until the child has its copy of the table
    after_in_parent=lambda: locks.guard.release(),
    after_in_child=_after_fork_in_child,
)
atexit.register(leave_all)
