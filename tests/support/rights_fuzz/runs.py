"""Runs without an agent process: the test holds the agent's end of the sockets, and sends what it likes."""

from __future__ import annotations

import contextvars
import itertools
import queue
import select
import socket
import threading
from contextlib import suppress
from typing import Any

import msgpack

import sandbox
from redis_store import DataStore
from redis_store.brokers.lease import addresses_of
from sandbox.given.given import Given
from sandbox.given.job import Job, Task
from sandbox.given.sources import Source
from sandbox.host.broker import Broker
from sandbox.host.remote_broker import BrokerProcess
from sandbox.host.watches import WatchHost
from sandbox.protocol.frames import FrameBuffer
from sandbox.record.timeline import Who
from sandbox.running.background_loop import background_loop
from sandbox.running.stop import Stop
from sandbox.running.tree import ProcessBroker, Tree
from tests.support.rights_fuzz.oracle import Rights
from tests.support.rights_fuzz.requests import Asked
from tests.support.servers import DEADLINE_S

_LIMITS = sandbox.Limits(operations=2**31, bytes_written=2**31)


class Run:
    """One run, served by a broker in this process or in one of its own."""

    def __init__(self, store: DataStore, process: BrokerProcess | None, rights: Rights, user: str, number: int) -> None:
        self.rights, self.user, self.name = rights, user, f"run{number}"
        self.tokens = tuple(f"token-{number}-{each}" for each in "ab")
        self.taken: list[Asked] = []
        """The last requests that may have taken something."""
        granted = rights.given.granted({}, rights.agent)
        job = Job(Who(rights.agent, self.name), Source("", "", "", b""), b"")
        task = Task(job, user, "default", granted, None)
        self._tree = Tree(task, Given(limits=_LIMITS), store, background_loop, contextvars.copy_context())
        self._stop = Stop()
        self._theirs, self._ours = socket.socketpair()
        self._answers = FrameBuffer(2**32 - 1)
        self._numbers = itertools.count(1)
        lent = self._tree.store_of(job)
        self._outbox = _Outbox()
        self._watches = WatchHost(self._tree, job.who, lent.as_json_text(), self._outbox)  # type: ignore[arg-type]
        self._broker: ProcessBroker
        self._via = "a thread" if process is None else "a process"
        if process is None:
            self._broker = Broker(self._theirs, lent.as_json_text(), job.who, self._tree, addresses_of(store.url))
        else:
            self._broker = process.serve(self._theirs, job, self._tree, self._stop)
            self._theirs.close()
        self._thread = threading.Thread(target=self._serve, name=f"fuzz-{self.name}", daemon=True)
        self._thread.start()

    def __str__(self) -> str:
        return f"{self.name} of {self.rights.agent!r} for {self.user!r} through {self._via}, {self.rights.given}"

    def next_number(self) -> int:
        return next(self._numbers)

    def send(self, body: bytes) -> bytes | None:
        """Send the body of a frame, and return that of the reply; None if the run has ended instead."""
        try:
            self._ours.sendall(len(body).to_bytes(4, "little") + body)
            while (answer := self._answers.next_body()) is None:
                ready, _, _ = select.select([self._ours.fileno(), self._stop.fileno()], [], [], DEADLINE_S)
                assert ready, "there is no answer"
                if self._ours.fileno() not in ready or not (data := self._ours.recv(65536)):
                    return None
                self._answers.feed(data)
        except ConnectionError:
            return None
        return bytes(answer)

    def watch(self, namespace: str, everywhere: bool, consumer: str | None) -> list[list[Any]]:
        """Watch for a moment, from the beginning, and return the messages that this led to."""
        number = self.next_number()
        said = []
        self._watches.heard("watch", [number, namespace, everywhere, None, None, consumer, True])
        said.append(self._outbox.next())
        while said[-1][0] == "changes" and (len(said) == 1 or len(said[-1]) > 2) and len(said) < 4:
            self._watches.heard("next", [self.next_number(), number, 0])
            said.append(self._outbox.next())
        self._watches.heard("unwatch", [number])
        self._watches.join(DEADLINE_S)
        return said

    def close(self) -> None:
        """End the run, and wait until what it held is released."""
        self._watches.close()
        self._watches.join(DEADLINE_S)
        self._ours.close()
        if not isinstance(self._broker, Broker):
            self._broker.close()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the broker did not end"
        self._stop.close()

    def _serve(self) -> None:
        self._broker.serve()
        with suppress(OSError):
            self._theirs.close()
        if isinstance(self._broker, Broker):
            self._broker.give_back()


class _Outbox:
    """The messages to the agent, to be read by the test."""

    closed = False

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()

    def post(self, message: list[Any], awaited: bool = False) -> None:
        self._messages.put(msgpack.unpackb(msgpack.packb(message, use_bin_type=True)))

    def wake(self) -> None:
        pass

    def next(self) -> list[Any]:
        return self._messages.get(timeout=DEADLINE_S)
