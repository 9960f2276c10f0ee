"""A proxy between a store and its server that simulates network faults at a chosen request.

A rule defines the fault for the next request that contains some bytes, and for its reply.
"""

from __future__ import annotations

import enum
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from tests.support.servers import Server, socket_path


class Fault(enum.Enum):
    """A fault of a request."""

    CUT_BEFORE = "the connection ends before the server gets it"
    CUT_AFTER = "the server carries it out, and the connection ends instead of the reply"
    CUT_IN_REPLY = "the connection ends in the middle of the reply"
    SWALLOW = "its reply, and all after it, never come"
    HOLD_REQUEST = "it waits for `release`"
    HOLD_REPLY = "its reply waits for `release`"


class Rule:
    """A fault that strikes requests with `token` in them, `times` times, when `after` others have passed."""

    def __init__(self, token: bytes, fault: Fault, times: int, after: int) -> None:
        self.after = after
        self.token = token
        self.fault = fault
        self.left = times
        self.struck = threading.Event()
        self.released = threading.Event()

    def release(self) -> None:
        """Release the requests and replies that are held back."""
        self.released.set()


class Proxy:
    """Listens on a loopback port and forwards to a server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.connections = 0
        self.request_bytes = 0
        self._requests = bytearray()
        self._rules: list[Rule] = []
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._thread.start()

    def strike(self, token: bytes | str, fault: Fault, times: int = 1, after: int = 0) -> Rule:
        """Apply a fault to the next request that contains these bytes, or to one after some others of them."""
        rule = Rule(token.encode() if isinstance(token, str) else token, fault, times, after)
        with self._lock:
            self._rules.append(rule)
        return rule

    def count(self, token: bytes | str) -> int:
        """Return how many requests contained these bytes, faulty ones included."""
        with self._lock:
            return self._requests.count(token.encode() if isinstance(token, str) else token)

    def lead_to(self, server: Server, *, close: bool = True) -> None:
        """Forward new connections to another server from now on; existing ones are closed, or stay where they are."""
        self._server = server
        if close:
            self.drop_all()

    def silence(self) -> None:
        """Forward nothing more on the existing connections, as a network does that lost them; new ones work."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.silent = True

    def drop_all(self) -> None:
        """Close all connections, as a server does with idle ones."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.close()

    def end_faults(self) -> None:
        """Forget all rules, let go what they hold back, and close the connections whose replies were swallowed."""
        with self._lock:
            rules, self._rules = self._rules, []
        for rule in rules:
            rule.release()
        self.drop_all()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        with self._lock:
            rules = list(self._rules)
        for rule in rules:
            rule.release()
        self.drop_all()
        for link in list(self._links):
            link.join()

    def matching_rule(self, data: bytes) -> Rule | None:
        """Record a request and return the rule that applies to it."""
        with self._lock:
            self._requests += data
            self.request_bytes += len(data)
            for rule in self._rules:
                if rule.left and rule.token in data:
                    if rule.after:
                        rule.after -= 1
                        continue
                    rule.left -= 1
                    return rule
        return None

    def forget(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                upstream = _connect(self._server.url)
            except OSError:
                client.close()
                continue
            with self._lock:
                self.connections += 1
                self._links.add(link := _Link(self, client, upstream))
            link.start()


class _Link:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: socket.socket, upstream: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._upstream = upstream
        self.silent = False
        self._reply_rule: Rule | None = None
        self._threads = [
            threading.Thread(target=self._guarded, args=(pump,), name="proxy-link", daemon=True)
            for pump in (self._requests, self._replies)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        for sock in (self._client, self._upstream):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _guarded(self, pump: object) -> None:
        try:
            with suppress(OSError):
                pump()  # type: ignore[operator]
        finally:
            self.close()
            if self._threads[0] is not threading.current_thread():
                self._threads[0].join()
                self._client.close()
                self._upstream.close()
                self._proxy.forget(self)

    def _requests(self) -> None:
        while data := self._client.recv(1024 * 1024):
            if self.silent:
                continue
            rule = self._proxy.matching_rule(data)
            if rule is not None:
                if rule.fault is Fault.CUT_BEFORE:
                    rule.struck.set()
                    return
                if rule.fault is Fault.HOLD_REQUEST:
                    rule.struck.set()
                    rule.released.wait()
                elif self._reply_rule is None or self._reply_rule.fault is not Fault.SWALLOW:
                    self._reply_rule = rule  # after a swallowed reply none may come, or it would answer another request
            self._upstream.sendall(data)

    def _replies(self) -> None:
        while data := self._upstream.recv(1024 * 1024):
            if self.silent:
                continue
            rule = self._reply_rule
            if rule is not None:
                rule.struck.set()
                if rule.fault is Fault.CUT_AFTER:
                    return
                if rule.fault is Fault.CUT_IN_REPLY:
                    self._client.sendall(data[: len(data) // 2])
                    return
                if rule.fault is Fault.SWALLOW:
                    continue
                rule.released.wait()
                self._reply_rule = None
            self._client.sendall(data)


def _connect(url: str) -> socket.socket:
    if url.startswith("unix:"):
        upstream = socket.socket(socket.AF_UNIX)
        try:
            upstream.connect(socket_path(url))
        except OSError:
            upstream.close()
            raise
        return upstream
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port))


@contextmanager
def proxied(server: Server) -> Iterator[Proxy]:
    """A proxy in front of a server."""
    proxy = Proxy(server)
    try:
        yield proxy
    finally:
        proxy.close()
