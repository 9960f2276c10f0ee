"""Waiting for replicas: a ``WAIT`` goes out behind each write, in the same request, and its reply is judged here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis_store.connections.generation import Standing
from redis_store.errors import StoreTimeout
from redis_store.protocol.command import Command, ReplyError
from redis_store.protocol.error_replies import translate

_PART_OF_TIMEOUT = 0.5
"""The part of the time-out of a reply that a write waits for replicas. The server's own time-out must come before ours."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """The number of replicas that must have a write before it is acknowledged, and the time-out of each reply."""

    count: int
    timeout_s: float

    @property
    def _patience_ms(self) -> int:
        return max(1, int(self.timeout_s * 1000 * _PART_OF_TIMEOUT))

    def behind(self, commands: Sequence[Command]) -> tuple[Command, ...]:
        """Return the commands of a write with the ``WAIT`` behind them."""
        return (*commands, ("WAIT", self.count, self._patience_ms))

    def judge(self, commands: Sequence[Command], replies: list[Any], standing: Standing, shown: str) -> Any:
        """Return the reply to the write, or the list of replies, or raise because too few replicas confirmed it.

        `commands` are those of `behind`.
        """
        *replies, confirmed = replies
        if not _wrote_nothing(commands, replies):
            if isinstance(confirmed, ReplyError):
                error = translate(confirmed, (("WAIT",),))
                raise StoreTimeout(
                    self._says(shown, f"the server refused to say ({str(error).rstrip('.')})"), outcome_unknown=True
                )
            if confirmed < self.count:
                standing.doubt()  # the server may be a former primary, whose replica is the primary now
                raise StoreTimeout(
                    self._says(shown, f"{confirmed} did within {self._patience_ms / 1000:g} s"), outcome_unknown=True
                )
        return replies[0] if len(replies) == 1 else replies

    def _says(self, shown: str, what: str) -> str:
        return (
            f"The write reached the server at {shown}, but min_replicas={self.count} of its replicas should have it too, and"
            f" {what}: it may be lost if the server fails. Read it back, or write it again if that is harmless."
        )


def _wrote_nothing(commands: Sequence[Command], replies: Sequence[Any]) -> bool:
    """Whether a write was refused, or a transaction given up because a watched key had changed."""
    given_up = commands[-2] == ("EXEC",) and replies[-1] is None
    return given_up or any(isinstance(reply, ReplyError) for reply in replies)
