"""The embedded server: a real Valkey or Redis in a folder, shared, started and shut down by the processes that use it.

No process is in charge: any of them may join, leave or be killed at any moment. The state is kept by the kernel, as two file
locks (`flock`). A file lock ends when its last descriptor is closed, however the process ends.

**The start lock** is exclusive. A process that starts a server takes the lock *and passes the descriptor on to the server*. The
server keeps it open, without using it, until its process is gone. So "the start lock is free" and "no server is running or
starting" are the same fact. That holds after `kill -9`, when a pid is reused, and when the process is in another container. Two
servers cannot run at once.

**The lease** is a shared lock; every process that uses the server holds it. A process that leaves closes its lease and then tries
to lock it exclusively. Only the last process can, and no other can join while it holds the lock. It tells the server to shut down
and waits until the start lock is free, which means that the server's process is gone. It has to wait, because a server that is
still exiting would remove its successor's socket. Closing and locking are two steps because converting a `flock` is not atomic.
Between them another process may leave (at least the later of the two finds itself alone) or join (then the server stays).

What a process observes and does::

    socket      start lock    meaning                                            action (`join`, `ensure_running`) with a lease
    PONG        held          ready                                              return
    LOADING     held          the server is reading its files                    wait
    silent      held          busy, or stopped with SIGSTOP                      wait, with a deadline
    absent      held          a server is starting or exiting, or it just died   wait, with a deadline
                              and its rewriting child has not noticed
    absent      free          no server; a socket file is left from a killed     take the lock, remove the file, start a server
                              server

What happens if a process dies:

- *The starter*, before the server runs: its lock is free. Between fork and exec, or before the server is ready: the server has
  the lock and comes up, and waiters find it ready. It needs no parent, because it daemonizes.
- *The server*, while in use: its clients' connections break. Each client calls `ensure_running` before its next connection, and
  one of them starts a new server. If eight contend for the start lock, seven find it held and wait for the socket.
- *A process that uses the server*: the kernel closes its lease. If it was the last, the server stays until another process
  joins and, as the last to leave, shuts it down.
- *The process that shuts the server down*, half way: the lease is free again. If the server received the command, it exits;
  otherwise the next process takes it over.

**The folder is removed** while in use: a lease belongs to an inode. A process whose path has another inode takes a new
lease. If it was the last on the old one, it also ends the server, which is no longer reachable.

**A process is stopped** (SIGSTOP): while it only holds a lease, it hinders no other. Starting a server or shutting one down
takes a few milliseconds. If the process is stopped then, the others fail after a deadline; their message names it.

**Fork.** A child shares its parent's open file description, and so its lease. If the child unlocked it, the parent would lose
it; and the parent's close releases nothing while the child has it open. So right after the fork the child takes a lease of its
own, which cannot fail while the inherited one is held. Then it closes the inherited descriptors. Nothing ever unlocks.

**Durability.** Nothing is lost when processes that use the server are killed. When the *server* is killed, nothing is lost
with ``always``, and mostly nothing with ``everysec``. A write is passed to the kernel before it is acknowledged. The exception
with ``everysec`` is a sync to a slow disk: meanwhile the server buffers up to 2 s of acknowledged writes. Those are lost. When
the machine dies, nothing is lost with ``always``, and about a second of writes with ``everysec``.
"""

from __future__ import annotations

import contextlib
import os
import threading
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from redis_store.errors import EmbeddedServerError, StoreClosed
from redis_store.server import probe
from redis_store.server.folder import Folder, folder_at, translated_errors
from redis_store.server.locks import Patience, count_shared, try_lock
from redis_store.server.membership import Membership, membership_of, shut_down_unless_used
from redis_store.server.probe import ProbeAnswer, Talk
from redis_store.server.process import force_down, shut_down
from redis_store.server_config import Durability, check_durability

DataDir = str | os.PathLike[str] | None


class EmbeddedServer:
    """A process's use of the server of a folder, returned by `join`; a context manager.

    The server runs while any process uses it. All objects of a process for the same folder share one lease; a forked child has
    its own. Objects still open when the process exits are closed then.
    """

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._closing = threading.RLock()
        self._closed = False

    @property
    def data_dir(self) -> Path:
        """The folder with the data, with symbolic links resolved."""
        return self._membership.folder.path

    @property
    def socket_path(self) -> Path:
        """The path of the unix socket, short enough for the operating system's limit."""
        with translated_errors(self._membership.folder):
            return self._membership.folder.socket_path()

    @property
    def url(self) -> str:
        """The server's url: ``unix:///path/to/server.sock``, percent-encoded."""
        return _url_of(self.socket_path)

    def ensure_running(self) -> None:
        """Return when the server accepts connections; start it again if it died. Call this before each new connection.

        Takes one connection and one round trip, about 0.1 ms, when the server is running. Raises `EmbeddedServerError` if the
        server cannot be started, and `StoreClosed` after `close`.
        """
        if self._closed:
            raise StoreClosed(
                f"The embedded server in {str(self.data_dir)!r} was closed through this object; join it again."
            )
        with translated_errors(self._membership.folder):
            self._membership.ensure_running()

    def close(self) -> None:
        """Stop using the server; the last process to leave shuts it down and waits until it is gone. Idempotent."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        with translated_errors(self._membership.folder):
            self._membership.leave()

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EmbeddedServer {str(self.data_dir)!r}{' (closed)' if self._closed else ''}>"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The state of the server of a folder, running or not."""

    data_dir: Path
    socket_path: Path
    url: str
    running: bool
    #: ``stopped``, ``loading`` (it is reading its files), ``silent`` (it listens and does not reply) or ``ready``.
    state: str
    pid: int | None
    #: The running engine, else the engine that wrote the data: ``valkey`` or ``redis``; None if there never was one.
    engine: str | None
    version: str | None
    #: The sync policy for writes, ``everysec`` or ``always``; None unless the server is ready and reports it.
    durability: str | None
    #: Whether the server runs on without users.
    pinned: bool
    #: The number of processes that use the server, or None if unknown.
    users: int | None


