"""The host's side of a broker in its own process, for hosts whose own threads keep the interpreter busy.

A thread that waits for the interpreter lock waits up to 5 ms, two or three times for each store call. The broker process has
its own interpreter. Everything else stays the same: limits are counted where the calls arrive, and tools run in the host.

The two processes talk about each agent process over a socket of its own, the *link*, in pickled objects: both run the host's
code. The host first sends a `Request`; it closes its side when the agent process has ended. The broker sends the error that
ended the run, at once; `Records`, when the last process of the tree has ended; and None, when it is done.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from typing import NamedTuple

import redis_store
from sandbox.errors import BrokerLost, LimitExceeded, SandboxError, StartFailed
from sandbox.given.job import Job
from sandbox.limits import Limits
from sandbox.permissions import Granted
from sandbox.record.timeline import OperationDone, Who
from sandbox.running.stop import Stop
from sandbox.running.tree import Tree

_END_TIMEOUT_S = 5.0
_START = """
import json, sys
fd, sys.path[:] = int(sys.argv[1]), json.loads(sys.argv[2])
from sandbox.host.broker_main import main
main(fd)
"""
"""Program of the broker process. It takes the host's `sys.path`, to find the same packages; -I keeps the current folder out
of the path."""

_living: weakref.WeakSet[BrokerProcess] = weakref.WeakSet()


class Request(NamedTuple):
    """The agent process that the broker shall serve, and its permissions."""

    url: str | None
    """Address of the store, None to take it from the environment; the same in all requests to one broker process."""
    tree: str
    """Id of the tree's first run; the processes of one tree share their limits."""
    who: Who
    user: str
    namespace: str
    granted: Granted
    limits: Limits
    callers: tuple[str, ...] = ()
    options: redis_store.ClientOptions = redis_store.ClientOptions()
    """The options of the host's client; the same in all requests too."""


class Records(NamedTuple):
    """Some of the operations of a tree."""

    done: list[OperationDone]
    left_out: int


class BrokerProcess:
    """A broker process, started when the first run needs it and restarted if it has ended. Thread-safe.

    It ends with `close`, and with the host, however the host ends.
    """

    def __init__(self, url: str | None, options: redis_store.ClientOptions | None = None) -> None:
        """`url` is the address of its store; None takes it from the environment. The options are those of its client."""
        self._url = url
        self._options = options or redis_store.ClientOptions()
        self._lock = threading.RLock()
        self._running: _Running | None = None
        _living.add(self)

    @property
    def process_id(self) -> int | None:
        """Id of the process; None before the first run."""
        return None if self._running is None else self._running.popen.pid

    def serve(self, data: socket.socket, job: Job, tree: Tree, stop: Stop) -> RemoteBroker:
        """Pass the data socket of an agent process to the broker process; raises `StartFailed`."""
        # The url is not passed in the arguments, which other users of the machine can read: it may contain a password.
        shared = tree.user, tree.namespace, tree.granted, tree.given.limits
        request = Request(self._url, tree.run, job.who, *shared, job.callers, self._options)
        link, theirs = socket.socketpair()
        try:
            with theirs:
                self._send(data.fileno(), theirs.fileno())
            link.sendall(pickle.dumps(request))
        except OSError as error:
            link.close()
            raise StartFailed(f"The broker process could not be started: {error}", output="") from None
        except BaseException:
            link.close()
            raise
        return RemoteBroker(link, tree, stop)

    def close(self) -> None:
        """End the process. May be called repeatedly."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.end(_END_TIMEOUT_S)

    def forget(self) -> None:
        """In a forked copy of the host, close its copy of the descriptor whose end tells the process that the host is gone."""
        self._lock = threading.RLock()
        running, self._running = self._running, None
        if running is not None:
            running.popen.returncode = 0  # it is not a child of this process
            running.control.close()

    def _send(self, *descriptors: int) -> None:
        with self._lock:
            if self._running is not None:
                try:
                    socket.send_fds(self._running.control, [b"!"], descriptors)
                    return
                except ConnectionError:  # it has ended; start another below
                    self._running.end(0)
                    self._running = None
            self._running = _start()
            socket.send_fds(self._running.control, [b"!"], descriptors)


class _Running(NamedTuple):
    """A broker process, and the socket on which the host passes descriptors to it."""

    control: socket.socket
    popen: subprocess.Popen[bytes]

    def end(self, timeout_s: float) -> None:
        """Close the socket, on which the process ends by itself, and kill it after the timeout."""
        self.control.close()
        try:
            self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


def _start() -> _Running:
    control, theirs = socket.socketpair()
    try:
        with theirs:
            command = [sys.executable, "-I", "-c", _START, str(theirs.fileno()), json.dumps(sys.path)]
            popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), start_new_session=True
            )
    except BaseException:
        control.close()
        raise
    return _Running(control, popen)


class RemoteBroker:
    """Represents in the host a broker in another process; it runs in a thread of the run."""

    patience_s = 20.0
    """Timeout for the timeline of a run, in seconds; only a broker that the system has suspended takes this long."""

    def __init__(self, link: socket.socket, tree: Tree, stop: Stop) -> None:
        self._link = link
        self._tree = tree
        self._stop = stop

    def serve(self) -> SandboxError | None:
        """Wait until the broker has finished with the agent process; return an error if it ended early."""
        try:
            with self._link, self._link.makefile("rb") as messages:
                while (message := pickle.load(messages)) is not None:
                    self._heard(message)
        except (OSError, EOFError, pickle.UnpicklingError):
            return BrokerLost("The broker process ended, and the run with it; what the agent had written stays.")
        return None

    def close(self) -> None:
        """Tell the broker that the agent process has ended; calls under way are aborted."""
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_WR)

    def _heard(self, message: Records | SandboxError) -> None:
        if isinstance(message, Records):
            done = self._tree.timeline.done
            for record in message.done:
                done.add(record)
            done.left_out += message.left_out
        elif isinstance(message, LimitExceeded):
            self._tree.end(message)
        else:
            self._stop.end(message)


def _after_fork_in_child() -> None:
    for process in list(_living):
        process.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
