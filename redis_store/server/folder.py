"""The folder of an embedded server: its files, its permissions and its records.

start.lock       locked exclusively by the process that starts a server, then by the server until its process is gone
lease.lock       locked shared by every process that uses the server; exclusively by the process that shuts it down
server.json      the engine and version that wrote the data; never removed by a shutdown
running.json     the machine that the server runs on; removed when it is shut down
pinned           present if the server is to run without users; contains the requested durability
server.sock      the socket; the server binds it by this relative name, from inside the folder
short-path       the path of the short link to a folder with a long path
server.log(.1)   the output of the server and of its start
appendonlydir/   the data
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from redis_store.errors import DataStoreError, EmbeddedServerError, InvalidSettings
from redis_store.server import socket_path as server_socket_path
from redis_store.server.binary import Engine
from redis_store.server.host import Host, this_host
from redis_store.server.locks import released_on_error

_FORMAT = 1
_MAX_LOG_BYTES = 1 << 20
_FILES = (
    "running.json",
    "pinned",
    "short-path",
    "server.log",
    "server.log.1",
    "server.pid",
    "server.sock",
    "server.json",
)
_OURS = {*_FILES, "start.lock", "lease.lock", "appendonlydir"}


class Folder:
    """A server's folder, identified by its resolved path. Methods let `OSError` from the filesystem through."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start_lock = path / "start.lock"
        self.lease_lock = path / "lease.lock"
        self.engine_record = path / "server.json"
        self.host_record = path / "running.json"
        self.log = path / "server.log"
        self._pin = path / "pinned"

    def prepare(self) -> None:
        """Make the folder if needed, and make it private to its owner. Raises `InvalidSettings` or `EmbeddedServerError`."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InvalidSettings(
                f"The data directory {str(self.path)!r} cannot be a folder: a file is in its place; give another with "
                "REDIS_STORE_DATA_DIR or data_dir=."
            ) from error
        status = self.path.stat()
        if status.st_uid != os.geteuid():
            raise EmbeddedServerError(
                f"The data directory {str(self.path)!r} belongs to user {status.st_uid}, but this process runs as user "
                f"{os.geteuid()}, and an embedded server has one owner; run as that user, or give another folder with "
                "REDIS_STORE_DATA_DIR or data_dir=."
            )
        if status.st_mode & 0o077:
            self._make_private()

    def _make_private(self) -> None:
        names = {entry.name for entry in self.path.iterdir()}
        if names and not names & _OURS:
            raise InvalidSettings(
                f"The data directory {str(self.path)!r} is open to other users and holds files that are not the store's; give a "
                "new or empty folder, or make it private with `chmod 700`."
            )
        self.path.chmod(0o700)
        if self.path.stat().st_mode & 0o077:
            raise EmbeddedServerError(
                f"The filesystem of {str(self.path)!r} keeps no permissions, so every user could open the store; put the "
                "folder on another filesystem with REDIS_STORE_DATA_DIR or data_dir=."
            )

    def refuse_other_host(self) -> None:
        """Raise `EmbeddedServerError` if the folder may be in use on another machine."""
        record = _read_record(self.host_record)
        try:
            host = Host(str(record["hostname"]), str(record["machine"]), str(record["boot"]))
        except KeyError:
            return
        if host.may_still_use(self.path, this_host()):
            raise EmbeddedServerError(
                f"The data directory {str(self.path)!r} is in use on another machine, {host.hostname!r}, and only one server may "
                "use it; give a folder on a local disk, or a server that both machines reach, with url= or REDIS_URL. If no "
                f"server runs on that machine any more (it is gone or crashed), remove {str(self.host_record)!r}."
            )

    def claim_host(self) -> None:
        """Record that a server runs on this machine.

        An equal record left by a killed server is not rewritten, so that a server can start on a full disk.
        """
        if _read_record(self.host_record) != (here := asdict(this_host())):
            _write_whole(self.host_record, json.dumps(here))

    def release_host(self) -> None:
        """Remove the record, the socket and the pid file of a server that is gone. Call it only with the start lock held."""
        for name in ("running.json", "server.sock", "server.pid"):
            (self.path / name).unlink(missing_ok=True)

    def writer(self) -> Engine | None:
        """Return the engine that wrote the data, or None if there is no record of one."""
        record = _read_record(self.engine_record)
        if record.get("format", _FORMAT) != _FORMAT:
            raise EmbeddedServerError(
                f"The folder {str(self.path)!r} was made by a newer version of agent-data-store (format {record['format']!r}, "
                f"this version reads {_FORMAT}); upgrade the library."
            )
        try:
            return Engine(str(record["engine"]), str(record["version"]))
        except KeyError:
            return None

    def record_writer(self, engine: Engine) -> None:
        """Record the engine that writes the data, if it changed."""
        if self.writer() != engine:
            _write_whole(
                self.engine_record, json.dumps({"format": _FORMAT, "engine": engine.name, "version": engine.version})
            )

    def pin(self, durability: str) -> None:
        """Let the server run without users."""
        _write_whole(self._pin, durability)

    def unpin(self) -> None:
        """Let the last user shut the server down."""
        self._pin.unlink(missing_ok=True)

    def pinned_durability(self) -> str | None:
        """Return the durability that the server was pinned with, or None if it is not pinned."""
        try:
            return self._pin.read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def rotate_log(self) -> None:
        """Start a new log if the old one is longer than `_MAX_LOG_BYTES`. One old log is kept."""
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > _MAX_LOG_BYTES:
                self.log.replace(self.path / "server.log.1")

    def log_since(self, offset: int, lines: int = 8) -> str:
        """Return the last lines that were logged after `offset`, for an error message."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(offset, self.log.stat().st_size - 8192))
                text = log.read().decode(errors="replace")
        except OSError:
            text = ""
        told = [line[:300] for line in text.splitlines() if line.strip()][-lines:]
        return f"the end of its log {str(self.log)!r}: {' | '.join(told)}" if told else "it logged nothing"

    def socket_path(self) -> Path:
        """Return a path of the socket that is short enough for a unix socket."""
        return server_socket_path.socket_path(self.path)

    def remove_data(self) -> None:
        """Remove the store's files, and the folder if nothing else is in it. Both locks must be held.

        The data are renamed first, so that a kill leaves all of them or none.
        """
        with contextlib.suppress(FileNotFoundError):
            (self.path / "appendonlydir").rename(self.path / f"removed-{uuid.uuid4().hex}")
        for removed in self.path.glob("removed-*"):
            shutil.rmtree(removed)
        server_socket_path.remove_short_path(self.path)
        for name in (*_FILES, "lease.lock", "start.lock"):
            for file in (self.path / name, *self.path.glob(f"{name}.*")):  # the latter: left by a killed writer
                file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the folder has other files in it
            self.path.rmdir()


