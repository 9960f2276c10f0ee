"""A hub's listening connection: subscriptions, tokens, whether the server sends events, and `XREAD` if it does not. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis_store.changelog import ops as says
from redis_store.errors import (
    AuthenticationFailed,
    ConnectionLost,
    DataStoreError,
    PermissionDenied,
    ServerFull,
    ServerRefused,
)
from redis_store.hub.requests import HubPause, Tell, say
from redis_store.hub.subscribers import Members
from redis_store.hub.watched_namespace import Agenda, WatchedNamespace
from redis_store.namespace.keys import UserKeys
from redis_store.protocol.command import ReplyError
from redis_store.protocol.error_replies import SlotElsewhere, translate
from redis_store.server_config import NEEDED_FLAGS, WISHED_FLAGS, missing_flags

TOKEN_S = 3.0
"""Longest time for a token to come back, in seconds. After that it is lost, perhaps with events, and the hub reconnects."""

BLOCK_MS = 500
"""Longest time that one ``XREAD`` blocks, in ms: shorter than any socket timeout, and short enough for new watchers to wait."""

WAKE_LIFE_MS = 10_000
"""Time for which an entry that ends an ``XREAD`` is kept, in ms."""

LOGS_PER_BLOCK = 1900
"""Logs that one ``XREAD`` follows, so that no command has more than 3,900 arguments; of more logs, each has its turn."""

RECHECK_S = 5.0


class Listening:
    """The state of the listening connection: its subscriptions, and the messages expected on it."""

    def __init__(self, members: Members, random_hex: Callable[[int], str], warn: Callable[[str], None]) -> None:
        self.now = 0.0
        self.counts_events = True
        """Whether the server sends keyspace events, so that the hub can count them."""
        self.barrier: bytes | None = None
        self._members = members
        self._random_hex = random_hex
        self._warn = warn
        self._warned = False
        self._confirmed: set[bytes] = set()
        self._probed: set[bytes] = set()
        self._token = 0
        self._token_heard = -1
        self._settling: dict[int, Sequence[WatchedNamespace]] = {}
        self._random = ""
        self._wake = b""
        self._woken_id = b"0"
        """The stream to which the hub appends to end its own ``XREAD``, and the last entry that was read there."""
        self._blocked = False
        self._turn = 0
        self._lacks_flags = False
        self._recheck_at = 0.0
        self._may_ask = True
        """Whether the server's event flags can be read, and agree with the events that it sends."""
        self._refusal: DataStoreError | None = None

    def disconnected(self) -> None:
        self._refusal = None
        self._may_ask = True
        self._confirmed.clear()
        self._settling.clear()
        self._token_heard = -1
        self._blocked = False

    def heard(self, reply: Any) -> None:
        """Take a message."""
        if isinstance(reply, ReplyError):
            self._refusal = translate(reply, [("XREAD", self._wake)] if self._blocked else ())
            if isinstance(self._refusal, SlotElsewhere):  # the hub goes on without that user, on the same connection
                self._blocked = False
            if isinstance(self._refusal, AuthenticationFailed):  # it was logged in: a new connection logs in anew
                self._refusal = ConnectionLost(f"The hub's connection has lost its login: {self._refusal}")
            return
        if not self.counts_events:
            self._heard_unblocked(reply)
            return
        if not isinstance(reply, list) or len(reply) != 3:
            return
        kind, channel, payload = reply
        if kind == b"message":
            feed = self._members.by_channel.get(channel)
            if feed is not None:
                feed.heard(payload)
            elif channel == self.barrier:
                self._heard_token(int(payload))
            else:
                self._heard_elsewhere(channel, payload)
        elif kind == b"subscribe":
            self._confirmed.add(channel)

    async def begin(self, user: UserKeys, configures: bool) -> None:
        """Subscribe on new connections, and find out by a probe whether the server sends events."""
        self._random = self._random or self._random_hex(8)
        self.barrier = user.barrier(self._random)  # also a Redis key, so it moves with its user
        if configures:
            await self._configure()
        self.counts_events = True
        self._lacks_flags = False
        try:
            await self.subscribe([self.barrier, self._members.channel_head + self.barrier])
            come = await self._events_come()
        except ServerFull:
            # A full server refuses the probe, so rely on its configuration.
            if await self._are_configured():
                return
            self._warn_once("it is full, and its notify-keyspace-events lacks flags or may not be read")
        except (ServerRefused, PermissionDenied) as error:
            self._warn_once(f"it does not let this user publish or subscribe ({error})")
        else:
            if come:
                return
            self._lacks_flags = True
            self._warn_once(f"its notify-keyspace-events lacks some of the flags {NEEDED_FLAGS}")
        self.counts_events = False

    async def _are_configured(self) -> bool:
        try:
            return not missing_flags(await says.read_flags())
        except (ServerRefused, PermissionDenied):
            return False

    async def _events_come(self) -> bool:
        """Whether the events of a probe key come back. The connection is subscribed to them."""
        assert self.barrier is not None
        self._probed.clear()
        await says.probe(self.barrier, token := self.new_token(()))
        await self.token_back(token)
        return {b"hset", b"del"} <= self._probed

    async def recheck(self) -> None:
        """Check periodically whether events have been turned on, or turned off while there are no writes.

        Raises `ConnectionLost` after such a change, so that the hub reconnects.
        """
        if not self._may_ask or self.now < self._recheck_at or not (self.counts_events or self._lacks_flags):
            return
        self._recheck_at = self.now + RECHECK_S
        lacks = False
        try:
            lacks = bool(missing_flags(await says.read_flags()))
            if self.counts_events and lacks and await self._events_come():
                self._may_ask = False  # the events come although the configuration lacks flags
        except (ServerRefused, PermissionDenied):
            self._may_ask = False
        if self._may_ask and lacks is self.counts_events:
            how = "stopped" if lacks else "started"
            raise ConnectionLost(f"The server {how} sending keyspace events, so the hub reconnects")

    def expect_events(self, feeds: Iterable[WatchedNamespace]) -> None:
        """Raise `ConnectionLost` if a read found writes for which no event came: events have been turned off.

        Called when the read's token is back.
        """
        told = counted = 0
        for feed in feeds:
            told, counted = told + feed.told, counted + feed.counted
        if told and not counted:
            raise ConnectionLost("The server stopped sending keyspace events, so the hub reconnects")

    async def subscribe(self, channels: Sequence[bytes]) -> None:
        """Subscribe, and wait for the server's confirmation."""
        self._confirmed.difference_update(channels)
        await Tell((b"SUBSCRIBE", *channels))
        await self._wait_for(lambda: self._confirmed.issuperset(channels))

    def new_token(self, settling: Sequence[WatchedNamespace]) -> int:
        """Return a token to publish. When it comes back, the events of these namespaces up to then are counted."""
        self._token += 1
        self._settling[self._token] = settling
        return self._token

    async def token_back(self, token: int) -> None:
        await self._wait_for(lambda: self._token_heard >= token)

    async def block(self, feeds: Iterable[WatchedNamespace]) -> None:
        """Send an ``XREAD`` that blocks until any log has a new entry. Used without events."""
        self._raise_refusal()
        if self._blocked:
            return
        self._blocked = True
        every = list(feeds)
        start = self._turn if self._turn < len(every) else 0
        feeds = Agenda.at_once(every[start:], LOGS_PER_BLOCK)
        self._turn = start + len(feeds)
        if (wake := feeds[0].user.wake(self._random)) != self._wake:
            self._wake, self._woken_id = wake, b"0"
        logs, ids = [feed.keys.log for feed in feeds], [feed.position.id for feed in feeds]
        streams = (self._wake, *logs, self._woken_id, *ids)
        await Tell(("XREAD", "BLOCK", BLOCK_MS, "COUNT", 1, "STREAMS", *streams), blocks=True)

    async def unblock(self) -> None:
        """End the blocking ``XREAD``, because the set of logs has changed. If the server refuses that, it ends by itself."""
        if self._blocked:
            await say([("XADD", self._wake, "MAXLEN", 1, "*", "", ""), ("PEXPIRE", self._wake, WAKE_LIFE_MS)])

    def _raise_refusal(self) -> None:
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal

    async def _wait_for(self, condition: Callable[[], bool]) -> None:
        end = self.now + TOKEN_S
        while True:
            self._raise_refusal()
            if condition():
                return
            if self.now >= end:
                raise ConnectionLost("The server stopped sending messages to the hub")
            await HubPause(end)

    async def _configure(self) -> None:
        try:
            flags = await says.read_flags()
            if missing_flags(flags, WISHED_FLAGS):
                await says.add_flags(flags)
        except (ServerRefused, PermissionDenied) as error:
            if not self._warned:
                self._warn(f"Cannot add to the server's notify-keyspace-events: {error}")

    def _warn_once(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn(
                f"The server sends no keyspace events: {reason}. Watching continues with XREAD: changes arrive as before, but"
                " external writes that overwrite a value (HSET of an existing key) are missed. Other external writes,"
                " expiries and evictions are noticed after about a second. To enable events, set the server's"
                f" notify-keyspace-events to {WISHED_FLAGS}, or connect with configure_server=True"
                " (`sandbox watch --configure-server`)."
            )

    def _heard_token(self, token: int) -> None:
        self._token_heard = token
        for feed in self._settling.pop(token, ()):
            feed.count()

    def _heard_elsewhere(self, channel: bytes, event: bytes) -> None:
        if self.barrier is not None and channel == self._members.channel_head + self.barrier:
            self._probed.add(event)
        for registry in self._members.registries.values():
            if registry.channel == channel:
                registry.dirty = True

    def _heard_unblocked(self, reply: Any) -> None:
        if reply is None or (isinstance(reply, list) and reply and isinstance(reply[0], list)):
            self._blocked = False
            logs = dict(reply or ())
            if self._wake in logs:
                self._woken_id = logs[self._wake][-1][0]
            for feed in self._members.feeds.values():
                if feed.keys.log in logs:
                    feed.wake()
