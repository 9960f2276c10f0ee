"""Watching and waiting in an agent: requests on the control channel, where a wait blocks no store call."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Self

from redis_store.errors import ConnectionLost, DataStoreError, StoreClosed
from redis_store.limits import check_timeout
from redis_store.types import Change, Json
from sandbox.child.channels import ControlChannel, error_of
from sandbox.protocol.frames import Part

_PARTS = 9


class Waits:
    """Requests without a reply yet. Each has a number, which its reply repeats."""

    def __init__(self, control: ControlChannel) -> None:
        self._control = control
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[list[Any]]] = {}

    def ask(self, kind: str, *parts: Part) -> tuple[int, Future[list[Any]]]:
        """Send a request to the host and return its number and a future of the reply."""
        number = next(self._numbers)
        future = self._waiting[number] = Future()
        self.tell(kind, number, *parts)
        return number, future

    def tell(self, kind: str, number: int, *parts: Part) -> None:
        """Send a message that gets no reply."""
        try:
            self._control.send(kind, number, *parts)
        except OSError:
            raise ConnectionLost("This process has no channel to the host (a fork of the agent has none).") from None

    def answered(self, message: list[Any]) -> None:
        """Take a reply: ``["changes" or "value", number, part...]`` or ``["refused", number, class, message, facts]``."""
        kind, number, *parts = message
        future = self._waiting.pop(number, None)
        if future is None:
            return
        with suppress(InvalidStateError):
            if kind == "refused":
                future.set_exception(error_of(*parts))
            else:
                future.set_result(parts)


class Watch(Iterator[Change], AsyncIterator[Change]):
    """An iterator over the changes of one namespace, or of all of a user's, for ``for`` and ``async for``.

    It ends with `close`, with its ``with`` block, or with the run. One thread or task at a time may take changes.
    """

    def __init__(self, waits: Waits, decode: Callable[[bytes, str, str], Json], namespace: str, *asked: Part) -> None:
        self._waits = waits
        self._decode = decode
        self._shown = "all namespaces" if asked[0] else repr(namespace)
        self._closed = False
        self._ready: deque[list[Any]] = deque()
        self._request: Future[list[Any]] | None = None
        self._number, opened = waits.ask("watch", namespace, *asked)
        opened.result()

    def next_change(self, timeout: float | None = None) -> Change | None:
        """Return the next change, or None after `timeout` seconds. The previous change counts as processed."""
        if not self._ready:
            self._take(self._ask(check_timeout(timeout)).result())
        return self._pop()

    def close(self) -> None:
        """End the watch. Closing it again has no effect."""
        if not self._closed:
            self._closed = True
            with suppress(DataStoreError):
                self._waits.tell("unwatch", self._number)

    def __next__(self) -> Change:
        if self._closed:
            raise StopIteration
        change = self.next_change()
        assert change is not None, "without a timeout there is always a change"
        return change

    async def __anext__(self) -> Change:
        if self._closed:
            raise StopAsyncIteration
        while not self._ready:
            # Shielded, so that a cancelled wait loses no change: the next one takes the reply.
            self._take(await asyncio.shield(asyncio.wrap_future(self._ask(None))))
        change = self._pop()
        assert change is not None
        return change

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

    def _ask(self, timeout: float | None) -> Future[list[Any]]:
        if self._closed:
            raise StoreClosed("The watch is closed.")
        if self._request is None or (self._request.done() and self._request.exception() is not None):
            _, self._request = self._waits.ask("next", self._number, timeout)
        return self._request

    def _take(self, parts: list[Any]) -> None:
        self._request = None
        self._ready.extend(parts[at : at + _PARTS] for at in range(0, len(parts), _PARTS))

    def _pop(self) -> Change | None:
        if not self._ready:
            return None
        namespace, key, op, value, *others = self._ready.popleft()
        if isinstance(value, bytes):
            value = self._decode(value, namespace, key or "")
        return Change(namespace, key, op, value, *others)
