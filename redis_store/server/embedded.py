"""The embedded server: a real Valkey or Redis in a folder, which those who use it share, start and shut down.

Nobody is in charge of it: any process may come, go, or be killed at any moment. What holds is what the kernel holds: two file
locks (`flock`), which end with their last descriptor, however its process ends.

**The start lock** is exclusive. Who wants to start a server takes it *and hands the descriptor on to the server*, which keeps it,
without knowing, until its process is gone. So "the start lock is free" and "there is no server, and none is coming" are the same
fact, also after any `kill -9`, when the pid is used again, or when the process is in another container. Two servers cannot be.

**The lease** is shared; every using process holds it. Who gives it up then tries to lock it exclusively. That succeeds for the
last one only, and while it lasts nobody can join; he tells the server to shut down and waits until the start lock is free, which
is when the process is gone: a server that is still leaving would remove its successor's socket. Only then may others join.
The two steps (close ours, lock all) are two because turning one lock into another is not atomic; what can come between them is
another who leaves (one of both, or the later, finds itself alone) or one who joins (then the server stays).

What a process sees, and does about it::

    socket      start lock    it means                                           a joiner, or `ensure_running`, holding a lease
    PONG        held          all is well                                        is done
    LOADING     held          the server reads its files                         waits
    silent      held          busy, or stopped with SIGSTOP                      waits, with a deadline
    nobody      held          somebody starts one; or one just died and its      waits, with a deadline
                              rewriting child has not noticed; or one is leaving
    nobody      free          none; a socket file is what a killed one left      takes the lock, removes the file, starts one

Who dies when:

- *The starter*, before the server runs: its lock is free. Between fork and exec, or before the server is ready: the server has
  the lock and comes up; whoever waits finds it answering. It needs no parent: it makes a daemon of itself.
- *The server*, with users: their connections break; before the next one they call `ensure_running`, and one of them starts
  another. Eight at once contend for the start lock; seven find it held and wait for the socket.
- *A user*: the kernel closes its lease. If it was the last, the server stays without users, until the next one adopts it and,
  being the last, shuts it down.
- *Who shuts it down*, half way: the lease is free again. The server either got the message and goes, or did not and is adopted.
- *The folder*, removed under everybody: leases name an inode; a user whose path shows another takes a new lease and, if it was
  the last on the old one, ends the server that nobody can reach.
- Whoever is *stopped* (SIGSTOP) while it holds a lease hinders nobody. Stopped in the few milliseconds in which it starts a
  server or shuts one down it does hinder: the others then fail after a deadline, and their message names the process.

**Fork.** A child shares its parent's open file description, and so its lease: were the child to unlock it, the parent would
lose it; and the parent's close releases nothing while the child has it open. So the child, first thing after the fork, takes a
lease of its own (which cannot fail while the inherited one is held) and then closes what it inherited. Nothing ever unlocks.

**What is lost.** Nothing when users are killed. When the *server* is killed: nothing with ``always``; with ``everysec`` mostly
nothing either, as a write is in the kernel's hands before it is acknowledged, but while a sync to a slow disk is under way the
server keeps up to 2 s of acknowledged writes to itself, and those are gone with it. When the machine dies: nothing with
``always``, about a second of writes with ``everysec``.
"""

from __future__ import annotations

import contextlib
import os
import threading
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import platformdirs

from redis_store.errors import EmbeddedServerError, StoreClosed
from redis_store.server import probe
from redis_store.server.folder import Folder, folder_at, translated_errors
from redis_store.server.locks import Patience, count_shared, try_lock
from redis_store.server.membership import Membership, membership_of, shut_down_unless_used
from redis_store.server.probe import ProbeAnswer, Talk
from redis_store.server.process import force_down, shut_down
from redis_store.server_config import Durability, check_durability

__all__ = [
    "EmbeddedServer",
    "ServerStatus",
    "default_data_dir",
    "destroy",
    "join",
    "start",
    "status",
    "stop",
]

DataDir = str | os.PathLike[str] | None


