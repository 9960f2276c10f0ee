"""Watchers of a hub: their namespaces, those that watch all namespaces of a user, and requests to begin or end. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

from redis_store.errors import DataStoreError, LimitExceeded
from redis_store.hub.mailbox import HistoryGone, Mailbox, WatchFailed
from redis_store.hub.requests import Join, JoinAll, Leave, Request
from redis_store.hub.watched_namespace import Agenda, WatchedNamespace
from redis_store.namespace.keys import NamespaceKeys, UserKeys


@dataclass(slots=True)
class Registry:
    """A user's registry, read for the watchers of all namespaces."""

    user: UserKeys
    channel: bytes
    wanted: list[JoinAll] = field(default_factory=list)
    listed: set[int] = field(default_factory=set)
    """The watchers that have got the first listing, by the `id` of their mailboxes."""
    subscribed: bool = False
    dirty: bool = True


@dataclass(frozen=True, slots=True)
class Moving:
    """A user's watchers on their way from the hub of one node to that of another."""

    feeds: list[WatchedNamespace]
    registry: Registry | None

    def leave(self, mailbox: Mailbox) -> None:
        """Take out a watcher that has left meanwhile."""
        for feed in self.feeds:
            feed.unfollow(mailbox)
        if self.registry is not None:
            self.registry.wanted = [join for join in self.registry.wanted if join.mailbox is not mailbox]

    def mailboxes(self) -> list[Mailbox]:
        found = {id(mailbox): mailbox for feed in self.feeds for mailbox in feed.followers}
        if self.registry is not None:
            found |= {id(wanted.mailbox): wanted.mailbox for wanted in self.registry.wanted}
        return list(found.values())


@dataclass(frozen=True, slots=True)
class Apart:
    """Watchers of a user whose data is being moved to another node, until it is at one."""

    moving: Moving
    error: DataStoreError
    due: float
    """The time at which they are brought back."""


