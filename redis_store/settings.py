"""Settings of a store: the server's address, time-outs and limits."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis_store.errors import InvalidSettings
from redis_store.limits import MAX_BOUND, shown
from redis_store.server_config import Durability, check_durability

URL_VARIABLE = "REDIS_URL"
"""The environment variable with the server's url, used if the caller passes none."""

EMBEDDED_VARIABLE = "REDIS_STORE_EMBEDDED"
"""The environment variable that refuses the embedded server if it is 0, unless the caller allows it."""

NEAR_CACHE_BYTES = 32 * 1024 * 1024
"""Default bound on the near cache, in bytes of memory, once for all threads and once per event loop."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a store that do not depend on its user."""

    url: str | None = None
    """The server's url; None stands for the embedded server."""
    timeout_s: float | None = None
    """Time to wait for each reply of the server, in seconds; None takes the url's ``socket_timeout``, else 5 s."""
    data_dir: Path | None = None
    """Folder of the embedded server; None takes ``REDIS_STORE_DATA_DIR``, else the platform's user data folder."""
    durability: Durability = "everysec"
    """When the embedded server flushes its log to disk; with ``always``, acknowledged writes survive a crash of the machine."""
    configure_server: bool = False
    """Whether watchers may add the events that they need to `notify-keyspace-events`; always so on the embedded server."""

    near_cache: bool = False
    """Whether values are kept in the near cache after they were read (`near/`)."""
    near_cache_bytes: int = NEAR_CACHE_BYTES
    hash_tags: bool = False
    """Whether the keys of a user have a hash tag also on a single server; on a cluster they always have."""
    min_replicas: int = 0
    """Number of replicas that must have a write before it is acknowledged."""
    credential_provider: Any = None
    """redis-py's `CredentialProvider`, which is asked for user name and password at each login."""

    @property
    def configures(self) -> bool:
        """Whether watchers may change the server's settings; they always may on the embedded server, which is ours."""
        return self.configure_server or self.url is None

    def __post_init__(self) -> None:
        if self.timeout_s is not None:
            _check_positive("timeout", self.timeout_s)
        check_durability(self.durability)
        if self.credential_provider is not None and self.url is None:
            raise InvalidSettings("credential_provider= is for a server with a url: give one, or set REDIS_URL.")
        check_count("min_replicas", self.min_replicas, least=0)
        if self.min_replicas and self.url is None:
            raise InvalidSettings(
                "min_replicas= is for a server with replicas, which the embedded server has not: give a url, or set REDIS_URL."
            )
        check_switches(**{name: getattr(self, name) for name in ("configure_server", "near_cache", "hash_tags")})


def check_switches(**switches: object) -> None:
    """Raise `InvalidSettings` for an option that is neither True nor False."""
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise InvalidSettings(f"{name} must be True or False, not {value!r}.")


def new_id() -> str:
    """Return a random id, for a transaction or a run."""
    return secrets.token_hex(8)


def resolve_url(url: str | None, embedded: bool | None = None) -> str | None:
    """Return the url to use: the argument, else ``REDIS_URL``; None stands for the embedded server.

    Raises `InvalidSettings` instead of None if the embedded server is refused, by `embedded` or ``REDIS_STORE_EMBEDDED``.
    """
    if embedded is not None and not isinstance(embedded, bool):
        raise InvalidSettings(f"embedded must be True, False or None, not {embedded!r}.")
    if url is not None and (not isinstance(url, str) or not url):
        raise InvalidSettings(f"url must be a non-empty str or None, not {type(url).__name__}.")
    url = url or os.environ.get(URL_VARIABLE) or None
    if url is None and not (_embedded_by_variable() if embedded is None else embedded):
        refused_by = f"{EMBEDDED_VARIABLE}=0" if embedded is None else "embedded=False"
        raise InvalidSettings(
            f"There is no server: no url is given, {URL_VARIABLE} is not set, and {refused_by} refuses the embedded server."
            f" Set {URL_VARIABLE} to the server's url, such as redis://localhost:6379."
        )
    return url


def _embedded_by_variable() -> bool:
    text = os.environ.get(EMBEDDED_VARIABLE, "").strip().lower()
    if text not in _ALLOWS:
        raise InvalidSettings(f"{EMBEDDED_VARIABLE} must be 0 or 1, not {text!r}.")
    return _ALLOWS[text]


_ALLOWS = {
    "": True,
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}
"""What the values of ``REDIS_STORE_EMBEDDED`` say."""


def _check_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
        raise InvalidSettings(f"{name} must be a number of seconds above 0, not {shown(value)}.")


def check_count(name: str, value: object, most: int = MAX_BOUND, least: int = 1) -> None:
    """Raise `InvalidSettings` unless the value is a whole number between the bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        bound = "above 0" if least == 1 else f"of at least {least}"
        raise InvalidSettings(f"{name} must be a whole number {bound}, not {shown(value)}.")
    if value > most:
        raise InvalidSettings(f"{name} must be at most {most:,}, not {shown(value)}.")
