"""`--reload`: run an agent again whenever its file is saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

_RELOAD_POLL_S = 0.1

Stamps: TypeAlias = dict[Path, tuple[int, int, int]]


class Files:
    """The file of an agent, and those in the folder of agents that it may call."""

    def __init__(self, agent_file: Path, folder: Path | None) -> None:
        self._agent_file = agent_file
        self._folder = folder

    def stamps(self) -> Stamps:
        """Return a stamp for each file; they change when a file is saved, replaced, added or removed."""
        stamps: Stamps = {}
        for path in self._paths():
            with suppress(OSError):  # some editors remove a file for a moment
                stat = path.stat()
                stamps[path] = stat.st_mtime_ns, stat.st_size, stat.st_ino
        return stamps

    def _paths(self) -> Iterable[Path]:
        yield self._agent_file
        if self._folder is not None:
            with suppress(OSError):
                yield from self._folder.glob("*.py")


def run_on_every_save(files: Files, run: Callable[[Callable[[], bool]], None], say: Callable[[str], None]) -> None:
    """Call `run` now and after each change, until an interrupt.

    `run` gets a function that returns whether a file has changed since, so that it should stop.
    """
    while True:
        stamps = files.stamps()
        run(lambda stamps=stamps: files.stamps() != stamps)  # type: ignore[misc]  # bound for this iteration
        if files.stamps() == stamps:
            say("[waiting for the next save; Ctrl-C ends]")
        while (now := files.stamps()) == stamps:
            time.sleep(_RELOAD_POLL_S)
        changed = sorted(path.name for path in now.keys() | stamps.keys() if now.get(path) != stamps.get(path))
        say(f"[{', '.join(changed)} changed: running again]")
