"""Serves the console until Ctrl-C: binds the socket first, so that the printed url is the one where it listens."""

from __future__ import annotations

import dataclasses
import errno
import socket
from collections.abc import Callable

import uvicorn

from redis_store.admin import AsyncAdmin
from redis_store.console.app import create_app
from redis_store.console.settings import ConsoleSettings
from redis_store.console.shared import Console
from redis_store.errors import InvalidSettings

SHUTDOWN_S = 1
"""Time for which requests in progress go on after Ctrl-C, in seconds."""

LONGEST_HEAD_BYTES = 512 * 1024
"""Size of a request before its form, in bytes, at most: a url may name a key of 64 KiB, percent-encoded."""

BACKLOG = 128
"""Connections that wait to be accepted, at most."""


def bind(host: str, port: int, *, else_any: bool = False) -> socket.socket:
    """Return a socket that listens; with `else_any`, at a free port if this one is taken."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        # With the protocol, as otherwise asyncio does not switch Nagle's algorithm off, and each answer takes 40 ms more.
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidSettings(
            f"The console cannot listen on {host!r}: {error.strerror}. Pass another --host."
        ) from None
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE and else_any:
            return bind(host, 0)
        raise InvalidSettings(
            f"The console cannot listen on {host} port {port}: {error.strerror}. Pass another --port, or --port 0 for a free one."
        ) from None
    return listening


async def serve(
    admin: AsyncAdmin, settings: ConsoleSettings, listening: socket.socket, ready: Callable[[ConsoleSettings], object]
) -> None:
    """Serve on a listening socket until SIGINT or SIGTERM. `ready` gets the settings with the port that it has."""
    settings = dataclasses.replace(settings, port=listening.getsockname()[1])
    app = create_app(admin, settings)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # the guard has to see the address of the proxy
        server_header=False,
        http="h11",
        h11_max_incomplete_event_size=LONGEST_HEAD_BYTES,
        timeout_graceful_shutdown=SHUTDOWN_S,
        lifespan="on",
    )
    server = _ConsoleServer(config, app.state.console)
    ready(settings)
    await server.serve(sockets=[listening])


class _ConsoleServer(uvicorn.Server):
    """A server that tells live pages when it ends, as they would go on for ever."""

    def __init__(self, config: uvicorn.Config, console: Console) -> None:
        super().__init__(config)
        self._console = console

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End live pages, then the connections."""
        self._console.ending.set()
        await super().shutdown(sockets)
