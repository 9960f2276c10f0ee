"""What a watcher was asked for, checked; and its steps that threads and asyncio have in common. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from redis_store.changelog import consumers
from redis_store.changelog.entry import Cursor, CursorFormat
from redis_store.errors import InvalidInput, InvalidType
from redis_store.hub.mailbox import Mailbox, NamespaceBudget
from redis_store.hub.requests import Join, JoinAll
from redis_store.namespace.keys import encode_name, encode_prefix
from redis_store.namespace.scope import Scope
from redis_store.types import Change
from redis_store.watch.reader import Follower, Track

STAND_BY_S = 1.0
"""How often a process that stands by asks whether the consumer is gone."""

SAVE_AFTER = 500
"""So many entries that did not concern a consumer, and its cursor is moved on all the same, lest they be trimmed."""


@dataclass(slots=True)
class Consumer:
    """A name under which the cursor is kept in Redis."""

    name: str
    holder: str
    lock: bytes
    cursors: bytes


@dataclass(slots=True)
class WatchRequest:
    """What to watch, and from where on."""

    scope: Scope
    everywhere: bool
    prefix: str
    initial: bool
    since: Mapping[bytes, Cursor | None] | None
    consumer: Consumer | None
    budget: NamespaceBudget | None = None
    """Bounds how many namespaces are followed; None for as many as there are."""
    stored: set[bytes] = field(default_factory=set)
    """The namespaces in which the consumer's cursor is in Redis."""
    lost: bool = False
    """Another process has become the consumer."""
    left_by_others: set[bytes] = field(default_factory=set)
    """The namespaces in which the process that was the consumer had cursors, when this one last stood by and saw any."""

    @classmethod
    def of_namespace(
        cls, scope: Scope, prefix: str | None, since: str | None, consumer: str | None, initial: bool, holder: str
    ) -> WatchRequest:
        """Check the arguments of `watch`."""
        scope.check_readable()
        start = None if since is None else {scope.keys.name: _format(scope, scope.keys.name).read(since)}
        who = _consumer(scope, consumer, holder, scope.keys.name)
        return cls(scope, False, encode_prefix(prefix), _initial(initial, since), start, who)

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
        """Check the arguments of `watch_all`; a handle that may read some namespaces only gives their prefix."""
        names = encode_prefix(prefix)
        if not scope.access.may_read_all(names):
            raise scope.access.refusal("read", f"{names}*")
        if since is not None and not isinstance(since, Mapping):
            raise InvalidType(
                f"watch_all goes on from a dict of namespaces and cursors, not from a {type(since).__name__}."
            )
        start: dict[bytes, Cursor | None] | None = None
        if since is not None:
            start = {}
            for namespace, text in since.items():
                name = scope.user.namespace(namespace).name
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
        """What to ask the hub for."""
        scope = self.scope
        if self.everywhere:
            return JoinAll(mailbox, scope.user, self.prefix.encode(), scope.log, frozenset(self.since or ()))
        return Join(mailbox, scope.user, scope.keys, scope.log)

    async def claim(self) -> bool:
        """Become the consumer, and find out where it stopped; False where another process is it."""
        who = self.consumer
        assert who is not None
        wanted = () if self.everywhere else (self.scope.keys.name, b"")
        found = await consumers.claim(who.lock, who.cursors, who.holder, wanted)
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
                    " give another name."
                )
        self.stored = set(known)
        # Where a cursor has gone, so has what the one before was told last: a server was flushed, or lost its latest writes.
        lost, self.left_by_others = self.left_by_others - known.keys(), set()
        if known or lost:
            since = {name: _stored(self.scope, name, text) for name, text in known.items()} | dict.fromkeys(lost)
            self.since = {name: cursor for name, cursor in since.items() if name}
        return True

    def _mine(self, names: Iterable[bytes]) -> set[bytes]:
        """Return the namespaces that are watched, and the empty name which says that all are."""
        prefix = self.prefix.encode()
        return {name for name in names if name.startswith(prefix) or not name}

    async def advance(self, moved: dict[bytes, str]) -> None:
        """Move the consumer's cursors, forget empty ones, or find out that another process has become the consumer."""
        who = self.consumer
        assert who is not None
        self.lost = not await consumers.advance(who.lock, who.cursors, who.holder, moved)
        for name, cursor in moved.items():
            if cursor:
                self.stored.add(name)
            else:
                self.stored.discard(name)

    async def release(self) -> None:
        assert self.consumer is not None
        await consumers.release(self.consumer.lock, self.consumer.holder)

    def check_done(self, change: object) -> None:
        """Refuse what would move the cursor of somebody else, or to nowhere."""
        if not isinstance(change, Change):
            raise InvalidType(f"What is done must be a Change that this watch gave, not {type(change).__name__}.")
        name = self.scope.user.namespace(change.namespace).name
        mine = name.startswith(self.prefix.encode()) if self.everywhere else name == self.scope.keys.name
        if not mine:
            raise InvalidInput(
                f"The change is of namespace {change.namespace!r}, and this is a watch of {self}: say done to the watch that"
                " gave it."
            )
        _format(self.scope, name).read(change.cursor)

    def first_cursors(self, tracks: Mapping[bytes, Track]) -> dict[bytes, str]:
        """Return the cursors to keep from the start, so that a consumer that is killed before its first change loses none."""
        moved = {
            track.keys.name: track.cursor_of(track.position if track.phase == "live" else None)
            for track in tracks.values()
            if track.phase != "waiting" and track.keys.name not in self.stored
        }
        if self.everywhere and b"" not in self.stored:
            # Says that this consumer has begun, even if there was no namespace yet.
            moved[b""] = "all"
        return moved


def check_most(most: object) -> int:
    """Return how many changes to take at most."""
    if isinstance(most, bool) or not isinstance(most, int):
        raise InvalidType(f"How many changes to take must be an int, not {type(most).__name__}.")
    if most < 1:
        raise InvalidInput(f"At least one change must be taken, not {most}.")
    return most


def _initial(initial: object, since: object) -> bool:
    if not isinstance(initial, bool):
        raise InvalidType(f"initial must be True or False, not {type(initial).__name__}.")
    if initial and since is not None:
        raise InvalidInput("initial=True begins with every key and since= goes on from a cursor: give one of them.")
    return initial


def _format(scope: Scope, name: bytes) -> CursorFormat:
    return CursorFormat(scope.user, name)


def _stored(scope: Scope, name: bytes, text: bytes) -> Cursor | None:
    """Return a consumer's cursor; one that somebody wrote by hand, and that means nothing, leads to a reset."""
    try:
        return _format(scope, name).read(text.decode(errors="replace"))
    except InvalidInput:
        return None


def _consumer(scope: Scope, name: str | None, holder: str, namespace: bytes) -> Consumer | None:
    if name is None:
        return None
    encode_name(name, "consumer name", 256)
    cursors, lock = scope.user.consumer(name), scope.user.consumer_lock(name, namespace)
    # As a lock's value looks elsewhere.
    return Consumer(name, f'{{"owner":"{holder}"}}', lock, cursors)


__all__ = ["Consumer", "WatchRequest", "check_most"]
