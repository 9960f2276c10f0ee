"""Parsing and masking of server urls."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from redis import asyncio as redis_asyncio
from redis import connection as redis_connection
from redis.driver_info import DriverInfo

from redis_store.connections.generation import Known, known_of
from redis_store.errors import InvalidSettings

DEFAULT_TIMEOUT_S = 5.0

LIBRARY_NAME = "agent-data-store"
"""The library name of our connections in ``CLIENT LIST``."""

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
    """One server's url with the options for redis-py's connection classes."""

    url: str
    shown: str
    """The url without user name, password and options, for messages."""
    timeout_s: float
    options: Mapping[str, Any]
    known: Known
    """What the process knows about the server."""

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
            raise InvalidSettings(f"The url of {self.shown} has {problem}: correct or remove it.") from None


def parse_address(url: str, timeout_s: float | None) -> Address:
    """Parse a url with redis-py's parser. Raises `InvalidSettings`, without the url's secrets, for an unusable url."""
    shown = without_secrets(url)
    if url.startswith(("redis+sentinel://", "redis+cluster://")):
        raise InvalidSettings(f"{shown} cannot be used yet: give the redis:// url of one server.")
    if not url.startswith(_SCHEMES):
        raise InvalidSettings(f"The url {shown} cannot be used: it must begin with {', '.join(_SCHEMES)}.")
    try:
        options = redis_connection.parse_url(url)
    except ValueError as error:
        # urllib's message may contain a part of the password; redis-py's messages about options contain only their names.
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
    return Address(url, shown, timeout, fixed, known_of(_place(options)))


def _place(options: Mapping[str, Any]) -> str:
    """Return a name of the server for `known_of`, whatever the user and the database."""
    return options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"


def without_secrets(url: str) -> str:
    """Return a url reduced to scheme, host, port and path."""
    scheme = url.partition("://")[0]
    hidden = f"{scheme}://..." if len(scheme) < 20 else "..."
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return hidden
    if "@" in parts.path:  # a password with a slash was parsed as part of the path
        return hidden
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{quote(parts.path)}"
