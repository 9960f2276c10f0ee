"""Main program of a broker process: two threads for each agent process, until the host is gone."""

from __future__ import annotations

import contextvars
import logging
import os
import pickle
import socket
import threading
from contextlib import suppress
from typing import NoReturn

import redis_store
from redis_store.brokers.lease import addresses_of
from sandbox.errors import SandboxError
from sandbox.given.given import Given
from sandbox.given.job import Job, Task
from sandbox.given.sources import Source
from sandbox.host.broker import Broker
from sandbox.host.remote_broker import Records, Request
from sandbox.record.timeline import Who
from sandbox.running.background_loop import background_loop
from sandbox.running.tree import Tree

_CLOSING_S = 3.0
"""Timeout for closing the connections after the host is gone, in seconds."""

_RECORDS_AT_ONCE = 1000

_ELSEWHERE = Source("", "", "", b"")
"""Placeholder for an agent's source: its code never reaches this process."""


def main(descriptor: int) -> NoReturn:
    """Serve the host at the other end of a socket, given by its descriptor."""
    logging.basicConfig(level=logging.WARNING)
    trees = Trees()
    with suppress(ConnectionError):
        _serve_host(socket.socket(fileno=descriptor), trees)
    closing = threading.Thread(target=trees.close, daemon=True)
    closing.start()
    closing.join(_CLOSING_S)
    os._exit(0)  # threads may still wait for a server that does not reply


def _serve_host(control: socket.socket, trees: Trees) -> None:
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 2, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        if not message:
            return
        received = [socket.socket(fileno=one) for one in descriptors]
        try:
            data, link = received  # fewer than two if this process may open no more
            threading.Thread(target=_attend, args=(data, link, trees), daemon=True).start()
        except (ValueError, RuntimeError):  # this run ends with `BrokerLost`; the others go on
            for sock in received:
                sock.close()


def _attend(data: socket.socket, link: socket.socket, trees: Trees) -> None:
    """Serve one agent process until the host reports its end, or until the host is gone."""
    with data, link, link.makefile("rb") as messages, suppress(ConnectionError, EOFError):
        request: Request = pickle.load(messages)
        tree = trees.enter(request)
        store = tree.store_of(Job(request.who, _ELSEWHERE, b"", request.callers))
        broker = Broker(data, store.as_json_text(), request.who, tree, addresses_of(store.url))
        serving = threading.Thread(target=_serve, args=(broker, tree, link), daemon=True)
        serving.start()
        messages.read()
        broker.close()
        serving.join()
        if trees.leave(request):
            done, left_out = tree.timeline.done.items(), tree.timeline.done.left_out
            for start in range(0, len(done), _RECORDS_AT_ONCE):
                _say(link, Records(done[start : start + _RECORDS_AT_ONCE], left_out if start == 0 else 0))
        _say(link, None)


def _serve(broker: Broker, tree: Tree, link: socket.socket) -> None:
    """Answer the agent. Report an error that ends the run before anything is closed, so that the agent does not see it."""
    error = broker.serve() or tree.error
    if error is not None:
        with suppress(OSError):
            _say(link, error)
    broker.give_back()


def _say(link: socket.socket, message: SandboxError | Records | None) -> None:
    link.sendall(pickle.dumps(message))


class Trees:
    """The runs that are served, each with the state that its processes share."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._store: redis_store.DataStore | None = None
        self._trees: dict[str, tuple[Tree, list[Request]]] = {}

    def enter(self, request: Request) -> Tree:
        """Return the tree that a process belongs to, and add the process to it."""
        with self._lock:
            if self._store is None:
                self._store = redis_store.connect(request.url, user="sandbox", **request.options)
            if request.tree not in self._trees:
                self._trees[request.tree] = _tree_of(request, self._store), []
            tree, processes = self._trees[request.tree]
            processes.append(request)
            return tree

    def leave(self, request: Request) -> bool:
        """Remove a process that has ended, and return whether it was the last of its tree."""
        with self._lock:
            _, processes = self._trees[request.tree]
            processes.remove(request)
            if processes:
                return False
            del self._trees[request.tree]
            return True

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._store is not None:
                self._store.close()


def _tree_of(request: Request, store: redis_store.DataStore) -> Tree:
    task = Task(
        Job(Who(request.who.agent, request.tree), _ELSEWHERE, b""),
        request.user,
        request.namespace,
        request.granted,
        lambda text: None,
    )
    return Tree(task, Given(limits=request.limits), store, background_loop, contextvars.copy_context())
