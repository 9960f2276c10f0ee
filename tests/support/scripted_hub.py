"""A scripted server, and a runner with its own clock, for tests of the hub without sockets, threads or real time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis_store.errors import ConnectionLost, DataStoreError
from redis_store.hub.hub import Hub
from redis_store.hub.mailbox import Delivery, Item, Mailbox
from redis_store.hub.requests import HubPause, Join, Leave
from redis_store.limits import LogBounds
from redis_store.namespace.keys import NamespaceKeys, UserKeys
from redis_store.protocol.call import Call
from redis_store.protocol.command import ReplyError
from redis_store.scripts import ATTACH, CLAIM, NOTE, RELEASE, SMALL

USER = UserKeys.of("u")
KEYS = USER.namespace("n")
Pairs = list[tuple[bytes, bytes]]


class ScriptedServer:
    """One database of hashes and of streams, kept as lists of entries. Publishes keyspace events if `events` is set."""

    def __init__(self) -> None:
        self.hashes: dict[bytes, dict[bytes, bytes]] = {}
        self.logs: dict[bytes, list[list[Any]]] = {}
        self.epochs: dict[bytes, bytes] = {}
        self.strings: dict[bytes, bytes] = {}
        self.expiries: list[tuple[Any, ...]] = []
        """The `PEXPIRE`s that it got, in order."""
        self.heard: list[Any] = []
        self.subscribed: set[bytes] = set()
        self.events = True
        self.ms = 1_000_000
        self.calls: list[str] = []

    # Writes by others.

    def write(
        self,
        *pairs: tuple[bytes, bytes | None],
        keys: NamespaceKeys = KEYS,
        events: int = 1,
        expires_ms: int | None = None,
    ) -> None:
        """Set fields, or delete them (None), as the library's scripts do: with a log entry."""
        news: Pairs = [(field, b"d" if text is None else b"s" + text) for field, text in pairs]
        self.by_hand(*pairs, keys=keys, events=events)
        expires = b"" if expires_ms is None else b',"x":%d' % expires_ms
        self.append(keys.log, b'{"n":%d%s}' % (events, expires), news)

    def by_hand(self, *pairs: tuple[bytes, bytes | None], keys: NamespaceKeys = KEYS, events: int = 1) -> None:
        """Set or delete fields by an external write, without a log entry."""
        data = self.hashes.setdefault(keys.data, {})
        for field, text in pairs:
            if text is None:
                data.pop(field, None)
            else:
                data[field] = text
        for _ in range(events):
            self.fire(keys.data, b"hset")

    def fire(self, key: bytes, event: bytes) -> None:
        if self.events:
            self._publish(b"__keyspace@0__:" + key, event)

    def append(self, log: bytes, head: bytes, news: Pairs) -> None:
        if log in self.logs:
            self.ms += 1
            flat = [part for pair in [(b"", head), *news] for part in pair]
            self.logs[log].append([b"%d-0" % self.ms, flat])

    # The hub's commands.

    def tell(self, command: Any) -> None:
        name, *arguments = command
        if name in ("SUBSCRIBE", b"SUBSCRIBE"):
            self.subscribed.update(arguments)
            self.heard += [[b"subscribe", channel, 1] for channel in arguments]
        elif name in ("UNSUBSCRIBE", b"UNSUBSCRIBE"):
            self.subscribed.difference_update(arguments or set(self.subscribed))

    def answer(self, call: Call[Any]) -> Any:
        names = [str(c[0] if isinstance(c[0], str) else c[0].decode()) for c in call.commands]
        self.calls.append(" ".join(names))
        if names[0] == "MULTI":
            return [b"OK"] * (len(names) - 1) + [[self._do(*command) for command in call.commands[1:-1]]]
        replies = [self._do(*command) for command in call.commands]
        return replies if len(replies) > 1 else replies[0]

    def _do(self, name: Any, *arguments: Any) -> Any:
        name = name.decode() if isinstance(name, bytes) else name
        return getattr(self, f"_do_{name.lower()}")(*arguments)

    def _do_hset(self, key: bytes, *pairs: Any) -> int:
        self.fire(key, b"hset")
        return 1

    def _do_unlink(self, key: bytes) -> int:
        self.fire(key, b"del")
        return 1

    def _do_publish(self, channel: bytes, token: int) -> int:
        self._publish(channel, str(token).encode())
        return 1

    def _do_time(self) -> list[bytes]:
        return [str(self.ms // 1000).encode(), str(self.ms % 1000 * 1000).encode()]

    def _do_xrange(self, log: bytes, first: bytes, last: bytes, *count: Any) -> list[Any]:
        start = (0, 0) if first == b"-" else _order(first)
        end = (1 << 62, 0) if last in (b"+", "+") else _order(last)
        return [entry for entry in self.logs.get(log, []) if start <= _order(entry[0]) <= end]

    def _do_hlen(self, key: bytes) -> int:
        return len(self.hashes.get(key, {}))

    def _do_hscan(self, key: bytes, cursor: str, *options: Any) -> list[Any]:
        flat = [part for pair in sorted(self.hashes.get(key, {}).items()) for part in pair]
        start, size = int(cursor), 4
        following = start + size if start + size < len(flat) else 0
        return [str(following).encode(), flat[start : start + size]]

    def _do_hmget(self, key: bytes, *fields: bytes) -> list[Any]:
        return [self.hashes.get(key, {}).get(field) for field in fields]

    def _do_hpexpiretime(self, *arguments: Any) -> Any:
        return ReplyError("ERR unknown command")

    def _do_set(self, key: bytes, text: bytes, *options: Any) -> bytes:
        self.strings[key] = text
        return b"OK"

    def _do_config(self, *arguments: Any) -> list[bytes]:
        return [b"notify-keyspace-events", b"Khgxe" if self.events else b""]

    def _do_pexpire(self, *arguments: Any) -> int:
        self.expiries.append(("PEXPIRE", *arguments))
        return 1

    def _do_xadd(self, log: bytes, *rest: Any) -> Any:
        self.append(log, rest[-1].encode(), [])

    def _do_evalsha(self, sha: bytes, count: int, *arguments: Any) -> Any:
        keys, rest = arguments[:count], arguments[count:]
        if sha == SMALL.sha:
            return [len(self.hashes.get(keys[0], {})), 100, False]
        if sha == NOTE.sha:
            return self._note(keys, rest)
        if sha == CLAIM.sha:
            return self._advance(keys, rest)
        if sha == RELEASE.sha:
            return self.strings.pop(keys[0], None) is not None
        return self._attach(keys, rest)

    def _do_eval(self, text: bytes, count: int, *arguments: Any) -> Any:
        assert text == ATTACH.text
        return self._attach(arguments[:count], arguments[count:])

    def _attach(self, keys: Any, rest: Any) -> Any:
        log, seen, data = keys
        made = log not in self.logs
        if made:
            self.logs[log] = []
            self.epochs[log] = rest[0]
            self.append(log, b'{"n":0,"epoch":"%s"}' % rest[0], [])
        blank = len(self.logs[log]) == 1 and not self.hashes.get(data)
        return [self.epochs[log], int(made), self.logs[log][-1], self.strings.get(seen), int(blank)]

    def _note(self, keys: Any, rest: Any) -> int:
        data, _, log = keys
        _, _, _, expected, mode, *fields = rest
        if expected and self.logs[log][-1][0] != expected:
            return 0
        there = self.hashes.get(data, {})
        news: Pairs = []
        if not there and mode == "c":
            news = [(b"", b"c")]
        else:
            for field in fields:
                text = there.get(field)
                if text is None:
                    news.append((field, b"e" if mode == "e" else b"d"))
                elif mode != "e":
                    news.append((field, b"s" + text))
        if news:
            self.append(log, b'{"n":0,"found":1}', news)
        return 1

    def _advance(self, keys: Any, rest: Any) -> list[bytes | None]:
        """Advance a consumer, which no other process holds here."""
        self.strings[keys[0]] = rest[0].encode()
        return []

    def _publish(self, channel: bytes, payload: bytes) -> None:
        if channel in self.subscribed:
            self.heard.append([b"message", channel, payload])


class ScriptedRunner:
    """Runs a hub against a scripted server. Time passes only while the hub waits."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.now = 100.0
        self.warnings: list[str] = []
        self.hub = Hub(0, lambda size: "ab" * size, self.warnings.append)
        self.break_at: int | None = None
        """The number of calls that succeed before the connections break; None for no break."""
        self.hold_back: Callable[[Any], bool] = lambda message: False
        """Whether a message is lost."""
        self.lost = 0
        """The number of times that the connections were lost."""
        self.wakes = 0
        """The number of times that messages woke the hub."""
        self._session: Any = None

    def join(self, *, resumes: bool = False, light: bool = False) -> Mailbox:
        mailbox = Mailbox(light=light)
        mailbox.resumes = resumes
        self.hub.ask(Join(mailbox, USER, KEYS, LogBounds()))
        return mailbox

    def leave(self, mailbox: Mailbox) -> None:
        self.hub.ask(Leave(mailbox))

    def forget(self) -> None:
        """Begin a new session, on new connections."""
        self.server.subscribed.clear()
        self.server.heard.clear()
        self._session = None

    def run(self, seconds: float = 0.5) -> None:
        """Let time pass, and replace broken connections."""
        end = self.now + seconds
        while self.now < end and not self.hub.unused:
            try:
                self._run_session(end)
            except ConnectionLost as error:
                self.lost += 1
                self.hub.disconnected(error, were_made=True)
                self.forget()

    def _run_session(self, end: float) -> None:
        reply: Any = None
        if self._session is None:
            self._session = self.hub.session()
        session = self._session
        while True:
            self.hub.set_clock(self.now)
            try:
                step = session.send(reply)
            except StopIteration:
                self._session = None
                return
            while isinstance(step, Call):
                try:
                    reply = self._answer(step)
                except DataStoreError as error:
                    step = session.throw(error)
                else:
                    step = session.send(reply)
            reply = None
            if isinstance(step, HubPause):
                if self.now < step.deaf_until:
                    self.now = min(step.until, step.deaf_until, end)
                    if self.now >= end:
                        return
                elif not self._hear():
                    self.now = max(self.now, min(step.until, end))
                    if self.now >= end:
                        return
            else:
                self.server.tell(step.command)

    def _answer(self, call: Call[Any]) -> Any:
        if self.break_at is not None:
            self.break_at -= 1
            if self.break_at < 0:
                self.break_at = None
                raise ConnectionLost("cut")
        return self.server.answer(call)

    def _hear(self) -> bool:
        heard, self.server.heard = self.server.heard, []
        for message in heard:
            if not self.hold_back(message):
                self.hub.heard(message)
        self.wakes += bool(heard)
        return bool(heard)


def items(mailbox: Mailbox) -> list[Item]:
    """Take all items out of a mailbox."""
    found = []
    while (item := mailbox.take(0)) is not None:
        found.append(item)
    return found


def told(mailbox: Mailbox) -> list[Any]:
    """Take all items out of a mailbox. Return the delivered changes, and the class names of the other items."""
    found: list[Any] = []
    for item in items(mailbox):
        if isinstance(item, Delivery):
            found += [news for entry in item.entries for news in entry.news if news is not None]
        else:
            found.append(type(item).__name__)
    return found


def _order(entry_id: Any) -> tuple[int, int]:
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    ms, _, sequence = text.partition("-")
    return int(ms), int(sequence)
