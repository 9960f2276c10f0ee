"""Programs that are killed while they write."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parents[2]

MOST_SECONDS = 50
"""Time after which a program is killed that has not printed its lines, in seconds."""


def run_and_kill(program: str, *arguments: str, lines: int) -> None:
    """Run a Python program, and send it SIGKILL when it has printed this many lines."""
    command = [sys.executable, "-c", program, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        timer = threading.Timer(MOST_SECONDS, process.kill)
        timer.start()
        try:
            for _ in range(lines):
                assert process.stdout.readline(), "the program ended before it was killed"
        finally:
            timer.cancel()
            process.kill()
