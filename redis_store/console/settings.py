"""What the console is told when it starts: where it listens, who may use it, and what they may do."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal, TypeAlias

from redis_store.errors import InvalidSettings

DEFAULT_PORT = 8377
"""The port where the console listens, unless another is named."""

TOKEN_BYTES = 32
"""Random bytes of the token in the printed url."""

_LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")

Auth: TypeAlias = Literal["token", "proxy"]
"""Who may use the console: a browser that was opened with the printed url, or a user whom a reverse proxy names."""

Network: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class ConsoleSettings:
    """The settings of one console."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    read_only: bool = False
    """Whether everything that changes data is refused."""
    auth: Auth = "token"
    token: str = field(default_factory=lambda: secrets.token_urlsafe(TOKEN_BYTES), repr=False)
    header: str = "X-Forwarded-User"
    """With ``auth="proxy"``, the header in which the reverse proxy names the user."""
    trusted: tuple[Network, ...] = ()
    """With ``auth="proxy"``, the addresses of reverse proxies. Requests from others are refused."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names under which browsers reach the console, such as that of a reverse proxy: ``host`` or ``host:port``."""

    def __post_init__(self) -> None:
        if self.auth not in ("token", "proxy"):
            raise InvalidSettings(f"auth must be 'token' or 'proxy', not {self.auth!r}.")
        if self.auth == "proxy" and not self.trusted:
            raise InvalidSettings(
                "With auth 'proxy', the header of any caller would be believed: pass the proxy's address with --trust."
            )
        if self.auth != "proxy" and self.trusted:
            raise InvalidSettings("--trust names reverse proxies: pass --auth proxy with it.")

    @property
    def hosts(self) -> frozenset[str]:
        """The values of the header ``Host`` that are accepted, in lower case."""
        own = (*_LOCAL_HOSTS, bracketed(self.host))
        bare = own if self.port == 80 else ()  # browsers leave out the port then
        return frozenset(
            each.lower() for each in (*(f"{name}:{self.port}" for name in own), *bare, *self.allowed_hosts)
        )

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the console."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        """The url that is printed; with its token, unless a proxy says who the user is."""
        start = f"http://{bracketed(self.host)}:{self.port}/"
        return start if self.auth == "proxy" else f"{start}?token={self.token}"

    def is_trusted(self, address: str) -> bool:
        """Whether a request from this address may name its user."""
        try:
            known = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(known, "ipv4_mapped", None) or known
        return any(mapped in network for network in self.trusted)


def networks_of(texts: Sequence[str]) -> tuple[Network, ...]:
    """Return addresses and networks such as ``10.0.0.0/8`` from their texts."""
    found = []
    for text in texts:
        try:
            found.append(ip_network(text))
        except ValueError:
            raise InvalidSettings(
                f"--trust {text!r} is no address: pass one such as 10.0.0.7, or a network such as 10.0.0.0/8."
            ) from None
    return tuple(found)


def bracketed(host: str) -> str:
    """Return a host as it stands in a url."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