class EmbeddedServer:
    """A process's hold on the server of a folder, given by `join`; a context manager.

    The server runs for as long as anybody holds it. All handles of a process on the same folder share one lease, and a forked
    child has its own. At the end of the process what is still held is given up.
    """

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._closing = threading.Lock()
        self._closed = False

    @property
    def data_dir(self) -> Path:
        """The folder with the data, symbolic links resolved."""
        return self._membership.folder.path

    @property
    def socket_path(self) -> Path:
        """The unix socket, by a path short enough for one."""
        with translated_errors(self._membership.folder):
            return self._membership.folder.socket_path()

    @property
    def url(self) -> str:
        """The server's url: ``unix:///path/to/server.sock``, percent-encoded."""
        return _url_of(self.socket_path)

    def ensure_running(self) -> None:
        """Return when the server can be connected to; start it again if it died. Call it before each new connection.

        Costs one connection and one round trip when all is well (about 0.1 ms). Raises `EmbeddedServerError` if the server cannot
        be started and `StoreClosed` after `close`.
        """
        if self._closed:
            raise StoreClosed(
                f"The embedded server in {str(self.data_dir)!r} was closed by this handle; join it again."
            )
        with translated_errors(self._membership.folder):
            self._membership.ensure_running()

    def close(self) -> None:
        """Let the server go; the last one anywhere shuts it down and waits until it is gone. Idempotent."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        with translated_errors(self._membership.folder):
            self._membership.leave()

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EmbeddedServer {str(self.data_dir)!r}{' (closed)' if self._closed else ''}>"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What is known about the server of a folder, running or not."""

    data_dir: Path
    socket_path: Path
    url: str
    running: bool
    #: ``stopped``, ``loading`` (it reads its files), ``silent`` (it listens and does not answer) or ``ready``.
    state: str
    pid: int | None
    #: The engine that runs, else the one that wrote the data: ``valkey`` or ``redis``; None if there never was one.
    engine: str | None
    version: str | None
    #: How writes are synced, where it runs and tells: ``everysec`` or ``always``.
    durability: str | None
    #: Whether it goes on without users.
    pinned: bool
    #: How many processes use it, or None where that cannot be known.
    users: int | None


def default_data_dir() -> Path:
    """``REDIS_STORE_DATA_DIR``, else the folder ``redis-store`` where this platform keeps a user's data."""
    chosen = os.environ.get("REDIS_STORE_DATA_DIR")
    return folder_at(chosen or platformdirs.user_data_dir("redis-store", appauthor=False)).path


def join(data_dir: DataDir = None, *, durability: Durability = "everysec") -> EmbeddedServer:
    """Use the server of a folder: start it if none runs there, else join those who use it.

    `durability` is for machines that die: ``always`` syncs each write to the disk before it is acknowledged, for all users of the
    server; asking for less than it has changes nothing. Raises `InvalidSettings` for what cannot be used and
    `EmbeddedServerError` for what cannot run here. Threads may call it at once.
    """
    check_durability(durability)
    folder = _folder(data_dir)
    membership = membership_of(folder)
    with translated_errors(folder):
        membership.enter(always=durability == "always")
    return EmbeddedServer(membership)


def status(data_dir: DataDir = None) -> ServerStatus:
    """What is known about the server of a folder. Starts nothing and makes no folder."""
    folder = _folder(data_dir)
    with translated_errors(folder):
        return _status(folder)


def start(data_dir: DataDir = None, durability: Durability = "everysec") -> ServerStatus:
    """Start the server, or find it running, and pin it: it goes on without users, until `stop`."""
    folder = _folder(data_dir)
    with join(folder.path, durability=durability), translated_errors(folder):
        folder.pin(_status(folder).durability or durability)
    return status(folder.path)


def stop(data_dir: DataDir = None, *, force: bool = False) -> ServerStatus:
    """Unpin the server and shut it down, unless processes use it: then the last of them does, and `running` is still True.

    With `force` it is shut down under its users, who start it again when they next connect.
    """
    folder = _folder(data_dir)
    with translated_errors(folder):
        if folder.path.is_dir():
            folder.refuse_other_host()
            folder.unpin()
            if force:
                force_down(folder).close()
            else:
                _shut_down_soon(folder)
        return _status(folder)


def destroy(data_dir: DataDir = None, *, force: bool = False) -> None:
    """Stop the server and remove its data; the folder, too, if nothing else is in it.

    Raises `EmbeddedServerError` while processes use the server, this one among them, unless `force` is given.
    """
    folder = _folder(data_dir)
    with translated_errors(folder), contextlib.ExitStack() as locks:
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
                f"The embedded server in {str(folder.path)!r} is in use by {_users(folder)}; let them end, or destroy it with "
                "force."
            )
        locks.enter_context(contextlib.closing(force_down(folder)))
        folder.remove_data()


def _folder(data_dir: DataDir) -> Folder:
    return folder_at(default_data_dir() if data_dir is None else data_dir)


def _url_of(socket_path: Path) -> str:
    return "unix://" + urllib.parse.quote(os.fspath(socket_path))


def _shut_down_soon(folder: Folder) -> None:
    # Whoever leaves holds the whole lease for a moment, perhaps having read the pin that we removed since.
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
