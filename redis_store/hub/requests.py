"""Requests: of a hub to its runner, and of watchers to a hub. No I/O."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from redis_store.errors import PermissionDenied, ServerRefused
from redis_store.hub.mailbox import Mailbox
from redis_store.limits import LogBounds
from redis_store.namespace.keys import NamespaceKeys, UserKeys
from redis_store.protocol.call import Call
from redis_store.protocol.command import Command

_COMMANDS_PER_CALL = 100


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a command on the listening connection. Its reply comes in through `Hub.heard`."""

    command: Command
    blocks: bool = False
    """Whether it may block, so that it needs a connection without subscriptions."""

    def __await__(self) -> Generator[Tell, Any, None]:
        yield self


@dataclass(frozen=True, slots=True)
class HubPause:
    """Wait until a message or a request arrives, or the time has come."""

    until: float
    deaf_until: float = 0.0
    """Time before which no message changes what the hub does, so that messages may wait together."""

    def __await__(self) -> Generator[HubPause, Any, None]:
        yield self


@dataclass(frozen=True, slots=True)
class Join:
    """A watcher's request for one namespace."""

    mailbox: Mailbox
    user: UserKeys
    keys: NamespaceKeys
    bounds: LogBounds


@dataclass(frozen=True, slots=True)
class JoinAll:
    """A watcher's request for all namespaces of a user whose names begin with a prefix, including later ones."""

    mailbox: Mailbox
    user: UserKeys
    prefix: bytes
    bounds: LogBounds
    known: frozenset[bytes] = frozenset()
    """Namespaces in which the watcher resumes from a cursor. They may have been emptied since, which the watcher must learn."""


@dataclass(frozen=True, slots=True)
class Leave:
    """A watcher's request to end."""

    mailbox: Mailbox


async def say(commands: Sequence[Command]) -> None:
    """Send commands that are useful but not needed: a refusal, by a full server or by access rules, is ignored."""
    for start in range(0, len(commands), _COMMANDS_PER_CALL):
        with contextlib.suppress(ServerRefused, PermissionDenied):
            await Call(tuple(commands[start : start + _COMMANDS_PER_CALL]), lambda reply: reply)


Request: TypeAlias = Join | JoinAll | Leave
