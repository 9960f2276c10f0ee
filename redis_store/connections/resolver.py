"""Where the server is: the one step in front of every new connection.

Sentinel and Cluster come in here: a resolver that asks who the primary is, or which node owns a user's slot, and gives its
address. Nothing behind it has to know.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from redis_store.connections.address import Address, parse_address
from redis_store.errors import StoreClosed
from redis_store.settings import Settings

if TYPE_CHECKING:
    from redis_store.server import EmbeddedServer


class Resolver(Protocol):
    """Tells where the server is, each time that a connection is made."""

    @property
    def url(self) -> str:
        """The server's url, secrets included."""

    @property
    def may_block(self) -> bool:
        """Whether `address` may take long, so that an event loop should not wait for it."""

    def address(self) -> Address:
        """Return where to connect to now, or raise `StoreUnavailable`."""

    def close(self) -> None:
        """Let go of what was held; harmless when repeated."""


class UrlResolver:
    """A server that stays where its url says."""

    may_block = False

    def __init__(self, url: str, timeout_s: float | None) -> None:
        self.url = url
        self._address = parse_address(url, timeout_s)
        self._address.new_connection()  # says now what is wrong with the url

    def address(self) -> Address:
        return self._address

    def close(self) -> None:
        pass


class EmbeddedResolver:
    """The embedded server, joined when it is first needed, and started again where it has died."""

    may_block = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._joining = threading.Lock()
        self._server: EmbeddedServer | None = None
        self._closed = False

    @property
    def url(self) -> str:
        """Where the server is, or will be."""
        from redis_store.server import status  # only who uses the embedded server pays for importing it

        server = self._server
        return server.url if server is not None else status(self._settings.data_dir).url

    def join(self) -> EmbeddedServer:
        """Join the server, and start it if nobody has."""
        from redis_store.server import join  # as above

        with self._joining:
            if self._closed:
                raise StoreClosed("The store is closed: connect again.")
            if self._server is None:
                self._server = join(self._settings.data_dir, durability=self._settings.durability)
            return self._server

    def address(self) -> Address:
        server = self._server or self.join()
        server.ensure_running()
        return parse_address(server.url, self._settings.timeout_s)

    def close(self) -> None:
        with self._joining:
            self._closed = True
            if self._server is not None:
                self._server.close()


@dataclass(frozen=True, slots=True)
class Source:
    """Where a watcher's server is, and whether its settings may be changed."""

    resolver: Resolver
    configures: bool


def make_resolver(settings: Settings, *, at_once: bool = True) -> Resolver:
    """Return the resolver that the settings ask for; `at_once` joins the embedded server now, to say now why it can't run."""
    if settings.url is not None:
        return UrlResolver(settings.url, settings.timeout_s)
    resolver = EmbeddedResolver(settings)
    if at_once:
        resolver.join()
    return resolver
