"""A primary, its replica, and the Sentinels that watch them, on loopback."""

from __future__ import annotations

import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import hiredis
import redis

from tests.support.servers import Server, find_binary, free_port, start_server, wait_until

SERVICE = "agents"

_PERIODS_MS = {"info-period": 100, "ping-period": 100, "ask-period": 100, "publish-period": 500}


class Watched:
    """Servers under the eyes of Sentinels, which fail over in about a second. A context manager, which stops them."""

    def __init__(self, kind: str, *, sentinels: int = 3, password: str = "") -> None:
        self.kind = kind
        self._password = password
        self._stack = ExitStack()
        options = () if not password else ("--requirepass", password, "--masterauth", password)
        self.servers = [self._server(*options)]
        self.servers.append(self._server(*options, "--replicaof", "127.0.0.1", str(port_of(self.servers[0]))))
        self.sentinels = [self._sentinel(2 if sentinels > 1 else 1) for _ in range(sentinels)]
        self.wait_until_whole()

    @property
    def url(self) -> str:
        login = f":{self._password}@" if self._password else ""
        places = ",".join(f"127.0.0.1:{port_of(each)}" for each in self.sentinels)
        return f"redis+sentinel://{login}{places}/{SERVICE}"

    @property
    def primary(self) -> Server | None:
        """The primary that every Sentinel names, or None while they differ."""
        ports = {self._state(each)["port"] for each in self.sentinels}
        return next((each for each in self.servers if {port_of(each)} == ports), None)

    def fail_over(self) -> None:
        """Have a Sentinel promote the replica."""
        wait_until(self._accepts, "a failover is accepted")

    def _accepts(self) -> bool:
        with suppress(redis.ResponseError), self.sentinels[0].client() as asked:  # it may just have lost the replica
            asked.execute_command("SENTINEL", "FAILOVER", SERVICE)
            return True
        return False

    def wait_until_whole(self) -> None:
        """Wait until the Sentinels agree, and can fail over."""
        wait_until(self._is_whole, "the Sentinels know the servers and one another")

    def _is_whole(self) -> bool:
        states = [self._state(each) for each in self.sentinels]
        primary = self.primary
        if primary is None:
            return False
        linked = False
        (replica,) = [each for each in self.servers if each is not primary]
        with suppress(redis.RedisError), replica.client(**self._login) as raw:
            info = raw.info("replication")
            linked = info["role"] == "slave" and info["master_link_status"] == "up"
        return linked and all(
            state["flags"] == "master" and state["num-slaves"] == 1 and state["num-other-sentinels"] == len(states) - 1
            for state in states
        )

    def _state(self, sentinel: Server) -> dict[str, Any]:
        with sentinel.client() as asked:
            reply = asked.execute_command("SENTINEL", "MASTER", SERVICE)
        texts = [part.decode() for part in reply]
        state: dict[str, Any] = dict(zip(texts[::2], texts[1::2], strict=True))
        return {name: int(value) if value.isdigit() else value for name, value in state.items()}

    @property
    def _login(self) -> dict[str, str]:
        return {"password": self._password} if self._password else {}

    def _server(self, *options: str) -> Server:
        started = start_server(self.kind, "--repl-diskless-sync-delay", "0", *options, tcp=True)
        self._stack.callback(started.stop)
        return started

    def _sentinel(self, quorum: int) -> Server:
        port, folder = free_port(), Path(self.servers[0].folder)
        file = folder / f"sentinel-{port}.conf"
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"sentinel monitor {SERVICE} 127.0.0.1 {port_of(self.servers[0])} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} 300",
            f"sentinel failover-timeout {SERVICE} 3000",
        ]
        if self._password:
            lines.append(f"sentinel auth-pass {SERVICE} {self._password}")
        file.write_text("\n".join(lines) + "\n")
        command = [str(find_binary(self.kind)), str(file), "--sentinel"]
        own_folder = folder / f"sentinel-{port}"
        own_folder.mkdir()
        sentinel = Server(self.kind, command, own_folder, f"redis://127.0.0.1:{port}")
        self._stack.callback(sentinel.stop)
        with sentinel.client() as asked:
            for name, period_ms in _PERIODS_MS.items():
                asked.execute_command("SENTINEL", "DEBUG", name, period_ms)
        return sentinel

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()


@contextmanager
def start_sentinel(kind: str) -> Iterator[str]:
    """Start a Sentinel that watches nothing, and return its url as if it were a server's."""
    folder, port = Path(tempfile.mkdtemp(prefix="store-tests-")), free_port()
    (folder / "sentinel.conf").write_text(f"port {port}\nbind 127.0.0.1\n")
    command = [str(find_binary(kind)), str(folder / "sentinel.conf"), "--sentinel"]
    sentinel = Server(kind, command, folder, f"redis://127.0.0.1:{port}")
    try:
        yield sentinel.url
    finally:
        sentinel.stop()


def port_of(server: Server) -> int:
    return int(server.url.partition("://")[2].partition("/")[0].rpartition(":")[2])


class FakeSentinel:
    """A Sentinel that says what a test wants. A context manager."""

    def __init__(self, names: int, tls: ssl.SSLContext | None = None) -> None:
        self.names = names
        """The port of the primary."""
        self.flags = "master"
        self.asked = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        if tls is not None:
            self._listening = tls.wrap_socket(self._listening, server_side=True)
        self.port = int(self._listening.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            try:
                accepted = self._listening.accept()[0]
            except (ssl.SSLError, ConnectionError):  # a client without TLS, or one that refuses the certificate
                continue
            except OSError:  # it is shut down
                return
            with accepted, suppress(ConnectionError, ssl.SSLError):
                self._answer(accepted)

    def _answer(self, accepted: socket.socket) -> None:
        reader = hiredis.Reader()
        while data := accepted.recv(4096):
            reader.feed(data)
            while command := reader.gets():
                accepted.sendall(self._reply(command))

    def _reply(self, command: list[bytes]) -> bytes:
        if command[0] != b"SENTINEL":
            return b"+OK\r\n"
        self.asked += 1
        if command[2] != SERVICE.encode():
            return b"-ERR No such master with that name\r\n"
        texts = ["ip", "127.0.0.1", "port", str(self.names), "flags", self.flags]
        return f"*{len(texts)}\r\n".encode() + b"".join(f"${len(text)}\r\n{text}\r\n".encode() for text in texts)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()
