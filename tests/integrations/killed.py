"""Programs that are killed while they write."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]

MOST_SECONDS = 50
"""Time after which a program is killed that has not printed its lines, in seconds."""


_STEPS = """
import asyncio, os, sys
from redis_store import AsyncDataStore, connect_async

{program}

def dying_at(step):
    calls = 0
    reads = ("get", "get_many", "get_all", "list_keys")
    for name in (*reads, "transaction", "transact", "clear", "set", "set_many", "update", "pop", "delete_many"):
        def call(self, *arguments, done=getattr(AsyncDataStore, name), **named):
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), 9)
            return done(self, *arguments, **named)
        setattr(AsyncDataStore, name, call)

for line in sys.stdin:
    if not (child := os.fork()):
        user, what, step = line.split()
        dying_at(int(step))
        asyncio.run(write(connect_async(sys.argv[1], user=user), what))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class SteppedWriter:
    """A process that imports a framework once, and forks for each write, which ends by SIGKILL at one of its calls of the store.

    The program defines ``async def write(store, what)``.
    """

    def __init__(self, url: str, program: str) -> None:
        command = [sys.executable, "-c", _STEPS.replace("{program}", program), url]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def is_killed(self, user: str, what: str, step: int) -> bool:
        """Write until that call, and return whether the writer was killed there; else it came to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(user, what, step, file=self._process.stdin, flush=True)
        ended = self._process.stdout.readline()
        assert ended in ("-9\n", "0\n")
        return ended == "-9\n"

    def close(self) -> None:
        with self._process:
            pass


@contextmanager
def stepped_writer(url: str, program: str) -> Iterator[SteppedWriter]:
    writer = SteppedWriter(url, program)
    try:
        yield writer
    finally:
        writer.close()


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