def default_data_dir() -> Path:
    """Return ``REDIS_STORE_DATA_DIR``, or the folder ``redis-store`` in the platform's directory for user data."""
    chosen = os.environ.get("REDIS_STORE_DATA_DIR")
    return folder_at(chosen or platformdirs.user_data_dir("redis-store", appauthor=False)).path


def join(data_dir: DataDir = None, *, durability: Durability = "everysec") -> EmbeddedServer:
    """Use the server of a folder; start it if it is not running.

    `durability` guards against a crash of the machine. With ``always``, each write is synced to the disk before it is
    acknowledged, for all users of the server. Asking for less durability than the server has changes nothing. Raises
    `InvalidSettings` for an unusable argument and `EmbeddedServerError` if the server cannot run here. Thread-safe.
    """
    check_durability(durability)
    with translated_errors(_folder(data_dir)) as folder:
        membership = membership_of(folder)
        membership.enter(always=durability == "always")
    return EmbeddedServer(membership)


def status(data_dir: DataDir = None) -> ServerStatus:
    """Return the state of the server of a folder, without starting a server or making a folder."""
    with translated_errors(_folder(data_dir)) as folder:
        return _status(folder)


def start(data_dir: DataDir = None, durability: Durability = "everysec") -> ServerStatus:
    """Start the server if it is not running, and pin it: it runs on without users until `stop`."""
    folder = _folder(data_dir)
    with join(folder.path, durability=durability), translated_errors(folder):
        folder.pin(_status(folder).durability or durability)
    return status(folder.path)


def stop(data_dir: DataDir = None, *, force: bool = False) -> ServerStatus:
    """Unpin the server, and shut it down unless it is in use.

    If it is in use, the last process to leave shuts it down, and `running` is still True in the result. With `force` it is shut
    down even while in use; its users start it again at their next connection.
    """
    with translated_errors(_folder(data_dir)) as folder:
        if folder.path.is_dir():
            folder.refuse_other_host()
            folder.unpin()
            if force:
                force_down(folder).close()
            else:
                _shut_down_soon(folder)
        return _status(folder)


def destroy(data_dir: DataDir = None, *, force: bool = False) -> None:
    """Stop the server and remove its data, and the folder if nothing else is in it.

    Raises `EmbeddedServerError` while any process, including this one, uses the server, unless `force` is given.
    """
    with translated_errors(_folder(data_dir)) as folder, contextlib.ExitStack() as locks:
        if not folder.path.is_dir():
            return
        folder.refuse_other_host()
        whole = try_lock(folder.lease_lock)
        if whole is not None:
            locks.enter_context(contextlib.closing(whole))
            if not shut_down(folder) and not force:
                raise EmbeddedServerError(
                    f"The embedded server in {str(folder.path)!r} does not stop; destroy it with force."
                )
        elif not force:
            raise EmbeddedServerError(
                f"The embedded server in {str(folder.path)!r} is in use by {_users(folder)}; end them, or destroy it with "
                "force."
            )
        locks.enter_context(contextlib.closing(force_down(folder)))
        folder.remove_data()


def _folder(data_dir: DataDir) -> Folder:
    return folder_at(default_data_dir() if data_dir is None else data_dir)


def _url_of(socket_path: Path) -> str:
    return "unix://" + urllib.parse.quote(os.fspath(socket_path))


def _shut_down_soon(folder: Folder) -> None:
    # A process that is leaving holds the exclusive lease for a moment, and may have read the pin before we removed it.
    patience = Patience(0.5)
    while True:
        shut_down_unless_used(folder)
        if probe.probe(folder.socket_path()) is ProbeAnswer.ABSENT or count_shared(
            folder.lease_lock, folder.engine_record
        ):
            return
        if not patience.wait():
            return


def _users(folder: Folder) -> str:
    count = count_shared(folder.lease_lock, folder.engine_record)
    return "other processes" if count is None else f"{count} process{'' if count == 1 else 'es'}"


def _status(folder: Folder) -> ServerStatus:
    socket_path = folder.socket_path()
    answer = probe.probe(socket_path)
    running = answer is not ProbeAnswer.ABSENT
    engine, durability = folder.writer(), None
    if answer is ProbeAnswer.READY:
        with contextlib.suppress(OSError), Talk(socket_path) as talk:
            engine = probe.engine_of(talk) or engine
            reply = talk.ask("CONFIG", "GET", "appendfsync")
            durability = reply[1].decode() if isinstance(reply, list) else None
    return ServerStatus(
        data_dir=folder.path,
        socket_path=socket_path,
        url=_url_of(socket_path),
        running=running,
        state="stopped" if answer is ProbeAnswer.ABSENT else answer.name.lower(),
        pid=probe.listener_pid(socket_path) if running else None,
        engine=engine.name if engine is not None else None,
        version=engine.version if engine is not None else None,
        durability=durability,
        pinned=folder.pinned_durability() is not None,
        users=count_shared(folder.lease_lock, folder.engine_record) if running else None,
    )
