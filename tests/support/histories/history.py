"""Histories: what clients called, when, and how each call ended; in memory, or in the file of a process that may be killed."""

from __future__ import annotations

import itertools
import json
import threading
import time
import traceback
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from redis_store import DataStoreError

clock = time.monotonic_ns
"""The clock of all histories, which the processes of a machine share."""

OK, FAILED, UNKNOWN = "ok", "failed", "unknown"
"""Outcomes: it was carried out; it certainly was not; it may have been, and may still be."""


@dataclass(slots=True)
class Operation:
    """One call on one key."""

    client: str
    store: str
    kind: str
    key: str
    args: list[Any]
    invoked: int
    near: bool = False
    """Whether a near cache may have answered."""
    returned: int | None = None
    outcome: str = UNKNOWN
    result: Any = None
    """The result; of an unknown outcome, what was noted meanwhile."""

    @property
    def ok(self) -> bool:
        return self.outcome == OK

    def __str__(self) -> str:
        ended = "..." if self.returned is None else f"{self.returned / 1e6:.3f}"
        near = " (near)" if self.near else ""
        call = f"{self.kind}({self.key}{''.join(f', {one}' for one in self.args)})"
        return f"{self.invoked / 1e6:.3f} to {ended} {self.client} by {self.store}{near}: {call} -> {self._ending()}"

    def _ending(self) -> str:
        return repr(self.result) if self.ok else self.outcome


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that a history breaks, with the operations that show it."""

    check: str
    what: str
    operations: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        return "\n    ".join([f"{self.check}: {self.what}", *map(str, self.operations)])


class History:
    """The operations of any number of clients; with `path`, each step is also written to a file at once."""

    def __init__(self, path: Path | None = None) -> None:
        self.operations: list[Operation] = []
        self.unexpected: list[Violation] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._file: TextIO | None = path.open("a", buffering=1) if path else None

    def begin(self, operation: Operation) -> int:
        """Record a call before it is made, and return its number."""
        with self._lock:
            number = next(self._numbers)
            self.operations.append(operation)
            begun = {name: getattr(operation, name) for name in ("client", "store", "kind", "key", "args", "near")}
            self._write({"n": number, "begin": {**begun, "invoked": operation.invoked}})
        return number

    def note(self, number: int, result: Any) -> None:
        """Record what is known of a call that goes on."""
        self._set(number, None, UNKNOWN, result)

    def end(self, number: int, result: Any) -> None:
        """Record the result of a call."""
        self._set(number, clock(), OK, result)

    def fail(self, number: int, error: BaseException) -> None:
        """Record the error of a call: what it says about the outcome is believed, and so is tested."""
        if isinstance(error, DataStoreError) and not error.outcome_unknown:
            self._set(number, clock(), FAILED, self.operations[number].result)
        elif not isinstance(error, DataStoreError) and isinstance(error, Exception):
            trace = "".join(traceback.format_exception(error))
            self.unexpected.append(Violation("errors", f"unexpected {error!r}\n{trace}", (self.operations[number],)))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, operations: Iterable[Operation]) -> None:
        """Add the operations of another history."""
        for operation in operations:
            self.begin(operation)

    def _set(self, number: int, returned: int | None, outcome: str, result: Any) -> None:
        operation = self.operations[number]
        operation.returned, operation.outcome, operation.result = returned, outcome, result
        self._write({"n": number, "end": {"returned": returned, "outcome": outcome, "result": result}})

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")


def read_journal(path: Path) -> list[Operation]:
    """Return the operations that a process wrote to its file; without its last words if it was killed."""
    operations: list[Operation] = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with suppress(ValueError):  # the line that was being written
            step = json.loads(line)
            if "begin" in step:
                operations.append(Operation(**step["begin"]))
                continue
            operation = operations[step["n"]]
            for name, value in step["end"].items():
                setattr(operation, name, value)
    return operations
