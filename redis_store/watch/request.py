"""The checked arguments of a watch, and the operations on its consumer. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from redis_store.changelog import consumers
from redis_store.changelog.entry import Cursor, CursorFormat
from redis_store.errors import InvalidInput, InvalidType
from redis_store.hub.mailbox import Mailbox, NamespaceBudget
from redis_store.hub.requests import Join, JoinAll
from redis_store.namespace.keys import MAX_AGENT_BYTES, UserKeys, encode_name, encode_namespace, encode_prefix
from redis_store.namespace.scope import Scope
from redis_store.types import Change
from redis_store.values.rules import one
from redis_store.watch.reader import Follower, Track

STAND_BY_S = 1.0
"""Interval at which a process that stands by tries to become the consumer, in seconds."""

SAVE_AFTER = 500
"""Save the cursor after this many irrelevant entries, so that the log can be trimmed behind it."""


@dataclass(slots=True)
class Consumer:
    """A consumer: its name, this process as its holder, and the Redis keys of its lock and its cursors."""

    name: str
    holder: str
    keys: UserKeys
    namespace: bytes
    """The namespace that it watches; an empty name stands for all."""

    @property
    def lock(self) -> bytes:
        return self.keys.consumer_lock(self.name, self.namespace)

    @property
    def cursors(self) -> bytes:
        return self.keys.consumer(self.name)


@dataclass(slots=True)
class WatchRequest:
    """The namespaces to watch, and where to begin."""

    scope: Scope
    everywhere: bool
    prefix: str
    initial: bool
    since: Mapping[bytes, Cursor | None] | None
    consumer: Consumer | None
    budget: NamespaceBudget | None = None
    """The limit on the number of watched namespaces, or None for no limit."""
    stored: set[bytes] = field(default_factory=set)
    """The namespaces for which Redis holds a cursor of the consumer."""
    lost: bool = False
    """Whether another process has become the consumer."""
    left_by_others: set[bytes] = field(default_factory=set)
    """The namespaces with cursors of the previous holder, as last seen while this process stood by."""

    @classmethod
    def of_namespace(
        cls,
        scope: Scope,
        prefix: str | None,
        since: str | None,
        consumer: str | None,
        initial: bool,
        holder: str,
        budget: NamespaceBudget | None = None,
    ) -> WatchRequest:
        """Check the arguments of `watch`."""
        scope.check_readable()
        start = None if since is None else {scope.name: _format(scope, scope.name).read(since)}
        who = _consumer(scope, consumer, holder, scope.name)
        return cls(scope, False, encode_prefix(prefix), _initial(initial, since), start, who, budget)

    @classmethod
    def of_all(
        cls,
        scope: Scope,
        prefix: str | None,
        since: Mapping[str, str] | None,
        consumer: str | None,
        initial: bool,
        holder: str,
        budget: NamespaceBudget | None = None,
    ) -> WatchRequest:
        """Check the arguments of `watch_all`. A handle that may read only some namespaces must pass a prefix of those."""
        names = encode_prefix(prefix)
        if not scope.access.may_read_all(names):
            raise scope.access.refusal("read", f"{names}*")
        if since is not None and not isinstance(since, Mapping):
            raise InvalidType(f"watch_all goes on from a dict of namespaces and cursors, not from {one(type(since))}.")
        start: dict[bytes, Cursor | None] | None = None
        if since is not None:
            start = {}
            for namespace, text in since.items():
                name = encode_namespace(namespace)
                start[name] = _format(scope, name).read(text)
        who = _consumer(scope, consumer, holder, b"")
        return cls(scope, True, encode_prefix(prefix), _initial(initial, since), start, who, budget)

    def __str__(self) -> str:
        what = f"all namespaces of {self.scope.user.user!r}" if self.everywhere else repr(self.scope.namespace)
        return what + (f", keys {self.prefix!r}..." if self.prefix else "")

    def new_follower(self) -> Follower:
        follower = Follower(
            self.scope.user,
            self.scope.codec,
            prefix="" if self.everywhere else self.prefix,
            initial=self.initial,
        )
        follower.start_from(self.since)
        return follower

    def request(self, mailbox: Mailbox) -> Join | JoinAll:
        """Return the request to the hub."""
        scope = self.scope
        if self.everywhere:
            return JoinAll(mailbox, scope.user, self.prefix.encode(), scope.log, frozenset(self.since or ()))
        return Join(mailbox, scope.user, scope.keys, scope.log)

    @property
    def cursors_ms(self) -> int:
        """Time for which the consumer's cursors are kept, in ms: not less than the change logs."""
        return max(consumers.CURSORS_MS, self.scope.log.life_ms)

    async def claim(self) -> bool:
        """Become the consumer and load its cursors. Return False if another process holds it."""
        who = self.consumer
        assert who is not None
        wanted = () if self.everywhere else (self.scope.keys.name, b"")
        found = await consumers.claim(who.lock, who.cursors, who.holder, wanted, self.cursors_ms)
        if found is None:
            names = await consumers.names_of(who.cursors, wanted)
            self.left_by_others = (self._mine(names) if self.everywhere else names) or self.left_by_others
            return False
        if self.everywhere:
            texts = await consumers.all_cursors(who.cursors)
            known = {name: texts[name] for name in self._mine(texts)}
        else:
            known = {name: text for name, text in zip(wanted, found, strict=True) if text is not None}
            if b"" in known:
                await self.release()
                raise InvalidInput(
                    f"The consumer {who.name!r} watches all namespaces of {self.scope.user.user!r}, so its cursors are in use:"
                    " pass another name."
                )
        self.stored = set(known)
        # A cursor that is gone means that the server was flushed or lost its latest writes: begin with a reset there.
        lost, self.left_by_others = self.left_by_others - known.keys(), set()
        if known or lost:
            since = {name: _stored(self.scope, name, text) for name, text in known.items()} | dict.fromkeys(lost)
            self.since = {name: cursor for name, cursor in since.items() if name}
        return True

    def _mine(self, names: Iterable[bytes]) -> set[bytes]:
        """Return the names that this watch covers, and the empty name, which marks a consumer of all namespaces."""
        prefix = self.prefix.encode()
        return {name for name in names if name.startswith(prefix) or not name}

    async def advance(self, moved: dict[bytes, str]) -> None:
        """Move the consumer's cursors and delete empty ones. Sets `lost` if another process has become the consumer."""
        who = self.consumer
        assert who is not None
        self.lost = not await consumers.advance(who.lock, who.cursors, who.holder, moved, self.cursors_ms)
        for name, cursor in moved.items():
            if cursor:
                self.stored.add(name)
            else:
                self.stored.discard(name)

    async def release(self) -> None:
        assert self.consumer is not None
        await consumers.release(self.consumer.lock, self.consumer.holder)

    def check_done(self, change: object) -> None:
        """Raise for a change that is not of this watch, or whose cursor is not valid."""
        if not isinstance(change, Change):
            raise InvalidType(f"done takes a Change that this watch returned, not {type(change).__name__}.")
        name = self.scope.user.namespace(change.namespace).name
        mine = name.startswith(self.prefix.encode()) if self.everywhere else name == self.scope.keys.name
        if not mine:
            raise InvalidInput(
                f"The change is of namespace {change.namespace!r}, and this is a watch of {self}: call done on the watch that"
                " returned it."
            )
        _format(self.scope, name).read(change.cursor)

    def first_cursors(self, tracks: Mapping[bytes, Track]) -> dict[bytes, str]:
        """Return the cursors to store at the beginning, so that a consumer killed before its first change loses none."""
        moved = {
            track.keys.name: track.cursor_of(track.position if track.phase == "live" else None)
            for track in tracks.values()
            if track.phase != "waiting" and track.keys.name not in self.stored
        }
        if self.everywhere and b"" not in self.stored:
            # Marks that this consumer has begun, even without any namespace.
            moved[b""] = "all"
        return moved


def _initial(initial: object, since: object) -> bool:
    if not isinstance(initial, bool):
        raise InvalidType(f"initial must be True or False, not {type(initial).__name__}.")
    if initial and since is not None:
        raise InvalidInput(
            "initial=True begins with every key and since= resumes from a cursor: pass only one of them."
        )
    return initial


def _format(scope: Scope, name: bytes) -> CursorFormat:
    return CursorFormat(scope.user, name)


def _stored(scope: Scope, name: bytes, text: bytes) -> Cursor | None:
    """Return a consumer's cursor, or None, for a reset, if an external write made it invalid."""
    try:
        return _format(scope, name).read(text.decode(errors="replace"))
    except InvalidInput:
        return None


def _consumer(scope: Scope, name: str | None, holder: str, namespace: bytes) -> Consumer | None:
    if name is None:
        return None
    encode_name(name, "consumer name", MAX_AGENT_BYTES)
    # The same form as the value of any other lock, so that operators see whose process holds the consumer.
    agent = f',"agent":{scope.writer.agent_json}' if scope.writer.agent_json else ""
    return Consumer(name, f'{{"owner":"{holder}"{agent}}}', scope.keys_of_name("consumers", name), namespace)
