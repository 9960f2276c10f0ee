"""What an agent prints: decoded as it comes, bounded, passed on."""

from __future__ import annotations

import codecs
import logging
from collections.abc import Callable

logger = logging.getLogger("sandbox")


class Output:
    """Collects bytes as text; `on_output` gets each piece, whole characters only."""

    def __init__(self, limit_bytes: int, on_output: Callable[[str], None]) -> None:
        self._left = limit_bytes
        self._on_output = on_output
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """Everything so far."""
        return "".join(self._pieces)

    def feed(self, data: bytes) -> bool:
        """Take bytes and return True, or take what still fits and return False."""
        fits = len(data) <= self._left
        self._add(self._decode(data[: self._left]))
        self._left -= min(len(data), self._left)
        return fits

    def end(self) -> None:
        """Show what was left of a character that never became whole."""
        self._add(self._decode(b"", True))

    def _add(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            self._on_output(text)


def guarded(on_output: Callable[[str], object] | None) -> Callable[[str], None]:
    """Return `on_output` so that it cannot harm a run: if it raises, that is logged and it is not called again."""
    wanted = on_output

    def guard(text: str) -> None:
        nonlocal wanted
        if wanted is None:
            return
        try:
            wanted(text)
        except Exception:
            wanted = None
            logger.exception("on_output raised; it is not called again in this run")

    return guard
