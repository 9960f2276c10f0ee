"""The broker in a process of its own, as the host sees it: for hosts whose own threads keep the interpreter busy.

A thread that waits for the interpreter waits up to 5 ms for each turn, two or three times for each call of the store. This
process has an interpreter of its own. It gets the agent's data socket, with who asks and what they may do; what ends the run
comes back at once, the timeline when the run is over. Nothing else moves: limits are spent where the calls arrive, and tools
run in the host.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from typing import Any

from sandbox.errors import BrokerLost, LimitExceeded, SandboxError, StartFailed
from sandbox.given.job import Job
from sandbox.host import broker_link
from sandbox.host.broker_link import MAX_FRAME_BYTES, Request
from sandbox.protocol.frames import RECEIVE_BYTES, FrameBuffer, pack, unpack
from sandbox.running.stop import Stop
from sandbox.running.tree import Tree

_END_TIMEOUT_S = 5.0
_START = """
import json, sys
fd, sys.path[:] = int(sys.argv[1]), json.loads(sys.argv[2])
from sandbox.host.broker_main import main
main(fd)
"""
"""With the host's own path, so that it finds the packages where the host has found them; -I keeps the folder out of it in
which the host happens to be."""

_living: weakref.WeakSet[BrokerProcess] = weakref.WeakSet()


class BrokerProcess:
    """One process, started when the first run needs it and again where it has ended. Safe to use from threads.

    It ends with `close`, and with the host, however that ends.
    """

    def __init__(self, url: str | None) -> None:
        """`url` is where its store is, None for what the environment says."""
        self._url = url
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        _living.add(self)

    @property
    def process_id(self) -> int | None:
        """Of the process; None where none has been needed yet."""
        return None if self._popen is None else self._popen.pid

    def serve(self, data: socket.socket, job: Job, tree: Tree, stop: Stop) -> RemoteBroker:
        """Have the data socket of an agent's process served; raises `StartFailed`."""
        # The url is not among the arguments, which other users of the machine can read: a password may be in it.
        request = Request(self._url, tree.run, job.who, tree.user, tree.namespace, tree.granted, tree.given.limits)
        link, theirs = socket.socketpair()
        try:
            with theirs:
                self._send(data.fileno(), theirs.fileno())
            link.sendall(pack(request.pack(), MAX_FRAME_BYTES))
        except OSError as error:
            link.close()
            raise StartFailed(f"The broker's process could not be started: {error}", output="") from None
        except BaseException:
            link.close()
            raise
        return RemoteBroker(link, tree, stop)

    def close(self) -> None:
        """End the process. Harmless when repeated."""
        with self._lock:
            popen, control = self._popen, self._control
            self._popen = self._control = None
        if control is not None:
            control.close()
        if popen is not None:
            try:
                popen.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()

    def forget(self) -> None:
        """In a forked copy of the host: give up the descriptor by whose end the process knows that the host has gone."""
        self._lock = threading.Lock()
        if self._popen is not None:
            self._popen.returncode = 0  # it is no child of this process
        if self._control is not None:
            self._control.close()
        self._popen = self._control = None

    def _send(self, *descriptors: int) -> None:
        with self._lock:
            if self._control is not None:
                with suppress(ConnectionError):  # it has ended: another one
                    socket.send_fds(self._control, [b"!"], descriptors)
                    return
            self._start()
            assert self._control is not None
            socket.send_fds(self._control, [b"!"], descriptors)

    def _start(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()
            self._popen = None
        control, theirs = socket.socketpair()
        try:
            with theirs:
                command = [sys.executable, "-I", "-c", _START, str(theirs.fileno()), json.dumps(sys.path)]
                self._popen = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), start_new_session=True
                )
        except BaseException:
            control.close()
            raise
        self._control = control


class RemoteBroker:
    """Stands in the host for a broker that works elsewhere, in a thread that the run gives it."""

    patience_s = 20.0
    """How long to wait for the record of a run; only a broker that the system has stopped takes so long."""

    def __init__(self, link: socket.socket, tree: Tree, stop: Stop) -> None:
        self._link = link
        self._tree = tree
        self._stop = stop
        self._closed_properly = False

    def serve(self) -> SandboxError | None:
        """Wait until the agent's process is served no more; return what went wrong."""
        buffer = FrameBuffer(MAX_FRAME_BYTES)
        with self._link, suppress(OSError):
            while data := self._link.recv(RECEIVE_BYTES):
                buffer.feed(data)
                while (body := buffer.next_body()) is not None:
                    kind, *parts = unpack(body)
                    self._heard(kind, parts)
        if self._closed_properly:
            return None
        return BrokerLost("The broker's process ended, and with it the run; what the agent had written stays.")

    def close(self) -> None:
        """Say that the agent is gone; what it still had under way ends."""
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_WR)

    def _heard(self, kind: str, parts: list[Any]) -> None:
        done = self._tree.timeline.done
        if kind == "records":
            for record in broker_link.unpack_records(parts):
                done.add(record)
        elif kind == "left_out":
            done.left_out += parts[0]
        elif kind == "closed":
            self._closed_properly = True
        elif isinstance(error := broker_link.unpack_end(kind, parts), LimitExceeded):
            self._tree.end(error)
        else:
            self._stop.end(error)


def _after_fork_in_child() -> None:
    for process in list(_living):
        process.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
