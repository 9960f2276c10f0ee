"""Starting the server's process, and stopping it until it is gone. The design is described in `server/embedded.py`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from redis_store.errors import EmbeddedServerError
from redis_store.server import binary as server_binary
from redis_store.server import probe
from redis_store.server.folder import Folder
from redis_store.server.locks import FileLock, Patience, check_that_locks_work, signed_by, try_lock
from redis_store.server.probe import ProbeAnswer, Talk
from redis_store.server_config import NEEDED_FLAGS

#: Time-out for a server that does not reply, and for another process that holds a lock, in seconds.
START_TIMEOUT_S = 30.0

#: Time-out for a server to exit after it was told to stop, in seconds.
STOP_TIMEOUT_S = 15.0

_MAX_STARTS = 3
_LAUNCH_TIMEOUT_S = 30.0


def bring_up(folder: Folder, *, always: bool = False) -> None:
    """Return when the folder's server is ready; start one if none is running. The caller holds a lease.

    Raises `EmbeddedServerError` if no server can be started, or if the running one does not reply.
    """
    patience = Patience(START_TIMEOUT_S)
    starts, log_offset = 0, 0
    while (answer := probe.probe(folder.socket_path(), always=always)) is not ProbeAnswer.READY:
        if answer is ProbeAnswer.LOADING:
            patience.renew(START_TIMEOUT_S)  # loading may take any time
        if answer is ProbeAnswer.ABSENT and (lock := try_lock(folder.start_lock)) is not None:
            # We hold the start lock, so no server process is running or starting.
            with contextlib.closing(lock):
                if starts == _MAX_STARTS:
                    folder.release_host()
                    raise EmbeddedServerError(
                        f"The embedded server in {str(folder.path)!r} ended while starting; {folder.log_since(log_offset)}"
                    )
                log_offset = _start(folder, lock, always=always)
            starts += 1
            patience.renew(START_TIMEOUT_S)
        elif not patience.wait():
            raise _no_answer(folder, answer)


def shut_down(folder: Folder) -> bool:
    """Stop the server; return True when its process is gone, False at the time-out. The caller holds the exclusive lease."""
    lock = _lock_when_gone(folder, _tell_to_stop)
    if lock is not None:
        lock.close()
    return lock is not None


def force_down(folder: Folder) -> FileLock:
    """Stop the server even while in use. Return the start lock, which keeps its users from starting another."""
    for tell in (_tell_to_stop, _kill):
        if (lock := _lock_when_gone(folder, tell)) is not None:
            return lock
    raise EmbeddedServerError(
        f"The embedded server in {str(folder.path)!r} does not stop; end {signed_by(folder.start_lock)}, which started it."
    )


def end_orphan(folder: Folder, pid: int | None) -> None:
    """Stop a server whose folder was removed, as it is no longer reachable."""
    with contextlib.suppress(OSError):
        if pid is not None and str(Path(f"/proc/{pid}/cwd").readlink()) == f"{folder.path} (deleted)":
            os.kill(pid, signal.SIGTERM)


def _lock_when_gone(folder: Folder, tell: Callable[[Path], bool]) -> FileLock | None:
    """Tell the server to go, and return the start lock once its process is gone, or None at the time-out."""
    patience, told = Patience(STOP_TIMEOUT_S), False
    while (lock := try_lock(folder.start_lock)) is None and patience.wait():
        told = told or tell(folder.socket_path())  # fails while the server does not listen yet
    if lock is not None:
        folder.release_host()
    return lock


def _tell_to_stop(socket_path: Path) -> bool:
    try:
        with Talk(socket_path) as talk:
            talk.ask("SHUTDOWN")  # with the append-only file on, all data are on the disk when it exits
    except OSError as error:
        return isinstance(error, ConnectionResetError)
    return False


def _kill(socket_path: Path) -> bool:
    with contextlib.suppress(ProcessLookupError):
        if (pid := probe.listener_pid(socket_path)) is not None:
            os.kill(pid, signal.SIGKILL)
    return False


def _start(folder: Folder, lock: FileLock, *, always: bool) -> int:
    """Launch a server that holds the start lock, and return the offset at which its output begins in the log."""
    check_that_locks_work(lock)
    lock.sign()
    folder.refuse_other_host()
    binary = server_binary.find_binary(folder.writer(), folder.path)
    if folder.writer() is None:
        folder.record_writer(binary.engine)
    folder.claim_host()
    folder.rotate_log()
    (folder.path / "server.sock").unlink(missing_ok=True)
    always = always or folder.pinned_durability() == "always"
    with os.fdopen(os.open(folder.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as log:
        offset = log.tell()
        try:
            _launch(_command(binary.path, always=always), folder, log.fileno(), lock.fd)
        except (OSError, subprocess.SubprocessError) as error:
            reason = folder.log_since(offset)
            folder.release_host()
            raise EmbeddedServerError(
                f"{binary.engine} ({binary.path}) cannot start in {str(folder.path)!r}: {error}; {reason}"
            ) from error
    return offset


def _launch(command: list[str], folder: Folder, log_fd: int, lock_fd: int) -> None:
    # The server daemonizes. Its own session keeps Ctrl-C from it. It is no child of ours, so it need not be reaped, and an
    # `os.wait()` in the caller's code does not wait for it. The launcher exits at once.
    launcher = subprocess.run(
        command,
        cwd=folder.path,
        env={"LC_ALL": "C", "PATH": os.defpath},  # no secrets, and no locale that would keep it from starting
        umask=0o077,
        stdin=subprocess.DEVNULL,
        stdout=log_fd,
        stderr=log_fd,
        start_new_session=True,
        pass_fds=(lock_fd,),
        timeout=_LAUNCH_TIMEOUT_S,
        check=False,
    )
    if launcher.returncode > 0:  # negative: it was killed; `bring_up` finds that no server came up
        raise subprocess.SubprocessError(f"it ended with status {launcher.returncode}")


def _command(program: Path, *, always: bool) -> list[str]:
    # Names are relative to the folder, so that the server works in a folder with a long path or one that is moved.
    options = {
        "daemonize": "yes",
        "port": "0",
        "unixsocket": "server.sock",
        "unixsocketperm": "600",
        "pidfile": "server.pid",
        "logfile": "server.log",
        "dir": ".",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always" if always else "everysec",
        "maxmemory-policy": "noeviction",
        "notify-keyspace-events": NEEDED_FLAGS,
    }
    return [str(program), *(word for name, value in options.items() for word in (f"--{name}", value))]


def _no_answer(folder: Folder, answer: ProbeAnswer) -> EmbeddedServerError:
    where = str(folder.path)
    if answer is ProbeAnswer.ABSENT:
        return EmbeddedServerError(
            f"No server came up in {where!r} within {START_TIMEOUT_S:.0f} s, though {signed_by(folder.start_lock)} is starting "
            "one; if that process is stopped, continue it (kill -CONT) or end it."
        )
    pid = probe.listener_pid(folder.socket_path())
    state = (
        "is still reading its files" if answer is ProbeAnswer.LOADING else "does not reply; it is stopped or overloaded"
    )
    return EmbeddedServerError(
        f"The embedded server in {where!r} (process {pid}) {state}; {folder.log_since(0, lines=3)}"
    )
