"""The life of one process, from its start to the last byte: the store is lent, the process started, watched and cleared away."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit

from sandbox._child import Child
from sandbox._endings import Returned, output_limit
from sandbox._job import Job
from sandbox._nested import NestedHost
from sandbox._output import Output
from sandbox._stop import Stop
from sandbox._supervisor import Supervisor
from sandbox._tool_host import ToolHost
from sandbox._tree import Tree
from sandbox.broker import Broker
from sandbox.errors import SandboxError
from sandbox.isolation import start_child

_PATIENCE_S = 1.0
"""How long to wait for a thread of ours whose socket is closed already."""


def carry_out(job: Job, tree: Tree, stop: Stop) -> Returned | SandboxError:
    """Run one agent in a process of its own and return what came of it."""
    given = tree.given
    with (
        tree.store_of(job) as store,
        start_child(given.isolation, given.limits, tuple(given.packages.paths)) as process,
    ):
        tree.isolation = process.isolation
        output = Output(tree.transcript)
        broker = Broker(process.data, store.as_json_text(), job.who, tree, _addresses(store.url))
        server = threading.Thread(
            target=_serve, args=(broker, tree, stop), name=f"sandbox-broker-{job.who.run}", daemon=True
        )
        server.start()
        try:
            outcome = _watch(job, tree, process, stop, output)
        finally:
            process.kill()
            _shut(process.data)
            server.join(0.01)
            store.close()  # wakes a broker that still waits for the server
            server.join(_PATIENCE_S)
    output.end()
    return outcome


def _nested(job: Job, tree: Tree, stop: Stop) -> bytes | SandboxError:
    outcome = carry_out(job, tree, stop)
    return outcome.text if isinstance(outcome, Returned) else outcome


def _serve(broker: Broker, tree: Tree, stop: Stop) -> None:
    violation = broker.serve()
    if violation is not None:
        stop.end(violation)
    if broker.held:  # the process is gone, or will be: nobody renews it any more
        with tree.open_unrestricted() as store:
            broker.held.release(store)


def _watch(job: Job, tree: Tree, process: Child, stop: Stop, output: Output) -> Returned | SandboxError:
    """Tell the process what to run, and stay with it until the run is over and the process gone."""
    supervisor = Supervisor(job, tree, process, stop, output)
    supervisor.tools = ToolHost(tree, job.who, supervisor.post)
    supervisor.nested = NestedHost(tree, job, supervisor.post, _nested)
    limits, source = tree.given.limits, job.source
    supervisor.post(
        [
            "start",
            tree.user,
            tree.namespace,
            source.module,
            source.filename,
            source.text,
            job.input_text,
            limits.frame_bytes,
            limits.result_bytes,
            tree.given.described,
            tree.given.packages.described(process.in_a_room),
        ]
    )
    try:
        outcome = supervisor.watch()
    finally:
        supervisor.tools.close()
        process.kill()
        supervisor.nested.close()
    if not supervisor.drain() and isinstance(outcome, Returned):
        return output_limit(limits)
    return outcome


def _addresses(url: str) -> tuple[str, ...]:
    """Return the texts that would tell an agent where the server is, for messages to go without."""
    parts = urlsplit(url)
    texts = {url, url.split("?")[0]}
    if parts.hostname:
        texts |= {f"{parts.scheme}://{parts.hostname}:{parts.port}", f"{parts.hostname}:{parts.port}"}
        texts |= {f"{parts.scheme}://{parts.hostname}{parts.path}", f"{parts.hostname}:6379", parts.hostname}
    elif parts.path:
        texts |= {f"{parts.scheme}://{parts.path}", parts.path}
    return tuple(sorted(texts, key=len, reverse=True))


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