class Members:
    """The namespaces and watchers of a hub."""

    def __init__(self, database: int) -> None:
        self.agenda = Agenda()
        self.feeds: dict[bytes, WatchedNamespace] = {}
        self.by_channel: dict[bytes, WatchedNamespace] = {}
        self.registries: dict[bytes, Registry] = {}
        self.ended: list[WatchedNamespace] = []
        """Unwatched namespaces whose state is not saved and whose channels are not unsubscribed yet."""
        self.channel_head = b"__keyspace@%d__:" % database
        self._requests: list[Request] = []

    @property
    def none(self) -> bool:
        """Whether there is no namespace, no registry and no request."""
        return not (self.feeds or self.registries or self._requests or self.ended)

    @property
    def asked(self) -> bool:
        """Whether a request waits for `admit`."""
        return bool(self._requests)

    def ask(self, request: Request) -> None:
        """Queue a watcher's request for `admit`."""
        self._requests.append(request)

    def all(self) -> list[Mailbox]:
        """Return the mailboxes of all watchers, including those whose requests are queued."""
        found = {id(mailbox): mailbox for feed in self.feeds.values() for mailbox in feed.followers}
        for registry in self.registries.values():
            found |= {id(wanted.mailbox): wanted.mailbox for wanted in registry.wanted}
        for request in self._requests:
            found[id(request.mailbox)] = request.mailbox
        return list(found.values())

    def some_user(self) -> UserKeys | None:
        """Return any user with a watcher."""
        users = [*(feed.user for feed in self.feeds.values()), *(each.user for each in self.registries.values())]
        return users[0] if users else None

    def admit(self) -> None:
        """Carry out the queued requests."""
        while self._requests:
            request = self._requests.pop(0)
            if isinstance(request, Leave):
                self._let_go(request.mailbox)
            elif request.mailbox.closed:
                continue
            elif isinstance(request, Join):
                if self._afford(request.mailbox, [request.keys]):
                    self.join(request, fresh=False)
            else:
                self._join_all(request)

    def join(self, join: Join, *, fresh: bool) -> None:
        """Add a watcher to a namespace. `fresh` is True for a namespace created while all namespaces were watched."""
        feed = self.feeds.get(join.keys.data)
        if feed is None:
            channel = self.channel_head + join.keys.data
            feed = WatchedNamespace(join.user, join.keys, channel, join.bounds, self.agenda)
            self.feeds[join.keys.data] = self.by_channel[channel] = feed
        feed.follow(join.mailbox, fresh=fresh)

    def missing(self, registry: Registry, names: set[bytes]) -> None:
        """Add each watcher of all namespaces to those that it does not follow yet. A watcher over its budget is refused."""
        for join in registry.wanted:
            fresh = id(join.mailbox) in registry.listed
            wanted = names if fresh else names | join.known
            new = []
            for name in sorted(name for name in wanted if name.startswith(join.prefix)):
                keys = registry.user.of_stored(name)
                feed = self.feeds.get(keys.data)
                if feed is None or not feed.is_followed_by(join.mailbox):
                    new.append(keys)
            if self._afford(join.mailbox, new):
                for keys in new:
                    self.join(Join(join.mailbox, join.user, keys, join.bounds), fresh=fresh)

    def has_opened(self, join: JoinAll) -> bool:
        """Whether all namespaces of a watcher are open."""
        prefix = join.user.prefix + b"ns:"
        # Namespaces are opened in order and this is called after each, so the last one is the quickest to check.
        return all(
            feed.opened
            for data, feed in reversed(self.feeds.items())
            if data.startswith(prefix) and feed.is_followed_by(join.mailbox)
        )

    def refuse(self, mailboxes: list[Mailbox], error: DataStoreError) -> None:
        """Fail watchers with an error, and remove them."""
        for mailbox in mailboxes:
            mailbox.put(WatchFailed(error))
            self._let_go(mailbox)

    def _forget_left(self) -> None:
        """Drop unwatched namespaces without saving their state, because the connections are gone."""
        for feed in list(self.agenda.left):
            self.end(feed)
        self.ended.clear()

    def _newcomers(self) -> list[Mailbox]:
        """Return the mailboxes of watchers that have not begun yet."""
        found = [mailbox for feed in self.feeds.values() if not feed.opened for mailbox in feed.followers]
        for registry in self.registries.values():
            found += [join.mailbox for join in registry.wanted if id(join.mailbox) not in registry.listed]
        return list(dict.fromkeys(found))

    def disconnected(self, error: DataStoreError, *, now: float, patience_s: float | None) -> None:
        """Note that the connections are gone, and fail the watchers that have not begun yet.

        With a `patience_s`, such a watcher fails only at the second loss, and after this time.
        """
        self.admit()
        late = [each for each in self._newcomers() if patience_s is None or not each.is_spared(now, patience_s)]
        self.refuse(late, error)
        self._forget_left()
        for feed in self.feeds.values():
            feed.disconnected()
        for registry in self.registries.values():
            registry.subscribed = False
            registry.dirty = True

    def users(self) -> dict[bytes, UserKeys]:
        """Return the users with a watcher, by the prefix of their Redis keys."""
        self.admit()
        found = {feed.user.prefix: feed.user for feed in self.feeds.values() if feed.followers}
        return found | {each.user.prefix: each.user for each in self.registries.values()}

    def user_of(self, redis_key: bytes) -> UserKeys | None:
        """Return the user with a watcher whose key this is."""
        return next((user for prefix, user in self.users().items() if redis_key.startswith(prefix)), None)

    def fail_late(self, late: list[Mailbox], now: float, patience_s: float, error: DataStoreError) -> None:
        """Fail those of some watchers that have not begun within this time."""
        newcomers = [each for each in self._newcomers() if each in late]
        self.refuse([each for each in newcomers if not each.is_spared(now, patience_s)], error)

    def release(self, user: UserKeys) -> Moving:
        """Take a user's watchers out, because its data is on another node."""
        feeds = [feed for feed in self.feeds.values() if feed.user.prefix == user.prefix]
        for feed in feeds:
            del self.feeds[feed.keys.data], self.by_channel[feed.channel]
            self.agenda.strike(feed)
        registry = self.registries.pop(user.prefix, None)
        return Moving([feed for feed in feeds if feed.followers], registry)

    def adopt(self, moving: Moving) -> None:
        """Take watchers from the hub of another node. They continue where they are in the log, which has moved too."""
        for feed in moving.feeds:
            if not feed.followers:
                continue
            here = self.feeds.get(feed.keys.data)
            if here is not None and here.opened:
                for mailbox in feed.followers:
                    here.follow(mailbox)
                    if feed.opened:
                        mailbox.put(HistoryGone(here.keys.data, here.epoch))
                continue
            if here is not None:
                self.agenda.strike(here)
            self.feeds[feed.keys.data] = self.by_channel[feed.channel] = feed
            feed.move_to(self.agenda)
            for mailbox in [] if here is None else here.followers:
                feed.follow(mailbox)
        if moving.registry is not None and moving.registry.wanted:
            registry = self.registries.setdefault(moving.registry.user.prefix, moving.registry)
            if registry is not moving.registry:
                registry.wanted += moving.registry.wanted
                registry.listed |= moving.registry.listed
            else:
                registry.subscribed = False
            registry.dirty = True

    def _afford(self, mailbox: Mailbox, namespaces: list[NamespaceKeys]) -> bool:
        """Whether a watcher's budget has room for namespaces, which are taken; otherwise the watcher is refused."""
        if mailbox.budget is None or not namespaces:
            return True
        try:
            mailbox.budget.take([keys.name for keys in namespaces])
        except LimitExceeded as error:
            self.refuse([mailbox], error)
            return False
        return True

    def _join_all(self, request: JoinAll) -> None:
        registry = self.registries.get(request.user.prefix)
        if registry is None:
            registry = Registry(request.user, self.channel_head + request.user.registry)
            self.registries[request.user.prefix] = registry
        registry.wanted.append(request)
        registry.dirty = True

    def _let_go(self, mailbox: Mailbox) -> None:
        for registry in list(self.registries.values()):
            registry.wanted = [join for join in registry.wanted if join.mailbox is not mailbox]
            registry.listed.discard(id(mailbox))
            if not registry.wanted:
                del self.registries[registry.user.prefix]
        for feed in list(self.feeds.values()):
            if feed.is_followed_by(mailbox):
                feed.unfollow(mailbox)
                if mailbox.budget is not None:
                    mailbox.budget.give_back()
                if not feed.followers:
                    self.agenda.left[feed] = None

    def end(self, feed: WatchedNamespace) -> None:
        """Stop watching a namespace."""
        del self.feeds[feed.keys.data], self.by_channel[feed.channel]
        self.agenda.strike(feed)
        self.ended.append(feed)
