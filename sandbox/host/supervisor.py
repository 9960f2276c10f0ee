"""Supervision of one agent process: its output, messages, tool calls and time limit."""

from __future__ import annotations

import math
import selectors
import socket
import time
from typing import Any

from redis_store import DataStore
from redis_store import errors as store_errors
from redis_store.brokers.lease import addresses_of
from redis_store.values.printable import one_line
from sandbox.errors import SandboxError, StartFailed
from sandbox.given.job import Job
from sandbox.host import outcome as host_outcome
from sandbox.host.agents import CarryOut, NestedHost
from sandbox.host.outbox import OpenCalls, Outbox
from sandbox.host.outcome import Returned
from sandbox.host.tools import ToolHost
from sandbox.host.watches import WatchHost
from sandbox.isolation.child import Child
from sandbox.limits import exceeded
from sandbox.protocol.frames import RECEIVE_BYTES, FrameBuffer, FrameError, unpack
from sandbox.protocol.messages import CALLS, MOST_HELD, MOST_UNDER_WAY, WATCHING, read_from_child
from sandbox.protocol.operations import REFUSABLE
from sandbox.record.timeline import Begun
from sandbox.running.output import Output
from sandbox.running.stop import Stop
from sandbox.running.tree import Tree

_EXIT_POLL_S = 0.05
"""Interval between checks whether the process has ended, on systems without pidfd, in seconds."""

_WATCH_S = 0.05
"""Shortest interval between checks of the usage that the kernel does not bound, in seconds."""
_WATCH_SHARE = 20
"""Ratio of the pause between two usage checks to the duration of a check: checking takes at most 1/20 of the time."""

_UNDER_WAY = CALLS | WATCHING | {"cancel"}
"""Kinds of messages that mean nothing any more when their process has ended."""

_LAST_BREATH_S = 1.0
"""Timeout for the end of a process that has closed its control channel, in seconds."""

_CONTROL_OVERHEAD_BYTES = 1024 * 1024
"""Bytes allowed in a frame beyond the result, for names and a traceback."""


