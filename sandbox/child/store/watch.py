"""Watching and waiting in an agent: requests on the control channel, where a wait blocks no store call.

The agent's signal handlers may raise at any point. What was not returned comes again: a reply stays in its `Reply`, and a change
in its watch, until the last instruction of the call that returns it. A request that may have been sent is sent again under its
number, and the host ignores the second one.
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any, Self

from redis_store.errors import ConnectionLost, DataStoreError, StoreClosed, second_taker
from redis_store.limits import check_timeout
from redis_store.types import Change, Json
from sandbox.child.channels import ControlChannel, error_of, is_broken
from sandbox.child.reply import Reply
from sandbox.protocol.frames import Part

_PARTS = 9
_MOST_NAME = 1024

GRACE_S = 1.0
"""Time by which the host's answer may come later than a timeout, in seconds, before the agent gives up by its own clock."""


class Waits:
    """Requests without a reply yet. Each has a number, which its reply repeats."""

    def __init__(self, control: ControlChannel) -> None:
        self._control = control
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Reply] = {}
        self.dropped: deque[int] = deque()
        """The numbers of watches that were garbage-collected. A finalizer may run at any point, so it sends nothing itself."""

    def expect(self) -> tuple[int, Reply]:
        """Return the number of a new request, and its reply."""
        number = next(self._numbers)
        reply = self._waiting[number] = Reply()
        return number, reply

    def end(self, number: int) -> None:
        """Expect no reply to a watch or a wait any more, and tell the host."""
        self._waiting.pop(number, None)
        with suppress(DataStoreError):
            self.tell("unwatch", number)

    def tell(self, kind: str, number: int, *parts: Part) -> None:
        """Send a message."""
        try:
            with suppress(IndexError):  # raised when another thread has sent the last one
                while self.dropped:
                    dropped = self.dropped[0]
                    self._control.send("unwatch", dropped)
                    with suppress(ValueError):
                        self.dropped.remove(dropped)
            self._control.send(kind, number, *parts)
        except OSError as error:
            if not is_broken(error):  # the agent's signal handler raised it
                raise
            raise ConnectionLost("This process has no channel to the host (a fork of the agent has none).") from None

    def value(self, namespace: str, key: str, timeout_s: float | None) -> bytes | None:
        """Wait until a key exists, and return its value. None if the host has not answered in time."""
        number, reply = self.expect()
        try:
            self.tell("wait", number, namespace, key, timeout_s)
            has_come = reply.wait(None if timeout_s is None else timeout_s + GRACE_S)
        except BaseException:  # such as the agent's signal handler's
            self.end(number)
            raise
        if not has_come:
            self.end(number)
            return None
        if reply.error is not None:
            raise reply.error
        value: bytes = reply.parts[0]
        return value

    def tell_refused(self, operation: str, namespace: str, key: object, error: DataStoreError) -> None:
        """Tell the host of a write that was refused here, so that it is in the timeline also if the agent catches the error."""
        name = _sendable(key) if isinstance(key, str) else None
        with suppress(OSError, DataStoreError):
            self._control.send("refused_write", operation, _sendable(namespace), name, type(error).__name__)

    def answered(self, message: list[Any]) -> None:
        """Take a reply: ``["changes" or "value", number, part...]`` or ``["refused", number, class, message, facts]``."""
        kind, number, *parts = message
        reply = self._waiting.pop(number, None)
        if reply is None:
            return
        if kind == "refused":
            reply.set([], error_of(*parts))
        else:
            reply.set(parts, None)


def _sendable(text: str) -> str:
    return text[:_MOST_NAME].encode(errors="backslashreplace").decode()


