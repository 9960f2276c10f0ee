"""The life of one agent process: borrow store connections, start the process, supervise it and clean up."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from redis_store import DataStore
from redis_store.brokers.lease import addresses_of
from sandbox.errors import SandboxError, StartFailed
from sandbox.given.job import Job
from sandbox.host.broker import Broker
from sandbox.host.outcome import Returned
from sandbox.host.supervisor import Supervisor
from sandbox.isolation import start_child
from sandbox.isolation.child import Child
from sandbox.isolation.lacks import start_failures, start_thread
from sandbox.running.stop import Stop
from sandbox.running.tree import ProcessBroker, Tree

_THREAD_PATIENCE_S = 1.0
"""Timeout for joining the host's threads after their store was closed, in seconds."""


def carry_out(job: Job, tree: Tree, stop: Stop) -> Returned | SandboxError:
    """Run one agent in its own process and return its output or its error."""
    given = tree.given
    with (
        start_failures(),
        tree.store_of(job) as store,  # refuses invalid names before anything is started
        start_child(given.isolation, given.limits, tuple(given.packages.paths)) as process,
    ):
        tree.isolation = process.isolation
        broker = _broker(job, tree, process, stop, store)
        supervisor = Supervisor(job, tree, process, stop, store, carry_out)
        server = threading.Thread(target=_serve, args=(broker, stop), name=f"sandbox-broker-{job.who.run}", daemon=True)
        try:
            start_thread(server)
        except StartFailed:
            broker.close()
            raise
        try:
            return supervisor.run()
        finally:
            process.kill()
            _shut(process.data)
            server.join(0.01)
            store.close()  # wakes a broker that waits for the server, and the watchers and waiters
            broker.close()
            server.join(broker.patience_s)
            supervisor.watches.join(_THREAD_PATIENCE_S)


def _broker(job: Job, tree: Tree, process: Child, stop: Stop, store: DataStore) -> ProcessBroker:
    if tree.broker is not None:
        return tree.broker.serve(process.data, job, tree, stop)
    return Broker(process.data, store.as_json_text(), job.who, tree, addresses_of(store.url))


def _serve(broker: ProcessBroker, stop: Stop) -> None:
    violation = broker.serve()
    if violation is not None:
        stop.end(violation)
    if isinstance(broker, Broker):  # a broker in its own process does this itself
        broker.give_back()


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
