"""What a hub asks of its runner, and what watchers ask of a hub. No I/O."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias

from redis_store._call import Command
from redis_store._keys import NamespaceKeys, UserKeys
from redis_store._mailbox import Mailbox
from redis_store._scope import LogBounds


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a command on the listening connection; what it answers is heard."""

    command: Command

    def __await__(self) -> Generator[Tell, Any, None]:
        yield self


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait until something is heard, somebody wants something, or the time has come."""

    until: float

    def __await__(self) -> Generator[Pause, Any, None]:
        yield self


@dataclass(frozen=True, slots=True)
class Join:
    """A watcher wants a namespace."""

    mailbox: Mailbox
    user: UserKeys
    keys: NamespaceKeys
    bounds: LogBounds


@dataclass(frozen=True, slots=True)
class JoinAll:
    """A watcher wants all namespaces of a user whose names begin so, those to come included."""

    mailbox: Mailbox
    user: UserKeys
    prefix: bytes
    bounds: LogBounds


@dataclass(frozen=True, slots=True)
class Leave:
    """A watcher goes."""

    mailbox: Mailbox


Request: TypeAlias = Join | JoinAll | Leave