class Supervisor:
    """Supervises one process from its first message to its last, in the thread that started the run."""

    def __init__(self, job: Job, tree: Tree, process: Child, stop: Stop, store: DataStore, carry_out: CarryOut) -> None:
        """`store` serves the process's watches; `carry_out` runs the agents that it calls."""
        self._job = job
        self._tree = tree
        self._process = process
        self._stop = stop
        self._output = Output(tree.transcript)
        self._held_back: tuple[str, list[Any]] | None = None
        self._buffer = FrameBuffer(tree.given.limits.result_bytes + _CONTROL_OVERHEAD_BYTES)
        self._outbox = Outbox(stop.wake)
        self._calls = OpenCalls(self._outbox)
        self._tools = ToolHost(tree, job.who, self._calls)
        self._nested = NestedHost(tree, job, self._calls, carry_out)
        self.watches = WatchHost(tree, job.who, store.as_json_text(), self._outbox, addresses_of(store.url))
        self._started = False
        self._next_look = time.monotonic() if process.is_watched else math.inf
        self._outcome: Returned | SandboxError | None = None

    def run(self) -> Returned | SandboxError:
        """Send the process its agent, supervise it until the run is over, and end it; return the output or the error."""
        tree, source, limits = self._tree, self._job.source, self._tree.given.limits
        self._outbox.post(
            [
                "start",
                tree.user,
                tree.namespace,
                source.module,
                source.filename,
                source.text,
                self._job.input_text,
                limits.frame_bytes,
                limits.result_bytes,
                tree.given.described,
                tree.given.packages.described(self._process.in_a_room),
            ]
        )
        try:
            outcome = self._watch()
        finally:
            self._outbox.close()
            self._tools.close()
            self.watches.close()
            self._process.kill()
            self._nested.close()
        within_limit = self._drain()
        self._output.end()
        return outcome if within_limit or not isinstance(outcome, Returned) else exceeded(limits, "output_bytes")

    def _watch(self) -> Returned | SandboxError:
        process = self._process
        process.control.setblocking(False)
        process.output.setblocking(False)
        with selectors.DefaultSelector() as selector:
            self._outbox.write_to(process.control)  # so that the process finds its agent when it starts
            selector.register(process.output, selectors.EVENT_READ)
            selector.register(self._stop, selectors.EVENT_READ)
            if process.pidfd is not None:
                selector.register(process.pidfd, selectors.EVENT_READ)
            while (outcome := self._stop.error or self._outcome) is None:
                left = self._tree.deadline - time.monotonic()
                if left <= 0:
                    return self._ended(exceeded(self._tree.given.limits, "timeout_s"))
                self._choose_events(selector)
                most = left if process.pidfd is not None else min(left, _EXIT_POLL_S)
                ready = selector.select(min(most, max(0.0, self._next_look - time.monotonic())))
                self._attend(selector, {key.fileobj for key, _ in ready})
                self._look()
        return outcome

    def _look(self) -> None:
        """Check the usage that the kernel does not bound, if a check is due."""
        start = time.monotonic()
        if self._outcome is None and start >= self._next_look:
            name = self._process.overused(self._tree.given.limits)
            if name is not None:
                self._outcome = exceeded(self._tree.given.limits, name)
            end = time.monotonic()
            self._next_look = end + max(_WATCH_S, (end - start) * _WATCH_SHARE)

    def _drain(self) -> bool:
        """Read the remaining output after the process has ended, and return whether it was within the limit."""
        while data := _receive(self._process.output):
            if not self._output.feed(data):
                return False
        return True

    def _choose_events(self, selector: selectors.BaseSelector) -> None:
        """Select reading unless the process has too many calls under way, and writing while messages are queued."""
        wanted = (0 if self._is_busy() else selectors.EVENT_READ) | (selectors.EVENT_WRITE if self._outbox else 0)
        control = self._process.control
        known = selector.get_map().get(control)
        if known is not None and known.events != wanted:
            selector.unregister(control)
            known = None
        if known is None and wanted:
            selector.register(control, wanted)

    def _is_busy(self) -> bool:
        """Whether the process has so much under way that it must receive answers before the host reads on."""
        if self._held_back is not None and self._has_most_calls():
            return True
        under_way = len(self._calls) + self.watches.under_way + len(self._outbox)
        return under_way >= 2 * MOST_UNDER_WAY or self.watches.is_full

    def _has_most_calls(self) -> bool:
        """Whether another call must wait. The agent's process knows this too; another message could be the end of a call."""
        held_bytes, limits = self._calls.held_bytes, self._tree.given.limits
        return len(self._calls) >= MOST_UNDER_WAY or held_bytes >= MOST_HELD * limits.result_bytes

    def _attend(self, selector: selectors.BaseSelector, ready: set[Any]) -> None:
        process = self._process
        if process.output in ready and not self._read_output():
            selector.unregister(process.output)
        if self._stop in ready:
            self._stop.drain()
        if process.control in ready:
            self._outbox.write_to(process.control)
            self._read_control()
        self._hear()  # messages held back while the process was busy
        if self._outcome is None and (process.pidfd in ready if process.pidfd is not None else process.has_ended()):
            self._after_exit()

    def _read_output(self) -> bool:
        """Read what the process has printed; False at the end of the output."""
        data = _receive(self._process.output)
        if data and not self._output.feed(data):
            self._outcome = self._ended(exceeded(self._tree.given.limits, "output_bytes"))
        return data != b""

    def _ended(self, error: SandboxError) -> SandboxError:
        """End the tree with an error that none of its agents can catch."""
        self._tree.end(error)
        return error

    def _read_control(self) -> None:
        data = _receive(self._process.control)
        if data is None:
            return
        self._buffer.feed(data)
        self._hear()
        if not data and self._outcome is None:
            self._after_close()

    def _hear(self, has_ended: bool = False) -> None:
        """Handle the messages that have arrived, until too many calls are under way; of an ended process, only its outcome."""
        try:
            while self._outcome is None and (has_ended or not self._is_busy()) and (message := self._next_message()):
                if not has_ended and message[0] in CALLS and self._has_most_calls():
                    self._held_back = message
                elif not has_ended or message[0] not in _UNDER_WAY:
                    self._heard(*message)
        except FrameError as error:
            if not has_ended:
                self._outcome = host_outcome.violation(error)
        except SandboxError as error:  # a limit has ended the tree
            self._outcome = error

    def _next_message(self) -> tuple[str, list[Any]] | None:
        """Return the message that was held back, or else the next one that has arrived; None if there is none."""
        message, self._held_back = self._held_back, None
        if message is None and (body := self._buffer.next_body()):
            message = read_from_child(unpack(body))
        return message

    def _heard(self, kind: str, parts: list[Any]) -> None:
        if kind == "started":
            self._started = True
        elif kind == "call":
            self._tools.call(*parts)
        elif kind == "agent":
            self._nested.call(*parts)
        elif kind == "cancel":
            self._cancel(*parts)
        elif kind in WATCHING:
            self.watches.heard(kind, parts)
        elif kind == "refused_write":
            self._note_refusal(*parts)
        else:
            self._outcome = host_outcome.from_message(kind, parts, self._job.who.agent, self._tree.given.limits)

    def _cancel(self, number: int) -> None:
        """End what the agent no longer waits for; a call that is over already needs nothing."""
        if self._calls.give_up(number):
            self._tools.cancel(number)
            self._nested.cancel(number)

    def _note_refusal(self, operation: str, namespace: str, key: str | None, error: str) -> None:
        """Record a write that the agent process refused itself. It counts as a call of the store, which bounds how many come."""
        if operation not in REFUSABLE or error not in store_errors.__all__:
            raise FrameError("a refusal of something else than a write")
        self._tree.spend_operation()
        self._tree.timeline.note_operation(self._job.who, Begun(), operation, namespace, key, error=error)

    def _after_close(self) -> None:
        """Handle a closed control channel: the process has ended, or it has broken the protocol."""
        deadline = time.monotonic() + _LAST_BREATH_S
        while not self._process.has_ended():
            if time.monotonic() > deadline:
                self._outcome = host_outcome.closed_channel()
                return
            time.sleep(0.001)
        self._after_exit()

    def _after_exit(self) -> None:
        """Take the outcome of an ended process from its last message, or else from its exit code."""
        while self._outcome is None and (data := _receive(self._process.control)):
            self._buffer.feed(data)
            self._hear(has_ended=True)
        process, agent = self._process, self._job.who.agent
        code = process.kill()
        if self._outcome is None and self._started:
            limits = self._tree.given.limits
            self._outcome = host_outcome.from_exit_code(code, process.cpu_s, agent, limits, process.was_lost)
        elif self._outcome is None:
            self._outcome = self._not_started(code)

    def _not_started(self, code: int) -> StartFailed:
        self._drain()
        said = self._output.text.strip()
        last = said.splitlines()[-1] if said else "it printed nothing"
        return StartFailed(
            f"The process for the agent ended with code {code} before it began: {one_line(last)}", output=said
        )


def _receive(sock: socket.socket) -> bytes | None:
    """Return the bytes that have arrived, b"" at the end of the stream, or None if nothing has arrived yet."""
    try:
        return sock.recv(RECEIVE_BYTES)
    except BlockingIOError:
        return None
    except ConnectionError:
        return b""
