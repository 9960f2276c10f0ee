"""Parsing and masking of server urls.

The forms and options are those of redis-py's parser, which drops what it does not understand: ``redis://h/prod`` is database 0
there. Here, what a url says is done, or refused with the reason.
"""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from redis import RedisError
from redis import asyncio as redis_asyncio
from redis import connection as redis_connection
from redis.driver_info import DriverInfo

from redis_store.connections.credentials import Credentials
from redis_store.connections.generation import Known, known_of
from redis_store.connections.replicas import Replicas
from redis_store.errors import InvalidSettings
from redis_store.protocol.packing import CommandPacker

DEFAULT_TIMEOUT_S = 5.0

LIBRARY_NAME = "agent-data-store"
"""The library name of our connections in ``CLIENT LIST``."""

_LONGEST_TIMEOUT_S = 1e6

_KINDS: dict[str, tuple[type[Any], type[Any]]] = {
    "redis": (redis_connection.Connection, redis_asyncio.Connection),
    "rediss": (redis_connection.SSLConnection, redis_asyncio.SSLConnection),
    "unix": (redis_connection.UnixDomainSocketConnection, redis_asyncio.UnixDomainSocketConnection),
}
"""redis-py's connection classes, blocking and asyncio, by scheme."""

_OTHER_NAMES = {"valkey": "redis", "valkeys": "rediss"}
"""Other names of these schemes, as Valkey's own clients take them."""

_SCHEMES = ("redis://", "rediss://", "valkey://", "valkeys://", "unix://")

_SENTINEL_SCHEMES = tuple(f"{scheme}+sentinel://" for scheme in ("redis", "rediss", "valkey", "valkeys"))
_CLUSTER_SCHEMES = tuple(f"{scheme}+cluster://" for scheme in ("redis", "rediss", "valkey", "valkeys"))


A_NODE = "a node of the cluster"
"""What messages call a server whose address comes from a cluster, or from its url."""


@dataclass(frozen=True, slots=True)
class Address:
    """One server's url with the options for redis-py's connection classes."""

    url: str
    shown: str
    """The url without user name, password and options, for messages."""
    scheme: str
    """The key of `_KINDS`."""
    timeout_s: float
    options: Mapping[str, Any]
    known: Known
    """What the process knows about the server."""
    credentials: Credentials | None = None
    """The provider of user name and password, if they are not in the url."""
    replicas: Replicas | None = None
    """The replicas that must have each write; None if none must."""
    alias: str = ""
    """What messages call the server in place of host and port, if the url is not its own. Agents must not see these."""

    @property
    def database(self) -> int:
        """The number of the database."""
        number: int = self.options.get("db", 0)
        return number

    @property
    def connect_timeout_s(self) -> float:
        """Time to wait for the connection, in seconds."""
        seconds: float = self.options["socket_connect_timeout"]
        return seconds

    @property
    def has_tls(self) -> bool:
        return self.scheme == "rediss"

    def new_connection(self) -> redis_connection.AbstractConnection:
        """Return an unconnected connection of redis-py's blocking side."""
        made: redis_connection.AbstractConnection = self._make(_KINDS[self.scheme][0], command_packer=CommandPacker())
        return made

    def new_async_connection(self) -> redis_asyncio.connection.AbstractConnection:
        """Return an unconnected connection of redis-py's asyncio side."""
        made: redis_asyncio.connection.AbstractConnection = self._make(_KINDS[self.scheme][1])
        return made

    def _make(self, kind: type[Any], **more: Any) -> Any:
        try:
            return kind(**self.options, **more)
        except (TypeError, ValueError, RedisError) as error:
            raise InvalidSettings(
                f"The url {self.shown} has an unusable option ({error}): correct or remove it."
            ) from None


_BARE_HOST = re.compile(
    r"(?:localhost|[\w-]+(?:\.[\w-]+)+|(?:[\w.-]+|\[[0-9A-Fa-f:]+\])(?=:))(:\d{1,5})?(?:/\d*)?", re.ASCII
)
"""What can only be meant as a host, by its port or its dots."""