class Watch(Iterator[Change], AsyncIterator[Change]):
    """An iterator over the changes of one namespace, or of all of a user's, for ``for`` and ``async for``.

    It ends with `close`, with its ``with`` block, with the run, or when nothing refers to it any more. One thread or task at a
    time may take changes: a second one gets `InvalidInput`. An exception that a signal handler raises loses no change.
    """

    def __init__(self, waits: Waits, decode: Callable[[bytes, str, str], Json], namespace: str, *asked: Part) -> None:
        self._waits = waits
        self._decode = decode
        self._shown = "all namespaces" if asked[0] else repr(namespace)
        self._closed = False
        self._busy = False
        self._ready: list[list[Any]] = []
        self._at = 0
        self._request: tuple[int, Reply, float | None] | None = None
        self._sent = False
        """Whether the request has certainly been sent."""
        self._number, opened = waits.expect()
        self._finalizer = weakref.finalize(self, waits.dropped.append, self._number)
        try:
            waits.tell("watch", self._number, namespace, *asked)
            opened.wait(None)
        except BaseException:  # such as the agent's signal handler's
            self._finalizer()
            raise
        if opened.error is not None:
            raise opened.error

    def next_change(self, timeout: float | None = None) -> Change | None:
        """Return the next change, or None after `timeout` seconds. The previous change counts as processed."""
        limit_s = check_timeout(timeout)
        if self._busy:
            raise second_taker()
        self._busy = True
        try:
            if not self._find(limit_s):
                return None
            change = self._change()
            self._at += 1  # no call may come after this
            return change
        finally:
            self._busy = False

    def close(self) -> None:
        """End the watch. Closing it again has no effect."""
        if not self._closed:
            self._closed = True
            with suppress(DataStoreError):
                self._waits.tell("unwatch", self._number)
            self._finalizer.detach()

    def __next__(self) -> Change:
        if self._closed:
            raise StopIteration
        change = self.next_change()
        assert change is not None, "without a timeout there is always a change"
        return change

    async def __anext__(self) -> Change:
        if self._closed:
            raise StopAsyncIteration
        if self._busy:
            raise second_taker()
        self._busy = True
        try:
            while self._at >= len(self._ready):
                # A cancelled wait loses no change: the next one takes the reply.
                await self._ask(None).wait_async()
                self._take()
            change = self._change()
            self._at += 1  # no call may come after this
            return change
        finally:
            self._busy = False

    def __iter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Watch of {self._shown}{' (closed)' if self._closed else ''}>"

    def _find(self, limit_s: float | None) -> bool:
        """Wait for a change. Return False if the time is over."""
        deadline = None if limit_s is None else monotonic() + limit_s
        while self._at >= len(self._ready):
            is_new = self._request is None
            left_s = None if deadline is None else max(0.0, deadline - monotonic())
            if not self._ask(left_s).wait(None if left_s is None else left_s + GRACE_S):
                return False
            self._take()
            if is_new and self._at >= len(self._ready):
                return False
        return True

    def _ask(self, timeout_s: float | None) -> Reply:
        """Return the reply to the request that is under way, or to a new one."""
        if self._closed:
            raise StoreClosed("The watch is closed.")
        if self._request is None:
            self._sent = False
            self._request = (*self._waits.expect(), timeout_s)
        number, reply, timeout_s = self._request
        if not self._sent:
            self._waits.tell("next", number, self._number, timeout_s)
            self._sent = True
        return reply

    def _take(self) -> None:
        """Take the changes of the reply, which is there, or raise its error."""
        assert self._request is not None
        _, reply, _ = self._request
        parts = reply.parts
        ready = [parts[at : at + _PARTS] for at in range(0, len(parts), _PARTS)]
        self._request = None  # no call may come between this and the next assignments
        if reply.error is not None:
            raise reply.error
        self._ready = ready
        self._at = 0

    def _change(self) -> Change:
        namespace, key, op, value, cursor, source, agent, run, root = self._ready[self._at]
        if isinstance(value, bytes):
            try:
                value = self._decode(value, namespace, key or "")
            except DataStoreError:
                self._at += 1
                raise
        return Change(namespace, key, op, value, cursor, source, agent, run, root)
