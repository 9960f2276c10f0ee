"""Rounds in a row, each with a seed of its own, on each server in turn."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.support.histories.round import Report, Round
from tests.support.servers import REAL_KINDS, MissingServer, Server, start_server

ROUND_S = 3.0
"""Length of a round in seconds, without the checks."""

ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")
"""Options of a server that loses nothing acknowledged when it is killed."""


def rounds(seconds: float, seed: int, round_s: float = ROUND_S) -> Iterator[tuple[str, Report]]:
    """Yield the server and the report of each round until the time is up. The seed decides the server too."""
    end = time.monotonic() + seconds
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers: list[Server] = []
        for kind in REAL_KINDS:
            try:
                servers.append(start_server(kind, *ALWAYS))
            except MissingServer as error:
                print(error)
            else:
                stack.callback(servers[-1].stop)
        if not servers:
            raise MissingServer("There is no server to check.")
        while time.monotonic() < end:
            server = servers[seed % len(servers)]
            with server.client() as client:
                client.flushall()
            yield server.kind, Round(server, folder, seed, round_s).go()
            seed += 1