def folder_at(path: str | os.PathLike[str]) -> Folder:
    """Return the folder at `path`, with ``~`` and symbolic links resolved. Raises `InvalidSettings` for an unusable path."""
    try:
        return Folder(Path(os.fsdecode(path)).expanduser().resolve())
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise InvalidSettings(f"The data directory {path!r} cannot be used: {error}.") from error


@contextlib.contextmanager
def translated_errors(folder: Folder) -> Iterator[Folder]:
    """Translate `OSError` into `EmbeddedServerError`, and release the locks that were taken inside on any error."""
    try:
        with released_on_error():
            yield folder
    except DataStoreError:
        raise
    except OSError as error:
        raise EmbeddedServerError(
            f"The embedded server cannot use {str(error.filename or folder.path)!r}: {error.strerror or error}; check its "
            "permissions and free space, or give another folder with REDIS_STORE_DATA_DIR or data_dir=."
        ) from error


def _read_record(path: Path) -> dict[str, object]:
    """Return the object in a file, or an empty one if it is missing, or damaged by a crash of the machine."""
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write_whole(path: Path, text: str) -> None:
    """Replace the file's content atomically, even if the machine crashes."""
    fd, new = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(new).replace(path)
    except BaseException:
        Path(new).unlink(missing_ok=True)
        raise
