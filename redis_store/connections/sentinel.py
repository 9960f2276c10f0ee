"""Redis Sentinel: its urls, and the search for the primary.

Each Sentinel is asked on a short connection of its own. The server that it names is asked for its role before it is used,
because a Sentinel that was cut off goes on naming the former primary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote

from redis import exceptions as redis_errors

from redis_store.connections.address import Address, parse_one_of, without_secrets
from redis_store.connections.credentials import Credentials
from redis_store.connections.sync import ask_once
from redis_store.connections.tls import check_files
from redis_store.errors import AuthenticationFailed, ConnectionLost, DataStoreError, InvalidSettings, StoreUnavailable

_PORT = 26379
"""The port of a Sentinel whose url has none."""

_ANY_PORT = 6379

_PATIENCE_S = 1.0
"""Maximum time to wait for each reply of one Sentinel, in seconds: the others may be alive."""

_OF_SENTINELS = {"sentinel_username": "username", "sentinel_password": "password"}
"""Options of the url that are for the Sentinels alone, and their names in the url of one."""

_OF_SERVERS = ("db", "username", "password", "socket_timeout", "socket_connect_timeout")
"""Options of the url that are not for the Sentinels."""

_FORM = "redis+sentinel://host:26379,host:26379/service/0"


class _Parts:
    """The parts of a url with Sentinels."""

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("+sentinel://")
        self.scheme = scheme
        place, _, query = rest.partition("?")
        login, at, place = place.rpartition("@")
        self.login = login + at
        hosts, _, path = place.partition("/")
        self.hosts = hosts.split(",")
        service, _, self.database = path.partition("/")
        self.service = unquote(service)
        pairs = [(pair, unquote(pair.partition("=")[0])) for pair in query.split("&") if pair]
        self._for_servers = [pair for pair, name in pairs if name not in _OF_SENTINELS]
        self._for_sentinels = [pair for pair, name in pairs if name not in (*_OF_SENTINELS, *_OF_SERVERS)]
        self._for_sentinels += [
            f"{_OF_SENTINELS[name]}={pair.partition('=')[2]}" for pair, name in pairs if name in _OF_SENTINELS
        ]

    def sentinel(self, host: str) -> str:
        """Return the url of one Sentinel."""
        place = host if re.search(r":\d+$", host) else f"{host}:{_PORT}"
        return f"{self.scheme}://{place}?{'&'.join(self._for_sentinels)}"

    def server(self, host: str, port: int) -> str:
        """Return the url of a server of the service."""
        bare = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{self.login}{bare}:{port}/{self.database}?{'&'.join(self._for_servers)}"


@dataclass(frozen=True, slots=True)
class Sentinels:
    """What a url with Sentinels says."""

    url: str
    shown: str
    service: str
    addresses: tuple[Address, ...]
    server_at: Callable[[str, int], Address]
    """Returns the address of a server of the service."""

    @property
    def database(self) -> int:
        return self.server_at("localhost", _ANY_PORT).database


def parse_sentinels(
    url: str, timeout_s: float | None, credentials: Credentials | None = None, min_replicas: int = 0
) -> Sentinels:
    """Parse the url of a service. Raises `InvalidSettings`, without the url's secrets, if it cannot be carried out."""
    shown = without_secrets(url)
    parts = _Parts(url)
    if not parts.service:
        raise InvalidSettings(f"The url {shown} cannot be used: it names no service of the Sentinels. Write {_FORM}.")
    if not all(parts.hosts):
        raise InvalidSettings(f"The url {shown} cannot be used: it has a Sentinel without a host. Write {_FORM}.")

    def server_at(host: str, port: int) -> Address:
        # Messages show the url of the Sentinels. The primary's address may not be known to those who read them.
        address = parse_one_of(parts.server(host, port), shown, timeout_s, credentials, min_replicas)
        return replace(address, url=url, shown=shown, alias="the primary")

    server = server_at("localhost", _ANY_PORT)
    server.new_connection()  # raises now if the url is wrong
    check_files(server)
    patience_s = min(_PATIENCE_S, server.timeout_s)
    addresses = tuple(parse_one_of(parts.sentinel(host), shown, patience_s) for host in parts.hosts)
    return Sentinels(url, shown, parts.service, addresses, server_at)


