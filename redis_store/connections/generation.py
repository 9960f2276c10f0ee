"""Generations of connections: what one connection learns about its server ends the trust in those that were made before.

A connection that timed out, or whose server refuses because of its role or state, may not be the only one: the others that the
process has to this server probably lead to the same dead network, or to the same demoted primary behind a name that now leads
elsewhere. So a new generation begins. Nothing is closed from outside: each owner of connections compares them with `stale`
before use, and replaces the old ones. MongoDB's drivers clear their pools in the same way.
"""

from __future__ import annotations

from time import monotonic

from redis_store.protocol.command import ReplyError
from redis_store.protocol.error_replies import NO_LOGIN, NO_LOGIN_AND_CLOSED
from redis_store.protocol.redirects import TURNED_AWAY

REFUSALS_APART_S = 1.0
"""Shortest time between two generations that begin because of refusals, in seconds. A server may go on refusing."""

_ROLE_OR_STATE = ("READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS", "UNBLOCKED")
"""Codes of the error replies of a server that was demoted, isolated or restarted."""


class Generation:
    """The connections to one server that were opened between two signs of trouble."""

    __slots__ = ("over",)

    def __init__(self, *, over: bool = False) -> None:
        self.over = over
        """Whether its connections must not be used for further calls."""


_OVER = Generation(over=True)


class Known:
    """What the process knows about one server. Takes no lock: a signal handler may call any method."""

    __slots__ = ("current", "is_redis", "refused_at", "tagged")

    def __init__(self) -> None:
        self.current = Generation()
        """The generation of the connections that are opened now."""
        self.refused_at = -REFUSALS_APART_S
        """The time by `time.monotonic` at which a refusal last ended a generation."""
        self.tagged: bool | None = None
        """Whether the server is a cluster, so that the keys of a user need a hash tag; None until the first look at it."""
        self.is_redis = False
        """Whether the first look found Redis, and not Valkey."""

    def end(self) -> None:
        """End the current generation: the server is not the one to use any more."""
        self.current.over = True
        self.current = Generation()


class Standing:
    """One connection's generation, from before it was opened."""

    __slots__ = ("_known", "generation", "logged_out", "turned_away")

    def __init__(self, known: Known) -> None:
        self._known = known
        self.generation = known.current
        self.logged_out = False
        """Whether the server has refused a request because the connection is not logged in, and with it those after it."""
        self.turned_away = False
        """Whether the server has refused a request in a way that a cluster does while data moves (`protocol/redirects.py`)."""

    @property
    def stale(self) -> bool:
        """Whether the connection must not be used for further calls."""
        return self.generation.over

    def end_generation(self) -> None:
        """Note that the server did not reply in time, or that it has another role than before."""
        if not self.generation.over:  # an older connection says nothing about the new ones
            self._known.end()

    def doubt(self) -> None:
        """Note that the server may have another role than before: it does not do what only a primary with replicas can."""
        self._refused()

    def error_reply(self, text: str) -> ReplyError:
        """Return an error reply for the parser, and note what it says about the server."""
        if text.startswith(TURNED_AWAY):
            self.turned_away = True
        if text.startswith(_ROLE_OR_STATE):
            self._refused()
        elif text.startswith((NO_LOGIN, NO_LOGIN_AND_CLOSED)):
            self.logged_out = True
        return ReplyError(text)

    def _refused(self) -> None:
        now = monotonic()
        if not self.generation.over and now - self._known.refused_at >= REFUSALS_APART_S:
            self._known.refused_at = now
            self.end_generation()
        self.generation = _OVER


_known: dict[str, Known] = {}


def known_of(server: str) -> Known:
    """Return what this process knows about a server, by its host and port or its path."""
    return _known.setdefault(server, Known())
