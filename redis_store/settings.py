"""What a store is told when it is made: where the server is, and the limits it keeps."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field, fields
from pathlib import Path

from redis_store.errors import InvalidSettings
from redis_store.limits import Limits, LogBounds
from redis_store.server_config import Durability, check_durability

URL_VARIABLE = "REDIS_URL"
"""The environment variable that names the server where the caller does not."""

NEAR_CACHE_BYTES = 32 * 1024 * 1024
"""How much memory the near cache may take: so much for threads, and so much for each event loop."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything about a connection that is not about a user."""

    url: str | None = None
    """Where the server is; None stands for the embedded one."""
    timeout_s: float | None = None
    """How long to wait for the server, each time it has to answer; None takes the url's, else 5 seconds."""
    data_dir: Path | None = None
    """The folder of the embedded server; None takes ``REDIS_STORE_DATA_DIR``, else the platform's user data folder."""
    durability: Durability = "everysec"
    """When the embedded server flushes its log to disk: ``always`` survives a machine that dies."""
    limits: Limits = field(default_factory=Limits)
    log: LogBounds = field(default_factory=LogBounds)
    configure_server: bool = False
    """Whether watchers may add the events that they need to `notify-keyspace-events`; on the embedded server they do."""

    near_cache: bool = False
    """Whether values that were read stay in the process until somebody writes (`near_cache`)."""
    near_cache_bytes: int = NEAR_CACHE_BYTES

    @property
    def configures(self) -> bool:
        """Whether watchers may change the server's settings: they may on the embedded one, which is ours."""
        return self.configure_server or self.url is None

    def __post_init__(self) -> None:
        if self.timeout_s is not None:
            _check_positive("timeout", self.timeout_s)
        check_durability(self.durability)
        for name in ("configure_server", "near_cache"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidSettings(f"{name} must be True or False, not {getattr(self, name)!r}.")
        _check_count("near_cache_bytes", self.near_cache_bytes)
        for bounds in (self.limits, self.log):
            for bound in fields(bounds):
                _check_count(bound.name, getattr(bounds, bound.name))


def new_id() -> str:
    """Return a random id of a transaction or a run."""
    return secrets.token_hex(8)


def resolve_url(url: str | None) -> str | None:
    """Return the url to use: the argument, else the environment's; None stands for the embedded server."""
    if url is None:
        return os.environ.get(URL_VARIABLE) or None
    if not isinstance(url, str) or not url:
        raise InvalidSettings(f"url must be a non-empty str or None, not {type(url).__name__}.")
    return url


def _check_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
        raise InvalidSettings(f"{name} must be a number of seconds above 0, not {value!r}.")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidSettings(f"{name} must be a whole number above 0, not {value!r}.")
