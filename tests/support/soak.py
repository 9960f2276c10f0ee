"""Fault runs with new seeds on each server in turn, until the time is up: ``python -m tests.support.soak [minutes]``."""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path
from time import monotonic

from tests.support.faults import FaultRun, Report
from tests.support.servers import REAL_KINDS, MissingServer, start_server

WRITES = 20_000


def main() -> int:
    """Print a line for each run; return 1 if one failed."""
    end = monotonic() + 60 * float(sys.argv[1] if len(sys.argv) > 1 else 10)
    while monotonic() < end:
        for kind in REAL_KINDS:
            seed = random.randrange(1_000_000)
            try:
                report = _run(kind, seed)
            except MissingServer as error:
                print(f"{kind}: {error}")
                continue
            except AssertionError as error:
                print(f"{kind} seed {seed}: {error}")
                return 1
            failed = bool(report.misplaced or (report.lost and not report.resets))
            print(f"{kind} seed {seed}: {'FAILED ' if failed else ''}{report}", flush=True)
            if failed:
                return 1
    return 0


def _run(kind: str, seed: int) -> Report:
    server = start_server(kind, "--appendonly", "yes", "--appendfsync", "always")
    try:
        with tempfile.TemporaryDirectory() as folder:
            return FaultRun(server, Path(folder), seed, WRITES).go()
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
