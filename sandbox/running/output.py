"""The output of agents: decoded as it arrives, bounded, and passed to `on_output`."""

from __future__ import annotations

import codecs
import contextvars
import io
import queue
import threading
from collections.abc import Callable
from contextlib import suppress


class Transcript:
    """The text printed by all runs of a tree, in order of arrival."""

    def __init__(self, limit_bytes: int, delivery: Delivery | None = None) -> None:
        self._left = limit_bytes
        self._delivery = delivery
        self._text = io.StringIO()
        self._lock = threading.RLock()

    @property
    def text(self) -> str:
        """The text so far."""
        with self._lock:
            return self._text.getvalue()

    def take(self, size: int) -> int:
        """Return how many of `size` bytes fit within the limit, and count them."""
        with self._lock:
            taken = min(size, self._left)
            self._left -= taken
            return taken

    def add(self, text: str) -> None:
        """Add a piece of text, which is delivered to `on_output` if there is one."""
        with self._lock:
            self._text.write(text)
            if self._delivery is not None:
                self._delivery.put(text)


class Delivery:
    """Calls `on_output` in a thread of its own, so that a function that blocks delays no limit and no message of an agent.

    The text that arrives during a call is passed by the next one. The limit of a run's output bounds how much that is.
    """

    def __init__(
        self, on_output: Callable[[str], None], context: contextvars.Context, on_interrupt: Callable[[], None]
    ) -> None:
        """`on_interrupt` is called when `on_output` has raised what is no `Exception`; it is in `interrupt` then."""
        self._on_output = on_output
        self._context = context
        self._on_interrupt = on_interrupt
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.interrupt: BaseException | None = None

    def put(self, text: str) -> None:
        """Deliver a piece of text after the earlier ones."""
        self._pieces.put(text)
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._context.copy().run, args=(self._work,), name="sandbox-output", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """End the thread when it has delivered everything."""
        self._pieces.put(None)

    def is_done(self, timeout_s: float) -> bool:
        """Wait for the end of the thread, and return whether it has ended."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def _work(self) -> None:
        try:
            while (text := self._next()) is not None:
                self._on_output(text)
        except BaseException as error:
            self.interrupt = error
            self._on_interrupt()

    def _next(self) -> str | None:
        """Return all text that has arrived, or None at the end."""
        pieces = [self._pieces.get()]
        with suppress(queue.Empty):
            while pieces[-1] is not None:
                pieces.append(self._pieces.get_nowait())
        if pieces[-1] is None and len(pieces) > 1:
            self._pieces.put(pieces.pop())
        return None if pieces[0] is None else "".join(filter(None, pieces))


class Output:
    """The output of one agent process, decoded into whole characters."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._start: list[str] = []

    @property
    def text(self) -> str:
        """The beginning of the text printed by this process, at most `_PIECES_KEPT` pieces."""
        return "".join(self._start)

    def feed(self, data: bytes) -> bool:
        """Add bytes, as many as the limit allows; return whether all of them fit."""
        taken = self._transcript.take(len(data))
        self._add(self._decode(data[:taken]))
        return taken == len(data)

    def end(self) -> None:
        """Add a replacement for an incomplete character at the end of the output."""
        self._add(self._decode(b"", True))

    def _add(self, text: str) -> None:
        if text:
            if len(self._start) < _PIECES_KEPT:
                self._start.append(text)
            self._transcript.add(text)


_PIECES_KEPT = 100
"""Maximum number of pieces of text kept for each process."""