def parse_address(
    url: str, timeout_s: float | None, credentials: Credentials | None = None, min_replicas: int = 0
) -> Address:
    """Parse a url. Raises `InvalidSettings`, without the url's secrets, for one that cannot be carried out to the letter."""
    shown = without_secrets(url)
    if not url.startswith(_SCHEMES):
        schemes = ", ".join((*_SCHEMES, _SENTINEL_SCHEMES[0], _CLUSTER_SCHEMES[0]))
        is_host = _BARE_HOST.fullmatch(url) is not None
        typed = f" {url!r}" if is_host else f" {shown}" if "://" in url else ""  # any other text may hold a password
        meant = f"'redis://{url}'" if is_host else "a url such as 'redis://localhost:6379'"
        raise InvalidSettings(f"The url{typed} cannot be used: it must begin with {schemes}. Write {meant}.")
    try:
        parts = _split(url)
        server = _server(parts)
        given = {**server, **_options(parts, server, names_may_show=not shown.endswith("..."))}
    except _Refused as error:
        raise InvalidSettings(f"The url {shown} cannot be used: {error}") from None
    except ValueError:  # urllib's messages may contain a part of the password
        raise InvalidSettings(
            f"The url {shown} cannot be used: its host, port or %XX cannot be read. {_ADVICE}"
        ) from None
    if credentials is not None:
        if "username" in given or "password" in given:
            raise InvalidSettings(
                f"The url {shown} has a user name or password, and credential_provider= gives others: leave one of them out."
            )
        given["credential_provider"] = credentials
    timeout = timeout_s or given.get("socket_timeout") or DEFAULT_TIMEOUT_S
    options = {
        "socket_connect_timeout": timeout,
        **given,
        "socket_timeout": timeout,
        "protocol": 2,
        "decode_responses": False,
        "driver_info": DriverInfo(name=LIBRARY_NAME, lib_version=None),
    }
    replicas = Replicas(min_replicas, timeout) if min_replicas else None
    return Address(url, shown, _kind(parts), timeout, options, known_of(_place(options)), credentials, replicas)


def parse_one_of(
    url: str, shown: str, timeout_s: float | None, credentials: Credentials | None = None, min_replicas: int = 0
) -> Address:
    """Parse the url of one server among those that another url names. Messages show that one instead."""
    try:
        return parse_address(url, timeout_s, credentials, min_replicas)
    except InvalidSettings as error:
        raise InvalidSettings(str(error).replace(without_secrets(url), shown)) from None


def another_node(address: Address, host: str, port: int) -> Address:
    """Return the address of another node of the cluster of a server, with the same login and options."""
    options = {name: option for name, option in address.options.items() if name != "path"}
    options |= {"host": host, "port": port}
    scheme = "redis" if address.scheme == "unix" else address.scheme
    return replace(address, scheme=scheme, options=options, known=known_of(_place(options)), alias=A_NODE)


class _Refused(ValueError):
    """A part of a url that cannot be carried out."""


_ADVICE = "Write '/', '#', '?' and '@' in a password as %2F, %23, %3F and %40."


def _split(url: str) -> SplitResult:
    if re.search(r"[\x00-\x1f\x7f]|^\s|\s$", url):
        raise _Refused("it has white space at an end, or a control character.")
    parts = urlsplit(url)
    if "#" in url:
        raise _Refused(f"it has a '#', which means nothing here. {_ADVICE}")
    return parts


def _kind(parts: SplitResult) -> str:
    """Return the key of `_KINDS` of a url."""
    return _OTHER_NAMES.get(parts.scheme, parts.scheme)


def _server(parts: SplitResult) -> dict[str, Any]:
    """Return where the server is, the database in the path, the user name and the password."""
    found: dict[str, Any] = {}
    for name, text in (("username", parts.username), ("password", parts.password)):
        if text:
            found[name] = _decoded(text)
    place = parts.netloc.rpartition("@")[2]
    if parts.scheme == "unix":
        if place:
            raise _Refused("a socket on this machine has no host. Write three slashes: unix:///path/redis.sock.")
        if not parts.path.strip("/"):
            raise _Refused("it names no socket. Write unix:///path/redis.sock.")
        return {**found, "path": _decoded(parts.path)}
    if "," in place:
        raise _Refused(
            "it names several hosts. Give the url of one server, or write +cluster or +sentinel before the '://' if they are"
            " nodes of a cluster, or Sentinels."
        )
    if parts.port == 0:
        raise _Refused("there is no port 0.")
    found["host"] = _decoded(parts.hostname or "localhost")
    found["port"] = parts.port or 6379
    path = _decoded(parts.path)
    if path.strip("/") or len(path) > 1:
        if not re.fullmatch(r"/[0-9]{1,9}/?", path):
            raise _Refused(f"its path is no database. Write the number of one after the port, such as /0. {_ADVICE}")
        found["db"] = int(path.strip("/"))
    return found


def _options(parts: SplitResult, server: Mapping[str, Any], *, names_may_show: bool) -> dict[str, Any]:
    """Return the options after the question mark, which must not contradict what stands before it."""
    found: dict[str, Any] = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True, errors="strict"):
        shown = f"the option {name!r}" if names_may_show else "an option"
        if name in found:
            raise _Refused(f"it has {shown} twice.")
        if name in _NOT_OURS:
            raise _Refused(f"{shown} has no effect here: {_NOT_OURS[name]}")
        read = _OPTIONS.get(name) or (_OPTIONS_OF_TCP.get(name) if parts.scheme != "unix" else None)
        if read is None and name in _OPTIONS_OF_TLS:
            if _kind(parts) != "rediss":
                raise _Refused(f"{shown} is for rediss:// and valkeys:// urls.")
            read = _OPTIONS_OF_TLS[name]
        if read is None:
            if name in _OPTIONS_OF_TCP:
                raise _Refused(f"{shown} is not for sockets on this machine.")
            raise _Refused(f"{shown} does not exist: correct or remove it. {_ADVICE}")
        try:
            found[name] = read(text)
        except (ValueError, KeyError):
            raise _Refused(f"{shown} must be {_MEANINGS.get(read, 'a text')}.") from None
        if server.get(name, found[name]) != found[name]:
            raise _Refused(f"{shown} says something else than the url before the question mark.")
    return found