class _NoPrimary(Exception):
    """What one Sentinel said in place of a primary that can be used."""

    def __init__(self, reason: str, kind: type[DataStoreError] = ConnectionLost) -> None:
        super().__init__(reason)
        self.kind = kind


def find_primary(order: list[Address], sentinels: Sentinels) -> Address:
    """Ask the Sentinels in turn for a primary that works, and put the one that named it first."""
    problems: list[_NoPrimary] = []
    tried: dict[tuple[str, int], _NoPrimary] = {}
    for sentinel in list(order):
        try:
            place = _ask(sentinel, sentinels.service)
            if place in tried:
                raise tried[place]
            primary = sentinels.server_at(*place)
            try:
                _check_role(primary)
            except _NoPrimary as error:
                tried[place] = error
                raise
        except _NoPrimary as error:
            problems.append(error)
            continue
        order.remove(sentinel)
        order.insert(0, sentinel)
        return primary
    raise _failure(problems, sentinels)


def _failure(problems: Sequence[_NoPrimary], sentinels: Sentinels) -> DataStoreError:
    said = "; ".join(dict.fromkeys(str(problem) for problem in problems))
    kinds = {problem.kind for problem in problems}
    about = f"No primary of {sentinels.service!r} is found by the Sentinels of {sentinels.shown} ({said})"
    if AuthenticationFailed in kinds:
        return AuthenticationFailed(
            f"{about}: check the user name and password of the server before the '@', and those of the Sentinels in"
            " sentinel_username and sentinel_password."
        )
    if kinds == {InvalidSettings}:
        return InvalidSettings(f"{about}: check the hosts and the service in the url.")
    return ConnectionLost(
        f"{about}: nothing was sent by this call. During a failover try again in a moment; else check that the Sentinels run"
        " and can be reached."
    )


def _ask(sentinel: Address, service: str) -> tuple[str, int]:
    """Return the host and port of the primary that a Sentinel names."""
    name = sentinel.shown.partition("://")[2].rstrip("/")
    try:
        reply = ask_once(sentinel, "SENTINEL", "MASTER", service)
    except AuthenticationFailed:
        raise _NoPrimary(f"the Sentinel at {name} refuses the login", AuthenticationFailed) from None
    except redis_errors.ResponseError as error:
        text = str(error).rstrip(".")
        if "no such master" in text.lower():
            raise _NoPrimary(f"the Sentinel at {name} knows no service of this name", InvalidSettings) from None
        if "unknown command" in text.lower():
            raise _NoPrimary(f"the server at {name} is no Sentinel", InvalidSettings) from None
        raise _NoPrimary(f"the Sentinel at {name} refuses to tell: {text}", AuthenticationFailed) from None
    except DataStoreError as error:
        kind = InvalidSettings if isinstance(error, InvalidSettings) else type(error)
        advice = re.sub(r"(?<=write )(\w+)(?=://)", r"\1+sentinel", str(error), flags=re.IGNORECASE)
        raise _NoPrimary(advice.rstrip("."), kind) from error
    texts = [part.decode() for part in reply]
    state = dict(zip(texts[::2], texts[1::2], strict=False))
    if {"s_down", "o_down"} & set(state.get("flags", "").split(",")):
        raise _NoPrimary("the primary does not answer the Sentinels, which will promote a replica if there is one")
    return state["ip"], int(state["port"])


def _check_role(primary: Address) -> None:
    try:
        reply = ask_once(primary, "ROLE")
    except redis_errors.ResponseError:  # a login that may not ask: the first write will tell
        return
    except AuthenticationFailed as error:
        raise _NoPrimary(str(error).rstrip("."), AuthenticationFailed) from error
    except StoreUnavailable as error:
        reason = str(error).replace(primary.shown, "it").rstrip(".")
        raise _NoPrimary(f"the primary that they name is not reached: {reason}") from error
    if reply[0] != b"master":
        raise _NoPrimary("the server that they name is a replica now")
