"""What agents print: decoded as it comes, bounded, passed on."""

from __future__ import annotations

import codecs
import io
import logging
import threading
from collections.abc import Callable

logger = logging.getLogger("sandbox")


class Transcript:
    """All that the runs of a tree print, in the order in which it comes."""

    def __init__(self, limit_bytes: int, on_output: Callable[[str], None]) -> None:
        self._left = limit_bytes
        self._on_output = on_output
        self._text = io.StringIO()
        self._lock = threading.Lock()
        self._passing_on = threading.Lock()

    @property
    def text(self) -> str:
        """Everything so far."""
        with self._lock:
            return self._text.getvalue()

    def take(self, size: int) -> int:
        """Return how many of so many bytes still fit, and count them."""
        with self._lock:
            taken = min(size, self._left)
            self._left -= taken
            return taken

    def add(self, text: str) -> None:
        """Keep a piece, and pass it on."""
        with self._passing_on:
            with self._lock:
                self._text.write(text)
            self._on_output(text)


class Output:
    """What one process prints, whole characters only."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._start: list[str] = []

    @property
    def text(self) -> str:
        """What this process has printed, at least the beginning."""
        return "".join(self._start)

    def feed(self, data: bytes) -> bool:
        """Take bytes and return True, or take what still fits and return False."""
        taken = self._transcript.take(len(data))
        self._add(self._decode(data[:taken]))
        return taken == len(data)

    def end(self) -> None:
        """Show what was left of a character that never became whole."""
        self._add(self._decode(b"", True))

    def _add(self, text: str) -> None:
        if text:
            if len(self._start) < _PIECES_KEPT:
                self._start.append(text)
            self._transcript.add(text)


_PIECES_KEPT = 100