def _decoded(text: str) -> str:
    return unquote(text, errors="strict")


def _text(text: str) -> str:
    if not text:
        raise ValueError
    return text


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError
    return int(text)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < _LONGEST_TIMEOUT_S or math.isnan(seconds):
        raise ValueError
    return seconds


def _yes_or_no(text: str) -> bool:
    return {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}[text.lower()]


def _certificates(text: str) -> str:
    if text not in ("none", "optional", "required"):
        raise ValueError
    return text


def _tls_version(text: str) -> ssl.TLSVersion:
    return ssl.TLSVersion(int(text))


def _verify_flags(text: str) -> list[ssl.VerifyFlags]:
    return [ssl.VerifyFlags[flag.strip()] for flag in text.strip("[]").split(",")]


_Reader = Callable[[str], Any]

_MEANINGS: dict[_Reader, str] = {
    _number: "a whole number of at least 0",
    _seconds: "a number of seconds above 0",
    _yes_or_no: "yes or no",
    _certificates: "none, optional or required",
    _tls_version: "the number of a TLS version: 771 for TLS 1.2, 772 for TLS 1.3",
    _verify_flags: "names of ssl.VerifyFlags, separated by commas",
}

_OPTIONS: dict[str, _Reader] = {
    "db": _number,
    "username": _text,
    "password": _text,
    "client_name": _text,
    "socket_timeout": _seconds,
    "socket_connect_timeout": _seconds,
}

_OPTIONS_OF_TCP: dict[str, _Reader] = {"socket_keepalive": _yes_or_no}

_OPTIONS_OF_TLS: dict[str, _Reader] = {
    "ssl_ca_certs": _text,
    "ssl_ca_data": _text,
    "ssl_ca_path": _text,
    "ssl_cert_reqs": _certificates,
    "ssl_certfile": _text,
    "ssl_check_hostname": _yes_or_no,
    "ssl_ciphers": _text,
    "ssl_exclude_verify_flags": _verify_flags,
    "ssl_include_verify_flags": _verify_flags,
    "ssl_keyfile": _text,
    "ssl_min_version": _tls_version,
    "ssl_password": _text,
}

_REPEATS = "the store decides itself what it repeats, see docs/durability.md. Remove it."
_TEXT = "values are JSON in UTF-8. Remove it."
_OWN = "the store reads and writes the protocol itself. Remove it."
_LABELLED = f"connections have the library name {LIBRARY_NAME!r}. Remove it, or use client_name."
_OCSP = "revoked certificates are not looked up. Remove it."

_NOT_OURS = {
    "max_connections": "a store opens a connection for each call under way. Remove it, or bound a redis_store.Client.",
    "timeout": "there is no pool to wait for. Use socket_timeout.",
    "health_check_interval": "the store checks each connection before it writes. Remove it.",
    "retry_on_timeout": _REPEATS,
    "retry_on_error": _REPEATS,
    "decode_responses": _TEXT,
    "encoding": _TEXT,
    "encoding_errors": _TEXT,
    "protocol": _OWN,
    "legacy_responses": _OWN,
    "socket_read_size": _OWN,
    "lib_name": _LABELLED,
    "lib_version": _LABELLED,
    "ssl_validate_ocsp": _OCSP,
    "ssl_validate_ocsp_stapled": _OCSP,
    "ssl_ocsp_expected_cert": _OCSP,
}
"""Options that redis-py's parser takes, and that a store does not carry out, each with the reason."""


def is_cluster_url(url: str) -> bool:
    """Whether a url names nodes of a cluster."""
    return url.startswith(_CLUSTER_SCHEMES)


def _place(options: Mapping[str, Any]) -> str:
    """Return a name of the server for `known_of`, whatever the user and the database."""
    return options.get("path") or f"{options['host']}:{options['port']}"


def is_sentinel_url(url: str) -> bool:
    """Whether a url names Sentinels, and not the server itself."""
    return url.startswith(_SENTINEL_SCHEMES)


_SEVERAL_HOSTS = re.compile(r"[\w.:\[\],-]+", re.ASCII)


def without_secrets(url: str) -> str:
    """Return a url reduced to scheme, host, port and path."""
    scheme = url.partition("://")[0]
    hidden = f"{scheme}://..." if len(scheme) < 20 else "..."
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        several = parts.netloc.rpartition("@")[2] if "," in parts.netloc else ""
        port = f":{parts.port}" if not several and parts.port else ""
    except ValueError:
        return hidden
    if (
        "@" in parts.path + parts.query + parts.fragment
    ):  # a password with a slash, '?' or '#' was parsed as part of these
        return hidden
    if several:
        return f"{parts.scheme}://{several}{quote(parts.path)}" if _SEVERAL_HOSTS.fullmatch(several) else hidden
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{quote(parts.path)}"
