"""`--reload`: run an agent again whenever its file is saved."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TypeAlias

import typer

from redis_store.errors import DataStoreError
from sandbox.cli.output import INTERRUPTED, say
from sandbox.errors import SandboxError

POLL_S = 0.1

Stamps: TypeAlias = dict[Path, tuple[int, int, int]]


class Saves:
    """Notices changes of an agent's file, and of those in the folder of agents that it may call."""

    def __init__(self, agent_file: Path, folder: Path | None) -> None:
        self._agent_file = agent_file
        self._folder = folder
        self._seen = self._stamps()

    def names(self) -> list[str]:
        """Return the names of the files that were saved, replaced, added or removed since the last `forget`."""
        now, seen = self._stamps(), self._seen
        return sorted(path.name for path in now.keys() | seen.keys() if now.get(path) != seen.get(path))

    def forget(self) -> None:
        """Regard all files as seen."""
        self._seen = self._stamps()

    def _stamps(self) -> Stamps:
        stamps: Stamps = {}
        for path in (self._agent_file, *(self._folder.glob("*.py") if self._folder is not None else ())):
            with suppress(OSError):  # some editors remove a file for a moment
                stat = path.stat()
                stamps[path] = stat.st_mtime_ns, stat.st_size, stat.st_ino
        return stamps


def run_on_every_save(saves: Saves, run: Callable[[Saves], object]) -> NoReturn:
    """Call `run` now and after each change, until an interrupt. It gets the saves, to stop if a file has changed."""
    try:
        while True:
            saves.forget()
            try:
                run(saves)
            except (SandboxError, DataStoreError) as error:
                say(str(error))  # the next save may fix it
            if not saves.names():
                say("[waiting for the next save; Ctrl-C ends]")
            while not (names := saves.names()):
                time.sleep(POLL_S)
            say(f"[{', '.join(names)} changed: running again]")
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
