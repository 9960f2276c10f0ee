"""What a hub asks of its runner, and what watchers ask of a hub. No I/O."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from redis_store.errors import PermissionDenied, ServerRefused
from redis_store.hub.mailbox import Mailbox
from redis_store.limits import LogBounds
from redis_store.namespace.keys import NamespaceKeys, UserKeys
from redis_store.protocol.call import Call, Command

_COMMANDS_PER_CALL = 100


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a command on the listening connection; what it answers is heard."""

    command: Command

    def __await__(self) -> Generator[Tell, Any, None]:
        yield self


@dataclass(frozen=True, slots=True)
class HubPause:
    """Wait until something is heard, somebody wants something, or the time has come."""

    until: float

    def __await__(self) -> Generator[HubPause, Any, None]:
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
    known: frozenset[bytes] = frozenset()
    """Namespaces in which it goes on from a cursor: they may hold nothing any more, which is news to it."""


@dataclass(frozen=True, slots=True)
class Leave:
    """A watcher goes."""

    mailbox: Mailbox


async def say(commands: Sequence[Command]) -> None:
    """Say what is good to have said and does no harm where it is refused: by a full server, by access rules."""
    for start in range(0, len(commands), _COMMANDS_PER_CALL):
        with contextlib.suppress(ServerRefused, PermissionDenied):
            await Call(tuple(commands[start : start + _COMMANDS_PER_CALL]), lambda reply: reply)


Request: TypeAlias = Join | JoinAll | Leave
