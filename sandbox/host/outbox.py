"""The messages to one agent process: queued by any thread, sent by its supervisor."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from sandbox.protocol.frames import FrameTooBig, Part, pack


class Outbox:
    """A queue of messages. Once it is closed, further ones are dropped. Safe to use from any thread."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        """Function that makes the supervisor look at what has changed."""
        self._lock = threading.RLock()
        self._frames: deque[tuple[memoryview, threading.Event | None]] = deque()
        self._awaited: set[threading.Event] = set()
        self.closed = False

    def __len__(self) -> int:
        return len(self._frames)

    def post(self, message: list[Part], awaited: bool = False) -> threading.Event | None:
        """Queue a message. If it is awaited, return an event that is set when all of it has been sent, or no longer can be."""
        try:
            frame = pack(message, 2**32 - 1)
        except (FrameTooBig, ValueError, OverflowError, MemoryError) as error:
            frame = pack(["failed", message[1], f"the answer cannot be sent: {type(error).__name__}"], 2**32 - 1)
        sent = threading.Event() if awaited else None
        with self._lock:
            if self.closed:
                return None
            if sent is not None:
                self._awaited = {one for one in self._awaited if not one.is_set()} | {sent}
            self._frames.append((memoryview(frame), sent))
        self.wake()
        return sent

    def write_to(self, sock: socket.socket) -> None:
        """Send as much as a socket that does not block takes."""
        with suppress(BlockingIOError, ConnectionError):
            while self._frames:
                frame, sent = self._frames[0]
                left = frame[sock.send(frame) :]
                self._frames[0] = left, sent
                if not left:
                    self._frames.popleft()
                    if sent is not None:
                        sent.set()

    def close(self) -> None:
        """Drop further messages, and release the threads that wait for one to be sent."""
        with self._lock:
            self.closed = True
            for sent in self._awaited:
                sent.set()


class OpenCalls:
    """The calls of tools and agents that one process has made and that are not answered yet."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self._lock = threading.RLock()
        self._sizes: dict[int, int] = {}
        self._given_up: set[int] = set()
        self.held_bytes = 0
        """Size of the arguments of the calls, as JSON, in bytes."""

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, number: int) -> bool:
        return number in self._sizes

    def add(self, number: int, size: int) -> None:
        """Add a call with arguments of `size` bytes."""
        with self._lock:
            self._sizes[number] = size
            self.held_bytes += size

    def give_up(self, number: int) -> bool:
        """Note that the agent no longer waits for a call, and return whether the call is still open.

        The call stays open until its work has ended: only then may the agent begin another in its place.
        """
        with self._lock:
            if number not in self._sizes:
                return False
            self._given_up.add(number)
            return True

    def is_given_up(self, number: int) -> bool:
        """Whether the agent no longer waits for this call."""
        return number in self._given_up

    def answer(self, number: int, kind: Part, *content: Part, awaited: bool = False) -> threading.Event | None:
        """Remove a call and post its answer, as `Outbox.post` does; without the result if the agent gave the call up."""
        with self._lock:
            self.held_bytes -= self._sizes.pop(number)
            if number in self._given_up:
                self._given_up.discard(number)
                kind, content, awaited = "failed", ("the call was cancelled",), False
        return self.outbox.post([kind, number, *content], awaited)
