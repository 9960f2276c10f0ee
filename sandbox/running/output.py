"""The output of agents: decoded as it arrives, bounded, and passed to `on_output`."""

from __future__ import annotations

import codecs
import io
import logging
import threading
from collections.abc import Callable

logger = logging.getLogger("sandbox")


class Transcript:
    """The text printed by all runs of a tree, in order of arrival."""

    def __init__(self, limit_bytes: int, on_output: Callable[[str], None]) -> None:
        self._left = limit_bytes
        self._on_output = on_output
        self._text = io.StringIO()
        self._lock = threading.RLock()
        self._passing_on = threading.RLock()

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
        """Add a piece of text and pass it to `on_output`."""
        with self._passing_on:
            with self._lock:
                self._text.write(text)
            self._on_output(text)


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
