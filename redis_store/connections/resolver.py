"""Where the server is: the one step in front of every new connection.

Sentinel and Cluster come in here: a resolver that asks who the primary is, or which node owns a user's slot, and gives its
address. Nothing behind it has to know.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlsplit

from redis import asyncio as redis_asyncio
from redis import connection as redis_connection
from redis.driver_info import DriverInfo

from redis_store.errors import InvalidSettings, StoreClosed
from redis_store.settings import Settings

if TYPE_CHECKING:
    from redis_store.server import EmbeddedServer

DEFAULT_TIMEOUT_S = 5.0
LIBRARY_NAME = "agent-data-store"
"""What ``CLIENT LIST`` shows of our connections."""

_SCHEMES = ("redis://", "rediss://", "unix://")
_NOT_FOR_CONNECTIONS = (
    "max_connections",
    "timeout",
    "health_check_interval",
    "retry_on_timeout",
    "retry_on_error",
)


@dataclass(frozen=True, slots=True)
class Address:
    """One server, as redis-py's connection classes take it."""

    url: str
    shown: str
    """The url without user name, password and options, for messages."""
    timeout_s: float
    options: Mapping[str, Any]

    def new_connection(self) -> redis_connection.AbstractConnection:
        """Return an unconnected connection of redis-py's blocking side."""
        options = redis_connection.parse_url(self.url)
        made: redis_connection.AbstractConnection = self._make(options, redis_connection.Connection)
        return made

    def new_async_connection(self) -> redis_asyncio.connection.AbstractConnection:
        """Return an unconnected connection of redis-py's asyncio side."""
        options = dict(redis_asyncio.connection.parse_url(self.url))
        made: redis_asyncio.connection.AbstractConnection = self._make(options, redis_asyncio.Connection)
        return made

    def _make(self, options: dict[str, Any], kind: Any) -> Any:
        kind = options.pop("connection_class", kind)
        for name in _NOT_FOR_CONNECTIONS:
            options.pop(name, None)
        try:
            return kind(**{**options, **self.options})
        except (TypeError, ValueError) as error:
            unknown = re.search("unexpected keyword argument ('.*')", str(error))
            problem = f"the option {unknown[1]}, which does not exist" if unknown else f"an unusable option ({error})"
            raise InvalidSettings(f"The url of {self.shown} has {problem}.") from None


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


def parse_address(url: str, timeout_s: float | None) -> Address:
    """Read a url with redis-py's parser, and say without its secrets where it cannot be read."""
    shown = without_secrets(url)
    if url.startswith(("redis+sentinel://", "redis+cluster://")):
        raise InvalidSettings(f"{shown} cannot be used yet: give the redis:// url of one server.")
    if not url.startswith(_SCHEMES):
        raise InvalidSettings(f"The url {shown} cannot be used: it must begin with {', '.join(_SCHEMES)}.")
    try:
        options = redis_connection.parse_url(url)
    except ValueError as error:
        # What urllib says may hold a part of the password; what redis-py says of options holds their names only.
        problem = str(error) if str(error).startswith("Invalid value for '") else "its host or port cannot be read."
        advice = "Write '/', '#', '?' and '@' in a password as %2F, %23, %3F and %40."
        raise InvalidSettings(f"The url {shown} cannot be used: {problem} {advice}") from None
    timeout = timeout_s or options.get("socket_timeout") or DEFAULT_TIMEOUT_S
    fixed: dict[str, Any] = {
        "protocol": 2,
        "decode_responses": False,
        "driver_info": DriverInfo(name=LIBRARY_NAME, lib_version=None),
        "socket_timeout": timeout,
        "socket_connect_timeout": options.get("socket_connect_timeout") or timeout,
    }
    return Address(url, shown, timeout, fixed)


def without_secrets(url: str) -> str:
    """Return a url with nothing in it but scheme, host, port and path."""
    scheme = url.partition("://")[0]
    hidden = f"{scheme}://..." if len(scheme) < 20 else "..."
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return hidden
    if "@" in parts.path:  # a password with a slash in it has been taken for a part of the path
        return hidden
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{quote(parts.path)}"
